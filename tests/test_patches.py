import json
import multiprocessing
import pickle
import struct
import sys
from multiprocessing.pool import ThreadPool

import mxcompat  # noqa: F401

import mxnet as mx
import numpy as np
import pytest
from helpers import run_python
from mxnet.contrib import quantization

# NumPy 1 warns of what NumPy 2 refuses or does otherwise.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::PendingDeprecationWarning"
)

TABLE = [[3, 1], [2, 4]]
# Names that NumPy removed, an argument, and what comes of it.
FUNCTIONS = [
    ("float_ asfarray mat round_ row_stack", TABLE, TABLE),
    ("product", TABLE, 24),
    ("cumproduct", TABLE, [3, 3, 6, 24]),
    ("msort", TABLE, [[2, 1], [3, 4]]),
    ("trapz", [[3, 1, 1], [2, 4, 4]], [3, 7]),
    ("alltrue", [1, 0], False),
    ("sometrue", [1, 0], True),
    ("row_stack", [1, 2], [[1], [2]]),
    ("int long float complex asscalar", 7, 7),
    ("bool bool8", 7, True),
    ("str unicode unicode_", 7, "7"),
    ("string_", b"7", b"7"),
]


def test_numpy_has_the_names_that_were_removed():
    old = vars(np)
    for names, argument, expected in FUNCTIONS:
        for name in names.split():
            assert np.array_equal(old[name](argument), expected), name
    constants = {"PINF": np.inf, "NINF": -np.inf, "Inf": np.inf, "Infinity": np.inf, "PZERO": 0}
    assert {name: old[name] for name in constants} == constants
    assert np.signbit(old["NZERO"]) and np.isnan([old["NaN"], old["NAN"]]).all()
    assert isinstance(np.True_, old["bool"]) == (np.__version__ > "2")  # NumPy 2's own
    assert old["in1d"]([1, 2], [2]).tolist() == [False, True] and old["object"] is object
    assert old["asfarray"]([1]).dtype == old["complex_"](1).real.dtype == "float64"
    assert old["cast"]["int8"]([1.5]).dtype == "int8"
    assert vars(np.lib)["pad"]([1], 1, mode="constant").tolist() == [0, 1, 0]
    with pytest.raises(old["AxisError"]):
        np.sum([1], axis=2)
    assert old["AxisError"] not in (ValueError, IndexError)
    assert issubclass(old["ComplexWarning"], RuntimeWarning)
    assert issubclass(old["VisibleDeprecationWarning"], UserWarning)


SIZE, DATA = np.int64(2), mx.sym.var("data")


def read_rows(tmp_path):
    (tmp_path / "data.csv").write_text("1,2\n4,5\n")
    rows = mx.io.CSVIter(data_csv=str(tmp_path / "data.csv"), data_shape=(SIZE,), batch_size=2)
    return next(rows).data[0].asnumpy().tolist()


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda _: mx.nd.zeros((SIZE, 3)).shape, (2, 3)),
        (lambda _: mx.nd.ones((2, 3)).sum(axis=(np.int32(0), 1)).asscalar(), 6),
        (lambda _: mx.sym.var("x", shape=(SIZE, 3)).attr("__shape__"), "(2, 3)"),
        (lambda _: mx.sym.var("x", __sizes__=[np.float32(0.1)]).attr("__sizes__"), "[0.1]"),
        (lambda _: mx.sym.Pooling(DATA, kernel=(SIZE, SIZE)).attr("kernel"), "(2, 2)"),
        (lambda _: mx.sym.var("x", __deep__=[(SIZE,), True]).attr("__deep__"), "[(2,), True]"),
        (read_rows, [[1, 2], [4, 5]]),
    ],
)
def test_sizes_may_be_numpys(make, expected, tmp_path):
    # In another thread NumPy prints as ever.
    with ThreadPool(1) as pool:
        assert pool.apply(make, [tmp_path]) == expected


def scalar(value, dtype="float32"):
    return mx.nd.array([value], dtype=dtype).asscalar()


def assigned():
    array = mx.nd.zeros(2, dtype="uint8")
    array[:] = [-1, 256]
    return array


def padded(kind):
    (batch,) = mx.rnn.BucketSentenceIter([[1, 2]], 1, buckets=[3], dtype="uint8")
    return getattr(batch, kind)[0]


