"""Files of arrays: ``.params``, and all that ``mx.nd.save`` writes."""

import contextlib
import math
import mmap
import os
import struct

import numpy as np

LIST_MAGIC = 0x112
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA  # what arrays begin with; at first, their rank
DTYPES = ("f4", "f8", "f2", "u1", "i4", "i1", "i8", "b1", "i2", "u2", "u4", "u8", "bfloat16")
SAVED_DTYPES = DTYPES[:8]  # not the ones that only MXNet 2 knows
LARGEST_RANK = 64  # NumPy's


def load(file):
    """Read the arrays of a file that any version of MXNet wrote, as `mx.nd.load` does.

    The arrays are mapped, not copied: the file must not change while they are in use. Changing them
    does not change the file.

    Parameters
    ----------
    file : path, bytes, bytearray or memoryview
        The file's path, or its content.

    Returns
    -------
    dict of str to numpy.ndarray, or list of numpy.ndarray
        By name, with ``arg:`` and ``aux:`` where they are, or a list if there are no names.
        bfloat16 becomes float32; row_sparse and csr become dense.

    Raises
    ------
    ValueError
        The file is damaged, or of another kind; the message says where.
    """
    is_content = isinstance(file, (bytes, bytearray, memoryview))
    reader = _Reader(memoryview(file if is_content else map_file(file)).cast("B"))
    try:
        magic, _, count = reader.numbers("3Q")
        if magic != LIST_MAGIC:
            raise ValueError("not a file of MXNet's arrays")
        arrays = [reader.array() for _ in range(count)]
        names = [reader.text() for _ in range(*reader.numbers("Q"))]
        if len(names) not in (0, count) or reader.position < len(reader.content):
            raise ValueError("the file should end with the last array's name")
    except (ValueError, IndexError, MemoryError) as error:
        source = "content" if is_content else os.fspath(file)
        raise ValueError(f"{source}, byte {reader.position}: {error}") from error
    return dict(zip(names, arrays)) if names else arrays


def save(path, arrays):
    """Write arrays to a file that every MXNet reads, whole or not at all.

    Parameters
    ----------
    path : path
        On Windows, not that of a file whose arrays are in use.
    arrays : dict of str to array_like, or list of array_like
        float16, float32, float64, uint8, int8, int32, int64 or bool.

    Raises
    ------
    ValueError
        MXNet has no such dtype, or an array has no dimension or no value.
    """
    named = arrays if isinstance(arrays, dict) else dict(enumerate(arrays))
    named = {name: np.asarray(array) for name, array in named.items()}
    for name, array in named.items():
        if array.dtype.str[1:] not in SAVED_DTYPES or not array.ndim or not array.size:
            raise ValueError(f"MXNet has no {array.dtype} of shape {array.shape}: {name}")
    with write_whole(path) as file:
        file.write(struct.pack("<3Q", LIST_MAGIC, 0, len(named)))
        for array in named.values():
            dtype = SAVED_DTYPES.index(array.dtype.str[1:])
            head = V2, 0, array.ndim, *array.shape, 1, 0, dtype  # dense, of CPU 0
            file.write(struct.pack(f"<Iii{array.ndim}q3i", *head))
            file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
        names = [name.encode() for name in arrays] if isinstance(arrays, dict) else []
        file.write(struct.pack("<Q", len(names)))
        for name in names:
            file.write(struct.pack("<Q", len(name)) + name)


class _Reader:
    """Reads one thing after another; a size that reaches beyond the end is a ValueError."""

    def __init__(self, content):
        self.content = content
        self.position = 0

    def take(self, size):
        """Go past the next bytes; return where they begin."""
        left = len(self.content) - self.position
        if size > left:
            raise ValueError(f"{size} bytes should follow, but only {left} do")
        self.position += size
        return self.position - size

    def numbers(self, form):
        start = self.take(struct.calcsize(f"<{form}"))
        return struct.unpack_from(f"<{form}", self.content, start)

    def text(self):
        start = self.take(*self.numbers("Q"))
        return str(self.content[start : self.position], "utf-8")

    def shape(self, rank=None, form="q"):
        rank = self.numbers("i")[0] if rank is None else rank
        shape = self.numbers(f"{rank}{form}") if 0 <= rank <= LARGEST_RANK else (-1,)
        if min(shape, default=0) < 0:
            raise ValueError(f"an array of rank {rank} and shape {shape}")
        return shape

    def dtype(self):
        (number,) = self.numbers("i")
        if not 0 <= number < len(DTYPES):
            raise ValueError(f"an array of unknown dtype {number}")
        return DTYPES[number]

    def values(self, dtype, shape):
        """Return the next bytes as an array, a view of them unless they are bfloat16."""
        stored = np.dtype("<u2" if dtype == "bfloat16" else f"<{dtype}")
        start = self.take(math.prod(shape) * stored.itemsize)
        array = np.ndarray(shape, stored, self.content, start)
        if dtype == "bfloat16":  # the upper half of a float32
            wide = array.ravel().astype(np.uint32) << np.uint32(16)
            array = wide.view(np.float32).reshape(shape)
        return array

    def array(self):
        (version,) = self.numbers("I")
        (storage,) = self.numbers("i") if version in (V2, V3) else (0,)
        if storage not in (0, 1, 2):  # dense, row_sparse, csr: as many arrays of indices
            raise ValueError(f"an array of unknown storage type {storage}")
        if storage:
            self.shape()  # of the values; MXNet goes by that of the indices, and so must we
        shape = self.shape() if version in (V1, V2, V3) else self.shape(version, "I")
        if not shape and version != V3:
            raise ValueError("an array whose shape MXNet did not know")
        self.numbers("2i")  # the device
        dtype = self.dtype()
        kinds = [(self.dtype(), self.shape()) for _ in range(storage)]
        if not kinds:
            return self.values(dtype, shape)
        values = self.values(dtype, kinds[-1][1] + shape[storage:])
        return _make_dense(shape, values, *[self.values(*kind) for kind in kinds])


def _make_dense(shape, values, *indices):
    """Return an array with the values where the indices say, and zeros elsewhere."""
    dense = np.zeros(shape, values.dtype)  # whose memory is taken where it is written to
    places = indices[-1:]  # rows of a row_sparse array, columns of a csr array
    if len(indices) == 2:  # The first says where each row begins among the columns.
        rows = np.searchsorted(indices[0], np.arange(values.size), side="right") - 1
        places = rows, *places
    dense[places] = values
    return dense


@contextlib.contextmanager
def write_whole(path):
    """Open a binary file that takes the path's place once it is written."""
    part = f"{os.fspath(path)}.{os.getpid()}.part"
    try:
        with open(part, "wb") as file:
            yield file
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(part)
        raise


def map_file(path, access=mmap.ACCESS_COPY):
    """Return a file's bytes, which are read when they are used."""
    with open(path, "rb") as file:
        is_empty = not os.fstat(file.fileno()).st_size  # which cannot be mapped
        content = b"" if is_empty else mmap.mmap(file.fileno(), 0, access=access)
    if content[:23] == b"version https://git-lfs":
        raise ValueError(f"{os.fspath(path)} is a Git LFS pointer: run git lfs pull")
    return content
