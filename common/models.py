"""Networks: first layers, ResNet-152, and checkpoints."""

import ast
import contextlib
import json
import re
from pathlib import Path
from typing import NamedTuple, Optional

import mxnet as mx
import numpy as np
import onnx
from google.protobuf.message import DecodeError
from mxnet.gluon.model_zoo import vision
from onnx import numpy_helper

from .assets import RESNET_152, UnavailableError, fetch
from .cli import ScriptError, notice
from .standins import draw_filters, draw_weights

# Of ImageNet's training pictures, 0 to 255; what Inception-BN was trained without.
IMAGENET_MEAN_RGB = (123.68, 116.779, 103.939)

# What Gluon's networks were trained on: pixels of 0 to 1, less the mean, by the deviation [1].
# [1] https://mxnet.apache.org/versions/1.9.1/api/python/docs/api/gluon/model_zoo/index.html
GLUON_MEAN_RGB = (0.485, 0.456, 0.406)
GLUON_STD_RGB = (0.229, 0.224, 0.225)

INCEPTION_BN = "imagenet1k-inception-bn"  # the other network of the published demo

LARGEST_ARRAY = 2**31 - 1  # numbers, in MXNet as its wheels are built


class FirstLayer(NamedTuple):
    """A convolution that looks at a picture.

    Parameters
    ----------
    name : str
        Its name, as TensorBoard shows it.
    weight : numpy.ndarray
        Its filters, (F, 3, H, W) float32, RGB.
    bias : numpy.ndarray or None
        (F,) float32.
    mean_rgb : tuple of float
        What it wants subtracted from a picture of 0 to 255.
    """

    name: str
    weight: np.ndarray
    bias: Optional[np.ndarray] = None
    mean_rgb: tuple = (0, 0, 0)


class Network(NamedTuple):
    """What is known of a published first layer before its weights are read.

    Its weights are 64 filters in `NAME_weight.param`, and `NAME_bias.param` if it has a bias.
    """

    name: str
    kernel: int
    has_bias: bool
    mean_rgb: tuple


NETWORKS = (
    Network("inception_bn_conv_1", kernel=7, has_bias=True, mean_rgb=IMAGENET_MEAN_RGB),
    Network("resnet_152_conv0", kernel=7, has_bias=False, mean_rgb=(0, 0, 0)),
    Network("vgg16_conv1_1", kernel=3, has_bias=True, mean_rgb=(0, 0, 0)),
)


def load_first_layers(data_dir, offline=False):
    """Read the first layers of Inception-BN, ResNet-152 and VGG16, or draw filters like theirs.

    Parameters
    ----------
    data_dir : str
        Folder that their weights are in, or are fetched to.
    offline : bool
        Fetch nothing.

    Returns
    -------
    layers : list of FirstLayer
        In the order of `NETWORKS`.
    source : str
        Whose weights they are, as Markdown.

    Raises
    ------
    ScriptError
        A file is damaged and cannot be fetched again, or the folder cannot be written to.
    """
    files = {
        network: [f"{network.name}_weight.param"]
        + ([f"{network.name}_bias.param"] if network.has_bias else [])
        for network in NETWORKS
    }
    try:
        fetch([name for names in files.values() for name in names], data_dir, offline)
    except UnavailableError as reason:
        notice(f"{reason}: showing drawn filters instead")
        layers = [
            FirstLayer(network.name, draw_filters(network.kernel, seed), None, network.mean_rgb)
            for seed, network in enumerate(NETWORKS)
        ]
        return layers, f"**Not trained:** the filters are drawn: {reason}."
    layers = [
        FirstLayer(network.name, *_read_arrays(data_dir, names), mean_rgb=network.mean_rgb)
        for network, names in files.items()
    ]
    return layers, "The filters are those that Inception-BN, ResNet-152 and VGG16 learned."


def _read_arrays(data_dir, names):
    return [mx.nd.load(str(Path(data_dir, name)))[0].asnumpy() for name in names]


