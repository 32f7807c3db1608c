import functools
import importlib
import re
import sys
import types

import mxcompat
from mxcompat import export as room
from mxcompat import onnx_graph, onnx_ops
from mxcompat.checkpoints import load_checkpoint
from mxcompat.export import MismatchError, export

import mxnet as mx
import numpy as np
import onnx
import onnx.reference
import pytest
from helpers import ROOT, run

S, C, V = mx.sym, mx.sym.contrib, mx.sym.var
Norm, Leaky, Dense, Resize = S.BatchNorm, S.LeakyReLU, S.FullyConnected, C.BilinearResize2D
Conv = functools.partial(S.Convolution, num_filter=4)
Deconv = functools.partial(S.Deconvolution, num_filter=4)
Pool = functools.partial(S.Pooling, kernel=(2, 3))
AvgPool = functools.partial(Pool, pool_type="avg")
FullPool = functools.partial(S.Pooling, kernel=(3, 3), pooling_convention="full")
Up = functools.partial(S.UpSampling, scale=2, num_args=2)
Mask = functools.partial(S.SequenceMask, use_sequence_length=True)
PICTURE = (2, 3, 5, 7)


def each(x, *functions, **options):
    return S.Group([function(x, **options) for function in functions])


def kinds(layer, x, *names):
    return S.Group([layer(x, act_type=name) for name in names])


def mean(x):
    return S.mean(x, axis=1, keepdims=True)


def integers(x):
    return S.round(x * 8) - 8  # -4 to 4, of 0.5 to 1.5


def compare(x, y):
    return S.Group([x > y, x >= y, x < y, x <= y, S.broadcast_not_equal(x, y)])


def rnn(x, mode, layers=1, both=False, out=True):
    names = ("state", "state_cell") if mode == "lstm" else ("state",)
    states = {name: S.ones((layers * (1 + both), 2, 4)) * 0.3 for name in names}
    options = {"num_layers": layers, "bidirectional": both, "state_outputs": out}
    return S.RNN(data=x, parameters=V("w") - 1, state_size=4, mode=mode, **options, **states)


def unroll(x, cell):
    return cell.unroll(3, inputs=x, layout="NTC", merge_outputs=True)[0]


def attend(x, kind, *others):
    weights = getattr(C, f"interleaved_matmul_{kind}_qk")(x, *others, heads=2)
    return getattr(C, f"interleaved_matmul_{kind}_valatt")(*others or [x], weights, heads=2)


def rois():
    """Make regions: a picture, 0 or 1, and two corners."""
    return S.cumsum(V("w", shape=(4, 5)), axis=1) - 0.5


def find(x, **options):
    """Suppress boxes: rows of a class, a score and two corners."""
    ids, others = S.split_v2(x, (1,), axis=2)
    return C.box_nms(S.concat(S.round(ids * 2), S.sort(others) - 0.6, dim=2), **options)


def detect(x, **options):
    boxes, anchors = S.slice_axis(x, axis=1, begin=0, end=4), S.sort(V("w", shape=(1, 9, 4))) / 2
    return C.MultiBoxDetection(S.softmax(x, axis=1), boxes.flatten() - 1, anchors, **options)


