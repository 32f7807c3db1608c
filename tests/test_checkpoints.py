import json
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from helpers import TinyNetwork, draw_params, script_ends
from mxnet import sym

from common.checkpoints import choose_code_layer, code_layers, load_checkpoint, load_first_layer
from common.errors import ScriptError
from common.int8 import quantize
from common.networks import Encoder, make_network

IMAGES = np.random.default_rng(0).integers(256, size=(4, 3, 6, 6)).astype(np.uint8)
WEIGHT = np.random.default_rng(1).normal(size=(5, 108)).astype(np.float32)
EXPECTED = IMAGES.reshape(4, -1) @ WEIGHT.T


def dense(data=None, name="fc"):
    """Make a dense layer of five numbers."""
    data = sym.var("data") if data is None else data
    return sym.FullyConnected(data, num_hidden=5, no_bias=True, name=name)


def save(folder, symbol, **arrays):
    """Save a checkpoint, with WEIGHT as the only parameter unless given; return its prefix."""
    arrays = arrays or {"fc_weight": WEIGHT}
    params = {name: mx.nd.array(array, dtype=array.dtype) for name, array in arrays.items()}
    mx.model.save_checkpoint(str(folder / "net"), 0, symbol, params, {})
    return str(folder / "net")


def codes_of(prefix, images=IMAGES):
    """Return the codes that a checkpoint gives pictures, and its network."""
    symbol, params, path = load_checkpoint(prefix)
    layer, is_output = choose_code_layer(symbol, None, images.shape[1:])
    code = symbol.get_internals()[layer]
    network = make_network(code, params, images.shape[1:], path, is_output=is_output)
    encoder = Encoder(network.symbol, network.params, images.shape[1:], mx.cpu())
    return encoder.start(images)()[0], network


def test_checkpoint_is_its_symbol_and_its_highest_numbered_parameters(tiny, place):
    tiny.save(place / "good", 10000)
    TinyNetwork(seed=4).save(place / "good", 9999)
    for other in ("tiny-0100.params.bak", "tiny-999.params", "tinytiny-20000.params"):
        (place / "good" / other).write_bytes(b"no checkpoint")
    symbol, params, path = load_checkpoint(str(place / "good" / "tiny"))
    assert path.name == "tiny-10000.params" and symbol.list_outputs() == ["softmax_output"]
    assert params.keys() == tiny.params.keys()
    assert (params["bn0_moving_var"] == tiny.params["bn0_moving_var"]).asnumpy().all()


@pytest.mark.parametrize("name", ["net-symbol.json", "net-0000.params"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, " is missing: give what comes"),
        (b"version https://git-lfs.github.com/spec/v1\n", " is a Git LFS pointer: run git lfs"),
        (b"", "(, byte | cannot be read: )"),
        (b"hello, world\n", "(, byte | cannot be read: )"),
    ],
)
def test_checkpoint_without_a_whole_file_is_an_error_that_names_it(name, content, words, tmp_path):
    prefix, path = save(tmp_path, dense()), tmp_path / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ScriptError, match=f"^.*{name}{words}.*$"):
        load_checkpoint(prefix)


def test_files_that_are_no_checkpoint_are_an_error_that_says_what_is_wrong(tmp_path):
    prefix, path = save(tmp_path, dense()), tmp_path / "net-symbol.json"
    mx.nd.save(f"{prefix}-0000.params", [mx.nd.ones(3)])
    with pytest.raises(ScriptError, match="net-0000.params holds arrays without names"):
        load_checkpoint(prefix)
    save(tmp_path, dense())
    path.write_text(path.read_text().replace('"FullyConnected"', '"WarpCTC"'))
    with pytest.raises(ScriptError, match="net-symbol.json cannot be read: .*WarpCTC"):
        load_checkpoint(prefix)
    with pytest.raises(ScriptError, match="to --model, if you have a copy: .* no longer published"):
        load_checkpoint(str(tmp_path / "imagenet1k-inception-bn"))


@pytest.mark.parametrize("name", ["net", "net.params"])
def test_parameters_of_save_parameters_are_told_how_to_get_their_symbol(name, tmp_path):
    net = mx.gluon.nn.Dense(2, in_units=3)
    net.initialize()
    net.save_parameters(str(tmp_path / "net.params"))
    with pytest.raises(ScriptError, match=r"save_parameters writes no symbol; net.export\("):
        load_checkpoint(str(tmp_path / name))


