import io
import json
import math
import os
import subprocess
import sys
import threading
import wave
from fractions import Fraction

from common.synthetic import CLASSES, draw_class

import cv2
import google_crc32c
import mxboard
import mxnet as mx
import numpy as np
import pytest
from google.protobuf import text_format
from helpers import ROOT, decode, grid, read_log, read_text, script_env
from mxboard import SummaryWriter
from mxboard.summary import _make_image
from mxboard.utils import _prepare_image
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.plugins.projector import projector_plugin
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboard.util.tensor_util import make_ndarray


def test_two_writers_in_one_folder_never_share_a_file(tmp_path):
    with SummaryWriter(str(tmp_path)) as first, SummaryWriter(str(tmp_path)) as second:
        for step in range(100):
            first.add_scalar("first", step, step)
            second.add_scalar("second", -step, step)
    files = list(tmp_path.iterdir())
    assert len(files) == 2
    points = [read_log(file).Tags()["scalars"] for file in files]
    assert sorted(points) == [["first"], ["second"]]
    for file in files:
        (tag,) = read_log(file).Tags()["scalars"]
        sign = 1 if tag == "first" else -1
        assert [event.value for event in read_log(file).Scalars(tag)] == [
            sign * step for step in range(100)
        ]


def test_full_disk_is_an_error_of_the_call_that_meets_it_and_leaves_whole_events(small_disk):
    sw = SummaryWriter(str(small_disk))
    with pytest.raises(OSError, match="No space left on device.*small_disk/events"):
        for step in range(100_000):
            sw.add_scalar("x", step, step)
    count = step
    sw.close()
    steps = [event.step for event in read_log(small_disk).Scalars("x")]
    assert len(steps) > 100 and steps == list(range(count))


def test_log_goes_on_after_an_event_that_found_no_room(small_disk):
    sw = SummaryWriter(str(small_disk))
    with pytest.raises(OSError, match="No space left on device"):
        sw.add_text("too much", "x" * 1_000_000)
    sw.add_scalar("x", 7, 1)
    sw.close()
    assert [event.value for event in read_log(small_disk).Scalars("x")] == [7]


def test_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as raised:
        SummaryWriter(str(tmp_path / "file"))
    assert str(raised.value.filename) == str(tmp_path / "file")


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


@pytest.mark.parametrize("kind", ["symbol", "block"])
def test_graph_holds_the_layers_of_a_symbol_or_a_block(kind, tmp_path):
    net = mx.gluon.nn.HybridSequential(prefix="")
    net.add(mx.gluon.nn.Dense(3, activation="relu", prefix="one_"))
    if kind == "symbol":
        net = net(mx.sym.Variable("data"))
    else:
        net.initialize()
        net.hybridize()
        net(mx.nd.ones((1, 2)))
    with SummaryWriter(str(tmp_path)) as sw:
        sw.add_graph(net)
    inputs = {node.name: list(node.input) for node in read_log(tmp_path).Graph().node}
    assert inputs["one_fwd/one_fwd"] == ["data", "one_fwd/one_weight", "one_fwd/one_bias"]
    assert inputs["one_relu_fwd/one_relu_fwd"] == ["one_fwd/one_fwd"]


def test_reopened_writer_goes_on_in_a_new_file(tmp_path):
    sw = SummaryWriter(str(tmp_path))
    sw.add_scalar("x", 1, 0)
    sw.close()
    sw.reopen()
    sw.add_scalar("x", 2, 1)
    sw.close()
    values = [read_log(file).Scalars("x")[0].value for file in tmp_path.iterdir()]
    assert sorted(values) == [1, 2]


def test_closed_writer_says_so_instead_of_losing_a_point(tmp_path):
    sw = SummaryWriter(str(tmp_path))
    sw.close()
    with pytest.raises(ValueError, match="closed: reopen"):
        sw.add_scalar("x", 1, 0)


def test_what_was_flushed_is_on_the_disk_before_close(tmp_path):
    sw = SummaryWriter(str(tmp_path))
    sw.add_scalar("x", 7, 0)
    sw.flush()
    assert read_log(tmp_path).Scalars("x")[0].value == 7
    sw.close()


