import os
import struct
import subprocess
import sys

from common.files import load_arrays, save_arrays

from mxcompat.files import atomic_write, part_folder, read_file

import mxnet as mx
import numpy as np
import pytest
from conftest import ROOT, contents, script_env


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


def test_arrays_come_back_under_any_name(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff\xfe")
    expected = np.arange(6, dtype="float16").reshape(1, 2, 3)
    save_arrays(path, {"a": mx.nd.array(expected, dtype="float16"), "b": mx.nd.zeros(1)})
    arrays = load_arrays(path)
    assert list(arrays) == ["a", "b"] and (arrays["a"].asnumpy() == expected).all()


def test_arrays_that_mxnet_saved_before_0_12_are_loaded(tmp_path):
    head = struct.pack("<3Q3I3i", 0x112, 0, 1, 2, 2, 3, 1, 0, 0)
    values = np.arange(6, dtype="<f4")
    tail = struct.pack("<QQ", 1, 1) + b"x"
    (tmp_path / "old").write_bytes(head + values.tobytes() + tail)
    assert (load_arrays(tmp_path / "old")["x"].asnumpy().ravel() == values).all()


@pytest.mark.parametrize(
    ("position", "form", "value"),
    [
        (0, "Q", 0x113),  # what the file is
        (16, "Q", 2**40),  # how many arrays it has
        (28, "i", 1),  # that an array is sparse
        (32, "i", 2**31 - 1),  # its rank
        (32, "i", 0),
        (36, "q", -1),  # one of its dimensions
        (36, "q", 2**60),
        (60, "i", 99),  # its dtype
        (88, "Q", 2**40),  # how many names follow
        (96, "Q", 2**63),  # the length of a name
    ],
)
def test_sizes_that_do_not_fit_the_file_are_refused_before_mxnet_trusts_them(
    position, form, value, tmp_path
):
    path = tmp_path / "arrays"
    save_arrays(path, {"x": mx.nd.ones((2, 3))})
    content = bytearray(path.read_bytes())
    struct.pack_into(f"<{form}", content, position, value)
    path.write_bytes(content)
    with pytest.raises(ValueError):
        load_arrays(path)
