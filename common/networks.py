"""Networks: first layers, checkpoints, ResNet-152, and int8."""

import contextlib
import ctypes
import json
import re
import warnings
from pathlib import Path
from typing import NamedTuple, Optional

from mxcompat.files import read_file

import mxnet as mx
import numpy as np
import onnx
from google.protobuf.message import DecodeError
from mxnet import gluon, nd
from mxnet.contrib import quantization
from mxnet.gluon.model_zoo import vision
from onnx import numpy_helper

from .errors import ScriptError, warn
from .fetch import UnavailableError, fetch
from .files import load_arrays
from .synthetic import draw_filters, draw_weights

INCEPTION_BN = "imagenet1k-inception-bn"  # the other network of the published demo
# Of ImageNet's training pictures, 0 to 255: what Inception-BN wants subtracted.
IMAGENET_MEAN_RGB = (123.68, 116.779, 103.939)
# What Gluon's networks were trained on: pixels of 0 to 1, less the mean, by the deviation.
GLUON_MEAN_RGB = (0.485, 0.456, 0.406)
GLUON_STD_RGB = (0.229, 0.224, 0.225)

CALIBRATION_COUNT = 64  # pictures that the ranges of int8 are taken from
CHECK_COUNT = 64  # pictures whose codes in int8 are compared with those in float32
SAMPLE_COUNT = CALIBRATION_COUNT + CHECK_COUNT
SAMPLE_BATCH = 16
LARGEST_SIDE = 1024  # pixels, that is tried when a network does not take the pictures it gets
SOFTMAX = {"SoftmaxOutput", "softmax", "log_softmax", "SoftmaxActivation"}
CPU_INFO = Path("/proc/cpuinfo")  # of Linux
# An int8 network that names as many pictures right as in float32 has 0.98 or more; at 0.93
# neighbours begin to change.
LOWEST_COSINE = 0.97


class FirstLayer(NamedTuple):
    """A convolution that looks at pictures: weight (F, 3, H, W) and bias (F,), float32.

    It wants pixels of 0 to 255 less `mean_rgb`, divided by `std_rgb`.
    """

    name: str
    weight: nd.NDArray
    bias: Optional[nd.NDArray]
    mean_rgb: tuple = (0, 0, 0)
    std_rgb: tuple = (1, 1, 1)


# Kernel, whether it has a bias, and mean_rgb of the published first layers.
FIRST_LAYERS = {
    "inception_bn_conv_1": (7, True, IMAGENET_MEAN_RGB),
    "resnet_152_conv0": (7, False, (0, 0, 0)),
    "vgg16_conv1_1": (3, True, (0, 0, 0)),
}


def load_first_layers(data_dir, offline=False):
    """Return the published first layers, or synthetic ones, and what they are, as Markdown."""
    weights = [f"{name}_weight.param" for name in FIRST_LAYERS]
    biases = [f"{name}_bias.param" for name, (_, has_bias, _) in FIRST_LAYERS.items() if has_bias]
    try:
        paths = fetch(weights + biases, data_dir, offline)
    except UnavailableError as reason:
        warn(f"{reason}: showing synthetic filters instead")
        layers = [
            FirstLayer(name, nd.array(draw_filters(kernel, seed)), None, mean_rgb)
            for seed, (name, (kernel, _, mean_rgb)) in enumerate(FIRST_LAYERS.items())
        ]
        return layers, f"**Not trained:** the filters are drawn ({reason})."
    arrays = {path.stem: load_arrays(path)[0] for path in paths}
    layers = [
        FirstLayer(name, arrays[f"{name}_weight"], arrays.get(f"{name}_bias"), mean_rgb)
        for name, (_, _, mean_rgb) in FIRST_LAYERS.items()
    ]
    return layers, "The filters are those that Inception-BN, ResNet-152 and VGG16 learned."


