"""Folders and files that are whole, or not there at all."""

import contextlib
import errno
import fcntl
import math
import os
import re
import shutil
import struct
from pathlib import Path

import mxnet as mx

# MXNet's files of arrays: the first number of a file and of each array in it, and the bytes that an
# item takes, by the number of its dtype.
LIST_MAGIC, OLD_ARRAY_MAGIC, ARRAY_MAGICS = 0x112, 0xF993FAC8, {0xF993FAC9, 0xF993FACA}
ITEM_SIZES = (4, 8, 2, 1, 4, 1, 8, 1, 2, 2, 4, 8, 2)
LARGEST_RANK = 32


def printable(name):
    """Replace what Python reads for the bytes of a file name that are not UTF-8."""
    return re.sub("[\ud800-\udfff]", "\ufffd", os.fsdecode(name))


def make_folder(path):
    """Make a folder that can be written to; an `OSError` names it otherwise."""
    os.makedirs(path, exist_ok=True)
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def open_file(path):
    """Open a file to read; an `OSError` if it is a FIFO or a device, which might never end."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return open(path, "rb")


def read_file(path):
    """Return a file's bytes; errors are those of `open_file`."""
    with open_file(path) as file:
        return file.read()


def native_name(file):
    """Return a name that MXNet can open a file by, which its own is not if it is not UTF-8."""
    return f"/dev/fd/{file.fileno()}"


@contextlib.contextmanager
def part_folder(folder):
    """Make an empty folder in a folder, for files to be written to before they are renamed.

    One process or thread at a time has it, and what a killed one left there is removed. An
    `OSError` about what is written there names the folder.
    """
    part = Path(folder, ".part")
    with open(Path(folder, ".lock"), "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir()
            yield part
        except OSError as error:
            # Errors of an open file do not say which one.
            if not error.filename or str(part) in os.fsdecode(error.filename):
                error.filename = error.filename2 or str(folder)
            raise
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def atomic_write(paths):
    """Replace files only once all the new ones are written.

    Yields temporary paths to write to. When the block ends well, each is renamed to its final path,
    in this order; when it raises, the files stay as they were. One block at a time is in the folder
    of the last path.
    """
    with part_folder(paths[-1].parent) as part:
        temporary = [part / path.name for path in paths]
        yield temporary
        for source, path in zip(temporary, paths):
            os.replace(source, path)


def save_arrays(path, arrays):
    """Write a list of MXNet's arrays; a `ValueError` says that they found no room."""
    with open(path, "wb") as file:
        mx.nd.save(native_name(file), arrays)
    with open(path, "rb") as file:
        _check_headers(file)  # MXNet does not notice when the last bytes find no room.


def load_arrays(path):
    """Return the list or dict of arrays that MXNet saved; a `ValueError` says it is damaged."""
    with open_file(path) as file:
        _check_headers(file)
        file.seek(0)  # which macOS goes on from
        return mx.nd.load(native_name(file))


def _check_headers(file):
    """Make sure that the sizes in a file of arrays fit the file, for MXNet trusts them blindly."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)

    def read(form):
        return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))

    def skip(length):
        if not 0 <= length <= end - file.tell():
            raise ValueError("an array or a name reaches beyond the end of the file")
        file.seek(length, os.SEEK_CUR)

    try:
        magic, _, count = read("QQQ")
        for _ in range(count):
            (first,) = read("I")
            dense = not (first in ARRAY_MAGICS and read("i")[0])
            # In files of MXNet before 0.12 an array begins with its rank.
            old = first not in {OLD_ARRAY_MAGIC, *ARRAY_MAGICS}
            rank = first if old else read("i")[0]
            if not (magic == LIST_MAGIC and dense and 1 <= rank <= LARGEST_RANK):
                raise ValueError("no list of dense arrays")
            shape = read(f"{rank}{'I' if old else 'q'}")
            *_, dtype = read("iii")  # The first two are the device.
            skip(ITEM_SIZES[dtype] * math.prod(shape) if min(shape) > 0 else -1)
        (names,) = read("Q")
        for _ in range(names):
            skip(*read("Q"))
    except (struct.error, IndexError) as error:
        raise ValueError("the file ends too early, or has an unknown dtype") from error
    if magic != LIST_MAGIC or names not in (0, count) or file.tell() != end:
        raise ValueError("the file is longer than what it holds")
