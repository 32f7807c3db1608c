import json
import re
import subprocess
import sys

import mxcompat
from mxcompat import export as room
from mxcompat import onnx_ops
from mxcompat.checkpoints import load_checkpoint
from mxcompat.export import MismatchError, export

import mxnet as mx
import numpy as np
import onnx
import onnx.reference
import pytest
from helpers import ROOT, script_env

S, C, V = mx.sym, mx.sym.contrib, mx.sym.var
Conv, Norm, Pool, Leaky, Dense = (
    *(S.Convolution, S.BatchNorm, S.Pooling, S.LeakyReLU, S.FullyConnected),
)
PICTURE = (2, 3, 5, 7)


def rnn(x, mode, layers=1, both=False, out=True):
    names = ("state", "state_cell") if mode == "lstm" else ("state",)
    states = {name: S.ones((layers * (1 + both), 2, 4)) * 0.3 for name in names}
    options = {"num_layers": layers, "bidirectional": both, "state_outputs": out}
    return S.RNN(data=x, parameters=V("w"), state_size=4, mode=mode, **options, **states)


def unroll(x, cell):
    return cell.unroll(3, inputs=x, layout="NTC", merge_outputs=True)[0]


def attend(x):
    weights = S.softmax(C.interleaved_matmul_selfatt_qk(x, heads=2))
    return C.interleaved_matmul_selfatt_valatt(x, weights, heads=2)


def indices(x, count):
    return S.floor(x * count) - 2  # of 0.5 to 1.5: some out of range


def each(x, *functions):
    return S.Group([function(x) for function in functions])


