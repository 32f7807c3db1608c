"""MXBoard's SummaryWriter, mended: nothing waits to be written, and so nothing is lost."""

import errno
import io
import itertools
import math
import numbers
import os
import re
import socket
import threading
import time
import warnings
from pathlib import Path

import cv2
import google_crc32c
import mxboard.writer
import numpy as np
from google.protobuf import text_format
from mxboard.summary import _clean_tag, _compute_curve
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow
from tensorboard.plugins.pr_curve.metadata import create_summary_metadata
from tensorboard.plugins.projector.metadata import PROJECTOR_FILENAME
from tensorboard.plugins.projector.projector_config_pb2 import EmbeddingInfo, ProjectorConfig
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

from .files import atomic_write, printable, read_file

# A picture of more pixel bytes than this is logged as JPEG: a PNG of photographs weighs nearly as
# much as their pixels, and TensorBoard would have to send it to the browser.
LARGEST_PNG = 16 * 2**20
SMALL_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
JPEG_QUALITY = 90
LARGEST_STRIP = 256  # pictures: more of them are a square grid
JPEG_SIDE, PNG_SIDE = 65_500, 1_000_000  # pixels; libjpeg and libpng refuse more
SPRITE_SIDE = 8192  # pixels; the projector refuses a larger sheet
ROWS = (list, tuple, np.ndarray)  # what a row of a table of labels may be

# TensorBoard's own checksum is a Python loop over every byte.
pywrap_tensorflow.crc32c = google_crc32c.value


class _EventFile(io.FileIO):
    """Writes a record at once and whole, or not at all: half of one would hide all that follow."""

    def write(self, record):
        start, rest = self.tell(), memoryview(record)
        try:
            while rest:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.truncate(start)
            self.seek(start)
            error.filename = self.name
            raise


class EventFileWriter:
    """Writes events as MXBoard's own writer does, but at once.

    MXBoard's hands them to a thread, which may die or be killed with events that wait. This one
    names its file by process and writer, so that no two share one.

    Parameters
    ----------
    logdir : str
        Folder of the event file; made if it is missing.
    max_queue : int
        Ignored, for no event waits; kept for compatibility with MXBoard.
    flush_secs : float
        Ignored; kept for compatibility with MXBoard.
    filename_suffix : str, optional
        What to end the file's name with.
    verbose : bool
        Ignored; kept for compatibility with MXBoard.

    Raises
    ------
    OSError
        An event cannot be written; those before it are. It has the file's name.
    ValueError
        An event is added after `close`.
    RuntimeError
        An event is added by a forked process: let that open a writer of its own.
    """

    _numbers = itertools.count()

    def __init__(self, logdir, max_queue=10, flush_secs=120, filename_suffix=None, verbose=False):
        self._logdir, self._suffix = logdir, filename_suffix or ""
        self._lock = threading.Lock()
        self._open()

    def _open(self):
        os.makedirs(self._logdir, exist_ok=True)
        self._process = os.getpid()
        unique = f"{socket.gethostname()}.{self._process}.{next(self._numbers)}{self._suffix}"
        name = f"events.out.tfevents.{int(time.time()):010}.{unique}"
        self._file = _EventFile(os.path.join(self._logdir, name), "x")
        self._records = RecordWriter(self._file)
        self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def get_logdir(self):
        """Return the folder of the event file."""
        return self._logdir

    def add_event(self, event):
        """Write an event."""
        if os.getpid() != self._process:
            raise RuntimeError(
                f"{self._file.name} was opened by process {self._process}, and this is process "
                f"{os.getpid()}: open a SummaryWriter of its own in each"
            )
        with self._lock:
            if self._file.closed:
                raise ValueError(f"{self._file.name} is closed: reopen() goes on in a new file")
            self._records.write(event.SerializeToString())

    def flush(self):
        """Do nothing, for no event waits."""

    def close(self):
        """End the file."""
        self._file.close()

    def reopen(self):
        """Go on in a new file of the same folder, once closed."""
        if self._file.closed:
            self._open()


def _scalar_summary(tag, value):
    return Summary(value=[Summary.Value(tag=_clean_tag(tag), simple_value=value)])


