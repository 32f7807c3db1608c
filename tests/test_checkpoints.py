import json
from pathlib import Path

from common.checkpoints import (
    choose_code_layer,
    code_layers,
    load_checkpoint,
    load_first_layer,
    rewrite_batch_norms,
)
from common.errors import ScriptError
from common.networks import encode, make_block

import mxnet as mx
import numpy as np
import pytest
from helpers import damage
from mxnet.gluon.model_zoo import vision


def test_checkpoint_is_its_symbol_and_its_highest_numbered_parameters(tiny, place):
    (place / "good" / "tiny-0100.params.bak").write_bytes(b"no checkpoint")
    symbol, params, path = load_checkpoint(str(place / "good" / "tiny"))
    assert path.name == "tiny-0012.params" and symbol.list_outputs() == ["softmax_output"]
    assert sorted(params) == sorted(name.split(":")[1] for name in tiny.arrays)
    np.testing.assert_allclose(
        params["bn0_moving_var"].asnumpy(), tiny.arrays["aux:bn0_moving_var"]
    )


@pytest.mark.parametrize("name", ["tiny-symbol.json", "tiny-0012.params"])
def test_checkpoint_without_a_file_is_an_error_that_names_it(name, place):
    for path in (place / "good").glob("*" + name[-7:]):
        path.unlink()
    with pytest.raises(ScriptError, match=name.replace("12", "00")):
        load_checkpoint(str(place / "good" / "tiny"))


@pytest.mark.parametrize("name", ["tiny-symbol.json", "tiny-0012.params"])
@pytest.mark.parametrize("how", ["empty", "half", "text"])
def test_damaged_checkpoint_is_an_error_that_names_the_file(name, how, place):
    damage(place / "good" / name, how)
    with pytest.raises(ScriptError, match=f"{name} cannot be read") as raised:
        load_checkpoint(str(place / "good" / "tiny"))
    assert "\n" not in str(raised.value)


def test_parameters_without_names_are_no_checkpoint(place):
    mx.nd.save(str(place / "good" / "tiny-0012.params"), [mx.nd.ones(3)])
    with pytest.raises(ScriptError, match="tiny-0012.params holds arrays without names"):
        load_checkpoint(str(place / "good" / "tiny"))


def test_inception_bn_is_told_that_its_weights_are_no_longer_published(tmp_path):
    with pytest.raises(ScriptError, match="no longer published: .*--model"):
        load_checkpoint(str(tmp_path / "imagenet1k-inception-bn"))


def test_code_layers_are_those_that_give_a_vector_a_picture(place):
    symbol, params, _ = load_checkpoint(str(place / "good" / "tiny"))
    vectors = ["flatten0_output", "pool1_output", "all_output", "concat0_output", "fc1_output"]
    assert code_layers(symbol, (3, 32, 48)) == vectors
    # A row that is not a picture's, of weights or of numbers that were turned, is none.
    data, weight = mx.sym.Variable("data"), mx.sym.Variable("fc1_weight", shape=(5, 3))
    weight = mx.sym.L2Normalization(weight, name="normal")
    means = mx.sym.Pooling(data, kernel=(1, 1), global_pool=True, pool_type="avg", name="mean")
    codes = mx.sym.FullyConnected(means, weight, num_hidden=5, no_bias=True, name="fc1")
    turned = mx.sym.transpose(codes, name="turned")
    assert code_layers(turned, (3, 8, 8)) == ["mean_output", "fc1_output"]


def dense(name="mine"):
    return mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=5, name=name)