def load_first_layer(prefix, name, mean_rgb, std_rgb):
    """Return a convolution with 3 input channels of a checkpoint, the first unless it is named."""
    symbol, params, source = load_checkpoint(prefix)
    nodes = json.loads(symbol.tojson())["nodes"]
    layers = {}
    for node in nodes:
        if node["op"] != "Convolution":
            continue
        inputs = [nodes[index]["name"] for index, *_ in node["inputs"][1:]]
        if missing := [each for each in inputs if each not in params]:
            raise ScriptError(f"{source} does not fit its symbol: {missing[0]} is not in it")
        weight, *bias = (params[each] for each in inputs)
        kernel = tuple(map(int, re.findall(r"\d+", node["attrs"]["kernel"])))
        if (weight.shape[0], *weight.shape[2:]) != (int(node["attrs"]["num_filter"]), *kernel):
            raise ScriptError(
                f"{source} does not fit its symbol: {inputs[0]} has the shape {weight.shape}"
            )
        if weight.ndim == 4 and weight.shape[1] == 3:
            layers[node["name"]] = [array.astype("float32") for array in (weight, *bias)]
    if not layers:
        raise ScriptError(f"{prefix} has no convolution with 3 input channels")
    name = name or next(iter(layers))
    if name not in layers:
        raise ScriptError(
            f"argument --layer: {name} is no convolution with 3 input channels in {prefix}; "
            f"these are: {' '.join(layers)}",
            status=2,
        )
    weight, bias = (*layers[name], None)[:2]
    if not np.isfinite(weight.asnumpy()).all():
        raise ScriptError(f"{source} has NaN or infinite weights in {name}: train it again")
    layer = FirstLayer(name, weight, bias, mean_rgb or (0, 0, 0), std_rgb or (1, 1, 1))
    return layer, f"The filters are `{name}` of `{source}`."


def load_checkpoint(prefix):
    """Return a network that MXNet saved: its symbol, its parameters by name, and their file.

    The files are PREFIX-symbol.json and the highest-numbered PREFIX-NNNN.params.
    """
    symbol_path = Path(f"{prefix}-symbol.json")
    pattern = re.compile(re.escape(Path(prefix).name) + r"-(\d{4,})\.params")
    numbered = {
        int(match[1]): symbol_path.parent / match[0]
        for match in map(pattern.fullmatch, (p.name for p in symbol_path.parent.glob("*.params")))
        if match
    }
    if not (symbol_path.is_file() and numbered):
        missing = symbol_path if not symbol_path.is_file() else f"{prefix}-0000.params"
        if Path(prefix).name == INCEPTION_BN:
            raise ScriptError(
                f"{missing} is missing, and Inception-BN's weights are no longer published: if you "
                "have a copy, give its path to --model, without -symbol.json"
            )
        raise ScriptError(f"{missing} is missing: --model takes what comes before it in its name")
    path, not_ours = numbered[max(numbered)], "it is damaged, or not MXNet's"
    try:
        symbol = _mend(mx.sym.load_json(read_file(symbol_path).decode()))
    except (mx.MXNetError, ValueError, LookupError) as error:
        raise ScriptError(f"{symbol_path} cannot be read: {not_ours}") from error
    try:
        saved = load_arrays(path)
    except (mx.MXNetError, ValueError) as error:
        raise ScriptError(f"{path} cannot be read: {not_ours}") from error
    if not isinstance(saved, dict):
        raise ScriptError(f"{path} holds arrays without names: it is no checkpoint")
    # `arg:` and `aux:` stand before the names of parameters and of auxiliary states.
    return symbol, {name.split(":", 1)[-1]: array for name, array in saved.items()}, path


def _mend(symbol):
    """Work around checks of MXNet's that are wrong, and add two that it lacks."""
    graph = json.loads(symbol.tojson())
    for node in graph["nodes"]:
        attrs = node.get("attrs", {})
        if int(attrs.get("num_group", 1)) < 1:
            raise ValueError("MXNet would divide by zero")
        if node["op"] == "Convolution" and len(node["inputs"]) < 2:
            raise ValueError("a convolution without a weight")
        if node["op"] == "Pooling" and attrs.get("global_pool") in ("True", "1"):
            # A kernel larger than the map, which global pooling ignores, fails in int8.
            attrs["kernel"] = re.sub(r"\d+", "1", attrs.get("kernel", "(1, 1)"))
        if node["op"] == "FullyConnected":
            # Without its shape MXNet tells what it would have to be.
            graph["nodes"][node["inputs"][1][0]].get("attrs", {}).pop("__shape__", None)
    return mx.sym.load_json(json.dumps(graph))


