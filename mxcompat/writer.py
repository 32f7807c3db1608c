"""SummaryWriter, which takes the place of MXBoard's own."""

import io
import json
import math
import numbers
import operator
import os
import time
import warnings
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, SupportsIndex, Union

import mxboard
import mxboard.writer
import numpy as np
from google.protobuf.struct_pb2 import Value
from mxboard.summary import _compute_curve
from numpy.typing import ArrayLike
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.pr_curve.metadata import create_summary_metadata
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.util.tensor_util import make_tensor_proto

from .events import EventFileWriter
from .files import atomic_write, printable
from .graph import get_symbol, to_graph
from .images import JPEG_SIDE, LARGEST_PNG, PNG_SIDE, encode, make_grid, to_pixels
from .projector import save_embedding, to_table

Step = Optional[SupportsIndex]  # an integer of any type

LARGEST_STRIP = 256  # pictures: more of them are a square grid
# TensorFlow's own: zero, and on both sides of it powers of 1.1 from 1e-12 to 1e20.
_POSITIVE_EDGES = np.multiply.accumulate([1e-12, *[1.1] * 773])
DEFAULT_EDGES = np.concatenate([-_POSITIVE_EDGES[::-1], [0], _POSITIVE_EDGES])


class SummaryWriter:
    """Logs what TensorBoard shows, by the calls of MXBoard (https://github.com/awslabs/mxboard).

    A tag is kept as it is written, and what stands before its first slash is the group in which
    TensorBoard shows it. It may begin with a slash or be empty: that group has no name. Use a tag
    for one kind of thing only, or TensorBoard shows neither: mixing two is a `UserWarning`, once.

    An array is an `mxnet.nd.NDArray`, a `numpy.ndarray`, or a list or tuple of numbers or arrays.

    Parameters
    ----------
    logdir : str or os.PathLike
        Folder to open with ``tensorboard --logdir``; made if it is missing.
    max_queue, flush_secs, verbose
        Ignored, for events are written at once; kept for compatibility with MXBoard.
    filename_suffix : str, optional
        What to end the names of event files with.

    Raises
    ------
    TypeError
        By every method: a tag is no str, or a step is no integer.
    OSError
        By every method: the log cannot be written; what was logged before is there.

    Examples
    --------
    >>> with SummaryWriter("logs") as sw:
    ...     sw.add_scalar("loss", 0.5, global_step=3)
    """

    def __init__(
        self,
        logdir: Union[str, os.PathLike],
        max_queue: int = 10,
        flush_secs: float = 120,
        filename_suffix: Optional[str] = None,
        verbose: bool = False,
    ) -> None:
        self._logdir, self._suffix = os.fspath(logdir), filename_suffix or ""
        self._files = {}  # by folder in the log: its own, "", and one for each named curve
        self._kinds = {}  # what has been logged, by folder and tag
        self._scalars = {}
        self._hparams = None  # those of this log, and the names of its metrics
        self._open("")

    def __enter__(self) -> "SummaryWriter":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def get_logdir(self) -> str:
        """Return the folder of the log: ``sw.get_logdir()``."""
        return self._logdir

    def flush(self) -> None:
        """Do nothing, for events are written at once: ``sw.flush()``."""

    def close(self) -> None:
        """End the log: ``sw.close()``. What is added after that is a `ValueError`."""
        for file in self._files.values():
            file.close()

    def reopen(self) -> None:
        """Go on in new files of the same log, once closed: ``sw.reopen()``."""
        for file in self._files.values():
            file.reopen()

    def add_scalar(
        self, tag: str, value: Union[ArrayLike, Mapping[str, ArrayLike]], global_step: Step = None
    ) -> None:
        """Log a number, or several of one step as curves of one plot.

        Parameters
        ----------
        tag : str
            Name of the plot.
        value : number, array, tuple, list or dict
            A number, or an array of one element. A (name, value) pair, or a dict of names to
            values, draws a curve for each name; each has a log of its own in the folder
            ``TAG/NAME``.
        global_step : int, optional
            Step to show it at.

        Raises
        ------
        ValueError
            It is none of these, or a name leads out of the log.

        Examples
        --------
        >>> sw.add_scalar("accuracy", {"train": 0.9, "valid": 0.8}, global_step=3)
        """
        if isinstance(value, (tuple, list)) and len(value) == 2 and isinstance(value[0], str):
            value = dict([value])
        if isinstance(value, Mapping):
            points = {_check_folder(f"{tag}/{name}"): value[name] for name in value}
        else:
            points = {"": value}
        points = {folder: _to_float(tag, number) for folder, number in points.items()}
        step = _to_step(global_step)
        for folder, number in points.items():
            event = self._add("scalar", tag, step, folder, simple_value=number)
            curve = self._scalars.setdefault(f"{self._logdir}/{folder or tag}", [])
            curve.append((event.wall_time, step, number))

    def add_hparams(
        self,
        hparam_dict: Mapping[str, Union[bool, float, str]],
        metric_dict: Mapping[str, ArrayLike],
        global_step: Step = None,
    ) -> None:
        """Log what a run was started with, and what came of it, as a row of TensorBoard's HParams.

        Unlike PyTorch's, the row is that of this log, beside its other curves, and not of a run of
        its own. So there is one per log: call it again with the same hyperparameters for metrics at
        a later step, of which HParams shows the last. All rows have the columns of one of the runs:
        use the same names in all of them.

        Parameters
        ----------
        hparam_dict : dict
            Names of hyperparameters, and their values: finite numbers, strings and booleans.
        metric_dict : dict
            Names of metrics, and their values: numbers, or arrays of one element. Each is logged as
            by `add_scalar`, with its name as the tag.
        global_step : int, optional
            Step to show the metrics at.

        Raises
        ------
        ValueError
            A value is of another kind, or this log has other hyperparameters or metrics already, of
            which TensorBoard shows the first.

        Examples
        --------
        >>> sw.add_hparams({"lr": 0.1, "optimizer": "sgd"}, {"valid_acc": 0.9}, global_step=3)
        """
        hparams = {printable(name): _to_hparam(name, hparam_dict[name]) for name in hparam_dict}
        metrics = {printable(tag): _to_float(tag, metric_dict[tag]) for tag in metric_dict}
        step = _to_step(global_step)
        if self._hparams is None:
            experiment, start = _describe(hparams, metrics)
            for tag, part in (
                (hparams_metadata.EXPERIMENT_TAG, {"experiment": experiment}),
                (hparams_metadata.SESSION_START_INFO_TAG, {"session_start_info": start}),
            ):
                data = plugin_data_pb2.HParamsPluginData(**part)
                metadata = hparams_metadata.create_summary_metadata(data)
                tensor = hparams_metadata.NULL_TENSOR
                self._add("hparams", tag, None, metadata=metadata, tensor=tensor)
            self._hparams = hparams, set(metrics)
        elif self._hparams != (hparams, set(metrics)):
            raise ValueError(
                "hparams: this log has others already, and TensorBoard shows the first of a log: "
                "open a SummaryWriter for each run, in a folder of its own"
            )
        for tag, number in metrics.items():
            self.add_scalar(tag, number, step)

    def export_scalars(self, path: Union[str, os.PathLike]) -> None:
        """Write the scalars that were added to a JSON file, whole or not at all.

        It maps each curve, ``LOGDIR/TAG`` or ``LOGDIR/TAG/NAME``, to its points: lists of seconds
        since 1970, step, and value. JSON has no NaN and no infinity: they are null.

        Parameters
        ----------
        path : str or os.PathLike
            The file, which is replaced if it is there.

        Examples
        --------
        >>> sw.export_scalars("scalars.json")
        """
        curves = {
            curve: [(*when, value if math.isfinite(value) else None) for *when, value in points]
            for curve, points in self._scalars.items()
        }
        with atomic_write([Path(path)]) as (temporary,):
            temporary.write_text(json.dumps(curves))

    def clear_scalar_dict(self) -> None:
        """Forget the scalars for `export_scalars`, not for the log: ``sw.clear_scalar_dict()``."""
        self._scalars.clear()

    def add_histogram(
        self, tag: str, values: ArrayLike, global_step: Step = None, bins: Any = "default"
    ) -> None:
        """Log how values are distributed.

        Parameters
        ----------
        tag : str
            Name of the histogram.
        values : array
            Real numbers, of any shape. NaN, and numbers that are infinite in float32, are left out,
            with a warning that counts them.
        global_step : int, optional
            Step to show it at.
        bins : int, str or sequence of float
            How many bins of equal width; or their edges; or one of the rules of
            `numpy.histogram_bin_edges`; or "default", TensorFlow's own 1,549 edges. Values beyond
            the outermost edges count in the first or last bin. Empty bins at both ends are left
            out; the first of the others begins at the smallest value, the last one ends at the
            largest. Without edges, values that are the same in float32 are one bin of no width.

        Raises
        ------
        ValueError
            There is no finite value, the values are not real numbers, or the bins make no sense.

        Examples
        --------
        >>> sw.add_histogram("gradient", parameter.grad(), global_step=3, bins=1000)
        """
        subject = f"histogram {tag}"
        values = _to_numbers(subject, values).ravel()
        if isinstance(bins, str) and bins == "default":
            bins = DEFAULT_EDGES
        with np.errstate(over="ignore"):
            finite = np.isfinite(values.astype(np.float32, copy=False))  # as TensorBoard reads them
        # Where the edges are given, single precision is as exact, and sorted in half the time.
        if not np.ndim(bins) or values.dtype != np.float32:
            values = values.astype(float)
        if not finite.any():
            raise ValueError(f"{subject}: none of its {values.size} values is finite in float32")
        if not finite.all():
            values, count = values[finite], np.count_nonzero(~finite)
            warnings.warn(f"{subject}: {count} NaN or infinite values left out", stacklevel=2)
        low, high = values.min(), values.max()
        try:
            counts, limits = _count(values, low, high, bins)
        except (MemoryError, TypeError, ValueError) as error:
            raise ValueError(f"{subject}: {error}") from error
        histogram = HistogramProto(
            min=low,
            max=high,
            num=values.size,
            sum=values.sum(dtype=float),
            sum_squares=np.square(values, dtype=float).sum(),
            bucket_limit=limits,
            bucket=counts,
        )
        self._add("histogram", tag, global_step, histo=histogram)

    def add_pr_curve(
        self,
        tag: str,
        labels: ArrayLike,
        predictions: ArrayLike,
        num_thresholds: int,
        global_step: Step = None,
        weights: Optional[ArrayLike] = None,
    ) -> None:
        """Log a precision-recall curve.

        Parameters
        ----------
        tag : str
            Name of the curve.
        labels : array
            What is true, 0 or 1, of any shape.
        predictions : array
            How probable it was said to be, in [0, 1], of the same shape.
        num_thresholds : int
            Points of the curve, 2 or more: thresholds evenly spaced in [0, 1].
        global_step : int, optional
            Step to show it at.
        weights : array, optional
            How much each counts, 0 or more; a shape that broadcasts to that of the labels.

        Raises
        ------
        ValueError
            An argument is not as described above.

        Examples
        --------
        >>> sw.add_pr_curve("is a cat", [0, 1, 1], [0.2, 0.4, 0.9], num_thresholds=100)
        """
        subject = f"curve {tag}"
        if num_thresholds < 2:
            raise ValueError(f"{subject}: {num_thresholds} thresholds are fewer than 2")
        labels, predictions = _to_numbers(subject, labels), _to_numbers(subject, predictions)
        weights = _to_numbers(subject, 1.0 if weights is None else weights)
        if labels.shape != predictions.shape:
            raise ValueError(
                f"{subject}: labels of shape {labels.shape}, but predictions of {predictions.shape}"
            )
        for what, fits in (
            ("labels are not 0 or 1", (labels == 0) | (labels == 1)),
            ("predictions are not in [0, 1]", (predictions >= 0) & (predictions <= 1)),
            ("weights are negative, NaN or infinite", (weights >= 0) & np.isfinite(weights)),
        ):
            if not fits.all():
                count = np.count_nonzero(~fits)
                raise ValueError(f"{subject}: {count} of {fits.size} {what}")
        try:
            weights = np.broadcast_to(weights, labels.shape)
        except ValueError as error:
            shapes = f"{weights.shape} for {labels.shape}"
            raise ValueError(f"{subject}: weights of shape {shapes}") from error
        curve = _compute_curve(labels, predictions, num_thresholds, weights)
        # MXBoard makes a list of the metadata, where the message takes one.
        metadata = create_summary_metadata(printable(tag), "", num_thresholds)
        tensor = make_tensor_proto(curve.astype(np.float32))
        self._add("PR curve", tag, global_step, metadata=metadata, tensor=tensor)

    def add_image(self, tag: str, image: ArrayLike, global_step: Step = None) -> None:
        """Log a picture, or a batch of them as a grid with 2 black pixels between them.

        Up to 256 pictures stand 8 a row, more of them in a square. They are kept exactly, as PNG,
        up to 16 MiB of pixels (H x W x C), and as JPEG beyond.

        Parameters
        ----------
        tag : str
            Name of the picture.
        image : array
            (H, W), (C, H, W) or (N, C, H, W), C being 1 (gray) or 3 (RGB): integers in [0, 255],
            or floats in [0, 1].
        global_step : int, optional
            Step to show it at.

        Raises
        ------
        ValueError
            It has another shape or dtype, values out of range, no pixels, or more of them on a side
            than a PNG can have, which is 1,000,000.

        Examples
        --------
        >>> sw.add_image("digits", images[:64], global_step=3)
        """
        subject = f"image {tag}"
        batch = to_pixels(subject, _to_numbers(subject, image))
        columns = 8 if len(batch) <= LARGEST_STRIP else math.isqrt(len(batch) - 1) + 1
        picture = _encode_image(subject, make_grid(batch, columns))
        self._add("image", tag, global_step, image=picture)

    def add_audio(
        self, tag: str, audio: ArrayLike, sample_rate: int = 44100, global_step: Step = None
    ) -> None:
        """Log a sound, as 16 bits a sample.

        Parameters
        ----------
        tag : str
            Name of the sound.
        audio : array
            (N,), or any shape with a single side longer than 1, is mono; (2, N) is left and right.
            Floats in [-1, 1], beyond which they are clipped, with a warning that counts them; or
            int16.
        sample_rate : int
            Samples a second.
        global_step : int, optional
            Step to show it at.

        Raises
        ------
        ValueError
            It has another shape or dtype, no samples, or NaN among them.

        Examples
        --------
        >>> sw.add_audio("a tone", np.sin(np.arange(44100) / 16), sample_rate=44100)
        """
        subject = f"audio {tag}"
        sound = _to_numbers(subject, audio)
        stereo = sound.ndim == 2 and len(sound) == 2
        if not sound.size or not stereo and max(sound.shape, default=1) != sound.size:
            raise ValueError(f"{subject}: expected samples (N,) or (2, N), not {sound.shape}")
        sound = sound.reshape(2 if stereo else 1, -1)
        if sound.dtype.kind == "f":
            if np.isnan(sound).any():
                raise ValueError(f"{subject}: {np.isnan(sound).sum()} of {sound.size} are NaN")
            clipped = np.count_nonzero(np.abs(sound) > 1)
            if clipped:
                warnings.warn(f"{subject}: {clipped} samples clipped to [-1, 1]", stacklevel=2)
            sound = np.rint(sound.clip(-1, 1).astype(np.float32) * 32767)
        elif sound.dtype != np.int16:
            raise ValueError(f"{subject}: expected floats in [-1, 1] or int16, not {sound.dtype}")
        channels, frames = sound.shape
        content = io.BytesIO()
        with wave.open(content, "wb") as file:
            file.setparams((channels, 2, sample_rate, frames, "NONE", ""))
            file.writeframes(sound.T.astype("<i2").tobytes())
        clip = Summary.Audio(
            sample_rate=sample_rate,
            num_channels=channels,
            length_frames=frames,
            encoded_audio_string=content.getvalue(),
            content_type="audio/wav",
        )
        self._add("audio", tag, global_step, audio=clip)

    def add_text(self, tag: str, text: str, global_step: Step = None) -> None:
        """Log a text, which TensorBoard shows as Markdown.

        Parameters
        ----------
        tag : str
            Name of the text.
        text : str
            The text.
        global_step : int, optional
            Step to show it at.

        Examples
        --------
        >>> sw.add_text("data", "60,000 **handwritten** digits")
        """
        (value,) = text_pb("", printable(text)).value
        self._add("text", tag, global_step, metadata=value.metadata, tensor=value.tensor)

    def add_embedding(
        self,
        tag: str,
        embedding: ArrayLike,
        labels: Optional[ArrayLike] = None,
        images: Optional[ArrayLike] = None,
        global_step: Step = None,
    ) -> None:
        """Log vectors for TensorBoard's projector, each with a label and a picture.

        Unlike MXBoard's, the vectors are written as raw float32 and the pictures as JPEG, and a tag
        that is logged again replaces what it held, but keeps what a user added to its entry in
        ``projector_config.pbtxt``. A TensorBoard that is already running shows the new vectors
        after a restart.

        Parameters
        ----------
        tag : str
            Name of the embedding, and of the folder in the log that its files go to; with a
            `global_step` of 12, ``TAG_000012``.
        embedding : array
            (N, D), finite numbers, a vector a row; N and D are 2 or more.
        labels : array or sequence, optional
            N labels, anything that ``str`` takes; or rows of a table, (N + 1, C), the first of
            which names the columns. White space in a label, tabs and line ends included, becomes a
            space each; an empty one becomes a dash.
        images : array, optional
            (N, C, H, W), as for `add_image`. They are shrunk where all of them together would be
            larger than the 8192 x 8192 pixels that the projector takes.
        global_step : int, optional
            Step, as part of the embedding's name.

        Raises
        ------
        ValueError
            The embedding is not as described above, the labels or images do not fit it, two columns
            of labels have one name, or the tag leads out of the log.
        OSError
            The files cannot be written, in which case those of an earlier call stay as they were;
            or the log's ``projector_config.pbtxt``, which lists the embeddings, is damaged.

        Examples
        --------
        >>> sw.add_embedding("codes", codes, [("name", "class"), *zip(names, classes)])
        """
        subject = f"embedding {tag}"
        vectors = _to_numbers(subject, embedding)
        if vectors.ndim != 2 or min(vectors.shape) < 2:
            raise ValueError(
                f"{subject}: the projector needs 2 or more vectors of 2 or more numbers, and "
                f"{vectors.shape} is the shape of these"
            )
        with np.errstate(over="ignore"):
            vectors = np.ascontiguousarray(vectors, "<f4")
        lost = np.count_nonzero(~np.isfinite(vectors).all(axis=1))
        if lost:
            raise ValueError(
                f"{subject}: {lost} of {len(vectors)} vectors hold NaN or infinity, with which the "
                "projector shows none"
            )
        name = _check_folder(printable(tag))
        if global_step is not None:
            name += f"_{_to_step(global_step):06}"
        table = None if labels is None else to_table(subject, labels, len(vectors))
        pixels = None
        if images is not None:
            images = _to_numbers(subject, images)
            if images.ndim != 4 or len(images) != len(vectors):
                raise ValueError(
                    f"{subject}: images of shape {images.shape} for {len(vectors)} vectors"
                )
            pixels = to_pixels(subject, images)
        save_embedding(self._logdir, name, vectors, table, pixels)

    def add_graph(
        self, net: Any, input_shapes: Optional[Mapping[str, Sequence[int]]] = None
    ) -> None:
        """Log a network as a graph; TensorBoard shows the last one of a log.

        Parameters
        ----------
        net : mxnet.sym.Symbol or mxnet.gluon.HybridBlock
            A block must be hybridized, and have run once since.
        input_shapes : dict, optional
            Shapes of the network's inputs by their names; a block's only input is ``data``. From
            these MXNet infers the shapes that edges carry; those that it cannot are left out.

        Raises
        ------
        RuntimeError
            The block has not been hybridized, or has not run since.
        TypeError
            It is neither a symbol nor a block that can be hybridized.
        ValueError
            The network has no input of such a name.

        Examples
        --------
        >>> sw.add_graph(net, {"data": (1, 3, 224, 224)})
        """
        graph = to_graph(get_symbol(net), input_shapes).SerializeToString()
        self._open("").add_event(Event(wall_time=time.time(), graph_def=graph))

    def _open(self, folder):
        if folder not in self._files:
            self._files[folder] = EventFileWriter(str(Path(self._logdir, folder)), self._suffix)
        return self._files[folder]

    def _add(self, kind, tag, step, folder="", **value):
        """Write and return an event; the tags and steps of all methods are checked here."""
        event = Event(wall_time=time.time(), step=_to_step(step))
        event.summary.value.add(tag=printable(tag), **value)
        kinds = self._kinds.setdefault((folder, tag), [kind])
        if kind not in kinds:
            warnings.warn(
                f"tag {tag!r} is of two kinds, {kinds[0]} and {kind}, and TensorBoard will show "
                "neither: give each a tag of its own",
                stacklevel=3,
            )
            kinds.append(kind)
        self._open(folder).add_event(event)
        return event


