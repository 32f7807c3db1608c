import json
import platform
import re
from functools import partial

import mxnet as mx
import numpy as np
import pytest
from helpers import draw_params, forward, script_ends
from mxnet import sym

from common import int8
from common.checkpoints import load_checkpoint
from common.errors import ScriptError
from common.int8 import choose_dtype, mean_cosine, quantize, rewrite_batch_norms
from common.networks import make_network

CPU = mx.cpu()
SHAPE = (3, 32, 32)
VNNI = "avx512f avx512_vnni amx"


def pictures(count, seed=0):
    """Draw pictures of coarse fields, (count, 3, 32, 32) uint8."""
    fields = np.random.default_rng(seed).integers(256, size=(count, 3, 4, 4), dtype=np.uint8)
    return fields.repeat(8, axis=2).repeat(8, axis=3)


def small_network(loud=0):
    """Make a small network; a loud one has a channel that drowns the others, and no say."""
    maps = sym.Convolution(sym.var("data") / 255, kernel=(3, 3), num_filter=8, name="conv0")
    maps = sym.Activation(maps, act_type="relu")
    means = sym.Pooling(maps, kernel=(6, 6), stride=(6, 6), pool_type="avg")
    symbol = sym.FullyConnected(sym.flatten(means), num_hidden=10, name="fc1")
    rng, params = np.random.default_rng(1), draw_params(symbol, SHAPE)
    params = {name: rng.normal(size=array.shape) for name, array in params.items()}
    if loud:
        params["conv0_weight"][0] = loud * abs(params["conv0_weight"][0])
        params["fc1_weight"][:, : params["fc1_weight"].shape[1] // 8] = 0
    params = {name: mx.nd.array(array) for name, array in params.items()}
    return make_network(symbol, params, SHAPE, "made up")


def choose(network, dtype, images, size=16, streams=1):
    """Call `choose_dtype` with batches of a size."""
    batches = [(images[i : i + size], None) for i in range(0, len(images), size)]
    return choose_dtype(network, dtype, batches, images.shape[1:], CPU, streams)


def assert_float32(codes, network, images):
    expected = forward(network.symbol, network.params, images)
    assert abs(codes - expected).max() < 1e-4 * abs(expected).max()


def operators(encoder):
    """Return what an encoder computes with, fused as it is."""
    symbol = encoder._executors[0].get_optimized_symbol()
    return [node["op"] for node in json.loads(symbol.tojson())["nodes"] if node["op"] != "null"]


@pytest.fixture
def processor(monkeypatch, tmp_path):
    """Let Linux say that the processor has some flags."""
    if platform.machine() != "x86_64":
        pytest.skip("int8 is tried on x86-64 only")

    def say(flags):
        text = "".join(f"processor\t: {n}\nflags\t\t: {flags}\n\n" for n in range(2))
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(int8, "CPU_INFO", tmp_path / "cpuinfo")

    return say


@pytest.mark.parametrize(("flags", "dtype"), [("sse4_2 xavx512_vnni", "float32"), (VNNI, "int8")])
def test_int8_is_tried_only_where_the_processor_is_fast_in_it(flags, dtype, processor):
    processor(flags)
    assert choose(small_network(), "auto", pictures(9))[1] == dtype


def test_layers_of_a_network_in_float32_are_fused():
    encoder, *others = choose_dtype(small_network(), "float32", None, SHAPE, CPU)
    assert others == ["float32", None] and "_sg_mkldnn_conv" in operators(encoder)


def signed_network(sign=1):
    """Return two convolutions of numbers on both sides of zero, and their parameters."""
    maps = sign * (0.3 - sym.var("data") / 255)
    for name in ("conv0", "conv1"):  # large enough for MXNet to rearrange their weights
        maps = sym.Convolution(maps, kernel=(3, 3), num_filter=64, no_bias=True, name=name)
    return maps, draw_params(maps, SHAPE)


def test_network_gives_the_same_codes_when_another_with_its_weights_is_gone():
    images, network = pictures(16), make_network(*signed_network(), SHAPE, "made up")
    int8_encoder, _, cosine = choose(network, "int8", images)
    before = int8_encoder.start(images)()[0]
    choose(network, "float32", images)[0].start(images)()  # and is gone
    clutter = [mx.nd.ones((500, 500)) for _ in range(20)]
    mx.nd.waitall()
    assert (int8_encoder.start(images)()[0] == before).all() and len(clutter) == 20
    encoder, _, _ = choose(network, "float32", images)
    assert_float32(encoder.start(images)()[0], network, images)
    assert cosine > 0.95


def test_cosine_is_that_of_codes_less_their_mean():
    codes = np.float32([[1, 9], [3, 9], [2, 8], [2, 10]])
    turned = np.float32([[5, 6], [5, 4], [4, 5], [6, 5]])  # by a right angle, about another mean
    others = (turned, codes + 100, -2 * codes, np.ones((4, 2)), turned + codes)
    found = [mean_cosine(codes, other) for other in others]
    np.testing.assert_allclose(found, [0, 1, -1, 0, np.sqrt(0.5)], atol=1e-6)
    assert mean_cosine(codes[:1], codes[:1]) == pytest.approx(1)


def test_codes_in_int8_are_as_like_those_of_float32_as_it_says(capsys):
    images, network = pictures(200), small_network()
    encoder, dtype, cosine = choose(network, "int8", images[:32])
    codes, expected = encoder.start(images)()[0], forward(network.symbol, network.params, images)
    assert dtype == "int8" and 0.99 < cosine < 1 and (codes != expected).any()
    assert cosine == pytest.approx(mean_cosine(codes[:32], expected[:32]), abs=1e-5)
    assert mean_cosine(codes, expected) > 0.99
    assert capsys.readouterr().out == (
        f"int8: the mean cosine of its codes with those of float32 is {cosine:.4f} "
        "(1: the same; --dtype float32 turns it off)\n"
    )


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("brightest", [0, 4])
def test_int8_is_calibrated_on_all_pictures_in_any_number_of_streams(brightest, sign):
    images = pictures(5) // 2
    images[brightest] = 255
    network = make_network(*signed_network(sign), SHAPE, "made up")
    fewer = np.delete(images, brightest, axis=0)
    one, many, dim = (
        choose(network, "int8", sample, size=2, streams=streams)[0]
        for sample, streams in ((images, 1), (images, 9), (fewer, 1))
    )
    assert len(many._executors) == 9
    assert (many.start(images)()[0] == one.start(images)()[0]).all()
    assert (dim.start(images)()[0] != one.start(images)()[0]).any()


@pytest.mark.parametrize(
    ("loud", "low", "high", "dtype"),
    [(5, 0.97, 0.99, "int8"), (8, 0.955, 0.97, "float32"), (1000, -1, 0.5, "float32")],
)
def test_network_that_int8_harms_is_done_in_float32(loud, low, high, dtype, processor, capsys):
    processor(VNNI)
    images, network = pictures(16), small_network(loud)
    encoder, chosen, cosine = choose(network, "auto", images)
    _, named, measured = choose(network, "int8", images)
    assert (chosen, named) == (dtype, "int8") and low < measured < high
    said = capsys.readouterr()
    assert re.findall(r"int8: .* is (\S+) \(", said.out) == [f"{measured:.4f}"] * 2
    if dtype == "int8":
        assert cosine == measured and said.err == ""
    else:
        assert cosine is None
        assert_float32(encoder.start(images)()[0], network, images)
        advice = re.findall("int8 is not good enough for this network: (.*)", said.err)
        assert advice == ["using float32", "--dtype float32 is better"]


def network_with(layer):
    """Make a network of a convolution, a layer of maps and a dense layer."""
    maps = sym.Convolution(sym.var("data") / 255, kernel=(3, 3), num_filter=8, name="c")
    symbol = sym.FullyConnected(layer(maps), num_hidden=5, name="fc1")
    return make_network(symbol, draw_params(symbol, SHAPE), SHAPE, "made up")


# Larger than the map.
GLOBAL = partial(sym.Pooling, kernel=(99, 99), global_pool=True, pool_type="avg")
SUM = partial(sym.Pooling, kernel=(2, 2), pool_type="sum", p_value=2)
NORM = partial(SUM, pool_type="lp")


def test_network_that_mxnet_cannot_quantize_is_done_in_float32(processor, capsys):
    processor(VNNI)
    assert choose(network_with(GLOBAL), "auto", pictures(9))[1:] == ("float32", None)
    assert "no int8 for this network (MXNetError: " in capsys.readouterr().err
    with pytest.raises(ScriptError, match="^MXNet cannot .*: try --dtype float32$"):
        choose(network_with(GLOBAL), "int8", pictures(9))


@pytest.mark.parametrize("layer", [GLOBAL, SUM, NORM, lambda maps: maps * sym.sigmoid(maps)])
def test_checkpoint_with_a_layer_that_int8_is_faulty_for_works_in_int8(layer, tmp_path):
    network = network_with(layer)
    mx.model.save_checkpoint(str(tmp_path / "net"), 0, network.symbol, network.params, {})
    symbol, params, path = load_checkpoint(str(tmp_path / "net"))
    images = pictures(9) // np.arange(1, 10, dtype=np.uint8)[:, None, None, None]
    _, dtype, cosine = choose(make_network(symbol, params, SHAPE, path), "int8", images)
    assert dtype == "int8" and cosine > 0.9


def test_int8_that_fails_while_it_runs_leaves_nothing_for_whoever_waits_next(processor, capsys):
    processor(VNNI)
    maps = mx.sym.Convolution(mx.sym.var("data") / 255, kernel=(3, 3), num_filter=4, name="c")
    gate = mx.sym.Activation(mx.sym.Activation(maps, act_type="sigmoid"), act_type="relu")
    symbol = mx.sym.FullyConnected(mx.sym.concat(maps, gate), num_hidden=5, name="fc1")
    network = make_network(symbol, draw_params(symbol, SHAPE), SHAPE, "made up")
    encoder, dtype, _ = choose(network, "auto", pictures(16), streams=2)
    mx.nd.waitall()  # as Gluon's loader does
    assert dtype == "float32" and "no int8 for this network" in capsys.readouterr().err
    assert_float32(encoder.start(pictures(3))()[0], network, pictures(3))


def test_int8_of_nothing_that_it_could_be_compared_with_or_on_a_gpu_is_an_error():
    network = small_network()
    network.params["fc1_bias"][0] = np.inf
    with pytest.raises(ScriptError, match="some codes are NaN or infinite"):
        choose(network, "int8", pictures(3))
    nothing = [(np.empty((0,)), np.empty((0,)))]
    with pytest.raises(ScriptError, match="none of the first pictures can be read"):
        choose_dtype(small_network(), "int8", nothing, SHAPE, CPU)
    with script_ends(2, "--dtype"):
        choose_dtype(small_network(), "int8", None, SHAPE, mx.Context("gpu"))


@pytest.mark.parametrize("fix_gamma", [True, False])
@pytest.mark.parametrize("where", ["on pictures", "after a pooling", "after a convolution"])
def test_batch_norm_is_rewritten_where_mxnet_does_not_fuse_it(where, fix_gamma):
    maps = sym.var("data")
    if where == "after a pooling":
        maps = sym.Pooling(maps, kernel=(2, 2), pool_type="max")
    if where == "after a convolution":
        maps = sym.Convolution(maps, kernel=(1, 1), num_filter=3, no_bias=True, name="conv")
    gamma = sym.var("norm_gamma", shape=(3,))  # as Gluon exports it
    maps = sym.BatchNorm(maps, gamma, fix_gamma=fix_gamma, eps=1e-2, name="norm")
    symbol = sym.flatten(sym.relu(maps, name="relu"), name="codes")
    params = draw_params(symbol, SHAPE)
    rewritten, new_params = rewrite_batch_norms(symbol, params, SHAPE)
    assert ('"BatchNorm"' in rewritten.tojson()) == (where == "after a convolution")
    outputs = ["norm_output", "relu_output", "codes_output"]
    assert rewritten.get_internals().list_outputs()[-3:] == outputs
    expected = forward(symbol, params, pictures(4))
    codes = forward(rewritten, new_params, pictures(4))
    np.testing.assert_allclose(codes, expected, rtol=1e-5, atol=1e-4)
    encoder, _ = quantize(make_network(symbol, params, SHAPE, "made up"), pictures(4))
    encoder.start(pictures(4))()
    assert not [each for each in operators(encoder) if "norm" in each.lower()]


@pytest.mark.parametrize("why", ["of vectors", "of another axis", "with its mean", "shared"])
def test_batch_norm_that_is_no_convolution_stays(why):
    maps = sym.flatten(sym.var("data")) if why == "of vectors" else sym.var("data")
    options = {"of another axis": {"axis": 2}, "with its mean": {"output_mean_var": True}}
    variables = [sym.var(f"norm_{n}") for n in ("gamma", "beta", "moving_mean", "moving_var")]
    symbol = sym.BatchNorm(maps, *variables, name="norm", **options.get(why, {}))
    if why == "shared":
        symbol = sym.BatchNorm(symbol, *variables, name="again")
    params = draw_params(symbol, SHAPE)
    rewritten, new_params = rewrite_batch_norms(symbol, params, SHAPE)
    assert "Convolution" not in rewritten.tojson() and new_params == params