# Pictures of 0.5 to 1.5, in batches of any size.
USES = {
    "Convolution": lambda x: Conv(x, kernel=(3, 2), stride=(2, 1), pad=(1, 0), dilate=(1, 2)),
    "Convolution in groups": lambda x: Conv(x, kernel=(1, 3), num_filter=6, num_group=3),
    "Deconvolution": lambda x: Deconv(x, kernel=(3, 2), stride=(2, 3), pad=(1, 0), adj=(1, 1)),
    "Deconvolution with a bias": lambda x: Deconv(x, kernel=(3, 2), no_bias=False),
    "FullyConnected of the last axis": lambda x: Dense(x, num_hidden=4, flatten=False),
    "BatchNorm with gamma": lambda x: Norm(x, fix_gamma=False, eps=0.01),
    "BatchNorm of another axis": lambda x: Norm(x, axis=-1, fix_gamma=False),
    "LayerNorm": lambda x: S.LayerNorm(S.LayerNorm(x, axis=1, eps=0.1)),
    "InstanceNorm": lambda x: S.InstanceNorm(x),
    "GroupNorm": lambda x: S.GroupNorm(x, num_groups=3),
    "L2Normalization": lambda x: S.L2Normalization(x),
    "L2Normalization by channel": lambda x: S.L2Normalization(x, mode="channel", eps=0.5),
    "L2Normalization of maps": lambda x: S.L2Normalization(x, mode="spatial"),
    "LRN": lambda x: S.LRN(x, nsize=3, alpha=0.5),
    "LeakyReLU": lambda x: kinds(Leaky, x - 1, "leaky", "elu", "selu", "gelu"),
    "Activation": lambda x: kinds(S.Activation, x - 1, "tanh", "softrelu", "softsign"),
    "hard_sigmoid": lambda x: S.hard_sigmoid(x * 4 - 4),
    "softmax": lambda x: S.softmax(x, axis=1, temperature=0.3),
    "softmax of a part": lambda x: S.softmax(
        x, length=S.argmax(x, axis=1).astype("int32") + 1, use_length=True, axis=1
    ),
    "log_softmax and softmin": lambda x: each(x, S.log_softmax, S.softmin),
    "SoftmaxActivation by channel": lambda x: S.SoftmaxActivation(x, mode="channel"),
    "SoftmaxOutput by channel": lambda x: S.SoftmaxOutput(x, multi_output=True),
    "Pooling": lambda x: Pool(x, pad=(1, 1), stride=(1, 2)),
    "Pooling of pixels": lambda x: AvgPool(x, pad=(1, 1), count_include_pad=False),
    "Pooling by sum": lambda x: Pool(x, pad=(1, 1), pool_type="sum"),
    "Pooling by norm": lambda x: Pool(x - 1, pool_type="lp", p_value=2),
    "Pooling of all": lambda x: AvgPool(x, global_pool=True, kernel=(7, 7)),
    "AdaptiveAvgPooling2D": lambda x: C.AdaptiveAvgPooling2D(x, output_size=(2, 3)),
    "UpSampling, bilinear": lambda x: Up(x, V("w"), sample_type="bilinear", num_filter=3),
    "BilinearResize2D": lambda x: Resize(x, height=9, width=11),
    "BilinearResize2D of halves": lambda x: Resize(x, height=3, width=11, align_corners=False),
    "reductions of all": lambda x: each(x, S.sum, S.max, S.norm, S.argmin),
    "reductions": lambda x: each(x, S.min, S.prod, S.norm, axis=1, keepdims=True),
    "sums without NaN": lambda x: each(S.log(x - 1), S.nansum, S.nanprod),
    "moments": lambda x: S.moments(x, axes=(2, 3)),
    "argmax": lambda x: S.Group([S.argmax(x, axis=1), S.argmax_channel(x)]),
    "cumsum": lambda x: S.cumsum(x, axis=1),
    "topk": lambda x: S.topk(x, k=3, axis=1, ret_typ="both"),
    "topk as a mask": lambda x: S.topk(x, k=2, ret_typ="mask", is_ascend=True),
    "sort and argsort": lambda x: S.Group([S.sort(x), S.argsort(x, axis=None)]),
    "pick": lambda x: S.pick(x, integers(S.mean(x, axis=1)), axis=1, mode="wrap"),
    "take": lambda x: S.take(V("w", shape=(3, 4)), integers(x)),
    "Embedding": lambda x: S.Embedding(integers(x), input_dim=3, output_dim=4),
    "one_hot": lambda x: S.one_hot(integers(x), depth=3, on_value=3, off_value=-1, dtype="int32"),
    "where": lambda x: S.where(x > 1, x, x * 2),
    "diag": lambda x: S.diag(x, axis1=1, axis2=2, k=-1),
    "Reshape with -3 and -2": lambda x: S.reshape(x, shape=(-3, -2)),
    "Reshape of an even batch": lambda x: S.reshape(x, shape=(-4, -1, 2, -2)),
    "Reshape with -4": lambda x: S.reshape(x, shape=(0, -4, -1, 1, -2)),
    "reshape_like": lambda x: S.reshape_like(x, V("w", shape=(15,)), lhs_begin=1, lhs_end=3),
    "transpose": lambda x: S.transpose(S.swapaxes(x, dim1=0, dim2=2), axes=(2, 1, 0, 3)),
    "squeeze": lambda x: S.squeeze(S.expand_dims(x, axis=1)),
    "concat and stack": lambda x: S.stack(S.concat(x, x * 2, dim=1), S.concat(x, -x), axis=2),
    "split": lambda x: S.split(x, num_outputs=3, axis=1, squeeze_axis=True),
    "split_v2": lambda x: S.split_v2(x, (1, 4), axis=3),
    "slice": lambda x: S.slice(
        x, begin=(None, None, None, 5), end=(None,) * 4, step=(1, -1, 2, -2)
    ),
    "slice_axis": lambda x: S.slice_axis(x, axis=-2, begin=-4, end=None),
    "slice_like": lambda x: S.slice_like(x, V("w", shape=(1, 2, 4, 9)), axes=(1, -2)),
    "Crop": lambda x: S.Crop(x, h_w=(2, 3), center_crop=True, num_args=1),
    "Pad": lambda x: S.pad(x, mode="reflect", pad_width=(0, 0, 0, 0, 1, 2, 2, 1)),
    "reverse": lambda x: S.reverse(x, axis=(1, 3)),
    "repeat": lambda x: S.repeat(x, repeats=3, axis=1),
    "tile": lambda x: S.tile(x, reps=(2, 1, 1, 1, 3)),
    "broadcast_to with zeros": lambda x: S.broadcast_to(mean(x), shape=(0, 4, 0, 0)),
    "broadcast_like": lambda x: S.broadcast_like(mean(x), x, lhs_axes=(1,), rhs_axes=(3,)),
    "arange_like": lambda x: C.arange_like(x, start=2, step=0.5),
    "arithmetic": lambda x: (3 - x) / x + 2 / (x + 1) + 2**x + x**2 + x % 0.7 + 0.7 % x,
    "mod": lambda x: S.broadcast_mod(integers(x), S.reverse(integers(x), axis=3)),
    "comparisons": lambda x: compare(integers(x), S.reverse(integers(x), axis=3)),
    "hypot": lambda x: S.broadcast_hypot(x, mean(x)),
    "maximum and power": lambda x: S.broadcast_maximum(x, S.broadcast_power(mean(x), x)),
    "rounding": lambda x: each(integers(x) / 2, S.round, S.rint, S.fix, S.trunc, S.sign, S.ceil),
    "roots": lambda x: each(x, S.sqrt, S.rsqrt, S.cbrt, S.rcbrt, S.square, S.reciprocal),
    "logarithms": lambda x: each(x, S.log, S.log1p, S.log10, S.log2, S.expm1),
    "hyperbolic": lambda x: each(x + 0.6, S.sinh, S.cosh, S.arcsinh, S.arccosh, S.erf),
    "angles": lambda x: each(x - 1, S.degrees, S.radians, S.tan, S.arcsin, S.arccos, S.arctanh),
    "smooth_l1": lambda x: S.smooth_l1(x - 1, scalar=2.0),
    "normalize": lambda x: S.image.normalize(x, mean=(0.1, 0.2, 0.3), std=2.0),
    "dot": lambda x: S.dot(x, V("w", shape=(6, 7)), transpose_b=True),
    "SequenceReverse and Last": lambda x: S.SequenceLast(S.SequenceReverse(x)),
    "ROIPooling": lambda x: S.ROIPooling(x, rois(), pooled_size=(2, 3), spatial_scale=0.9),
    "ROIAlign": lambda x: C.ROIAlign(x, rois(), pooled_size=(2, 3), spatial_scale=0.9),
    "constants": lambda x: S.broadcast_add(x, S.arange(7)) + S.broadcast_mul(x, S.eye(1, 7)),
    "types": lambda x: S.Group([S.Cast(x * 9, kind) for kind in ("uint8", "float16", "int32")]),
    "outputs that are inputs": lambda x: each(
        x, S.Dropout, S.BlockGrad, lambda x: x * 2, S.identity
    ),
    "equal names": lambda x: S.Group([S.split(x, num_outputs=3, name="a"), S.relu(x, name="a1")]),
}
# Other shapes.
SHAPED = {
    "Convolution in 1-D": ((2, 3, 8), lambda x: Conv(x, kernel=(3,), no_bias=True)),
    "PReLU, channels equal the width": ((2, 5, 4, 5), lambda x: Leaky(x - 1, act_type="prelu")),
    "PReLU of rows": ((2, 6), lambda x: Leaky(x - 1, act_type="prelu")),
    "Pooling, full": ((2, 3, 8, 9), lambda x: FullPool(x, stride=(2, 4), pool_type="avg")),
    "Pooling, full, of maxima": ((2, 3, 6, 8), lambda x: FullPool(-x, stride=(2, 2), pad=(1, 1))),
    "UpSampling": ((2, 3, 4, 4), lambda x: Up(x, Pool(x, stride=(2, 1)), sample_type="nearest")),
    "split of twelve": ((2, 12, 2), lambda x: S.split(x, num_outputs=12, axis=1)),
    "to_tensor": ((2, 5, 7, 3), lambda x: S.image.to_tensor(x)),
    "batch_dot": ((2, 3, 4), lambda x: S.batch_dot(x, x, transpose_b=True)),
    "gemm2": ((2, 3, 4), lambda x: S.linalg.gemm2(x, x, transpose_a=True, alpha=2.5)),
    "unrolled LSTM": ((2, 3, 5), lambda x: unroll(x, mx.rnn.LSTMCell(4))),
    "box_nms": ((2, 9, 6), lambda x: find(x, topk=6)),
    "box_nms, scores first": ((2, 9, 6), lambda x: C.box_nms(S.sort(x), score_index=0)),
    "box_nms by class": ((2, 9, 6), lambda x: find(x, id_index=0, overlap_thresh=0.1)),
    "box_nms of centers": ((2, 9, 6), lambda x: find(x, valid_thresh=0.05, in_format="center")),
    "box_decode": ((2, 6, 4), lambda x: C.box_decode(x, V("w", shape=(1, 6, 4)), std2=0.2)),
    "MultiBoxPrior": (PICTURE, lambda x: C.MultiBoxPrior(x, sizes=(0.2, 0.4), ratios=(1, 2))),
    "MultiBoxDetection": ((2, 5, 9), lambda x: detect(x, nms_topk=5)),
    "MultiBoxDetection beyond the picture": ((2, 5, 9), lambda x: detect(x * 9)),
    "MultiBoxDetection without classes": ((2, 5, 9), lambda x: detect(x, force_suppress=True)),
}
# Batches of one size: another would not fit.
FIXED = {
    "mean of other axes": (PICTURE, lambda x: S.mean(x, axis=1, exclude=True)),
    "gather_nd": (PICTURE, lambda x: S.gather_nd(x, S.floor(V("i", shape=(2, 4))))),
    "where by row": (PICTURE, lambda x: S.where(V("w", shape=(2,)) > 1, x, x * 2)),
    "squeeze of ones": ((1, 1), S.squeeze),
    "diag of a vector": ((5,), lambda x: S.diag(x, k=-2)),
    "Reshape in reverse": (PICTURE, lambda x: S.reshape(x, shape=(-1, 5, 0), reverse=True)),
    "SequenceMask": ((5, 3, 2), lambda x: Mask(x, V("w", shape=(3,)) * 2, value=-2)),
    "box_iou": ((3, 4), lambda x: C.box_iou(S.sort(x), S.sort(V("w", shape=(5, 4))))),
    "self-attention": ((5, 3, 24), lambda x: attend(x, "selfatt")),
    "attention to others": ((5, 3, 8), lambda x: attend(x, "encdec", V("w", shape=(4, 3, 16)))),
    "LSTM of two layers": ((5, 2, 3), lambda x: rnn(x, "lstm", 2, both=True)),
    "GRU without states": ((5, 2, 3), lambda x: rnn(x, "gru", 3, out=False)),
    "RNN": ((5, 2, 3), lambda x: rnn(x, "rnn_relu", both=True)),
}


