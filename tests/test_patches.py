import pickle
import struct
import threading

import mxcompat

import mxnet as mx
import numpy as np
import onnx
import onnx.reference
import pytest


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
def test_numpy_has_the_names_that_mxnet_asks_for():
    table = [[3, 1], [2, 4]]
    expected = {
        **{"product": 24, "alltrue": True, "sometrue": True, "round_": table, "mat": table},
        **{"cumproduct": [3, 3, 6, 24], "msort": [[2, 1], [3, 4]], "trapz": [2, 3]},
        **{"row_stack": table, "float_": table, "bool": True, "int": 7, "float": 7},
    }
    for name, value in expected.items():
        argument = 7 if name in ("bool", "int", "float") else table
        assert np.array_equal(vars(np)[name](argument), value), name
    constants = {"PINF": np.inf, "NINF": -np.inf, "Inf": np.inf, "Infinity": np.inf, "PZERO": 0}
    assert {name: vars(np)[name] for name in constants} == constants
    assert np.signbit(vars(np)["NZERO"]) and np.isnan([vars(np)["NaN"], vars(np)["NAN"]]).all()
    assert vars(np)["in1d"]([1, 2], [2]).tolist() == [False, True]
    assert vars(np)["unicode_"](7) == "7" and vars(np)["object"] is object


SIZE = np.int64(2)
DATA = mx.sym.var("data")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: mx.nd.zeros((SIZE, 3)).shape, (2, 3)),
        (lambda: mx.nd.ones((1, 3)).broadcast_to([SIZE, SIZE + 1]).shape, (2, 3)),
        (lambda: mx.np.ones((SIZE, 3)).shape, (2, 3)),
        (lambda: mx.nd.random.uniform(shape=tuple(np.array([2, 3]))).shape, (2, 3)),
        (lambda: mx.nd.ones((2, 3)).sum(axis=(np.int32(0), 1)).asscalar(), 6),
        (lambda: mx.sym.zeros((SIZE, 3)).infer_shape()[1], [(2, 3)]),
        (lambda: mx.sym.var("x", shape=(SIZE, 3)).attr("__shape__"), "(2, 3)"),
        (lambda: mx.sym.var("x", __sizes__=[np.float32(0.1)]).attr("__sizes__"), "[0.1]"),
        (lambda: mx.sym.Pooling(DATA, kernel=(SIZE, SIZE)).attr("kernel"), "(2, 2)"),
        (lambda: mx.sym.var("x", __deep__=[(SIZE,), True]).attr("__deep__"), "[(2,), True]"),
    ],
)
def test_sizes_may_be_numpys(make, expected):
    assert make() == expected


def test_sizes_may_be_numpys_in_a_thread():
    shapes = []
    thread = threading.Thread(target=lambda: shapes.append(mx.nd.zeros((SIZE, 3)).shape))
    thread.start()
    thread.join()
    assert shapes == [(2, 3)]


def test_sizes_of_an_iterator_may_be_numpys(tmp_path):
    (tmp_path / "data.csv").write_text("1,2,3\n4,5,6\n")
    rows = mx.io.CSVIter(
        data_csv=str(tmp_path / "data.csv"), data_shape=(np.int64(3),), batch_size=2
    )
    assert next(rows).data[0].asnumpy().tolist() == [[1, 2, 3], [4, 5, 6]]


def test_backend_of_optimize_for_may_still_be_a_string():
    net = mx.gluon.nn.Dense(2, in_units=3)
    net.initialize()
    net.optimize_for(mx.nd.ones((1, 3)), backend="MKLDNN")
    assert net(mx.nd.ones((1, 3))).shape == (1, 2)


def test_counting_with_asscalar_goes_on_beyond_the_integers_of_float32():
    count = mx.nd.array([2**24]).asscalar()
    for _ in range(3):
        count += 1
    assert count == 2**24 + 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy 1's
def test_scalar_of_a_matrix_of_one_number_is_a_number_too():
    assert float(mx.nd.array([[2.5]]).asscalar()) == 2.5


@pytest.mark.parametrize(("dtype", "total"), [("uint8", 300), ("int8", 200), ("int32", 300)])
def test_sum_with_a_small_integer_does_not_wrap_around(dtype, total):
    assert mx.nd.array([total - 100], dtype=dtype).asscalar() + 100 == total


def test_mean_of_many_losses_is_exact_to_float32():
    loss, total = mx.nd.array([0.1]), 0.0
    for _ in range(10_000):
        total += loss.asscalar()
    assert total / 10_000 == pytest.approx(0.1, rel=1e-7)


@pytest.mark.parametrize(
    ("metric", "arrays"),
    [
        (mx.metric.Loss(), (None, [mx.nd.array([0.1])])),
        (mx.metric.MAE(), ([mx.nd.array([0])], [mx.nd.array([0.1])])),
        (
            mx.metric.CustomMetric(lambda label, pred: pred.sum()),
            ([mx.nd.array([0])], [mx.nd.array([0.1])]),
        ),
    ],
)
def test_metric_adds_up_in_64_bits(metric, arrays):
    for _ in range(20_000):
        metric.update(*arrays)
    assert metric.get()[1] == pytest.approx(0.1, rel=1e-7)
    assert metric.get_global()[1] == pytest.approx(0.1, rel=1e-7)


def test_metric_can_be_pickled_and_may_sum_in_a_list():
    metric = pickle.loads(pickle.dumps(mx.metric.MSE()))
    metric.sum_metric = [1.0, 2.0]
    assert metric.sum_metric == [1.0, 2.0] and metric.global_sum_metric == 0


