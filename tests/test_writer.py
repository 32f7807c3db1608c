import io
import itertools
import json
import os
import subprocess
import sys
import warnings
import wave
from fractions import Fraction
from pathlib import Path
from urllib.parse import quote

import mxnet as mx
import numpy as np
import pytest
from helpers import ROOT, find, read_log, read_text, script_env
from mxboard import SummaryWriter
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.util.tensor_util import make_ndarray

from pic.browser import ask, serve


@pytest.fixture
def sw(tmp_path):
    with SummaryWriter(tmp_path) as sw:
        yield sw


def events(logdir):
    """Read the events of all files in a folder, but for the versions that they begin with."""
    files = logdir.rglob("events*")
    loaded = [
        Event.FromString(each) for file in files for each in RawEventFileLoader(str(file)).Load()
    ]
    return [event for event in loaded if not event.file_version]


def to_ndarray(array):
    return mx.nd.array(array, dtype=array.dtype)


EVERY_ARRAY = pytest.mark.parametrize(
    "to_array",
    [np.array, to_ndarray, np.ndarray.tolist, tuple, lambda array: [*to_ndarray(array)]],
    ids=["numpy", "ndarray", "list", "tuple", "list of ndarrays"],
)
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


def log_tags(logdir):
    tags = read_log(logdir).Tags().values()
    return {tag for each in tags if isinstance(each, list) for tag in each}


@pytest.mark.parametrize("kind", KINDS)
def test_tag_is_kept_as_it_is_by_every_method(kind, sw, tmp_path):
    for tag in TAGS:
        ADD[kind](sw, tag)
    assert log_tags(tmp_path) == set(TAGS)


@pytest.mark.parametrize(
    "step", [3, np.int64(3), np.array(3), True, 3.0, np.float32(3), 0.29 * 100]
)
@pytest.mark.parametrize("kind", [*KINDS, "curves"])
def test_step_is_a_whole_number_of_any_type(kind, step, sw, tmp_path):
    ADD[kind](sw, "x", step)
    assert {event.step for event in events(tmp_path)} == {round(float(step))}


@pytest.mark.parametrize(
    ("tag", "step", "words"),
    [
        (3, None, "not int"),
        *(("x", step, "whole number") for step in (3.5, "3", [3], float("nan"))),
    ],
)
@pytest.mark.parametrize("kind", ADD)
def test_tag_that_is_no_str_or_step_that_is_no_number_is_named_and_nothing_is_logged(
    kind, tag, step, words, sw, tmp_path
):
    with pytest.raises(TypeError, match=words):
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
    assert not list((tmp_path / "elsewhere").iterdir())
    assert {path.name for path in (tmp_path / "logs").iterdir() if path.is_dir()} == {*ADD} - {
        *KINDS
    }
    assert sw.get_logdir() == "logs"
    exported = json.loads((tmp_path / "scalars.json").read_text())
    assert list(exported) == ["logs/scalar", "logs/curves/a", "logs/curves/b"]


def test_event_files_end_with_the_suffix(tmp_path):
    with SummaryWriter(tmp_path, filename_suffix=".mine") as sw:
        sw.add_scalar("x", {"a": 1})
    assert [path.suffix for path in tmp_path.rglob("events*")] == [".mine", ".mine"]


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(KINDS, 2)))
def test_tag_of_two_kinds_is_warned_of_once(first, second, sw):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for kind in (first, first, second, first, second):
            ADD[kind](sw, "w")
    (warning,) = caught
    words = f"tag 'w' is of two kinds, {first} and {second}, and TensorBoard will show neither"
    assert warning.filename == __file__ and str(warning.message).startswith(words)


def test_curves_and_embeddings_may_share_a_tag_with_another_kind(sw, recwarn):
    sw.add_histogram("w", [1, 2])
    sw.add_scalar("w", {"a": 1})
    sw.add_embedding("w", np.eye(2))
    assert not recwarn.list


@pytest.mark.parametrize(
    "value",
    [
        *(0.5, 2, True, np.float32(0.5), np.float16(2), np.int64(-3), 2**70, Fraction(1, 4)),
        *(np.array(0.5), np.array([7]), np.array([[0.25]], np.float16)),
        *(mx.nd.array([0.5]), mx.nd.array([[3]], dtype="int32"), mx.np.array(1.5)),
        *([1], (2.5,), [[3]], [mx.nd.array([4])]),
    ],
    ids=repr,
)
def test_scalar_may_be_any_single_number(value, sw, tmp_path):
    sw.add_scalar("x", value, np.int64(3))
    (event,) = read_log(tmp_path).Scalars("x")
    number = value.asnumpy() if hasattr(value, "asnumpy") else value
    assert (event.step, event.value) == (3, float(np.ravel(number)[0]))