def params_for(symbol, **shapes):
    """Draw parameters unlike those that a network begins with; labels get none."""
    rng, (arguments, _, states) = np.random.default_rng(7), symbol.infer_shape(**shapes)
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    return {
        name: mx.nd.array(rng.uniform(0.5, 1.5, shape))
        for name, shape in zip(names, arguments + states)
        if name not in shapes and not name.endswith("label")
    }


def draw(*shape):
    return np.random.default_rng(1).uniform(0.5, 1.5, shape).astype(np.float32)


def evaluate(path, **inputs):
    """Compute a file with onnx itself, which every Python has."""
    return onnx.reference.ReferenceEvaluator(str(path)).run(None, inputs)


def assert_same(path, symbol, params, rows):
    """Compare ONNX Runtime's outputs with MXNet's, also their shapes and types."""
    runtime = pytest.importorskip("onnxruntime", reason="there is no ONNX Runtime for this Python")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = room.mxnet_of(symbol, params, {"data": rows.shape})({"data": rows})
    for ours, theirs in zip(session.run(None, {"data": rows}), expected):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        limit = 2e-5 * max(1, np.abs(theirs).max())
        np.testing.assert_allclose(ours.astype(float), theirs.astype(float), rtol=0, atol=limit)
    assert len(session.get_outputs()) == len(expected)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.onnx"