mxboard.writer.EventFileWriter = EventFileWriter
# MXBoard's own calls float() on an array of one element, which NumPy 2 refuses.
mxboard.writer.scalar_summary = _scalar_summary


class SummaryWriter(mxboard.SummaryWriter):
    """MXBoard's SummaryWriter (https://github.com/awslabs/mxboard), mended.

    Parameters
    ----------
    logdir : str
        Folder to open with ``tensorboard --logdir``; made if it is missing.
    max_queue : int
        Ignored, for events are written at once; kept for compatibility with MXBoard.
    flush_secs : float
        Ignored; kept for compatibility with MXBoard.
    filename_suffix : str, optional
        What to end the event file's name with.
    verbose : bool
        Whether MXBoard says which files it writes.

    Raises
    ------
    OSError
        The log cannot be written; what was logged before is there.
    """

    def __init__(self, logdir, max_queue=10, flush_secs=120, filename_suffix=None, verbose=False):
        super().__init__(logdir, max_queue, flush_secs, filename_suffix, verbose)

    def add_scalar(self, tag, value, global_step=None):
        """Log a number, or several of one step as curves of one plot.

        Parameters
        ----------
        tag : str
            Name of the plot.
        value : number, numpy.ndarray, mxnet.nd.NDArray, tuple, list or dict
            A number, or an array of one element. A (name, value) pair, or a dict of names to
            values, draws a curve for each name; each has a log of its own in the folder
            ``TAG/NAME``.
        global_step : int, optional
            Step to show it at.

        Raises
        ------
        ValueError
            It is none of these.
        """
        if isinstance(value, (tuple, list)):
            if len(value) != 2 or not isinstance(value[0], str):
                raise ValueError(f"scalar {tag}: a pair is a name and a value, not {value!r}")
            value = dict([value])
        if isinstance(value, dict):
            value = {name: _to_float(tag, number) for name, number in value.items()}
        else:
            value = _to_float(tag, value)
        super().add_scalar(tag, value, global_step)

    def add_histogram(self, tag, values, global_step=None, bins="default"):
        """Log how values are distributed.

        Parameters
        ----------
        tag : str
            Name of the histogram.
        values : mxnet.nd.NDArray or numpy.ndarray
            Numbers, of any shape. NaN and infinity are left out, with a warning that counts them.
        global_step : int, optional
            Step to show it at.
        bins : int, str or sequence of float
            How many bins of equal width; or their edges; or one of the rules of
            `numpy.histogram_bin_edges`; or "default", TensorFlow's own 1,549 edges.

        Raises
        ------
        ValueError
            There is no finite value.
        """
        values = _to_numpy(values).ravel()
        if isinstance(bins, str) and bins == "default":
            bins = self._get_default_bins()
        # Where the edges are given, single precision is as exact, and sorted in half the time.
        if not np.ndim(bins) or values.dtype != np.float32:
            values = values.astype(float)
        finite = np.isfinite(values)
        if not finite.any():
            raise ValueError(f"histogram {tag}: none of its {values.size} values is finite")
        if not finite.all():
            values, count = values[finite], np.count_nonzero(~finite)
            warnings.warn(f"histogram {tag}: {count} NaN or infinite values left out", stacklevel=2)
        counts, edges = np.histogram(values, bins)
        histogram = HistogramProto(
            min=values.min(),
            max=values.max(),
            num=values.size,
            sum=values.sum(dtype=float),
            sum_squares=np.square(values, dtype=float).sum(),
            bucket_limit=edges[1:].tolist(),
            bucket=counts.tolist(),
        )
        value = Summary.Value(tag=_clean_tag(tag), histo=histogram)
        self._file_writer.add_summary(Summary(value=[value]), global_step)

    def add_pr_curve(
        self, tag, labels, predictions, num_thresholds, global_step=None, weights=None
    ):
        """Log a precision-recall curve.

        Parameters
        ----------
        tag : str
            Name of the curve.
        labels : mxnet.nd.NDArray or numpy.ndarray
            What is true, 0 or 1, of any shape.
        predictions : mxnet.nd.NDArray or numpy.ndarray
            How probable it was said to be, in [0, 1], of the same shape.
        num_thresholds : int
            Points of the curve, 2 or more: thresholds evenly spaced in [0, 1].
        global_step : int, optional
            Step to show it at.
        weights : mxnet.nd.NDArray or numpy.ndarray, optional
            How much each counts; a shape that broadcasts to that of the labels.

        Raises
        ------
        ValueError
            There are fewer than 2 thresholds.
        """
        if num_thresholds < 2:
            raise ValueError(f"curve {tag}: {num_thresholds} thresholds are fewer than 2")
        weights = 1.0 if weights is None else _to_numpy(weights)
        curve = _compute_curve(_to_numpy(labels), _to_numpy(predictions), num_thresholds, weights)
        # MXBoard makes a list of the metadata, where the message takes one.
        metadata = create_summary_metadata(tag, "", num_thresholds)
        tensor = make_tensor_proto(curve.astype(np.float32))
        value = Summary.Value(tag=_clean_tag(tag), metadata=metadata, tensor=tensor)
        self._file_writer.add_summary(Summary(value=[value]), global_step)

    def add_image(self, tag, image, global_step=None):
        """Log a picture, or a batch of them as a grid with 2 black pixels between them.

        Up to 256 pictures stand 8 a row, more of them in a square. They are kept exactly, as PNG,
        up to 16 MiB of pixels (H x W x C), and as JPEG beyond.

        Parameters
        ----------
        tag : str
            Name of the picture.
        image : mxnet.nd.NDArray or numpy.ndarray
            (H, W), (C, H, W) or (N, C, H, W), C being 1 (grey) or 3 (RGB): uint8, or floats in
            [0, 1].
        global_step : int, optional
            Step to show it at.

        Raises
        ------
        ValueError
            It has another shape or dtype, values out of range, no pixels, or more of them on a side
            than a PNG can have, which is 1,000,000.
        """
        batch = _to_pixels(tag, image)
        columns = 8 if len(batch) <= LARGEST_STRIP else math.isqrt(len(batch) - 1) + 1
        pixels = _make_grid(batch, columns)
        height, width, channels = pixels.shape
        if max(height, width) > PNG_SIDE:
            raise ValueError(f"image {tag}: {height} x {width} is more than a PNG holds")
        lossy = pixels.nbytes > LARGEST_PNG and max(height, width) <= JPEG_SIDE
        encoded = _encode(pixels, ".jpg" if lossy else ".png")
        picture = Summary.Image(
            height=height, width=width, colorspace=channels, encoded_image_string=encoded
        )
        self._file_writer.add_summary(
            Summary(value=[Summary.Value(tag=printable(tag), image=picture)]), global_step
        )

    def add_embedding(self, tag, embedding, labels=None, images=None, global_step=None):
        """Log vectors for TensorBoard's projector, each with a label and a picture.

        Unlike MXBoard's, the vectors are written as raw float32 and the pictures as JPEG, and a tag
        that is logged again replaces what it held. A TensorBoard that is already running shows the
        new vectors after a restart.

        Parameters
        ----------
        tag : str
            Name of the embedding, and of the folder in the log that its files go to; with a
            `global_step` of 12, ``TAG_000012``.
        embedding : mxnet.nd.NDArray or numpy.ndarray
            (N, D), numbers, a vector a row.
        labels : mxnet.nd.NDArray or numpy.ndarray or sequence, optional
            N labels, anything that ``str`` takes; or rows of a table, (N + 1, C), the first of
            which names the columns. White space in a label, tabs and line ends included, becomes a
            space each; an empty one becomes a dash.
        images : mxnet.nd.NDArray or numpy.ndarray, optional
            (N, C, H, W), as for `add_image`. They are shrunk where all of them together would be
            larger than the 8192 x 8192 pixels that the projector takes.
        global_step : int, optional
            Step, as part of the embedding's name.

        Raises
        ------
        ValueError
            The embedding is no matrix or an empty one, the labels or images do not fit it, or the
            tag leads out of the log.
        OSError
            The files cannot be written, in which case those of an earlier call stay as they were;
            or the log's ``projector_config.pbtxt``, which lists the embeddings, is damaged.

        References
        ----------
        TensorBoard, plugins/projector/projector_plugin.py, for what it reads;
        https://www.tensorflow.org/tensorboard/tensorboard_projector_plugin for the table of labels.
        """
        vectors = np.ascontiguousarray(_to_numpy(embedding), "<f4")
        if vectors.ndim != 2 or not vectors.size:
            raise ValueError(f"embedding {tag}: {vectors.shape} is no shape of rows and columns")
        if not Path(tag).parts or Path(tag).is_absolute() or ".." in Path(tag).parts:
            raise ValueError(f"embedding {tag!r}: its files would not lie in a folder of the log")
        name = tag if global_step is None else f"{tag}_{str(global_step).zfill(6)}"
        entry = EmbeddingInfo(tensor_name=name, tensor_shape=vectors.shape)

        file_name, content = _encode_vectors(vectors)
        entry.tensor_path = f"{name}/{file_name}"
        files = {entry.tensor_path: content}
        if labels is not None:
            entry.metadata_path = f"{name}/metadata.tsv"
            files[entry.metadata_path] = _encode_labels(_to_table(tag, labels, len(vectors)))
        if images is not None:
            if images.ndim != 4 or len(images) != len(vectors):
                raise ValueError(
                    f"embedding {tag}: images of shape {images.shape} for {len(vectors)} vectors"
                )
            sprites, columns = _fit_sprites(_to_pixels(tag, images))
            height, width = sprites.shape[2:]
            sheet = _make_grid(sprites, columns, rows=columns, padding=0)
            entry.sprite.image_path = f"{name}/sprite.jpg"
            entry.sprite.single_image_dim.extend([width, height])
            files[entry.sprite.image_path] = _encode(sheet, ".jpg")

        logdir = Path(self.get_logdir())
        # The list is last, so that the projector never hears of files that are not there yet.
        with atomic_write([logdir / path for path in (*files, PROJECTOR_FILENAME)]) as temporary:
            files[PROJECTOR_FILENAME] = _list_embedding(entry, logdir / PROJECTOR_FILENAME)
            (logdir / name).mkdir(parents=True, exist_ok=True)
            for path, content in zip(temporary, files.values()):
                path.write_bytes(content)

    def add_text(self, tag, text, global_step=None):
        """Log a text, which TensorBoard shows as Markdown.

        Parameters
        ----------
        tag : str
            Name of the text.
        text : str
            The text.
        global_step : int, optional
            Step to show it at.
        """
        self._file_writer.add_summary(text_pb(printable(tag), printable(text)), global_step)


