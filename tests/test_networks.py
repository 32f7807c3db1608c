from mxcompat.downloads import Files

import mxnet as mx
import numpy as np
import pytest
from helpers import centers, draw_params, forward, paint
from mxnet import sym
from mxnet.gluon import nn
from mxnet.gluon.model_zoo import model_store, vision

from common.checkpoints import choose_code_layer, load_checkpoint
from common.errors import ScriptError
from common.int8 import choose_dtype, quantize
from common.networks import Encoder, load_resnet_152, make_network, readable_errors
from common.synthetic import CLASSES, draw_class, draw_weights

CPU = mx.cpu()


def codes_of(network, images):
    encoder = Encoder(network.symbol, network.params, images.shape[1:], CPU)
    return encoder.start(images)()[0]


def export(folder, *layers, side):
    """Export layers, initialized at random, that were made for squares of a side."""
    net = nn.HybridSequential()
    net.add(*layers)
    net.initialize()
    net.hybridize()
    net(mx.nd.zeros((1, 3, side, side)))
    net.export(str(folder / "net"))
    return load_checkpoint(str(folder / "net"))


@pytest.mark.parametrize("side", [31, 33, 40])
def test_shape_that_a_dense_layer_cannot_take_is_answered_with_the_right_one(side, tmp_path):
    layers = nn.Conv2D(3, 3), nn.Dense(5, in_units=3 * 30 * 30)
    symbol, params, path = export(tmp_path, *layers, side=32)
    assert make_network(symbol, params, (3, 32, 32), path).code_size == 5
    with pytest.raises(ScriptError, match=f"of 3,{side},{side}: give --image-shape 3,32,32$"):
        make_network(symbol, params, (3, side, side), path)


def test_shape_that_is_smaller_than_a_kernel_is_answered_in_one_line(tmp_path, capsys):
    symbol, params, path = export(tmp_path, nn.Conv2D(3, 3), nn.AvgPool2D(8), side=12)
    with pytest.raises(ScriptError, match="of 3,9,9: give another --image-shape$"):
        choose_code_layer(symbol, None, (3, 9, 9))
    with pytest.raises(ScriptError, match="of 3,9,9: give another --image-shape$"):
        make_network(symbol, params, (3, 9, 9), path)
    assert capsys.readouterr().out == ""


def load_tiny(prefix, layer="fc1"):
    """Return what `make_network` takes, up to a layer."""
    symbol, params, path = load_checkpoint(str(prefix))
    return symbol.get_internals()[f"{layer}_output"], params, (3, 32, 48), path


@pytest.mark.parametrize(
    ("changes", "shape", "words"),
    [
        ({"fc1_bias": None}, (3, 32, 48), "does not fit .*fc1_bias is not in it"),
        ({"bn0_moving_var": None}, (3, 32, 48), "does not fit .*bn0_moving_var is not in it"),
        ({"fc1_weight": np.ones((6, 100))}, (3, 32, 48), r"fc1_weight has the shape \(6, 100\)"),
        ({"bn0_moving_mean": np.ones(5)}, (3, 32, 48), "bn0_moving_mean has the shape"),
        # No square would do.
        ({}, (3, 64, 48), "of 3,64,48: give another --image-shape$"),
    ],
)
def test_parameters_that_do_not_fit_are_an_error(changes, shape, words, tiny, tmp_path):
    symbol, params, _, path = load_tiny(tiny.save(tmp_path, 1, **changes))
    with pytest.raises(ScriptError, match=words):
        make_network(symbol, params, shape, path)


def test_input_besides_the_pictures_is_named_and_not_the_pictures_shape_blamed():
    rows = sym.FullyConnected(sym.var("data"), num_hidden=4, name="fc")
    symbol = sym.broadcast_mul(rows, sym.var("stage"))
    with pytest.raises(ScriptError, match="made up does not fit its symbol: stage is not in it"):
        make_network(symbol, draw_params(rows, (3, 8, 8)), (3, 8, 8), "made up")


def test_maps_are_flattened_to_codes(place):
    assert make_network(*load_tiny(place / "good" / "tiny", "pool1")).code_size == 4
    rows = sym.FullyConnected(sym.var("data"), num_hidden=4, flatten=False, name="fc")
    network = make_network(rows, draw_params(rows, (3, 8, 8)), (3, 8, 8), "made up")
    assert network.code_size == 3 * 8 * 4


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("std::bad_alloc", MemoryError),
        ("Failed to allocate CPU Memory", MemoryError),
        ("a long stack\nMXNetError: no such kernel", ScriptError),
    ],
)
def test_network_that_fails_is_an_error_of_the_memory_or_of_the_network(message, error):
    with pytest.raises(error) as raised, readable_errors():
        raise mx.MXNetError(message)
    assert str(raised.value) in ("", "MXNet cannot run this network: MXNetError: no such kernel")


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2_0_25", "resnet18_v2"])
def test_network_exported_from_gluon_gives_the_codes_that_it_gives_in_gluon(name, tmp_path):
    net, side = getattr(vision, name)(), 224 if name == "squeezenet1_1" else 64
    symbol, params, path = export(tmp_path, net, side=side)
    images = np.random.default_rng(0).integers(256, size=(2, 3, side, side), dtype=np.uint8)
    codes = codes_of(make_network(symbol, params, images.shape[1:], path), images)
    expected = net(mx.nd.array(images)).asnumpy()
    np.testing.assert_allclose(codes, expected, atol=1e-4 * abs(expected).max())
    assert np.ptp(expected, axis=0).max() > 0.01 * abs(expected).max()