def load_checkpoint(prefix):
    """Read a network that MXNet saved.

    Parameters
    ----------
    prefix : str
        What its files' names begin with: `PREFIX-symbol.json`, and `PREFIX-NNNN.params`, of which
        the highest-numbered is read.

    Returns
    -------
    symbol : mxnet.sym.Symbol
        The network.
    parameters : dict of str to mxnet.nd.NDArray
        Its parameters and auxiliary states, by name.
    path : pathlib.Path
        The file the parameters are from.

    Raises
    ------
    ScriptError
        A file is missing or damaged.
    """
    symbol_path = Path(f"{prefix}-symbol.json")
    numbered = re.compile(re.escape(Path(prefix).name) + r"-(\d{4,})\.params")
    matches = map(numbered.fullmatch, (path.name for path in symbol_path.parent.glob("*.params")))
    numbers = {int(match[1]): symbol_path.parent / match[0] for match in matches if match}
    if not (symbol_path.is_file() and numbers):
        missing = symbol_path if not symbol_path.is_file() else f"{prefix}-0000.params"
        if Path(prefix).name == INCEPTION_BN:
            raise ScriptError(
                f"{missing} is missing, and Inception-BN's weights are no longer published: if you "
                "have a copy, give its path to --model, without -symbol.json"
            )
        raise ScriptError(f"{missing} is missing: --model takes what comes before it in its name")
    path = numbers[max(numbers)]
    symbol = _read(mx.sym.load, symbol_path)
    saved = _read(mx.nd.load, path)
    if not isinstance(saved, dict):
        raise ScriptError(f"{path} holds arrays without names: it is no checkpoint")
    # Checkpoints tell parameters from auxiliary states by `arg:` and `aux:` before their names.
    return symbol, {name.split(":", 1)[-1]: array for name, array in saved.items()}, path


def _read(load, path):
    try:
        return load(str(path))
    except (mx.MXNetError, UnicodeDecodeError) as error:
        # MXNet quotes what it could not parse, which need not be text.
        raise ScriptError(f"{path} cannot be read: it is damaged, or not MXNet's") from error


def load_first_layer(prefix, name=None, mean_rgb=(0, 0, 0)):
    """Read the convolution of a checkpoint that looks at the picture.

    Parameters
    ----------
    prefix : str
        The checkpoint, as `load_checkpoint` takes it.
    name : str, optional
        Which convolution; the first with 3 input channels if it is not given.
    mean_rgb : sequence of float
        What the network wants subtracted from a picture of 0 to 255.

    Returns
    -------
    layer : FirstLayer
        The convolution.
    source : str
        Whose weights they are, as Markdown.

    Raises
    ------
    ScriptError
        The checkpoint cannot be read, its parameters do not fit its symbol, or it has no such
        convolution.
    """
    symbol, parameters, path = load_checkpoint(prefix)
    nodes = json.loads(symbol.tojson())["nodes"]
    layers = {}
    for node in nodes:
        if node["op"] != "Convolution":
            continue
        _, *names = (nodes[index]["name"] for index, *_ in node["inputs"])
        arrays = [_parameter(parameters, parameter, path) for parameter in names]
        _check_shape(names[0], arrays[0], node["attrs"], path)
        if arrays[0].shape[1] == 3 and arrays[0].ndim == 4:
            layers[node["name"]] = arrays
    if not layers:
        raise ScriptError(f"{prefix} has no convolution with 3 input channels")
    if name is not None and name not in layers:
        raise ScriptError(
            f"argument --layer: {name} is no convolution with 3 input channels in {prefix}; "
            f"these are: {' '.join(layers)}",
            status=2,
        )
    name = name or next(iter(layers))
    arrays = [array.astype(np.float32).asnumpy() for array in layers[name]]
    if not all(np.isfinite(array).all() for array in arrays):
        raise ScriptError(f"{path} holds values for {name}_weight that are no numbers: train again")
    source = f"The filters are those of `{name}` in `{path}`."
    return FirstLayer(name, *arrays, mean_rgb=tuple(mean_rgb)), source


