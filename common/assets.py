"""Every file we fetch: one table, and one way to get them."""

import functools
import os
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pooch
import requests
from mxnet import gluon

from .cli import ScriptError, make_folder, notice
from .standins import draw_mnist

# What a mirror may take to answer at all, in seconds: a machine without a network must not wait.
ANSWER_SECONDS = 5
# What a mirror may be silent for in the middle of a file, in seconds.
SILENCE_SECONDS = 20

WRONG_DIGEST = "what it sent has a wrong digest"


class Asset(NamedTuple):
    """A file to fetch.

    Parameters
    ----------
    digest : str
        As pooch writes it.
    size : int
        Bytes.
    purpose : str
        What it is for, as a user would say it.
    mirrors : tuple of str
        The folders that have it, best first.
    """

    digest: str
    size: int
    purpose: str
    mirrors: tuple


MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
    "https://cdn.jsdelivr.net/gh/fgnt/mnist@master",
)

DEMO_COMMIT = "e6bd31a11104717b8f35acfcf533a486ecf36355"
DEMO_MIRRORS = (
    f"https://raw.githubusercontent.com/reminisce/mxboard-demo/{DEMO_COMMIT}/data",
    f"https://cdn.jsdelivr.net/gh/reminisce/mxboard-demo@{DEMO_COMMIT}/data",
)

ONNX_FOLDER = "validated/vision/classification/resnet/model"
ONNX_MIRRORS = (
    f"https://huggingface.co/onnxmodelzoo/legacy_models/resolve/main/{ONNX_FOLDER}",
    f"https://media.githubusercontent.com/media/onnx/models/main/{ONNX_FOLDER}",
)

IMAGENETTE_MIRRORS = ("https://s3.amazonaws.com/fast-ai-imageclas",)

ASSETS = {
    "train-images-idx3-ubyte.gz": Asset(
        "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        9_912_422,
        "digits to train on",
        MNIST_MIRRORS,
    ),
    "train-labels-idx1-ubyte.gz": Asset(
        "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        28_881,
        "digits to train on",
        MNIST_MIRRORS,
    ),
    "t10k-images-idx3-ubyte.gz": Asset(
        "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        1_648_877,
        "digits to train on",
        MNIST_MIRRORS,
    ),
    "t10k-labels-idx1-ubyte.gz": Asset(
        "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        4_542,
        "digits to train on",
        MNIST_MIRRORS,
    ),
    "imagenet_swan.ndarray": Asset(
        "sha256:45f4f6271ee1d6cf8ac7351f04cef605c20be09d3b88d61df0591db4a39e220f",
        150_608,
        "a picture to look at",
        DEMO_MIRRORS,
    ),
    "inception_bn_conv_1_bias.param": Asset(
        "sha256:fd08f6c13d52b63179c562f372514d7588448debcdcf92fb6c3d01e7c9b5a603",
        320,
        "filters to show",
        DEMO_MIRRORS,
    ),
    "inception_bn_conv_1_weight.param": Asset(
        "sha256:dfad88ea2a25c594a59a1650df76470bd81679ca33af0dc869a2a566ed64d32b",
        37_720,
        "filters to show",
        DEMO_MIRRORS,
    ),
    "resnet_152_conv0_weight.param": Asset(
        "sha256:af6bd9f3a33f0516c0d3e3929ef124c5359995ba06816b946e5f590ee3a71ce4",
        37_720,
        "filters to show",
        DEMO_MIRRORS,
    ),
    "vgg16_conv1_1_bias.param": Asset(
        "sha256:e9136e950561a93fb96db92d89af8417c7bcf0abd7cccc95122a9fc2ffc0b251",
        320,
        "filters to show",
        DEMO_MIRRORS,
    ),
    "vgg16_conv1_1_weight.param": Asset(
        "sha256:630e56c445f68e5b4e4fec7b572691460294b8e99c0bf9fa9d2f40af23536108",
        7_000,
        "filters to show",
        DEMO_MIRRORS,
    ),
    "synset.txt": Asset(
        "sha256:acf75ef0abe89694b19056e0796401068b459c457baa30335f240c7692857355",
        31_675,
        "the names of ImageNet's classes",
        DEMO_MIRRORS,
    ),
    "resnet152-v2-7.onnx": Asset(
        "sha256:40fb3f6dd313ba786a2c8077a0ef7d7b4afeda5d037365400d3a7fbc2b1bee64",
        241_503_848,
        "ResNet-152's weights",
        ONNX_MIRRORS,
    ),
    "imagenette2-320.tgz": Asset(
        "sha256:569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c",
        341_663_724,
        "Imagenette, the pictures to make codes of",
        IMAGENETTE_MIRRORS,
    ),
}

SWAN = "imagenet_swan.ndarray"
SYNSETS = "synset.txt"
RESNET_152 = "resnet152-v2-7.onnx"
IMAGENETTE = "imagenette2-320.tgz"
MNIST = tuple(name for name, asset in ASSETS.items() if asset.mirrors is MNIST_MIRRORS)


class UnavailableError(Exception):
    """Files are absent and cannot be had; the message names them and says why, in one line."""


