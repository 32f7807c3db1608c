"""Makes MXNet's wheel for Linux on 64-bit Arm load, which needs libraries that it does not bring.

`libmxnet.so` is linked with three libraries of Arm's. It calls 51 functions of BLAS and LAPACK from
the first of them, and none from the other two. The OpenBLAS in OpenCV's wheel has all of these
functions under the same names.

The dynamic loader does not search for a library if one that is already loaded has its name (glibc
compares DT_NEEDED with DT_SONAME). So we load three libraries without code under those names. Each
needs that OpenBLAS, which is where the loader then finds the functions that MXNet calls.
"""

import ctypes
import re
import struct
import tempfile
from pathlib import Path

ARM_LIBRARIES = ("libarmpl_lp64_mp.so", "libamath.so", "libastring.so")

# From the ELF specification, as in /usr/include/elf.h and `man 5 elf`.
ET_DYN = 3
EM_AARCH64 = 183
PT_LOAD, PT_DYNAMIC, PT_GNU_STACK = 1, 2, 0x6474E551
PF_W, PF_R = 2, 4
DT_NULL, DT_NEEDED, DT_STRTAB, DT_SYMTAB, DT_STRSZ, DT_SYMENT, DT_SONAME = 0, 1, 5, 6, 10, 11, 14
HEADER_SIZE, SEGMENT_SIZE, SYMBOL_SIZE = 64, 56, 24
# Segments must be aligned to the kernel's page size, which is 4, 16 or 64 KiB on Arm.
LARGEST_PAGE = 1 << 16


def prepare():
    """Load stand-ins for Arm's libraries, so that MXNet can be imported."""
    import cv2  # loads the OpenBLAS in its wheel

    mapped_files = Path("/proc/self/maps").read_text()
    openblas = re.search(r"/opencv_\w+\.libs/(libopenblas\S+)$", mapped_files, re.MULTILINE)
    if not openblas:  # as in Debian's build of OpenCV
        raise ImportError(
            f"MXNet needs the OpenBLAS in OpenCV's wheel, and {cv2.__file__} comes without it: "
            "pip install opencv-python-headless"
        )
    # oneDNN calls BLAS from all of OpenMP's threads at once. The OpenBLAS in OpenCV, 0.3.3, locks
    # its buffers for that, even where it is built without threads. With its own threads, which
    # OpenCV 5 gives it, it may be wrong on Arm: https://github.com/OpenMathLib/OpenBLAS/issues/2363
    ctypes.CDLL(openblas[1]).openblas_set_num_threads(1)
    for soname in ARM_LIBRARIES:
        load(make_library(soname, needed=openblas[1]))


def make_library(soname, needed, machine=EM_AARCH64):
    """Return a shared library, as bytes, that is called `soname`, has no code, and needs `needed`.

    `machine` is the processor, as ELF's ``e_machine`` numbers it.
    """
    strings = b"\0" + soname.encode() + b"\0" + needed.encode() + b"\0"
    strings += bytes(-len(strings) % 8)  # what comes after them is aligned to 8 bytes
    symbols_start = HEADER_SIZE + 3 * SEGMENT_SIZE
    strings_start = symbols_start + SYMBOL_SIZE
    dynamic_start = strings_start + len(strings)
    entries = {
        DT_SONAME: strings.index(soname.encode()),
        DT_NEEDED: strings.index(needed.encode()),
        DT_STRTAB: strings_start,
        DT_STRSZ: len(strings),
        DT_SYMTAB: symbols_start,
        DT_SYMENT: SYMBOL_SIZE,
        DT_NULL: 0,
    }
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in entries.items())
    size = dynamic_start + len(dynamic)

    header = struct.pack("<16sHHI", b"\x7fELF\2\1\1", ET_DYN, machine, 1)
    header += struct.pack("<QQQI", 0, HEADER_SIZE, 0, 0)  # no code to start at, no sections
    header += struct.pack("<HHHHHH", HEADER_SIZE, SEGMENT_SIZE, 3, 0, 0, 0)
    segments = _segment(PT_LOAD, 0, size, LARGEST_PAGE)
    segments += _segment(PT_DYNAMIC, dynamic_start, len(dynamic), 8)
    # Without it glibc takes the stack to be for code, and from 2.41 on refuses the library on x86.
    segments += _segment(PT_GNU_STACK, 0, 0, 16)
    symbols = bytes(SYMBOL_SIZE)  # only the null symbol, with which every symbol table begins
    return header + segments + symbols + strings + dynamic


def _segment(kind, start, size, alignment):
    # Writable, because the loader turns the offsets in the dynamic section into addresses there.
    return struct.pack("<IIQQQQQQ", kind, PF_R | PF_W, start, start, start, size, size, alignment)


def load(library):
    """Load a shared library from its content, until the process ends."""
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(library)
        file.flush()
        ctypes.CDLL(file.name)
