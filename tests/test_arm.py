import ctypes
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

from mxcompat import arm

import pytest
from helpers import ROOT, script_env

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ELF is the format of Linux")

SONAME, NEEDED = "libarmpl_lp64_mp.so", "libopenblas-r0-8966572e.3.3.so"


@pytest.fixture
def read_elf(tmp_path):
    """Return what binutils say about the library that takes the place of Arm's BLAS."""
    if not shutil.which("readelf"):
        pytest.skip("needs readelf, of binutils")
    (tmp_path / "library.so").write_bytes(arm.make_library(SONAME, NEEDED))

    def read(option):
        command = ["readelf", "--wide", option, tmp_path / "library.so"]
        env = script_env(LC_ALL="C")
        result = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        assert result.stderr == ""  # no complaints
        return result.stdout

    return read


def test_library_is_a_shared_object_for_aarch64(read_elf):
    fields = dict(re.findall(r"^ *(.+?): +(.+?) *$", read_elf("--file-header"), re.MULTILINE))
    assert (fields["Class"], fields["Data"]) == ("ELF64", "2's complement, little endian")
    assert (fields["Type"], fields["Machine"]) == ("DYN (Shared object file)", "AArch64")


def test_library_has_one_name_and_needs_one_library(read_elf):
    entries = dict(re.findall(r"\((NEEDED|SONAME)\).*\[(.+)\]", read_elf("--dynamic")))
    assert entries == {"SONAME": SONAME, "NEEDED": NEEDED}
    assert "no relocations" in read_elf("--relocs")


def test_segments_lie_in_the_file_and_fit_kernels_with_pages_of_64_kib(read_elf):
    segments = read_elf("--program-headers")
    (load,) = re.findall(r"^ *LOAD +(\S+) (\S+) \S+ (\S+) (\S+) +(\w+) +(\S+)$", segments, re.M)
    size = hex(len(arm.make_library(SONAME, NEEDED)))
    assert [hex(int(number, 16)) for number in load[:4]] == ["0x0", "0x0", size, size]
    assert load[4:] == ("RW", "0x10000")
    (stack,) = re.findall(r"^ *GNU_STACK .* (\w+) +\S+$", segments, re.M)
    assert stack == "RW"  # glibc 2.41 refuses a library that asks for a stack with code


@pytest.mark.parametrize("mounted", ["exec", "noexec"])
def test_library_is_loaded_and_found_by_its_name(mounted, small_disk, monkeypatch):
    subprocess.run(["mount", "-o", f"remount,{mounted}", small_disk], check=True)
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    name = f"libmxcompat_test_{mounted}.so"
    with pytest.raises(OSError, match=f"{name}: cannot open shared object file"):
        ctypes.CDLL(name)
    (machine,) = struct.unpack_from("<H", Path(sys.executable).read_bytes(), 18)  # this one
    arm.load(arm.make_library(name, "libc.so.6", machine))
    assert list(small_disk.iterdir()) == []
    assert ctypes.CDLL(name).getpid() == os.getpid()  # found in the library that it needs


def test_opencv_without_openblas_is_an_error_that_says_what_to_install(tmp_path):
    (tmp_path / "cv2.py").write_text("def __getattr__(name): return 0")
    code = "import platform; platform.machine = lambda: 'aarch64'; import mxcompat"
    env = script_env(PYTHONPATH=f"{tmp_path}:{ROOT}")
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, env=env)
    assert re.search(
        r"ImportError: MXNet needs the OpenBLAS in OpenCV's wheel, and .*/cv2\.py comes without it"
        r": pip install opencv-python-headless\n$",
        result.stderr,
    )
