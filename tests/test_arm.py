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
from helpers import ROOT, run, run_python

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ELF is the format of Linux")

SONAME, NEEDED = "libarmpl_lp64_mp.so", "libopenblas-r0-8966572e.3.3.so"
LIBRARY = arm.make_library(SONAME, NEEDED)
SIZE = f"0x{len(LIBRARY):06x}"


@pytest.mark.skipif(not shutil.which("readelf"), reason="needs readelf, of binutils")
@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--file-header", r"(?s)ELF64\n.*little endian\n.*DYN .*AArch64\n"),
        ("--dynamic", rf"(?s)\(SONAME\)[^\n]*\[{SONAME}\]\n.*\(NEEDED\)[^\n]*\[{NEEDED}\]\n"),
        ("--relocs", "no relocations"),
        # For kernels with pages of 64 KiB.
        ("--program-headers", rf"LOAD +0x000000 0x0+ 0x\w+ {SIZE} {SIZE} +RW +0x10000\n"),
        # Of glibc 2.41 and later a stack with code would get no library.
        ("--program-headers", r"GNU_STACK .* RW +0x\w+\n"),
    ],
)
def test_library_is_as_binutils_read_it(option, expected, tmp_path):
    (tmp_path / "library.so").write_bytes(LIBRARY)
    result = run("readelf", "--wide", option, tmp_path / "library.so", env={"LC_ALL": "C"})
    assert result.stderr == "" and re.search(expected, result.stdout), result.stdout


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
    error = run_python(code, env={"PYTHONPATH": f"{tmp_path}:{ROOT}"}).stderr.splitlines()[-1]
    assert error == (
        f"ImportError: MXNet needs the OpenBLAS in OpenCV's wheel, and {tmp_path / 'cv2.py'} comes "
        "without it: pip install opencv-python-headless"
    )