ENDS = {
    "nothing": (dense, "mine_output"),
    "softmax with a label": (lambda: mx.sym.SoftmaxOutput(dense()), "mine_output"),
    "softmax": (lambda: mx.sym.softmax(dense()), "mine_output"),
    "log softmax of a softmax": (
        lambda: mx.sym.log_softmax(mx.sym.softmax(dense())),
        "mine_output",
    ),
    "flattened convolution": (
        lambda: mx.sym.flatten(
            mx.sym.Convolution(mx.sym.Variable("data"), kernel=(8, 8), num_filter=4), name="flat"
        ),
        "flat_output",
    ),
    "two outputs": (
        lambda: mx.sym.Group([mx.sym.softmax(dense()), dense("other")]),
        "mine_output",
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_code_is_by_default_the_first_output_before_a_softmax(end, capsys):
    build, expected = ENDS[end]
    assert choose_code_layer(build(), None, (3, 8, 8)) == (expected, True)
    assert ("several outputs: mine_output" in capsys.readouterr().err) == (end == "two outputs")


def test_code_layer_that_is_not_there_is_answered_with_the_last_ten_that_would_do():
    symbol = dense()
    for number in range(15):
        symbol = mx.sym.Activation(symbol, act_type="relu", name=f"relu{number}")
    last = " ".join(f"relu{number}_output" for number in range(5, 15))
    assert choose_code_layer(symbol, "mine_output", (3, 8, 8)) == ("mine_output", False)
    with pytest.raises(ScriptError, match=f"--code-layer: x .*the last that do: {last}$") as raised:
        choose_code_layer(symbol, "x", (3, 8, 8))
    assert raised.value.status == 2


def save_convolutions(folder, **changes):
    """Save convolutions `look` and `again` with 3 input channels, and others; return the prefix."""
    data = mx.sym.Variable("data")
    conv = mx.sym.Convolution(data, name="look", no_bias=True, kernel=(3, 3), num_filter=4)
    deeper = mx.sym.Convolution(conv, name="deeper", kernel=(1, 1), num_filter=3)
    again = mx.sym.Convolution(deeper, name="again", kernel=(3, 3), num_filter=2)
    net = mx.sym.FullyConnected(again, name="fc", num_hidden=2)
    shapes = {"look_weight": (4, 3, 3, 3), "deeper_weight": (3, 4, 1, 1), "deeper_bias": (3,)}
    shapes.update({"again_weight": (2, 3, 3, 3), "again_bias": (2,)})
    shapes.update({"fc_weight": (2, 4), "fc_bias": (2,)})
    arrays = {name: mx.nd.random.normal(shape=shape) for name, shape in shapes.items()}
    arrays.update(changes)
    arrays = {name: array for name, array in arrays.items() if array is not None}
    mx.model.save_checkpoint(str(folder / "net"), 0, net, arrays, {})
    return str(folder / "net"), arrays


def test_first_layer_is_the_first_convolution_with_3_channels_or_the_one_that_is_named(tmp_path):
    prefix, arrays = save_convolutions(tmp_path)
    for name, expected in ((None, "look"), ("again", "again")):
        layer, source = load_first_layer(load_checkpoint(prefix), name, (1, 2, 3), None)
        assert layer.name == expected
        assert (layer.mean_rgb, layer.std_rgb) == ((1, 2, 3), (1,))
        assert (layer.weight == arrays[f"{expected}_weight"]).asnumpy().all()
        assert expected in source and "net-0000.params" in source
    assert (layer.bias == arrays["again_bias"]).asnumpy().all()


@pytest.mark.parametrize("name", ["nowhere", "deeper", "fc"])
def test_layer_that_will_not_do_is_refused_with_those_that_would(name, tmp_path):
    prefix, _ = save_convolutions(tmp_path)
    with pytest.raises(ScriptError, match=f"--layer: {name} .*: look again$") as raised:
        load_first_layer(load_checkpoint(prefix), name, None, None)
    assert raised.value.status == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (None, "look_weight is not in it"),
        (mx.nd.ones((4, 3, 5, 5)), "look_weight has the shape"),
        (mx.nd.full((4, 3, 3, 3), np.nan), "NaN or infinite weights in look"),
    ],
)
def test_first_layer_with_unfit_parameters_is_an_error(change, words, tmp_path):
    prefix, _ = save_convolutions(tmp_path, look_weight=change)
    with pytest.raises(ScriptError, match=f"net-0000.params .*{words}"):
        load_first_layer(load_checkpoint(prefix), None, None, None)