@pytest.mark.parametrize("name", [*USES, *SHAPED, *FIXED])
def test_operator_computes_the_same_in_onnx(name, path):
    shape, use = (SHAPED | FIXED).get(name) or (PICTURE, USES[name])
    symbol, counts, options = use(V("data")), [shape[0]], {}
    params = params_for(symbol, data=shape)
    if name not in FIXED:
        counts.append(2 * shape[0])
        options = {"dynamic": True, "dynamic_input_shapes": [("batch", *shape[1:])]}
    mx.onnx.export_model(symbol, params, [shape], onnx_file_path=str(path), **options)
    for count in counts:
        assert_same(path, symbol, params, draw(count, *shape[1:]))


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (S.SoftmaxOutput, lambda x: np.exp(x) / np.exp(x).sum()),
        (S.LogisticRegressionOutput, lambda x: 1 / (1 + np.exp(-x))),
        (S.LinearRegressionOutput, lambda x: x),
        (lambda x: S.MAERegressionOutput(x, V("goal")), lambda x: x),
    ],
)
def test_head_of_training_predicts_without_a_label(head, expected, path):
    data = V("data")
    heads = S.Group([head(data), S.BlockGrad(S.MAERegressionOutput(data * 2))])
    mx.onnx.export_model(heads, {}, [(1, 6)], onnx_file_path=str(path))
    row = draw(1, 6)
    first, second = evaluate(path, data=row)
    np.testing.assert_allclose(first, expected(row), rtol=1e-5)
    np.testing.assert_allclose(second, 2 * row, rtol=1e-6)
    assert [each.name for each in onnx.load(path).graph.input] == ["data"]