@pytest.mark.parametrize(
    "shape",
    [(5, 7), (1, 5, 7), (3, 5, 7), (1, 1, 5, 7), (1, 3, 5, 7), (3, 1, 5, 7), (20, 3, 5, 7)],
)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_pictures_are_laid_out_as_by_mxboard(shape, dtype, tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, shape).astype(np.uint8)
    if dtype == "float32":
        image = image.astype(np.float32) / 255
    with SummaryWriter(str(tmp_path)) as sw:
        sw.add_image("array", image, 3)
        sw.add_image("ndarray", mx.nd.array(image, dtype=dtype), 3)
    expected = _prepare_image(image).asnumpy().astype(int)
    log = read_log(tmp_path)
    for tag in ("array", "ndarray"):
        (event,) = log.Images(tag)
        assert event.step == 3
        pixels = decode(event).astype(int)
        assert pixels.shape == expected.shape == (event.height, event.width, 3)
        # MXBoard cuts off what ours rounds.
        assert abs(pixels - expected).max() <= (dtype == "float32")


@pytest.mark.parametrize(
    "image",
    [np.zeros(3), np.zeros((2, 4, 4)), np.full((4, 4), 1.5), np.full((4, 4), np.nan)],
)
def test_what_is_no_picture_is_refused(image, tmp_path):
    with SummaryWriter(str(tmp_path)) as sw, pytest.raises(ValueError):
        sw.add_image("x", image)


def test_checksum_is_the_one_of_the_format_and_is_computed_in_c():
    assert google_crc32c.implementation == "c"
    # RFC 3720, B.4: 32 bytes of zeros; then masked as in TensorFlow's record format.
    crc = 0x8A9136AA
    assert masked_crc32c(bytes(32)) == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_writer_is_mxboards(tmp_path):
    assert issubclass(SummaryWriter, mxboard.SummaryWriter)


@pytest.mark.parametrize(
    ("height", "magic", "off_by"),
    [(293, b"\x89PNG", 0), (294, b"\xff\xd8\xff", 4)],
    ids=["below", "above"],
)
def test_picture_is_logged_exactly_up_to_16_mib_and_as_jpeg_beyond(height, magic, off_by, tmp_path):
    batch = np.zeros((64, 3, height, 293), np.uint8)
    batch[:] = np.linspace(0, 255, 293)
    with SummaryWriter(str(tmp_path)) as sw:
        sw.add_image("x", batch)
    (event,) = read_log(tmp_path).Images("x")
    pixels = decode(event)
    assert pixels.shape == (8 * height + 18, 8 * 293 + 18, 3) == (event.height, event.width, 3)
    assert (pixels.size > 16 * 2**20) == (height == 294)
    assert event.encoded_image_string.startswith(magic)
    inner = np.s_[8:-8, 8:-8]  # clear of the black border, which JPEG blurs
    first = pixels[2 : 2 + height, 2 : 2 + 293][inner].astype(int)
    assert abs(first - batch[0].transpose(1, 2, 0)[inner]).max() <= off_by


def test_log_of_pictures_is_no_more_than_a_quarter_larger_than_mxboards(tmp_path):
    photos = [draw_class(name, 1)[:64, :64].transpose(2, 0, 1) for name in CLASSES]
    maps = [draw_class(name, 2).mean(axis=2, keepdims=True).transpose(2, 0, 1) for name in CLASSES]
    for number, batch in enumerate((np.uint8(photos), np.uint8(maps))):
        with SummaryWriter(str(tmp_path / str(number))) as sw:
            sw.add_image("x", batch)
        (event,) = read_log(tmp_path / str(number)).Images("x")
        expected = len(_make_image(_prepare_image(batch)).encoded_image_string)
        assert len(event.encoded_image_string) <= 1.25 * expected


