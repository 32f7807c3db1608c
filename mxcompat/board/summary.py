"""Arrays as the messages that TensorBoard reads; `subject` begins the text of an error."""

import io
import math
import numbers
import warnings
import wave

import numpy as np
from google.protobuf.struct_pb2 import Value
from mxboard.summary import _compute_curve
from mxnet.gluon import Parameter
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.util.tensor_util import make_tensor_proto

from .files import printable

# TensorFlow's own: zero, and on both sides of it powers of 1.1 from 1e-12 to 1e20.
_POSITIVE_EDGES = np.multiply.accumulate([1e-12, *[1.1] * 773])
DEFAULT_EDGES = np.concatenate([-_POSITIVE_EDGES[::-1], [0], _POSITIVE_EDGES])
MOST_BINS = 10_000
HPARAM_TYPES = {"bool_value": "BOOL", "number_value": "FLOAT64", "string_value": "STRING"}


def to_numbers(subject, values):
    """Convert to an array of real numbers."""
    array = np.asarray(values.data() if isinstance(values, Parameter) else values)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{subject}: expected real numbers, not {array.dtype}")
    return array


def to_float(tag, value):
    """Convert a number, or an array of one element."""
    if isinstance(value, numbers.Real):
        return float(value)
    array = to_numbers(f"scalar {tag}", value)
    if array.size != 1:
        raise ValueError(f"scalar {tag}: expected one number, not {array.size}")
    return float(array.item())


def histogram(subject, values, bins):
    """Count values in bins, as `add_histogram` takes them."""
    values = to_numbers(subject, values).ravel()
    bins = DEFAULT_EDGES if isinstance(bins, str) and bins == "default" else bins
    with np.errstate(over="ignore"):
        finite = np.isfinite(values.astype(np.float32, copy=False))  # as TensorBoard reads them
    # Where the edges are given, single precision is as exact, and sorted in half the time.
    if not np.ndim(bins) or values.dtype != np.float32:
        values = values.astype(float)
    if not finite.any():
        raise ValueError(f"{subject}: none of its {values.size} values is finite in float32")
    if not finite.all():
        values, count = values[finite], np.count_nonzero(~finite)
        warnings.warn(f"{subject}: {count} NaN or infinite values left out", stacklevel=3)
    low, high = values.min(), values.max()
    if np.ndim(bins):
        bins = np.array(bins, float)
        if bins.ndim > 1 or len(bins) < 2 or not (np.diff(bins) >= 0).all():
            raise ValueError(f"{subject}: edges of bins are 2 or more numbers in rising order")
        bins[0], bins[-1] = min(bins[0], low), max(bins[-1], high)
    elif np.float32(low) == np.float32(high):
        bins = [low, high]  # NumPy would spread them over bins that are wider than these.
    elif isinstance(bins, str) and bins in ("auto", "fd"):
        # The width that NumPy takes: it fills the memory with bins if one value is far away.
        width = 2 * np.subtract(*np.percentile(values, [75, 25])) / values.size ** (1 / 3)
        if 0 < width < (high - low) / MOST_BINS:
            raise ValueError(f"{subject}: more than {MOST_BINS:,} bins: give their number or edges")
    counts, edges = np.histogram(values, bins)
    # TensorBoard draws the first bin from the smallest value and the last one to the largest, so
    # that empty ones before and after these would run backwards.
    first, last = np.flatnonzero(counts)[[0, -1]]
    return HistogramProto(
        min=low, max=high, num=values.size,
        sum=values.sum(dtype=float), sum_squares=np.square(values, dtype=float).sum(),
        bucket=counts[first : last + 1].tolist(), bucket_limit=edges[first + 1 : last + 2].tolist(),
    )  # fmt: skip


def pr_curve(subject, labels, predictions, num_thresholds, weights):
    """Return a precision-recall curve, as `add_pr_curve` takes it, as a tensor."""
    if num_thresholds < 2:
        raise ValueError(f"{subject}: {num_thresholds} thresholds are fewer than 2")
    labels, predictions = to_numbers(subject, labels), to_numbers(subject, predictions)
    weights = to_numbers(subject, 1.0 if weights is None else weights)
    if labels.shape != predictions.shape:
        raise ValueError(f"{subject}: labels {labels.shape}, but predictions {predictions.shape}")
    for what, fits in (
        ("labels are not 0 or 1", (labels == 0) | (labels == 1)),
        ("predictions are not in [0, 1]", (predictions >= 0) & (predictions <= 1)),
        ("weights are negative, NaN or infinite", (weights >= 0) & np.isfinite(weights)),
    ):
        if not fits.all():
            raise ValueError(f"{subject}: {np.count_nonzero(~fits)} of {fits.size} {what}")
    weights = np.broadcast_to(weights, labels.shape)
    curve = _compute_curve(labels, predictions, num_thresholds, weights)
    return make_tensor_proto(curve.astype(np.float32))


def audio(subject, sound, sample_rate):
    """Encode a sound, as `add_audio` takes it, as a WAV file of 16 bits."""
    if sample_rate < 1000:
        raise ValueError(f"{subject}: sample_rate={sample_rate} (the step is global_step)")
    sound = to_numbers(subject, sound)
    stereo = sound.ndim == 2 and len(sound) == 2
    if not sound.size or not stereo and max(sound.shape, default=1) != sound.size:
        raise ValueError(f"{subject}: expected samples (N,) or (2, N), not {sound.shape}")
    sound = sound.reshape(2 if stereo else 1, -1)
    if sound.dtype.kind == "f":
        if np.isnan(sound).any():
            raise ValueError(f"{subject}: {np.isnan(sound).sum()} of {sound.size} are NaN")
        clipped = np.count_nonzero(np.abs(sound) > 1)
        if clipped:
            warnings.warn(f"{subject}: {clipped} samples clipped to [-1, 1]", stacklevel=3)
        sound = np.rint(sound.clip(-1, 1).astype(np.float32) * 32767)
    elif sound.dtype != np.int16:
        raise ValueError(f"{subject}: expected floats in [-1, 1] or int16, not {sound.dtype}")
    channels, frames = sound.shape
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((channels, 2, sample_rate, frames, "NONE", ""))
        file.writeframes(sound.T.astype("<i2").tobytes())
    return Summary.Audio(
        sample_rate=sample_rate, num_channels=channels, length_frames=frames,
        encoded_audio_string=content.getvalue(), content_type="audio/wav",
    )  # fmt: skip


def to_hparam(value):
    """Return the value of a hyperparameter as TensorBoard keeps it."""
    if isinstance(value, (bool, np.bool_)):
        return Value(bool_value=bool(value))
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return Value(number_value=value)
    return Value(string_value=printable(str(value)))


def hparams(values, metrics):
    """Return by tag, as metadata, the columns of HParams, and a run's row but for its metrics."""
    kinds = {name: HPARAM_TYPES[value.WhichOneof("kind")] for name, value in values.items()}
    infos = [{"name": name, "type": f"DATA_TYPE_{kinds[name]}"} for name in kinds]
    metric_infos = [{"name": {"tag": tag}} for tag in metrics]
    columns = HParamsPluginData(experiment={"hparam_infos": infos, "metric_infos": metric_infos})
    row = HParamsPluginData(session_start_info={"hparams": values})
    tags = hparams_metadata.EXPERIMENT_TAG, hparams_metadata.SESSION_START_INFO_TAG
    parts = map(hparams_metadata.create_summary_metadata, (columns, row))
    return dict(zip(tags, parts))
