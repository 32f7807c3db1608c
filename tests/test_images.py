import io

import cv2
import mxnet as mx
import numpy as np
import pytest
from helpers import EVERY_ARRAY, decode, grid, read_log
from mxboard.summary import _make_image
from mxboard.utils import _prepare_image
from PIL import Image


@pytest.fixture
def log_image(sw, tmp_path):
    """Log pictures; return what TensorBoard shows, (H, W, 3) of RGB, and the file it is in."""

    def log_image(image):
        sw.add_image("x", image, 3)
        event = read_log(tmp_path).Images("x")[-1]
        pixels = decode(event).astype(int)
        assert (event.step, event.height, event.width) == (3, *pixels.shape[:2])
        return pixels, event.encoded_image_string

    return log_image


SHAPES = [(5, 7), (1, 5, 7), (3, 5, 7), (1, 1, 5, 7), (1, 3, 5, 7), (3, 1, 5, 7), (20, 3, 5, 7)]


@EVERY_ARRAY
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_pictures_are_laid_out_as_by_mxboard(dtype, shape, to_array, log_image):
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    image = image.astype(np.float32) / 255 if dtype == "float32" else image
    pixels, expected = log_image(to_array(image))[0], _prepare_image(image).asnumpy()
    assert pixels.shape == expected.shape
    # MXBoard cuts off what ours rounds.
    assert abs(pixels - expected).max() <= (dtype == "float32")


OFF = 1 / 512  # what makes no difference in 8 bits
DTYPES = [
    ("int8", [0, 127], [0, 127]),
    ("int32 int64 uint64", [0, 255], [0, 255]),
    ("float16 float32 float64", [-OFF, 0.999, 1 + OFF], [0, 255, 255]),
    ("bool", [0, 1], [0, 255]),
]


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [(dtype, *values) for dtypes, *values in DTYPES for dtype in dtypes.split()],
)
def test_picture_may_be_of_any_real_dtype(dtype, values, expected, log_image):
    assert log_image(np.array([values], dtype))[0][0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros(3), r"not \(3,\)$"),
        (np.zeros((1, 0, 4)), r"not \(1, 0, 4\)$"),
        (np.zeros((8, 2, 4, 4)), r"not \(8, 2, 4, 4\)$"),  # is it two channels, or two rows?
        (np.array([[np.nan]]), "not float64 from nan to nan"),
        (np.array([[-0.01]]), "not float64 from -0.01"),
        (np.array([[1.01]]), r"integers in \[0, 255\] or .* not float64 from 1.01 to 1.01"),
        (np.array([[-1, 256]]), "int64 from -1 to 256"),
        ([["a"]], "real numbers, not <U1"),
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
    channels, last, batch, to_array, log_image
):
    values = np.random.default_rng(0).random((*batch, channels, 6, 7))
    image = to_array(np.moveaxis(values, -3, -1) if last else values)
    with pytest.raises(ValueError, match="convert it by ") as raised:
        log_image(image)
    line = str(raised.value).split("convert it by ")[1]
    converted, _ = log_image(eval(line, {"np": np, "image": image}))
    assert (converted == log_image(values[..., :3, :, :])[0]).all()


@pytest.mark.parametrize(("height", "kind", "off_by"), [(293, "PNG", 0), (294, "JPEG", 4)])
def test_picture_is_logged_exactly_up_to_16_mib_and_as_jpeg_beyond(height, kind, off_by, log_image):
    batch = np.zeros((64, 3, height, 293), np.uint8)
    batch[:] = np.linspace(0, 255, 293)
    pixels, content = log_image(batch)
    encoded = Image.open(io.BytesIO(content))
    assert (encoded.format, pixels.size > 16 * 2**20) == (kind, kind == "JPEG")
    # The first step of brightness at a quality of 90.
    assert kind == "PNG" or encoded.quantization[0][0] == 3
    inner = np.s_[10 : height - 6, 10:287]  # clear of the black border, which JPEG blurs
    assert abs(pixels[inner] - grid(batch)[inner].astype(int)).max() <= off_by


def test_large_picture_that_is_too_long_for_jpeg_is_a_png(log_image):
    _, content = log_image(np.zeros((3, 65_600, 100), np.uint8))
    assert content.startswith(b"\x89PNG")


NOISE = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), np.uint8)
FLAT, SMOOTH = (
    [cv2.resize(each[:6, :6], (64, 64), interpolation=how) for each in NOISE]
    for how in (cv2.INTER_NEAREST, cv2.INTER_CUBIC)
)


@pytest.mark.parametrize("pictures", [FLAT, SMOOTH, NOISE], ids=["flat", "smooth", "noise"])
def test_log_of_pictures_is_no_more_than_a_quarter_larger_than_mxboards(pictures, log_image):
    batch = np.moveaxis(pictures, -1, 1)
    published = len(_make_image(_prepare_image(batch)).encoded_image_string)
    assert len(log_image(batch)[1]) <= 1.25 * published


@pytest.mark.parametrize(("count", "columns"), [(256, 8), (257, 17), (1000, 32), (1024, 32)])
def test_more_than_256_pictures_are_a_square(count, columns, log_image):
    batch = np.zeros((count, 3, 6, 5), np.uint8)
    batch[:] = (np.arange(count) % 251)[:, None, None, None]
    assert (log_image(batch)[0] == grid(batch, columns)).all()