@pytest.mark.parametrize(("count", "columns"), [(256, 8), (257, 17), (1000, 32), (1024, 32)])
def test_more_than_256_pictures_are_a_square(count, columns, tmp_path):
    batch = np.zeros((count, 3, 6, 5), np.uint8)
    batch[:] = (np.arange(count) % 251)[:, None, None, None]
    with SummaryWriter(str(tmp_path)) as sw:
        sw.add_image("x", batch)
    (event,) = read_log(tmp_path).Images("x")
    assert (decode(event) == grid(batch, columns)).all()


class Projected:
    """An embedding as TensorBoard's projector reads it."""

    def __init__(self, logdir, name):
        self.logdir = logdir
        self.names = [entry.tensor_name for entry in read_projector_config(logdir).embeddings]
        (self.entry,) = (
            entry for entry in read_projector_config(logdir).embeddings if entry.tensor_name == name
        )

    @property
    def vectors(self):
        # The plugin's own way of telling raw from text.
        path = str(self.logdir / self.entry.tensor_path)
        try:
            return projector_plugin._read_tensor_tsv_file(path)
        except UnicodeDecodeError:
            return projector_plugin._read_tensor_binary_file(path, self.entry.tensor_shape)

    @property
    def labels(self):
        # Its browser part skips lines that look empty, and takes a tab in the first for a header.
        lines = (self.logdir / self.entry.metadata_path).read_text("utf-8").splitlines()
        assert "\t" not in lines[0]
        return [line for line in lines if line.strip()]

    @property
    def sprites(self):
        """The pictures of the sheet, (side * side, H, W, 3)."""
        width, height = self.entry.sprite.single_image_dim
        sheet = cv2.imread(str(self.logdir / self.entry.sprite.image_path))[:, :, ::-1]
        assert max(sheet.shape) <= 8192
        side = sheet.shape[0] // height
        assert sheet.shape == (side * height, side * width, 3)
        cells = sheet.reshape(side, height, side, width, 3).swapaxes(1, 2)
        return cells.reshape(side * side, height, width, 3)


def read_projector_config(logdir):
    return text_format.Parse((logdir / "projector_config.pbtxt").read_text(), ProjectorConfig())


def smooth_pictures(count, height=24, width=16):
    """Draw pictures that JPEG hardly changes: each a color that grows brighter downwards."""
    colors = np.random.default_rng(1).integers(0, 200, (count, 3, 1, 1))
    return np.broadcast_to(colors + np.arange(height)[:, None], (count, 3, height, width)).astype(
        np.uint8
    )


@pytest.mark.parametrize("to_array", [np.array, lambda x: mx.nd.array(x, dtype=x.dtype)])
@pytest.mark.parametrize("count", [1, 10, 16])
def test_projector_gets_every_vector_with_its_own_label_and_picture(count, to_array, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(count, 7)).astype(np.float32)
    labels = np.arange(count, dtype=np.int32) * 3
    images = smooth_pictures(count)
    with SummaryWriter(str(tmp_path)) as sw:
        sw.add_embedding("x", to_array(vectors), to_array(labels), to_array(images))
    projected = Projected(tmp_path, "x")
    assert list(projected.entry.tensor_shape) == [count, 7]
    assert (projected.vectors == vectors).all()
    assert projected.labels == [str(label) for label in labels]
    assert len(projected.sprites) == math.ceil(math.sqrt(count)) ** 2
    sprites = projected.sprites[:count].astype(int)
    assert abs(sprites - images.transpose(0, 2, 3, 1)).max() <= 8


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_sprites_may_be_gray_or_floats(dtype, tmp_path):
    images = np.linspace(0, 255, 5 * 8 * 8).reshape(5, 1, 8, 8).astype(np.uint8)
    logged = images if dtype == "uint8" else images.astype(np.float32) / 255
    with SummaryWriter(str(tmp_path)) as sw:
        sw.add_embedding("x", np.ones((5, 2)), images=logged)
    sprites = Projected(tmp_path, "x").sprites[:5].astype(int)
    assert abs(sprites - images.transpose(0, 2, 3, 1)).max() <= 8