USES = {
    "Convolution": lambda x: Conv(
        x, kernel=(3, 2), stride=(2, 1), pad=(1, 0), dilate=(1, 2), num_filter=4
    ),
    "Convolution in groups": lambda x: Conv(x, kernel=(1, 3), num_filter=6, num_group=3),
    "Convolution in 1-D": lambda x: Conv(x, kernel=(3,), num_filter=4, no_bias=True),
    "Deconvolution": lambda x: S.Deconvolution(
        x, kernel=(3, 2), stride=(2, 3), pad=(1, 0), adj=(1, 1), num_filter=4, no_bias=False
    ),
    "FullyConnected of a map": lambda x: Dense(x, num_hidden=4),
    "FullyConnected of the last axis": lambda x: Dense(x, num_hidden=4, flatten=False),
    "BatchNorm with fix_gamma": lambda x: Norm(x),
    "BatchNorm with gamma": lambda x: Norm(x, fix_gamma=False, eps=0.01),
    "BatchNorm of another axis": lambda x: Norm(x, axis=-1, fix_gamma=False),
    "LayerNorm": lambda x: S.LayerNorm(x, axis=1),
    "InstanceNorm": lambda x: S.InstanceNorm(x),
    "GroupNorm": lambda x: S.GroupNorm(x, num_groups=3),
    "L2Normalization": lambda x: S.L2Normalization(x),
    "L2Normalization by channel": lambda x: S.L2Normalization(x, mode="channel", eps=0.5),
    "L2Normalization of maps": lambda x: S.L2Normalization(x, mode="spatial"),
    "LRN": lambda x: S.LRN(x, nsize=3, alpha=0.5),
    "PReLU": lambda x: Leaky(x - 1, act_type="prelu"),
    "PReLU, channels equal the width": lambda x: Leaky(x - 1, act_type="prelu"),
    "PReLU of rows": lambda x: Leaky(x - 1, act_type="prelu"),
    "other activations": lambda x: S.Group(
        [Leaky(x - 1, act_type=kind, slope=0.3) for kind in ("leaky", "elu", "selu", "gelu")]
        + [S.Activation(x - 1, act_type=kind) for kind in ("tanh", "softrelu", "softsign")]
    ),
    "softmax": lambda x: S.softmax(x, axis=1, temperature=0.3),
    "softmax of large numbers": lambda x: S.softmax(x * 300, axis=1),
    "softmax of a part": lambda x: S.softmax(
        x, length=S.sum(S.ones_like(x), axis=1).astype("int32") - 1, use_length=True, axis=1
    ),
    "log_softmax and softmin": lambda x: each(x, S.log_softmax, S.softmin),
    "SoftmaxActivation by channel": lambda x: S.SoftmaxActivation(x, mode="channel"),
    "Pooling, full": lambda x: Pool(
        x, kernel=(3, 2), stride=(2, 3), pad=(1, 1), pooling_convention="full", pool_type="avg"
    ),
    "Pooling, full, of maxima": lambda x: Pool(
        -x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pooling_convention="full"
    ),
    "Pooling without the padding": lambda x: Pool(
        x, kernel=(3, 3), pad=(1, 1), pool_type="avg", count_include_pad=False
    ),
    "Pooling by sum": lambda x: Pool(x, kernel=(2, 3), pad=(1, 1), pool_type="sum"),
    "Pooling by norm": lambda x: Pool(x - 1, kernel=(2, 3), pool_type="lp", p_value=2),
    "Pooling of all": lambda x: Pool(x, global_pool=True, kernel=(7, 7), pool_type="avg"),
    "AdaptiveAvgPooling2D": lambda x: C.AdaptiveAvgPooling2D(x, output_size=(2, 3)),
    "UpSampling": lambda x: S.UpSampling(x, scale=3, sample_type="nearest"),
    "UpSampling, bilinear": lambda x: S.UpSampling(
        x, V("w"), scale=2, sample_type="bilinear", num_filter=3, num_args=2
    ),
    "BilinearResize2D": lambda x: C.BilinearResize2D(x, height=9, width=11),
    "BilinearResize2D, half a pixel": lambda x: C.BilinearResize2D(
        x, height=3, width=11, align_corners=False
    ),
    "mean of other axes": lambda x: S.mean(x, axis=1, exclude=True),
    "reductions of all": lambda x: each(x, S.sum, S.max, S.norm, S.argmin),
    "reductions": lambda x: S.Group(
        [reduce(x, axis=1, keepdims=True) for reduce in (S.min, S.prod, S.nansum, S.norm)]
    ),
    "moments": lambda x: S.Group(list(S.moments(x, axes=(2, 3)))),
    "argmax": lambda x: S.argmax(x, axis=1),
    "cumsum": lambda x: S.cumsum(x, axis=1),
    "topk": lambda x: S.topk(x, k=3, axis=1, ret_typ="both"),
    "topk as a mask": lambda x: S.topk(x, k=2, ret_typ="mask", is_ascend=True),
    "sort and argsort": lambda x: each(x, S.sort, S.argsort),
    "pick": lambda x: S.pick(x, indices(S.mean(x, axis=1), 9), axis=1, mode="wrap"),
    "take": lambda x: S.take(V("w", shape=(5, 3)), indices(x, 9)),
    "Embedding": lambda x: S.Embedding(indices(x, 9), input_dim=4, output_dim=3),
    "one_hot": lambda x: S.one_hot(indices(x, 7), depth=4, on_value=3, off_value=-1, dtype="int32"),
    "gather_nd": lambda x: S.gather_nd(x, S.floor(V("i", shape=(2, 4)))),
    "where": lambda x: S.where(x > 1, x, x * 2),
    "diag": lambda x: S.diag(x, axis1=1, axis2=2, k=-1),
    "Reshape with -3": lambda x: S.reshape(x, shape=(0, 0, -3)),
    "Reshape with -3 and -2": lambda x: S.reshape(x, shape=(-3, -2)),
    "Reshape with -4": lambda x: S.reshape(x, shape=(0, -4, -1, 1, -2)),
    "Reshape in reverse": lambda x: S.reshape(x, shape=(-1, 5, 0), reverse=True),
    "transpose": lambda x: S.transpose(S.swapaxes(x, dim1=0, dim2=2), axes=(2, 1, 0, 3)),
    "squeeze": lambda x: S.squeeze(S.expand_dims(x, axis=1)),
    "split": lambda x: S.split(x, num_outputs=12, axis=1),
    "split_v2": lambda x: S.split_v2(x, (1, 4), axis=3),
    "slice": lambda x: S.slice(x, begin=(None, 2, None, 5), end=(None,) * 4, step=(1, -1, 2, -2)),
    "slice_axis": lambda x: S.slice_axis(x, axis=-2, begin=-4, end=None),
    "Crop": lambda x: S.Crop(x, h_w=(2, 3), center_crop=True, num_args=1),
    "Pad": lambda x: S.pad(x, mode="reflect", pad_width=(0, 0, 0, 0, 1, 2, 2, 1)),
    "reverse": lambda x: S.reverse(x, axis=(1, 3)),
    "repeat": lambda x: S.repeat(x, repeats=3, axis=1),
    "tile": lambda x: S.tile(x, reps=(2, 1, 1, 1, 3)),
    "broadcast_to with zeros": lambda x: S.broadcast_to(
        S.mean(x, axis=1, keepdims=True), shape=(0, 4, 0, 0)
    ),
    "arange_like": lambda x: C.arange_like(x, start=2, step=0.5),
    "arithmetic": lambda x: (3 - x) / x + 2 / (x + 1) + 2**x + x**2 + x % 0.7 + 0.7 % x,
    "comparisons": lambda x: (x > 1) + (x <= 1.2) * 2 + S.broadcast_not_equal(x, 2 - x) * 4,
    "broadcast operators": lambda x: each(
        S.mean(x, axis=1, keepdims=True),
        *(
            lambda y, combine=combine: combine(x, y)
            for combine in (S.broadcast_hypot, S.broadcast_maximum, S.broadcast_power)
        ),
    ),
    "rounding": lambda x: each(x * 9 - 9, S.round, S.rint, S.fix, S.trunc, S.sign, S.ceil),
    "roots": lambda x: each(x, S.sqrt, S.rsqrt, S.cbrt, S.rcbrt, S.square, S.reciprocal),
    "logarithms": lambda x: each(x, S.log, S.log1p, S.log10, S.log2, S.expm1),
    "hyperbolic": lambda x: each(x + 0.6, S.sinh, S.cosh, S.arcsinh, S.arccosh, S.erf),
    "angles": lambda x: each(x - 1, S.degrees, S.radians, S.tan, S.arcsin, S.arccos, S.arctanh),
    "smooth_l1": lambda x: S.smooth_l1(x - 1, scalar=2.0),
    "normalize": lambda x: S.image.normalize(x, mean=(0.1, 0.2, 0.3), std=2.0),
    "to_tensor": lambda x: S.image.to_tensor(x),
    "dot": lambda x: S.dot(x, V("w", shape=(6, 7)), transpose_b=True),
    "batch_dot": lambda x: S.batch_dot(x, x, transpose_b=True),
    "gemm2 of one input twice": lambda x: S.linalg.gemm2(
        S.linalg.gemm2(x, x, transpose_a=True), x, transpose_b=True, alpha=2.5
    ),
    "self-attention": attend,
    "SequenceReverse and Last": lambda x: S.SequenceLast(S.SequenceReverse(x)),
    "SequenceMask": lambda x: S.SequenceMask(
        x, S.sum(S.ones_like(x), axis=(0, 2, 3)) / 35, use_sequence_length=True, value=-2
    ),
    "LSTM of two layers": lambda x: rnn(x, "lstm", 2, both=True),
    "GRU without states": lambda x: rnn(x, "gru", 3, out=False),
    "RNN": lambda x: rnn(x, "rnn_relu", both=True),
    "unrolled LSTM": lambda x: unroll(x, mx.rnn.LSTMCell(4)),
    "box_nms": lambda x: C.box_nms(S.sort(x), overlap_thresh=0.1, topk=6, score_index=0),
    "MultiBoxDetection": lambda x: C.MultiBoxDetection(
        S.softmax(x, axis=1), S.slice_axis(x, axis=1, begin=0, end=4).flatten() - 1,
        S.sort(V("anchors", shape=(1, 9, 4))) / 2, nms_topk=5,
    ),
    "constants": lambda x: S.broadcast_add(x, S.arange(7)) + S.broadcast_mul(x, S.eye(1, 7)),
    "types": lambda x: S.Group([S.Cast(x * 9, kind) for kind in ("uint8", "float16", "int32")]),
    "outputs that are inputs": lambda x: S.Group([x, S.Dropout(x), x * 2, S.BlockGrad(x)]),
    "names that become equal": lambda x: S.Group(
        [S.split(x, num_outputs=3, name="a"), S.relu(x, name="a1")]
    ),
}  # fmt: skip
SHAPES = {
    "Convolution in 1-D": (2, 3, 8),
    "PReLU, channels equal the width": (2, 5, 4, 5),
    "PReLU of rows": (2, 6),
    "Pooling, full": (2, 3, 8, 9),
    "Pooling, full, of maxima": (2, 3, 6, 8),
    "split": (2, 12, 2),
    "to_tensor": (2, 5, 7, 3),
    "batch_dot": (2, 3, 4),
    "gemm2 of one input twice": (2, 3, 4),
    "self-attention": (5, 3, 24),
    "LSTM of two layers": (5, 2, 3),
    "GRU without states": (5, 2, 3),
    "RNN": (5, 2, 3),
    "unrolled LSTM": (2, 3, 5),
    "box_nms": (2, 9, 6),
    "MultiBoxDetection": (2, 5, 9),
}
# What a batch of another size would not fit.
FIXED = {"gather_nd", "mean of other axes", "Reshape in reverse", "LSTM of two layers"}
FIXED |= {"GRU without states", "RNN", "self-attention", "SequenceMask"}


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


