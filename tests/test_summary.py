import subprocess
import sys
import time

from common import SummaryWriter

import google_crc32c
import mxboard
import mxnet as mx
import numpy as np
import pytest
from conftest import ROOT, decode, read_log, read_text, script_env
from mxboard.utils import _prepare_image
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c


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


def test_error_of_the_writing_thread_is_raised_without_a_hang_or_its_traceback(small_disk):
    code = f"""
from common import SummaryWriter
sw = SummaryWriter({str(small_disk / "thread")!r})
try:
    for step in range(100_000):
        sw.add_scalar("x", step, step)
except OSError as error:
    print(error.strerror, error.filename)
try:
    sw.close()
except OSError as error:
    print("at close:", error.strerror)
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=script_env(), timeout=60
    )
    raised, at_close = result.stdout.splitlines()
    assert raised.startswith(f"No space left on device {small_disk}/thread/events")
    assert at_close == "at close: No space left on device"
    assert result.stderr == ""
    steps = [event.step for event in read_log(small_disk / "thread").Scalars("x")]
    assert len(steps) > 100 and steps == list(range(len(steps)))


def test_error_in_the_last_event_is_raised_by_close(small_disk):
    sw = SummaryWriter(str(small_disk / "last"))
    sw.add_text("too much", "x" * 1_000_000)
    with pytest.raises(OSError, match="No space left on device"):
        sw.close()


def test_traceback_of_any_other_thread_is_still_shown():
    code = "import common, threading; threading.Thread(target=lambda: 1 / 0).start()"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert "ZeroDivisionError" in result.stderr


def test_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as raised:
        SummaryWriter(str(tmp_path / "file"))
    assert str(raised.value.filename) == str(tmp_path / "file")


def test_text_comes_back_as_it_went_in(tmp_path):
    with SummaryWriter(str(tmp_path)) as sw:
        sw.add_text("notes", "**bold** — 你好")
    assert read_text(read_log(tmp_path), "notes") == "**bold** — 你好"


def test_curves_in_one_plot_each_have_a_log(tmp_path):
    with SummaryWriter(str(tmp_path)) as sw:
        for step in range(3):
            sw.add_scalar("accuracy", {"train": step, "valid": step * 2}, step)
    for name, factor in (("train", 1), ("valid", 2)):
        events = read_log(tmp_path / "accuracy" / name).Scalars("accuracy")
        assert [event.value for event in events] == [0, factor, 2 * factor]


def test_reopened_writer_goes_on_in_a_new_file(tmp_path):
    sw = SummaryWriter(str(tmp_path))
    sw.add_scalar("x", 1, 0)
    sw.close()
    sw.reopen()
    sw.add_scalar("x", 2, 1)
    sw.close()
    values = [read_log(file).Scalars("x")[0].value for file in sorted(tmp_path.iterdir())]
    assert values == [1, 2]


def test_closed_writer_says_so_instead_of_losing_a_point(tmp_path):
    sw = SummaryWriter(str(tmp_path))
    sw.close()
    with pytest.raises(OSError, match="closed"):
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
    started = time.perf_counter()
    masked_crc32c(bytes(29_000_000))
    assert time.perf_counter() - started < 0.5


def test_writer_is_mxboards(tmp_path):
    assert issubclass(SummaryWriter, mxboard.SummaryWriter)