def _parameter(parameters, name, path):
    if name not in parameters:
        raise ScriptError(f"{path} does not fit its symbol: {name} is not in it")
    return parameters[name]


def _check_shape(name, weight, attributes, path):
    kernel = tuple(ast.literal_eval(attributes["kernel"]))
    filters = int(attributes["num_filter"])
    if (weight.shape[0], *weight.shape[2:]) != (filters, *kernel):
        raise ScriptError(
            f"{path} does not fit its symbol: {name} has the shape {weight.shape}, "
            f"for {filters} filters of {kernel}"
        )


class ConvNet(NamedTuple):
    """A network from pictures to codes.

    Parameters
    ----------
    symbol : mxnet.sym.Symbol
        Takes `data`, a (n, 3, H, W) batch, RGB of 0 to 255; gives (n, D), a code a row.
    parameters : dict of str to mxnet.nd.NDArray
        Its parameters and auxiliary states, by name.
    source : str
        Whose weights they are, as Markdown.
    """

    symbol: mx.sym.Symbol
    parameters: dict
    source: str

    def split(self):
        """Tell parameters from auxiliary states, as most of MXNet takes them.

        Returns
        -------
        parameters, states : dict of str to mxnet.nd.NDArray
            Both, by name.
        """
        states = {name: self.parameters[name] for name in self.symbol.list_auxiliary_states()}
        return {k: v for k, v in self.parameters.items() if k not in states}, states


def load_resnet_152(data_dir, offline=False):
    """Read the ResNet-152 that was trained on ImageNet, or make one that was not trained.

    Parameters
    ----------
    data_dir : str
        Folder that its weights are in, or are fetched to.
    offline : bool
        Fetch nothing.

    Returns
    -------
    ConvNet
        Its codes are what its last dense layer says of ImageNet's 1,000 classes.

    Raises
    ------
    ScriptError
        The file is damaged and cannot be fetched again, or the folder cannot be written to.
    """
    try:
        (path,) = fetch([RESNET_152], data_dir, offline)
    except UnavailableError as reason:
        notice(
            f"{reason}: using random weights instead; untrained codes group by colour and texture "
            "only"
        )
        symbol, shapes, residual = build_resnet_152()
        weights = draw_weights(shapes, residual)
        source = f"**Not trained:** a ResNet-152 with random weights: {reason}."
    else:
        symbol, weights = read_resnet_152(path)
        source = f"ResNet-152 (Gluon's `resnet152_v2`), trained on ImageNet, from `{path}`."
    return ConvNet(symbol, {name: mx.nd.array(w) for name, w in weights.items()}, source)


def build_resnet_152():
    """Build Gluon's ResNet-152 v2 [1]_ without its weights.

    Returns
    -------
    symbol : mxnet.sym.Symbol
        As in `ConvNet`: the normalisation that Gluon's networks were trained with is part of it.
    shapes : dict of str to tuple of int
        The shape of each parameter and auxiliary state, by name.
    branch_ends : set of str
        The weights of the convolutions whose output is added to what their block was given.

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren, J. Sun, "Identity Mappings in Deep Residual Networks",
       https://arxiv.org/abs/1603.05027
    """
    # Without a prefix Gluon would go on counting where the last network of the process ended.
    with mx.name.NameManager():
        net = vision.resnet152_v2(prefix="")
    stages = [layer for layer in net.features if isinstance(layer, mx.gluon.nn.HybridSequential)]
    branch_ends = {block.conv3.weight.name for stage in stages for block in stage}
    pixels = mx.sym.Variable("data") / 255
    symbol = net(mx.sym.image.normalize(pixels, GLUON_MEAN_RGB, GLUON_STD_RGB))
    shapes = _parameter_shapes(symbol, (3, 224, 224))
    return symbol, shapes, branch_ends