def _to_step(step):
    try:
        return None if step is None else int(operator.index(step))
    except TypeError:
        raise TypeError(f"a step is an integer, not {step!r}") from None


def _encode_image(subject, pixels):
    """Return a (H, W, C) picture as TensorBoard's images have it; the caller need not keep it."""
    height, width, channels = pixels.shape
    if max(height, width) > PNG_SIDE:
        raise ValueError(f"{subject}: {height} x {width} is more than a PNG holds")
    lossy = pixels.nbytes > LARGEST_PNG and max(height, width) <= JPEG_SIDE
    encoded = encode(pixels, ".jpg" if lossy else ".png")
    return Summary.Image(
        height=height, width=width, colorspace=channels, encoded_image_string=encoded
    )


def _to_numbers(subject, values):
    """Return an array of real numbers, of whatever can be one."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{subject}: expected real numbers, not {array.dtype}")
    return array


def _to_float(tag, value):
    if isinstance(value, numbers.Real):
        return float(value)
    array = _to_numbers(f"scalar {tag}", value)
    if array.size != 1:
        raise ValueError(f"scalar {tag}: expected one number, not {array.size}")
    return float(array.item())


def _to_hparam(name, value):
    """Return a hyperparameter as TensorBoard keeps it."""
    if isinstance(value, str):
        return Value(string_value=printable(value))
    if isinstance(value, (bool, np.bool_)):
        return Value(bool_value=bool(value))
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return Value(number_value=value)
    raise ValueError(f"hparam {name}: expected a finite number, a str or a bool, not {value!r}")


def _describe(hparams, metrics):
    """Return the columns of HParams, and this run's row but for the metrics, which are scalars."""
    types = {
        "bool_value": api_pb2.DATA_TYPE_BOOL,
        "number_value": api_pb2.DATA_TYPE_FLOAT64,
        "string_value": api_pb2.DATA_TYPE_STRING,
    }
    experiment = api_pb2.Experiment(
        hparam_infos=[
            api_pb2.HParamInfo(name=name, type=types[value.WhichOneof("kind")])
            for name, value in hparams.items()
        ],
        metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag)) for tag in metrics],
    )
    return experiment, plugin_data_pb2.SessionStartInfo(hparams=hparams)


def _check_folder(name):
    """Return a name of a folder in the log, if it is one."""
    parts = name.split("/")
    if not parts[0] or ".." in parts or set(parts) <= {"", "."}:
        raise ValueError(f"{name!r}: its files would not lie in a folder of the log")
    return name


def _count(values, low, high, bins):
    """Return how many values are in each bin, and the bins' upper limits."""
    if np.ndim(bins):
        bins = np.array(bins, float)
        if bins.ndim > 1 or len(bins) < 2 or not (np.diff(bins) >= 0).all():
            raise ValueError("edges of bins are 2 or more numbers, none smaller than the last")
        bins[0], bins[-1] = min(bins[0], low), max(bins[-1], high)
    elif np.float32(low) == np.float32(high):
        # NumPy would spread them over bins of a width that is none of theirs.
        return [values.size], [high]
    counts, edges = np.histogram(values, bins)
    # TensorBoard draws the first bin from the smallest value and the last one to the largest, so
    # that empty ones before and after these would run backwards.
    first, last = np.flatnonzero(counts)[[0, -1]]
    return counts[first : last + 1].tolist(), edges[first + 1 : last + 2].tolist()


mxboard.SummaryWriter = mxboard.writer.SummaryWriter = SummaryWriter
