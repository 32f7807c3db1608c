from common.synthetic import CLASSES, draw_class

import mxnet as mx
import numpy as np
import pytest
from conftest import decode, grid, read_log
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


@pytest.mark.parametrize(
    ("shape", "words"),
    [((0, 1, 4, 4), "no shape"), ((1, 0, 4), "no shape"), ((1, 3_000_000), "3000000 is more")],
)
def test_picture_without_pixels_or_with_too_many_is_refused_by_its_tag(shape, words, tmp_path):
    sw = SummaryWriter(str(tmp_path))
    with sw, pytest.raises(ValueError, match=f"image grid: .*{words}"):
        sw.add_image("grid", np.zeros(shape, np.uint8))


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
