"""Every file that is downloaded: one table, and one way to get it."""

import os
import sys
import warnings
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import requests

from .board.files import part_folder, remove_leftovers

MIRROR_VARIABLE = "MXBOARD_DEMO_MIRROR"
TIMEOUT = 5, 30  # seconds: for a mirror to connect, and for it to send something
DEMO_COMMIT = "e6bd31a11104717b8f35acfcf533a486ecf36355"
ZOO_MIRRORS = (
    "https://huggingface.co/onnxmodelzoo/legacy_models/resolve/main",
    "https://media.githubusercontent.com/media/onnx/models/main",
)
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
    "fashion-mnist": (
        "pictures of clothes",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
    ),
    "cifar": ("small pictures of 10 or 100 classes", "https://www.cs.toronto.edu/~kriz"),
    "imagenette": (
        "Imagenette, the pictures to make codes of",
        "https://s3.amazonaws.com/fast-ai-imageclas",
    ),
}
for _kind in ("mobilenet", "resnet", "squeezenet", "vgg"):  # of networks in the ONNX model zoo
    _folder = f"validated/vision/classification/{_kind}/model"
    FAMILIES[_kind] = "pretrained weights", *(f"{mirror}/{_folder}" for mirror in ZOO_MIRRORS)
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
fashion-mnist fashion-mnist/train-images-idx3-ubyte.gz 26421880 3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84
fashion-mnist fashion-mnist/train-labels-idx1-ubyte.gz 29515 a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845
fashion-mnist fashion-mnist/t10k-images-idx3-ubyte.gz 4422102 346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073
fashion-mnist fashion-mnist/t10k-labels-idx1-ubyte.gz 5148 67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5
cifar cifar-10-binary.tar.gz 170052171 c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd
cifar cifar-100-binary.tar.gz 168513733 58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec
mobilenet mobilenetv2-7.onnx 14246826 c1c513582d56afceff8516c73804e484c81c6a830712ab6d682253f4a3cd042f
resnet resnet101-v1-7.onnx 178914043 760702f6ec0138f71ebac66f4e95d1c72dc9267a8544f4d4667a53075fd0497c
resnet resnet101-v2-7.onnx 178682301 3a0a819ea0953fb4700b0d98e43540aeee253e5b4c503c552b0c7979fc67767d
resnet resnet152-v1-7.onnx 241816206 b0ec92437bf8c9d0739bf9bafdea9638e13f9e3c1e2fb766ad546cc182fd3f6d
resnet resnet152-v2-7.onnx 241503848 40fb3f6dd313ba786a2c8077a0ef7d7b4afeda5d037365400d3a7fbc2b1bee64
resnet resnet18-v1-7.onnx 46820737 4e8f8653e7a2222b3904cc3fe8e304cd8b339ce1d05fd24688162f86fb6df52c
resnet resnet18-v2-7.onnx 46806737 3b4d048057854022232aa20bf68262e31718ab7119a17f920b8a2dc1433f824b
resnet resnet34-v1-7.onnx 87302588 883a41b2e30ddc2e422c108b091b5e70b92d37dc5c345a2c563dcae27971e2cc
resnet resnet34-v2-7.onnx 87288587 3d3815e25f4b1ea967e2a526a3b27ef2a03af1725bdc199a63a271c26862d914
resnet resnet50-v1-7.onnx 102583340 af16a04a6ec48ac494065d4439fe9dea590d337b9ca6dc328160ccf04a217b9c
resnet resnet50-v2-7.onnx 102442452 79102261eb6e5fd7af5d27f41316293e388c5cb691e5d25bfb035c4f64fefe31
squeezenet squeezenet1.1-7.onnx 4956208 1eeff551a67ae8d565ca33b572fc4b66e3ef357b0eb2863bb9ff47a918cc4088
vgg vgg16-7.onnx 553437328 f20805a3ecccaa88647bbab4ad011ff2412a9838485ea844de0fcbce349820b9
vgg vgg16-bn-7.onnx 553512191 4fdceabf1ef715c9ed3020fa2eac1cb2a448296c086b03633c80cf47e1c5afce
vgg vgg19-7.onnx 574677321 692f9f927f1df1b89033787a77a73eac59fd9b3344f9ecdf0b13221e41c2046f
vgg vgg19-bn-7.onnx 574774380 ce0987dfa6228ad29708013f38b7f73cbc14ca6066a05fc22ee49b35871c63ed
imagenette imagenette2-320.tgz 341663724 569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c
"""


class File(NamedTuple):
    """A file to fetch: what it is for, the folders that have it, its size in bytes, its digest."""

    purpose: str
    mirrors: tuple
    size: int
    sha256: str


FILES = {
    name: File(FAMILIES[family][0], FAMILIES[family][1:], int(size), sha256)
    for family, name, size, sha256 in map(str.split, TABLE.strip().splitlines())
}


class UnavailableError(OSError):
    """Files are missing, and no mirror has them; the message names them and says why."""


class DamagedError(OSError):
    """A file is damaged, here or on the mirrors; the message says what to do."""


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
        paths = {name: self.folder / Path(name).name for name in names}
        remove_leftovers(self.folder)
        wanted = [name for name in names if not _is_whole(paths[name], name)]
        damaged = [name for name in wanted if paths[name].exists()]
        failed = dict.fromkeys(wanted, "--offline") if self.offline else self._fetch_all(wanted)
        for name in damaged:
            if name in failed:
                raise DamagedError(
                    f"{paths[name]} is damaged and cannot be fetched again ({failed[name]}): "
                    "replace it, or delete it to go on without it"
                )
            message = f"{paths[name]} was damaged (wrong sha256) and has been replaced"
            warnings.warn(message, stacklevel=2)
        if failed:
            reasons = "; ".join(dict.fromkeys(failed.values()))
            raise UnavailableError(f"no {' '.join(failed)} in {self.folder} ({reasons})")
        return list(paths.values())

    def _fetch_all(self, names):
        """Fetch files; return, for each that no mirror has, the reason by its name."""
        if not names:
            return {}
        self.folder.mkdir(parents=True, exist_ok=True)
        failed = {}
        with part_folder(self.folder) as part:
            size = sum(FILES[name].size for name in names) / 1e6
            purposes = ", ".join(dict.fromkeys(FILES[name].purpose for name in names))
            message = f"fetching {max(0.1, size):.1f} MB to {self.folder}: {purposes}"
            warnings.warn(message, stacklevel=3)
            for name in names:
                path = part / Path(name).name
                if why := self._fetch_one(name, path):
                    failed[name] = why
                else:
                    os.replace(path, self.folder / path.name)
        return failed

    def _fetch_one(self, name, path):
        """Fetch a file from the first mirror that has it; return why none has it, or None."""
        own = os.environ.get(MIRROR_VARIABLE)
        urls = [f"{mirror}/{path.name}" for mirror in FILES[name].mirrors]
        reasons = {}  # hosts by why they do not have it
        for url in [f"{own.rstrip('/')}/{name}", *urls] if own else urls:
            host = _host(url)
            reason = self._silent.get(host) or _download(url, path)
            if not reason and _is_whole(path, name):
                return None
            if reason in ("no answer", "no connection"):
                self._silent[host] = reason
            reasons.setdefault(reason or "wrong sha256", []).append(host)
        why = "; ".join(f"{', '.join(hosts)}: {reason}" for reason, hosts in reasons.items())
        if "wrong sha256" in reasons:
            raise DamagedError(f"{name} is damaged on the mirrors ({why}): try again later")
        return why


def _is_whole(path, name):
    import pooch  # here, because it takes time, and importing mxcompat needs none of it

    return path.is_file() and pooch.file_hash(str(path)) == FILES[name].sha256


def _download(url, path):
    """Download a file; return why it cannot be had, or None."""
    import pooch

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


def _host(url):
    """Return a mirror's host and port: what else is in an address may be a password."""
    return urlsplit(url).netloc.rpartition("@")[2] or MIRROR_VARIABLE
