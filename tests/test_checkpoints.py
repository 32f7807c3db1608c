import json
import os
import struct
from pathlib import Path

from common.checkpoints import (
    choose_code_layer,
    code_layers,
    load_arrays,
    load_checkpoint,
    load_first_layer,
    save_arrays,
)
from common.errors import ScriptError

import mxnet as mx
import numpy as np
import pytest
from helpers import damage


def test_arrays_come_back_under_any_name(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff\xfe")
    expected = np.arange(6, dtype="float16").reshape(1, 2, 3)
    save_arrays(path, {"a": mx.nd.array(expected, dtype="float16"), "b": mx.nd.zeros(1)})
    arrays = load_arrays(path)
    assert list(arrays) == ["a", "b"] and (arrays["a"].asnumpy() == expected).all()


def test_arrays_that_mxnet_saved_before_0_12_are_loaded(tmp_path):
    head = struct.pack("<3Q3I3i", 0x112, 0, 1, 2, 2, 3, 1, 0, 0)
    values = np.arange(6, dtype="<f4")
    tail = struct.pack("<QQ", 1, 1) + b"x"
    (tmp_path / "old").write_bytes(head + values.tobytes() + tail)
    assert (load_arrays(tmp_path / "old")["x"].asnumpy().ravel() == values).all()


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
def test_sizes_that_do_not_fit_the_file_are_refused_before_mxnet_trusts_them(
    position, form, value, tmp_path
):
    path = tmp_path / "arrays"
    save_arrays(path, {"x": mx.nd.ones((2, 3))})
    content = bytearray(path.read_bytes())
    struct.pack_into(f"<{form}", content, position, value)
    path.write_bytes(content)
    with pytest.raises(ValueError):
        load_arrays(path)


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


def test_network_without_an_input_for_pictures_is_an_error():
    symbol = mx.sym.FullyConnected(mx.sym.Variable("pixels"), num_hidden=5)
    with pytest.raises(ScriptError, match="no input named data"):
        choose_code_layer(symbol, None, (3, 8, 8))


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
        layer, source = load_first_layer(prefix, name, (1, 2, 3), None)
        assert layer.name == expected
        assert (layer.mean_rgb, layer.std_rgb) == ((1, 2, 3), (1, 1, 1))
        assert (layer.weight == arrays[f"{expected}_weight"]).asnumpy().all()
        assert expected in source and "net-0000.params" in source
    assert (layer.bias == arrays["again_bias"]).asnumpy().all()


@pytest.mark.parametrize("name", ["nowhere", "deeper", "fc"])
def test_layer_that_will_not_do_is_refused_with_those_that_would(name, tmp_path):
    prefix, _ = save_convolutions(tmp_path)
    with pytest.raises(ScriptError, match=f"--layer: {name} .*: look again$") as raised:
        load_first_layer(prefix, name, None, None)
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
        load_first_layer(prefix, None, None, None)


def test_checkpoint_without_a_layer_for_pictures_is_an_error(tmp_path):
    net = mx.sym.FullyConnected(mx.sym.Variable("data"), name="fc", num_hidden=2)
    params = {"fc_weight": mx.nd.ones((2, 4)), "fc_bias": mx.nd.ones(2)}
    mx.model.save_checkpoint(str(tmp_path / "net"), 0, net, params, {})
    with pytest.raises(ScriptError, match="no convolution with 3 input channels"):
        load_first_layer(str(tmp_path / "net"), None, None, None)


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
        load_first_layer(prefix, None, None, None)
