import io

import cv2
import mxnet as mx
import numpy as np
import pytest
from helpers import decode, grid, read_log
from mxboard import SummaryWriter
from mxboard.summary import _make_image
from mxboard.utils import _prepare_image
from PIL import Image


@pytest.fixture
def sw(tmp_path):
    with SummaryWriter(tmp_path) as sw:
        yield sw


TO_ARRAYS = [np.array, lambda x: mx.nd.array(x, dtype=x.dtype), np.ndarray.tolist, tuple]
SHAPES = [(5, 7), (1, 5, 7), (3, 5, 7), (1, 1, 5, 7), (1, 3, 5, 7), (3, 1, 5, 7), (20, 3, 5, 7)]


@pytest.mark.parametrize("to_array", TO_ARRAYS, ids=["numpy", "ndarray", "list", "tuple"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_pictures_are_laid_out_as_by_mxboard(dtype, shape, to_array, sw, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    if dtype == "float32":
        image = image.astype(np.float32) / 255
    sw.add_image("x", to_array(image), 3)
    expected = _prepare_image(image).asnumpy().astype(int)
    (event,) = read_log(tmp_path).Images("x")
    pixels = decode(event).astype(int)
    assert pixels.shape == expected.shape == (event.height, event.width, 3) and event.step == 3
    # MXBoard cuts off what ours rounds.
    assert abs(pixels - expected).max() <= (dtype == "float32")


OFF = 1 / 512  # what makes no difference in 8 bits


@pytest.mark.parametrize(
    ("dtype", "values", "pixels"),
    [
        ("int8", [0, 127], [0, 127]),
        *((dtype, [0, 255], [0, 255]) for dtype in ("int32", "int64", "uint64")),
        *((dtype, [0, 0.999, 1], [0, 255, 255]) for dtype in ("float32", "float64")),
        *((dtype, [-OFF, 1 + OFF], [0, 255]) for dtype in ("float16", "float32", "float64")),
        ("bool", [0, 1], [0, 255]),
    ],
)
def test_picture_may_be_of_any_real_dtype(dtype, values, pixels, sw, tmp_path):
    sw.add_image("x", np.array([values], dtype))
    (event,) = read_log(tmp_path).Images("x")
    assert decode(event)[0, :, 0].tolist() == pixels


@pytest.mark.parametrize(
    ("image", "words"),
    [
        *((np.zeros(3), r"not \(3,\)$"), (np.zeros((1, 1, 1, 4, 4)), r"not \(1, 1, 1, 4, 4\)$")),
        *((np.zeros((2, 4, 5)), r"not \(2, 4, 5\)$"), (np.zeros((1, 0, 4)), r"not \(1, 0, 4\)$")),
        (np.zeros((8, 2, 4, 4)), r"not \(8, 2, 4, 4\)$"),  # is it two channels, or two rows?
        (np.full((4, 4), 1.5), r"integers in \[0, 255\] or .* not float64 from 1.5 to 1.5"),
        *((np.full((1, 1), each), "not float64 from") for each in (np.nan, -0.01, 1.01)),
        (np.array([[-1, 256]]), "int64 from -1 to 256"),
        *((np.ones((4, 4), complex), "not complex128"), ([["a"]], "real numbers, not <U1")),
    ],
)
def test_what_is_no_picture_is_refused_by_what_it_is(image, words, sw, tmp_path):
    with pytest.raises(ValueError, match=f"^image grid: .*{words}"):
        sw.add_image("grid", image)
    assert read_log(tmp_path).Tags()["images"] == []


@pytest.mark.parametrize("to_array", [np.array, mx.nd.array], ids=["numpy", "ndarray"])
@pytest.mark.parametrize("batch", [(), (2,)], ids=["one", "batch"])
@pytest.mark.parametrize(("channels", "last"), [(1, True), (3, True), (4, True), (4, False)])
def test_picture_with_channels_last_or_alpha_is_refused_with_the_line_that_converts_it(
    channels, last, batch, to_array, sw, tmp_path
):
    values = np.random.default_rng(0).random((*batch, channels, 6, 7))
    image = to_array(np.moveaxis(values, -3, -1) if last else values)
    sw.add_image("x", values[..., :3, :, :])
    with pytest.raises(ValueError, match="convert it by ") as raised:
        sw.add_image("x", image)
    line = str(raised.value).split("convert it by ")[1]
    sw.add_image("x", eval(line, {"np": np, "image": image}))
    expected, converted = map(decode, read_log(tmp_path).Images("x"))
    assert (converted == expected).all()


@pytest.mark.parametrize("height", [293, 294], ids=["below", "above"])
def test_picture_is_logged_exactly_up_to_16_mib_and_as_jpeg_beyond(height, sw, tmp_path):
    batch = np.zeros((64, 3, height, 293), np.uint8)
    batch[:] = np.linspace(0, 255, 293)
    sw.add_image("x", batch)
    (event,) = read_log(tmp_path).Images("x")
    pixels = decode(event)
    assert pixels.shape == (8 * height + 18, 8 * 293 + 18, 3) == (event.height, event.width, 3)
    assert (pixels.size > 16 * 2**20) == (height == 294)
    encoded = Image.open(io.BytesIO(event.encoded_image_string))
    assert encoded.format == ("JPEG" if height == 294 else "PNG")
    if height == 294:
        assert encoded.quantization[0][0] == 3  # the first step of brightness at a quality of 90
    inner = np.s_[8:-8, 8:-8]  # clear of the black border, which JPEG blurs
    first = pixels[2 : 2 + height, 2 : 2 + 293][inner].astype(int)
    off_by = abs(first - batch[0].transpose(1, 2, 0)[inner]).max()
    assert off_by <= (4 if height == 294 else 0)


def test_large_picture_that_is_too_long_for_jpeg_is_a_png(sw, tmp_path):
    sw.add_image("x", np.zeros((3, 65_600, 100), np.uint8))
    (event,) = read_log(tmp_path).Images("x")
    assert event.encoded_image_string.startswith(b"\x89PNG")


NOISE = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), np.uint8)
KINDS = {
    "flat": [cv2.resize(each[:6, :6], (64, 64), interpolation=cv2.INTER_NEAREST) for each in NOISE],
    "smooth": [cv2.resize(each[:6, :6], (64, 64), interpolation=cv2.INTER_CUBIC) for each in NOISE],
    "noise": NOISE,
}


@pytest.mark.parametrize("kind", KINDS)
def test_log_of_pictures_is_no_more_than_a_quarter_larger_than_mxboards(kind, sw, tmp_path):
    batch = np.moveaxis(KINDS[kind], -1, 1)
    sw.add_image("x", batch)
    (event,) = read_log(tmp_path).Images("x")
    expected = len(_make_image(_prepare_image(batch)).encoded_image_string)
    assert len(event.encoded_image_string) <= 1.25 * expected


@pytest.mark.parametrize(("count", "columns"), [(256, 8), (257, 17), (1000, 32), (1024, 32)])
def test_more_than_256_pictures_are_a_square(count, columns, sw, tmp_path):
    batch = np.zeros((count, 3, 6, 5), np.uint8)
    batch[:] = (np.arange(count) % 251)[:, None, None, None]
    sw.add_image("x", batch)
    (event,) = read_log(tmp_path).Images("x")
    assert (decode(event) == grid(batch, columns)).all()
