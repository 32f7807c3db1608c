"""Codes on the disk: what get_convnet_codes.py writes and plot_convnet_embedding.py reads."""

import json
from pathlib import Path

import mxnet as mx
import numpy as np
import pooch

from .cli import ScriptError, make_folder
from .summary import written_whole

DEFAULT_MODEL = "imagenet1k-resnet-152"

ARRAYS = ("convnet_codes", "resized_images", "labels")
# What a description says, besides the digests of the arrays.
DESCRIPTION = ("class_names", "pictures", "weights", "precision", "seed")

# Pictures whose neighbours are searched at once: for 8,000 pictures 16 MB of cosines.
BLOCK = 512


def save_codes(data_dir, name, codes, thumbnails, labels, description):
    """Write a set of codes, whole or not at all.

    The arrays go to ``NAME_convnet_codes.ndarray``, ``NAME_resized_images.ndarray`` and
    ``NAME_labels.ndarray`` in MXNet's format, the description to ``NAME_codes.json`` with the
    arrays' sha256. All are written under temporary names first; the description is renamed last.

    Parameters
    ----------
    data_dir : str
        Folder; made if it is missing.
    name : str
        Name of the network, without a path.
    codes : numpy.ndarray
        (N, D) float32, a code a row.
    thumbnails : numpy.ndarray
        (N, 3, 64, 64) uint8, RGB: the pictures the codes are of.
    labels : numpy.ndarray
        (N,) int32, 0 to len(class_names) - 1.
    description : dict
        ``class_names`` (list of str), ``pictures`` and ``weights`` (str, Markdown: which they are
        and where they came from), ``precision`` (str) and ``seed`` (int); more is kept as it is,
        such as ``cosine`` (float or None: how like those of float32 the codes are).

    Raises
    ------
    ScriptError, OSError
        The files cannot be written, in which case an earlier set stays as it was.
    """
    make_folder(data_dir)
    paths = _paths(data_dir, name)
    with written_whole(paths) as temporary:
        *array_files, description_file = temporary
        _save_array(array_files[0], codes, np.float32)
        _save_array(array_files[1], thumbnails, np.uint8)
        _save_array(array_files[2], labels, np.int32)
        digests = {kind: pooch.file_hash(str(path)) for kind, path in zip(ARRAYS, array_files)}
        content = json.dumps({**description, "sha256": digests}, indent=2)
        description_file.write_text(content + "\n", encoding="ascii")


def load_codes(data_dir, name):
    """Read a set of codes and make sure that its files belong together.

    Parameters
    ----------
    data_dir : str
        Folder it is in.
    name : str
        Name of the network, without a path.

    Returns
    -------
    codes, thumbnails, labels : numpy.ndarray
        (N, D) float32, (N, 3, H, W) uint8 and (N,) int32, as for `save_codes`.
    description : dict
        As for `save_codes`.

    Raises
    ------
    ScriptError
        A file is missing or damaged, the files are of different runs or of different lengths, or a
        label has no name.
    """
    *array_files, description_file = paths = _paths(data_dir, name)
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise ScriptError(
            f"{' '.join(missing)} not in {data_dir}: run get_convnet_codes.py first, with the same "
            "--model and --data-dir"
        )
    description, digests = _read_description(description_file)
    for path, digest in zip(array_files, digests):
        if pooch.file_hash(str(path)) != digest:
            raise ScriptError(
                f"{path} and {description_file.name} are of different runs, or one is damaged: "
                "run get_convnet_codes.py again"
            )

    codes, thumbnails, labels = (mx.nd.load(str(path))[0].asnumpy() for path in array_files)
    if not 0 < len(codes) == len(thumbnails) == len(labels):
        raise ScriptError(
            f"the files of {name} in {data_dir} hold {len(codes)} codes, {len(thumbnails)} "
            f"pictures and {len(labels)} labels: run get_convnet_codes.py again"
        )
    if not 0 <= labels.min() <= labels.max() < len(description["class_names"]):
        raise ScriptError(
            f"{description_file} does not name every class: run get_convnet_codes.py again"
        )
    return codes, thumbnails, labels, description


def neighbour_share(codes, labels, k=5):
    """Measure how well codes group: how many of a picture's nearest neighbours have its class.

    Parameters
    ----------
    codes : numpy.ndarray
        (N, D) float32, a code a row.
    labels : numpy.ndarray
        (N,) int32, classes.
    k : int
        Neighbours to look at, the nearest by cosine similarity, the picture itself excluded; all
        of them if there are fewer. Those just as near as the last one share its place.

    Returns
    -------
    tuple of float, or None
        The share of neighbours that have the picture's class, 0 to 1, and what it would be if
        neighbours were drawn at random; both over the pictures that are not alone in their class,
        which those that are can still be neighbours of. None if all are alone.
    """
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    companions = sizes[classes] - 1
    pictures = np.flatnonzero(companions)
    if not len(pictures):
        return None
    k = min(k, len(codes) - 1)
    lengths = np.linalg.norm(codes, axis=1, keepdims=True)
    directions = codes / np.where(lengths > 0, lengths, 1)

    shares = []
    for start in range(0, len(pictures), BLOCK):
        block = pictures[start : start + BLOCK]
        cosines = directions[block] @ directions.T
        cosines[np.arange(len(block)), block] = -np.inf
        last = np.partition(cosines, -k, axis=1)[:, -k, np.newaxis]
        nearer, as_near = cosines > last, cosines == last
        same = classes[block, np.newaxis] == classes
        places = k - nearer.sum(axis=1)
        hits = (nearer & same).sum(axis=1)
        hits = hits + places * (as_near & same).sum(axis=1) / as_near.sum(axis=1)
        shares.append(hits / k)
    return np.concatenate(shares).mean(), companions[pictures].mean() / (len(codes) - 1)


def _paths(data_dir, name):
    """Return the paths of a set, in the order in which they are written."""
    arrays = [Path(data_dir, f"{name}_{kind}.ndarray") for kind in ARRAYS]
    return [*arrays, Path(data_dir, f"{name}_codes.json")]


def _save_array(path, array, dtype):
    array = np.ascontiguousarray(array, dtype)
    # A view, because MXNet makes the array it borrows read-only.
    borrowed = mx.nd.from_numpy(array.view(), zero_copy=True)
    # MXNet passes over an error in the last kilobytes, which are written when the file is closed:
    # its file is the array and a header (src/ndarray/ndarray.cc, NDArray::Save).
    size = array.nbytes + 56 + 8 * array.ndim
    try:
        mx.nd.save(str(path), borrowed)
        whole = path.stat().st_size == size
    except mx.MXNetError:
        whole = False
    if not whole:
        raise ScriptError(
            f"{path.parent}: {size:,} bytes of codes cannot be written: free some space, or choose "
            "another folder with --data-dir"
        )


def _read_description(path):
    """Return the description of a set, and the digests of its arrays."""
    try:
        description = json.loads(path.read_bytes())
        digests = description.pop("sha256")
        digests = [digests[kind] for kind in ARRAYS]
        whole = set(DESCRIPTION) <= set(description)
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise ScriptError(f"{path} is damaged: run get_convnet_codes.py again")
    return description, digests
