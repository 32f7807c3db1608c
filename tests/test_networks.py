import re
import subprocess
import sys

from common.checkpoints import choose_code_layer, load_checkpoint
from common.errors import ScriptError
from common.networks import (
    choose_dtype,
    encode,
    load_resnet_152,
    make_block,
    mean_cosine,
    quantize,
    read_resnet_152,
    warn_if_dead,
)
from common.synthetic import CLASSES, draw_class, draw_weights

import mxnet as mx
import numpy as np
import onnx
import pytest
from helpers import ROOT, damage, script_env
from mxnet.gluon.model_zoo import vision
from onnx import helper, numpy_helper

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
    net, size = make_block(symbol, params, SHAPE, CPU, "made up")
    assert size == 10
    return net


def centered_cosine(codes, others):
    codes, others = codes - codes.mean(axis=0), others - others.mean(axis=0)
    pairs = zip(codes.astype(np.float64), others.astype(np.float64))
    return np.mean([a @ b / np.sqrt(a @ a * (b @ b)) for a, b in pairs])


def export(net, folder, side):
    """Export a Gluon network, initialized at random, that was made for squares of a side."""
    mx.random.seed(0)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    net.hybridize()
    net(mx.nd.zeros((1, 3, side, side)))
    net.export(str(folder / "net"))
    return load_checkpoint(str(folder / "net"))


@pytest.mark.parametrize("side", [31, 33, 40])
def test_shape_that_a_dense_layer_cannot_take_is_answered_with_the_one_that_it_takes(
    side, tmp_path
):
    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.Conv2D(3, 3), mx.gluon.nn.Dense(5))
    symbol, params, path = export(net, tmp_path, side=32)
    make_block(symbol, params, (3, 32, 32), CPU, path)
    with pytest.raises(ScriptError, match=f"of 3,{side},{side}: give --image-shape 3,32,32$"):
        make_block(symbol, params, (3, side, side), CPU, path)


def test_shape_that_is_smaller_than_a_kernel_is_answered(tmp_path):
    net = mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.Conv2D(3, 3), mx.gluon.nn.AvgPool2D(8), mx.gluon.nn.Flatten())
    symbol, _, _ = export(net, tmp_path, side=12)
    with pytest.raises(ScriptError, match="of 3,9,9: give another --image-shape$"):
        choose_code_layer(symbol, None, (3, 9, 9))


def test_shape_that_no_square_can_replace_is_answered_all_the_same(place):
    symbol, params, path = load_checkpoint(str(place / "good" / "tiny"))  # for 3,32,48
    with pytest.raises(ScriptError, match="of 3,64,48: give another --image-shape$"):
        make_block(symbol.get_internals()["fc1_output"], params, (3, 64, 48), CPU, path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fc1_bias": None}, "fc1_bias is not in it"),
        ({"bn0_moving_var": None}, "bn0_moving_var is not in it"),
        ({"fc1_weight": np.ones((6, 100))}, r"fc1_weight has the shape \(6, 100\)"),
        ({"bn0_moving_mean": np.ones(5)}, "bn0_moving_mean has the shape"),
    ],
)
def test_parameters_that_do_not_fit_their_symbol_are_an_error(changes, words, tiny, tmp_path):
    prefix = tiny.save(tmp_path, 1, **changes)
    symbol, params, path = load_checkpoint(str(prefix))
    with pytest.raises(ScriptError, match=f"tiny-0001.params does not fit .*{words}"):
        make_block(symbol.get_internals()["fc1_output"], params, (3, 32, 48), CPU, path)


def test_parameters_saved_in_float16_are_read(tiny, tmp_path):
    symbol, params, path = load_checkpoint(str(tiny.save(tmp_path, 1, dtype="float16")))
    net, _ = make_block(symbol.get_internals()["fc1_output"], params, (3, 32, 48), CPU, path)
    images = np.random.default_rng(0).integers(256, size=(3, 3, 32, 48)).astype(np.uint8)
    expected = tiny.codes(images)
    assert abs(encode(net, images, CPU) - expected).max() < 0.01 * abs(expected).max()


def test_optimized_network_gives_the_same_codes_at_any_batch_size():
    images = pictures(21)
    expected = encode(small_network(), images, CPU)
    net, dtype, cosine = choose_dtype(small_network(), "float32", None, SHAPE, CPU)
    assert (dtype, cosine) == ("float32", None)
    for size in (21, 5, 1):
        codes = net(mx.nd.array(images[:size], dtype="float32")).asnumpy()
        np.testing.assert_allclose(codes, expected[:size], rtol=1e-4, atol=1e-4)