def test_code_layers_are_those_that_give_a_vector_a_picture():
    maps = sym.Convolution(sym.var("data"), num_filter=3, kernel=(1, 1), no_bias=True, name="maps")
    means = sym.Pooling(maps, kernel=(1, 1), global_pool=True, pool_type="avg", name="mean")
    # A row that is not a picture's, of weights or of numbers that were turned, is none.
    weight = sym.L2Normalization(sym.var("fc1_weight", shape=(5, 3)), name="normal")
    codes = sym.FullyConnected(means, weight, num_hidden=5, no_bias=True, name="fc1")
    turned = sym.transpose(codes, name="turned")
    rows = sym.L2Normalization(sym.var("two_weight", shape=(2, 3)), name="rows")
    scores = sym.SoftmaxOutput(codes)  # takes labels
    layers = code_layers(sym.Group([turned, rows, scores]), (3, 8, 8))
    assert layers == ["mean_output", "fc1_output"]


SCORES = [lambda layer: layer, lambda layer: sym.log_softmax(sym.softmax(layer)), sym.softmax]
SCORES += [sym.log_softmax, sym.SoftmaxOutput, sym.SoftmaxActivation]
OTHERS = [sym.LinearRegressionOutput, sym.LogisticRegressionOutput, sym.MAERegressionOutput]
OTHERS += [sym.SVMOutput, sym.MakeLoss, sym.make_loss, sym.BlockGrad, sym.stop_gradient]
OTHERS += [lambda layer: sym.BlockGrad(sym.softmax(layer))]


@pytest.mark.parametrize("head", SCORES + OTHERS)
def test_layer_before_a_head_is_the_code_and_scores_only_before_a_softmax(head, tmp_path):
    codes, network = codes_of(save(tmp_path, head(dense())))
    np.testing.assert_allclose(codes, EXPECTED, rtol=1e-4)
    assert network.about["is_output"] == (head in SCORES)


def test_code_layer_that_is_not_there_is_answered_with_the_last_ten_that_would_do():
    symbol = dense()
    for number in range(15):
        symbol = sym.Activation(symbol, act_type="relu", name=f"relu{number}")
    last = " ".join(f"relu{number}_output" for number in range(5, 15))
    assert choose_code_layer(symbol, "fc_output", (3, 8, 8)) == ("fc_output", False)
    with script_ends(2, f"--code-layer: x .*the last that do: {last}$"):
        choose_code_layer(symbol, "x", (3, 8, 8))


def test_network_without_a_vector_per_picture_is_not_told_to_choose_from_nothing():
    maps = sym.Convolution(sym.var("data"), kernel=(3, 3), num_filter=5)
    with pytest.raises(ScriptError, match="no layer that gives one vector per picture$"):
        choose_code_layer(maps, None, (3, 8, 8))


EXTRA = {"data": np.zeros((4, 3, 6, 6)), "softmax_label": np.zeros(4)}


@pytest.mark.parametrize("name", ["data", "data_0", "image"])
@pytest.mark.parametrize("label", ["my_label", "y"])
@pytest.mark.parametrize("extra", [{}, EXTRA])
def test_only_free_input_takes_the_pictures(name, label, extra, tmp_path, capsys):
    scores = dense(sym.var(name))
    loss = sym.square(scores - sym.var("other_label"))
    heads = sym.Group([sym.SoftmaxOutput(scores, sym.var(label)), loss])
    prefix = save(tmp_path, heads, fc_weight=WEIGHT, **extra)
    np.testing.assert_allclose(codes_of(prefix)[0], EXPECTED, rtol=1e-4)
    assert "several outputs: fc_output is taken" in capsys.readouterr().err


def test_several_inputs_are_named(tmp_path):
    prefix = save(tmp_path, dense(sym.var("a") + sym.var("b")))
    with pytest.raises(ScriptError, match=r"has 2 inputs \(a b\)"):
        load_checkpoint(prefix)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_network_of_another_dtype_runs_in_float32_and_int8(dtype, tmp_path):
    pixels = sym.Cast(sym.var("data", dtype=dtype), dtype=dtype)
    weight, array = sym.var("fc_weight", dtype=dtype), WEIGHT.astype(dtype)
    rows = sym.FullyConnected(pixels, weight, num_hidden=5, no_bias=True, name="fc")
    prefix = save(tmp_path, sym.Cast(rows, dtype="float32"), fc_weight=array)
    codes, network = codes_of(prefix)
    symbol, params, _ = load_checkpoint(prefix)
    assert params["fc_weight"].dtype == np.float32
    assert symbol.infer_type(data="float32")[0] == [np.float32] * 2  # as the export asks for
    expected = IMAGES.reshape(4, -1) @ array.astype(np.float32).T
    np.testing.assert_allclose(codes, expected, rtol=1e-4, atol=1e-3)
    quantize(network, IMAGES)


def test_network_exported_with_numpys_shapes_runs(tmp_path):
    with mx.util.np_shape(), mx.util.np_array():
        net = mx.gluon.nn.Dense(5, in_units=108, use_bias=False)
        net.initialize()
        net.weight.set_data(mx.np.array(WEIGHT))
        net.hybridize()
        net(mx.np.ones((1, 3, 6, 6)))
        net.export(str(tmp_path / "net"))
    np.testing.assert_allclose(codes_of(str(tmp_path / "net"))[0], EXPECTED, rtol=1e-4)