def read_resnet_152(path):
    """Read the weights that the ONNX model zoo exported from Gluon's ResNet-152 v2.

    Parameters
    ----------
    path : str or pathlib.Path
        ONNX file whose initializers have Gluon's names behind a prefix of their own, such as
        ``resnetv27_conv0_weight``.

    Returns
    -------
    symbol : mxnet.sym.Symbol
        As in `ConvNet`.
    weights : dict of str to numpy.ndarray
        Its parameters and auxiliary states, float32, by name.

    Raises
    ------
    ScriptError
        It is not ONNX, or its floating-point initializers are not exactly those parameters.
    """
    try:
        initializers = onnx.load(str(path)).graph.initializer
    except DecodeError as error:
        raise ScriptError(f"{path} is damaged, or no ONNX file") from error
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in initializers}
    # The others are shapes that Reshape nodes take.
    arrays = {name: a for name, a in arrays.items() if np.issubdtype(a.dtype, np.floating)}
    weights = {name.partition("_")[2]: array for name, array in arrays.items()}
    symbol, shapes, _ = build_resnet_152()
    found = {name: array.shape for name, array in weights.items()}
    if len(weights) != len(arrays) or found != shapes:
        wrong = sorted(dict(found.items() ^ shapes.items()))
        raise ScriptError(
            f"{path} is another network than ResNet-152: {len(arrays)} parameters for "
            f"{len(shapes)}, and others for {' '.join(wrong[:3])}"
        )
    return symbol, weights


def load_code_layer(prefix, code_layer, image_shape, mean_rgb=(0, 0, 0)):
    """Read a checkpoint up to the layer whose output is the code.

    Parameters
    ----------
    prefix : str
        The checkpoint, as `load_checkpoint` takes it.
    code_layer : str
        Name of the output, such as ``fc1_output``: one of (n, D), or (n, D, 1, 1).
    image_shape : tuple of int
        (3, H, W).
    mean_rgb : sequence of float
        What the network wants subtracted from a picture of 0 to 255.

    Returns
    -------
    ConvNet
        The network up to that layer.

    Raises
    ------
    ScriptError
        The checkpoint cannot be read, its parameters do not fit its symbol, it cannot take such
        pictures, or it has no such layer, in which case the message names those that it has.
    """
    symbol, parameters, path = load_checkpoint(prefix)
    if "data" not in symbol.list_arguments():
        raise ScriptError(f"{prefix} has no input named data, which takes the pictures")
    layers = symbol.get_internals()
    names = _code_layers(layers, image_shape)
    if code_layer not in names:
        raise ScriptError(
            f"argument --code-layer: {code_layer} is no layer of {prefix} that gives a row of "
            f"numbers; these are: {' '.join(names)}",
            status=2,
        )
    symbol = layers[code_layer]
    expected = _parameter_shapes(symbol, image_shape)
    # In float32 but where the network itself casts: some are saved in float16 to save room.
    types, _, state_types = symbol.infer_type(data=np.float32)
    types = _by_name(symbol, types, state_types)
    parameters = {name: _parameter(parameters, name, path).astype(types[name]) for name in expected}
    for name, array in parameters.items():
        if array.shape != expected[name]:
            raise ScriptError(
                f"{path} does not fit its symbol with --image-shape {_join(image_shape)}: {name} "
                f"has the shape {array.shape}, not {expected[name]}"
            )
    if any(mean_rgb):
        pixels = mx.sym.image.normalize(mx.sym.Variable("data"), tuple(mean_rgb), (1, 1, 1))
        symbol = symbol(data=pixels)
    return ConvNet(mx.sym.flatten(symbol), parameters, f"`{code_layer}` of `{path}`.")


