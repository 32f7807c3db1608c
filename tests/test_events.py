import itertools
import os
import shutil
import subprocess
import sys
import threading

import google_crc32c
import pytest
from helpers import ROOT, read_log, script_env
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


HANDLER = """
import signal, sys
import mxcompat
from mxboard import SummaryWriter
with SummaryWriter(sys.argv[1]) as sw:
    handled = []
    def log(number, frame):
        handled.append(0)
        sw.add_scalar("handler", len(handled), len(handled))
    signal.signal(signal.SIGALRM, log)
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    for step in range(20_000):
        sw.add_scalar("main", step, step)
    signal.setitimer(signal.ITIMER_REAL, 0)
print(len(handled))
"""


def test_signal_handler_may_log_while_its_thread_does(tmp_path):
    command = [sys.executable, "-c", HANDLER, str(tmp_path)]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=script_env(), timeout=60
    )
    handled = int(result.stdout)
    log = read_log(tmp_path)
    assert [event.value for event in log.Scalars("main")] == list(range(20_000))
    assert len(log.Scalars("handler")) == handled > 10


def test_writer_that_is_closed_by_another_thread_says_that_it_is_closed(tmp_path):
    for _ in range(50):
        sw = SummaryWriter(tmp_path)
        thread = threading.Thread(target=sw.close)
        thread.start()
        with pytest.raises(ValueError, match="is closed"):
            for step in itertools.count():
                sw.add_scalar("x", step, step)
        thread.join()


def test_log_that_was_deleted_is_an_error_of_the_next_call(tmp_path):
    with SummaryWriter(tmp_path / "log") as sw:
        sw.add_scalar("x", 1, 0)
        shutil.rmtree(tmp_path / "log")
        with pytest.raises(FileNotFoundError, match="the log was deleted.*events.out"):
            sw.add_scalar("x", 2, 1)


def test_event_that_found_no_room_leaves_nothing_behind(small_disk):
    sw = SummaryWriter(small_disk)
    sw.add_scalar("x", 1, 0)
    (file,) = small_disk.iterdir()
    size = file.stat().st_size
    with pytest.raises(OSError, match="No space left on device"):
        sw.add_text("too much", "x" * 1_000_000)
    assert file.stat().st_size == size
    sw.close()
