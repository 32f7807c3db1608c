"""Every file that is downloaded: one table, and one way to get it."""

import functools
import os
import threading
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from mxcompat.files import part_folder, remove_leftovers

import pooch
import requests
import urllib3
from tqdm import tqdm

from .errors import ScriptError, warn

ANSWER_SECONDS = 5  # for a mirror to begin: a machine without a network must not wait
SILENCE_SECONDS, LOWEST_RATE = 30, 10_000  # a mirror that sends fewer bytes per second is silent
CHUNK = 2**16
MOST_REDIRECTS = 5
NO_ANSWER, NO_CONNECTION = "no answer", "no connection"

pooch.get_logger().disabled = True  # Its lines would stand between ours.

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
    """A file to fetch: what it is for, where from, its size in bytes and its sha256."""

    purpose: str
    mirrors: tuple
    size: int
    sha256: str


FILES = {
    name: File(FAMILIES[family][0], FAMILIES[family][1:], int(size), sha256)
    for family, name, size, sha256 in map(str.split, TABLE.strip().splitlines())
}


class UnavailableError(Exception):
    """Files are missing, and no mirror has them; the message names them and says why."""


class MirrorError(Exception):
    """A mirror does not have a file; the message says why."""


class DigestError(MirrorError):
    """What a mirror sent is not the file."""


def fetch(names, data_dir, offline=False):
    """Return the paths of files in `FILES`, after fetching what is missing or damaged.

    Raises `UnavailableError` if a file is missing and no mirror has it, and `ScriptError` if one is
    damaged, here or on the mirrors.
    """
    if os.path.exists(data_dir) and not os.path.isdir(data_dir):
        raise ScriptError(f"{data_dir} is a file: choose a folder with --data-dir")
    paths = [Path(data_dir, name) for name in names]
    remove_leftovers(data_dir)
    wanted = [path for path in paths if not _is_whole(path)]
    damaged = [path for path in wanted if path.exists()]
    failed = dict.fromkeys(wanted, "--offline") if offline else _fetch_all(wanted)
    for path in damaged:
        if path in failed:
            raise ScriptError(
                f"{path} is damaged and cannot be fetched again ({failed[path]}): "
                "replace it, or delete it to go on without it"
            )
        warn(f"{path} was damaged (its digest was wrong) and has been replaced")
    if failed:
        reasons = "; ".join(dict.fromkeys(map(str, failed.values())))
        names = " ".join(path.name for path in failed)
        raise UnavailableError(f"no {names} in {data_dir} ({reasons})")
    return paths


def _is_whole(path):
    return path.is_file() and pooch.file_hash(str(path)) == FILES[path.name].sha256


def _mirrors(path):
    own = os.environ.get("MXBOARD_DEMO_MIRROR")
    return (*([own.rstrip("/")] if own else []), *FILES[path.name].mirrors)


def _fetch_all(paths):
    """Fetch files; return the error for each that no mirror has."""
    if not paths:
        return {}
    folder = paths[0].parent
    folder.mkdir(parents=True, exist_ok=True)
    failed, silent = {}, {}
    with part_folder(folder) as part:
        size = sum(FILES[path.name].size for path in paths) / 1e6
        purposes = ", ".join(dict.fromkeys(FILES[path.name].purpose for path in paths))
        warn(f"fetching {max(0.1, size):.1f} MB to {folder}: {purposes}")
        for path in paths:
            try:
                _fetch_one(path, silent, part)
            except MirrorError as error:
                failed[path] = error
    return failed


def _fetch_one(path, silent, part):
    """Fetch a file, by way of `part`, from the first mirror that has it."""
    errors = {}
    for mirror in _mirrors(path):
        try:
            if mirror in silent:
                raise silent[mirror]
            _fetch_from(mirror, path, part)
            return
        except MirrorError as error:
            errors[mirror] = error
            if str(error) in (NO_ANSWER, NO_CONNECTION):
                silent[mirror] = error  # so that no other file waits for it
    hosts = {}
    for mirror, error in errors.items():
        hosts.setdefault(str(error), []).append(_host(mirror))
    why = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in hosts.items())
    if any(isinstance(error, DigestError) for error in errors.values()):
        raise ScriptError(
            f"{path.name} cannot be fetched whole ({why}): try again later, or with --offline"
        )
    raise MirrorError(why)


def _host(mirror):
    """Return a mirror's host and port: what else is in an address may be a password."""
    try:
        address = urlsplit(mirror)
        host = f"{address.hostname}:{address.port}" if address.port else address.hostname
    except ValueError:
        host = None
    return host or "MXBOARD_DEMO_MIRROR"


def _fetch_from(mirror, path, part):
    """Fetch a file from one mirror, by way of `part`."""
    file = FILES[path.name]
    download = functools.partial(_download, size=file.size)
    url, digest = f"{mirror}/{path.name}", f"sha256:{file.sha256}"
    try:
        whole = pooch.retrieve(url, digest, path.name, part, downloader=download)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise MirrorError(_why(error)) from error
    except ValueError as error:  # pooch's
        raise DigestError("what it sent has a wrong digest") from error
    os.replace(whole, path)


def _download(url, output, _, size):
    """Download at most `size` bytes; a downloader for pooch, whose own have no limits.

    A thread does it, which is left to itself if it is too slow: no timeout of requests ends a
    mirror that sends a byte now and then.
    """
    received, errors = 0, []

    def work():
        nonlocal received
        try:
            with _open(url) as response, open(output, "wb") as file:
                response.raise_for_status()
                while received < size and (chunk := response.raw.read1(CHUNK)):
                    file.write(chunk[: size - received])
                    received += len(chunk)
                if received < size and response.raw.length_remaining:
                    raise requests.ConnectionError
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    wanted, deadline = 1, time.monotonic() + ANSWER_SECONDS  # bytes that must be here by then
    with tqdm(total=size, unit="B", unit_scale=True, leave=False, disable=None) as bar:
        while thread.is_alive():
            thread.join(0.05)
            bar.update(received - bar.n)
            if time.monotonic() > deadline:
                if received < wanted:
                    raise requests.Timeout
                wanted = received + LOWEST_RATE * SILENCE_SECONDS
                deadline = time.monotonic() + SILENCE_SECONDS
    for error in errors:
        # A redirect may lead anywhere; pooch's are about digests.
        if isinstance(error, ValueError):
            raise requests.exceptions.InvalidURL from error
        raise error


def _open(url):
    """Ask for a file, and return the answer before its body is read."""
    session = requests.Session()
    # It would read all that a redirect sends before it follows it.
    session.get_redirect_target = lambda response: None
    # Some mirrors would unpack a .gz on its way.
    options = {"headers": {"Accept-Encoding": "identity"}, "timeout": SILENCE_SECONDS}
    for _ in range(MOST_REDIRECTS):
        try:
            response = session.get(url, stream=True, **options)
        except requests.RequestException:
            raise
        except OSError as error:  # about certificates that REQUESTS_CA_BUNDLE names
            raise MirrorError(str(error)) from error
        if not response.is_redirect:
            return response
        response.close()
        url = urljoin(url, response.headers["Location"])
    raise requests.TooManyRedirects


def _why(error):
    if isinstance(error, requests.HTTPError):
        return f"HTTP {error.response.status_code}"
    if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)):
        return NO_ANSWER
    if isinstance(error, requests.TooManyRedirects):
        return "redirects without end"
    if isinstance(error, ValueError):
        return "no valid address"
    return NO_CONNECTION
