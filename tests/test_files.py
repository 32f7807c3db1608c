import os
import subprocess
import sys

from mxcompat.files import atomic_write, part_folder, read_file

import pytest
from helpers import ROOT, contents, script_env


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
    assert [path.name for path in (tmp_path / ".part").iterdir()] == ["kept"]
    with atomic_write([tmp_path / "other"]) as (temporary,):
        temporary.write_bytes(b"new")
    assert contents(tmp_path) == {"kept": b"old", "other": b"new"}


def test_folder_is_written_to_by_one_at_a_time(tmp_path):
    code = f"""
import time
from mxcompat.files import part_folder
with part_folder({str(tmp_path)!r}) as part:
    (part / "mine").touch()
    print("ready", flush=True)
    time.sleep(0.5)
    print((part / "mine").exists(), flush=True)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=script_env()) as other:
        other.stdout.readline()
        with part_folder(tmp_path) as part:
            assert not list(part.iterdir())
            os.set_blocking(other.stdout.fileno(), False)
            assert other.stdout.read() == b"True\n"


def test_reader_of_the_old_file_is_not_disturbed_by_the_new_one(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old content")
    with open(path, "rb", buffering=0) as reader:
        assert reader.read(3) == b"old"
        with atomic_write([path]) as (temporary,):
            temporary.write_bytes(b"new")
        assert reader.read() == b" content"
    assert path.read_bytes() == b"new"
