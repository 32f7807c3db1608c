"""Write a network of MXNet as ONNX, once both have computed the same.

PREFIX-symbol.json and PREFIX-NNNN.params become a network for batches of any size, with the names
that its input and its layers have in MXNet. ONNX Runtime computes it beside MXNet on random
pictures and on zeros; the file is written only if they agree.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Optional, Union
from unittest import mock

import mxnet as mx
import numpy as np

from . import onnx_graph
from .board.files import atomic_write
from .checkpoints import inputs_of, load_checkpoint, prefix_of

try:
    import onnxruntime
except ImportError:  # there is none for Python 3.15 yet
    onnxruntime, JUDGE = None, "onnx's own evaluator"
    ADVICE = ". It is slow, and wrong for some operators: pip install onnxruntime"
else:
    JUDGE, ADVICE = f"ONNX Runtime {onnxruntime.__version__}", ""

TOLERANCE = 1e-4  # of the largest value: rounding in float32 stays well below
BATCH_SIZE = 3  # of what is compared, where it may be any
WEIGHTED = {"Convolution", "Deconvolution", "FullyConnected", "RNN", "Embedding"}


class MismatchError(ValueError):
    """ONNX and MXNet do not compute the same."""


def export(
    net: Union[mx.sym.Symbol, mx.gluon.HybridBlock],
    params: Optional[dict],
    shapes: dict,
    path: Union[str, Path],
) -> float:
    """Write a network as ONNX, once both have computed the same.

    Parameters
    ----------
    net : mxnet.symbol.Symbol or mxnet.gluon.HybridBlock
        The network. What only training reads, such as labels, is left out.
    params : dict of str to mxnet.nd.NDArray, or None
        The parameters and auxiliary states of a symbol; a block has its own.
    shapes : dict of str to tuple
        The shape of each input, by name. A size that may be any is a name itself, the same where
        sizes must be equal: ``{"data": ("batch", 3, 112, 112)}``. A block's inputs are in their
        order, and get these names.
    path : str or pathlib.Path
        The file to write. It is replaced when the new one is whole.

    Returns
    -------
    float
        The largest difference between ONNX and MXNet, relative to the largest value, below 1e-4.

    Raises
    ------
    MismatchError
        They differ by more. No file is written.
    NotImplementedError
        ONNX has no words for an operator, which the message names.
    ValueError
        The shapes do not fit the network's inputs.

    Examples
    --------
    >>> net = mx.gluon.model_zoo.vision.resnet18_v2(pretrained=True)
    >>> export(net, None, {"data": ("batch", 3, 224, 224)}, "resnet18.onnx")
    """
    if isinstance(net, mx.gluon.Block):
        net, params = _trace(net, _with_sizes(shapes, BATCH_SIZE))
    model = build(net, params, shapes)
    difference = compare(model, net, params, shapes)
    if not difference < TOLERANCE:
        words = f"{JUDGE} and MXNet differ by {difference:.1g} of the largest value"
        raise MismatchError(f"not written: {words}{ADVICE}")
    with atomic_write([Path(path)]) as [part]:
        part.write_bytes(model.SerializeToString())
    return difference


def _with_sizes(shapes, size):
    return {
        name: tuple(size if isinstance(each, str) else each for each in shape)
        for name, shape in shapes.items()
    }


def _trace(block, shapes):
    """Return a block's symbol and parameters."""
    is_numpy = mx.util.is_np_array()
    block(*((mx.np if is_numpy else mx.nd).zeros(shape) for shape in shapes.values()))
    inputs = [mx.sym.var(name) for name in shapes]
    outputs = block(*(each.as_np_ndarray() if is_numpy else each for each in inputs))
    if isinstance(outputs, (list, tuple)):
        outputs = mx.sym.Group(outputs)
    names = set(outputs.list_inputs())
    params = {name: each.data() for name, each in block.collect_params().items() if name in names}
    return outputs, params


def build(symbol, params, shapes):
    """Return the ONNX model of a symbol; `export` says what the arguments are."""
    names = inputs_of(symbol, params)
    if set(names) != set(shapes):
        raise ValueError(
            f"the network's inputs are {', '.join(names)}, and the shapes are those of "
            f"{', '.join(shapes)}"
        )
    dtypes = dict.fromkeys(shapes, np.float32)
    try:
        return onnx_graph.build(symbol, params, _with_sizes(shapes, BATCH_SIZE), dtypes, shapes)
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"the network does not take these shapes: {reason}") from error