def fetch(names, data_dir, offline=False):
    """Make sure that files are in a folder, whole.

    A file that is there with the right digest is left alone. One with a wrong digest is reported
    and fetched again, to a temporary name beside it that replaces it once its digest is right. The
    folder at the environment's ``MXBOARD_DEMO_MIRROR``, if set, is tried before a file's own
    mirrors.

    Parameters
    ----------
    names : sequence of str
        Files, by their names in `ASSETS`.
    data_dir : str
        Folder they are kept in; made if something must be fetched.
    offline : bool
        Fetch nothing.

    Returns
    -------
    list of pathlib.Path
        The files, in the order of `names`.

    Raises
    ------
    UnavailableError
        A file is absent and no mirror has it.
    ScriptError
        A file is damaged, here or on the mirrors, or the folder cannot be written to.
    """
    if os.path.exists(data_dir) and not os.path.isdir(data_dir):
        raise ScriptError(f"{data_dir} is a file: choose a folder with --data-dir")
    paths = [Path(data_dir, name) for name in names]
    damaged = [path for path in paths if path.exists() and not _is_whole(path)]
    absent = [path for path in paths if not path.exists()]
    for path in damaged:
        notice(f"{path} is damaged: its digest is wrong")
    if offline:
        failed = dict.fromkeys(damaged + absent, "--offline")
    else:
        failed = _download(damaged + absent)
    for path in damaged:
        if path in failed:
            raise ScriptError(
                f"{path} is damaged and cannot be fetched again ({failed[path]}): "
                "replace it, or delete it to go on without it"
            )
    if failed:
        names = " ".join(path.name for path in failed)
        reasons = "; ".join(dict.fromkeys(failed.values()))
        raise UnavailableError(f"no {names} in {data_dir} ({reasons})")
    return paths


def load_mnist(data_dir, offline=False):
    """Read MNIST, or draw digits where it cannot be had.

    Parameters
    ----------
    data_dir : str
        Folder that the four files are in, or are fetched to.
    offline : bool
        Fetch nothing.

    Returns
    -------
    train_set, test_set : tuple of numpy.ndarray
        60,000 and 10,000 images, (N, 28, 28) uint8, 0 to 255, white on black; and their labels,
        (N,) int32, 0 to 9.
    source : str
        What they are and where they come from, as Markdown.

    Raises
    ------
    ScriptError
        A file is damaged and cannot be fetched again, or the folder cannot be written to.
    """
    try:
        fetch(MNIST, data_dir, offline)
    except UnavailableError as reason:
        notice(f"{reason}: training on drawn digits instead")
        train_set, test_set = draw_mnist()
        source = (
            f"**Not MNIST:** {len(train_set[0]):,} training and {len(test_set[0]):,} test digits "
            f"drawn by a program: {reason}."
        )
        return train_set, test_set, source
    train_set, test_set = (_read_mnist(data_dir, train) for train in (True, False))
    source = (
        f"MNIST: {len(train_set[0]):,} training and {len(test_set[0]):,} test images of "
        f"handwritten digits, from the four files in `{data_dir}`, their sha256 checked."
    )
    return train_set, test_set, source


def _read_mnist(data_dir, train):
    images, labels = gluon.data.vision.MNIST(data_dir, train)[:]
    return images.asnumpy().squeeze(axis=3), labels


def _is_whole(path):
    algorithm, digest = ASSETS[path.name].digest.split(":")
    return pooch.file_hash(str(path), alg=algorithm) == digest


def _mirrors(name):
    own = os.environ.get("MXBOARD_DEMO_MIRROR")
    return (*([own.rstrip("/")] if own else []), *ASSETS[name].mirrors)


def _download(paths):
    """Fetch files; return a dict of those that no mirror has, with the reason."""
    if not paths:
        return {}
    make_folder(paths[0].parent)
    silent = _silent(tuple(dict.fromkeys(m for path in paths for m in _mirrors(path.name))))
    coming = [ASSETS[p.name] for p in paths if not silent.keys() >= set(_mirrors(p.name))]
    if coming:
        size = max(0.1, sum(asset.size for asset in coming) / 1e6)
        purposes = ", ".join(dict.fromkeys(asset.purpose for asset in coming))
        notice(f"fetching {size:.1f} MB to {paths[0].parent}: {purposes}")
    failed = {}
    for path in paths:
        reasons = []
        for mirror in _mirrors(path.name):
            reason = silent.get(mirror) or _download_from(mirror, path)
            if not reason:
                break
            reasons.append(f"{urlsplit(mirror).netloc or mirror}: {reason}")
        else:
            failed[path] = ", ".join(reasons)
            if WRONG_DIGEST in failed[path]:
                raise ScriptError(
                    f"{path.name} cannot be fetched whole ({failed[path]}): try again later, "
                    "or with --offline"
                )
    return failed


@functools.lru_cache
def _silent(mirrors):
    """Ask all mirrors at once whether they are there; return why for those that are silent.

    One after the other, or with a name server that does not answer, this could take minutes.
    """
    reasons = dict.fromkeys(mirrors, "no answer")

    def ask(mirror):
        try:
            requests.head(mirror, timeout=ANSWER_SECONDS)
            del reasons[mirror]
        except requests.RequestException as error:
            reasons[mirror] = _why(error)

    threads = [threading.Thread(target=ask, args=(mirror,), daemon=True) for mirror in mirrors]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + ANSWER_SECONDS
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    return dict(reasons)


def _download_from(mirror, path):
    """Fetch a file from one mirror; return why if it does not have it."""
    downloader = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(),
        timeout=(ANSWER_SECONDS, SILENCE_SECONDS),
        # Some mirrors would unpack a .gz on its way.
        headers={"Accept-Encoding": "identity"},
    )
    try:
        pooch.retrieve(
            f"{mirror}/{path.name}",
            ASSETS[path.name].digest,
            path.name,
            path.parent,
            downloader=downloader,
        )
    except requests.RequestException as error:
        return _why(error)
    except ValueError:
        return WRONG_DIGEST
    return None


def _why(error):
    if isinstance(error, requests.HTTPError):
        return f"HTTP {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "no answer"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return str(error)