def test_labels_that_are_no_single_word_stay_on_their_own_row(tmp_path):
    labels = [
        "a\tb",
        "c\nd",
        "e\r\nf",
        "",
        " \t",
        "g\u2028h\x85i",
        "  j  k ",
        "你好",
        "\udcff",
        7,
        None,
    ]
    with SummaryWriter(str(tmp_path)) as sw:
        sw.add_embedding("x", np.ones((len(labels), 2)), labels=labels)
    assert Projected(tmp_path, "x").labels == [
        *("a b", "c d", "e f", "-", "-", "g h i", "j k", "你好", "?", "7", "None")
    ]


HEADER = ["name", "digit"]
ROWS = [["a\tb", 7], ["", 8.5], ["c", "x"]]


@pytest.mark.parametrize(
    ("labels", "lines"),
    [
        ([HEADER, *ROWS], ["name\tdigit", "a b\t7", "-\t8.5", "c\tx"]),
        (np.array([HEADER, *ROWS], object), ["name\tdigit", "a b\t7", "-\t8.5", "c\tx"]),
        (
            np.array([("x", "y"), ("1", "2"), ("3", "4"), ("5", "6")]),
            ["x\ty", "1\t2", "3\t4", "5\t6"],
        ),
        (
            mx.nd.array([[0, 1], [2, 3], [4, 5], [6, 7]], dtype="int32"),
            ["0\t1", "2\t3", "4\t5", "6\t7"],
        ),
        ([["name"], ["a"], ["b"], ["c"]], ["a", "b", "c"]),
        ([("a",), ("b",), ("c",)], ["a", "b", "c"]),
        (mx.nd.array([[1], [2], [3]], dtype="int32"), ["1", "2", "3"]),
    ],
    ids=["list", "objects", "strings", "ndarray", "one column", "no header", "ndarray column"],
)
def test_labels_in_two_dimensions_are_a_table_whose_first_row_names_the_columns(
    labels, lines, tmp_path
):
    with SummaryWriter(str(tmp_path)) as sw:
        sw.add_embedding("x", np.ones((3, 2)), labels=labels)
    assert (tmp_path / "x" / "metadata.tsv").read_text().splitlines() == lines


@pytest.mark.parametrize(
    "labels",
    [
        *(
            ["a", "b"],
            list("abcd"),
            [],
            np.ones((3, 2)),
            [HEADER, *ROWS, ROWS[0]],
            [HEADER, *ROWS[1:]],
        ),
        *([HEADER, ["a"], ["b"], ["c"]], [["a", 1], ["b", 2], ["c", 3]], [[], [], [], []]),
        np.ones((4, 2, 2)),
    ],
)
def test_labels_that_do_not_fit_are_refused_by_the_tag(labels, tmp_path):
    with SummaryWriter(str(tmp_path)) as sw, pytest.raises(ValueError, match="my_tag"):
        sw.add_embedding("my_tag", np.ones((3, 2)), labels=labels)
    assert not (tmp_path / "my_tag").exists()


def test_logging_a_tag_again_replaces_it_and_keeps_the_others(tmp_path):
    first, second, other = (np.random.default_rng(seed).normal(size=(9, 3)) for seed in range(3))
    images = smooth_pictures(9)
    with SummaryWriter(str(tmp_path)) as sw:
        # What an older run of MXBoard's own left behind: an entry for each call.
        for _ in range(2):
            mxboard.SummaryWriter.add_embedding(sw, "x", first)
        sw.add_embedding("other", other, labels=list("abcdefghi"), images=images)
        sw.add_embedding("x", first, labels=list("abcdefghi"), images=images)
        sw.add_embedding("x", second[:4], labels=list("ABCD"))
    projected = Projected(tmp_path, "x")
    assert sorted(projected.names) == ["other", "x"]
    assert (projected.vectors == second[:4].astype(np.float32)).all()
    assert projected.labels == list("ABCD")
    assert not projected.entry.HasField("sprite")
    kept = Projected(tmp_path, "other")
    assert (kept.vectors == other.astype(np.float32)).all()
    assert kept.labels == list("abcdefghi") and len(kept.sprites) == 9