HUGE = 2**24  # float32 has no number between it and 2^24 + 2
VALUES, LIKE = [[1, 2.5], [3, 4]], mx.nd.zeros(2, dtype="int32")
ARRAY, MX_NP, CSR = mx.nd.array(VALUES), mx.np.array(VALUES), mx.nd.sparse.csr_matrix(VALUES)
AS_WITH_NUMPY_1 = {
    "fromstring": [
        (lambda: np.fromstring(b"\1\0\2\0\3\0", np.uint16), [1, 2, 3]),
        (lambda: np.fromstring(b"\1\2\3", np.uint8, count=2), [1, 2]),
        (lambda: np.fromstring("ab", np.uint8), [97, 98]),
        (lambda: np.fromstring("1, 2", sep=","), [1, 2]),
        (lambda: np.fromstring(b"\1\2\3", np.uint8).flags.writeable, True),
    ],
    "numbers of asscalar": [
        (lambda: scalar(HUGE) + 1, HUGE + 1),
        (lambda: -scalar(HUGE) - 1, -HUGE - 1),
        (lambda: abs(scalar(-HUGE)) + 1.0, HUGE + 1),
        (lambda: scalar(HUGE) + scalar(1), HUGE),
        (lambda: scalar(HUGE) + scalar(1) + 1, HUGE + 1),
        (lambda: 0.1 - scalar(0), 0.1),
        (lambda: 0.1 * scalar(1), 0.1),
        (lambda: scalar(1) / 3, 1 / 3),
        (lambda: scalar(2) ** 0.5, 2**0.5),
        (lambda: (HUGE + 1) // scalar(1), HUGE + 1),
        (lambda: 0.1 % scalar(1), 0.1),
        (lambda: scalar(200, "uint8") + 100, 300),
        (lambda: scalar(100, "int8") * 3, 300),
        (lambda: float(mx.nd.array([[2.5]]).asscalar()), 2.5),
        (lambda: repr([scalar(0.1), scalar(1, "uint8")]), "[0.1, 1]"),
    ],
    "print": [(lambda: repr(mx.gluon.nn.Dense(SIZE, in_units=SIZE)), "Dense(2 -> 2, linear)")],
    "array for Python and NumPy": [
        (lambda: float(mx.nd.array([[2.5]])), 2.5),
        (lambda: int(mx.nd.array([[2.5]])), 2),
        (lambda: np.array(ARRAY), VALUES),
        (lambda: np.array(ARRAY, copy=False), VALUES),
        (lambda: np.array(ARRAY).dtype, np.float32),
        (lambda: np.asarray(ARRAY, "int64"), [[1, 2], [3, 4]]),
        (lambda: np.array(MX_NP), VALUES),
        (lambda: np.array(CSR), VALUES),
        (lambda: np.std(mx.nd.array([1, 3])), 1),
        (lambda: float(np.mean(ARRAY)), 2.625),
        (lambda: np.mean(ARRAY, axis=0, dtype="float64"), [2, 3.25]),
        (lambda: np.mean(ARRAY, axis=0, dtype="float64").dtype, np.float64),
        (lambda: ARRAY.mean(axis=1, keepdims=True), [[1.75], [3.5]]),
    ],
    "array for its dtype": [
        (lambda: ARRAY.astype(LIKE).dtype, np.int32),
        (lambda: ARRAY.astype(LIKE.as_np_ndarray()).dtype, np.int32),
        (lambda: mx.nd.zeros(2, dtype=LIKE).dtype, np.int32),
        (lambda: MX_NP.astype(LIKE).dtype, np.int32),
        (lambda: mx.sym.cast(DATA, dtype=LIKE).infer_type(data="float32")[1], [np.int32]),
    ],
    "numbers that do not fit": [
        (lambda: mx.nd.array([-1, 256], dtype="uint8"), [255, 0]),
        (lambda: mx.np.array([-1, 256], dtype="uint8"), [255, 0]),
        (assigned, [255, 0]),
        (lambda: mx.nd.sparse.csr_matrix(([-1, 9], [0, 1], [0, 2]), dtype="uint8")[0], [[255, 9]]),
        (lambda: padded("data"), [[1, 2, 255]]),
        (lambda: padded("label"), [[2, 255, 255]]),
    ],
    "pad": [(lambda: mx.np.pad(MX_NP, ((0, 0), (1, 0)), mode="constant")[1], [0, 3, 4])],
}


@pytest.mark.parametrize(
    ("name", "compute", "expected"),
    [(name, *case) for name, cases in AS_WITH_NUMPY_1.items() for case in cases],
)
def test_numpy_and_mxnet_compute_as_with_numpy_1(name, compute, expected):
    # As Python's numbers, because NumPy 2 rounds these to float32 to compare them.
    assert np.asarray(compute()).tolist() == expected


AUGMENTERS = [mx.image.HorizontalFlipAug, mx.image.DetHorizontalFlipAug]


@pytest.mark.parametrize("kind", [mx.init.Uniform, *AUGMENTERS])
def test_numpys_numbers_are_saved_as_json(kind):
    assert list(json.loads(kind(np.float32(0.5)).dumps())[1].values()) == [0.5]


def test_backend_of_optimize_for_may_still_be_a_string():
    net = mx.gluon.nn.Dense(2, in_units=3)
    net.initialize()
    net.optimize_for(mx.nd.ones((1, 3)), backend="MKLDNN")
    assert net(mx.nd.ones((1, 3))).shape == (1, 2)


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8", "int32", "float64", "int64"])
def test_numbers_of_asscalar_keep_their_type_and_that_of_an_array(dtype):
    number = scalar(3, dtype)
    assert number.dtype == (np.ones(2, dtype) * number).dtype == dtype
    assert (number * number).dtype == (np.ones((), dtype)[()] + number).dtype == dtype
    assert (number * mx.nd.ones(1, dtype=dtype)).dtype == np.dtype(dtype).type
    assert pickle.loads(pickle.dumps(number)) == 3


CUSTOM = mx.metric.CustomMetric(lambda label, pred: pred.sum())


@pytest.mark.parametrize("metric", [mx.metric.Loss(), mx.metric.MAE(), CUSTOM])
def test_metric_adds_up_in_64_bits(metric):
    for _ in range(2_000):
        metric.update([mx.nd.array([0])], [mx.nd.array([0.1])])
    assert [metric.get()[1], metric.get_global()[1]] == pytest.approx([0.1, 0.1], rel=1e-7)


def test_metric_that_was_pickled_prints_a_plain_number():
    metric = pickle.loads(pickle.dumps(mx.metric.MSE()))
    metric.update([mx.nd.zeros(2)], [mx.nd.array([0.5, 1.5])])
    assert repr(metric.get()) == "('mse', 1.25)"


LABELS, PICTURE = [2, 5, 1, 0.25, 0.5], np.full((8, 9, 3), (10, 100, 200), np.uint8)


@pytest.mark.parametrize("label", [LABELS, np.array(LABELS), tuple(LABELS)])
def test_record_with_several_labels_comes_back(label):
    packed = mx.recordio.pack(mx.recordio.IRHeader(0, label, 7, 3), b"content")
    assert packed == struct.pack("IfQQ", 5, 0, 7, 3) + np.float32(LABELS).tobytes() + b"content"
    header, content = mx.recordio.unpack(packed)
    assert (header.label.tolist(), header.id, content) == (LABELS, 7, b"content")


@pytest.mark.parametrize(("suffix", "off_by"), [(".png", 0), (".jpg", 6), (".bmp", 0)])
def test_packed_picture_comes_back(suffix, off_by):
    packed = mx.recordio.pack_img(mx.recordio.IRHeader(0, 4.5, 1, 0), PICTURE, 9, suffix)
    header, back = mx.recordio.unpack_img(packed)
    assert header.label == 4.5 and abs(back.astype(int) - PICTURE).max() <= off_by


def test_quality_of_a_packed_picture_is_heeded():
    picture = np.random.default_rng(0).integers(256, size=(32, 32, 3)).astype(np.uint8)
    header = mx.recordio.IRHeader(0, 1, 1, 0)
    low, high = (len(mx.recordio.pack_img(header, picture, quality)) for quality in (20, 95))
    assert low < high / 2


@pytest.mark.parametrize("kind", ["DataLoader", "DataLoaderV1"])
@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
def test_workers_of_a_data_loader_are_forked(kind, monkeypatch):
    # As from Python 3.14 on; such workers could neither get a lambda nor import mxnet.
    context = multiprocessing.get_context("forkserver")
    monkeypatch.setattr(multiprocessing.context._default_context, "_actual_context", context)
    data = mx.gluon.data.SimpleDataset(range(5)).transform(lambda number: np.float32(2 * number))
    batches = getattr(mx.gluon.data.dataloader, kind)(data, 3, num_workers=2)
    assert [batch.asnumpy().tolist() for batch in batches] == [[0, 2, 4], [6, 8]]


def test_int8_can_be_calibrated_by_entropy(monkeypatch):
    # MXNet asks for SciPy here, and does not use it.
    monkeypatch.setattr(quantization, "stats", "anything")
    net = mx.sym.FullyConnected(DATA, num_hidden=1, no_bias=True, name="fc")
    rows = mx.io.NDArrayIter(np.linspace(-2, 2, 64).reshape(8, 8), batch_size=8)
    weights = {"fc_weight": mx.nd.ones((1, 8))}
    options = {"calib_data": rows, "calib_mode": "entropy", "label_names": []}
    quantized, _, _ = quantization.quantize_model(net, weights, {}, **options)
    ranges = quantized.attr_dict()["data_quantize"]
    assert 0 < float(ranges["max_calib_range"]) <= 2.1
    assert float(ranges["min_calib_range"]) == -float(ranges["max_calib_range"])


SCIPY_2 = """
import sys, types
def make(name):
    csr = {"shape": (1, 3), "dtype": "float64", "data": [5, 7], "indices": [0, 2], "indptr": [0, 2]}
    methods = dict.fromkeys(["sorted_indices", "sum_duplicates"], lambda self: self)
    return type(name, (), {**csr, **methods})
scipy, sparse = types.ModuleType("scipy"), types.ModuleType("scipy.sparse")
scipy.sparse, sparse.csr_matrix, sparse.csr_array = sparse, make("csr_matrix"), make("csr_array")
sys.modules.update({"scipy": scipy, "scipy.sparse": sparse})
import mxcompat, mxnet as mx
for rows in sparse.csr_matrix(), sparse.csr_array():
    for array in mx.nd.sparse.array, mx.nd.array, mx.nd.sparse.csr_matrix:
        print(array(rows).asnumpy().tolist())
"""


def test_rows_of_scipy_are_taken_without_the_module_that_scipy_2_drops():
    printed = run_python(SCIPY_2)
    assert printed.stdout == 6 * "[[5.0, 0.0, 7.0]]\n", printed.stderr
