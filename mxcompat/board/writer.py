"""SummaryWriter, which takes the place of MXBoard's own."""

import contextlib
import json
import math
import os
import time
import warnings
from collections.abc import Mapping
from typing import Any, Optional, SupportsFloat, Union

import mxboard.writer
from numpy.typing import ArrayLike
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams.metadata import NULL_TENSOR
from tensorboard.plugins.pr_curve.metadata import create_summary_metadata
from tensorboard.plugins.text.summary_v2 import text_pb

from . import summary
from .events import EventFileWriter
from .files import printable
from .graph import to_graph
from .images import to_image, to_pixels
from .projector import save_embedding, to_table, to_vectors

MOST_OPEN = 100  # event files; a process on macOS may open 256
Step = Optional[SupportsFloat]  # a whole number of any type
Scalar = Union[ArrayLike, Mapping[str, ArrayLike]]


class SummaryWriter:
    """Logs what TensorBoard shows, by the calls of MXBoard (https://github.com/awslabs/mxboard).

    In all methods, `tag` is a str, the name to show a thing by. TensorBoard groups tags by the part
    before their first slash, and shows neither of two kinds of things that share a tag, which is a
    `UserWarning`. `global_step` is the step to show it at, a whole number. An array is an NDArray
    of MXNet's, one of NumPy's, or a list or tuple of numbers or arrays.

    Parameters
    ----------
    logdir : str or os.PathLike
        Folder to open with ``tensorboard --logdir``; made if it is missing.
    max_queue, flush_secs, verbose
        Ignored, for events are written at once; kept for compatibility with MXBoard.
    filename_suffix : str, optional
        Text to end the names of event files with.

    Raises
    ------
    TypeError, ValueError
        By all methods: an argument is not as described, or the writer is closed. Nothing is logged.
    OSError
        By all methods: the log cannot be written. What was logged before is there.

    Examples
    --------
    >>> with SummaryWriter("logs") as sw:
    ...     sw.add_scalar("loss", 0.5, global_step=3)
    """

    def __init__(
        self, logdir: Union[str, os.PathLike], max_queue: int = 10, flush_secs: float = 120,
        filename_suffix: Optional[str] = None, verbose: bool = False,
    ) -> None:  # fmt: skip
        self._logdir, self._suffix = os.fspath(logdir), filename_suffix or ""
        self._folder = os.path.abspath(self._logdir)
        self._kinds = {}  # what has been logged, by folder and tag
        self._scalars = {}
        self._hparams = None  # this log's, and the names of its metrics
        self._closed = True
        self.reopen()

    def __enter__(self) -> "SummaryWriter":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def get_logdir(self) -> str:
        """Return the folder of the log as it was given: ``sw.get_logdir()``."""
        return self._logdir

    def flush(self) -> None:
        """Do nothing, for events are written at once: ``sw.flush()``."""

    def close(self) -> None:
        """End the log: ``sw.close()``."""
        self._closed = True
        for file in self._files.values():
            file.close()

    def reopen(self) -> None:
        """Go on in new files of the same log, once closed: ``sw.reopen()``."""
        if self._closed:  # A file for the log's own folder, "", and later one for each named curve.
            self._files = {"": EventFileWriter(self._folder, self._suffix)}
            self._closed = False

    def add_scalar(self, tag: str, value: Scalar, global_step: Step = None) -> None:
        """Log a number, or curves: ``sw.add_scalar("acc", {"train": 0.9, "valid": 0.8}, step)``.

        Parameters
        ----------
        value : number, array, tuple, list or dict
            A number, or an array of one element. A dict of names to values, a (name, value) pair,
            or (names, values) as of a metric's ``get()``, draws a curve for each name in one plot.
            Each is logged in the folder ``TAG/NAME`` of the log.
        """
        if isinstance(value, (tuple, list)) and len(value) == 2:
            if isinstance(value[0], str):
                value = {value[0]: value[1]}
            elif isinstance(value[0], list) and value[0] and isinstance(value[0][0], str):
                value = dict(zip(*value))
        if isinstance(value, Mapping):
            points = {self._check_folder(f"{tag}/{name}"): value[name] for name in value}
        else:
            points = {"": value}
        points = {folder: summary.to_float(tag, points[folder]) for folder in points}
        step = _to_step(global_step)
        for folder, number in points.items():
            event = self._add("scalar", tag, step, folder, simple_value=number)
            curve = self._scalars.setdefault(f"{self._logdir}/{folder or tag}", [])
            curve.append((event.wall_time, step, number if math.isfinite(number) else None))

    def add_scalars(self, main_tag: str, tag_scalar_dict: Scalar, global_step: Step = None) -> None:
        """Log curves as PyTorch does: ``sw.add_scalars("acc", {"train": 0.9, "valid": 0.8})``."""
        self.add_scalar(main_tag, tag_scalar_dict, global_step)

    def add_hparams(
        self, hparam_dict: Mapping[str, Any], metric_dict: Mapping[str, ArrayLike],
        global_step: Step = None,
    ) -> None:  # fmt: skip
        """Log a row of TensorBoard's HParams: ``sw.add_hparams(vars(args), {"valid_acc": 0.9})``.

        Unlike PyTorch's, it is the row of this log, and not of a new run in it: call it again with
        the same hyperparameters for metrics at a later step, of which HParams shows the last. It
        shows the columns of one run only: use the same names in all.

        Parameters
        ----------
        hparam_dict : dict
            Names of hyperparameters, and their values: finite numbers and booleans; of anything
            else its ``str``, but None is left out.
        metric_dict : dict
            Names of metrics, and their values, logged as by `add_scalar`.
        """
        given = {name: value for name, value in hparam_dict.items() if value is not None}
        hparams = {printable(name): summary.to_hparam(given[name]) for name in given}
        metrics = {printable(tag): summary.to_float(tag, metric_dict[tag]) for tag in metric_dict}
        step = _to_step(global_step)
        if self._hparams is None:
            for name, metadata in summary.hparams(hparams, metrics).items():
                self._add("hparams", name, None, metadata=metadata, tensor=NULL_TENSOR)
            self._hparams = hparams, set(metrics)
        elif self._hparams != (hparams, set(metrics)):
            others = "this log has others already, and TensorBoard shows the first of a log"
            raise ValueError(f"hparams: {others}: open a SummaryWriter in a folder of its own")
        for tag, number in metrics.items():
            self.add_scalar(tag, number, step)

    def export_scalars(self, path: Union[str, os.PathLike]) -> None:
        """Write the scalars that were added to a JSON file: ``sw.export_scalars("curves.json")``.

        It maps each curve, ``LOGDIR/TAG`` or ``LOGDIR/TAG/NAME``, to its points: lists of seconds
        since 1970, step, and value. JSON has no NaN and no infinity: they are null.
        """
        with open(path, "w") as file:
            json.dump(self._scalars, file)

    def clear_scalar_dict(self) -> None:
        """Forget the scalars for `export_scalars`, not for the log: ``sw.clear_scalar_dict()``."""
        self._scalars.clear()

    def add_histogram(
        self, tag: str, values: ArrayLike, global_step: Step = None, bins: Any = "default"
    ) -> None:
        """Log how values are distributed: ``sw.add_histogram("gradient", parameter.grad(), 3)``.

        Parameters
        ----------
        values : array or mxnet.gluon.Parameter
            Real numbers, of any shape. NaN, and numbers that are infinite in float32, are left out
            with a warning that counts them; one at least must remain.
        bins : int, str or sequence of float
            A number of bins of equal width; edges, beyond which values count in the first or last
            bin; a rule of `numpy.histogram_bin_edges` that makes up to 10,000; or "default",
            TensorFlow's 1,549 edges. Bins are shown from the smallest to the largest value.
        """
        histogram = summary.histogram(f"histogram {tag}", values, bins)
        self._add("histogram", tag, global_step, histo=histogram)

    def add_pr_curve(
        self, tag: str, labels: ArrayLike, predictions: ArrayLike, num_thresholds: int,
        global_step: Step = None, weights: Optional[ArrayLike] = None,
    ) -> None:  # fmt: skip
        """Log a precision-recall curve: ``sw.add_pr_curve("cat", [0, 1, 1], [0.2, 0.4, 0.9], 9)``.

        Parameters
        ----------
        labels : array
            The truth, 0 or 1, of any shape.
        predictions : array
            The probability that each is 1, in [0, 1], of the same shape.
        num_thresholds : int
            Points of the curve, 2 or more: thresholds evenly spaced in [0, 1].
        weights : array, optional
            How much each counts, 0 or more; a shape that broadcasts to that of the labels.
        """
        subject = f"curve {tag}"
        tensor = summary.pr_curve(subject, labels, predictions, num_thresholds, weights)
        metadata = create_summary_metadata(printable(tag), "", num_thresholds)
        self._add("PR curve", tag, global_step, metadata=metadata, tensor=tensor)

    def add_image(self, tag: str, image: ArrayLike, global_step: Step = None) -> None:
        """Log a picture, or a batch as a grid: ``sw.add_image("digits", images[:64], 3)``.

        Up to 256 pictures stand 8 per row, more of them in a square, with 2 black pixels between
        them. They are kept exactly, as PNG, up to 16 MiB of pixels (H x W x C); as JPEG beyond.

        Parameters
        ----------
        image : array
            (H, W), (C, H, W) or (N, C, H, W), C being 1 (gray) or 3 (RGB): integers in [0, 255],
            or floats in [0, 1], give or take an error of rounding.
        """
        self._add("image", tag, global_step, image=to_image(f"image {tag}", image))

    def add_audio(
        self, tag: str, audio: ArrayLike, sample_rate: int = 44100, global_step: Step = None
    ) -> None:
        """Log a sound, as 16 bits per sample: ``sw.add_audio("noise", np.random.rand(44100))``.

        Parameters
        ----------
        audio : array
            (N,), or any shape with a single side longer than 1, is mono; (2, N) is left and right.
            Floats in [-1, 1], clipped beyond that with a warning that counts them; or int16.
        sample_rate : int
            Samples per second, 1,000 or more. PyTorch has the step in its place.
        """
        self._add(
            "audio", tag, global_step, audio=summary.audio(f"audio {tag}", audio, sample_rate)
        )

    def add_text(self, tag: str, text: str, global_step: Step = None) -> None:
        """Log Markdown: ``sw.add_text("data", "60,000 **handwritten** digits")``."""
        if not isinstance(text, str):
            raise TypeError(f"text {tag}: expected a str, not {text!r}")
        (value,) = text_pb("", printable(text)).value
        self._add("text", tag, global_step, metadata=value.metadata, tensor=value.tensor)

    def add_embedding(
        self, tag: str, embedding: ArrayLike, labels: Optional[ArrayLike] = None,
        images: Optional[ArrayLike] = None, global_step: Step = None,
    ) -> None:  # fmt: skip
        """Log vectors for TensorBoard's projector: ``sw.add_embedding("codes", codes, names)``.

        Its files go to the folder ``TAG`` of the log; with a step of 12, ``TAG_000012``. A tag that
        is logged again replaces what it held, but keeps what a user added to its entry in the list,
        ``projector_config.pbtxt``. A running TensorBoard shows the new vectors after a restart.

        Parameters
        ----------
        embedding : array
            (N, D), finite numbers, a vector per row; N and D are 2 or more.
        labels : array or sequence, optional
            N labels, anything that ``str`` takes; or rows of a table, (N + 1, C), the first of
            which names the columns. White space becomes a space each, and an empty label a dash.
        images : array, optional
            (N, C, H, W), as for `add_image`; shrunk where all of them together would be larger than
            the 8192 x 8192 pixels that the projector takes.
        """
        subject, step = f"embedding {tag}", _to_step(global_step)
        vectors = to_vectors(subject, embedding)
        name = self._check_folder(printable(tag) + ("" if step is None else f"_{step:06}"))
        table = None if labels is None else to_table(subject, labels, len(vectors))
        pixels = None if images is None else to_pixels(subject, images)
        if pixels is not None and len(pixels) != len(vectors):
            raise ValueError(f"{subject}: {len(pixels)} images for {len(vectors)} vectors")
        save_embedding(self._folder, name, vectors, table, pixels)

    def add_graph(self, net: Any, input_shapes: Optional[Mapping[str, Any]] = None) -> None:
        """Log a graph; TensorBoard shows the last: ``sw.add_graph(net, {"data": (1, 3, 64, 64)})``.

        Parameters
        ----------
        net : mxnet.sym.Symbol or mxnet.gluon.HybridBlock
            A block must be hybridized, and have run once since, or it is a `RuntimeError`.
        input_shapes : dict, optional
            Shapes of the network's inputs by their names; a block's only input is ``data``. From
            these MXNet infers the shapes that edges carry, as far as it can.
        """
        graph = to_graph(net, input_shapes)
        self._write("", Event(wall_time=time.time(), graph_def=graph.SerializeToString()))

    def _write(self, folder, event):
        if self._closed:
            raise ValueError(f"the log {self._logdir} is closed: reopen() goes on in a new file")
        if folder not in self._files:
            self._files[folder] = EventFileWriter(os.path.join(self._folder, folder), self._suffix)
        self._files[folder].add_event(event)
        if folder and len(self._files) > MOST_OPEN:
            self._files[folder].close()

    def _add(self, kind, tag, step, folder="", **value):
        """Write and return an event; the tags and steps of all methods are checked here."""
        event = Event(wall_time=time.time(), step=_to_step(step))
        event.summary.value.add(tag=printable(tag), **value)
        kinds = self._kinds.setdefault((folder, tag), [kind])
        if kind not in kinds:
            kinds.append(kind)
            message = f"tag {tag!r} is of two kinds, {kinds[0]} and {kind}"
            warnings.warn(f"{message}, and TensorBoard will show neither", stacklevel=3)
        self._write(folder, event)
        return event

    def _check_folder(self, name):
        """Return a name, if it can be a folder in the log."""
        if name and name in self._files:
            return name
        parts = name.split("/")
        if not parts[0] or ".." in parts or set(parts) <= {"", "."}:
            raise ValueError(f"{name!r}: its files would not lie in a folder of the log")
        path = os.path.join(self._folder, name)
        while not os.path.isdir(path):
            if os.path.lexists(path):
                raise ValueError(f"{name!r}: no folder can have this name, as {path} is a file")
            path = os.path.dirname(path)
        return name


def _to_step(step):
    if step is None or type(step) is int:
        return step
    with contextlib.suppress(OverflowError, TypeError, ValueError):
        whole = math.floor(step + 0.5)
        if abs(whole - step) < 1e-6:  # 0.29 * 100 is a little less than 29
            return whole
    raise TypeError(f"a step is a whole number, not {step!r}")


mxboard.SummaryWriter = mxboard.writer.SummaryWriter = SummaryWriter
