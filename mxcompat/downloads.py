"""Every file that is downloaded: one table, and one way to get it."""

import os
import sys
import warnings
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pooch
import requests

from .board.files import part_folder, remove_leftovers

MIRROR_VARIABLE = "MXBOARD_DEMO_MIRROR"
TIMEOUT = 5, 30  # seconds: for a mirror to connect, and for it to send something
DEMO_COMMIT = "e6bd31a11104717b8f35acfcf533a486ecf36355"
ONNX_FOLDER = "validated/vision/classification/resnet/model"
# What each family of files is for, and the folders that have it, best first.
FAMILIES = {
    "mnist": (
        "digits to train on",
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
        "https://cdn.jsdelivr.net/gh/fgnt/mnist@master",
    ),
    "demo": (
        "the published demo's data",
        f"https://raw.githubusercontent.com/reminisce/mxboard-demo/{DEMO_COMMIT}/data",
        f"https://cdn.jsdelivr.net/gh/reminisce/mxboard-demo@{DEMO_COMMIT}/data",
    ),
    "onnx": (
        "ResNet-152's weights",
        f"https://huggingface.co/onnxmodelzoo/legacy_models/resolve/main/{ONNX_FOLDER}",
        f"https://media.githubusercontent.com/media/onnx/models/main/{ONNX_FOLDER}",
    ),
    "imagenette": (
        "Imagenette, the pictures to make codes of",
        "https://s3.amazonaws.com/fast-ai-imageclas",
    ),
}
# Family, name, bytes, sha256.
TABLE = """
mnist train-images-idx3-ubyte.gz 9912422 440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609
mnist train-labels-idx1-ubyte.gz 28881 3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c
mnist t10k-images-idx3-ubyte.gz 1648877 8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6
mnist t10k-labels-idx1-ubyte.gz 4542 f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6
demo imagenet_swan.ndarray 150608 45f4f6271ee1d6cf8ac7351f04cef605c20be09d3b88d61df0591db4a39e220f
demo inception_bn_conv_1_bias.param 320 fd08f6c13d52b63179c562f372514d7588448debcdcf92fb6c3d01e7c9b5a603
demo inception_bn_conv_1_weight.param 37720 dfad88ea2a25c594a59a1650df76470bd81679ca33af0dc869a2a566ed64d32b
demo resnet_152_conv0_weight.param 37720 af6bd9f3a33f0516c0d3e3929ef124c5359995ba06816b946e5f590ee3a71ce4
demo vgg16_conv1_1_bias.param 320 e9136e950561a93fb96db92d89af8417c7bcf0abd7cccc95122a9fc2ffc0b251
demo vgg16_conv1_1_weight.param 7000 630e56c445f68e5b4e4fec7b572691460294b8e99c0bf9fa9d2f40af23536108
demo synset.txt 31675 acf75ef0abe89694b19056e0796401068b459c457baa30335f240c7692857355
onnx resnet152-v2-7.onnx 241503848 40fb3f6dd313ba786a2c8077a0ef7d7b4afeda5d037365400d3a7fbc2b1bee64
imagenette imagenette2-320.tgz 341663724 569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c
"""


class File(NamedTuple):
    """A file to fetch: what it is for, the folders that have it, its size and its sha256."""

    purpose: str
    mirrors: tuple
    size: int  # bytes
    sha256: str


FILES = {
    name: File(FAMILIES[family][0], FAMILIES[family][1:], int(size), sha256)
    for family, name, size, sha256 in map(str.split, TABLE.strip().splitlines())
}


class UnavailableError(OSError):
    """Files are missing, and no mirror has them; the message names them and says why."""


class DamagedError(OSError):
    """A file is damaged, here or on the mirrors; the message says what to do."""


class _MirrorError(Exception):
    """A mirror does not have a file; the message says why."""


