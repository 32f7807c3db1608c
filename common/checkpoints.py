"""Networks that MXNet saved: their symbols, parameters, first layers, and the layer of a code."""

import contextlib
import json
import math
import re
from pathlib import Path
from typing import NamedTuple, Optional

import mxnet as mx
import numpy as np
from mxnet import nd

import mxfiles

from .errors import ScriptError, warn

INCEPTION_BN = "imagenet1k-inception-bn"  # the other network of the published demo
SOFTMAX = {"SoftmaxOutput", "Softmax", "softmax", "log_softmax", "SoftmaxActivation"}
# What else a network may end in that is about its training, or turns scores into something else.
HEADS = SOFTMAX | {"SVMOutput", "MakeLoss", "make_loss", "BlockGrad", "stop_gradient"}
HEADS |= {f"{kind}RegressionOutput" for kind in ("Linear", "Logistic", "MAE")}
# Operators that follow pointers, run code or read files that a symbol names.
UNTRUSTED = re.compile(
    r"(_npi_)?Custom|_CustomFunction|_Native|_NDArray|_CachedOp.*|_sg_.*|(_npi)?_cv.*"
    r"|_contrib_(tvm|dgl).*|_backward_.*|_broadcast_backward"
)
# What is raised by JSON of another shape, and by MXNet.
MALFORMED = (*(mx.MXNetError, ValueError, LookupError, TypeError, AttributeError, RecursionError),)


class Checkpoint(NamedTuple):
    """A network that MXNet saved; its input, which takes the pictures, is called data."""

    symbol: mx.sym.Symbol
    params: dict  # arrays by name
    path: Path  # of the parameters


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
    """Return a network that MXNet saved as PREFIX-symbol.json and PREFIX-NNNN.params.

    Of several files of parameters it is the one with the highest number.
    """
    symbol_path = Path(f"{prefix}-symbol.json")
    pattern = re.compile(re.escape(Path(prefix).name) + r"-(\d{4,})\.params")
    numbered = {
        int(match[1]): symbol_path.parent / match[0]
        for match in map(pattern.fullmatch, (p.name for p in symbol_path.parent.glob("*.params")))
        if match
    }
    if not (symbol_path.is_file() and numbered):
        raise ScriptError(_explain_missing(prefix, symbol_path))
    path, not_ours = numbered[max(numbered)], "it is damaged, or not MXNet's"
    try:
        saved = mxfiles.load(path)
    except ValueError as error:
        raise ScriptError(f"{path} cannot be read: {not_ours}") from error
    if not isinstance(saved, dict):
        raise ScriptError(f"{path} holds arrays without names: it is no checkpoint")
    # `arg:` and `aux:` stand before the names of parameters and of auxiliary states.
    params = {
        name.split(":", 1)[-1]: nd.array(array, dtype=array.dtype) for name, array in saved.items()
    }
    try:
        text = symbol_path.read_text("utf-8")
        _check_operators(json.loads(text))
        symbol = _mend(mx.sym.load_json(text), params)
    except MALFORMED as error:
        raise ScriptError(f"{symbol_path} cannot be read: {not_ours}") from error
    return Checkpoint(symbol, params, path)


def _explain_missing(prefix, symbol_path):
    missing = symbol_path if not symbol_path.is_file() else f"{prefix}-0000.params"
    if Path(prefix).name == INCEPTION_BN:
        return (
            f"{missing} is missing, and Inception-BN's weights are no longer published: if you "
            "have a copy, give its path to --model, without -symbol.json"
        )
    if any(Path(f"{prefix}{suffix}").is_file() for suffix in ("", ".params")):
        return (
            f"{missing} is missing: save_parameters writes no symbol; net.export({str(prefix)!r}) "
            "writes both, once the net is hybridized and has seen a picture"
        )
    return f"{missing} is missing: --model takes what comes before it in its name"


def _check_operators(graph):
    """Refuse what reaches outside a graph, before MXNet loads it and acts on it."""
    for node in graph["nodes"]:
        if UNTRUSTED.fullmatch(node["op"]):
            raise ScriptError(f"the network has an operator {node['op']}, which is not trusted")
        for subgraph in node.get("subgraphs", ()):
            _check_operators(subgraph)


