from common.synthetic import CLASSES, draw_class

import mxnet as mx
import numpy as np
import pytest
from helpers import decode, grid, read_log
from mxboard import SummaryWriter
from mxboard.summary import _make_image
from mxboard.utils import _prepare_image


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
    with SummaryWriter(tmp_path) as sw:
        sw.add_image("array", image, 3)
        sw.add_image("ndarray", mx.nd.array(image, dtype=dtype), 3)
        sw.add_image("list", image.tolist(), 3)
        sw.add_image("tuple", tuple(image), 3)
    expected = _prepare_image(image).asnumpy().astype(int)
    log = read_log(tmp_path)
    for tag in ("array", "ndarray", "list", "tuple"):
        (event,) = log.Images(tag)
        assert event.step == 3
        pixels = decode(event).astype(int)
        assert pixels.shape == expected.shape == (event.height, event.width, 3)
        # MXBoard cuts off what ours rounds.
        assert abs(pixels - expected).max() <= (dtype == "float32")


@pytest.mark.parametrize(
    "dtype", ["int8", "int32", "int64", "uint64", "float16", "float64", "bool"]
)
def test_picture_may_be_of_any_real_dtype(dtype, tmp_path):
    dtype = np.dtype(dtype)
    largest = min(np.iinfo(dtype).max, 255) if dtype.kind in "iu" else 1
    image = np.array([[0, largest]], dtype)
    with SummaryWriter(tmp_path) as sw:
        sw.add_image("x", image)
    (event,) = read_log(tmp_path).Images("x")
    assert decode(event)[0, :, 0].tolist() == [0, 127 if dtype == np.int8 else 255]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros(3), r"not \(3,\)$"),
        (np.zeros((1, 1, 1, 4, 4)), r"not \(1, 1, 1, 4, 4\)$"),
        (np.zeros((2, 4, 5)), r"not \(2, 4, 5\)$"),
        (np.zeros((0, 1, 4, 4), np.uint8), r"not \(0, 1, 4, 4\)$"),
        (np.zeros((1, 0, 4), np.uint8), r"not \(1, 0, 4\)$"),
        (np.full((4, 4), 1.5), r"integers in \[0, 255\] or .* not float64 from 1.5 to 1.5"),
        (np.full((4, 4), np.nan), "float64 from nan to nan"),
        (np.array([[-1, 256]]), "int64 from -1 to 256"),
        (np.ones((4, 4), complex), "real numbers, not complex128"),
        ([["a"]], "real numbers, not <U1"),
    ],
)
def test_what_is_no_picture_is_refused_by_what_it_is(image, words, tmp_path):
    with SummaryWriter(tmp_path) as sw, pytest.raises(ValueError, match=f"^image grid: .*{words}"):
        sw.add_image("grid", image)
    assert read_log(tmp_path).Tags()["images"] == []


@pytest.mark.parametrize("to_array", [np.array, mx.nd.array], ids=["numpy", "ndarray"])
@pytest.mark.parametrize("batch", [(), (2,)], ids=["one", "batch"])
@pytest.mark.parametrize(("channels", "last"), [(1, True), (3, True), (4, True), (4, False)])
def test_picture_with_channels_last_or_alpha_is_refused_with_the_line_that_converts_it(
    channels, last, batch, to_array, tmp_path
):
    values = np.random.default_rng(0).random((*batch, channels, 6, 7))
    image = to_array(np.moveaxis(values, -3, -1) if last else values)
    with SummaryWriter(tmp_path) as sw:
        sw.add_image("x", values[..., :3, :, :])
        with pytest.raises(ValueError, match="convert it by ") as raised:
            sw.add_image("x", image)
        line = str(raised.value).split("convert it by ")[1]
        sw.add_image("x", eval(line, {"np": np, "image": image}))
    expected, converted = map(decode, read_log(tmp_path).Images("x"))
    assert (converted == expected).all()


@pytest.mark.parametrize(
    ("height", "magic", "off_by"),
    [(293, b"\x89PNG", 0), (294, b"\xff\xd8\xff", 4)],
    ids=["below", "above"],
)
def test_picture_is_logged_exactly_up_to_16_mib_and_as_jpeg_beyond(height, magic, off_by, tmp_path):
    batch = np.zeros((64, 3, height, 293), np.uint8)
    batch[:] = np.linspace(0, 255, 293)
    with SummaryWriter(tmp_path) as sw:
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
    with SummaryWriter(tmp_path) as sw:
        sw.add_image("x", batch)
    (event,) = read_log(tmp_path).Images("x")
    assert (decode(event) == grid(batch, columns)).all()
