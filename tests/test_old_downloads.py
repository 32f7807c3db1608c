import gzip
import hashlib
import io
import struct
import subprocess
import sys
import tarfile

from mxcompat import onnx_graph
from mxcompat.downloads import FILES, File, UnavailableError
from mxcompat.old_downloads import MNIST

import mxnet as mx
import numpy as np
import pytest
from helpers import ROOT, script_env
from mxnet.gluon.data import vision as datasets
from mxnet.gluon.model_zoo import model_store, vision

pytestmark = pytest.mark.filterwarnings("ignore:fetching", "ignore:.* has been replaced")


@pytest.fixture
def host(tmp_path, http_folder, monkeypatch):
    """Put files on a server in the place of their hosts; return what it was asked for."""
    (tmp_path / "host").mkdir()
    url, asked = http_folder(tmp_path / "host")

    def put(name, content):
        file = name.rsplit("/", 1)[-1]
        (tmp_path / "host" / file).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(FILES, name, File("the tests", (url,), len(content), digest))
        return asked

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MXNET_GLUON_REPO", raising=False)
    return put


def idx(array):
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(head + array.tobytes())


@pytest.fixture
def digits(host):
    """Put five digits to train on, and three to test with, in the place of MNIST's."""
    rng = np.random.default_rng(0)
    sets = [rng.integers(256, size=(n, 28, 28), dtype=np.uint8) for n in (5, 3)]
    labels = [rng.integers(10, size=n, dtype=np.uint8) for n in (5, 3)]
    for prefix in ("", "fashion-mnist/"):
        for name, array in zip(MNIST, (sets[0], labels[0], sets[1], labels[1])):
            host(prefix + name, idx(array))
    return sets, labels


@pytest.mark.parametrize("kind", [datasets.MNIST, datasets.FashionMNIST])
@pytest.mark.parametrize("train", [True, False])
def test_gluons_digits_and_clothes_are_fetched_into_the_folder_where_mxnet_keeps_them(
    kind, train, digits, tmp_path
):
    images, labels = kind(str(tmp_path / "root"), train=train)[:]
    (train_set, test_set), (train_labels, test_labels) = digits
    assert (images.asnumpy()[..., 0] == (train_set if train else test_set)).all()
    assert (labels == (train_labels if train else test_labels)).all()
    assert len(list((tmp_path / "root").iterdir())) == 2


def test_get_mnist_and_its_iterator_are_fetched_once(digits, host):
    (train_set, test_set), (labels, _) = digits
    arrays = mx.test_utils.get_mnist()
    np.testing.assert_allclose(arrays["train_data"][:, 0], train_set / 255, rtol=1e-6)
    assert (arrays["train_label"] == labels).all()
    asked = host("other", b"")
    before = len(asked)
    mx.test_utils.get_mnist()
    assert len(asked) == before == 4
    _, valid = mx.test_utils.get_mnist_iterator(batch_size=3, input_shape=(1, 28, 28))
    read = valid.next().data[0].asnumpy()[:, 0] * 256  # shuffled
    assert sorted(map(np.sum, read)) == sorted(map(np.sum, test_set.astype(np.float32)))


