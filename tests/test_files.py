import fcntl
import multiprocessing
import os
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
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=[600], daemon=True)
    with locked(tmp_path):
        child.start()
    try:
        with locked(tmp_path, fcntl.LOCK_EX | fcntl.LOCK_NB):  # an error if the child keeps it
            pass
    finally:
        child.kill()


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
