"""MXNet's files of arrays, read and written with NumPy: MXNet trusts their sizes blindly."""

import math
import struct

import numpy as np

LIST_MAGIC = 0x112
# What an array begins with: since MXNet 0.12, since 1.0, and under np_shape; before, with its rank.
OLD_MAGIC, MAGIC, NP_SHAPE_MAGIC = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
DTYPES = ("f4", "f8", "f2", "u1", "i4", "i1", "i8", "?", "i2", "u2", "u4", "u8")
LARGEST_RANK = 32


def parse_arrays(content):
    """Return the list, or the dict by name, of the arrays in a file's content: views of its bytes.

    A `ValueError` says in what the content is damaged, or that it is another kind of file.
    """
    position = 0

    def read(form):
        nonlocal position
        values = struct.unpack_from(f"<{form}", content, position)
        position += struct.calcsize(f"<{form}")
        return values

    def take(length):
        nonlocal position
        if not 0 <= length <= len(content) - position:
            raise ValueError("an array or a name reaches beyond the end of the file")
        position += length
        return content[position - length : position]

    content, arrays = memoryview(content), []
    try:
        magic, _, count = read("QQQ")
        if magic != LIST_MAGIC:
            raise ValueError("no list of arrays")
        for _ in range(count):
            (first,) = read("I")
            if first in (MAGIC, NP_SHAPE_MAGIC) and read("i") != (0,):
                raise ValueError("a sparse array")
            is_old = first not in (OLD_MAGIC, MAGIC, NP_SHAPE_MAGIC)
            rank = first if is_old else read("i")[0]
            if not 1 <= rank <= LARGEST_RANK:
                raise ValueError(f"an array of rank {rank}")
            shape = read(f"{rank}{'I' if is_old else 'q'}")
            *_, dtype = read("iii")  # The first two are the device.
            dtype = np.dtype(DTYPES[dtype]).newbyteorder("<")
            size = math.prod(shape) if min(shape) > 0 else -1
            arrays.append(np.frombuffer(take(size * dtype.itemsize), dtype).reshape(shape))
        names = [bytes(take(*read("Q"))).decode() for _ in range(*read("Q"))]
    except (struct.error, IndexError) as error:
        raise ValueError("the file ends too early, or has an unknown dtype") from error
    if position != len(content) or len(names) not in (0, count):
        raise ValueError("the file is longer than what it holds")
    return dict(zip(names, arrays)) if names else arrays


def write_array(file, array):
    """Write an array to a binary file as `mx.nd.save` does a list of one."""
    head = LIST_MAGIC, 0, 1, MAGIC, 0, array.ndim, *array.shape
    kind = [np.dtype(name) for name in DTYPES].index(array.dtype)
    file.write(struct.pack(f"<QQQIii{array.ndim}qiii", *head, 1, 0, kind))  # on CPU 0
    file.write(np.ascontiguousarray(array).data)
    file.write(struct.pack("<Q", 0))  # no names