class Files:
    """A folder of downloads. What is there with the right sha256 is never fetched again.

    ``MXBOARD_DEMO_MIRROR=URL``, if set, is tried first for every file, as ``URL/NAME``.

    Parameters
    ----------
    folder : str or os.PathLike
        Where the files are kept; made when the first one is fetched.
    offline : bool
        Fetch nothing.
    """

    def __init__(self, folder, offline: bool = False) -> None:
        self.folder, self.offline = Path(folder), offline
        self._silent = {}  # why mirrors do not answer, so that no other file waits for them

    def fetch(self, *names: str) -> list:
        """Return the paths of files, after fetching what is missing or damaged.

        What is fetched, how large it is and what for is a `UserWarning`, as is a damaged file that
        was replaced.

        Parameters
        ----------
        *names : str
            Names in `FILES`.

        Returns
        -------
        list of pathlib.Path
            In the order of the names.

        Raises
        ------
        UnavailableError
            A file is missing, and no mirror has it.
        DamagedError
            A file is damaged, here or on the mirrors: it is not to be replaced by something else.
        """
        paths = [self.folder / name for name in names]
        remove_leftovers(self.folder)
        wanted = [path for path in paths if not _is_whole(path, path.name)]
        damaged = [path for path in wanted if path.exists()]
        failed = dict.fromkeys(wanted, "--offline") if self.offline else self._fetch_all(wanted)
        for path in damaged:
            if path in failed:
                raise DamagedError(
                    f"{path} is damaged and cannot be fetched again ({failed[path]}): "
                    "replace it, or delete it to go on without it"
                )
            warnings.warn(f"{path} was damaged (wrong sha256) and has been replaced", stacklevel=2)
        if failed:
            reasons = "; ".join(dict.fromkeys(map(str, failed.values())))
            missing = " ".join(path.name for path in failed)
            raise UnavailableError(f"no {missing} in {self.folder} ({reasons})")
        return paths

    def _fetch_all(self, paths):
        """Fetch files; return the error for each that no mirror has."""
        if not paths:
            return {}
        self.folder.mkdir(parents=True, exist_ok=True)
        failed = {}
        with part_folder(self.folder) as part:
            size = sum(FILES[path.name].size for path in paths) / 1e6
            purposes = ", ".join(dict.fromkeys(FILES[path.name].purpose for path in paths))
            message = f"fetching {max(0.1, size):.1f} MB to {self.folder}: {purposes}"
            warnings.warn(message, stacklevel=3)
            for path in paths:
                try:
                    os.replace(self._fetch_one(path.name, part), path)
                except _MirrorError as error:
                    failed[path] = error
        return failed

    def _fetch_one(self, name, part):
        """Return the path of a file in `part`, from the first mirror that has it."""
        own = os.environ.get(MIRROR_VARIABLE)
        mirrors = (*([own.rstrip("/")] if own else []), *FILES[name].mirrors)
        whole, reasons = part / name, {}  # hosts by why they do not have it
        for mirror in mirrors:
            reason = self._silent.get(mirror) or _download(f"{mirror}/{name}", whole)
            if not reason and _is_whole(whole, name):
                return whole
            if reason in ("no answer", "no connection"):
                self._silent[mirror] = reason
            reasons.setdefault(reason or "wrong sha256", []).append(_host(mirror))
        why = "; ".join(f"{', '.join(hosts)}: {reason}" for reason, hosts in reasons.items())
        if "wrong sha256" in reasons:
            raise DamagedError(f"{name} is damaged on the mirrors ({why}): try again later")
        raise _MirrorError(why)


def _is_whole(path, name):
    return path.is_file() and pooch.file_hash(str(path)) == FILES[name].sha256


def _download(url, path):
    """Download a file; return why it cannot be had, or None."""
    headers = {"Accept-Encoding": "identity"}  # some mirrors would unpack a .gz on its way
    download = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(), chunk_size=2**16, timeout=TIMEOUT, headers=headers
    )
    try:
        download(url, str(path), None)
    except requests.HTTPError as error:
        return f"HTTP {error.response.status_code}"
    except requests.Timeout:
        return "no answer"
    except requests.TooManyRedirects:
        return "redirects without end"
    except requests.RequestException as error:
        # requests' errors about an address are ValueErrors too.
        return "no valid address" if isinstance(error, ValueError) else "no connection"
    return None


def _host(mirror):
    """Return a mirror's host and port: what else is in an address may be a password."""
    return urlsplit(mirror).netloc.rpartition("@")[2] or MIRROR_VARIABLE