def choose_code_layer(symbol, name, params, image_shape):
    """Return the layer whose output is the code, and whether it is the network's own output.

    It is the last before a softmax, or the one of this name; it must give one vector a picture.
    """
    if "data" not in symbol.list_arguments():
        raise ScriptError("the network has no input named data, which takes the pictures")
    output = symbol[0]
    while json.loads(output.tojson())["nodes"][-1]["op"] in SOFTMAX:
        output = output.get_children()[0]
    last = output.list_outputs()[0]
    if name is None:
        name = last
        if len(symbol.list_outputs()) > 1:
            warn(f"the network has several outputs: {name} is taken; --code-layer picks another")
    vectors = code_layers(symbol, params, image_shape)
    if name not in vectors:
        raise ScriptError(
            f"argument --code-layer: {name} is no layer that gives one vector a picture; "
            f"the last that do: {' '.join(vectors[-10:])}",
            status=2,
        )
    return name, name == last


def code_layers(symbol, params, image_shape):
    """Name the layers that give one vector a picture, from the first to the last."""
    layers = symbol.get_internals()
    try:
        _, shapes, _ = _infer(layers.infer_shape_partial, image_shape, count=2)
    except mx.MXNetError as error:
        raise _wrong_shape(symbol, params, image_shape) from error
    vectors = [
        name
        for name, shape in zip(layers.list_outputs(), shapes)
        if len(shape) > 1 and shape[0] == 2 and max(shape[2:], default=1) == 1
    ]
    inputs = {name: layers[name].list_arguments() for name in vectors}
    return [
        name
        for name in vectors
        if "data" in inputs[name] and not any(each.endswith("label") for each in inputs[name])
    ]


def _infer(infer, image_shape, count=1):
    # What MXNet prints when it cannot is no help to a user.
    with contextlib.redirect_stdout(None):
        shapes = infer(data=(count, *image_shape))
    if shapes[1] is None:
        raise mx.MXNetError("some shapes cannot be inferred")
    return shapes


def _wrong_shape(symbol, params, image_shape):
    """Return an error that says which square --image-shape would be right, if there is one."""

    def surplus(side):
        """Count the weights that pictures of this side would need and that are not there."""
        try:
            shapes, _ = _infer_params(symbol, (3, side, side))
        except mx.MXNetError:  # too small for a kernel
            return -1
        return sum(np.prod(shapes[name]) - params[name].size for name in shapes if name in params)

    low, side = 1, LARGEST_SIDE
    while low < side:
        middle = (low + side) // 2
        low, side = (low, middle) if surplus(middle) >= 0 else (middle + 1, side)
    advice = f"--image-shape 3,{side},{side}" if surplus(side) == 0 else "another --image-shape"
    wrong = ",".join(map(str, image_shape))
    return ScriptError(f"the network does not take pictures of {wrong}: give {advice}")


def _infer_params(symbol, image_shape):
    """Return the shape of each parameter and auxiliary state, and of the output."""
    shapes, (output,), state_shapes = _infer(symbol.infer_shape, image_shape)
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    shapes = dict(zip(names, shapes + state_shapes))
    del shapes["data"]
    return shapes, output


def make_network(symbol, params, image_shape, ctx, source):
    """Make a Gluon network of a symbol and copies of its parameters; return it and its code size.

    Copies, because MXNet rearranges the weights of a running network in place: another one that
    shared them would give wrong codes.
    """
    symbol = mx.sym.flatten(symbol)
    try:
        shapes, (_, size) = _infer_params(symbol, image_shape)
    except mx.MXNetError as error:
        raise _wrong_shape(symbol, params, image_shape) from error
    for name, shape in shapes.items():
        if name not in params:
            raise ScriptError(f"{source} does not fit its symbol: {name} is not in it")
        found = params[name].shape
        if found != shape:
            if len(shape) == 2 and found[0] == shape[0]:  # of a dense layer that gets more or less
                raise _wrong_shape(symbol, params, image_shape)
            raise ScriptError(
                f"{source} does not fit its symbol: {name} has the shape {found}, not {shape}"
            )
    net = gluon.SymbolBlock(symbol, mx.sym.var("data", dtype="float32"))
    for name, parameter in net.collect_params().items():
        parameter.shape = shapes[name]
        parameter.initialize(mx.init.Zero(), ctx)
        parameter.set_data(params[name].astype(parameter.dtype))
    return net, size