def _to_numpy(array):
    return array if isinstance(array, np.ndarray) else array.asnumpy()


def _to_pixels(tag, image):
    """Convert any picture that `add_image` takes to a (N, 1 or 3, H, W) uint8 batch."""
    image = _to_numpy(image)
    if image.ndim not in (2, 3, 4) or not image.size:
        raise ValueError(f"image {tag}: {image.shape} is no shape of a picture")
    batch = image.reshape((1,) * (4 - image.ndim) + image.shape)
    if batch.shape[1] not in (1, 3):
        raise ValueError(f"image {tag}: a picture has 1 or 3 channels, not {batch.shape[1]}")
    if batch.dtype != np.uint8:
        if not (batch.min() >= 0 and batch.max() <= 1):
            raise ValueError(f"image {tag}: the values of floats lie between 0 and 1")
        batch = np.rint(batch * 255).astype(np.uint8)
    return batch


def _make_grid(batch, columns, rows=1, padding=2):
    """Lay out a (N, C, H, W) RGB batch row by row, in `rows` or more; return (H', W', C) BGR.

    One picture stays as it is.
    """
    batch = batch[:, ::-1].transpose(0, 2, 3, 1)
    count, height, width, channels = batch.shape
    if count == 1:
        return np.ascontiguousarray(batch[0])
    columns = min(columns, count)
    rows = max(rows, math.ceil(count / columns))
    cell_height, cell_width = height + padding, width + padding
    sheet = np.zeros((rows * cell_height + padding, columns * cell_width + padding, channels), "u1")
    # The pictures' places in the sheet: written to directly, for a large sheet fills the memory.
    down, right, deeper = sheet.strides
    places = np.lib.stride_tricks.as_strided(
        sheet[padding:, padding:],
        (rows, columns, height, width, channels),
        (down * cell_height, right * cell_width, down, right, deeper),
    )
    full = count // columns
    places[:full] = batch[: full * columns].reshape(full, columns, *batch.shape[1:])
    places[full : full + 1, : count % columns] = batch[full * columns :]
    return sheet