def compare(model, symbol, params, shapes):
    """Return the largest difference between ONNX and MXNet, relative to the largest value.

    Each output counts by itself, for a batch of random pictures and for one of zeros, of other
    sizes. Pixels go up to 255 where the network begins with scaling them; elsewhere such pixels
    would be far from any that it was trained on, and rounding would count for more.
    """
    run, rng, differences = _runner(model), np.random.default_rng(0), [0]
    for size, is_random in ((BATCH_SIZE, True), (1, False)):
        sizes = _with_sizes(shapes, size)
        batch = {name: np.zeros(shape, np.float32) for name, shape in sizes.items()}
        for name, rows in batch.items():
            if is_random and _is_weighted(symbol, name):
                rows[...] = rng.normal(size=rows.shape)
            elif is_random:
                rows[...] = rng.integers(256, size=rows.shape)
        for expected, found in zip(mxnet_of(symbol, params, sizes)(batch), run(batch)):
            if expected.shape != found.shape:
                raise MismatchError(
                    f"not written: ONNX gives the shape {found.shape}, MXNet {expected.shape}"
                )
            expected, found = expected.astype(float), found.astype(float)
            difference = np.abs(np.where(expected == found, 0, expected - found)).max(initial=0)
            differences.append(difference / np.abs(expected).max(initial=1e-6))
    return float(np.max(differences))  # which is NaN if one is


def _is_weighted(symbol, name):
    """Tell whether the first layer that reads an input has weights for it."""
    nodes = json.loads(symbol.tojson())["nodes"]
    index = [node["name"] for node in nodes].index(name)
    readers = [
        node["op"] for node in nodes if [index, 0] in [place[:2] for place in node["inputs"]]
    ]
    return readers[0] in WEIGHTED if readers else False


def _runner(model):
    """Return a function that computes ONNX for a batch, by input."""
    if onnxruntime is not None:
        content = model.SerializeToString()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return lambda batch: session.run(None, batch)
    from onnx.reference import ReferenceEvaluator

    def run(batch):
        try:
            return ReferenceEvaluator(model).run(None, batch)
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise MismatchError(f"not written: {JUDGE} cannot run it{ADVICE}") from error

    return run


def mxnet_of(symbol, params, shapes):
    """Return what computes a symbol: a function of a batch, by input, that returns the outputs."""
    # Fusing, MXNet overlooks some sums, and they get other numbers.
    with mock.patch.dict(os.environ, MXNET_SUBGRAPH_BACKEND="NONE"):
        executor = symbol.simple_bind(mx.cpu(), grad_req="null", **shapes)
    for arrays in (executor.arg_dict, executor.aux_dict):
        for name in set(arrays) & set(params):
            arrays[name][:] = params[name]
    return lambda batch: [output.asnumpy() for output in executor.forward(is_train=False, **batch)]


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}\n")


def _shape(text):
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise argparse.ArgumentTypeError(f"{text} is no shape such as 3,224,224")
    return tuple(map(int, text.split(",")))


def main():
    """Export a checkpoint; all that a user can do about is said in one line."""
    parser = _Parser(prog="python -m mxcompat.export", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("prefix", metavar="PREFIX", type=prefix_of, help="what comes before -symbol.json")
    add("--image-shape", type=_shape, default="3,224,224", metavar="C,H,W", help="of one picture")
    add("--epoch", type=int, metavar="N", help="number of the parameters (default: the highest)")
    add("-o", dest="path", type=Path, metavar="NET.onnx", help="file (default: PREFIX.onnx)")
    args = parser.parse_args()
    path = args.path or Path(f"{args.prefix}.onnx")
    try:
        symbol, params, _ = load_checkpoint(args.prefix, args.epoch)
        inputs = inputs_of(symbol, params)
        if len(inputs) != 1:
            raise ValueError(
                f"the network has {len(inputs)} inputs ({', '.join(inputs)}): call "
                "mxcompat.export.export with the shape of each"
            )
        shapes = {inputs[0]: ("batch", *args.image_shape)}
        difference = export(symbol, params, shapes, path)
    except (OSError, ValueError, NotImplementedError) as error:
        sys.exit(f"{parser.prog}: error: {error}")
    outputs = map(onnx_graph.plain_name, symbol.list_outputs())
    print(f"{path}: input {inputs[0]}, output {', '.join(outputs)}")
    words = f"{JUDGE} differs from MXNet by at most {difference:.1e} of the largest value"
    print(words + ADVICE)


if __name__ == "__main__":
    main()
