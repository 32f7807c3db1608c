"""RecordIO files: ``.rec``, and the ``.idx`` beside them."""

import mmap
import os
import struct
from array import array
from collections.abc import Sequence
from typing import NamedTuple, Union

import numpy as np

from .arrays import map_file

MAGIC = struct.pack("<I", 0xCED7230A)
WHOLE, FIRST, MIDDLE, LAST = range(4)  # parts: a record is split where it holds MAGIC itself
HEADER = struct.Struct("<IfQQ")  # how many labels follow, or 0 and the label; an id, and another


class Record(NamedTuple):
    """A record as `mxnet.recordio.pack` makes it; `label` is (n,) float32 if it has several."""

    label: Union[float, np.ndarray]
    id: int
    data: bytes


class Records(Sequence):
    """The records of a ``.rec`` file, in the order of the ``.idx`` beside it, or else of the file.

    Without an ``.idx`` the file is scanned once. Of insightface's collections of faces only the
    pictures are given: with an ``.idx``, ``records[0]`` has key 1. Several threads can read at
    once, and an instance that was pickled opens the file again.

    Parameters
    ----------
    path : path
        The ``.rec`` file.

    Raises
    ------
    ValueError
        A file is damaged, or of another kind; the message says where. With an ``.idx``, a damaged
        record is found when it is read.

    Examples
    --------
    >>> for label, id, data in Records("train.rec"):
    ...     picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    """

    def __init__(self, path):
        self.path = os.fspath(path)
        self._content = map_file(path, mmap.ACCESS_READ)
        index = os.path.splitext(self.path)[0] + ".idx"
        has_index = os.path.exists(index) and os.path.getsize(index)
        self._positions = self._read_index(index) if has_index else self._scan()

    def __len__(self):
        return len(self._positions)

    def __getitem__(self, i):
        """Return a `Record`."""
        content = self.read(i)
        try:
            count, label, number, _ = HEADER.unpack_from(content)
            if count:
                label = np.frombuffer(content, "<f4", count, HEADER.size).copy()
        except (struct.error, ValueError) as error:
            raise ValueError(f"{self.path}: record {i} has no label") from error
        return Record(label, number, content[HEADER.size + 4 * count :])

    def __reduce__(self):
        return type(self), (self.path,)

    def read(self, i):
        """Return a record's bytes, with the label still in them, as `MXRecordIO.read` does."""
        parts = self._parts(self._positions.item(i))
        return MAGIC.join([self._content[start:end] for start, end in parts])

    def _parts(self, position):
        """Yield where the parts of a record begin and end."""
        flags = WHOLE, FIRST
        while flags:
            start = position + 8
            if start > len(self._content) or self._content[position : position + 4] != MAGIC:
                raise ValueError(f"{self.path}: no record begins at byte {position}")
            (word,) = struct.unpack_from("<I", self._content, position + 4)
            flag, end = word >> 29, start + (word & 0x1FFFFFFF)
            if flag not in flags or end > len(self._content):
                raise ValueError(f"{self.path}: the record at byte {position} is not whole")
            yield start, end
            position = end + -end % 4
            flags = (MIDDLE, LAST) if flag in (FIRST, MIDDLE) else ()

    def _pair(self, position):
        """Return both labels of a record that has two and no data, or None.

        In insightface's files, record 0 has the first key after the pictures' and the first after
        the identities'; an identity's record has the same of its pictures.
        """
        (start, end), *_ = self._parts(position)
        if end - start == HEADER.size + 8 and self._content[start : start + 4] == b"\2\0\0\0":
            return struct.unpack_from("<2f", self._content, end - 8)
        return None

    def _read_index(self, path):
        """Return where records begin."""
        try:
            rows = np.loadtxt(path, np.int64, comments=None, usecols=(0, 1), ndmin=2)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        keys, positions = rows.T
        outside = np.flatnonzero((positions < 0) | (positions >= len(self._content)))
        if len(outside):
            line, position = outside[0] + 1, positions[outside[0]]
            raise ValueError(f"{path}, line {line}: {self.path} has no byte {position}")
        header = self._pair(positions[keys == 0].item(-1)) if 0 in keys else None
        if header:
            order = np.argsort(keys, kind="stable")
            positions = positions[order][(keys[order] > 0) & (keys[order] < header[0])]
        return positions

    def _scan(self):
        """Return where records begin."""
        positions, position = array("q"), 0
        while position < len(self._content):
            positions.append(position)
            for _, end in self._parts(position):
                position = end + -end % 4
        if positions and (self._pair(positions[0]) or self._pair(positions[-1])):
            positions = [each for each in positions if not self._pair(each)] or positions
        return np.array(positions, np.int64)