def test_resnet_152_gives_what_gluons_network_gives(tmp_path):
    net = vision.resnet152_v2(prefix="resnetv27_")
    draw_weights(net)
    rng = np.random.default_rng(1)
    spans = {"gamma": (0.8, 1.2), "beta": (-0.1, 0.1), "bias": (-1, 1)}
    spans.update({"mean": (-0.1, 0.1), "var": (0.7, 1.5)})
    for parameter in net.collect_params().values():
        # So that every parameter and running statistic tells.
        if span := spans.get(parameter.name.rpartition("_")[2]):
            parameter.set_data(mx.nd.array(rng.uniform(*span, parameter.shape)))
    name = f"resnet152_v2-{model_store.short_hash('resnet152_v2')}.params"
    net.collect_params().save(str(tmp_path / name), strip_prefix=net.prefix)
    images = np.array([draw_class(name, 0)[:96, :96] for name in list(CLASSES)[:2]])
    images = images.transpose(0, 3, 1, 2)
    mean, std = np.reshape([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], (2, 3, 1, 1))
    expected = net(mx.nd.array((images / 255 - mean) / std)).asnumpy()
    network = load_resnet_152(Files(tmp_path, offline=True), (3, 96, 96))
    assert network.code_size == 1000 and "trained on ImageNet" in network.about.pop("weights")
    assert network.about == {"is_output": True, "trained": True}
    np.testing.assert_allclose(codes_of(network, images), expected, atol=1e-4 * abs(expected).max())
    assert abs(expected[0] - expected[1]).max() > 0.1 * abs(expected).max()


@pytest.mark.parametrize("streams", [1, 2])
def test_codes_are_the_same_bit_for_bit_in_any_batch_and_stream(streams, tiny, tmp_path):
    network, images = make_network(*load_tiny(tiny.save(tmp_path))), centers(paint(19))
    expected = np.concatenate([codes_of(network, images[n : n + 1]) for n in range(19)])
    encoder = Encoder(network.symbol, network.params, images.shape[1:], CPU, streams)
    for count in (19, 8, 1):
        assert (encoder.start(images[:count])()[0] == expected[:count]).all()


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_dense_layer_after_a_map_of_one_pixel_gives_the_same_codes_in_every_batch(dtype):
    maps = sym.Convolution(sym.var("data") / 255, num_filter=4, kernel=(8, 8), name="conv")
    symbol = sym.FullyConnected(sym.relu(maps), num_hidden=4, name="fc")
    params = draw_params(symbol, (3, 8, 8))
    network = make_network(symbol, params, (3, 8, 8), "made up")
    images = np.random.default_rng(0).integers(256, size=(24, 3, 8, 8), dtype=np.uint8)
    encoder, _, _ = choose_dtype(network, dtype, [(images, None)], (3, 8, 8), CPU, streams=2)
    expected = forward(symbol, params, images)
    for _ in range(2):
        error = abs(encoder.start(images)()[0] - expected).max()
        assert error < (1e-4 if dtype == "float32" else 0.1) * abs(expected).max()


def test_encoders_do_not_rearrange_the_weights_of_a_deconvolution_under_each_other():
    maps = sym.Convolution(sym.var("data") / 255, num_filter=32, kernel=(3, 3))
    maps = sym.Deconvolution(maps, num_filter=16, kernel=(4, 4), stride=(2, 2))
    symbol = sym.FullyConnected(maps, num_hidden=4)
    images = np.random.default_rng(0).integers(256, size=(64, 3, 32, 32), dtype=np.uint8)
    params = draw_params(symbol, (3, 32, 32))
    network = make_network(symbol, params, (3, 32, 32), "made up")
    expected = forward(symbol, params, images)
    encoders = [Encoder(network.symbol, network.params, (3, 32, 32), CPU, 2) for _ in range(2)]
    for encoder in encoders * 2:
        error = abs(encoder.start(images)()[0] - expected).max()
        assert error < 1e-5 * abs(expected).max()


def convolve(maps, name="conv"):
    return sym.Convolution(maps, num_filter=4, kernel=(3, 3), pad=(1, 1), name=name)


@pytest.mark.parametrize(
    "layer",
    [
        lambda maps, _: sym.BatchNorm(maps, fix_gamma=False),  # as in Gluon's CIFAR ResNets v2
        lambda maps, _: sym.Activation(maps, act_type="relu"),
        lambda maps, pixels: convolve(pixels, "other") + maps,
    ],
    ids=["BatchNorm", "relu", "sum"],
)
def test_sum_that_reads_a_convolution_also_through_a_layer_that_can_be_fused_is_right(layer):
    pixels = sym.var("data") / 255
    maps = convolve(pixels)
    symbol = convolve(layer(maps, pixels), "last") + maps
    images = np.random.default_rng(0).integers(256, size=(8, 3, 8, 8), dtype=np.uint8)
    params = draw_params(symbol, images.shape[1:])
    network = make_network(symbol, params, images.shape[1:], "made up")
    expected = forward(symbol, params, images).reshape(8, -1)
    for codes in (codes_of(network, images), quantize(network, images)[1]):
        assert abs(codes - expected).max() < 1e-5 * abs(expected).max()