def test_network_gives_the_same_codes_when_another_with_its_weights_is_gone():
    # Large enough for MXNet to rearrange its weights.
    maps = mx.sym.Variable("data") / 255
    for name in ("conv0", "conv1"):
        maps = mx.sym.Convolution(maps, kernel=(3, 3), num_filter=64, no_bias=True, name=name)
    rng = np.random.default_rng(0)
    shapes = {"conv0_weight": (64, 3, 3, 3), "conv1_weight": (64, 64, 3, 3)}
    params = {name: mx.nd.array(rng.normal(size=shape)) for name, shape in shapes.items()}
    images = pictures(128)
    one, _ = make_block(maps, params, SHAPE, CPU, "")
    int8_net, _, cosine = choose_dtype(one, "int8", batches_of(images), SHAPE, CPU)
    two, _ = make_block(maps, params, SHAPE, CPU, "")
    expected, before = encode(two, images[:16], CPU), encode(int8_net, images[:16], CPU)
    del one, two
    clutter = [mx.nd.ones((500, 500)) for _ in range(20)]
    mx.nd.waitall()
    three, _ = make_block(maps, params, SHAPE, CPU, "")
    assert (encode(int8_net, images[:16], CPU) == before).all() and len(clutter) == 20
    np.testing.assert_allclose(encode(three, images[:16], CPU), expected, rtol=1e-5)
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
    expected = encode(small_network(), images, CPU)
    net, dtype, cosine = choose_dtype(small_network(), "int8", batches_of(images[:32]), SHAPE, CPU)
    codes = encode(net, images, CPU)
    assert dtype == "int8" and 0.99 < cosine < 1 and (codes != expected).any()
    assert cosine == pytest.approx(centered_cosine(codes[:32], expected[:32]), abs=1e-6)
    assert centered_cosine(codes, expected) > 0.99
    assert capsys.readouterr().out == (
        f"int8: the mean cosine of its codes with those of float32 is {cosine:.4f}\n"
    )


def test_int8_is_calibrated_on_the_brightest_of_all_the_pictures_it_is_given():
    images = pictures(5) // 2
    images[4] = 255
    (bright, _), (dim, _) = (quantize(small_network(), images[:count]) for count in (5, 4))
    assert (encode(bright, images, CPU) != encode(dim, images, CPU)).any()
    images[4] //= 2
    same, _ = quantize(small_network(), images)
    assert (encode(same, images, CPU) != encode(bright, images, CPU)).any()


def test_error_while_mxnet_calls_back_for_the_calibration_is_raised(monkeypatch):
    def run_out_of_memory(array):
        raise MemoryError

    monkeypatch.setattr(mx.nd.NDArray, "asnumpy", run_out_of_memory)
    with pytest.raises(MemoryError):
        quantize(small_network(), pictures(2))


@pytest.mark.parametrize("count", [1, 2])
def test_pass_that_observes_a_network_gives_its_codes_in_float32(count):
    images = pictures(count)
    _, codes = quantize(small_network(), images)
    np.testing.assert_allclose(codes, encode(small_network(), images, CPU), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [1, 2])
def test_few_pictures_are_calibrated_on_and_compared_as_far_as_they_go(count):
    images = pictures(count)
    net, dtype, cosine = choose_dtype(small_network(), "int8", batches_of(images), SHAPE, CPU)
    assert dtype == "int8" and cosine > 0.99 and encode(net, images, CPU).shape == (count, 10)


def run_on_processor(flags, folder, code):
    """Run Python where Linux says that the processor has these flags."""
    lines = "".join(f"processor\t: {n}\nflags\t\t: {flags}\n\n" for n in range(2))
    (folder / "cpuinfo").write_text(lines)
    mount = f"mount --bind {folder / 'cpuinfo'} /proc/cpuinfo"
    shell = ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable]
    if subprocess.run([*shell[:4], mount], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file over /proc/cpuinfo")
    command = [*shell, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=script_env())


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [("sse4_2", "float32"), ("avx512f avx512_vnni amx_tile", "int8")],
)
def test_int8_is_tried_only_where_the_processor_is_fast_in_it(flags, dtype, tmp_path):
    code = """
import sys
sys.path.insert(0, "tests")
from test_networks import *
_, dtype, _ = choose_dtype(small_network(), "auto", batches_of(pictures(20)), SHAPE, CPU)
print(dtype)
"""
    result = run_on_processor(flags, tmp_path, code)
    assert result.stdout.splitlines()[-1:] == [dtype], result.stderr