def test_step_is_part_of_the_name_as_in_mxboard(tmp_path):
    with SummaryWriter(str(tmp_path)) as sw:
        for step in (None, 0, 12):
            sw.add_embedding("x", np.ones((2, 2)), labels=["a", "b"], global_step=step)
    assert Projected(tmp_path, "x").names == ["x", "x_000000", "x_000012"]
    assert (tmp_path / "x_000012" / "metadata.tsv").read_text() == "a\nb\n"


def _late_first_byte_that_is_no_text():
    # 17 MB of zeros with a line end in them: what makes this raw lies behind what TensorBoard
    # reads at first, and behind a line of text that holds no number.
    vectors = np.zeros((17_000, 250), np.float32)
    vectors[0, 0] = np.frombuffer(b"\0\n\0\0", "<f4")[0]
    vectors[-1] = -1
    return vectors


@pytest.mark.parametrize(
    "vectors",
    [
        np.zeros((5, 4)),
        np.full((5, 4), 2.0),  # bytes 0, 0, 0 and 64
        np.array([[2.0, np.frombuffer(b"\0\n\0A", "<f4")[0]], [1e-30, -1 / 3]]),
        _late_first_byte_that_is_no_text(),
    ],
    ids=["zeros", "twos", "first line is text", "beginning is text"],
)
def test_vectors_whose_bytes_pass_for_text_still_arrive(vectors, tmp_path):
    with SummaryWriter(str(tmp_path)) as sw:
        sw.add_embedding("x", vectors)
    assert (Projected(tmp_path, "x").vectors == vectors.astype(np.float32)).all()


def test_more_pictures_than_the_largest_sprite_sheet_holds_are_shrunk(tmp_path):
    # 130 a side: of 8192 pixels, 63 for each.
    count, brightness = 16_900, np.arange(16_900) % 251
    images = np.zeros((count, 1, 10, 80), np.uint8)
    images[:] = brightness[:, None, None, None]
    with SummaryWriter(str(tmp_path)) as sw:
        sw.add_embedding("x", np.ones((count, 2)), images=images)
    projected = Projected(tmp_path, "x")
    assert list(projected.entry.sprite.single_image_dim) == [63, 7]
    centers = projected.sprites[:count, 3, 31, 0].astype(int)
    # Sprites whose sides are no multiple of JPEG's blocks run into each other a little.
    assert np.percentile(abs(centers - brightness), 95) <= 8


@pytest.mark.parametrize(
    "arguments",
    [
        {"embedding": np.ones(3)},
        {"embedding": np.ones((0, 3))},
        {"embedding": np.ones((3, 0))},
        {"embedding": np.ones((3, 2)), "labels": ["a", "b"]},
        {"embedding": np.ones((3, 2)), "labels": np.ones((3, 2))},
        {"embedding": np.ones((3, 2)), "images": np.zeros((2, 3, 4, 4), np.uint8)},
        {"embedding": np.ones((3, 2)), "images": np.zeros((3, 4, 4), np.uint8)},
        {"embedding": np.ones((3, 2)), "images": np.zeros((3, 2, 4, 4), np.uint8)},
        {"embedding": np.ones((3, 2)), "images": np.full((3, 3, 4, 4), 1.5)},
    ],
)
def test_what_does_not_fit_together_is_refused_and_nothing_is_written(arguments, tmp_path):
    with SummaryWriter(str(tmp_path)) as sw, pytest.raises(ValueError):
        sw.add_embedding("x", **arguments)
    (events,) = tmp_path.iterdir()
    assert "tfevents" in events.name


def test_full_disk_is_an_error_that_leaves_the_earlier_embedding_whole(small_disk):
    vectors = np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32)
    with SummaryWriter(str(small_disk)) as sw:
        sw.add_embedding("x", vectors, labels=range(50))
        before = {path: path.read_bytes() for path in small_disk.glob("[xp]*/*")}
        with pytest.raises(OSError, match="No space left on device") as raised:
            sw.add_embedding("x", np.tile(-vectors, (20, 1)), labels=range(1000))
    assert raised.value.filename == str(small_disk)
    assert {path: path.read_bytes() for path in small_disk.glob("[xp]*/*")} == before
    projected = Projected(small_disk, "x")
    assert (projected.vectors == vectors).all() and len(projected.labels) == 50