@pytest.mark.parametrize("use", USES)
def test_operator_computes_the_same_in_onnx(use, path):
    symbol, shape = USES[use](V("data")), SHAPES.get(use, PICTURE)
    params = params_for(symbol, data=shape)
    options = {"dynamic": True, "dynamic_input_shapes": [("batch", *shape[1:])]}
    options = {} if use in FIXED else options
    mx.onnx.export_model(symbol, params, [shape], onnx_file_path=str(path), **options)
    assert_same(path, symbol, params, draw(*shape))
    if use not in FIXED:
        assert_same(path, symbol, params, draw(shape[0] + 3, *shape[1:]))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (S.SoftmaxOutput, softmax),
        (lambda x: S.SoftmaxOutput(x, V("goal")), softmax),
        (S.LogisticRegressionOutput, lambda x: 1 / (1 + np.exp(-x))),
        (S.LinearRegressionOutput, lambda x: x),
        (lambda x: S.MAERegressionOutput(x, V("goal")), lambda x: x),
    ],
)
def test_head_of_training_predicts_without_a_label(head, expected, path):
    data = V("data")
    heads = S.Group([head(data), S.BlockGrad(S.MAERegressionOutput(data * 2))])
    mx.onnx.export_model(heads, {}, [(1, 6)], onnx_file_path=str(path))
    model, row = onnx.load(path), draw(1, 6)
    assert [each.name for each in model.graph.input] == ["data"]
    first, second = onnx.reference.ReferenceEvaluator(model).run(None, {"data": row})
    np.testing.assert_allclose(first, expected(row), rtol=1e-5)
    np.testing.assert_allclose(second, 2 * row, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x: S.gammaln(x) + S.gamma(x), "gamma, gammaln"),
        (lambda x: S.Dropout(x, mode="always", name="drop"), r"Dropout \(drop\)"),
        (lambda x: Conv(x, kernel=(1, 1), num_filter=2, layout="NHWC", name="c"), r"\(c\).*NHWC"),
        (lambda x: Norm(x, output_mean_var=True, name="n"), r"output 1 of BatchNorm \(n\)"),
        (lambda x: Pool(x, kernel=(1, 1), stride=(3, 3), pooling_convention="full"), "outside"),
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
    maps = Norm(Conv(V("data"), kernel=(3, 3), num_filter=4, name="conv0"), name="bn0")
    code = Dense(Leaky(maps, act_type="prelu", name="relu0"), num_hidden=6, name="pre_fc1")
    symbol = Norm(code, fix_gamma=True, eps=2e-5, name="fc1")
    return symbol, params_for(symbol, data=(1, 3, 8, 8))


