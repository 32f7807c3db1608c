"""Pictures: decoded, cropped and shrunk; from a folder or a RecordIO file, or drawn."""

import os
import re
from pathlib import Path

from mxcompat.board.files import printable

import cv2
import numpy as np
from mxnet import gluon

from mxfiles import Records

from .errors import ScriptError, warn
from .synthetic import CLASSES, draw_class

# Networks are evaluated on the center of a picture: this share of its shorter edge.
CENTER = 0.875
SYNTHETIC_COUNT = 2304  # pictures: as many as are encoded by default
# Suffixes of pictures; a file that has one and cannot be read is reported.
PICTURE_SUFFIXES = (
    ".avif .bmp .gif .heic .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tif .tiff .webp"
)


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
        names = sorted(path.relative_to(self._folder) for path in _find_pictures(self._folder))
        if not names:
            raise ScriptError(
                f"{folder} has no pictures: choose a folder with one subfolder per class"
            )
        labels = [_class_of(name.parts[:-1]) or self._folder.name for name in names]
        classes = sorted(set(labels))
        items = [(name, classes.index(label)) for name, label in zip(names, labels)]
        if len(classes) == 1:
            warn(f"{folder} has pictures of one class only: each subfolder is a class")
        classes = [printable(name) for name in classes]
        super().__init__(items, classes, source or f"`{printable(folder)}`.", image_shape)

    def _read(self, item):
        name, label = item
        try:
            content = (self._folder / name).read_bytes()
        except OSError:
            content = b""
        return printable(name), decode(content), label


def _class_of(folders):
    """Return the WordNet number among folders, as in train/n01440764, or the first of them."""
    numbers = [each for each in folders if re.fullmatch(r"n\d{8}", each)]
    return next(iter(numbers or folders), None)


def _find_pictures(folder):
    """Yield the paths of pictures in a folder and its subfolders, hidden ones left out."""

    def fail(error):
        raise error  # os.walk would pass over a folder that it cannot read

    suffixes = PICTURE_SUFFIXES.split()
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        paths = [Path(parent, each) for each in folders if not each.startswith(".")]
        # A class may be a link, but a link inside one may lead in circles.
        folders[:] = [path.name for path in paths if parent == str(folder) or not path.is_symlink()]
        for name in names:
            if Path(name).suffix.lower() in suffixes and not name.startswith("."):
                yield Path(parent, name)


class PictureRecords(Pictures):
    """Pictures in a RecordIO file, whose labels have no names there."""

    def __init__(self, rec, image_shape):
        try:
            self._records = Records(rec)
        except ValueError as error:
            advice = "" if "git lfs" in str(error) else ": copy it again"
            raise ScriptError(f"{error}{advice}") from error
        if not len(self._records):
            raise ScriptError(f"{rec} holds no pictures")
        self._notes = set()
        super().__init__(range(len(self._records)), [], f"`{rec}`.", image_shape)

    def _read(self, index):
        try:
            record = self._records[index]
        except ValueError:
            return f"record {index}", None, 0
        label, note = _read_label(np.ravel(record.label))
        self._notes.update(note)
        return f"record {record.id}", decode(record.data), int(label)

    def report(self):
        """Say also how labels of several numbers were read."""
        super().report()
        for note in sorted(self._notes):
            warn(note)


def _read_label(numbers):
    """Return a picture's class, and what to say of a label of several numbers."""
    if len(numbers) == 1:
        return numbers[0], ()
    # Of a detection record: the width of this header, that of an object, and the objects.
    header, width = numbers[:2]
    objects = len(numbers) - header
    if header >= 2 and width >= 5 and objects > 0 and objects % width == 0:
        note = "records of boxes: the class of the first object is taken"
        return numbers[int(header)], [note]
    return numbers[0], ["labels of several numbers: the first is taken"]


class SyntheticPictures(Pictures):
    """Drawn pictures of each class in turn."""

    def __init__(self, source, image_shape):
        super().__init__(range(SYNTHETIC_COUNT), list(CLASSES), source, image_shape)

    def _read(self, number):
        label = number % len(self.classes)
        return "", draw_class(self.classes[label], [label, number]), label


def stack_readable(items):
    """Make a batch, (n, 1 or 3, H, W) uint8 and (n,) int64, of the pictures that could be read."""
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