def _mend(symbol, params):
    """Name the input data, compute in float32, and work around checks of MXNet's that are wrong."""
    graph = json.loads(symbol.tojson())
    inputs = [name for name in symbol.list_arguments() if name not in params]
    inputs = [name for name in inputs if not name.endswith("label")]
    if "data" not in inputs and len(inputs) != 1:
        raise ScriptError(
            f"the network has {len(inputs)} inputs ({' '.join(inputs)}): pictures go into one"
        )
    for node in graph["nodes"]:
        attrs = node.get("attrs", {})
        if node["op"] == "Pooling" and attrs.get("global_pool") in ("True", "1"):
            # A kernel larger than the map, which global pooling ignores, fails in int8.
            attrs["kernel"] = re.sub(r"\d+", "1", attrs.get("kernel", "(1, 1)"))
        if node["op"] == "FullyConnected":
            # Without its shape MXNet tells what it would have to be.
            graph["nodes"][node["inputs"][1][0]].get("attrs", {}).pop("__shape__", None)
        if attrs.get("dtype") == "float16":
            attrs["dtype"] = "float32"
        attrs.pop("__dtype__", None)
        if node["op"] == "null" and "data" not in inputs and node["name"] == inputs[0]:
            node["name"] = "data"
    return mx.sym.load_json(json.dumps(graph))


def load_first_layer(checkpoint, name, mean_rgb, std_rgb):
    """Return a convolution that looks at pictures, the first unless it is named."""
    symbol, params, source = checkpoint
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
        is_grouped = int(node["attrs"].get("num_group", 1)) > 1
        if weight.ndim == 4 and weight.shape[1] in (1, 3) and not is_grouped:
            layers[node["name"]] = [array.astype("float32") for array in (weight, *bias)]
    if not layers:
        raise ScriptError(f"{source} has no convolution with 3 input channels, or 1")
    name = name or next(iter(layers))
    if name not in layers:
        raise ScriptError(
            f"argument --layer: {name} is no convolution with 3 input channels, or 1; "
            f"these are: {' '.join(layers)}",
            status=2,
        )
    weight, bias = (*layers[name], None)[:2]
    if not np.isfinite(weight.asnumpy()).all():
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
        raise ScriptError(
            f"argument --code-layer: {name} is no layer that gives one vector per picture; "
            f"the last that do: {' '.join(vectors[-10:])}",
            status=2,
        )
    return name, name == last and is_classifier


def code_layers(symbol, image_shape):
    """Name the layers that give one vector per picture, from the first to the last."""
    layers = symbol.get_internals()
    try:
        _, shapes, _ = infer_shapes(layers.infer_shape_partial, image_shape, count=2)
    except mx.MXNetError as error:
        raise wrong_shape(image_shape) from error
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


def infer_shapes(infer, image_shape, count=1):
    """Call a symbol's way to infer shapes for `count` pictures; return all three lists."""
    # What MXNet prints when it cannot is no help to a user.
    with contextlib.redirect_stdout(None):
        shapes = infer(data=(count, *image_shape))
    if shapes[1] is None:
        raise mx.MXNetError("some shapes cannot be inferred")
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
    try:
        shapes, output = infer_params(symbol, image_shape)
    except mx.MXNetError as error:
        raise wrong_shape(image_shape) from error
    for name, shape in shapes.items():
        if name not in params:
            raise ScriptError(f"{source} does not fit its symbol: {name} is not in it")
        found = params[name].shape
        if found == shape:
            continue
        if len(shape) == 2 and found[0] == shape[0]:  # of a dense layer that gets more or less
            # A map grows with the picture's sides, and what a dense layer gets with their square.
            side = round(image_shape[1] * math.sqrt(found[1] / shape[1]))
            better = (image_shape[0], side, side)
            raise wrong_shape(image_shape, better if _fits(symbol, params, better) else None)
        if len(shape) == 4 and (found[0], found[2:]) == (shape[0], shape[2:]):
            better = (found[1], *image_shape[1:])  # for a gray network, or for one that is not
            if _fits(symbol, params, better):
                raise wrong_shape(image_shape, better)
        raise ScriptError(
            f"{source} does not fit its symbol: {name} has the shape {found}, not {shape}"
        )
    return shapes, output


def _fits(symbol, params, image_shape):
    try:
        shapes, _ = infer_params(symbol, image_shape)
    except mx.MXNetError:  # too small for a kernel
        return False
    return all(params[name].shape == shape for name, shape in shapes.items() if name in params)


def wrong_shape(image_shape, better=None):
    """Return an error that says which shape would be right, if it is known."""
    wrong, right = (",".join(map(str, shape or ())) for shape in (image_shape, better))
    advice = f"--image-shape {right}" if right else "another --image-shape"
    return ScriptError(f"the network does not take pictures of {wrong}: give {advice}")
