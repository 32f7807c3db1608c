import struct

from common.arrays import DTYPES, parse_arrays, write_array

import mxnet as mx
import numpy as np
import pytest

NUMBERS = np.arange(6).reshape(1, 2, 3)


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "u1", "i4", "i1", "i8"])
@pytest.mark.parametrize("np_shape", [False, True])
def test_arrays_that_mxnet_saved_are_read(dtype, np_shape, tmp_path):
    path = str(tmp_path / "arrays")
    array = NUMBERS.astype(dtype)
    with mx.util.np_shape(np_shape):
        mx.nd.save(path, {"a": mx.nd.array(array, dtype=dtype), "b": mx.nd.zeros(1)})
    arrays = parse_arrays((tmp_path / "arrays").read_bytes())
    assert list(arrays) == ["a", "b"] and arrays["a"].dtype == dtype
    assert (arrays["a"] == array).all() and arrays["b"].shape == (1,)


@pytest.mark.parametrize("dtype", DTYPES[:7])
def test_array_that_is_written_is_what_mxnet_reads(dtype, tmp_path):
    array = np.asfortranarray(NUMBERS.astype(dtype))
    with open(tmp_path / "array", "wb") as file:
        write_array(file, array)
    (read,) = mx.nd.load(str(tmp_path / "array"))
    assert read.dtype == array.dtype and (read.asnumpy() == array).all()
    mx.nd.save(str(tmp_path / "theirs"), [mx.nd.array(array, dtype=dtype)])
    assert (tmp_path / "array").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_arrays_that_mxnet_saved_before_0_12_are_read():
    head = struct.pack("<3Q3I3i", 0x112, 0, 1, 2, 2, 3, 1, 0, 0)
    values = np.arange(6, dtype="<f4")
    tail = struct.pack("<QQ", 1, 1) + b"x"
    arrays = parse_arrays(head + values.tobytes() + tail)
    assert arrays["x"].shape == (2, 3) and (arrays["x"].ravel() == values).all()


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
def test_sizes_that_do_not_fit_the_file_are_refused(position, form, value, tmp_path):
    mx.nd.save(str(tmp_path / "arrays"), {"x": mx.nd.ones((2, 3))})
    content = bytearray((tmp_path / "arrays").read_bytes())
    struct.pack_into(f"<{form}", content, position, value)
    with pytest.raises(ValueError, match="file|list of arrays|array of rank|sparse"):
        parse_arrays(content)
