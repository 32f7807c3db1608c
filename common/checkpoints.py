"""Networks that MXNet saved: their first layers, and the layer of a code."""

import contextlib
import json
import math
import re
from pathlib import Path
from typing import NamedTuple, Optional

from mxcompat import checkpoints
from mxcompat.checkpoints import Checkpoint

import mxnet as mx
import numpy as np
from mxnet import nd

from .errors import ScriptError, warn

INCEPTION_BN = "imagenet1k-inception-bn"  # the other network of the published demo
SOFTMAX = {"SoftmaxOutput", "Softmax", "softmax", "log_softmax", "SoftmaxActivation"}
# Other last operators that exist only for training, or turn scores into something else.
HEADS = SOFTMAX | checkpoints.HEADS | {"make_loss", "BlockGrad", "stop_gradient"}


class FirstLayer(NamedTuple):
    """A convolution that looks at pictures: weight (F, 1 or 3, H, W) and bias (F,), float32.

    It wants pixels of 0 to 255 less `mean_rgb`, divided by `std_rgb`.
    """

    name: str
    weight: nd.NDArray
    bias: Optional[nd.NDArray]
    mean_rgb: tuple = (0,)
    std_rgb: tuple = (1,)


def load_checkpoint(prefix):
    """Return a network that MXNet saved; its input, which takes the pictures, is called data."""
    try:
        symbol, params, path = checkpoints.load_checkpoint(prefix)
    except (FileNotFoundError, ValueError) as error:
        message = str(error)
        if Path(prefix).name == INCEPTION_BN:
            message += " to --model, if you have a copy: they are no longer published"
        raise ScriptError(message) from error
    inputs = checkpoints.inputs_of(symbol, params)
    if "data" not in inputs and len(inputs) != 1:
        raise ScriptError(
            f"the network has {len(inputs)} inputs ({' '.join(inputs)}): pictures go into one"
        )
    if "data" not in inputs:
        symbol = symbol(**{inputs[0]: mx.sym.var("data")})
    return Checkpoint(symbol, params, path)


def load_first_layer(checkpoint, name, mean_rgb, std_rgb):
    """Return a convolution that looks at pictures, the first unless it is named."""
    symbol, params, source = checkpoint
    nodes = json.loads(symbol.tojson())["nodes"]
    layers = {}
    for node in nodes:
        if node["op"] != "Convolution":
            continue
        inputs = [nodes[index]["name"] for index, *_ in node["inputs"][1:]]
        _require(inputs, params, source)
        weight, *bias = (params[each] for each in inputs)
        kernel = tuple(map(int, re.findall(r"\d+", node["attrs"]["kernel"])))
        count = int(node["attrs"]["num_filter"])
        for each, shape in zip(inputs, ((count, weight.shape[1], *kernel), (count,))):
            if params[each].shape != shape:
                raise ScriptError(
                    f"{source} does not fit its symbol: {each} has the shape {params[each].shape}"
                )
        is_grouped = int(node["attrs"].get("num_group", 1)) > 1
        if weight.ndim == 4 and weight.shape[1] in (1, 3) and not is_grouped:
            layers[node["name"]] = weight, bias[0] if bias else None
    if not layers:
        raise ScriptError(f"{source} has no convolution with 3 input channels, or 1")
    name = name or next(iter(layers))
    if name not in layers:
        raise ScriptError(
            f"argument --layer: {name} is no convolution with 3 input channels, or 1; "
            f"these are: {' '.join(layers)}",
            status=2,
        )
    weight, bias = layers[name]
    if not all(np.isfinite(a.asnumpy()).all() for a in (weight, bias) if a is not None):
        raise ScriptError(f"{source} has NaN or infinite weights in {name}: train it again")
    layer = FirstLayer(name, weight, bias, mean_rgb or (0,), std_rgb or (1,))
    return layer, f"The filters are `{name}` of `{source}`."


