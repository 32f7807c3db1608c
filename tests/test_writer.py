import io
import json
import os
import wave
from fractions import Fraction

import mxnet as mx
import numpy as np
import pytest
from conftest import read_log, read_text
from mxboard import SummaryWriter
from tensorboard.util.tensor_util import make_ndarray


def test_text_comes_back_as_it_went_in(tmp_path):
    with SummaryWriter(str(tmp_path)) as sw:
        sw.add_text("notes", "**bold** — 你好")
    assert read_text(read_log(tmp_path), "notes") == "**bold** — 你好"


def to_ndarray(array):
    return mx.nd.array(array, dtype=array.dtype)


BOTH_ARRAYS = pytest.mark.parametrize("to_array", [np.array, to_ndarray], ids=["numpy", "ndarray"])


@pytest.mark.parametrize(
    "value",
    [
        *(0.5, 2, True, np.float32(0.5), np.float16(2), np.int64(-3), 2**70, Fraction(1, 4)),
        *(np.array(0.5), np.array([7]), np.array([[0.25]], np.float16)),
        *(mx.nd.array([0.5]), mx.nd.array([[3]], dtype="int32"), mx.np.array(1.5)),
    ],
    ids=repr,
)
def test_scalar_may_be_any_single_number(value, tmp_path):
    with SummaryWriter(str(tmp_path)) as sw:
        sw.add_scalar("x", value, np.int64(3))
    (event,) = read_log(tmp_path).Scalars("x")
    number = value.asnumpy() if hasattr(value, "asnumpy") else value
    assert (event.step, event.value) == (3, float(np.ravel(number)[0]))


@pytest.mark.parametrize(
    "value",
    [
        {"train": 1, "valid": mx.nd.array([2])},
        [("train", np.array([1])), ["valid", np.float32(2)]],
    ],
    ids=["dict", "pairs"],
)
def test_curves_in_one_plot_each_have_a_log(value, tmp_path):
    with SummaryWriter(str(tmp_path)) as sw:
        for named in [value] if isinstance(value, dict) else value:
            sw.add_scalar("accuracy", named, 5)
    for name, number in (("train", 1), ("valid", 2)):
        (event,) = read_log(tmp_path / "accuracy" / name).Scalars("accuracy")
        assert (event.step, event.value) == (5, number)


@pytest.mark.parametrize(
    "value",
    [
        *(None, "1", 1j, [1], (1, 2, 3), [[1], [2]], [], np.ones(2), np.array([]), np.array("1")),
        *(mx.nd.ones(3), {"a": "b"}, ("a", None)),
    ],
    ids=repr,
)
def test_what_is_no_scalar_is_refused_by_its_tag(value, tmp_path):
    with SummaryWriter(str(tmp_path)) as sw, pytest.raises(ValueError, match="my_tag"):
        sw.add_scalar("my_tag", value, 0)


def test_exported_scalars_are_those_that_were_added_since_they_were_cleared(tmp_path):
    with SummaryWriter(str(tmp_path / "logs")) as sw:
        sw.add_scalar("x", 1, 0)
        sw.clear_scalar_dict()
        sw.add_scalar("x", np.array([2]), 1)
        sw.add_scalar("x", {"a": mx.nd.array([3])}, 2)
        sw.export_scalars(str(tmp_path / "scalars.json"))
    exported = json.loads((tmp_path / "scalars.json").read_text())
    points = {path[len(sw.get_logdir()) :]: points for path, points in exported.items()}
    assert {path: [point[1:] for point in of_one] for path, of_one in points.items()} == {
        "/x": [[1, 2.0]],
        "/x/a": [[2, 3.0]],
    }