@pytest.mark.parametrize(("loud", "dtype"), [(3, "int8"), (10, "float32"), (1000, "float32")])
def test_network_that_int8_harms_is_noticed_and_done_in_float32(loud, dtype, monkeypatch):
    # Cosines of 0.993, 0.950 and about 0.
    monkeypatch.setattr("common.networks.has_vnni", lambda: True)
    sample = batches_of(pictures(128))
    assert choose_dtype(small_network(loud), "auto", sample, SHAPE, CPU)[1] == dtype


def test_network_that_int8_ruins_gives_the_codes_of_float32(capsys, monkeypatch):
    monkeypatch.setattr("common.networks.has_vnni", lambda: True)
    images = pictures(130)
    expected = encode(small_network(loud=1000), images, CPU)
    net, dtype, cosine = choose_dtype(
        small_network(loud=1000), "auto", batches_of(images[:32]), SHAPE, CPU
    )
    assert (dtype, cosine) == ("float32", None)
    np.testing.assert_allclose(encode(net, images, CPU), expected, rtol=1e-4)
    output = capsys.readouterr()
    (printed,) = re.findall(r"int8: .* (-?\d\.\d{4})$", output.out, re.M)
    assert float(printed) < 0.97 and "int8 is not good enough" in output.err


def test_network_that_int8_ruins_is_used_all_the_same_if_asked_for_by_name_and_it_says_so(capsys):
    images = pictures(128)
    _, dtype, cosine = choose_dtype(
        small_network(loud=1000), "int8", batches_of(images), SHAPE, CPU
    )
    assert dtype == "int8" and cosine < 0.97
    assert "int8 is not good enough for this network: --dtype float32" in capsys.readouterr().err


@pytest.mark.parametrize("side", [40, 48, 64])
def test_global_pooling_with_a_kernel_larger_than_the_map_works_in_int8_at_every_size(
    side, tmp_path
):
    maps = mx.sym.Convolution(mx.sym.Variable("data") / 255, kernel=(3, 3), num_filter=8, name="c")
    pooled = mx.sym.Pooling(maps, kernel=(99, 99), global_pool=True, pool_type="avg")
    symbol = mx.sym.FullyConnected(pooled, num_hidden=5, name="fc1")
    rng = np.random.default_rng(0)
    shapes = {"c_weight": (8, 3, 3, 3), "c_bias": (8,), "fc1_weight": (5, 8), "fc1_bias": (5,)}
    arrays = {name: mx.nd.array(rng.normal(size=shape)) for name, shape in shapes.items()}
    mx.model.save_checkpoint(str(tmp_path / "net"), 0, symbol, arrays, {})
    symbol, params, path = load_checkpoint(str(tmp_path / "net"))
    net, _ = make_block(symbol, params, (3, side, side), CPU, path)
    images = rng.integers(256, size=(20, 3, side, side), dtype=np.uint8)
    images //= np.arange(1, 21, dtype=np.uint8)[:, None, None, None]
    _, dtype, cosine = choose_dtype(net, "int8", batches_of(images), (3, side, side), CPU)
    assert dtype == "int8" and cosine > 0.9


def test_convolution_that_amx_corrupts_the_heap_with_runs_in_int8_where_amx_is_asked_for():
    code = """
import sys
sys.path.insert(0, "tests")
from test_networks import *
maps = mx.sym.Variable("data")
for number, kernel in enumerate(((1, 1), (1, 1))):
    maps = mx.sym.Convolution(maps, kernel=kernel, num_filter=64, name=f"conv{number}")
shapes = {"conv0_weight": (64, 3, 1, 1), "conv1_weight": (64, 64, 1, 1)}
params = {name: mx.nd.random.normal(shape=shape) for name, shape in shapes.items()}
params.update({f"conv{n}_bias": mx.nd.zeros(64) for n in range(2)})
net, _ = make_block(maps, params, (3, 6, 6), CPU, "")
images = np.random.default_rng(0).integers(256, size=(64, 3, 6, 6), dtype=np.uint8)
net, dtype, _ = choose_dtype(net, "int8", batches_of(images), (3, 6, 6), CPU)
for _ in range(20):
    encode(net, images, CPU)
print(dtype)
"""
    env = script_env(DNNL_MAX_CPU_ISA="AVX512_CORE_AMX")
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env
    )
    assert result.returncode == 0 and result.stdout.endswith("int8\n"), result.stderr
    assert "DNNL_MAX_CPU_ISA is ignored" in result.stderr


