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


def this_machine():
    """Return the processor that this Python was built for, from the header of its file."""
    return struct.unpack_from("<H", Path(sys.executable).read_bytes(), 18)[0]


def read_elf(option, path):
    """Return what binutils say about a file, and make sure that they do not complain."""
    if not shutil.which("readelf"):
        pytest.skip("needs readelf, of binutils")
    result = subprocess.run(
        ["readelf", "--wide", option, path],
        capture_output=True,
        text=True,
        check=True,
        env=script_env(LC_ALL="C"),
    )
    assert result.stderr == ""
    return result.stdout


@pytest.fixture
def library(tmp_path):
    """Write the library that takes the place of Arm's BLAS; return its path."""
    path = tmp_path / "library.so"
    path.write_bytes(arm.make_library(SONAME, NEEDED))
    return path


def test_library_is_a_shared_object_for_aarch64(library):
    header = read_elf("--file-header", library)
    fields = dict(re.findall(r"^ *(.+?): +(.+?) *$", header, re.MULTILINE))
    assert fields["Class"] == "ELF64"
    assert fields["Data"] == "2's complement, little endian"
    assert fields["Type"] == "DYN (Shared object file)"
    assert fields["Machine"] == "AArch64"


def test_library_has_one_name_and_needs_one_library(library):
    dynamic = read_elf("--dynamic", library)
    entries = dict(re.findall(r"\((NEEDED|SONAME)\).*\[(.+)\]", dynamic))
    assert entries == {"SONAME": SONAME, "NEEDED": NEEDED}
    assert "no relocations" in read_elf("--relocs", library)


def test_segments_lie_in_the_file_and_fit_kernels_with_pages_of_64_kib(library):
    segments = read_elf("--program-headers", library)
    (load,) = re.findall(r"^ *LOAD +(\S+) (\S+) \S+ (\S+) (\S+) +(\w+) +(\S+)$", segments, re.M)
    size = library.stat().st_size
    offset, address, file_size, memory_size = (int(number, 16) for number in load[:4])
    assert (offset, address, file_size, memory_size) == (0, 0, size, size)
    assert load[4:] == ("RW", "0x10000")
    (stack,) = re.findall(r"^ *GNU_STACK .* (\w+) +\S+$", segments, re.M)
    assert stack == "RW"  # glibc 2.41 refuses a library that asks for a stack with code


def test_library_for_this_processor_is_loaded_and_found_by_its_name():
    name = "libmxcompat_test_by_name.so"
    with pytest.raises(OSError, match=f"{name}: cannot open shared object file"):
        ctypes.CDLL(name)
    arm.load(arm.make_library(name, needed="libc.so.6", machine=this_machine()))
    assert ctypes.CDLL(name).getpid() == os.getpid()  # found in the library that it needs


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
def test_library_that_needs_it_loads_and_calls_the_functions_of_the_one_behind_it(tmp_path):
    def build(source, name, *options):
        (tmp_path / "source.c").write_text(source)
        command = ["gcc", "-shared", "-fPIC", "-o", name, f"-Wl,-soname,{name}", "source.c"]
        subprocess.run([*command, *options], cwd=tmp_path, check=True)
        return tmp_path / name

    absent, behind, user = (f"libmxcompat_test_{name}.so" for name in ("absent", "behind", "user"))
    present = build("int answer(void) { return 42; }", behind)
    linked = build("int answer(void) { return 0; }", absent)
    caller = build("int answer(void); int ask(void) { return answer(); }", user, linked)
    linked.unlink()
    with pytest.raises(OSError, match=f"{absent}: cannot open shared object file"):
        ctypes.CDLL(str(caller))
    ctypes.CDLL(str(present))
    arm.load(arm.make_library(absent, needed=behind, machine=this_machine()))
    assert ctypes.CDLL(str(caller)).ask() == 42


def test_library_is_loaded_from_a_disk_whose_files_may_not_be_executed(tmp_path, monkeypatch):
    mount = ["mount", "-t", "tmpfs", "-o", "noexec", "tmpfs", tmp_path]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    name = "libmxcompat_test_noexec.so"
    try:
        arm.load(arm.make_library(name, needed="libc.so.6", machine=this_machine()))
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)
    assert ctypes.CDLL(name).getpid() == os.getpid()  # found in the library that it needs


def test_opencv_without_openblas_is_an_error_that_says_what_to_install(tmp_path):
    (tmp_path / "cv2.py").write_text("def __getattr__(name): return 0")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from mxcompat import arm; arm.prepare()"
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        capture_output=True,
        text=True,
        env=script_env(),
        cwd=ROOT,
    )
    last = result.stderr.splitlines()[-1]
    assert last.startswith("ImportError: MXNet needs the OpenBLAS in OpenCV's wheel, and ")
    assert last.endswith(" install opencv-python-headless")