@pytest.mark.parametrize("convert", [float, int])
def test_ndarray_of_one_number_converts(convert):
    assert convert(mx.nd.array([[2.5]])) == convert(2.5)
    with pytest.raises(ValueError, match="size 1"):
        convert(mx.nd.ones(2))


def test_numpy_takes_an_ndarray():
    values = [[1, 2.5], [3, 4]]
    array = mx.nd.array(values)
    assert np.array(array).tolist() == values and np.array(array).dtype == np.float32
    assert np.asarray(array, "int64").tolist() == [[1, 2], [3, 4]]
    assert np.array([array, array]).shape == (2, 2, 2)
    assert np.std(array) == pytest.approx(np.std(values))
    assert float(np.mean(array)) == 2.625
    assert np.mean(array, axis=0, dtype="float64").asnumpy().tolist() == [2, 3.25]
    assert array.mean(axis=1, keepdims=True).shape == (2, 1)
    assert np.array(mx.np.array(values)).tolist() == values
    assert np.array(array.tostype("csr")).tolist() == values


def test_array_of_an_ndarray_is_a_copy():
    array = mx.nd.ones(2)
    np.asarray(array)[:] = 7
    assert array.asnumpy().tolist() == [1, 1]
    with pytest.raises(ValueError, match="copy"):
        array.__array__(copy=False)


LABELS = [2, 5, 1, 0.25, 0.5]


@pytest.mark.parametrize("label", [LABELS, np.array(LABELS), tuple(LABELS)])
def test_record_with_several_labels_comes_back(label):
    packed = mx.recordio.pack(mx.recordio.IRHeader(0, label, 7, 3), b"content")
    assert packed == struct.pack("IfQQ", 5, 0, 7, 3) + np.float32(LABELS).tobytes() + b"content"
    header, content = mx.recordio.unpack(packed)
    assert header.label.tolist() == LABELS and (header.id, content) == (7, b"content")


def test_record_with_one_label_comes_back():
    packed = mx.recordio.pack(mx.recordio.IRHeader(9, 4.5, 7, 0), b"content")
    assert mx.recordio.unpack(packed) == (mx.recordio.IRHeader(0, 4.5, 7, 0), b"content")


@pytest.mark.parametrize(("suffix", "off_by"), [(".png", 0), (".jpg", 6), (".bmp", 0)])
def test_packed_picture_comes_back(suffix, off_by):
    picture = np.full((8, 9, 3), (10, 100, 200), np.uint8)
    packed = mx.recordio.pack_img(mx.recordio.IRHeader(0, LABELS, 1, 0), picture, 9, suffix)
    header, back = mx.recordio.unpack_img(packed)
    assert header.label.tolist() == LABELS
    assert abs(back.astype(int) - picture).max() <= off_by


def test_quality_of_a_packed_picture_is_heeded():
    picture = np.random.default_rng(0).integers(256, size=(32, 32, 3)).astype(np.uint8)
    header = mx.recordio.IRHeader(0, 1, 1, 0)
    sizes = [len(mx.recordio.pack_img(header, picture, quality)) for quality in (20, 95)]
    assert sizes[0] < sizes[1] / 2


def test_fromstring_reads_bytes_and_text():
    numbers = np.fromstring(b"\1\0\2\0\3\0", np.uint16)
    assert numbers.tolist() == [1, 2, 3] and numbers.flags.writeable
    assert np.fromstring(b"\1\2\3", np.uint8, count=2).tolist() == [1, 2]
    assert np.fromstring("1, 2", sep=",").tolist() == [1, 2]


def double(number):
    return 2 * number


def test_workers_of_a_data_loader_load_every_item():
    data = mx.gluon.data.SimpleDataset(np.arange(5, dtype="float32")).transform(double)
    batches = mx.gluon.data.DataLoader(data, 3, num_workers=2)
    assert [batch.asnumpy().tolist() for batch in batches] == [[0, 2, 4], [6, 8]]


def test_exported_network_names_the_operator_set_that_it_uses(tmp_path):
    symbol = mx.sym.mean(mx.sym.Pooling(DATA, kernel=(2, 2), name="pool"), axis=(2, 3), name="mean")
    path = str(tmp_path / "net.onnx")
    mx.onnx.export_model(symbol, {}, [(1, 3, 8, 8)], onnx_file_path=path)
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 13)]
    assert model.ir_version == 7  # of the same time as the operator set
    assert onnx.defs.onnx_opset_version() > 13


def test_exported_network_computes_what_mxnet_does(tmp_path):
    symbol = mx.sym.FullyConnected(DATA, num_hidden=4, name="fc")
    weight, bias = mx.nd.random.normal(shape=(4, 5)), mx.nd.random.normal(shape=4)
    path = str(tmp_path / "net.onnx")
    shapes = {"in_shapes": [(1, 5)], "dynamic": True, "dynamic_input_shapes": [("batch", 5)]}
    params = {"fc_weight": weight, "fc_bias": bias}
    mx.onnx.export_model(symbol, params, onnx_file_path=path, **shapes)
    rows = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    (scores,) = onnx.reference.ReferenceEvaluator(path).run(None, {"data": rows})
    np.testing.assert_allclose(scores, rows @ np.array(weight).T + np.array(bias), rtol=1e-5)


def test_number_of_cores_is_at_least_one():
    assert mxcompat.available_cores() >= 1