def test_old_calls_of_export_model_still_work(path, tmp_path, capsys):
    symbol, params = face()
    symbol.save(str(tmp_path / "face-symbol.json"))
    states = symbol.list_auxiliary_states()
    saved = {("aux:" if name in states else "arg:") + name: a for name, a in params.items()}
    mx.nd.save(str(tmp_path / "face-0000.params"), saved)
    files = (str(tmp_path / "face-symbol.json"), str(tmp_path / "face-0000.params"))
    pair = [
        {name: a for name, a in params.items() if (name in states) is kind}
        for kind in (False, True)
    ]
    options = {"input_shape": [(1, 3, 8, 8)], "input_type": np.float32}
    for call in (
        lambda: mx.onnx.export_model(*files, onnx_file_path=str(path), **options),
        lambda: mx.onnx.export_model(symbol, pair, [(1, 3, 8, 8)], np.float32, str(path)),
        lambda: mx.contrib.onnx.export_model(symbol, params, [(1, 3, 8, 8)], np.float32, str(path)),
    ):
        path.unlink(missing_ok=True)
        assert call() == str(path)
        assert_same(path, symbol, params, draw(1, 3, 8, 8))
    with pytest.raises(ValueError, match="1 inputs .*data.* 2 shapes"):
        mx.onnx.export_model(symbol, params, [(1, 3, 8, 8)] * 2, onnx_file_path=str(path))