def test_gray_network_is_taken_and_says_so_to_colored_pictures(tmp_path):
    maps = sym.Convolution(sym.var("data"), name="c", kernel=(6, 6), num_filter=5, no_bias=True)
    prefix = save(tmp_path, sym.flatten(maps), c_weight=np.ones((5, 1, 6, 6)))
    with pytest.raises(ScriptError, match="c_weight takes 1 channels, .* try --image-shape 1,H,W$"):
        codes_of(prefix)
    assert load_first_layer(load_checkpoint(prefix), None, None, None)[0].name == "c"


REFUSED = ["Custom", "_npi_Custom", "_CustomFunction", "_Native", "_NDArray", "_CachedOp"]
REFUSED += ["_sg_mkldnn_fully_connected", "_cvimread", "_npi_cvimread", "_contrib_tvm_dot"]
REFUSED += ["_contrib_dgl_subgraph", "_backward_Custom", "_broadcast_backward"]


@pytest.mark.parametrize("operator", REFUSED)
def test_operator_that_reaches_outside_a_graph_is_refused_before_mxnet_sees_it(operator, tmp_path):
    prefix = save(tmp_path, dense())
    path = Path(f"{prefix}-symbol.json")
    graph = json.loads(path.read_text())
    node = {"op": operator, "name": "x", "inputs": [], "attrs": {"info": "0x41414141"}}
    inside = {**graph["nodes"][-1], "subgraphs": [{**graph, "nodes": [node]}]}
    for bad in (node, inside):
        path.write_text(json.dumps({**graph, "nodes": [*graph["nodes"], bad]}))
        with pytest.raises(ScriptError, match=f"operator {operator}, which is not trusted"):
            load_checkpoint(prefix)


@pytest.fixture
def convolutions(tmp_path):
    """Save convolutions `look` and `again` with 3 input channels, and others; load them again."""
    conv = sym.Convolution
    maps = conv(sym.var("data"), name="grouped", num_group=3, kernel=(1, 1), num_filter=3)
    maps = conv(maps, name="look", no_bias=True, kernel=(3, 3), num_filter=4)
    maps = conv(maps, name="deeper", kernel=(1, 1), num_filter=3)
    maps = conv(maps, name="again", kernel=(3, 3), num_filter=2)
    params = {**draw_params(maps, (3, 6, 6)), "again_weight": np.ones((2, 3, 3, 3))}
    return load_checkpoint(save(tmp_path, maps, **params))


@pytest.mark.parametrize(("name", "expected"), [(None, "look"), ("again", "again")])
def test_first_layer_is_the_first_of_3_channels_or_the_named_one(name, expected, convolutions):
    layer, source = load_first_layer(convolutions, name, (1, 2, 3), None)
    assert (layer.name, layer.mean_rgb, layer.std_rgb) == (expected, (1, 2, 3), (1,))
    weight = convolutions.params[f"{expected}_weight"].asnumpy()
    np.testing.assert_array_equal(layer.weight.asnumpy(), weight.astype("float32"), strict=True)
    assert layer.bias is None or (layer.bias == convolutions.params["again_bias"]).asnumpy().all()
    assert f"`{expected}`" in source and "net-0000.params" in source


@pytest.mark.parametrize("name", ["nowhere", "grouped", "deeper"])
def test_layer_that_will_not_do_is_refused_with_those_that_would(name, convolutions):
    with script_ends(2, f"--layer: {name} .*: look again$"):
        load_first_layer(convolutions, name, None, None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"c_weight": None}, "c_weight is not in it"),
        ({"c_weight": np.ones((5, 3, 5, 5))}, r"c_weight has the shape \(5, 3, 5, 5\)"),
        ({"c_weight": np.ones((5, 2, 3, 3))}, "no convolution with 3 input channels, or 1"),
        ({"c_weight": np.full((5, 3, 3, 3), np.nan)}, "NaN or infinite weights in c"),
        ({"c_bias": np.full(5, np.inf)}, "NaN or infinite weights in c"),
        ({"c_bias": np.ones(7)}, r"c_bias has the shape \(7,\)"),
    ],
)
def test_first_layer_that_cannot_be_shown_is_an_error(changes, words, tmp_path):
    symbol = sym.Convolution(sym.var("data"), kernel=(3, 3), num_filter=5, name="c")
    params = {"c_weight": np.ones((5, 3, 3, 3)), "c_bias": np.ones(5), **changes}
    prefix = save(tmp_path, symbol, **{name: a for name, a in params.items() if a is not None})
    with pytest.raises(ScriptError, match=words):
        load_first_layer(load_checkpoint(prefix), None, None, None)
