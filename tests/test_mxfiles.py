import mmap
import os
import pickle
import re
import struct
import sys
from concurrent.futures import ThreadPoolExecutor

import mxnet as mx
import numpy as np
import pytest
from helpers import ROOT, encode, paint, run, run_python, write_records
from mxnet.recordio import IRHeader, pack, unpack

import mxfiles
from mxfiles import Records

NUMBERS = np.arange(24).reshape(2, 3, 4) - 3
DTYPES = ["float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool"]
MAGIC = struct.pack("<I", 0xCED7230A)
# Contents of records, some of which RecordIO splits, because they hold its magic number.
CONTENTS = [b"", b"x", b"four", MAGIC, b"four" + MAGIC + b"more" + MAGIC * 2, b"1" + MAGIC]


def assert_same(ours, theirs):
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    assert ours.tobytes() == theirs.tobytes()


def run_command(*args):
    return run(sys.executable, "-m", "mxfiles", *args)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("np_shape", [False, True])
def test_arrays_that_mxnet_saved_are_read(dtype, np_shape, tmp_path):
    with mx.util.np_shape(np_shape):
        arrays = {"arg:x": mx.nd.array(NUMBERS, dtype=dtype), "aux:y": mx.nd.ones(1, dtype=dtype)}
        if np_shape:
            arrays.update(none=mx.nd.zeros((0, 3), dtype=dtype), one=mx.nd.ones((), dtype=dtype))
        mx.nd.save(str(tmp_path / "dict"), arrays)
        mx.nd.save(str(tmp_path / "list"), list(arrays.values()))
        named, listed = mxfiles.load(tmp_path / "dict"), mxfiles.load(str(tmp_path / "list"))
        assert list(named) == list(arrays) and isinstance(listed, list)
        for ours, theirs in zip([*named.values(), *listed], [*arrays.values()] * 2):
            assert_same(ours, theirs.asnumpy())


@pytest.mark.parametrize("kind", ["csr", "row_sparse"])
@pytest.mark.parametrize("rows", [[0, 3], [], [1, 2, 3]])
def test_sparse_arrays_become_dense(kind, rows, tmp_path):
    dense = np.zeros((5, 4), np.float32)
    dense[rows, 1:3] = np.arange(1, 1 + 2 * len(rows)).reshape(-1, 2)
    mx.nd.save(str(tmp_path / "x"), [mx.nd.array(dense).tostype(kind), mx.nd.array([5, 6])])
    ours, next_one = mxfiles.load(tmp_path / "x")
    assert_same(ours, dense)
    assert next_one.tolist() == [5, 6]


def test_bfloat16_becomes_float32(tmp_path):
    narrow = mx.nd.amp_cast(mx.nd.array([1.5, -2, 0.1, 3e38]), dtype="bfloat16")
    mx.nd.save(str(tmp_path / "x"), [narrow])
    assert_same(mxfiles.load(tmp_path / "x")[0], mx.nd.amp_cast(narrow, dtype="float32").asnumpy())