@pytest.mark.parametrize(
    "log",
    [
        lambda sw, curves: sw.add_scalar("accuracy", curves, 5),
        lambda sw, curves: [sw.add_scalar("accuracy", pair, 5) for pair in curves.items()],
        lambda sw, curves: [sw.add_scalar("accuracy", [*pair], 5) for pair in curves.items()],
        lambda sw, curves: sw.add_scalars("accuracy", curves, 5),
    ],
    ids=["dict", "pairs", "lists", "add_scalars"],
)
def test_curves_in_one_plot_each_have_a_log(log, sw, tmp_path):
    log(sw, {"train": 1, "valid": mx.nd.array([2])})
    for name, number in (("train", 1), ("valid", 2)):
        (event,) = read_log(tmp_path / "accuracy" / name).Scalars("accuracy")
        assert (event.step, event.value) == (5, number)


def test_metrics_of_a_composite_metric_are_curves(sw, tmp_path):
    metric = mx.metric.create(["acc", "mse"])
    metric.update([mx.nd.array([0, 1])], [mx.nd.array([[1, 0], [1, 0]])])
    sw.add_scalar("metrics", metric.get())
    assert [
        event.value for event in read_log(tmp_path / "metrics" / "accuracy").Scalars("metrics")
    ] == [0.5]
    assert (tmp_path / "metrics" / "mse").exists()


def test_more_curves_than_files_may_be_open_are_logged_whole(tmp_path):
    code = """
import resource, sys
import mxcompat
from mxboard import SummaryWriter
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
with SummaryWriter(sys.argv[1]) as sw:
    for step in range(3):
        sw.add_scalar("x", {str(name): step for name in range(300)}, step)
"""
    command = [sys.executable, "-c", code, tmp_path]
    subprocess.run(command, cwd=ROOT, env=script_env(), check=True)
    for name in range(300):
        (file,) = (tmp_path / "x" / str(name)).iterdir()
    assert [event.value for event in read_log(file).Scalars("x")] == [0, 1, 2]
    assert len(events(tmp_path)) == 900


@pytest.mark.parametrize(
    ("tag", "name"),
    [("loss", "../../outside"), ("..", "a"), ("/loss", "a"), ("", "a"), ("a/..", "../b")],
)
def test_curve_never_leaves_its_log(tag, name, tmp_path):
    sw = SummaryWriter(tmp_path / "log")
    with sw, pytest.raises(ValueError, match="would not lie in a folder of the log"):
        sw.add_scalar(tag, {"good": 1, name: 1})
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    assert len(list((tmp_path / "log").iterdir())) == 1


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

    def refuse(constant):
        pytest.fail(f"{constant} is no JSON")

    exported = json.loads(path.read_text(), parse_constant=refuse)
    times = [event.wall_time for event in scalars]
    assert exported == {
        f"{tmp_path}/logs/x": [[times[0], 1, 2.0], [times[1], 3, None], [times[2], None, None]],
        f"{tmp_path}/logs/x/a": [[pytest.approx(times[0], abs=60), 2, 3.0]],
    }


def test_scalars_are_exported_to_the_path_itself_be_it_a_link_or_a_device(sw, tmp_path):
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    sw.add_scalar("x", 1, 0)
    for name in ("link", "fifo"):
        sw.export_scalars(tmp_path / name)
    assert (tmp_path / "link").is_symlink()
    assert os.read(reader, 10_000) == (tmp_path / "file").read_bytes() != b""
    os.close(reader)


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
    assert histogram.sum == pytest.approx(exact.sum(), rel=1e-12)
    assert histogram.sum_squares == pytest.approx((exact**2).sum(), rel=1e-12)


def test_histogram_may_be_that_of_a_parameter(sw, tmp_path):
    parameter = mx.gluon.Parameter("weight", shape=(2, 3), init=mx.init.One())
    parameter.initialize()
    sw.add_histogram("x", parameter)
    assert read_log(tmp_path).Histograms("x")[0].histogram_value.num == 6


def test_rule_may_make_up_to_10_000_bins(sw, tmp_path):
    sw.add_histogram("x", [*range(1000), 9e5], bins="fd")
    assert len(read_log(tmp_path).Histograms("x")[0].histogram_value.bucket) > 8000