def _code_layers(layers, image_shape):
    """Name the outputs that are a row of numbers a picture and need no label."""
    count = 2  # pictures: a row that is not a picture's does not grow with them
    _, shapes, _ = _infer_shapes(layers.infer_shape_partial, image_shape, count)
    rows = [
        name
        for name, shape in zip(layers.list_outputs(), shapes)
        if len(shape) > 1 and shape[0] == count and max(shape[2:], default=1) == 1
    ]
    arguments = {name: layers[name].list_arguments() for name in rows}
    return [
        name
        for name in rows
        if name != "data"
        and "data" in arguments[name]
        and not any(argument.endswith("label") for argument in arguments[name])
    ]


def _parameter_shapes(symbol, image_shape):
    """Infer the shapes of a network's parameters and auxiliary states, by name."""
    shapes, _, state_shapes = _infer_shapes(symbol.infer_shape, image_shape)
    shapes = _by_name(symbol, shapes, state_shapes)
    del shapes["data"]
    return shapes


def _by_name(symbol, of_arguments, of_states):
    """Name what MXNet infers of a network's arguments and auxiliary states."""
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    return dict(zip(names, of_arguments + of_states))


def _infer_shapes(infer, image_shape, count=1):
    """Infer the shapes of arguments, outputs and auxiliary states for some pictures."""
    try:
        # What MXNet prints when it cannot is no help to a user.
        with contextlib.redirect_stdout(None):
            return infer(data=(count, *image_shape))
    except mx.MXNetError as error:
        raise ScriptError(
            f"the network cannot take pictures of {_join(image_shape)}: give the --image-shape it "
            "was made for"
        ) from error


def _join(image_shape):
    return ",".join(map(str, image_shape))


def code_size(net, image_shape):
    """Return how many numbers a code of a network has.

    Parameters
    ----------
    net : ConvNet
        The network.
    image_shape : tuple of int
        (3, H, W).

    Returns
    -------
    int
        Numbers in a code.

    Raises
    ------
    ScriptError
        The network cannot take such pictures.
    """
    _, ((_, size),), _ = _infer_shapes(net.symbol.infer_shape, image_shape)
    return size


def require_numbers(codes):
    """Make sure that codes can be worked with.

    Parameters
    ----------
    codes : numpy.ndarray
        (N, D) float32.

    Raises
    ------
    ScriptError
        Some are infinite, or no numbers at all.
    """
    if not np.isfinite(codes).all():
        raise ScriptError(
            "some codes are no numbers: train the network again, or give the --image-shape and "
            "--mean-rgb that it was trained with"
        )


def compile_encoder(net, ctx, batch_shape, monitor=None):
    """Make a network ready to run on batches of one size.

    Parameters
    ----------
    net : ConvNet
        The network.
    ctx : mxnet.Context
        Where it runs.
    batch_shape : tuple of int
        (n, 3, H, W), which the network can take.
    monitor : callable, optional
        Called with the name and the handle of each array that the network computes.

    Returns
    -------
    callable
        Takes up to n pictures, (m, 3, H, W) uint8 RGB, as numpy.ndarray; waits for their codes and
        returns them, (m, D) float32, as numpy.ndarray.

    Raises
    ------
    MemoryError
        A batch has more numbers than an array of MXNet can hold.
    """
    if np.prod(batch_shape) > LARGEST_ARRAY:
        raise MemoryError
    pixels = mx.nd.empty(batch_shape, ctx)
    # Copies: MXNet rearranges the weights of a running network in place, and another network that
    # shares them gives wrong codes once this one is gone.
    arrays = {name: array.copyto(ctx) for name, array in net.parameters.items()}
    arrays["data"] = pixels
    arguments = [arrays[name] for name in net.symbol.list_arguments()]
    states = [arrays[name] for name in net.symbol.list_auxiliary_states()]
    executor = net.symbol.bind(ctx, arguments, grad_req="null", aux_states=states)
    if monitor:
        executor.set_monitor_callback(monitor, monitor_all=True)

    def encode(images):
        pixels[: len(images)] = images
        (codes,) = executor.forward()
        return codes[: len(images)].asnumpy()

    return encode