def test_checkpoint_without_a_layer_for_pictures_is_an_error(tmp_path):
    net = mx.sym.FullyConnected(mx.sym.Variable("data"), name="fc", num_hidden=2)
    params = {"fc_weight": mx.nd.ones((2, 4)), "fc_bias": mx.nd.ones(2)}
    mx.model.save_checkpoint(str(tmp_path / "net"), 0, net, params, {})
    with pytest.raises(ScriptError, match="no convolution with 3 input channels, or 1"):
        load_first_layer(load_checkpoint(str(tmp_path / "net")), None, None, None)


@pytest.mark.parametrize("fault", ["num_group", "no weight"])
def test_convolution_that_mxnet_would_die_of_is_an_error_that_names_the_file(fault, tmp_path):
    prefix, _ = save_convolutions(tmp_path)
    path = Path(f"{prefix}-symbol.json")
    graph = json.loads(path.read_text())
    node = next(node for node in graph["nodes"] if node["op"] == "Convolution")
    if fault == "num_group":
        node["attrs"]["num_group"] = "0"
    else:
        del node["inputs"][1:]
    path.write_text(json.dumps(graph))
    with pytest.raises(ScriptError, match="net-symbol.json cannot be read"):
        load_first_layer(load_checkpoint(prefix), None, None, None)


def save(folder, symbol, **arrays):
    """Save a checkpoint and return its prefix."""
    params = {name: mx.nd.array(array, dtype=array.dtype) for name, array in arrays.items()}
    mx.model.save_checkpoint(str(folder / "net"), 0, symbol, params, {})
    return str(folder / "net")


def codes_of(prefix, images, layer=None):
    """Return what a checkpoint makes of pictures, and whether it is scores of classes."""
    shape = images.shape[1:]
    symbol, params, path = load_checkpoint(prefix)
    layer, is_output = choose_code_layer(symbol, layer, shape)
    block, _ = make_block(symbol.get_internals()[layer], params, shape, mx.cpu(), path)
    return encode(block, images, mx.cpu()), is_output


IMAGES = np.random.default_rng(0).integers(256, size=(4, 3, 6, 6)).astype(np.uint8)
WEIGHT = np.random.default_rng(1).normal(size=(5, 108)).astype(np.float32)
EXPECTED = IMAGES.reshape(4, -1) @ WEIGHT.T


def dense_of(name, dtype="float32"):
    pixels = mx.sym.Cast(mx.sym.var(name), dtype=dtype)
    return mx.sym.FullyConnected(pixels, num_hidden=5, no_bias=True, name="fc")


@pytest.mark.parametrize("name", ["data", "data_0", "input", "image"])
def test_only_free_input_takes_the_pictures(name, tmp_path):
    prefix = save(tmp_path, mx.sym.SoftmaxOutput(dense_of(name)), fc_weight=WEIGHT)
    np.testing.assert_allclose(codes_of(prefix, IMAGES)[0], EXPECTED, rtol=1e-4)


def test_several_inputs_are_named(tmp_path):
    two = mx.sym.FullyConnected(mx.sym.var("a") + mx.sym.var("b"), num_hidden=5, name="fc")
    prefix = save(tmp_path, two, fc_weight=WEIGHT, fc_bias=np.zeros(5))
    with pytest.raises(ScriptError, match=r"has 2 inputs \(a b\)"):
        load_checkpoint(prefix)


def test_network_in_float16_runs_in_float32(tmp_path):
    symbol = mx.sym.Cast(dense_of("data", "float16"), dtype="float32")
    prefix = save(tmp_path, symbol, fc_weight=WEIGHT.astype(np.float16))
    codes, _ = codes_of(prefix, IMAGES)
    expected = IMAGES.reshape(4, -1) @ WEIGHT.astype(np.float16).astype(np.float32).T
    np.testing.assert_allclose(codes, expected, rtol=1e-4, atol=1e-3)


