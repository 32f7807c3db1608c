import os
import signal
import subprocess
import sys
import time

from mxcompat.board.files import atomic_write, locked, part_folder

import pytest
from helpers import ROOT, contents, script_env

HOLD = """
import sys, time
from mxcompat.board.files import part_folder
with part_folder(sys.argv[1]) as part:
    (part / "half").touch()
    print("ready", flush=True)
    time.sleep(600)
"""


def test_part_folder_of_a_killed_process_is_removed_once_it_is_old(tmp_path):
    command, options = [sys.executable, "-c", HOLD, tmp_path], {"cwd": ROOT, "env": script_env()}
    with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as process:
        process.stdout.readline()
        (part,) = tmp_path.iterdir()
        os.utime(part, (0, 0))
        with part_folder(tmp_path) as own:
            assert part.exists() and own != part  # The process lives.
        process.kill()
    os.utime(part)
    with part_folder(tmp_path):
        assert part.exists()  # It could be that of a process which has just begun.
    os.utime(part, (0, 0))
    with part_folder(tmp_path) as own:
        assert list(tmp_path.iterdir()) == [own]
    assert not list(tmp_path.iterdir())


def test_child_that_was_forked_while_a_lock_was_held_does_not_keep_it(tmp_path):
    with locked(tmp_path):
        child = os.fork()
        if not child:
            time.sleep(600)
            os._exit(0)
    try:
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_files_are_replaced_together_or_not_at_all(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    paths[0].write_bytes(b"old content")
    with pytest.raises(KeyError), atomic_write(paths) as temporary:
        temporary[0].write_bytes(b"half")
        raise KeyError
    assert contents(tmp_path) == {"a": b"old content"}
    with open(paths[0], "rb") as reader:
        with atomic_write(paths) as temporary:
            for path in temporary:
                path.write_bytes(b"new")
        assert reader.read() == b"old content"
    assert contents(tmp_path) == {"a": b"new", "b": b"new"}


def test_files_are_renamed_in_their_order(tmp_path):
    """So that the last one, if it is there, says that all are."""
    paths = [tmp_path / name for name in "abc"]
    paths[1].mkdir()
    with pytest.raises(IsADirectoryError), atomic_write(paths) as temporary:
        for path in temporary:
            path.touch()
    assert [path.exists() for path in paths] == [True, True, False]