def test_any_size_of_a_picture_may_be_left_open(path):
    symbol = Pool(Conv(V("data"), kernel=(3, 3), num_filter=4), kernel=(2, 2), pool_type="avg")
    params = params_for(symbol, data=PICTURE)
    mx.onnx.export_model(symbol, params, [PICTURE], onnx_file_path=str(path), dynamic=True)
    assert_same(path, symbol, params, draw(3, 3, 9, 11))


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
    symbol = Norm(Conv(V("data"), kernel=(3, 3), num_filter=4, name="c"), name="n")
    params = params_for(symbol, data=PICTURE)
    half = {name: a.astype("float16") if name[0] == "c" else a for name, a in params.items()}
    mx.onnx.export_model(symbol, half, [PICTURE], np.float16, str(path))
    rows = draw(*PICTURE)
    run = onnx.reference.ReferenceEvaluator(str(path)).run
    (found,) = run(None, {"data": rows.astype(np.float16)})
    (expected,) = room.mxnet_of(symbol, params, {"data": PICTURE})({"data": rows})
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, atol=0.01 * abs(expected).max())


def test_network_of_numpy_operators_may_return_a_scalar(path):
    with mx.util.np_shape(True):
        total = V("data").as_np_ndarray().sum()
        mx.onnx.export_model(total, {}, [(2, 3)], onnx_file_path=str(path))
    run = onnx.reference.ReferenceEvaluator(str(path)).run
    (found,) = run(None, {"data": np.ones((2, 3), np.float32)})
    assert found.shape == () and found == 6


def test_block_is_exported_with_the_names_of_its_inputs(path):
    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.Conv2D(4, 3), mx.gluon.nn.BatchNorm(), mx.gluon.nn.PReLU())
    net.add(mx.gluon.nn.Dense(6))
    net.initialize(mx.init.Normal(0.5))
    net.hybridize()
    assert export(net, None, {"pixels": ("batch", 3, 8, 8)}, path) < 1e-5
    rows = draw(5, 3, 8, 8)
    (found,) = onnx.reference.ReferenceEvaluator(str(path)).run(None, {"pixels": rows})
    np.testing.assert_allclose(found, net(mx.nd.array(rows)).asnumpy(), atol=1e-5)