def _encode(pixels, extension):
    """Encode a (H, W, 1) grey or (H, W, 3) BGR picture as ".png" or ".jpg"."""
    if extension == ".jpg":
        # Colours at half the resolution would run from each picture of a sheet into the next.
        full_colour = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
        options = (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *full_colour)
    else:
        # OpenCV's own options are the quickest, and good for photographs; what is flatter gets
        # half as large with others. A strip of the picture tells which it is.
        strip = pixels[: max(1, len(pixels) // 16)]
        quick, small = (len(cv2.imencode(".png", strip, each)[1]) for each in ((), SMALL_PNG))
        options = SMALL_PNG if quick > 1.15 * small else ()
    return cv2.imencode(extension, pixels, options)[1].tobytes()


def _fit_sprites(batch):
    """Shrink a (N, C, H, W) batch to fit the largest sprite sheet; return also its columns."""
    count, channels, height, width = batch.shape
    columns = math.isqrt(count - 1) + 1
    room, longer = SPRITE_SIDE // columns, max(height, width)
    if longer > room:
        size = max(1, width * room // longer), max(1, height * room // longer)
        planes = batch.reshape(-1, height, width)
        small = [cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in planes]
        batch = np.stack(small).reshape(count, channels, *size[::-1])
    return batch, columns


def _to_float(tag, value):
    if isinstance(value, numbers.Real):
        return float(value)
    array = np.asarray(value.asnumpy() if hasattr(value, "asnumpy") else value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise ValueError(f"scalar {tag}: expected one number, not {value!r}")
    return float(array.item())


def _to_table(tag, labels, count):
    """Return labels as rows of the projector's table, its header first if it has one."""
    labels = list(labels.asnumpy() if hasattr(labels, "asnumpy") else labels)
    is_table = any(isinstance(label, ROWS) for label in labels)
    rows = [list(label) if isinstance(label, ROWS) else [label] for label in labels]
    columns = {len(row) for row in rows}
    has_header = is_table and len(rows) == count + 1
    if not (
        (has_header and len(columns) == 1 or len(rows) == count and columns == {1})
        and all(row and not isinstance(row[0], ROWS) for row in rows)
    ):
        raise ValueError(
            f"embedding {tag}: labels are {count}, or {count + 1} rows of a table whose first "
            f"names the columns, not {len(rows)} of {sorted(columns)}"
        )
    # One column has no header: the projector would take it for the first label.
    return rows[1:] if has_header and columns == {1} else rows


def _encode_vectors(vectors):
    """Encode (N, D) little-endian float32 for TensorBoard; return a file name and the content.

    Raw, unless that would pass for text: TensorBoard takes a file for text if its first line is
    UTF-8, as that of all-zero vectors is.
    """
    raw = vectors.tobytes()
    first_line = re.match(rb"[\r\n]*([^\r\n]*)", raw)[1]
    try:
        first_line.decode()
    except UnicodeDecodeError:
        return "tensors.bytes", raw
    lines = ("\t".join(map(str, vector)) + "\n" for vector in vectors.tolist())
    return "tensors.tsv", "".join(lines).encode()


def _encode_labels(table):
    """Encode rows of labels, a line each, tabs between them."""
    # The projector skips empty lines, so that every label after one would move up.
    lines = ("\t".join(" ".join(str(cell).split()) or "-" for cell in row) for row in table)
    # A name that comes from the file system may hold bytes that are no text.
    return "".join(f"{line}\n" for line in lines).encode(errors="replace")


def _list_embedding(entry, path):
    """Return a log's list of embeddings, read from `path`, with this entry in it once."""
    config = ProjectorConfig()
    if path.exists():
        try:
            text_format.Parse(read_file(path), config)
        except (text_format.ParseError, UnicodeDecodeError) as error:
            message = "not a list of embeddings that TensorBoard could read: delete it"
            raise OSError(errno.EINVAL, message, str(path)) from error
    others = [other for other in config.embeddings if other.tensor_name != entry.tensor_name]
    config.ClearField("embeddings")
    config.embeddings.extend([*others, entry])
    return text_format.MessageToString(config).encode()
