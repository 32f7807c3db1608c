"""MXNet's own data sets and pretrained weights, from hosts that still have them.

What MXNet downloads is asked of `downloads.FILES` instead, and kept where MXNet keeps it.
``MXNET_GLUON_REPO``, if set, is asked first, as MXNet does.
"""

import functools
import gzip
import os
import tarfile
import warnings
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet.gluon.data.vision import datasets
from mxnet.gluon.model_zoo import model_store

import mxfiles

from .board.files import locked
from .downloads import FILES, Files, UnavailableError

MNIST = [name for name in FILES if name.endswith("-ubyte.gz") and "/" not in name]


def mend():
    """Let MXNet's own functions ask the hosts that answer."""
    mx.test_utils.download = _fetch_mnist(mx.test_utils.download)
    mx.test_utils.get_mnist_ubyte = get_mnist_ubyte
    datasets.download = _repo_first(datasets.download, fetch_dataset)
    cifar = datasets.CIFAR10
    cifar._get_data = _repo_first(cifar._get_data, functools.partial(get_cifar, cifar._get_data))
    model_store.get_model_file = _repo_first(model_store.get_model_file, get_model_file)


def _repo_first(original, ours):
    """Return a function that asks ``MXNET_GLUON_REPO``, if it is set, and then our mirrors."""

    @functools.wraps(original)
    def function(*args, **kwargs):
        if "MXNET_GLUON_REPO" in os.environ:
            try:
                return original(*args, **kwargs)
            except (OSError, RuntimeError, UserWarning) as error:  # as MXNet's download raises
                warnings.warn(f"MXNET_GLUON_REPO: {error}; trying other hosts", stacklevel=2)
        return ours(*args, **kwargs)

    return function


def fetch_dataset(url, path, sha1_hash):
    """Return the path of a file of MNIST or FashionMNIST in a folder; fetch it if need be."""
    *_, dataset, name = url.split("/")
    whole = Path(path, name)
    if not whole.exists() or not datasets.check_sha1(str(whole), sha1_hash):
        (whole,) = Files(path).fetch(name if dataset == "mnist" else f"{dataset}/{name}")
    return str(whole)


def get_cifar(read, dataset):
    """Read CIFAR-10 or CIFAR-100, whose files lie in a folder of the archive, and then in none."""
    root, names = dataset._root, dict(dataset._train_data + dataset._test_data)
    paths = {os.path.join(root, name): sha1 for name, sha1 in names.items()}
    if not all(os.path.exists(path) and datasets.check_sha1(path, paths[path]) for path in paths):
        (archive,) = Files(root).fetch(dataset._archive_file[0])
        with tarfile.open(archive) as tar:
            for member in tar:
                member.name = os.path.basename(member.name)
                if member.name in names:
                    tar.extract(member, root)
    return read(dataset)


def _fetch_mnist(download):
    """Return a `download` that knows where MNIST's files are; what is there already is taken."""

    @functools.wraps(download)
    def function(url, fname=None, dirname=None, overwrite=False, retries=5):
        name = url.rsplit("/", 1)[-1]
        if name not in MNIST or "fashion" in url:
            return download(url, fname, dirname, overwrite, retries)
        path = os.path.join(dirname or "", fname or name)
        if overwrite or not os.path.exists(path):
            (whole,) = Files(os.path.dirname(path) or ".").fetch(name)
            os.replace(whole, path)
        return path

    return function


def get_mnist_ubyte():
    """Put MNIST's four files, unpacked, into the folder ``data``."""
    for name in MNIST:
        unpacked = Path("data", name[: -len(".gz")])
        if not unpacked.exists():
            (packed,) = Files("data").fetch(name)
            unpacked.write_bytes(gzip.decompress(packed.read_bytes()))


def get_model_file(name, root=None):
    """Return the path of a network's pretrained weights, as MXNet's function of this name does."""
    root = os.path.join(mx.base.data_dir(), "models") if root is None else os.path.expanduser(root)
    return str(fetch_weights(Files(root), name))


def fetch_weights(files, name):
    """Return the path of a network's pretrained weights, as .params in the folder of `files`.

    `name` is that of Gluon's model zoo, such as "resnet50_v1". Weights that nobody publishes, or
    that cannot be fetched, are an `UnavailableError`.
    """
    path = files.folder / f"{name}-{model_store.short_hash(name)}.params"
    if path.exists():
        return path
    packed_name = f"{name.replace('_1.0', '').replace('_', '-')}-7.onnx"
    if packed_name not in FILES:
        known = [each[: -len("-7.onnx")].replace("-", "_") for each in FILES if "-7.onnx" in each]
        raise UnavailableError(f"{name} has no weights anywhere; these have: {' '.join(known)}")
    files.folder.mkdir(parents=True, exist_ok=True)
    with locked(files.folder):  # so that the second of two processes finds what the first has made
        if not path.exists():
            (packed,) = files.fetch(packed_name)
            mxfiles.save(path, read_zoo(packed))
            packed.unlink()
    return path


def read_zoo(path):
    """Return the weights in a file of the ONNX model zoo, as NumPy arrays by Gluon's names.

    There they have a prefix, such as ``resnetv17_``. The others are constants.
    """
    import onnx  # which takes time, and is not needed otherwise

    weights = onnx.load(str(path)).graph.initializer
    arrays = {each.name.partition("_")[2]: onnx.numpy_helper.to_array(each) for each in weights}
    kinds = ("weight", "bias", "gamma", "beta", "running_mean", "running_var")
    arrays = {name: array for name, array in arrays.items() if name.endswith(kinds)}
    for name in [name for name in arrays if name.endswith("_beta")]:
        # A gamma that the network fixes to 1 may be a constant without its name.
        arrays.setdefault(f"{name[: -len('beta')]}gamma", np.ones_like(arrays[name]))
    return arrays