def load_resnet_152(data_dir, image_shape, ctx, offline=False):
    """Return Gluon's ResNet-152 v2, its code size, and what is known of it, as `save_codes` has it.

    It is trained on ImageNet, or has random weights where the trained ones cannot be had. It takes
    RGB of 0 to 255; its code is what its last dense layer says of ImageNet's 1,000 classes.
    """
    with mx.name.NameManager():  # so that names do not go on counting from the last network's
        gluon_net = vision.resnet152_v2(prefix="")
    pixels = mx.sym.image.normalize(mx.sym.var("data") / 255, GLUON_MEAN_RGB, GLUON_STD_RGB)
    symbol = gluon_net(pixels)
    try:
        (path,) = fetch(["resnet152-v2-7.onnx"], data_dir, offline)
    except UnavailableError as reason:
        warn(
            f"{reason}: using random weights instead; untrained codes group by colour and texture "
            "only"
        )
        draw_weights(gluon_net)
        params = {name: each.data() for name, each in gluon_net.collect_params().items()}
        source, trained = f"**Not trained:** a ResNet-152 with random weights ({reason}).", False
    else:
        params = read_resnet_152(path, symbol)
        source = f"ResNet-152 (Gluon's `resnet152_v2`), trained on ImageNet, from `{path}`."
        trained = True
    net, code_size = make_network(symbol, params, image_shape, ctx, source)
    return net, code_size, {"weights": source, "is_output": True, "trained": trained}


def read_resnet_152(path, symbol):
    """Read the weights that the ONNX model zoo exported from Gluon's ResNet-152 v2.

    They have Gluon's names behind a prefix of their own, such as `resnetv27_conv0_weight`.
    """
    try:
        initializers = onnx.load(str(path)).graph.initializer
    except DecodeError as error:
        raise ScriptError(f"{path} is damaged, or no ONNX file") from error
    arrays = [(each.name, numpy_helper.to_array(each)) for each in initializers]
    # The others are shapes that Reshape nodes take.
    arrays = [(name, array) for name, array in arrays if np.issubdtype(array.dtype, np.floating)]
    params = {name.partition("_")[2]: nd.array(array) for name, array in arrays}
    expected, _ = _infer_params(symbol, (3, 224, 224))
    found = {name: array.shape for name, array in params.items()}
    if len(params) != len(arrays) or found != expected:
        wrong = sorted(dict(found.items() ^ expected.items()))
        raise ScriptError(
            f"{path} is another network than ResNet-152: {len(arrays)} parameters for "
            f"{len(expected)}, and others for {' '.join(wrong[:3])}"
        )
    return params


def has_vnni():
    """Tell whether the processor multiplies int8 quickly, where Linux says so."""
    if not CPU_INFO.exists():
        return False
    flags = re.search(r"^flags\s*:(.*)", CPU_INFO.read_text(), re.MULTILINE)
    return flags is not None and "avx512_vnni" in flags[1].split()


def encode(net, images, ctx):
    """Return a network's codes, (n, D) float32, of (n, 3, H, W) uint8 pictures."""
    starts = range(0, len(images), SAMPLE_BATCH)
    batches = [nd.array(images[i : i + SAMPLE_BATCH], ctx, dtype="float32") for i in starts]
    return np.concatenate([net(batch).asnumpy() for batch in batches])


def check_finite(codes):
    """Make sure that codes can be compared."""
    if not np.isfinite(codes).all():
        raise ScriptError(
            "some codes are NaN or infinite: train the network again, or give the --image-shape, "
            "--mean-rgb and --std-rgb that it was trained with"
        )


def warn_if_dead(codes):
    """Say so if a network makes the same code of every picture."""
    if len(codes) > 1 and (codes == codes[0]).all():
        warn("every picture has the same code: the network, or a layer of it, is dead")


