"""Pictures: packs a folder or an archive into RecordIO, and serves any RecordIO in batches."""

import contextlib
import gzip
import hashlib
import json
import os
import struct
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import cv2
import mxnet as mx
import numpy as np
from tqdm import tqdm

from .cli import ScriptError, make_folder, notice
from .compat import AVAILABLE_CORES
from .summary import written_whole

# As the published val_256_q90.rec has them: room to crop 224 pixels, and no artefacts to see.
SHORTER_EDGE = 256  # pixels
JPEG_QUALITY = 90
JPEG_START = b"\xff\xd8\xff"
# What of a folder's files is taken for a picture, and reported if OpenCV cannot read it.
PICTURE_SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".heic", ".jp2", ".jpe", ".jpeg", ".jpg")
    + (".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
# Where the validation pictures lie in Imagenette's archive, in a folder a class.
ARCHIVE_FOLDER = ("imagenette2-320", "val")
# Pictures handed to the packing threads at once: enough to keep them busy, few in memory.
PACK_CHUNK = 64

# RecordIO's framing [1]: a record is one or more parts; a part is a magic number, 3 bits that tell
# which part it is, 29 bits for its length, and its content, padded to 4 bytes. Where the magic
# number occurs in a record, it is left out and a new part begins.
# [1] https://github.com/dmlc/dmlc-core/blob/main/include/dmlc/recordio.h
MAGIC = 0xCED7230A
PART_HEADER = struct.Struct("<II")
LENGTH_BITS = 29
WHOLE, LAST = 0, 3


class Pack(NamedTuple):
    """A RecordIO file made here, and the names of its classes, by their number."""

    rec: Path
    classes: list


class Batch(NamedTuple):
    """Pictures, (n, 3, H, W) uint8 RGB; their labels, (n,) int32; their keys, (n,) int64."""

    images: np.ndarray
    labels: np.ndarray
    keys: np.ndarray


def pack_folder(folder, data_dir):
    """Pack a folder of pictures, unless that is done and the folder has not changed since.

    Each subfolder is a class, with all that is below it, and pictures beside the subfolders are
    one named after the folder. Hidden files and folders are left out.

    Parameters
    ----------
    folder : str
        The folder.
    data_dir : str
        Folder to keep the pack in.

    Returns
    -------
    Pack
        The pack.

    Raises
    ------
    ScriptError
        The folder has no picture that can be read, or the pack cannot be written.
    """
    folder = Path(os.path.abspath(folder))
    # Not "**/*": a class may be a link to a folder elsewhere.
    paths = (path for pattern in ("*", "*/**/*") for path in folder.glob(pattern))
    names = sorted(path.relative_to(folder) for path in paths)
    names = [name for name in names if _is_picture(name) and (folder / name).is_file()]
    if not names:
        raise ScriptError(f"{folder} holds no pictures: choose a folder with a subfolder a class")
    stats = [(folder / name).stat() for name in names]
    fingerprint = [(str(name), stat.st_size, stat.st_mtime_ns) for name, stat in zip(names, stats)]
    pictures = (_read_file(folder, name) for name in names)
    return pack(folder, fingerprint, pictures, data_dir, len(names))


def pack_archive(archive, data_dir):
    """Pack the validation pictures of Imagenette's archive, unless that is done.

    The archive is read as a stream, and of it only regular files.

    Parameters
    ----------
    archive : str
        ``imagenette2-320.tgz``.
    data_dir : str
        Folder to keep the pack in.

    Returns
    -------
    Pack
        The pack; its classes are synset ids.

    Raises
    ------
    ScriptError
        The archive is damaged, truncated or another one, or the pack cannot be written.
    """
    archive = Path(os.path.abspath(archive))
    stat = archive.stat()
    return pack(archive, (stat.st_size, stat.st_mtime_ns), _read_archive(archive), data_dir)


def pack(source, fingerprint, pictures, data_dir, total=None):
    """Pack pictures into RecordIO, unless that is done.

    They become JPEGs with a shorter edge of 256 pixels. Those that have less keep their size:
    enlarged, they would take more room and show no more. A JPEG that need not shrink is kept as it
    is: encoded again, it would only lose. Pictures that cannot be read are counted and named. The
    files get their final names when they are whole.

    Parameters
    ----------
    source : str or pathlib.Path
        What the pictures come from. The pack is named after it.
    fingerprint : object
        Anything that JSON can hold and that changes when the pictures do.
    pictures : iterable of (str, str, bytes)
        Class, name and content of each picture, in any format that OpenCV reads. Not touched if
        the pack is there.
    data_dir : str
        Folder to keep the pack in.
    total : int, optional
        Number of pictures, for the progress bar.

    Returns
    -------
    Pack
        The pack, its classes in the order in which `pictures` brought them.

    Raises
    ------
    ScriptError
        No picture can be read, or the pack cannot be written.
    """
    # The digest keeps folders of the same name apart.
    name = f"{_printable(Path(source).name)}-{_digest(str(source))}"
    finals = [Path(data_dir, name + suffix) for suffix in (".rec", ".idx", ".json")]
    rec, _, about = finals
    fingerprint = _digest([fingerprint, SHORTER_EDGE, JPEG_QUALITY])
    try:
        made = json.loads(about.read_text())
        current = made["fingerprint"] == fingerprint and made["bytes"] == rec.stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        current = False
    if not current:
        make_folder(data_dir)
        with written_whole(finals) as drafts:
            classes, unreadable = _write_pack(*drafts[:2], source, pictures, total)
            made = {
                "fingerprint": fingerprint,
                "bytes": drafts[0].stat().st_size,
                "classes": classes,
                "unreadable": unreadable,
            }
            drafts[2].write_text(json.dumps(made))
            # The JSON vouches for the others: the old one goes before they do.
            about.unlink(missing_ok=True)
    _report(made["unreadable"], source)
    return Pack(rec, made["classes"])


def _write_pack(rec, idx, source, pictures, total):
    """Write a pack; list its classes and the pictures that cannot be read."""
    labels, unreadable = {}, []
    description = f"packing {Path(source).name}"
    shrunk = tqdm(_shrink_all(pictures), description, total, unit="picture", disable=None)
    try:
        with contextlib.closing(mx.recordio.MXIndexedRecordIO(str(idx), str(rec), "w")) as records:
            for label, name, jpeg in shrunk:
                if jpeg is None:
                    unreadable.append(_printable(name))
                    continue
                key = len(records.keys)
                number = labels.setdefault(_printable(label), len(labels))
                header = mx.recordio.IRHeader(0, number, key, 0)
                records.write_idx(key, mx.recordio.pack(header, jpeg))
            size = records.tell()
        if rec.stat().st_size < size:
            raise mx.MXNetError("no room for the last bytes, which MXNet itself does not notice")
    except mx.MXNetError as error:
        raise ScriptError(
            f"the pack of {source} cannot be written: free some space, or choose another folder "
            "with --data-dir"
        ) from error
    if not labels:
        _report(unreadable, source)
        raise ScriptError(f"no picture of {source} can be read: choose others")
    return list(labels), unreadable


def _shrink_all(pictures):
    """Yield class, name and JPEG of each picture; None in place of a JPEG if it is unreadable."""
    pictures = iter(pictures)
    with ThreadPoolExecutor(AVAILABLE_CORES) as threads:
        while chunk := list(islice(pictures, PACK_CHUNK)):
            labels, names, contents = zip(*chunk)
            yield from zip(labels, names, threads.map(_shrink, contents))


def _shrink(content):
    picture = _decode(content)
    if picture is None:
        return None
    height, width, _ = picture.shape
    scale = SHORTER_EDGE / min(height, width)
    if scale < 1:
        size = (round(width * scale), round(height * scale))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    elif content.startswith(JPEG_START):
        return content
    # A strip can be longer than a JPEG may be.
    fits, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return jpeg.tobytes() if fits else None


def _decode(content):
    """Decode a picture to (H, W, 3) uint8 BGR; None if OpenCV cannot."""
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None


def _is_picture(name):
    """Tell a picture by its suffix; what is hidden is none."""
    hidden = any(part.startswith(".") for part in name.parts)
    return name.suffix.lower() in PICTURE_SUFFIXES and not hidden


def _read_file(folder, name):
    """Return class, name and content of a picture; no content if it may not be read."""
    label = name.parts[0] if len(name.parts) > 1 else folder.name
    try:
        return label, str(name), (folder / name).read_bytes()
    except OSError:
        return label, str(name), b""


def _read_archive(archive):
    """Yield class, name and content of each validation picture of Imagenette's archive."""
    wrong = f"{archive} is not Imagenette's archive, or is damaged: delete it to have it fetched"
    found = False
    try:
        with gzip.open(archive) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    name = PurePosixPath(member.name)
                    if name.parts[:-2] == ARCHIVE_FOLDER and member.isreg() and _is_picture(name):
                        found = True
                        yield name.parent.name, str(name), tar.extractfile(member).read()
            # tarfile takes an end that is missing for the end: gzip does not.
            while stream.read(2**20):
                pass
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ScriptError(wrong) from error
    if not found:
        raise ScriptError(wrong)


class Records:
    """The pictures of a RecordIO file, wherever it was made.

    Their keys are 0 to ``len(records) - 1``, in the order of the index beside the file. Without one
    the file is read through once, and an index kept until the file changes.

    Parameters
    ----------
    rec : str or pathlib.Path
        The file.
    data_dir : str
        Folder to keep an index in.

    Raises
    ------
    ScriptError
        The file is empty, truncated or not RecordIO, or the index beside it is not one.
    """

    def __init__(self, rec, data_dir):
        self.rec = Path(os.path.abspath(rec))
        with open(self.rec, "rb") as file:
            self._offsets = _read_index(file, data_dir)

    def __len__(self):
        return len(self._offsets)

    def draw(self, max_num_images, seed):
        """Draw pictures at random, without replacement.

        Parameters
        ----------
        max_num_images : int
            Number of pictures, if there are as many.
        seed : int
            Where the random numbers start.

        Returns
        -------
        numpy.ndarray
            Keys, (n,) int64, in random order: the first of them are a random subset too.
        """
        return np.random.default_rng(seed).permutation(len(self))[:max_num_images]

    def batches(self, keys, batch_size, image_shape):
        """Read pictures in a thread, a batch ahead of the caller.

        Each is cropped to its centre, and before that enlarged, its aspect kept, if it is smaller.
        Damaged ones are passed over, counted and named. Every batch but the last is full.

        Parameters
        ----------
        keys : sequence of int
            The pictures, in the order to read them in.
        batch_size : int
            Pictures a batch.
        image_shape : tuple of int
            (3, H, W).

        Yields
        ------
        Batch
            Pictures, labels and keys, in arrays of their own.

        Raises
        ------
        ScriptError
            No picture can be read, or the file is damaged.
        """
        batches = self._read_batches(keys, batch_size, image_shape)
        with ThreadPoolExecutor(1) as thread:
            ahead = thread.submit(next, batches, None)
            while batch := ahead.result():
                ahead = thread.submit(next, batches, None)
                yield batch

    def _read_batches(self, keys, batch_size, image_shape):
        damaged = []
        try:
            with open(self.rec, "rb") as file:
                crops = self._read_crops(file, keys, image_shape, damaged)
                while chunk := list(islice(crops, batch_size)):
                    images, labels, served = zip(*chunk)
                    labels, served = np.array(labels, np.int32), np.array(served, np.int64)
                    yield Batch(np.stack(images), labels, served)
        finally:
            _report(damaged, self.rec)
        if len(damaged) == len(keys):
            raise ScriptError(f"no picture of {self.rec} can be read: choose another file")

    def _read_crops(self, file, keys, image_shape, damaged):
        """Yield picture, label and key of each record; name the damaged ones in a list."""
        for key in keys:
            label, picture = _unpack(_read_record(file, self._offsets[key]))
            if picture is None:
                damaged.append(f"record {key}")
            else:
                yield _crop_centre(picture, *image_shape[1:]), label, key


def peek(batches, count):
    """Look at the first pictures without taking them.

    Parameters
    ----------
    batches : generator of Batch
        Batches; go on with the one that is returned.
    count : int
        Pictures to look at.

    Returns
    -------
    images : numpy.ndarray
        (n, 3, H, W) uint8, n being `count`, or less if there are fewer.
    batches : generator of Batch
        All of them.
    """
    seen, left = [], count
    while left > 0 and (batch := next(batches, None)):
        seen.append(batch)
        left -= len(batch.images)
    return np.concatenate([batch.images for batch in seen])[:count], _go_on(seen, batches)


def _go_on(seen, batches):
    yield from seen
    yield from batches


def thumbnails(images, side=64):
    """Shrink pictures to thumbnails.

    Parameters
    ----------
    images : numpy.ndarray
        (N, 3, H, W) uint8.
    side : int
        Height and width of a thumbnail, in pixels.

    Returns
    -------
    numpy.ndarray
        (N, 3, side, side) uint8.
    """
    small = np.empty((*images.shape[:2], side, side), np.uint8)
    for index in np.ndindex(images.shape[:2]):
        cv2.resize(images[index], (side, side), dst=small[index], interpolation=cv2.INTER_AREA)
    return small


def _crop_centre(picture, height, width):
    """Crop (rows, columns, 3) BGR to its centre, enlarged if need be: (3, height, width) RGB."""
    rows, columns, _ = picture.shape
    scale = max(1, height / rows, width / columns)
    # Only what will be seen is enlarged: the whole of a narrow strip could fill the memory.
    crop_rows, crop_columns = max(1, round(height / scale)), max(1, round(width / scale))
    top, left = (rows - crop_rows) // 2, (columns - crop_columns) // 2
    crop = picture[top : top + crop_rows, left : left + crop_columns]
    if scale > 1:
        crop = cv2.resize(crop, (width, height))
    return np.ascontiguousarray(crop[:, :, ::-1].transpose(2, 0, 1))


def _unpack(record):
    """Split a record into its label, the first if it has several, and its picture, or None."""
    try:
        header, content = mx.recordio.unpack(record)
    except (struct.error, ValueError):
        return 0, None
    label = np.ravel(header.label)[0]
    return (int(label), _decode(content)) if abs(label) < 2**31 else (0, None)


def _read_record(file, offset):
    return struct.pack("<I", MAGIC).join(
        os.pread(file.fileno(), length, start) for start, length, _ in _parts(file, offset)
    )


def _parts(file, offset):
    """Yield start, length and padded end of each part of the record at `offset`."""
    size = os.fstat(file.fileno()).st_size
    flag = None
    while flag not in (WHOLE, LAST):
        header = os.pread(file.fileno(), PART_HEADER.size, offset).ljust(PART_HEADER.size, b"\0")
        magic, word = PART_HEADER.unpack(header)
        flag, length = word >> LENGTH_BITS, word % 2**LENGTH_BITS
        start = offset + PART_HEADER.size
        end = start + length + -length % 4
        if magic != MAGIC or end > size:
            raise ScriptError(
                f"{file.name} is truncated or no RecordIO file: there is no whole record at byte "
                f"{offset} of {size}; copy it again, with its .idx if it has one"
            )
        yield start, length, end
        offset = end


def _read_index(file, data_dir):
    """Return where in a file each record starts, (N,) int64."""
    rec, stat = Path(file.name), os.fstat(file.fileno())
    index = rec.with_suffix(".idx")
    if not index.exists():
        digest = _digest([str(rec), stat.st_size, stat.st_mtime_ns])
        index = Path(data_dir, f"{_printable(rec.stem)}-{digest}.idx")
    if not index.exists():
        make_folder(data_dir)
        with written_whole([index]) as (draft,):
            draft.write_text("".join(f"{key}\t{start}\n" for key, start in enumerate(_scan(file))))
    try:
        lines = index.read_text().splitlines()
        starts = np.array([int(line.split("\t")[1]) for line in lines], np.int64)
        if starts.min() < 0:
            raise ValueError
    except (ValueError, IndexError, OverflowError) as error:
        raise ScriptError(f"{index} is not an index: delete it, and one is made") from error
    # A truncated file lacks the last record: better to know before the work than in its middle.
    list(_parts(file, starts.max()))
    return starts


def _scan(file):
    """Read a file through, and yield where each record starts."""
    start, size = 0, os.fstat(file.fileno()).st_size
    while True:
        *_, (_, _, end) = _parts(file, start)
        yield start
        if end == size:
            return
        start = end


def _report(damaged, source):
    """Count and name the pictures that cannot be read, if there are any."""
    if damaged:
        named = ", ".join(damaged[:3]) + (", ..." if len(damaged) > 3 else "")
        notice(f"unreadable pictures left out of {source}: {len(damaged)} ({named})")


def _digest(content):
    """Return 12 hexadecimal digits that differ when what they are made from does."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def _printable(name):
    """Replace what of a file name is no UTF-8, and can be neither written nor passed to MXNet."""
    return os.fsencode(name).decode(errors="replace")