def test_network_exported_with_numpys_shapes_runs(tmp_path):
    with mx.util.np_shape(), mx.util.np_array():
        net = mx.gluon.nn.Dense(5, in_units=108, use_bias=False)
        net.initialize()
        net.weight.set_data(mx.np.array(WEIGHT))
        net.hybridize()
        net(mx.np.ones((1, 3, 6, 6)))
        net.export(str(tmp_path / "net"))
    codes, is_output = codes_of(str(tmp_path / "net"), IMAGES)
    np.testing.assert_allclose(codes, EXPECTED, rtol=1e-4)
    assert is_output


def test_gray_network_takes_gray_pictures_and_says_so_to_others(tmp_path):
    maps = mx.sym.Convolution(
        mx.sym.var("data"), kernel=(6, 6), num_filter=5, no_bias=True, name="c"
    )
    weight = WEIGHT[:, :36].reshape(5, 1, 6, 6)
    prefix = save(tmp_path, mx.sym.flatten(maps, name="flat"), c_weight=weight)
    codes, _ = codes_of(prefix, IMAGES[:, :1])
    np.testing.assert_allclose(codes, IMAGES[:, 0].reshape(4, -1) @ WEIGHT[:, :36].T, rtol=1e-4)
    with pytest.raises(ScriptError, match="of 3,6,6: give --image-shape 1,6,6$"):
        codes_of(prefix, IMAGES)
    layer, _ = load_first_layer(load_checkpoint(prefix), None, None, None)
    assert layer.weight.shape == (5, 1, 6, 6)


@pytest.mark.parametrize(
    ("head", "is_output"),
    [
        *((mx.sym.SoftmaxOutput, True), (mx.sym.softmax, True), (mx.sym.MakeLoss, False)),
        *((mx.sym.LinearRegressionOutput, False), (mx.sym.LogisticRegressionOutput, False)),
        *((mx.sym.MAERegressionOutput, False), (mx.sym.SVMOutput, False)),
    ],
)
def test_layer_before_a_head_is_the_code_and_scores_only_before_a_softmax(
    head, is_output, tmp_path
):
    prefix = save(tmp_path, head(dense_of("data")), fc_weight=WEIGHT)
    codes, scores = codes_of(prefix, IMAGES)
    np.testing.assert_allclose(codes, EXPECTED, rtol=1e-4)
    assert scores == is_output


def test_layer_before_the_first_of_several_heads_is_the_code(tmp_path, capsys):
    other = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=2, no_bias=True, name="other")
    symbol = mx.sym.Group([mx.sym.SoftmaxOutput(dense_of("data")), mx.sym.SoftmaxOutput(other)])
    prefix = save(tmp_path, symbol, fc_weight=WEIGHT, other_weight=WEIGHT[:2])
    np.testing.assert_allclose(codes_of(prefix, IMAGES)[0], EXPECTED, rtol=1e-4)
    assert "several outputs: fc_output is taken" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["net", "net.params"])
def test_parameters_of_save_parameters_are_told_how_to_get_their_symbol(name, tmp_path):
    net = mx.gluon.nn.Dense(2, in_units=3)
    net.initialize()
    net.save_parameters(str(tmp_path / "net.params"))
    with pytest.raises(ScriptError, match=r"save_parameters writes no symbol; net.export\("):
        load_checkpoint(str(tmp_path / name))


@pytest.mark.parametrize(
    "operator", ["_Native", "_NDArray", "Custom", "_sg_mkldnn_fully_connected", "_cvimread"]
)
def test_operator_that_reaches_outside_a_graph_is_refused_before_mxnet_sees_it(operator, tmp_path):
    prefix = save(tmp_path, dense_of("data"), fc_weight=WEIGHT)
    path = Path(f"{prefix}-symbol.json")
    graph = json.loads(path.read_text())
    graph["nodes"][1].update({"op": operator, "attrs": {"info": "0x41414141"}})
    path.write_text(json.dumps(graph))
    with pytest.raises(ScriptError, match=f"operator {operator}, which is not trusted"):
        load_checkpoint(prefix)