@BOTH_ARRAYS
@pytest.mark.parametrize("bins", [7, [-4, -1, 0.5, 4], np.array([-4, 0, 4.5]), "auto", "default"])
def test_histogram_is_numpys(bins, to_array, tmp_path):
    values = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32).clip(-4, 4)
    with SummaryWriter(str(tmp_path)) as sw:
        sw.add_histogram("x", to_array(values), 3, bins=bins)
    (event,) = read_log(tmp_path).Histograms("x")
    histogram = event.histogram_value
    if isinstance(bins, str) and bins == "default":
        assert len(histogram.bucket) == 1548 and sum(histogram.bucket) == 100
    else:
        counts, edges = np.histogram(values.astype(float), bins=bins)
        assert list(histogram.bucket) == counts.tolist()
        assert list(histogram.bucket_limit) == edges[1:].tolist()
    assert (event.step, histogram.num) == (3, 100)
    assert (histogram.min, histogram.max) == (values.min(), values.max())
    assert histogram.sum == pytest.approx(values.sum(), abs=1e-4)
    assert histogram.sum_squares == pytest.approx((values**2).sum())


def test_histogram_leaves_out_what_is_no_finite_number_and_counts_it(tmp_path):
    values = np.array([1, np.nan, 2, np.inf, 4, -np.inf])
    with SummaryWriter(str(tmp_path)) as sw, pytest.warns(UserWarning, match="x: 3 ") as caught:
        sw.add_histogram("x", values, bins=3)
    assert caught[0].filename == __file__
    (event,) = read_log(tmp_path).Histograms("x")
    assert list(event.histogram_value.bucket) == [1, 1, 1]
    assert (event.histogram_value.num, event.histogram_value.sum) == (3, 7)


@pytest.mark.parametrize("values", [np.full(3, np.nan), np.zeros(0), mx.nd.array([np.inf])])
def test_histogram_of_no_finite_number_is_refused_by_its_tag(values, tmp_path):
    with SummaryWriter(str(tmp_path)) as sw, pytest.raises(ValueError, match="my_tag"):
        sw.add_histogram("my_tag", values)


@BOTH_ARRAYS
@pytest.mark.parametrize("shape", [(800,), (1, 800, 1)])
def test_audio_comes_back_as_it_went_in(shape, to_array, tmp_path):
    sound = np.sin(np.arange(800) / 9).astype(np.float32)
    with SummaryWriter(str(tmp_path)) as sw:
        sw.add_audio("x", to_array(sound.reshape(shape)), 8000, 3)
    (event,) = read_log(tmp_path).Audio("x")
    with wave.open(io.BytesIO(event.encoded_audio_string)) as file:
        assert (file.getnchannels(), file.getframerate()) == (1, 8000)
        samples = np.frombuffer(file.readframes(800), "<i2")
    assert (event.step, event.length_frames) == (3, 800)
    assert abs(samples / 32767 - sound).max() < 1e-4


@BOTH_ARRAYS
@pytest.mark.parametrize("thresholds", [2, 11, 200])
@pytest.mark.parametrize("weighted", [False, True])
def test_precision_recall_curve_is_that_of_the_predictions(
    thresholds, weighted, to_array, tmp_path
):
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 2, (40, 5)), rng.random((40, 5)).astype(np.float32)
    weights = rng.random((40, 1)).astype(np.float32) if weighted else np.ones((1, 1))
    with SummaryWriter(str(tmp_path)) as sw:
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


def test_precision_recall_curve_of_one_threshold_is_refused_by_its_tag(tmp_path):
    with SummaryWriter(str(tmp_path)) as sw, pytest.raises(ValueError, match="my_tag"):
        sw.add_pr_curve("my_tag", np.ones(3), np.ones(3), 1)


def test_names_that_are_not_utf8_are_shown_with_replacement_characters(tmp_path):
    odd = os.fsdecode(b"\xff")
    with SummaryWriter(str(tmp_path / odd)) as sw:
        sw.add_text(odd, odd)
        sw.add_image(odd, np.zeros((2, 2), np.uint8))
    (tmp_path / odd).rename(tmp_path / "log")  # for TensorBoard, which cannot read it otherwise
    log = read_log(tmp_path / "log")
    assert log.Tags()["images"] == ["\ufffd"] and read_text(log, "\ufffd") == "\ufffd"