def test_random_numbers_are_drawn_within_their_limits(path):
    x, rows = V("data"), S.one_hot(S.arange(3) + 1, depth=5)  # of which only 1, 2 and 3 are drawn
    numbers = [S.random.uniform_like(x, 2, 3), S.random.normal_like(x, 7, 0.01)]
    symbol = S.Group([*numbers, S.sample_multinomial(rows, shape=(4,))])
    mx.onnx.export_model(symbol, {}, [(3, 5)], onnx_file_path=str(path))
    runtime = pytest.importorskip("onnxruntime", reason="there is no ONNX Runtime for this Python")
    uniform, normal, drawn = runtime.InferenceSession(str(path)).run(None, {"data": draw(3, 5)})
    assert 2 <= uniform.min() < uniform.max() < 3
    assert np.ptp(normal) > 0 and abs(normal - 7).max() < 0.1
    assert drawn.tolist() == [[1] * 4, [2] * 4, [3] * 4]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x: S.gammaln(x) + S.gamma(x), "gamma, gammaln"),
        (lambda x: S.Dropout(x, mode="always", name="drop"), r"Dropout \(drop\)"),
        (lambda x: Conv(x, kernel=(1, 1), layout="NHWC", name="c"), r"\(c\).*NHWC"),
        (lambda x: Norm(x, output_mean_var=True, name="n"), r"output 1 of BatchNorm \(n\)"),
        (lambda x: FullPool(x, stride=(5, 5)), "outside"),
    ],
)
def test_what_onnx_cannot_say_is_an_error_that_names_the_operator(make, words, path):
    symbol = make(V("data"))
    params = params_for(symbol, data=PICTURE)
    with pytest.raises(NotImplementedError, match=words):
        mx.onnx.export_model(symbol, params, [PICTURE], onnx_file_path=str(path))
    assert not path.exists()


def face():
    """Return a network as those of faces are, and its parameters for pictures of 3 x 8 x 8."""
    maps = Norm(Conv(V("data"), kernel=(3, 3), name="conv0"), name="bn0")
    code = Dense(Leaky(maps, act_type="prelu", name="relu0"), num_hidden=6, name="pre_fc1")
    symbol = Norm(code, fix_gamma=True, eps=2e-5, name="fc1")
    return symbol, params_for(symbol, data=(1, 3, 8, 8))


