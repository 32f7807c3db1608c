import io
import itertools
import json
import os
import warnings
import wave
from fractions import Fraction
from pathlib import Path
from urllib.parse import quote

import mxnet as mx
import numpy as np
import pytest
from helpers import EVERY_ARRAY, find, read_log, read_text
from mxboard import SummaryWriter
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.util.tensor_util import make_ndarray

from pic.browser import ask, serve


def events(logdir):
    """Read the events of all files in a folder, but for the versions that they begin with."""
    loaders = [RawEventFileLoader(str(file)) for file in logdir.rglob("events*")]
    loaded = [Event.FromString(each) for loader in loaders for each in loader.Load()]
    return [event for event in loaded if not event.file_version]


# A short call of each method; the first six write one event each.
ADD = {
    "scalar": lambda sw, tag, step=None: sw.add_scalar(tag, 1, step),
    "histogram": lambda sw, tag, step=None: sw.add_histogram(tag, [1, 2], step),
    "image": lambda sw, tag, step=None: sw.add_image(tag, [[0, 1]], step),
    "audio": lambda sw, tag, step=None: sw.add_audio(tag, [0.0, 1.0], 8000, step),
    "text": lambda sw, tag, step=None: sw.add_text(tag, "text", step),
    "PR curve": lambda sw, tag, step=None: sw.add_pr_curve(tag, [0, 1], [0.1, 0.9], 3, step),
    "curves": lambda sw, tag, step=None: sw.add_scalar(tag, {"a": 1, "b": 2}, step),
    "embedding": lambda sw, tag, step=None: sw.add_embedding(tag, np.eye(2), global_step=step),
}
KINDS = list(ADD)[:6]
TAGS = ["loss", "loss (train)", "loss [train]", "loss  train ", "a/b: c", "/a", "//", "", "ü", " "]
ODD, NAN = os.fsdecode(b"\xff"), float("nan")


@pytest.mark.parametrize("kind", KINDS)
def test_tag_is_kept_as_it_is_by_every_method(kind, sw, tmp_path):
    for tag in [*TAGS, ODD]:
        ADD[kind](sw, tag)
    tags = read_log(tmp_path).Tags().values()
    assert {tag for each in tags if isinstance(each, list) for tag in each} == {*TAGS, "\ufffd"}


@pytest.mark.parametrize("step", [3, np.int64(3), np.array(3), True, np.float32(3), 0.29 * 100])
@pytest.mark.parametrize("kind", [*KINDS, "curves"])
def test_step_is_a_whole_number_of_any_type(kind, step, sw, tmp_path):
    ADD[kind](sw, "x", step)
    assert {event.step for event in events(tmp_path)} == {round(float(step))}


@pytest.mark.parametrize(("tag", "step"), [(3, None), ("x", 3.5), ("x", "3"), ("x", NAN)])
@pytest.mark.parametrize("kind", ADD)
def test_tag_or_step_of_a_wrong_type_is_named_and_nothing_is_logged(kind, tag, step, sw, tmp_path):
    with pytest.raises(TypeError, match="not int" if tag == 3 else "whole number"):
        ADD[kind](sw, tag, step)
    assert len(list(tmp_path.iterdir())) == 1 and not events(tmp_path)


@pytest.mark.parametrize("to_path", [str, Path])
def test_log_stays_where_it_was_opened(to_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with SummaryWriter(to_path("logs")) as sw:
        monkeypatch.chdir("elsewhere")
        for kind in ADD:
            ADD[kind](sw, kind)
        sw.close()
        sw.reopen()
        sw.export_scalars(to_path(tmp_path / "scalars.json"))
    assert not list((tmp_path / "elsewhere").iterdir()) and sw.get_logdir() == "logs"
    folders = {path.name for path in (tmp_path / "logs").iterdir() if path.is_dir()}
    assert folders == {"curves", "embedding"}
    exported = json.loads((tmp_path / "scalars.json").read_text())
    assert list(exported) == ["logs/scalar", "logs/curves/a", "logs/curves/b"]


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(KINDS, 2)))
def test_tag_of_two_kinds_is_warned_of_once(first, second, sw):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for kind in (first, first, second, first, second):
            ADD[kind](sw, "w")
    (warning,) = caught
    words = f"tag 'w' is of two kinds, {first} and {second}, and TensorBoard will show neither"
    assert (warning.filename, str(warning.message)) == (__file__, words)


