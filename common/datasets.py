"""MNIST, the picture, and sets of pictures: real ones, or synthetic where they cannot be had."""

import contextlib
import functools
import itertools
import os
import re
import struct
import tarfile
import threading
from ctypes import byref, c_size_t
from pathlib import Path

from mxcompat.files import open_file, part_folder, printable, read_file

import cv2
import mxnet as mx
import numpy as np
from mxnet import gluon

from .arrays import parse_arrays
from .errors import ScriptError, warn
from .fetch import FILES, UnavailableError, fetch
from .synthetic import CLASSES, draw_class, draw_mnist, draw_picture

PICTURE_SIDE = 224  # pixels: what networks trained on ImageNet look at
# Networks are evaluated on the center of a picture: this share of its shorter edge.
CENTER = 0.875
SYNTHETIC_COUNT = 2304  # pictures: as many as are encoded by default
# Suffixes of pictures; a file that has one and cannot be read is reported.
PICTURE_SUFFIXES = {
    *(".avif", ".bmp", ".gif", ".heic", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
}
MNIST = [name for name in FILES if name.endswith("-ubyte.gz")]
IMAGENETTE = "imagenette2-320"
IMAGENET_CLASSES = 1000


def load_mnist(data_dir, offline=False):
    """Return (images, labels) to train on and to test with, and what they are, as Markdown.

    Images are (N, 28, 28) uint8, white on black; labels (N,) int32, 0 to 9.
    """
    try:
        fetch(MNIST, data_dir, offline)
    except UnavailableError as reason:
        warn(f"{reason}: training on synthetic digits instead")
        train_set, test_set = draw_mnist()
        name = f"**Not MNIST:** synthetic digits, because there is {reason}"
    else:
        train_set, test_set = (
            gluon.data.vision.MNIST(data_dir, train=train)[:] for train in (True, False)
        )
        train_set, test_set = (
            (images.asnumpy().squeeze(axis=3), labels) for images, labels in (train_set, test_set)
        )
        name = f"MNIST: handwritten digits, from `{data_dir}`"
    counts = f"{len(train_set[0]):,} to train on and {len(test_set[0]):,} to test with"
    return train_set, test_set, f"{name}; {counts}."


def load_picture(path, data_dir, offline=False):
    """Return a picture, (3, 224, 224) uint8 RGB, and what it is, as Markdown.

    It is the center square of the user's own, or the published swan, or a synthetic boat.
    """
    if path is not None:
        pixels = decode(read_file(path))
        if pixels is None:
            raise ScriptError(f"{path} is not a picture that OpenCV can read")
        return crop(pixels, PICTURE_SIDE, PICTURE_SIDE, center=1), f"The picture is `{path}`."
    try:
        (swan,) = fetch(["imagenet_swan.ndarray"], data_dir, offline)
    except UnavailableError as reason:
        warn(f"{reason}: showing a synthetic picture instead")
        return draw_picture(PICTURE_SIDE), f"**No photograph:** the picture is drawn ({reason})."
    return parse_arrays(read_file(swan))[0], "The picture is a swan from ImageNet."


def decode(content):
    """Decode a picture in any format of OpenCV's to (H, W, 3) uint8 RGB, or to None."""
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if pixels is None else pixels[:, :, ::-1]


def crop(pixels, height, width, center=CENTER):
    """Scale the center of a (H, W, 3) picture to a (3, height, width) one, its aspect kept.

    A picture that just covers height x width already is cropped as it is.
    """
    rows, columns, _ = pixels.shape
    scale = max(height / rows, width / columns)
    scale = 1 if scale == 1 else scale / center
    # Only what will be seen is scaled: the whole of a narrow strip could fill the memory.
    crop_rows, crop_columns = max(1, round(height / scale)), max(1, round(width / scale))
    top, left = (rows - crop_rows) // 2, (columns - crop_columns) // 2
    pixels = pixels[top : top + crop_rows, left : left + crop_columns]
    if scale != 1:
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        pixels = cv2.resize(pixels, (width, height), interpolation=method)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def to_gray(picture):
    """Return the luminance of a (3, H, W) uint8 RGB picture, (1, H, W)."""
    return cv2.cvtColor(np.ascontiguousarray(picture.transpose(1, 2, 0)), cv2.COLOR_RGB2GRAY)[None]


def shrink(images, side):
    """Shrink (N, C, H, W) uint8 pictures to (N, C, side, side)."""
    rows = images.transpose(0, 2, 3, 1)
    small = [cv2.resize(row, (side, side), interpolation=cv2.INTER_AREA) for row in rows]
    return np.stack(small).reshape(len(rows), side, side, -1).transpose(0, 3, 1, 2)


class Pictures(gluon.data.Dataset):
    """Pictures of several classes; an item is a (1 or 3, H, W) uint8 picture and its label.

    An item that cannot be read is None, and its name is added to `unreadable`.
    """

    def __init__(self, items, classes, source, image_shape):
        self._items = items
        self._channels, *self._size = image_shape
        self.classes = classes  # names by label; a label may have none
        self.source = source  # what the pictures are, as Markdown
        self.unreadable = set()

    def __len__(self):
        return len(self._items)

    def __getitem__(self, index):
        name, pixels, label = self._read(self._items[index])
        if pixels is None:
            if name:
                self.unreadable.add(name)
            return None
        picture = crop(pixels, *self._size)
        return (to_gray(picture) if self._channels == 1 else picture), label

    def report(self):
        """Count and name the pictures that could not be read, if there are any."""
        names = sorted(self.unreadable)
        if names:
            named = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            warn(f"unreadable pictures left out: {len(names)} ({named})")


class PictureFolder(Pictures):
    """Pictures in a folder: each subfolder is a class; those beside the subfolders are one too."""

    def __init__(self, folder, image_shape, source=None):
        self._folder = Path(os.path.abspath(folder))
        unreadable = []
        # Not one walk that follows links: a class may be a link, but a link may lead in circles.
        folders = [each for each in os.scandir(self._folder) if each.is_dir()]
        folders = [each.path for each in folders if not each.name.startswith(".")]
        walks = [os.walk(each, onerror=lambda e: unreadable.append(e.filename)) for each in folders]
        paths = (
            Path(parent, name)
            for parent, _, names in (next(os.walk(self._folder)), *itertools.chain(*walks))
            for name in names
            if Path(name).suffix.lower() in PICTURE_SUFFIXES
        )
        names = sorted(path.relative_to(self._folder) for path in paths)
        names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
        if not names and unreadable:
            raise ScriptError(f"{unreadable[0]} cannot be read: change its permissions")
        if not names:
            raise ScriptError(f"{folder} has no pictures: choose a folder with a subfolder a class")
        labels = [name.parts[0] if len(name.parts) > 1 else self._folder.name for name in names]
        classes = sorted(set(labels))
        items = [(name, classes.index(label)) for name, label in zip(names, labels)]
        classes = [printable(name) for name in classes]
        super().__init__(items, classes, source or f"`{printable(folder)}`.", image_shape)
        self.unreadable.update(printable(os.path.relpath(each, folder)) for each in unreadable)

    def _read(self, item):
        name, label = item
        try:
            content = read_file(self._folder / name)
        except OSError:
            content = b""
        return printable(name), decode(content), label


class PictureRecords(Pictures):
    """Pictures in a RecordIO file, wherever it was made; its .idx is used if it lies beside it."""

    def __init__(self, rec, classes, image_shape):
        index = Path(rec).with_suffix(".idx")
        self._file = open_file(rec)
        name = f"/dev/fd/{self._file.fileno()}"  # which MXNet can open, whatever the file is called
        try:
            positions = None if index.is_file() else _find_records(name)
            self._file.seek(0)  # which macOS goes on from
            self._records = mx.recordio.MXIndexedRecordIO(
                str(index) if index.is_file() else os.devnull, name, "r"
            )
        except (mx.MXNetError, ValueError, IndexError) as error:
            raise ScriptError(
                f"{rec} is truncated or no RecordIO file, or {index.name} is not its index: "
                "copy them again"
            ) from error
        if positions:
            self._records.idx, self._records.keys = (
                dict(enumerate(positions)),
                range(len(positions)),
            )
        if not self._records.keys:
            raise ScriptError(f"{rec} holds no pictures")
        self._lock = threading.Lock()
        self._notes = set()
        super().__init__(self._records.keys, classes, f"`{rec}`.", image_shape)

    def _read(self, key):
        name, label, content = f"record {key}", 0, b""
        # Nothing at all is what MXNet returns where the file ends.
        with contextlib.suppress(mx.MXNetError, struct.error, ValueError, TypeError):
            with self._lock:
                record = self._records.read_idx(key)
            header, content = mx.recordio.unpack(record)
            # A record without a picture describes others, as in files of faces.
            name = name if content else None
            label, note = _read_label(np.ravel(header.label))
            self._notes.update(note if content else ())
        return name, decode(content), label

    def report(self):
        """Say also what was made of labels of several numbers."""
        super().report()
        for note in sorted(self._notes):
            warn(note)


def _read_label(numbers):
    """Return a picture's class, and what to say of a label of several numbers."""
    if len(numbers) == 1:
        return int(numbers[0]), ()
    # Of a detection record: the width of this header, that of an object, and the objects.
    header, width = numbers[:2].astype(int)
    objects = len(numbers) - header
    if header >= 2 and width >= 5 and objects > 0 and objects % width == 0:
        return int(numbers[header]), ["records of boxes: the class of the first object is taken"]
    return int(numbers[0]), ["labels of several numbers: the first is taken"]


def _find_records(rec):
    """Read a RecordIO file through; return where each record begins."""
    reader, positions, position = mx.recordio.MXRecordIO(rec, "r"), [], c_size_t()
    while True:
        mx.base.check_call(mx.base._LIB.MXRecordIOReaderTell(reader.handle, byref(position)))
        if reader.read() is None:
            return positions
        positions.append(position.value)


class SyntheticPictures(Pictures):
    """Drawn pictures of each class in turn."""

    def __init__(self, source, image_shape):
        super().__init__(range(SYNTHETIC_COUNT), list(CLASSES), source, image_shape)

    def _read(self, number):
        label = number % len(self.classes)
        return "", draw_class(self.classes[label], [label, number]), label


def load_pictures(images, output_names, image_shape, data_dir, offline=False):
    """Return the pictures to encode: the user's own, Imagenette's, or synthetic ones.

    `images` is a RecordIO file, whose labels count the output names, a folder with a subfolder a
    class, or None. Classes of a folder called like synsets get their names from synset.txt.
    """
    if images is not None and not os.path.isdir(images):
        return PictureRecords(images, output_names, image_shape)
    if images is not None:
        pictures = PictureFolder(images, image_shape)
    else:
        try:
            folder = unpack_imagenette(data_dir, offline)
        except UnavailableError as reason:
            warn(f"{reason}: making codes of synthetic pictures instead")
            source = f"**No photographs:** the pictures are drawn ({reason})."
            return SyntheticPictures(source, image_shape)
        pictures = PictureFolder(folder, image_shape, "Imagenette's validation pictures.")
    if any(re.fullmatch(r"n\d{8}", name) for name in pictures.classes):
        names = {line.split()[0]: line for line in load_synsets(data_dir, offline)}
        pictures.classes = [names.get(name, name) for name in pictures.classes]
    return pictures


def load_output_names(class_file, outputs, data_dir, offline=False):
    """Return the classes that the user names, one per line, or ImageNet's for 1,000 outputs."""
    if class_file is not None:
        return read_file(class_file).decode("utf-8-sig", errors="replace").splitlines()
    return load_synsets(data_dir, offline) if outputs == IMAGENET_CLASSES else []


@functools.lru_cache
def load_synsets(data_dir, offline=False):
    """Return ImageNet's 1,000 classes, an id and names each, or none if they cannot be had."""
    try:
        (path,) = fetch(["synset.txt"], data_dir, offline)
    except UnavailableError as reason:
        warn(f"{reason}: classes go by their ids or numbers instead")
        return []
    return path.read_text(encoding="utf-8").splitlines()


def unpack_imagenette(data_dir, offline=False):
    """Return the folder of Imagenette's validation pictures, unpacked once."""
    folder = Path(data_dir, IMAGENETTE)
    if not folder.exists():
        (archive,) = fetch([f"{IMAGENETTE}.tgz"], data_dir, offline)
        warn(f"unpacking {archive}")
        with part_folder(data_dir) as part, tarfile.open(archive) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            wanted = f"{IMAGENETTE}/val/"
            tar.extractall(part, (each for each in tar if each.name.startswith(wanted)))
            if not folder.exists():  # which another run may have made meanwhile
                os.replace(part / IMAGENETTE, folder)
    return folder / "val"


def stack_readable(items):
    """Make a batch, (n, 3, H, W) uint8 and (n,) int64, of the pictures that could be read."""
    readable = [item for item in items if item is not None]
    if not readable:
        return np.empty((0,)), np.empty((0,))
    images, labels = zip(*readable)
    return np.stack(images), np.array(labels)


def name_labels(labels, classes):
    """Return int32 labels and the names of the classes they count, however they were counted.

    Labels without a name are named by their number, and then classes are numbered anew.
    """
    if labels.min() >= 0 and labels.max() < len(classes):
        return labels.astype(np.int32), classes
    found, labels = np.unique(labels, return_inverse=True)
    named = dict(enumerate(classes))
    return labels.astype(np.int32), [named.get(label, str(label)) for label in found.tolist()]
