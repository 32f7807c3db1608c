"""Pictures to look at: one or a set, the published ones or the reader's own."""

import re
from pathlib import Path
from typing import NamedTuple

import cv2
import mxnet as mx
import numpy as np

from .assets import IMAGENETTE, SWAN, SYNSETS, UnavailableError, fetch
from .cli import ScriptError, notice
from .records import Records, pack, pack_archive, pack_folder
from .standins import draw_classes, draw_picture

SIDE = 224  # pixels: what networks trained on ImageNet look at
DRAWN_COUNT = 2304  # pictures: as many as are looked at unless one asks for fewer
IMAGENET_CLASSES = 1000


def load_picture(data_dir, offline=False):
    """Read the published picture, a swan, or draw one.

    Parameters
    ----------
    data_dir : str
        Folder that it is in, or is fetched to.
    offline : bool
        Fetch nothing.

    Returns
    -------
    picture : numpy.ndarray
        (3, 224, 224) uint8, RGB.
    source : str
        What it is, as Markdown.

    Raises
    ------
    ScriptError
        The file is damaged and cannot be fetched again, or the folder cannot be written to.
    """
    try:
        (path,) = fetch([SWAN], data_dir, offline)
    except UnavailableError as reason:
        notice(f"{reason}: showing a drawn picture instead")
        return draw_picture(SIDE), f"**No photograph:** the picture is drawn: {reason}."
    return mx.nd.load(str(path))[0].asnumpy(), "The picture is a swan from ImageNet."


def read_picture(path, smallest):
    """Read a picture: its centre, as large a square as it has, resized to 224 x 224.

    Parameters
    ----------
    path : str
        Any format that OpenCV reads, grey and with alpha too.
    smallest : int
        Pixels that its shorter edge must have.

    Returns
    -------
    picture : numpy.ndarray
        (3, 224, 224) uint8, RGB.
    source : str
        What it is, as Markdown.

    Raises
    ------
    ScriptError
        It is not a picture, or too small.
    OSError
        It cannot be read.
    """
    content = np.frombuffer(Path(path).read_bytes(), np.uint8)
    pixels = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    if pixels is None:
        raise ScriptError(f"{path} is not a picture that OpenCV can read")
    height, width, _ = pixels.shape
    side = min(height, width)
    if side < smallest:
        raise ScriptError(
            f"{path} is {width} x {height} pixels, less than a filter of {smallest} x {smallest}"
        )
    top, left = (height - side) // 2, (width - side) // 2
    # Shrinking averages over all pixels, so that fine patterns do not turn into coarse ones.
    method = cv2.INTER_AREA if side > SIDE else cv2.INTER_CUBIC
    pixels = cv2.resize(
        pixels[top : top + side, left : left + side], (SIDE, SIDE), interpolation=method
    )
    return np.ascontiguousarray(pixels[:, :, ::-1].transpose(2, 0, 1)), f"The picture is `{path}`."


class PictureSet(NamedTuple):
    """Pictures of several classes.

    Parameters
    ----------
    records : Records
        The pictures and their labels.
    classes : list of str
        Names of the classes, by label; there may be labels without one.
    source : str
        Which pictures they are, as Markdown.
    """

    records: Records
    classes: list
    source: str


def load_picture_set(images, classes, code_size, data_dir, offline=False):
    """Read pictures to make codes of: the user's own, Imagenette's, or drawn ones.

    A folder or an archive is packed into RecordIO under `data_dir` first. Classes that are named
    like synsets get their names from ``synset.txt``.

    Parameters
    ----------
    images : str or None
        A RecordIO file, or a folder with a subfolder a class. None: Imagenette's validation
        pictures, or drawn ones where they cannot be had.
    classes : str or None
        File with the classes of a RecordIO file, a name a line, in the order of its labels. None:
        ImageNet's classes if a code has an entry for each of them, otherwise no names.
    code_size : int
        Entries of a code.
    data_dir : str
        Folder of packs, and of what is fetched.
    offline : bool
        Fetch nothing.

    Returns
    -------
    PictureSet
        The pictures.

    Raises
    ------
    ScriptError
        There is no picture that can be read, or a file is damaged.
    OSError
        A file cannot be read, or `data_dir` not be written to.
    """
    if images is not None and not Path(images).is_dir():
        if classes is not None:
            names = Path(classes).read_text(encoding="utf-8-sig", errors="replace").splitlines()
        else:
            names = _load_synsets(data_dir, offline) if code_size == IMAGENET_CLASSES else []
        return PictureSet(Records(images, data_dir), names, f"`{images}`.")

    if images is not None:
        made, source = pack_folder(images, data_dir), f"`{images}`."
    else:
        made, source = _load_imagenette(data_dir, offline)
    names = made.classes
    if any(re.fullmatch(r"n\d{8}", name) for name in names):
        synsets = {line.split()[0]: line for line in _load_synsets(data_dir, offline)}
        names = [synsets.get(name, name) for name in names]
    return PictureSet(Records(made.rec, data_dir), names, source)


def _load_imagenette(data_dir, offline):
    try:
        (archive,) = fetch([IMAGENETTE], data_dir, offline)
    except UnavailableError as reason:
        notice(f"{reason}: making codes of drawn pictures instead")
        drawn = draw_classes(DRAWN_COUNT)
        made = pack("drawn-pictures", DRAWN_COUNT, drawn, data_dir, DRAWN_COUNT)
        return made, f"**No photographs:** the pictures are drawn: {reason}."
    return pack_archive(archive, data_dir), "Imagenette's validation pictures, of ten classes."


def _load_synsets(data_dir, offline):
    """Return the lines of synset.txt, an id and names each; none if it cannot be had."""
    try:
        (path,) = fetch([SYNSETS], data_dir, offline)
    except UnavailableError as reason:
        notice(f"{reason}: classes go by their ids or numbers instead")
        return []
    return path.read_text(encoding="utf-8").splitlines()


def name_labels(labels, classes):
    """Make sure that every label has a name.

    Parameters
    ----------
    labels : numpy.ndarray
        (N,) int32, any numbers.
    classes : list of str
        Names of classes, by label.

    Returns
    -------
    labels : numpy.ndarray
        The same labels if all of them have names; otherwise (N,) int32 numbers of the classes that
        occur, counted from 0.
    class_names : list of str
        Their names, by label: those that `classes` lacks are named by their number.
    """
    if labels.min() >= 0 and labels.max() < len(classes):
        return labels, classes
    found, labels = np.unique(labels, return_inverse=True)
    named = dict(enumerate(classes))
    return labels.astype(np.int32), [named.get(label, str(label)) for label in found.tolist()]
