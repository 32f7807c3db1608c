import os
import shutil
import signal
from unittest import mock

import google_crc32c
import pytest
from helpers import read_log
from mxboard import SummaryWriter
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow


def values(path, tag="x"):
    return [event.value for event in read_log(path).Scalars(tag)]


def test_two_writers_in_one_folder_never_share_a_file(sw, tmp_path):
    with SummaryWriter(tmp_path) as other:
        for step in range(100):
            sw.add_scalar("x", step, step)
            other.add_scalar("x", -step, step)
    logged = [values(file) for file in tmp_path.iterdir()]
    assert sorted(logged) == [[-step for step in range(100)], [*range(100)]]


def test_event_that_finds_no_room_leaves_nothing_behind_and_the_log_goes_on(small_disk):
    with SummaryWriter(small_disk) as sw:
        (file,) = small_disk.iterdir()
        size = file.stat().st_size
        with pytest.raises(OSError, match=f"No space left on device.*{file}"):
            sw.add_text("too much", "x" * 1_000_000)
        assert file.stat().st_size == size
        sw.add_scalar("x", 7, 1)
    assert values(small_disk) == [7]


def test_log_that_was_deleted_is_an_error_of_the_next_call(sw, tmp_path):
    shutil.rmtree(tmp_path)
    with pytest.raises(FileNotFoundError, match="the log was deleted.*events.out"):
        sw.add_scalar("x", 2, 1)


def test_closed_writer_says_so_and_goes_on_in_new_files_once_it_is_reopened(sw, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for number in (1, 2):
        sw.add_scalar("x", number, number)
        sw.add_scalar("x", {"a": number}, number)
        sw.close()
        for value in (0, {"a": 0}, {"b": 0}):
            with pytest.raises(ValueError, match="closed: reopen"):
                sw.add_scalar("x", value)
        assert len(os.listdir("/proc/self/fd")) == before - 1
        sw.reopen()
    sw.reopen()  # An open one stays as it is.
    assert len(list(tmp_path.rglob("events*"))) == 5
    assert values(tmp_path) == values(tmp_path / "x" / "a") == [1, 2]


def test_checksum_of_an_event_is_computed_in_c(sw):
    assert pywrap_tensorflow.crc32c is google_crc32c.value and google_crc32c.implementation == "c"
    with mock.patch.object(pywrap_tensorflow, "crc32c", wraps=google_crc32c.value) as crc32c:
        sw.add_text("x", "x" * 100_000)
    assert max(len(call.args[0]) for call in crc32c.call_args_list) > 100_000


def test_forked_process_is_told_to_open_a_writer_of_its_own(sw, tmp_path):
    sw.add_scalar("x", 1, 0)
    child = os.fork()
    if not child:
        try:
            sw.add_scalar("x", 2, 1)
        except RuntimeError as error:
            (tmp_path / "said").write_text(str(error))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    said = (tmp_path / "said").read_text()
    assert f"opened by process {os.getpid()}, and this is process {child}" in said
    assert values(tmp_path) == [1]


def test_signal_handler_may_log_while_its_thread_does(sw, tmp_path):
    handled = []

    def log(number, frame):
        handled.append(number)
        sw.add_scalar("handler", 1, len(handled))

    signal.signal(signal.SIGALRM, log)
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    try:
        for step in range(20_000):
            sw.add_scalar("main", step, step)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert values(tmp_path, "main") == [*range(20_000)]
    assert len(values(tmp_path, "handler")) == len(handled) > 10
