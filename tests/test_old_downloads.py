import gzip
import hashlib
import io
import tarfile
from concurrent.futures import ThreadPoolExecutor

from mxcompat import onnx_graph
from mxcompat.downloads import FILES, File, UnavailableError
from mxcompat.old_downloads import MNIST

import mxnet as mx
import numpy as np
import pytest
from helpers import idx
from mxnet.gluon.data import vision as datasets
from mxnet.gluon.model_zoo import model_store, vision

pytestmark = pytest.mark.filterwarnings("ignore:fetching", "ignore:.* has been replaced")


@pytest.fixture
def host(tmp_path, http_folder, monkeypatch):
    """Put files on a server in the place of their hosts; return what it was asked for."""
    url, asked = http_folder(tmp_path / "host")

    def put(name, content):
        path = tmp_path / "host" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        mirrors = (f"{url}/{name}".rpartition("/")[0],)
        digest = hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(FILES, name, File("the tests", mirrors, len(content), digest))
        return asked

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MXNET_GLUON_REPO", raising=False)
    return put


@pytest.fixture
def drawn(host):
    """Put five digits, or clothes, to train on and three to test with in the place of the sets."""
    rng, shapes = np.random.default_rng(0), [(5, 28, 28), (5,), (3, 28, 28), (3,)]
    sets = {"": [], "fashion-mnist/": []}
    for prefix, arrays in sets.items():
        arrays += [rng.integers(10, size=shape, dtype=np.uint8) for shape in shapes]
        for name, array in zip(MNIST, arrays):
            host(prefix + name, gzip.compress(idx(array)))
    return sets


@pytest.mark.parametrize(
    ("kind", "prefix"), [(datasets.MNIST, ""), (datasets.FashionMNIST, "fashion-mnist/")]
)
@pytest.mark.parametrize("train", [True, False])
def test_gluons_digits_and_clothes_are_fetched_into_the_folder_where_mxnet_keeps_them(
    kind, prefix, train, drawn, tmp_path
):
    images, labels = kind(str(tmp_path / "root"), train=train)[:]
    expected = drawn[prefix][:2] if train else drawn[prefix][2:]
    assert (images.asnumpy()[..., 0] == expected[0]).all() and (labels == expected[1]).all()
    assert len(list((tmp_path / "root").iterdir())) == 2


def test_get_mnist_and_its_iterator_are_fetched_once(drawn, host):
    train_set, labels, test_set, _ = drawn[""]
    for _ in range(2):
        arrays = mx.test_utils.get_mnist()
        np.testing.assert_allclose(arrays["train_data"][:, 0], train_set / 255, rtol=1e-6)
        assert (arrays["train_label"] == labels).all()
    assert len(host("other", b"")) == 4
    _, valid = mx.test_utils.get_mnist_iterator(batch_size=3, input_shape=(1, 28, 28))
    read = valid.next().data[0].asnumpy()[:, 0] * 256  # shuffled
    assert sorted(map(np.sum, read)) == sorted(map(np.sum, test_set.astype(np.float32)))


@pytest.mark.parametrize(
    ("kind", "archive", "width", "names"),
    [
        (datasets.CIFAR10, "cifar-10-binary.tar.gz", 3073, "data_batch_1.bin data_batch_2.bin "
         "data_batch_3.bin data_batch_4.bin data_batch_5.bin test_batch.bin"),
        (datasets.CIFAR100, "cifar-100-binary.tar.gz", 3074, "train.bin test.bin"),
    ],
)  # fmt: skip
def test_members_of_cifars_archive_lie_where_mxnet_expects_them(
    kind, archive, width, names, host, tmp_path, monkeypatch
):
    # MXNet knows the sha1 of the real ones.
    monkeypatch.setattr("mxnet.gluon.data.vision.datasets.check_sha1", lambda path, sha1: True)
    packed, rows = io.BytesIO(), np.random.default_rng(1).integers(10, size=(2, width), dtype="u1")
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in [*names.split(), "readme.html"]:
            member = tarfile.TarInfo(f"cifar-binary/{name}")
            member.size = rows.nbytes
            tar.addfile(member, io.BytesIO(rows.tobytes()))
    host(archive, packed.getvalue())
    images, labels = kind(str(tmp_path / "root"), train=False)[:]
    expected = rows[:, width - 3072 :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    assert (images.asnumpy() == expected).all() and (labels == rows[:, 0]).all()
    assert {path.name for path in (tmp_path / "root").iterdir()} == {*names.split(), archive}


@pytest.mark.parametrize("name", ["squeezenet1.1", "mobilenetv2_1.0", "resnet18_v2"])
def test_pretrained_weights_are_those_of_the_onnx_model_zoo_even_for_several_at_once(
    name, host, tmp_path
):
    mx.random.seed(7)
    net = vision.get_model(name)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    net.hybridize()
    images = mx.nd.random.uniform(shape=(2, 3, 224, 224))
    expected = net(images).asnumpy()
    params = {each: value.data() for each, value in net.collect_params().items()}
    shapes = {"data": (1, 3, 224, 224)}
    model = onnx_graph.build(net(mx.sym.var("data")), params, shapes, {"data": np.float32})
    asked = host(f"{name.replace('_1.0', '').replace('_', '-')}-7.onnx", model.SerializeToString())
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: model_store.get_model_file(name, tmp_path / "models"), range(3)))
    loaded = vision.get_model(name, pretrained=True, root=str(tmp_path / "models"))
    assert (loaded(images).asnumpy() == expected).all() and len(asked) == 1
    (kept,) = (tmp_path / "models").iterdir()
    assert kept.name == f"{name}-{model_store.short_hash(name)}.params"


def test_network_without_weights_anywhere_names_those_that_have_them(tmp_path):
    words = "^alexnet has no weights anywhere; these have: (?=.*resnet50_v1 )(?=mob)([^ ]+ ?){16}$"
    with pytest.raises(UnavailableError, match=words):
        vision.alexnet(pretrained=True, root=str(tmp_path))


@pytest.mark.parametrize("has_it", [True, False])
def test_own_repository_is_asked_first(has_it, drawn, http_folder, tmp_path, monkeypatch):
    folder = tmp_path / "repo" / "gluon" / "dataset" / "mnist"
    folder.mkdir(parents=True)
    if has_it:  # but not with MNIST's sha1
        (folder / MNIST[2]).write_bytes(gzip.compress(idx(np.zeros((2, 28, 28), np.uint8))))
        (folder / MNIST[3]).write_bytes(gzip.compress(idx(np.zeros(2, np.uint8))))
    url, asked = http_folder(tmp_path / "repo")
    monkeypatch.setenv("MXNET_GLUON_REPO", url)
    with pytest.warns(UserWarning, match="MXNET_GLUON_REPO: .*; trying other hosts"):
        images, _ = datasets.MNIST(str(tmp_path / "root"), train=False)[:]
    assert asked and images.shape == (3, 28, 28, 1)