@pytest.mark.parametrize(
    ("kind", "archive", "width"),
    [
        (datasets.CIFAR10, "cifar-10-binary.tar.gz", 3073),
        (datasets.CIFAR100, "cifar-100-binary.tar.gz", 3074),
    ],
)
def test_members_of_cifars_archive_lie_where_mxnet_expects_them(
    kind, archive, width, host, tmp_path, monkeypatch
):
    # Of which it knows the sha1; these are others.
    monkeypatch.setattr("mxnet.gluon.data.vision.datasets.check_sha1", lambda path, sha1: True)
    packed, rows = io.BytesIO(), np.random.default_rng(1).integers(10, size=(2, width))
    rows = rows.astype(np.uint8)
    names = [f"data_batch_{n}.bin" for n in range(1, 6)] + ["test_batch.bin"]
    names = names if width == 3073 else ["train.bin", "test.bin"]
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name in [*names, "readme.html"]:
            member = tarfile.TarInfo(f"cifar-binary/{name}")
            member.size = rows.nbytes
            tar.addfile(member, io.BytesIO(rows.tobytes()))
    host(archive, packed.getvalue())
    images, labels = kind(str(tmp_path / "root"), train=False)[:]
    expected = rows[:, width - 3072 :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    assert (images.asnumpy() == expected).all() and (labels == rows[:, 0]).all()
    found = {path.name for path in (tmp_path / "root").iterdir()}
    assert found == {*names, archive}


def random_network(name):
    mx.random.seed(7)
    net = vision.get_model(name)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    net.hybridize()
    net(mx.nd.zeros((1, 3, 224, 224)))
    return net


@pytest.mark.parametrize("name", ["squeezenet1.1", "mobilenetv2_1.0", "resnet18_v2"])
def test_pretrained_weights_are_those_of_the_onnx_model_zoo(name, host, tmp_path):
    net = random_network(name)
    images = mx.nd.random.uniform(shape=(2, 3, 224, 224))
    expected = net(images).asnumpy()
    symbol = net(mx.sym.var("data"))
    params = {each: value.data() for each, value in net.collect_params().items()}
    shapes = {"data": (1, 3, 224, 224)}
    model = onnx_graph.build(symbol, params, shapes, {"data": np.float32}, shapes)
    asked = host(f"{name.replace('_1.0', '').replace('_', '-')}-7.onnx", model.SerializeToString())
    for _ in range(2):  # the second time from the folder
        loaded = vision.get_model(name, pretrained=True, root=str(tmp_path / "models"))
        assert (loaded(images).asnumpy() == expected).all()
    assert len(asked) == 1
    (kept,) = (tmp_path / "models").iterdir()
    assert kept.name == f"{name}-{model_store.short_hash(name)}.params"


def test_network_without_weights_anywhere_names_those_that_have_them(tmp_path):
    with pytest.raises(UnavailableError) as raised:
        vision.alexnet(pretrained=True, root=str(tmp_path))
    message = str(raised.value)
    assert message.startswith("alexnet has no weights anywhere; these have: ")
    assert len(message.split(": ")[1].split()) == 16 and "resnet50_v1" in message


@pytest.mark.parametrize("has_it", [True, False])
def test_own_repository_is_asked_first(has_it, digits, http_folder, tmp_path, monkeypatch):
    folder = tmp_path / "repo" / "gluon" / "dataset" / "mnist"
    folder.mkdir(parents=True)
    others = np.zeros((2, 28, 28), np.uint8)
    if has_it:
        (folder / MNIST[2]).write_bytes(idx(others))
        (folder / MNIST[3]).write_bytes(idx(np.zeros(2, np.uint8)))
    url, asked = http_folder(tmp_path / "repo")
    monkeypatch.setenv("MXNET_GLUON_REPO", url)
    # Where it has another file than MNIST's, MXNet refuses it for its sha1.
    with pytest.warns(UserWarning, match="MXNET_GLUON_REPO: .*; trying other hosts"):
        images, _ = datasets.MNIST(str(tmp_path / "root"), train=False)[:]
    assert asked and images.shape == (3, 28, 28, 1)


def test_two_processes_that_want_the_same_weights_both_get_them(host, tmp_path):
    net = random_network("squeezenet1.1")
    params = {each: value.data().asnumpy() for each, value in net.collect_params().items()}
    import onnx

    initializers = [onnx.numpy_helper.from_array(params[each], each) for each in params]
    graph = onnx.helper.make_graph([], "net", [], [], initializers)
    content = onnx.helper.make_model(graph).SerializeToString()
    host("squeezenet1.1-7.onnx", content)
    file = FILES["squeezenet1.1-7.onnx"]
    code = f"""
from mxcompat import downloads
downloads.FILES["squeezenet1.1-7.onnx"] = downloads.File{tuple(file)!r}
import mxcompat
from mxnet.gluon.model_zoo import vision
vision.squeezenet1_1(pretrained=True, root={str(tmp_path / "models")!r})
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    both = [subprocess.Popen(command, cwd=ROOT, env=script_env()) for _ in range(2)]
    assert [process.wait(timeout=600) for process in both] == [0, 0]
    assert len(list((tmp_path / "models").iterdir())) == 1