def choose_dtype(net, dtype, batches, image_shape, ctx):
    """Make a network ready to run: in int8 where that is asked for, or fast and good enough here.

    `batches` yields a sample of pictures, (n, 3, H, W) uint8, and their labels; it is read only if
    int8 is tried. Returns the network, "int8" or "float32", and the mean cosine of the int8 codes
    with those of float32, or None.
    """
    on_cpu = ctx.device_type == "cpu"
    if dtype == "int8" and not on_cpu:
        raise ScriptError("argument --dtype: MXNet computes in int8 on a CPU only", status=2)
    if dtype == "int8" or (dtype == "auto" and on_cpu and has_vnni()):
        sample = np.concatenate([images for images, _ in batches if len(images)])
        int8_net, cosine = _try_int8(net, sample, dtype, ctx)
        # Not the other way round: codes that are NaN have no cosine.
        good = int8_net and cosine >= LOWEST_COSINE
        if int8_net and not good:
            advice = "--dtype float32 is better" if dtype == "int8" else "using float32"
            warn(f"int8 is not good enough for this network: {advice}")
        if dtype == "int8" or good:
            return int8_net, "int8", cosine
    if on_cpu:
        example = nd.zeros((1, *image_shape), ctx)  # fuses layers; any batch size works later
        net.optimize_for(example, backend="MKLDNN", static_alloc=True, static_shape=True)
    net.hybridize(static_alloc=True, static_shape=True)
    return net, "float32", None


def _try_int8(net, sample, dtype, ctx):
    """Quantise a network; return it, or None if MXNet cannot, and its mean cosine with float32."""
    check = sample[CALIBRATION_COUNT:]
    check = check if len(check) > 1 else sample[-CHECK_COUNT:]
    expected = encode(net, check, ctx)
    check_finite(expected)
    try:
        int8_net = quantize(net, sample[:CALIBRATION_COUNT])
        cosine = mean_cosine(encode(int8_net, check, ctx), expected)
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        if dtype == "int8":
            raise ScriptError(
                f"MXNet cannot compute this network in int8 ({reason}): try --dtype float32"
            ) from error
        warn(f"no int8 for this network ({reason}): using float32")
        return None, None
    print(f"int8: the mean cosine of its codes with those of float32 is {cosine:.4f}")
    return int8_net, cosine


class _RangeCollector:
    """Collects the lowest and highest value of each layer, as MXNet's own collector does.

    In half the time: MXNet looks for a minimum on one core.
    """

    def __init__(self):
        self.min_max_dict = {}
        self.error = None

    def collect(self, name, handle):
        try:
            self._collect(mx.base.py_str(name), handle)
        except Exception as error:  # MXNet, which calls this, would drop it
            self.error = error

    def _collect(self, name, handle):
        # Inputs of layers come too; but for the pictures they are outputs of others.
        if name == "data" or re.search(r"_output\d*$", name):
            handle = ctypes.cast(handle, mx.base.NDArrayHandle)
            values = nd.NDArray(handle, writable=False).asnumpy()
            low, high = self.min_max_dict.get(name, (np.inf, -np.inf))
            self.min_max_dict[name] = min(low, values.min()), max(high, values.max())


def quantize(net, images):
    """Return a network in int8, the ranges of its layers taken from (n, 3, H, W) uint8 pictures."""
    size = min(SAMPLE_BATCH, len(images))
    starts = range(0, len(images) - size + 1, size)
    # MXNet takes a list for a batch; all are of one size, or it would stop collecting.
    batches = [[nd.array(images[start : start + size], dtype="float32")] for start in starts]
    collector = _RangeCollector()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Cannot decide type", UserWarning)
        int8_net = quantization.quantize_net_v2(
            net,
            quantized_dtype="auto",
            calib_data=batches,
            calib_mode="customize",
            LayerOutputCollector=collector,
        )
    if collector.error:
        raise collector.error
    int8_net.hybridize(static_alloc=True, static_shape=True)
    return int8_net


def mean_cosine(codes, others):
    """Return how alike two sets of codes of the same pictures are, -1 to 1.

    It is the mean cosine of a picture's two codes, each less the mean of its set if there are
    several: what all codes have in common says nothing about a picture.
    """
    if len(codes) > 1:
        codes, others = (array - array.mean(axis=0) for array in (codes, others))
    lengths = np.linalg.norm(codes, axis=1) * np.linalg.norm(others, axis=1)
    return float(((codes * others).sum(axis=1) / np.where(lengths > 0, lengths, 1)).mean())
