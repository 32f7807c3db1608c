import os

import google_crc32c
import pytest
from helpers import read_log
from mxboard import SummaryWriter
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c


def test_two_writers_in_one_folder_never_share_a_file(tmp_path):
    with SummaryWriter(tmp_path) as first, SummaryWriter(tmp_path) as second:
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


def test_reopened_writer_goes_on_in_a_new_file(tmp_path):
    sw = SummaryWriter(tmp_path)
    sw.add_scalar("x", 1, 0)
    sw.close()
    sw.reopen()
    sw.add_scalar("x", 2, 1)
    sw.close()
    values = [read_log(file).Scalars("x")[0].value for file in tmp_path.iterdir()]
    assert sorted(values) == [1, 2]


def test_closed_writer_says_so_instead_of_losing_a_point(tmp_path):
    sw = SummaryWriter(tmp_path)
    sw.close()
    with pytest.raises(ValueError, match="closed: reopen"):
        sw.add_scalar("x", 1, 0)


def test_checksum_is_the_one_of_the_format_and_is_computed_in_c():
    assert google_crc32c.implementation == "c"
    # RFC 3720, B.4: 32 bytes of zeros; then masked as in TensorFlow's record format.
    crc = 0x8A9136AA
    assert masked_crc32c(bytes(32)) == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_forked_process_is_told_to_open_a_writer_of_its_own(tmp_path):
    sw = SummaryWriter(tmp_path)
    sw.add_scalar("x", 1, 0)
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