def choose_code_layer(symbol, name, image_shape):
    """Return the layer whose output is the code, and whether that is scores of classes.

    It is the last before a softmax or another head, or the one of this name; it must give one
    vector per picture.
    """
    output, heads = symbol[0], set()
    while (operator := json.loads(output.tojson())["nodes"][-1]["op"]) in HEADS:
        heads.add(operator)
        output = output.get_children()[0]
    last, is_classifier = output.list_outputs()[0], heads <= SOFTMAX
    if name is None:
        name = last
        if len(symbol.list_outputs()) > 1:
            warn(f"the network has several outputs: {name} is taken; --code-layer picks another")
    vectors = code_layers(symbol, image_shape)
    if name not in vectors:
        others = f"; the last that do: {' '.join(vectors[-10:])}" if vectors else ""
        raise ScriptError(
            f"argument --code-layer: {name} is no layer that gives one vector per picture{others}",
            status=2,
        )
    return name, name == last and is_classifier


def code_layers(symbol, image_shape):
    """Name the layers that give one vector per picture, from the first to the last."""
    layers = symbol.get_internals()
    _, shapes, _ = infer_shapes(layers.infer_shape_partial, image_shape, count=2)
    vectors = [
        name
        for name, shape in zip(layers.list_outputs(), shapes)
        if len(shape) > 1 and shape[0] == 2 and max(shape[2:], default=1) == 1
    ]
    known = set(checkpoints.inputs_of(symbol, ()))  # and no labels
    inputs = {name: set(layers[name].list_arguments()) for name in vectors}
    return [name for name in vectors if "data" in inputs[name] and inputs[name] <= known]


def infer_shapes(infer, image_shape, count=1):
    """Call a symbol's way to infer shapes for `count` pictures; return all three lists."""
    try:
        # What MXNet prints when it cannot is no help to a user.
        with contextlib.redirect_stdout(None):
            shapes = infer(data=(count, *image_shape))
    except mx.MXNetError as error:
        raise wrong_shape(image_shape) from error
    if shapes[1] is None:
        raise wrong_shape(image_shape)
    return shapes


def infer_params(symbol, image_shape):
    """Return the shape of each parameter and auxiliary state, and of the output."""
    shapes, (output,), state_shapes = infer_shapes(symbol.infer_shape, image_shape)
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    shapes = dict(zip(names, shapes + state_shapes))
    del shapes["data"]
    return shapes, output


def fit_params(symbol, params, image_shape, source):
    """Return the shape of each parameter, and of the output, once all fit the parameters."""
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    _require([name for name in names if name != "data"], params, source)
    shapes, output = infer_params(symbol, image_shape)
    for name, shape in shapes.items():
        found = params[name].shape
        if found == shape:
            continue
        if len(shape) == 2 and found[0] == shape[0]:  # of a dense layer that gets more or less
            # A map grows with the picture's sides, and what a dense layer gets with their square.
            side = round(image_shape[1] * math.sqrt(found[1] / shape[1]))
            better = (image_shape[0], side, side)
            raise wrong_shape(image_shape, better if _fits(symbol, params, better) else None)
        if len(shape) == 4 and (found[0], found[2:]) == (shape[0], shape[2:]):
            raise ScriptError(
                f"{name} takes {found[1]} channels, and pictures of {image_shape[0]} give "
                f"{shape[1]}: try --image-shape {found[1]},H,W"
            )
        raise ScriptError(
            f"{source} does not fit its symbol: {name} has the shape {found}, not {shape}"
        )
    return shapes, output


def _fits(symbol, params, image_shape):
    try:
        shapes, _ = infer_params(symbol, image_shape)
    except ScriptError:  # too small for a kernel
        return False
    return all(params[name].shape == shape for name, shape in shapes.items())


def _require(names, params, source):
    """Refuse parameters that lack one of some names."""
    if missing := [name for name in names if name not in params]:
        raise ScriptError(f"{source} does not fit its symbol: {missing[0]} is not in it")


def wrong_shape(image_shape, better=None):
    """Return an error that says which shape would be right, if it is known."""
    wrong, right = (",".join(map(str, shape or ())) for shape in (image_shape, better))
    advice = f"--image-shape {right}" if right else "another --image-shape"
    return ScriptError(f"the network does not take pictures of {wrong}: give {advice}")