@pytest.mark.parametrize("content", [b"embeddings {", b"\xff\xfe"])
def test_damaged_list_of_embeddings_is_named_and_left_alone(content, tmp_path):
    path = tmp_path / "projector_config.pbtxt"
    path.write_bytes(content)
    with SummaryWriter(str(tmp_path)) as sw, pytest.raises(OSError, match="delete it") as raised:
        sw.add_embedding("x", np.ones((2, 2)))
    assert raised.value.filename == str(path)
    assert path.read_bytes() == content and not (tmp_path / "x").exists()


def test_forked_process_is_told_to_open_a_writer_of_its_own(tmp_path):
    sw = SummaryWriter(str(tmp_path))
    sw.add_scalar("x", 1, 0)
    sw.flush()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            with sw:
                sw.add_scalar("x", 2, 1)
        except RuntimeError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    said = os.read(read, 1000).decode()
    assert f"opened by process {os.getpid()}" in said and f"this is process {child}" in said
    sw.close()
    assert [event.value for event in read_log(tmp_path).Scalars("x")] == [1]


@pytest.mark.parametrize("tag", ["../x", "/x", "a/../../x", "..", "", "."])
def test_embedding_never_leaves_its_log(tag, tmp_path):
    sw = SummaryWriter(str(tmp_path / "log"))
    with sw, pytest.raises(ValueError, match="would not lie in a folder of the log"):
        sw.add_embedding(tag, np.eye(2))
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    assert len(list((tmp_path / "log").iterdir())) == 1


@pytest.mark.parametrize(
    ("shape", "words"),
    [((0, 1, 4, 4), "no shape"), ((1, 0, 4), "no shape"), ((1, 3_000_000), "3000000 is more")],
)
def test_picture_without_pixels_or_with_too_many_is_refused_by_its_tag(shape, words, tmp_path):
    sw = SummaryWriter(str(tmp_path))
    with sw, pytest.raises(ValueError, match=f"image grid: .*{words}"):
        sw.add_image("grid", np.zeros(shape, np.uint8))


def test_embeddings_that_are_logged_at_once_are_all_listed(tmp_path):
    code = f"""
import sys
import numpy as np
import mxcompat
from mxboard import SummaryWriter
with SummaryWriter({str(tmp_path)!r}) as sw:
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(10):
        sw.add_embedding(f"{{sys.argv[1]}}_{{number}}", np.eye(3))
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    others = [
        subprocess.Popen([sys.executable, "-c", code, name], cwd=ROOT, env=script_env(), **pipes)
        for name in "ab"
    ]
    for other in others:
        other.stdout.readline()
    with SummaryWriter(str(tmp_path)) as sw:
        threads = [
            threading.Thread(target=sw.add_embedding, args=(f"thread_{number}", np.eye(3)))
            for number in range(8)
        ]
        for other in others:
            other.stdin.write("\n")
            other.stdin.flush()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for other in others:
            other.communicate(timeout=60)
    config = read_projector_config(tmp_path)
    expected = {f"{name}_{number}" for name in "ab" for number in range(10)}
    expected |= {f"thread_{number}" for number in range(8)}
    assert {each.tensor_name for each in config.embeddings} == expected
    assert all((tmp_path / each.tensor_path).exists() for each in config.embeddings)


def test_names_that_are_not_utf8_are_shown_with_replacement_characters(tmp_path):
    odd = os.fsdecode(b"\xff")
    with SummaryWriter(str(tmp_path / odd)) as sw:
        sw.add_text(odd, odd)
        sw.add_image(odd, np.zeros((2, 2), np.uint8))
    (tmp_path / odd).rename(tmp_path / "log")  # for TensorBoard, which cannot read it otherwise
    log = read_log(tmp_path / "log")
    assert log.Tags()["images"] == ["\ufffd"] and read_text(log, "\ufffd") == "\ufffd"