def test_old_calls_of_export_model_still_work(path, tmp_path):
    (symbol, params), shapes = face(), [(1, 3, 8, 8)]
    states = {name: params[name] for name in symbol.list_auxiliary_states()}
    arguments = {name: array for name, array in params.items() if name not in states}
    mx.model.save_checkpoint(str(tmp_path / "face"), 0, symbol, arguments, states)
    graph = tmp_path / "face-symbol.json"
    graph.write_text(graph.read_text().replace("(3, 3)", "(3L, 3L)"))  # as Python 2 wrote it
    files = [str(tmp_path / name) for name in ("face-symbol.json", "face-0000.params")]
    old_names = {"input_shape": shapes, "input_type": np.float32}
    for call in (
        lambda: mx.onnx.export_model(*files, onnx_file_path=str(path), **old_names),
        lambda: mx.onnx.export_model(symbol, [arguments, states], shapes, np.float32, str(path)),
        lambda: mx.contrib.onnx.export_model(symbol, params, shapes, np.float32, str(path)),
    ):
        path.unlink(missing_ok=True)
        assert call() == str(path)
        assert_same(path, symbol, params, draw(1, 3, 8, 8))
    with pytest.raises(ValueError, match="1 inputs .*data.* 2 shapes"):
        mx.onnx.export_model(symbol, params, shapes * 2, onnx_file_path=str(path))


def test_any_size_of_a_picture_may_be_left_open(path):
    symbol = FullPool(Conv(V("data"), kernel=(3, 3)), stride=(2, 2))
    params = params_for(symbol, data=PICTURE)
    mx.onnx.export_model(symbol, params, [PICTURE], onnx_file_path=str(path), dynamic=True)
    assert_same(path, symbol, params, draw(3, 3, 10, 12))


def test_model_says_what_it_is(path):
    symbol, params = face()
    export(symbol, params, {"data": ("batch", 3, 8, 8)}, path)
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 13)]
    assert model.ir_version == 7  # of the same time as the operator set
    shapes = {
        each.name: [dim.dim_param or dim.dim_value for dim in each.type.tensor_type.shape.dim]
        for each in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"data": ["batch", 3, 8, 8], "fc1": ["batch", 6]}


def test_float16_stays_float16(path):
    symbol = Norm(Conv(V("data"), kernel=(3, 3), name="c"), name="n")
    params = params_for(symbol, data=PICTURE)
    half = {name: a.astype("float16") if name[0] == "c" else a for name, a in params.items()}
    mx.onnx.export_model(symbol, half, [PICTURE], np.float16, str(path))
    (found,) = evaluate(path, data=draw(*PICTURE).astype(np.float16))
    (expected,) = room.mxnet_of(symbol, params, {"data": PICTURE})({"data": draw(*PICTURE)})
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, atol=0.01 * abs(expected).max())


def test_network_of_numpy_operators_may_return_a_scalar(path):
    with mx.util.np_shape(True):
        total = V("data").as_np_ndarray().sum()
        mx.onnx.export_model(total, {}, [(2, 3)], onnx_file_path=str(path))
    (found,) = evaluate(path, data=np.ones((2, 3), np.float32))
    assert found.shape == () and found == 6


def test_block_is_exported_with_the_names_of_its_inputs(path):
    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.Conv2D(4, 3), mx.gluon.nn.BatchNorm(), mx.gluon.nn.PReLU())
    net.add(mx.gluon.nn.Dense(6))
    net.initialize(mx.init.Normal(0.5))
    net.hybridize()
    assert export(net, None, {"pixels": ("batch", 3, 8, 8)}, path) < 1e-5
    rows = draw(5, 3, 8, 8)
    (found,) = evaluate(path, pixels=rows)
    np.testing.assert_allclose(found, net(mx.nd.array(rows)).asnumpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("translation", "words"),
    [
        (lambda g, a, x: g.Relu(x) * 1.001, "differ by 0.001 of"),
        (lambda g, a, x: g.Tanh(x), "differ by 1 of"),
        (lambda g, a, x: g.Where(g.Equal(x, 0), x / x, g.Relu(x)), "differ by nan of"),
    ],
)
def test_networks_that_differ_leave_the_file_alone(translation, words, path, monkeypatch):
    path.write_text("from before")
    monkeypatch.setitem(onnx_ops.TRANSLATIONS, "relu", translation)
    with pytest.raises(MismatchError, match=words):
        export(S.relu(V("data")), {}, {"data": ("batch", 3)}, path)
    assert path.read_text() == "from before" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("begin", [lambda x: x, functools.partial(Dense, num_hidden=2)])
