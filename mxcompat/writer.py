"""MXBoard's SummaryWriter, mended; it takes the place of MXBoard's own."""

import math
import numbers
import warnings
from pathlib import Path

import mxboard.writer
import numpy as np
from mxboard.summary import _clean_tag, _compute_curve
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.plugins.pr_curve.metadata import create_summary_metadata
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.util.tensor_util import make_tensor_proto

from .events import EventFileWriter
from .files import printable
from .images import JPEG_SIDE, LARGEST_PNG, PNG_SIDE, encode, make_grid, to_pixels
from .projector import save_embedding, to_table

LARGEST_STRIP = 256  # pictures: more of them are a square grid


def _scalar_summary(tag, value):
    return Summary(value=[Summary.Value(tag=_clean_tag(tag), simple_value=value)])


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
        values = np.asarray(values).ravel()
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
        weights = 1.0 if weights is None else np.asarray(weights)
        labels, predictions = np.asarray(labels), np.asarray(predictions)
        curve = _compute_curve(labels, predictions, num_thresholds, weights)
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
            (H, W), (C, H, W) or (N, C, H, W), C being 1 (gray) or 3 (RGB): uint8, or floats in
            [0, 1].
        global_step : int, optional
            Step to show it at.

        Raises
        ------
        ValueError
            It has another shape or dtype, values out of range, no pixels, or more of them on a side
            than a PNG can have, which is 1,000,000.
        """
        batch = to_pixels(tag, image)
        columns = 8 if len(batch) <= LARGEST_STRIP else math.isqrt(len(batch) - 1) + 1
        pixels = make_grid(batch, columns)
        height, width, channels = pixels.shape
        if max(height, width) > PNG_SIDE:
            raise ValueError(f"image {tag}: {height} x {width} is more than a PNG holds")
        lossy = pixels.nbytes > LARGEST_PNG and max(height, width) <= JPEG_SIDE
        encoded = encode(pixels, ".jpg" if lossy else ".png")
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
        vectors = np.ascontiguousarray(embedding, "<f4")
        if vectors.ndim != 2 or not vectors.size:
            raise ValueError(f"embedding {tag}: {vectors.shape} is no shape of rows and columns")
        if not Path(tag).parts or Path(tag).is_absolute() or ".." in Path(tag).parts:
            raise ValueError(f"embedding {tag!r}: its files would not lie in a folder of the log")
        name = tag if global_step is None else f"{tag}_{str(global_step).zfill(6)}"
        table = None if labels is None else to_table(tag, labels, len(vectors))
        pixels = None
        if images is not None:
            if np.ndim(images) != 4 or len(images) != len(vectors):
                shape = np.shape(images)
                raise ValueError(
                    f"embedding {tag}: images of shape {shape} for {len(vectors)} vectors"
                )
            pixels = to_pixels(tag, images)
        save_embedding(self.get_logdir(), name, vectors, table, pixels)

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


def _to_float(tag, value):
    if isinstance(value, numbers.Real):
        return float(value)
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        raise ValueError(f"scalar {tag}: expected one number, not {value!r}")
    return float(array.item())


mxboard.SummaryWriter = mxboard.writer.SummaryWriter = SummaryWriter
mxboard.writer.EventFileWriter = EventFileWriter
# MXBoard's own calls float() on an array of one element, which NumPy 2 refuses.
mxboard.writer.scalar_summary = _scalar_summary