def test_networks_that_differ_leave_the_file_alone(path, monkeypatch):
    path.write_text("from before")
    monkeypatch.setitem(onnx_ops.TRANSLATIONS, "relu", lambda g, a, x: g.Tanh(x))
    with pytest.raises(MismatchError, match="differ by 1 of"):
        export(S.relu(V("data")), {}, {"data": ("batch", 3)}, path)
    assert path.read_text() == "from before" and list(path.parent.iterdir()) == [path]


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
        arrays = {f"arg:{name}": array * factor for name, array in params.items()}
        arrays = {name: array.astype("float16") for name, array in arrays.items()}
        mx.nd.save(str(tmp_path / f"face-{number:04}.params"), arrays)

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["export", "face", "--image-shape", "3,8,8", *arguments])
        room.main()
        return capsys.readouterr().out

    return run


def test_command_writes_the_last_parameters_or_those_of_an_epoch(command, tmp_path):
    printed = command()
    assert "face.onnx: input data, output code" in printed and "of the largest value" in printed
    command("--epoch", "1", "-o", "first.onnx")
    rows, found = draw(4, 3, 8, 8), []
    for name in ("face", "first"):
        run = onnx.reference.ReferenceEvaluator(str(tmp_path / f"{name}.onnx")).run
        found += run(None, {"data": rows})
    assert found[0].shape == (4, 6) and abs(found[0] - found[1]).max() > 0.01


def test_command_without_onnx_runtime_says_so(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
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
def test_command_says_in_one_line_what_is_wrong(command, arguments, words):
    with pytest.raises(SystemExit) as ended:
        command(*arguments)
    assert words in ended.value.code and "\n" not in ended.value.code


def test_command_runs_from_the_shell(command, tmp_path):
    start = [sys.executable, "-m", "mxcompat.export"]
    options = {"env": script_env(PYTHONPATH=str(ROOT)), "cwd": tmp_path}
    options.update(capture_output=True, text=True)
    result = subprocess.run([*start, "face", "--image-shape", "3,8,8"], **options)
    assert result.returncode == 0 and (tmp_path / "face.onnx").exists(), result.stderr
    result = subprocess.run([*start, "face", "--image-shape", "3,x"], **options)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)


@pytest.mark.parametrize("operator", ["Custom", "_cvimread", "_npi_Custom", "_sg_mkldnn_conv"])
def test_checkpoint_with_an_operator_that_runs_foreign_code_is_refused(operator, command, tmp_path):
    graph = json.loads((tmp_path / "face-symbol.json").read_text())
    graph["nodes"][-1]["op"] = operator
    (tmp_path / "face-symbol.json").write_text(json.dumps(graph))
    with pytest.raises(ValueError, match=f"{operator}, which is not trusted"):
        load_checkpoint(str(tmp_path / "face"))


def test_checkpoint_is_read_in_float32(command, tmp_path):
    symbol, params, path = load_checkpoint(str(tmp_path / "face"))
    assert path.name == "face-0003.params" and symbol.list_outputs() == ["code_output"]
    assert {array.dtype for array in params.values()} == {np.float32}


@pytest.mark.parametrize("name", ["face-symbol.json", "face-0003.params"])
def test_damaged_checkpoint_is_one_line(name, command, tmp_path):
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-9])
    with pytest.raises(ValueError, match=rf"^\S*{name}\b.*$"):
        load_checkpoint(str(tmp_path / "face"))


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


def test_mapping_that_somebody_else_has_put_back_stays():
    code = """
import sys, types
import onnx
mapping = onnx.mapping = sys.modules["onnx.mapping"] = types.ModuleType("onnx.mapping")
import mxcompat
assert onnx.mapping is mapping
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