def test_random_pictures_go_up_to_255_unless_a_network_begins_with_weights(begin, monkeypatch):
    monkeypatch.setitem(onnx_ops.TRANSLATIONS, "clip", lambda g, a, x: x)
    symbol = S.clip(begin(V("data")), -50, 50)
    params, shapes = params_for(symbol, data=(1, 3)), {"data": ("batch", 3)}
    model = room.build(symbol, params, shapes)
    assert (room.compare(model, symbol, params, shapes) > 1) == (not params)


def test_shapes_must_be_those_of_the_inputs(path):
    symbol, params = face()
    with pytest.raises(ValueError, match="inputs are data, .* of pixels"):
        export(symbol, params, {"pixels": ("batch", 3, 8, 8)}, path)
    with pytest.raises(ValueError, match="does not take these shapes.*pre_fc1"):
        export(symbol, params, {"data": ("batch", 3, 9, 9)}, path)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Save the network of a face in `tmp_path`, twice; return a function that exports it."""
    symbol, params = face()
    S.LinearRegressionOutput(symbol, name="code").save(str(tmp_path / "face-symbol.json"))
    for number, factor in ((1, 1), (3, 2)):
        arrays = {f"arg:{name}": (a * factor).astype("float16") for name, a in params.items()}
        mx.nd.save(str(tmp_path / f"face-{number:04}.params"), arrays)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["export", "face", "--image-shape", "3,8,8", *arguments])
        importlib.import_module("mxcompat.export").main()
        return capsys.readouterr().out

    return run


def test_command_writes_the_last_parameters_or_those_of_an_epoch(command):
    printed = command()
    assert "face.onnx: input data, output code" in printed and "of the largest value" in printed
    command("--epoch", "1", "-o", "first.onnx")
    (last,), (first,) = (
        evaluate(each, data=draw(4, 3, 8, 8)) for each in ("face.onnx", "first.onnx")
    )
    assert last.shape == (4, 6) and abs(last - first).max() > 0.01


def test_command_without_onnx_runtime_says_so(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "mxcompat.export")
    printed = command()
    assert "onnx's own evaluator" in printed and "pip install onnxruntime" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--image-shape", "3,9,9"], "does not take these shapes"),
        (["--epoch", "2"], "face-0002.params is missing"),
        (["-o", "nowhere/net.onnx"], "nowhere"),
    ],
)
def test_command_says_in_one_line_what_is_wrong(arguments, words, command):
    with pytest.raises(SystemExit) as ended:
        command(*arguments)
    assert words in ended.value.code and "\n" not in ended.value.code


def test_command_in_the_shell_says_in_one_line_which_argument_is_wrong():
    result = run(sys.executable, "-m", "mxcompat.export", "face", "--image-shape", "3,0")
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr


def test_page_about_leaving_shows_what_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "leaving-mxnet.md").read_text()
    running, exporting = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    symbol, _ = face()
    net = mx.gluon.nn.Dense(3)
    net.initialize()
    names = {"net": net, "symbol": symbol, "params": params_for(symbol, data=(1, 3, 112, 112))}
    exec(exporting, names)
    pytest.importorskip("onnxruntime", reason="there is no ONNX Runtime for this Python")
    exec(running, names)
    assert names["codes"].shape == (2, 6)


def test_real_network_is_exported(real, path):
    symbol, params, _ = load_checkpoint(str(real / "mobilenet_v2" / "mobilenet_v2"))
    assert export(symbol, params, {"data": ("batch", 3, 224, 224)}, path) < 1e-4


def test_mapping_that_somebody_else_has_put_back_stays(monkeypatch):
    mapping = types.ModuleType("onnx.mapping")
    monkeypatch.setattr(onnx, "mapping", mapping)
    monkeypatch.setitem(sys.modules, "onnx.mapping", mapping)
    onnx_graph.mend()
    assert onnx.mapping is sys.modules["onnx.mapping"] is mapping
