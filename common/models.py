"""Networks: the layer that looks at the picture, and checkpoints."""

import ast
import json
import re
from pathlib import Path
from typing import NamedTuple, Optional

import mxnet as mx
import numpy as np

from .assets import UnavailableError, fetch
from .cli import ScriptError, notice
from .standins import draw_filters

# Of ImageNet's training pictures, 0 to 255; what Inception-BN was trained without.
IMAGENET_MEAN_RGB = (123.68, 116.779, 103.939)


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
