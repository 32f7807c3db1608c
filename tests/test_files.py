import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mxcompat.files import atomic_write, locked, part_folder, read_file

import pytest
from helpers import ROOT, contents, files_of, script_env


def test_fifo_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="not a regular file.*fifo"):
        read_file(tmp_path / "fifo")


def test_writing_that_is_killed_is_cleaned_up_by_the_next(tmp_path):
    (tmp_path / "kept").write_bytes(b"old")
    code = f"""
import os, signal
from pathlib import Path
from mxcompat.files import atomic_write
with atomic_write([Path({str(tmp_path)!r}, "kept")]) as (temporary,):
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=script_env())
    (left,) = tmp_path.glob(".mxcompat-part-*")
    with part_folder(tmp_path):
        assert left.exists()  # It could be that of a process which has just begun.
    os.utime(left, (0, 0))
    with atomic_write([tmp_path / "other"]) as (temporary,):
        temporary.write_bytes(b"new")
    assert contents(tmp_path) == {"kept": b"old", "other": b"new"}


def hold(function, folder, seconds=60):
    """Start a process that holds a folder of its own, or a lock, for as long as it lives."""
    code = f"""
import time
from mxcompat.files import locked, part_folder
with {function}({str(folder)!r}):
    print("ready", flush=True)
    time.sleep({seconds})
"""
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=script_env())
    process.stdout.readline()
    return process


def test_folder_of_a_process_that_lives_is_left_alone_however_old(tmp_path):
    with hold("part_folder", tmp_path) as process:
        (part,) = tmp_path.iterdir()
        os.utime(part, (0, 0))
        with part_folder(tmp_path) as own:
            assert part.exists() and own != part
        process.kill()
    with part_folder(tmp_path):
        assert not part.exists()


def test_what_belongs_to_others_is_left_alone(tmp_path):
    (tmp_path / "diary").write_text("dear diary")
    (tmp_path / ".part").mkdir()
    (tmp_path / ".part" / "mine").touch()
    (tmp_path / ".mxcompat-part-link").symlink_to(tmp_path / ".part")
    before = files_of(tmp_path)
    with part_folder(tmp_path), locked(tmp_path):
        pass
    assert files_of(tmp_path) == before and (tmp_path / ".mxcompat-part-link").is_symlink()


def test_lock_is_not_followed(tmp_path):
    (tmp_path / "diary").write_text("dear diary")
    (tmp_path / ".lock").symlink_to("diary")
    with pytest.raises(OSError, match=r"\.lock"), locked(tmp_path):
        pass
    assert (tmp_path / "diary").read_text() == "dear diary"


def test_fifo_as_a_lock_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / ".lock")
    with locked(tmp_path):
        pass


def test_lock_of_another_user_can_be_taken(tmp_path, unprivileged):
    (tmp_path / ".lock").touch(0o444)
    (tmp_path / ".lock").chmod(0o444)
    code = f"from mxcompat.files import locked\nwith locked({str(tmp_path)!r}): print('in')"
    command = [*unprivileged, sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=script_env())
    assert result.stdout == "in\n", result.stderr


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="the system does not tell the holder")
def test_wait_for_a_lock_is_told_with_its_holder(tmp_path):
    process = hold("locked", tmp_path, seconds=1.5)
    told = pytest.warns(UserWarning, match=f"waiting for process {process.pid}, which has")
    with process, told, locked(tmp_path):
        pass


def test_child_that_was_forked_while_a_lock_was_held_does_not_keep_it(tmp_path):
    with locked(tmp_path):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
    try:
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.skipif(not os.access("/proc/kmsg", os.R_OK), reason="the kernel's log is not readable")
def test_file_of_the_kernel_that_never_ends_is_not_waited_for():
    assert read_file("/proc/kmsg") == b""


def test_reader_of_the_old_file_is_not_disturbed_by_the_new_one(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old content")
    with open(path, "rb", buffering=0) as reader:
        assert reader.read(3) == b"old"
        with atomic_write([path]) as (temporary,):
            temporary.write_bytes(b"new")
        assert reader.read() == b" content"
    assert path.read_bytes() == b"new"
