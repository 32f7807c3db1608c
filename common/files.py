"""Folders, and files of MXNet's arrays."""

import errno
import math
import os
import struct

from mxcompat.files import open_file

import mxnet as mx

# MXNet's files of arrays: the first number of a file and of each array in it, and the bytes that an
# item takes, by the number of its dtype.
LIST_MAGIC, OLD_ARRAY_MAGIC, ARRAY_MAGICS = 0x112, 0xF993FAC8, {0xF993FAC9, 0xF993FACA}
ITEM_SIZES = (4, 8, 2, 1, 4, 1, 8, 1, 2, 2, 4, 8, 2)
LARGEST_RANK = 32


def make_folder(path):
    """Make a folder that can be written to; an `OSError` names it otherwise."""
    os.makedirs(path, exist_ok=True)
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def native_name(file):
    """Return a name that MXNet can open a file by, which its own is not if it is not UTF-8."""
    return f"/dev/fd/{file.fileno()}"


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