def test_curves_and_embeddings_may_share_a_tag_with_another_kind(sw, recwarn):
    for kind in ("histogram", "curves", "embedding"):
        ADD[kind](sw, "w")
    assert not recwarn.list


NUMBERS = [np.float32(0.5), True, 2**70, Fraction(1, 4), np.array([[0.25]], np.float16)]
ARRAYS = [mx.nd.array([[3]], dtype="int32"), mx.np.array(1.5), (2.5,), [mx.nd.array([4])]]


@pytest.mark.parametrize("value", NUMBERS + ARRAYS, ids=repr)
def test_scalar_may_be_any_single_number(value, sw, tmp_path):
    sw.add_scalar("x", value, np.int64(3))
    (event,) = read_log(tmp_path).Scalars("x")
    assert (event.step, event.value) == (3, np.asarray(value, float).item())


@pytest.mark.parametrize(
    "log",
    [
        lambda sw, curves: sw.add_scalar("accuracy", curves, 5),
        lambda sw, curves: [sw.add_scalar("accuracy", pair, 5) for pair in curves.items()],
        lambda sw, curves: [sw.add_scalar("accuracy", [*pair], 5) for pair in curves.items()],
        lambda sw, curves: sw.add_scalar("accuracy", ([*curves], [*curves.values()]), 5),
        lambda sw, curves: sw.add_scalars("accuracy", curves, 5),
    ],
    ids=["dict", "pairs", "lists", "composite metric", "add_scalars"],
)
def test_curves_in_one_plot_each_have_a_log(log, sw, tmp_path):
    log(sw, {"train": 1, "valid": mx.nd.array([2])})
    for name, number in (("train", 1), ("valid", 2)):
        (event,) = read_log(tmp_path / "accuracy" / name).Scalars("accuracy")
        assert (event.step, event.value) == (5, number)


def test_more_curves_than_files_may_be_open_are_logged_whole(sw, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for step in range(3):
        sw.add_scalar("x", {str(name): step for name in range(120)}, step)
    assert len(os.listdir("/proc/self/fd")) < before + 100
    for folder in (tmp_path / "x").iterdir():
        (file,) = folder.iterdir()
        assert [event.value for event in read_log(file).Scalars("x")] == [0, 1, 2]


def test_curve_never_leaves_its_log(sw, tmp_path):
    with pytest.raises(ValueError, match="would not lie in a folder of the log"):
        sw.add_scalar("loss", {"good": 1, "../../outside": 1})
    assert len(list(tmp_path.iterdir())) == 1 and not events(tmp_path)


def test_exported_scalars_are_those_that_were_added_since_they_were_cleared(tmp_path):
    path = tmp_path / "scalars.json"
    with SummaryWriter(tmp_path / "logs") as sw:
        sw.add_scalar("x", 1, 0)
        sw.clear_scalar_dict()
        sw.add_scalar("x", np.array([2]), np.int64(1))
        sw.add_scalar("x", {"a": mx.nd.array([3])}, 2)
        sw.add_scalar("x", float("nan"), 3)
        sw.add_scalar("x", -float("inf"))
        sw.export_scalars(path)
        _, *scalars = read_log(tmp_path / "logs").Scalars("x")
    times = [event.wall_time for event in scalars]
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        f"{tmp_path}/logs/x": [[times[0], 1, 2.0], [times[1], 3, None], [times[2], None, None]],
        f"{tmp_path}/logs/x/a": [[pytest.approx(times[0], abs=60), 2, 3.0]],
    }


@EVERY_ARRAY
@pytest.mark.parametrize("bins", [7, [-4, -1, 0.5, 4], np.array([-4, 0, 4.5]), "auto", "default"])
def test_histogram_is_numpys(bins, to_array, sw, tmp_path):
    values = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32).clip(-4, 4)
    sw.add_histogram("x", to_array(values), 3, bins=bins)
    (event,) = read_log(tmp_path).Histograms("x")
    histogram, exact = event.histogram_value, values.astype(float)
    if isinstance(bins, str) and bins == "default":
        positive = np.multiply.accumulate([1e-12, *[1.1] * 773])  # as TensorFlow has them
        bins = np.concatenate([-positive[::-1], [0], positive])
    counts, edges = np.histogram(exact, bins=bins)
    used = slice(np.flatnonzero(counts)[0], np.flatnonzero(counts)[-1] + 1)
    assert list(histogram.bucket) == counts[used].tolist()
    assert list(histogram.bucket_limit) == edges[1:][used].tolist()
    assert (event.step, histogram.num) == (3, 100)
    assert (histogram.min, histogram.max) == (values.min(), values.max())
    sums = histogram.sum, histogram.sum_squares
    assert sums == pytest.approx((exact.sum(), (exact**2).sum()), rel=1e-12)