def test_network_that_makes_the_same_code_of_every_picture_is_said_to_be_dead(capsys):
    warn_if_dead(np.ones((3, 5)))
    assert "dead" in capsys.readouterr().err
    warn_if_dead(np.eye(3))
    warn_if_dead(np.ones((1, 5)))
    assert capsys.readouterr().err == ""


def test_int8_on_a_gpu_is_a_wrong_argument_and_auto_is_float32():
    gpu = mx.Context("gpu")
    with pytest.raises(ScriptError, match="--dtype") as raised:
        choose_dtype(None, "int8", None, SHAPE, gpu)
    assert raised.value.status == 2
    net = small_network()
    assert choose_dtype(net, "auto", None, SHAPE, gpu)[1:] == ("float32", None)


@pytest.fixture(scope="module")
def resnet():
    """Make Gluon's ResNet-152 in which every parameter and running statistic tells."""
    net = vision.resnet152_v2(prefix="resnetv27_")
    draw_weights(net)
    rng = np.random.default_rng(1)
    spans = {"_gamma": (0.8, 1.2), "_beta": (-0.1, 0.1), "_bias": (-1, 1)}
    spans.update({"_running_mean": (-0.1, 0.1), "_running_var": (0.7, 1.5)})
    for name, parameter in net.collect_params().items():
        for suffix, span in spans.items():
            if name.endswith(suffix):
                parameter.set_data(mx.nd.array(rng.uniform(*span, parameter.shape)))
    return net


@pytest.fixture(scope="module")
def initializers(resnet):
    """Store its parameters as the ONNX model zoo does, with the shape of a Reshape node."""
    tensors = [
        numpy_helper.from_array(parameter.data().asnumpy(), name)
        for name, parameter in resnet.collect_params().items()
    ]
    return [*tensors, numpy_helper.from_array(np.array([0, -1]), "reshape_attr_tensor421")]


def write_onnx(path, initializers):
    graph = helper.make_graph([], "resnet152", [], [], initializer=initializers)
    onnx.save(helper.make_model(graph), str(path))
    return path


def test_resnet_152_read_from_onnx_gives_what_gluons_network_gives(
    resnet, initializers, tmp_path, monkeypatch
):
    path = write_onnx(tmp_path / "resnet152-v2-7.onnx", initializers)
    monkeypatch.setattr("common.networks.fetch", lambda *args: [path])
    images = np.array([draw_class(name, 0)[:96, :96] for name in list(CLASSES)[:2]])
    images = images.transpose(0, 3, 1, 2)
    normal = (images / 255 - np.reshape([0.485, 0.456, 0.406], (3, 1, 1))) / np.reshape(
        [0.229, 0.224, 0.225], (3, 1, 1)
    )
    expected = resnet(mx.nd.array(normal)).asnumpy()
    network = load_resnet_152(tmp_path, (3, 96, 96), CPU)
    codes = encode(network.block, images, CPU)
    assert codes.shape == (2, network.code_size) == (2, 1000)
    assert "trained on ImageNet" in network.weights and network.trained and network.is_output
    assert abs(codes - expected).max() < 1e-4 * abs(expected).max()
    assert abs(expected[0] - expected[1]).max() > 0.1 * abs(expected).max()


CHANGES = {
    "one is left out": (
        lambda each: [t for t in each if t.name != "resnetv27_stage3_batchnorm5_running_var"],
        "another network .*stage3_batchnorm5_running_var",
    ),
    "one is added": (
        lambda each: [*each, numpy_helper.from_array(np.ones(3, np.float32), "resnetv27_extra")],
        "another network .*extra",
    ),
    "a name is there twice": (
        lambda each: [*each, numpy_helper.from_array(np.ones(9, np.float32), "x_dense0_bias")],
        "another network",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_onnx_file_with_other_parameters_is_refused(change, initializers, tmp_path):
    change, words = CHANGES[change]
    path = write_onnx(tmp_path / "other.onnx", change(initializers))
    with mx.name.NameManager():
        symbol = vision.resnet152_v2(prefix="")(mx.sym.var("data"))
    with pytest.raises(ScriptError, match=f"other.onnx is {words}") as raised:
        read_resnet_152(path, symbol)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("how", ["half", "text"])
def test_file_that_is_no_whole_onnx_file_is_refused(how, initializers, tmp_path):
    path = write_onnx(tmp_path / "damaged.onnx", initializers[:9])
    damage(path, how)
    with pytest.raises(ScriptError, match="damaged.onnx is damaged, or no ONNX file"):
        read_resnet_152(path, None)