def test_histogram_leaves_out_what_is_no_finite_number_and_counts_it(sw, tmp_path):
    values = np.array([1, np.nan, 2, np.inf, 4, -np.inf, 1e39])
    with pytest.warns(UserWarning, match="x: 4 NaN") as caught:
        sw.add_histogram("x", values, bins=3)
    assert caught[0].filename == __file__
    (event,) = read_log(tmp_path).Histograms("x")
    assert list(event.histogram_value.bucket) == [1, 1, 1]
    assert (event.histogram_value.num, event.histogram_value.sum) == (3, 7)


NEXT_TO_1 = {dtype: np.nextafter(dtype(1), dtype(2)) for dtype in (np.float32, np.float64)}
# Values, bins, and the buckets that TensorBoard shows of them: lower limit, upper limit, count.
HISTOGRAMS = {
    "zeros in bins": (np.zeros(5), 1000, [[0, 0, 5]]),
    "zeros by a rule": (np.zeros(5), "auto", [[0, 0, 5]]),
    "zeros by default": (np.zeros(5), "default", [[0, 0, 5]]),
    "small constant": (np.full(5, 1e-30), 1000, [[1e-30, 1e-30, 5]]),
    "large constant": (np.full(5, -1e30), 1000, [[-1e30, -1e30, 5]]),
    "one number": (7, 1000, [[7, 7, 1]]),
    "neighbors in float64": ([1, NEXT_TO_1[np.float64]], 1000, [[1, 1, 2]]),
    "beyond an edge": ([5], [0, 1, 2], [[5, 5, 1]]),
    "beyond both edges": ([-3, 0.5, 5, 6], [0, 1, 2], [[-3, 1, 2], [1, 6, 2]]),
    "below the first edge": ([-3, 0.5], (0, 1, 2), [[-3, 0.5, 2]]),
    "edges far away": ([1, 2, 2.5], [-9, -5, 0, 2, 4, 5, 9], [[1, 2, 1], [2, 2.5, 2]]),
    "infinite edges": ([1, 2, 9], np.array([-np.inf, 2, np.inf]), [[1, 2, 1], [2, 9, 2]]),
}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Log HISTOGRAMS; return the buckets that TensorBoard's default loader shows, by tag."""
    logdir = tmp_path_factory.mktemp("histograms")
    with SummaryWriter(logdir) as sw:
        for tag, (values, bins, _) in HISTOGRAMS.items():
            sw.add_histogram(tag, values, bins=bins)
        sw.add_histogram("default", [-1e25, -1e-3, 2e-3, 1e25])
        sw.add_histogram("neighbors in float32", np.array([1, NEXT_TO_1[np.float32]]), bins=1000)
    with serve(logdir) as url:
        path = "plugin/histograms/histograms?run=.&tag="
        tags = json.loads(ask(url, "plugin/histograms/tags"))["."]
        return {tag: json.loads(ask(url, path + quote(tag)))[0][2] for tag in tags}


@pytest.mark.parametrize("tag", HISTOGRAMS)
def test_histogram_is_shown_from_the_smallest_to_the_largest_value_with_all_between(tag, shown):
    _, _, buckets = HISTOGRAMS[tag]
    np.testing.assert_allclose(shown[tag], buckets, rtol=1e-6)


def test_default_bins_show_small_and_huge_values_together(shown):
    left, right, counts = np.transpose(shown["default"])
    assert (left <= right).all() and (left[1:] == right[:-1]).all()
    full = counts > 0
    assert counts[full].tolist() == [1, 1, 1, 1]
    assert (left[full] <= [-1e25, -1e-3, 2e-3, 1e20]).all()
    assert (right[full] >= [-1e20, -1e-3, 2e-3, 1e25]).all()
    assert (abs(left - right)[full][1:3] < 2e-4).all()


def test_neighbors_in_float32_are_counted_apart(shown):
    first, *_, last = shown["neighbors in float32"]
    assert (first[2], last[2]) == (1, 1)


def logged_sound(logdir):
    """Return what TensorBoard plays: samples (N, channels) int16, and its event."""
    (event,) = read_log(logdir).Audio("x")
    with wave.open(io.BytesIO(event.encoded_audio_string)) as file:
        assert file.getframerate() == event.sample_rate
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return samples.reshape(-1, file.getnchannels()), event


def draw_sound(shape):
    sound = np.rint(32767 * np.sin(np.arange(800) / 9))
    sound[:2] = 32767, -32767
    return sound.reshape(shape)


SOUNDS = pytest.mark.parametrize("shape", [(800,), (1, 800, 1), (2, 400)])


