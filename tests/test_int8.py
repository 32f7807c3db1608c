import json
import platform
import re

import mxcompat

import mxnet as mx
import numpy as np
import pytest

from common import int8
from common.checkpoints import load_checkpoint
from common.errors import ScriptError
from common.int8 import choose_dtype, has_vnni, mean_cosine, quantize, rewrite_batch_norms
from common.networks import encode, make_block, make_network

CPU = mx.cpu()
SHAPE = (3, 32, 32)


def pictures(count, seed=0):
    """Draw pictures of coarse fields, (count, 3, 32, 32) uint8."""
    fields = np.random.default_rng(seed).integers(256, size=(count, 3, 4, 4), dtype=np.uint8)
    return fields.repeat(8, axis=2).repeat(8, axis=3)


def batches_of(images, size=16):
    return [(images[i : i + size], None) for i in range(0, len(images), size)]


def small_network(loud=0):
    """Make a small network; a loud one has a channel that drowns the others, and no say."""
    pixels = mx.sym.Variable("data") / 255
    maps = mx.sym.Convolution(pixels, kernel=(3, 3), num_filter=8, name="conv0")
    maps = mx.sym.Activation(maps, act_type="relu")
    means = mx.sym.Pooling(maps, kernel=(6, 6), stride=(6, 6), pool_type="avg")
    symbol = mx.sym.FullyConnected(mx.sym.flatten(means), num_hidden=10, name="fc1")
    rng = np.random.default_rng(1)
    shapes, _, _ = symbol.infer_shape(data=(1, *SHAPE))
    shapes = dict(zip(symbol.list_arguments(), shapes))
    del shapes["data"]
    arrays = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    if loud:
        arrays["conv0_weight"][0] = loud * abs(arrays["conv0_weight"][0])
        arrays["fc1_weight"][:, : shapes["fc1_weight"][1] // 8] = 0
    params = {name: mx.nd.array(array) for name, array in arrays.items()}
    return make_network(symbol, params, SHAPE, "made up")


def float32_codes(network, images):
    return encode(make_block(network.symbol, network.params, CPU), images, CPU)


def centered_cosine(codes, others):
    codes, others = codes - codes.mean(axis=0), others - others.mean(axis=0)
    pairs = zip(codes.astype(np.float64), others.astype(np.float64))
    return np.mean([a @ b / np.sqrt(a @ a * (b @ b)) for a, b in pairs])


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


@pytest.mark.parametrize(
    ("flags", "dtype"), [("sse4_2 xavx512_vnni", "float32"), ("avx512f avx512_vnni amx", "int8")]
)
def test_int8_is_tried_only_where_the_processor_is_fast_in_it(flags, dtype, processor):
    processor(flags)
    assert has_vnni() == (dtype == "int8")
    assert choose_dtype(small_network(), "auto", batches_of(pictures(9)), SHAPE, CPU)[1] == dtype


def test_optimized_network_gives_the_same_codes_at_any_batch_size():
    images = pictures(21)
    expected = float32_codes(small_network(), images)
    block, dtype, cosine = choose_dtype(small_network(), "float32", None, SHAPE, CPU)
    assert (dtype, cosine) == ("float32", None)
    for size in (21, 5, 1):
        np.testing.assert_allclose(
            encode(block, images[:size], CPU), expected[:size], rtol=1e-4, atol=1e-4
        )


def test_network_gives_the_same_codes_when_another_with_its_weights_is_gone():
    # Large enough for MXNet to rearrange its weights.
    maps = mx.sym.Variable("data") / 255
    for name in ("conv0", "conv1"):
        maps = mx.sym.Convolution(maps, kernel=(3, 3), num_filter=64, no_bias=True, name=name)
    rng = np.random.default_rng(0)
    shapes = {"conv0_weight": (64, 3, 3, 3), "conv1_weight": (64, 64, 3, 3)}
    params = {name: mx.nd.array(rng.normal(size=shape)) for name, shape in shapes.items()}
    network = make_network(maps, params, SHAPE, "made up")
    images = pictures(16)
    int8_block, _, cosine = choose_dtype(network, "int8", batches_of(images), SHAPE, CPU)
    block, _, _ = choose_dtype(network, "float32", None, SHAPE, CPU)
    expected, before = encode(block, images, CPU), encode(int8_block, images, CPU)
    del block
    clutter = [mx.nd.ones((500, 500)) for _ in range(20)]
    mx.nd.waitall()
    assert (encode(int8_block, images, CPU) == before).all() and len(clutter) == 20
    np.testing.assert_allclose(float32_codes(network, images), expected, rtol=1e-4, atol=1e-2)
    assert cosine > 0.95


def test_cosine_is_that_of_codes_less_their_mean():
    codes = np.float32([[1, 9], [3, 9], [2, 8], [2, 10]])
    turned = np.float32([[5, 6], [5, 4], [4, 5], [6, 5]])  # by a right angle, about another mean
    assert mean_cosine(codes, turned) == pytest.approx(0, abs=1e-6)
    assert mean_cosine(codes, codes + 100) == pytest.approx(1)
    assert mean_cosine(codes, -2 * codes) == pytest.approx(-1)
    assert mean_cosine(np.ones((3, 2)), codes[:3]) == 0
    assert mean_cosine(codes[:1], codes[:1]) == pytest.approx(1)
    first, second = np.random.default_rng(0).normal(size=(2, 64, 30)).astype(np.float32)
    assert mean_cosine(first, second) == pytest.approx(centered_cosine(first, second), abs=1e-6)


def test_codes_in_int8_are_as_like_those_of_float32_as_it_says(capsys):
    images = pictures(200)
    expected = float32_codes(small_network(), images)
    block, dtype, cosine = choose_dtype(
        small_network(), "int8", batches_of(images[:32]), SHAPE, CPU
    )
    codes = encode(block, images, CPU)
    assert dtype == "int8" and 0.99 < cosine < 1 and (codes != expected).any()
    assert cosine == pytest.approx(centered_cosine(codes[:32], expected[:32]), abs=1e-6)
    assert centered_cosine(codes, expected) > 0.99
    assert capsys.readouterr().out == (
        f"int8: the mean cosine of its codes with those of float32 is {cosine:.4f}\n"
    )


def test_int8_is_calibrated_on_the_brightest_of_all_the_pictures_it_is_given():
    images = pictures(5) // 2
    dim = images.copy()
    images[4] = 255

    def codes(sample):
        block, _, _ = choose_dtype(small_network(), "int8", batches_of(sample, 2), SHAPE, CPU)
        return encode(block, images, CPU)

    assert (codes(images) != codes(images[:4])).any()
    assert (codes(images) != codes(dim)).any()


def test_error_while_mxnet_calls_back_for_the_calibration_is_raised(monkeypatch):
    def run_out_of_memory(array):
        raise MemoryError

    network = small_network()
    monkeypatch.setattr(mx.nd.NDArray, "asnumpy", run_out_of_memory)
    with pytest.raises(MemoryError):
        quantize(network, pictures(2))


@pytest.mark.parametrize("count", [1, 2])
def test_pass_that_observes_a_network_gives_its_codes_in_float32(count):
    images = pictures(count)
    block, codes = quantize(small_network(), images)
    expected = float32_codes(small_network(), images)
    np.testing.assert_allclose(codes, expected, rtol=1e-4, atol=1e-4)
    assert mean_cosine(encode(block, images, CPU), codes) > 0.99


@pytest.mark.parametrize(
    # 8 is only just not good enough.
    ("loud", "low", "high"),
    [(5, 0.97, 0.99), (8, 0.955, 0.97), (1000, -1, 0.5)],
)
def test_network_that_int8_harms_is_done_in_float32_unless_asked_for_by_name(
    loud, low, high, processor, capsys
):
    processor("avx512_vnni")
    images, network = pictures(16), small_network(loud)
    block, dtype, cosine = choose_dtype(network, "auto", batches_of(images), SHAPE, CPU)
    printed = capsys.readouterr()
    (measured,) = map(float, re.findall(r"^int8: .* (-?\d\.\d{4})$", printed.out, re.M))
    assert low < measured < high
    if loud == 5:
        assert dtype == "int8" and cosine == pytest.approx(measured, abs=1e-4)
        return
    assert (dtype, cosine) == ("float32", None)
    assert "int8 is not good enough for this network: using float32" in printed.err
    np.testing.assert_allclose(
        encode(block, images, CPU), float32_codes(network, images), rtol=1e-4, atol=1e-3
    )
    _, dtype, cosine = choose_dtype(network, "int8", batches_of(images), SHAPE, CPU)
    assert dtype == "int8" and cosine == pytest.approx(measured, abs=1e-4)
    assert "--dtype float32 is better" in capsys.readouterr().err


def pooled_network(side, folder=None):
    """Make a network whose pooling kernel is larger than the map; as loaded, if saved."""
    maps = mx.sym.Convolution(mx.sym.Variable("data") / 255, kernel=(3, 3), num_filter=8, name="c")
    pooled = mx.sym.Pooling(maps, kernel=(99, 99), global_pool=True, pool_type="avg")
    symbol = mx.sym.FullyConnected(pooled, num_hidden=5, name="fc1")
    rng = np.random.default_rng(0)
    shapes = {"c_weight": (8, 3, 3, 3), "c_bias": (8,), "fc1_weight": (5, 8), "fc1_bias": (5,)}
    params = {name: mx.nd.array(rng.normal(size=shape)) for name, shape in shapes.items()}
    if folder:
        mx.model.save_checkpoint(str(folder / "net"), 0, symbol, params, {})
        symbol, params, _ = load_checkpoint(str(folder / "net"))
    return make_network(symbol, params, (3, side, side), "made up")


def test_network_that_mxnet_cannot_quantize_is_done_in_float32_unless_asked_for_by_name(
    processor, capsys
):
    processor("avx512_vnni")
    network, sample = pooled_network(32), batches_of(pictures(9))
    assert choose_dtype(network, "auto", sample, SHAPE, CPU)[1:] == ("float32", None)
    assert "no int8 for this network (MXNetError: " in capsys.readouterr().err
    with pytest.raises(ScriptError, match="^MXNet cannot .*: try --dtype float32$"):
        choose_dtype(network, "int8", sample, SHAPE, CPU)


@pytest.mark.parametrize("side", [40, 64])
def test_global_pooling_with_a_kernel_larger_than_the_map_works_in_int8(side, tmp_path):
    images = np.random.default_rng(0).integers(256, size=(20, 3, side, side), dtype=np.uint8)
    images //= np.arange(1, 21, dtype=np.uint8)[:, None, None, None]
    _, dtype, cosine = choose_dtype(
        pooled_network(side, tmp_path), "int8", batches_of(images), (3, side, side), CPU
    )
    assert dtype == "int8" and cosine > 0.9


def test_sample_without_a_readable_picture_is_an_error():
    batches = [(np.empty((0,)), np.empty((0,)))]
    with pytest.raises(ScriptError, match="none of the first pictures can be read"):
        choose_dtype(small_network(), "int8", batches, SHAPE, CPU)


def test_int8_on_a_gpu_is_a_wrong_argument():
    with pytest.raises(ScriptError, match="--dtype") as raised:
        choose_dtype(small_network(), "int8", None, SHAPE, mx.Context("gpu"))
    assert raised.value.status == 2


@pytest.mark.parametrize("fix_gamma", [True, False])
@pytest.mark.parametrize("where", ["on pictures", "after a pooling", "after a convolution"])
def test_batch_norm_is_rewritten_where_mxnet_does_not_fuse_it(where, fix_gamma):
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
    rewritten, new_params = rewrite_batch_norms(symbol, params, SHAPE)
    operators = [node["op"] for node in json.loads(rewritten.tojson())["nodes"]]
    assert ("BatchNorm" in operators) == (where == "after a convolution")
    outputs = ["norm_output", "relu_output", "codes_output"]
    assert rewritten.get_internals().list_outputs()[-3:] == outputs
    codes = []
    for each, values in ((symbol, params), (rewritten, new_params)):
        executor = each.simple_bind(CPU, grad_req="null", data=(4, *SHAPE))
        executor.copy_params_from(values, values, allow_extra_params=True)
        codes.append(executor.forward(is_train=False, data=mx.nd.array(pictures(4)))[0].asnumpy())
    np.testing.assert_allclose(codes[1], codes[0], rtol=1e-5, atol=1e-4)


BATCH_NORM_NAMES = ("gamma", "beta", "moving_mean", "moving_var")


@pytest.mark.parametrize("why", ["of vectors", "of another axis", "with its mean", "shared"])
def test_batch_norm_that_is_no_convolution_stays(why):
    data = mx.sym.var("data")
    options = {"of another axis": {"axis": 2}, "with its mean": {"output_mean_var": True}}
    maps = mx.sym.flatten(data) if why == "of vectors" else data
    variables = [mx.sym.var(f"norm_{name}") for name in BATCH_NORM_NAMES]
    symbol = mx.sym.BatchNorm(maps, *variables, name="norm", **options.get(why, {}))
    if why == "shared":
        symbol = mx.sym.BatchNorm(symbol, *variables, name="again")
    size = {"of vectors": 3072, "of another axis": 32}.get(why, 3)
    params = {f"norm_{name}": mx.nd.ones(size) for name in BATCH_NORM_NAMES}
    rewritten, new_params = rewrite_batch_norms(symbol, params, SHAPE)
    assert "Convolution" not in rewritten.tojson() and new_params == params