def test_rule_may_make_up_to_10_000_bins(sw, tmp_path):
    sw.add_histogram("x", [*range(1000), 9e5], bins="fd")
    assert len(read_log(tmp_path).Histograms("x")[0].histogram_value.bucket) > 8000


def test_histogram_leaves_out_what_is_no_finite_number_and_counts_it(sw, tmp_path):
    with pytest.warns(UserWarning, match="x: 4 NaN") as caught:
        sw.add_histogram("x", np.array([1, np.nan, 2, np.inf, 4, -np.inf, 1e39]), bins=3)
    assert caught[0].filename == __file__
    histogram = read_log(tmp_path).Histograms("x")[0].histogram_value
    assert (list(histogram.bucket), histogram.num, histogram.sum) == ([1, 1, 1], 3, 7)


NEXT_TO_1 = {dtype: np.nextafter(dtype(1), dtype(2)) for dtype in (np.float32, np.float64)}
PARAMETER = mx.gluon.Parameter("weight", shape=(2, 3), init=mx.init.One())
PARAMETER.initialize()
LAST = 1e-12 * 1.1**772  # but one, of the default edges
# Values, bins, and the buckets that TensorBoard shows of them: lower limit, upper limit, count.
HISTOGRAMS = {
    "zeros in bins": (np.zeros(5), 1000, [[0, 0, 5]]),
    "zeros by a rule": (np.zeros(5), "auto", [[0, 0, 5]]),
    "zeros by default": (np.zeros(5), "default", [[0, 0, 5]]),
    "small constant": (np.full(5, 1e-30), 1000, [[1e-30, 1e-30, 5]]),
    "large constant": (np.full(5, -1e30), 1000, [[-1e30, -1e30, 5]]),
    "parameter": (PARAMETER, 1000, [[1, 1, 6]]),
    "one number": (7, 1000, [[7, 7, 1]]),
    "neighbors in float64": ([1, NEXT_TO_1[np.float64]], 1000, [[1, 1, 2]]),
    "neighbors in float32": (np.array([1, NEXT_TO_1[np.float32]]), 2, [[1, 1, 1], [1, 1, 1]]),
    "beyond both edges": ([-3, 0.5, 5, 6], (0, 1, 2), [[-3, 1, 2], [1, 6, 2]]),
    "edge that stands twice": ([0.5, 2], [0, 1, 1, 2], [[0.5, 1, 1], [1, 1, 0], [1, 2, 1]]),
    "edges far away": ([1, 2, 2.5], [-9, -5, 0, 2, 4, 5, 9], [[1, 2, 1], [2, 2.5, 2]]),
    "infinite edges": ([1, 2, 9], np.array([-np.inf, 2, np.inf]), [[1, 2, 1], [2, 9, 2]]),
    "beyond the default": ([9e19, 1e25], "default", [[9e19, LAST, 1], [LAST, 1e25, 1]]),
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Log HISTOGRAMS; return the buckets that TensorBoard's default loader shows, by tag."""
    logdir = tmp_path_factory.mktemp("histograms")
    with SummaryWriter(logdir) as sw:
        for tag, (values, bins, _) in HISTOGRAMS.items():
            sw.add_histogram(tag, values, bins=bins)
    with serve(logdir) as url:
        path = "plugin/histograms/histograms?run=.&tag="
        return {tag: json.loads(ask(url, path + quote(tag)))[0][2] for tag in HISTOGRAMS}


@pytest.mark.parametrize("tag", HISTOGRAMS)
def test_histogram_is_shown_from_the_smallest_to_the_largest_value_with_all_between(tag, shown):
    np.testing.assert_allclose(shown[tag], HISTOGRAMS[tag][2], rtol=1e-6)


def logged_sound(logdir):
    """Return what TensorBoard plays: samples (N, channels) int16, and its event."""
    (event,) = read_log(logdir).Audio("x")
    with wave.open(io.BytesIO(event.encoded_audio_string)) as file:
        assert file.getframerate() == event.sample_rate
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return samples.reshape(-1, file.getnchannels()), event


SOUND = np.rint(32767 * np.sin(np.arange(800) / 9))
SOUND[:2] = 32767, -32767
SHAPES = pytest.mark.parametrize("shape", [(800,), (1, 800, 1), (2, 400)])


@EVERY_ARRAY
@SHAPES
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_audio_comes_back_as_it_went_in(dtype, shape, to_array, sw, tmp_path):
    sound = (SOUND / 32767).astype(dtype).reshape(shape)
    sw.add_audio("x", to_array(sound), 8000, 3)
    samples, event = logged_sound(tmp_path)
    channels = 2 if shape == (2, 400) else 1
    assert (event.step, event.sample_rate, event.length_frames) == (3, 8000, 800 // channels)
    expected = np.rint(sound.reshape(channels, -1).T.astype(np.float32) * 32767)
    assert (samples == expected).all()


@SHAPES
def test_audio_of_16_bits_comes_back_exactly(shape, sw, tmp_path):
    sw.add_audio("x", SOUND.reshape(shape).astype(np.int16))
    assert (logged_sound(tmp_path)[0].T.ravel() == SOUND).all()


def test_samples_out_of_range_are_clipped_and_counted(sw, tmp_path):
    with pytest.warns(UserWarning, match="x: 3 samples") as caught:
        sw.add_audio("x", [1.01, -3, np.inf, 1, -1, 0.5])
    samples, event = logged_sound(tmp_path)
    assert samples[:, 0].tolist() == [32767, -32767, 32767, 32767, -32767, 16384]
    assert (caught[0].filename, event.sample_rate) == (__file__, 44100)


@EVERY_ARRAY
@pytest.mark.parametrize("thresholds", [2, 11, 200])
@pytest.mark.parametrize("weighted", [False, True])
def test_curve_is_that_of_the_predictions(thresholds, weighted, to_array, sw, tmp_path):
    rng = np.random.default_rng(0)
    labels, predictions = rng.random((40, 5)) < 0.5, rng.random((40, 5)).astype(np.float32)
    weights = rng.random((40, 1)).astype(np.float32) if weighted else np.ones((1, 1))
    arrays = [to_array(array) for array in (labels, predictions)]
    sw.add_pr_curve("x", *arrays, thresholds, 3, to_array(weights) if weighted else None)
    log = read_log(tmp_path)
    (event,) = log.Tensors("x")
    assert (event.step, log.SummaryMetadata("x").plugin_data.plugin_name) == (3, "pr_curves")
    said = predictions >= np.linspace(0, 1, thresholds)[:, None, None] - 1e-7
    tp, fp, tn, fn = (
        (each * weights).sum(axis=(1, 2))
        for each in (said & labels, said & ~labels, ~said & ~labels, ~said & labels)
    )
    expected = [tp, fp, tn, fn, tp / np.maximum(tp + fp, 1e-7), tp / (tp + fn)]
    np.testing.assert_allclose(make_ndarray(event.tensor_proto), expected, atol=1e-4)


FAR = [*range(1000), 1.1e6]  # 11,000 bins
ONES, REAL = np.ones(3), "expected real numbers, not"
BAD_EDGES = [[], [1], [2, 1], [0, NAN, 2], [[0, 1], [1, 2]]]
REFUSED = [  # by which method, why, and for which arguments
    ("scalar", REAL, [[None], ["1"], [1j], [np.array("1")], [("a", None)], [("a", "b")]]),
    ("scalar", "expected one number, not 2", [[[[1], [2]]], [{"a": 1, "b": [1, 2]}]]),
    ("scalar", "expected one number, not", [[[]], [(1, 2, 3)], [mx.nd.ones(3)], [()]]),
    ("histogram", "none of its 3 values is finite in float32", [[[NAN, np.inf, 1e39], None, 5]]),
    ("histogram", "none of its 0 values is finite", [[np.zeros(0), None, 5]]),
    ("histogram", REAL, [[["1"]], [[1, None]]]),
    ("histogram", "10,000 bins: give their number", [[FAR, None, "auto"], [FAR, None, "fd"]]),
    ("histogram", "edges of bins", [[[1, 2], None, each] for each in BAD_EDGES]),
    ("audio", r"samples \(N,\) or \(2, N\), not \(3, 9", [[np.zeros((3, 9))]]),
    ("audio", r"samples \(N,\) or \(2, N\)", [[np.zeros(each)] for each in ((9, 2), (2, 0), 0)]),
    ("audio", "2 of 3 are NaN", [[[NAN, 0, NAN]]]),
    ("audio", "floats in .* or int16, not int32", [[np.zeros(9, np.int32)]]),
    ("audio", "sample_rate=.* .the step is global_step", [[ONES, 0], [ONES, 5], [ONES, 999]]),
    ("text", "expected a str, not 5", [[5]]),
    ("pr_curve", "1 thresholds are fewer than 2", [[ONES, ONES, 1]]),
    ("pr_curve", "3 of 3 labels are not 0 or 1", [[[-1, 2, NAN], ONES, 5]]),
    ("pr_curve", r"3 of 3 predictions are not in \[0, 1\]", [[ONES, [-2, NAN, 7], 5]]),
    ("pr_curve", r"labels \(3, 1\), but predictions \(3,\)", [[np.ones((3, 1)), ONES, 5]]),
    ("pr_curve", "3 of 3 weights are negative", [[ONES, ONES, 5, None, [np.inf, -1, NAN]]]),
    ("pr_curve", REAL, [[ONES, np.ones(3, complex), 5]]),
]


@pytest.mark.parametrize(
    ("kind", "words", "arguments"),
    [(kind, words, arguments) for kind, words, calls in REFUSED for arguments in calls],
)
def test_what_cannot_be_shown_is_refused_with_a_reason(kind, words, arguments, sw, tmp_path):
    error = TypeError if kind == "text" else ValueError
    with pytest.raises(error, match=f"^{kind.replace('pr_', '')} my_tag: .*{words}"):
        getattr(sw, f"add_{kind}")("my_tag", *arguments)
    assert len(list(tmp_path.iterdir())) == 1 and not events(tmp_path)


def test_names_that_are_not_utf8_are_shown_with_replacement_characters(tmp_path):
    with SummaryWriter(tmp_path / ODD) as sw:
        sw.add_text(ODD, ODD)
        sw.add_embedding(ODD, np.eye(2))
    log = (tmp_path / ODD).rename(tmp_path / "log")  # for TensorBoard, which cannot read it else
    assert read_text(read_log(log), "\ufffd") == "\ufffd"
    assert find(log / "\ufffd", "tensors.bytes").exists()


def test_hparams_are_logged_once_with_their_values_and_the_metrics_at_each_step(sw, tmp_path):
    settings = {"lr": np.float32(0.5), "optimizer": "sgd", "nesterov": True, "seed": None}
    settings |= {"layers": [3, 4], ODD: Path("data"), "clip": float("inf")}
    for step in range(3):
        sw.add_hparams(settings, {"valid_acc": mx.nd.array([step / 4])}, step)
    log = read_log(tmp_path)
    content = {tag: data.plugin_data.content for tag, data in log.summary_metadata.items()}
    start = content[metadata.SESSION_START_INFO_TAG]
    given = metadata.parse_session_start_info_plugin_data(start).hparams
    experiment = metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG])
    kinds = {info.name: api_pb2.DataType.Name(info.type) for info in experiment.hparam_infos}
    shown = {name: getattr(each, each.WhichOneof("kind")) for name, each in given.items()}
    assert {name: (kinds[name], shown[name]) for name in shown} == {
        "lr": ("DATA_TYPE_FLOAT64", 0.5),
        "nesterov": ("DATA_TYPE_BOOL", True),
        "optimizer": ("DATA_TYPE_STRING", "sgd"),
        "layers": ("DATA_TYPE_STRING", "[3, 4]"),
        "\ufffd": ("DATA_TYPE_STRING", "data"),
        "clip": ("DATA_TYPE_STRING", "inf"),
    }
    assert [info.name.tag for info in experiment.metric_infos] == ["valid_acc"]
    scalars = log.Scalars("valid_acc")
    assert [(event.step, event.value) for event in scalars] == [(0, 0), (1, 0.25), (2, 0.5)]


@pytest.mark.parametrize(("lr", "metric"), [(0.2, "valid_acc"), (0.1, "loss")])
def test_other_hparams_in_the_same_log_are_refused(lr, metric, sw):
    sw.add_hparams({"lr": 0.1}, {"valid_acc": 1}, 0)
    with pytest.raises(ValueError, match="in a folder of its own"):
        sw.add_hparams({"lr": lr}, {metric: 1}, 1)