@EVERY_ARRAY
@SOUNDS
@pytest.mark.parametrize(("dtype", "off_by"), [("float64", 1), ("float32", 1), ("float16", 20)])
def test_audio_comes_back_as_it_went_in(dtype, off_by, shape, to_array, sw, tmp_path):
    sound = draw_sound(shape)
    sw.add_audio("x", to_array((sound / 32767).astype(dtype)), 8000, 3)
    samples, event = logged_sound(tmp_path)
    channels = 2 if shape == (2, 400) else 1
    assert (event.step, event.sample_rate, event.length_frames) == (3, 8000, 800 // channels)
    assert abs(samples - sound.reshape(channels, -1).T).max() <= off_by


@SOUNDS
def test_audio_of_16_bits_comes_back_exactly(shape, sw, tmp_path):
    sound = draw_sound(shape).astype(np.int16)
    sw.add_audio("x", sound)
    samples, event = logged_sound(tmp_path)
    assert (samples.T.ravel() == sound.ravel()).all() and event.sample_rate == 44100


def test_samples_out_of_range_are_clipped_and_counted(sw, tmp_path):
    with pytest.warns(UserWarning, match="x: 3 samples") as caught:
        sw.add_audio("x", [1.01, -3, np.inf, 1, -1, 0.5])
    assert caught[0].filename == __file__
    samples, _ = logged_sound(tmp_path)
    assert samples[:, 0].tolist() == [32767, -32767, 32767, 32767, -32767, 16384]


@EVERY_ARRAY
@pytest.mark.parametrize("thresholds", [2, 11, 200])
@pytest.mark.parametrize("weighted", [False, True])
def test_precision_recall_curve_is_that_of_the_predictions(
    thresholds, weighted, to_array, sw, tmp_path
):
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 2, (40, 5)), rng.random((40, 5)).astype(np.float32)
    weights = rng.random((40, 1)).astype(np.float32) if weighted else np.ones((1, 1))
    arrays = [to_array(array) for array in (labels, predictions)]
    sw.add_pr_curve("x", *arrays, thresholds, 3, to_array(weights) if weighted else None)
    log = read_log(tmp_path)
    (event,) = log.Tensors("x")
    assert event.step == 3
    assert log.SummaryMetadata("x").plugin_data.plugin_name == "pr_curves"
    positive = predictions >= np.linspace(0, 1, thresholds)[:, None, None] - 1e-7
    counts = [
        ((positive == said) & (labels == true)) * weights
        for said, true in ((True, 1), (True, 0), (False, 0), (False, 1))
    ]
    tp, fp, tn, fn = (count.sum(axis=(1, 2)) for count in counts)
    expected = [tp, fp, tn, fn, tp / np.maximum(tp + fp, 1e-7), tp / (tp + fn)]
    np.testing.assert_allclose(make_ndarray(event.tensor_proto), expected, atol=1e-4)


FAR = [*range(1000), 1.1e6]  # 11,000 bins
ONES, REAL = np.ones(3), "expected real numbers, not"
REFUSED = [
    *(("scalar", each, REAL) for each in (None, "1", 1j, np.array("1"), ("a", None), ("a", "b"))),
    *(
        ("scalar", each, "expected one number, not 2")
        for each in ([[1], [2]], {"a": 1, "b": [1, 2]})
    ),
    *(("scalar", each, "expected one number, not") for each in ([], (1, 2, 3), mx.nd.ones(3), ())),
    ("histogram", (np.full(3, np.nan), None, 5), "none of its 3 values is finite in float32"),
    ("histogram", (np.zeros(0), None, 5), "none of its 0 values is finite"),
    ("histogram", (mx.nd.array([np.inf]),), "none of its 1 values is finite"),
    ("histogram", ([1e39], None, 5), "none of its 1 values is finite"),
    *(("histogram", (each,), REAL) for each in ([1, 2 + 1j], ["1"], [1, None])),
    *(
        ("histogram", (FAR, None, each), "10,000 bins: give their number")
        for each in ("auto", "fd")
    ),
    *(
        ("histogram", ([1, 2], None, each), "edges of bins")
        for each in ([], [1], [2, 1], [0, np.nan, 2], [[0, 1], [1, 2]])
    ),
    *(
        ("audio", (np.zeros(shape),), rf"samples \(N,\) or \(2, N\), not \({shape}")
        for shape in ((3, 9), (9, 2), (2, 0), 0)
    ),
    ("audio", ([np.nan, 0, np.nan],), "2 of 3 are NaN"),
    ("audio", (np.zeros(9, np.int32),), "floats in .* or int16, not int32"),
    ("audio", (np.zeros(9, complex),), REAL),
    *(
        ("audio", (ONES, each), f"sample_rate={each} .the step is global_step")
        for each in (0, 5, 999)
    ),
    ("PR curve", (ONES, ONES, 1), "1 thresholds are fewer than 2"),
    ("PR curve", (np.arange(10), np.ones(10), 5), "8 of 10 labels are not 0 or 1"),
    ("PR curve", ([0, 1, np.nan], ONES, 5), "1 of 3 labels are not 0 or 1"),
    ("PR curve", (ONES, [-2, 0.5, 7], 5), r"2 of 3 predictions are not in \[0, 1\]"),
    ("PR curve", (ONES, [np.nan, 0.5, 1], 5), r"1 of 3 predictions are not in \[0, 1\]"),
    ("PR curve", (np.ones((3, 1)), ONES, 5), r"labels \(3, 1\), but predictions \(3,\)"),
    ("PR curve", (ONES, ONES, 5, None, [np.inf, -1, np.nan]), "3 of 3 weights are negative, NaN"),
    ("PR curve", (ONES, np.ones(3, complex), 5), REAL),
]