@pytest.mark.parametrize("version", [(), (0xF993FAC8,)])
def test_old_versions_and_arrays_of_a_gpu_are_read_from_bytes(version):
    values = np.arange(6, dtype="<f4").reshape(2, 3)
    form = "<3Q2I2q3i" if version else "<3Q3I3i"
    content = struct.pack(form, 0x112, 0, 1, *version, 2, 2, 3, 2, 1, 0)  # on GPU 1
    content += values.tobytes() + struct.pack("<QQ", 1, 1) + b"x"
    assert_same(mxfiles.load(content)["x"], values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_are_saved_as_mxnet_saves_them(dtype, tmp_path):
    array = np.asfortranarray(NUMBERS.astype(dtype))
    arrays = {"arg:x": array, "aux:ü": array[:, 0].astype(array.dtype.newbyteorder(">"))}
    theirs = {name: mx.nd.array(each.astype(dtype), dtype=dtype) for name, each in arrays.items()}
    for ours_given, theirs_given in ((arrays, theirs), ([array], [theirs["arg:x"]])):
        mxfiles.save(tmp_path / "ours", ours_given)
        mx.nd.save(str(tmp_path / "theirs"), theirs_given)
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("array", [1.5, np.empty((0, 3)), [1j], np.zeros(2, np.int16)])
def test_array_that_mxnet_cannot_read_is_refused_by_name(array, tmp_path):
    with pytest.raises(ValueError, match="MXNet has no .*: wrong$"):
        mxfiles.save(tmp_path / "x", {"right": np.ones(2), "wrong": array})
    assert not any(tmp_path.iterdir())


def test_full_disk_leaves_the_file_that_was_there(small_disk):
    mxfiles.save(small_disk / "x", [np.ones(9)])
    with pytest.raises(OSError, match="No space"):
        mxfiles.save(small_disk / "x", [np.ones(99_999)])
    assert [path.name for path in small_disk.iterdir()] == ["x"]
    assert (mxfiles.load(small_disk / "x")[0] == 1).all()


def test_arrays_are_mapped_and_may_be_changed(tmp_path):
    mxfiles.save(tmp_path / "x", [np.zeros(3)])
    (array,) = mxfiles.load(tmp_path / "x")
    array[1] = 7
    assert isinstance(array.base, mmap.mmap) and array[1] == 7
    assert (mxfiles.load(tmp_path / "x")[0] == 0).all()


@pytest.mark.parametrize(
    ("position", "form", "value", "reason"),
    [
        (0, "Q", 0x113, "not a file of"),  # what the file is
        (16, "Q", 2**40, "should follow"),  # how many arrays it has
        (28, "i", 3, "storage type 3"),  # whether an array is sparse
        (32, "i", 2**31 - 1, "rank 2147483647"),
        (32, "i", 0, "did not know"),  # its rank, 0 before there was np_shape
        (36, "q", -1, r"shape \(-1, 3\)"),
        (60, "i", 99, "dtype 99"),
        (60, "i", -1, "dtype -1"),
        (88, "Q", 0, "should end"),  # how many names follow
        (104, "B", 0xFF, "utf-8"),  # a name
    ],
)
def test_sizes_that_do_not_fit_the_file_are_refused(position, form, value, reason, tmp_path):
    path = tmp_path / "x.params"
    mxfiles.save(path, {"x": np.ones((2, 3), np.float32)})
    content = bytearray(path.read_bytes())
    struct.pack_into(f"<{form}", content, position, value)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.params, byte \d+: .*{reason}"):
        mxfiles.load(path)


@pytest.mark.parametrize(
    ("count", "size", "words"), [(0, 2**50, "allocate"), (1, 5, "out of bounds")]
)
def test_sparse_array_that_cannot_be_made_dense_is_refused(count, size, words):
    shapes = 1, count, 1, size  # of the values and of the array
    head = struct.pack("<3QIiiqiq3i", 0x112, 0, 1, 0xF993FAC9, 1, *shapes, 1, 0, 0)
    value_and_place = struct.pack("<fq", 1, 5)
    with pytest.raises(ValueError, match=f"content, byte .*{words}"):
        mxfiles.load(head + struct.pack("<iiq", 6, 1, count) + value_and_place * count + bytes(8))


@pytest.fixture
def packed(tmp_path):
    """Write six records with labels to two files, one with an index."""
    labels = [3, 2.5, np.float32([1, 2, 3]), np.float32([4]), -1, float("nan")]
    headers = [IRHeader(0, label, number * 10, 0) for number, label in enumerate(labels)]
    packed = list(map(pack, headers, CONTENTS))
    write_records(tmp_path / "x.rec", packed)
    write_records(tmp_path / "indexed.rec", packed, [9, 8, 7, 6, 5, 4])
    return packed


@pytest.mark.parametrize("name", ["x.rec", "indexed.rec"])
def test_records_are_what_mxnet_unpacks(name, packed, tmp_path):
    records = Records(tmp_path / name)
    assert len(records) == 6 and records[-1].data == CONTENTS[-1]
    for (label, number, data), (header, content) in zip(records, map(unpack, packed)):
        assert label.flags.owndata if header.flag else isinstance(label, float)
        np.testing.assert_array_equal(label, header.label)
        assert (number, data) == (header.id, content)


def test_records_without_labels_are_read_as_they_are(tmp_path):
    contents = [*CONTENTS, struct.pack("<IfQQ", 1, 0, 0, 0)]  # which promises a label
    records = Records(write_records(tmp_path / "x.rec", contents))
    assert [records.read(number) for number in range(len(records))] == contents
    for number in (1, 6):
        with pytest.raises(ValueError, match=rf"x\.rec: record {number} has no label"):
            records[number]


@pytest.mark.parametrize("keys", [range(10), [*range(1, 10), 0], [0, 7, 2, 1, 8, 3, 4, 9, 5, 6]])
@pytest.mark.parametrize("index", [True, False])
def test_only_pictures_of_a_collection_of_faces_are_given(keys, index, tmp_path):
    records = {key: ((key - 1) // 2, b"face") for key in range(1, 7)}
    for key, pair in {0: (7, 10), 7: (1, 3), 8: (3, 5), 9: (5, 7)}.items():
        records[key] = np.float32(pair), b""  # a header, and three identities
    contents = [pack(IRHeader(0, records[key][0], key, 0), records[key][1]) for key in keys]
    path = write_records(tmp_path / "faces.rec", contents, index and list(keys))
    faces = [(record.id, record.label) for record in Records(path)]
    assert (faces if index else sorted(faces)) == [(key, (key - 1) // 2) for key in range(1, 7)]


def test_several_threads_read_what_was_pickled(tmp_path):
    contents = [bytes([number]) * 999 for number in range(256)]
    records = pickle.loads(pickle.dumps(Records(write_records(tmp_path / "x.rec", contents))))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(records.read, list(range(256)) * 20)) == contents * 20


@pytest.mark.parametrize(
    ("index", "where"),
    [
        ("no index", "idx.* row 0"),
        ("1\t0\n2\t99999\n", "idx, line 2"),
        ("1\t-4\n", "idx, line 1"),
        ("0\t4\n", "rec.* byte 4"),
    ],
)
def test_index_of_another_file_is_an_error_that_says_where(index, where, packed, tmp_path):
    (tmp_path / "x.idx").write_text(index)
    with pytest.raises(ValueError, match=rf"x\.{where}"):
        Records(tmp_path / "x.rec")


# Without the end, and with a first part that no last one follows.
@pytest.mark.parametrize(
    ("start", "end"), [(b"", -4), (b"", -60), (MAGIC + struct.pack("<I", 1 << 29), None)]
)
def test_records_that_are_not_whole_are_an_error_that_says_where(start, end, packed, tmp_path):
    path = tmp_path / "x.rec"
    path.write_bytes(start + path.read_bytes()[:end])
    with pytest.raises(ValueError, match=r"x\.rec: .* byte \d+ is not whole"):
        Records(path)


@pytest.fixture
def mixed(tmp_path):
    """Write pictures and a text, of which two have the same label and id; return the contents."""
    labels, ids = [3, 0.5, 0.5, np.float32([3, 1])], [5, 7, 7, 6]
    contents = [*(encode(paint(1)[0], suffix) for suffix in (".png", ".jpg", ".jpg")), b"text"]
    headers = [IRHeader(0, label, number, 0) for label, number in zip(labels, ids)]
    write_records(tmp_path / "x.rec", map(pack, headers, contents), range(4))
    return contents


@pytest.mark.parametrize("name", ["x.rec", "x.idx", "renamed"])
def test_records_are_listed(name, mixed, tmp_path):
    (tmp_path / "renamed").write_bytes((tmp_path / "x.rec").read_bytes())
    listing = "4 records\n2 different labels, from 0.5 to 3\n2 .jpg, 1 .png, 1 .bin\n"
    assert run_command(tmp_path / name).stdout == listing


def test_records_are_taken_out_as_they_are_into_a_new_folder(mixed, tmp_path):
    assert run_command(tmp_path / "x.rec", "-o", tmp_path / "out").stderr == ""
    names = ["3/5.png", "0.5/7.jpg", "0.5/7_2.jpg", "3/6.bin"]
    assert [(tmp_path / "out" / name).read_bytes() for name in names] == mixed
    again = run_command(tmp_path / "x.rec", "-o", tmp_path / "out")
    assert again.returncode == 1 and again.stderr.count("\n") == 1 and "exists" in again.stderr


@pytest.mark.parametrize("names", [["arg:x", "aux:y"], None])
def test_arrays_are_listed_and_saved_for_numpy(names, tmp_path):
    arrays = [NUMBERS.astype(np.float32), np.ones(3, np.uint8)]
    mxfiles.save(tmp_path / "x.params", dict(zip(names, arrays)) if names else arrays)
    first, second = names or [0, 1]
    listing = f"{first} float32 (2, 3, 4)\n{second} uint8 (3,)\n"
    assert run_command(tmp_path / "x.params").stdout == listing
    run_command(tmp_path / "x.params", "-o", tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as saved:
        assert saved.files == (names or ["arr_0", "arr_1"])
        for ours, array in zip(saved.values(), arrays):
            assert_same(ours, array)


def test_code_of_the_page_reads_what_mxnet_wrote(packed, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "files-without-mxnet.md").read_text()
    monkeypatch.chdir(tmp_path)
    mx.nd.save("net-0000.params", {"arg:x": mx.nd.ones(3)})
    os.rename("x.rec", "train.rec")
    values = {}
    exec(re.search("```python\n(.*?)```", page, re.S)[1], values)
    assert (values["label"], values["data"]) == (3, CONTENTS[0])
    assert mx.nd.load("copy-0000.params")["arg:x"].asnumpy().tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "words"), [("no.params", "No such file"), ("x.txt", "LFS"), ("no.rec", "no.rec")]
)
def test_file_that_is_neither_ends_in_one_line(name, words, tmp_path):
    (tmp_path / "x.txt").write_text("version https://git-lfs.github.com/spec/v1\n")
    result = run_command(tmp_path / name)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert name in result.stderr and words in result.stderr


def test_import_needs_numpy_and_nothing_else():
    packages = "{'mxcompat', 'mxnet', 'cv2', 'tqdm', 'pooch', 'requests', 'tensorboard'}"
    code = f"import sys, mxfiles.__main__; sys.exit(str({packages} & set(sys.modules)))"
    assert run_python(code).stderr == "set()\n"