def test_operator_in_a_subgraph_is_refused_too(tmp_path):
    prefix = save(tmp_path, dense_of("data"), fc_weight=WEIGHT)
    path = Path(f"{prefix}-symbol.json")
    graph = json.loads(path.read_text())
    inner = {**graph, "nodes": [{"op": "_Native", "name": "x", "inputs": []}]}
    graph["nodes"][-1]["subgraphs"] = [inner]
    path.write_text(json.dumps(graph))
    with pytest.raises(ScriptError, match="_Native, which is not trusted"):
        load_checkpoint(prefix)


def test_count_that_would_fill_the_memory_is_refused(tmp_path):
    split = mx.sym.SliceChannel(dense_of("data"), num_outputs=5, name="split")
    prefix = save(tmp_path, split, fc_weight=WEIGHT)
    path = Path(f"{prefix}-symbol.json")
    path.write_text(path.read_text().replace('"num_outputs": "5"', f'"num_outputs": "{2**31 - 1}"'))
    with pytest.raises(ScriptError, match="net-symbol.json cannot be read"):
        load_checkpoint(prefix)


@pytest.mark.parametrize("make", ["resnet18_v2", "mobilenet_v2_0_25", "squeezenet1_0"])
def test_operators_that_gluon_exports_are_trusted(make, tmp_path):
    net = getattr(vision, make)()
    net.initialize()
    net.hybridize()
    net(mx.nd.zeros((1, 3, 224, 224)))
    net.export(str(tmp_path / "net"))
    assert (
        load_checkpoint(str(tmp_path / "net")).symbol.list_outputs()
        == net(mx.sym.var("data")).list_outputs()
    )


@pytest.mark.parametrize("fix_gamma", [True, False])
@pytest.mark.parametrize("where", ["on pictures", "after a pooling", "after a convolution"])
def test_batch_norm_is_rewritten_where_mxnet_does_not_fuse_it(where, fix_gamma, tmp_path):
    maps = mx.sym.var("data")
    if where == "after a pooling":
        maps = mx.sym.Pooling(maps, kernel=(2, 2), pool_type="max")
    if where == "after a convolution":
        maps = mx.sym.Convolution(maps, kernel=(1, 1), num_filter=3, no_bias=True, name="conv")
    maps = mx.sym.BatchNorm(maps, fix_gamma=fix_gamma, eps=1e-2, name="norm")
    symbol = mx.sym.flatten(mx.sym.relu(maps, name="relu"), name="codes")
    rng = np.random.default_rng(0)
    names = ("norm_gamma", "norm_beta", "norm_moving_mean", "norm_moving_var")
    params = {name: mx.nd.array(rng.uniform(0.5, 2, 3)) for name in names}
    params["conv_weight"] = mx.nd.array(rng.normal(size=(3, 3, 1, 1)))
    rewritten, new_params = rewrite_batch_norms(symbol, params, (3, 6, 6))
    operators = [node["op"] for node in json.loads(rewritten.tojson())["nodes"]]
    assert ("BatchNorm" in operators) == (where == "after a convolution")
    assert rewritten.get_internals().list_outputs()[-3:] == [
        "norm_output",
        "relu_output",
        "codes_output",
    ]
    outputs = []
    for each, values in ((symbol, params), (rewritten, new_params)):
        executor = each.simple_bind(mx.cpu(), grad_req="null", data=IMAGES.shape)
        executor.copy_params_from(values, values, allow_extra_params=True)
        outputs.append(executor.forward(is_train=False, data=mx.nd.array(IMAGES))[0].asnumpy())
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-5, atol=1e-4)


def test_batch_norm_of_vectors_stays(tmp_path):
    symbol = mx.sym.BatchNorm(dense_of("data"), name="norm")
    params = {f"norm_{name}": mx.nd.ones(5) for name in ("gamma", "beta", "moving_mean")}
    params.update({"norm_moving_var": mx.nd.ones(5), "fc_weight": mx.nd.array(WEIGHT)})
    assert rewrite_batch_norms(symbol, params, (3, 6, 6))[1] == params