@pytest.mark.parametrize(("kind", "arguments", "words"), REFUSED)
def test_what_cannot_be_shown_is_refused_with_the_reason_and_nothing_is_logged(
    kind, arguments, words, sw, tmp_path
):
    if kind == "scalar":
        arguments = (arguments,)
    name = {"PR curve": "curve"}.get(kind, kind)
    with pytest.raises(ValueError, match=f"^{name} my_tag: .*{words}"):
        getattr(sw, f"add_{kind.replace(' ', '_').lower()}")("my_tag", *arguments)
    assert len(list(tmp_path.iterdir())) == 1 and not events(tmp_path)


def test_text_that_is_no_str_is_named(sw):
    with pytest.raises(TypeError, match="text x: .* str, not 5"):
        sw.add_text("x", 5)


def test_names_that_are_not_utf8_are_shown_with_replacement_characters(tmp_path):
    odd = os.fsdecode(b"\xff")
    with SummaryWriter(tmp_path / odd) as sw:
        for kind in KINDS:
            ADD[kind](sw, odd + kind)
        sw.add_text(odd, odd)
        sw.add_embedding(odd, np.eye(2))
    (tmp_path / odd).rename(tmp_path / "log")  # for TensorBoard, which cannot read it otherwise
    assert log_tags(tmp_path / "log") == {"\ufffd", *(f"\ufffd{kind}" for kind in KINDS)}
    assert read_text(read_log(tmp_path / "log"), "\ufffd") == "\ufffd"
    assert find(tmp_path / "log" / "\ufffd", "tensors.bytes").exists()


def test_hparams_are_logged_once_with_their_values_and_the_metrics_at_each_step(sw, tmp_path):
    settings = {"lr": np.float32(0.5), "optimizer": "sgd", "nesterov": True, "seed": None}
    settings |= {"layers": [3, 4], "data": Path("data"), "clip": float("inf")}
    for step in range(3):
        sw.add_hparams(settings, {"valid_acc": mx.nd.array([step / 4])}, step)
    log = read_log(tmp_path)
    content = {tag: data.plugin_data.content for tag, data in log.summary_metadata.items()}
    start = content[metadata.SESSION_START_INFO_TAG]
    given = metadata.parse_session_start_info_plugin_data(start).hparams.items()
    experiment = metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG])
    assert {name: getattr(value, value.WhichOneof("kind")) for name, value in given} == {
        **{"lr": 0.5, "optimizer": "sgd", "nesterov": True},
        **{"layers": "[3, 4]", "data": "data", "clip": "inf"},
    }
    kinds = {info.name: api_pb2.DataType.Name(info.type) for info in experiment.hparam_infos}
    text = dict.fromkeys(("optimizer", "layers", "data", "clip"), "DATA_TYPE_STRING")
    assert kinds == {"lr": "DATA_TYPE_FLOAT64", "nesterov": "DATA_TYPE_BOOL", **text}
    assert [info.name.tag for info in experiment.metric_infos] == ["valid_acc"]
    scalars = log.Scalars("valid_acc")
    assert [(event.step, event.value) for event in scalars] == [(0, 0), (1, 0.25), (2, 0.5)]


def test_other_hparams_in_the_same_log_are_refused(sw):
    sw.add_hparams({"lr": 0.1}, {"valid_acc": 1}, 0)
    for hparams, metrics in (({"lr": 0.2}, {"valid_acc": 1}), ({"lr": 0.1}, {"loss": 1})):
        with pytest.raises(ValueError, match="in a folder of its own"):
            sw.add_hparams(hparams, metrics, 1)
