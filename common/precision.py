"""Precision: runs a network in fewer bits than float32 where that is faster and good enough."""

import ctypes
import json
import re
from itertools import zip_longest
from typing import Callable, NamedTuple, Optional

import mxnet as mx
import numpy as np
from mxnet.base import py_str
from mxnet.contrib import amp, quantization

from .cli import ScriptError, notice
from .compat import HAS_VNNI
from .models import compile_encoder, require_numbers

PRECISIONS = ("int8", "bfloat16", "float16", "float32")  # from the fastest to the most exact

CALIBRATION_COUNT = 64  # pictures that the ranges of int8 are taken from
CHECK_COUNT = 64  # pictures whose codes are compared with those of float32
SAMPLE_COUNT = CALIBRATION_COUNT + CHECK_COUNT
# An int8 network that names as many pictures right as in float32 has 0.98 or more; at 0.93
# neighbours begin to change.
LOWEST_COSINE = 0.97


class Encoder(NamedTuple):
    """A network ready to run.

    Parameters
    ----------
    encode : callable
        As `models.compile_encoder` returns it.
    precision : str
        What it computes in.
    cosine : float or None
        How like those of float32 its codes are, as `mean_cosine` tells; None if it is float32.
    """

    encode: Callable
    precision: str
    cosine: Optional[float] = None


def candidates(dtype, ctx):
    """List the precisions to try, the fastest first.

    Parameters
    ----------
    dtype : str
        "auto" for all that this device is fast in, or one of `PRECISIONS`.
    ctx : mxnet.Context
        The device.

    Returns
    -------
    tuple of str
        Precisions; "auto" ends with float32.

    Raises
    ------
    ScriptError
        This device does not compute in that precision; exit status 2.
    """
    on_gpu = ctx.device_type == "gpu"
    if dtype == "auto":
        fast = {"int8": HAS_VNNI and not on_gpu, "float16": on_gpu, "float32": True}
        return tuple(precision for precision in PRECISIONS if fast.get(precision))
    if dtype in (("int8", "bfloat16") if on_gpu else ("float16",)):
        raise ScriptError(
            f"argument --dtype: MXNet computes in {dtype} on a {'CPU' if on_gpu else 'GPU'} only",
            status=2,
        )
    return (dtype,)


def make_encoder(net, precisions, ctx, batch_shape, sample):
    """Make a network ready to run in the first precision that is good enough.

    Every precision but float32 is compared with float32, and the figure printed. That the next one
    is tried is told on standard error.

    Parameters
    ----------
    net : models.ConvNet
        The network.
    precisions : sequence of str
        As `candidates` lists them. The last is taken as it is.
    ctx : mxnet.Context
        Where it runs.
    batch_shape : tuple of int
        (n, 3, H, W).
    sample : numpy.ndarray
        (m, 3, H, W) uint8, pictures to try it on: the first 64 calibrate int8, and the next 64 are
        compared, or the last there are if that leaves fewer than 2.

    Returns
    -------
    Encoder
        The network, ready to run.

    Raises
    ------
    ScriptError
        The codes are no numbers, or MXNet cannot compute this network in the last precision here.
    """
    exact = compile_encoder(net, ctx, batch_shape)
    if precisions[0] == "float32":
        return Encoder(exact, "float32")
    check = sample[CALIBRATION_COUNT:SAMPLE_COUNT]
    check = check if len(check) > 1 else sample[-CHECK_COUNT:]
    expected = _encode_all(exact, check, batch_shape[0])
    require_numbers(expected)
    for precision, next_one in zip_longest(precisions, precisions[1:]):
        if precision == "float32":
            break
        try:
            reduced = _reduce(net, precision, sample[:CALIBRATION_COUNT], batch_shape)
            encode = compile_encoder(reduced, ctx, batch_shape)
            cosine = mean_cosine(_encode_all(encode, check, batch_shape[0]), expected)
        except mx.MXNetError as error:
            reason = str(error).strip().splitlines()[-1]
            if not next_one:
                raise ScriptError(
                    f"MXNet cannot compute this network in {precision} here ({reason}): choose "
                    "another --dtype"
                ) from error
            notice(f"no {precision} for this network ({reason}): trying {next_one}")
            continue
        print(f"{precision}: the mean cosine of its codes with those of float32 is {cosine:.4f}")
        # Not the other way round: codes that are no numbers have no cosine.
        if cosine >= LOWEST_COSINE or not next_one:
            return Encoder(encode, precision, cosine)
        notice(f"{precision} is not good enough for this network: trying {next_one}")
    return Encoder(exact, "float32")


def _reduce(net, precision, images, batch_shape):
    """Convert a network; the pictures are for what int8 must know."""
    if precision == "int8":
        return _quantize(net, images, batch_shape)
    # A depthwise convolution sums up few numbers, whose rounding errors do not cancel out:
    # in bfloat16 they alone cost a MobileNet V2 seven of 1,000 pictures.
    depthwise = [
        node["name"]
        for node in json.loads(net.symbol.tojson())["nodes"]
        if node["op"] == "Convolution" and int(node["attrs"].get("num_group", 1)) > 1
    ]
    symbol, parameters, states = amp.convert_model(
        net.symbol, *net.split(), target_dtype=precision, excluded_sym_names=depthwise
    )
    return net._replace(symbol=symbol, parameters={**parameters, **states})


class _Ranges:
    """The lowest and the highest value of each layer, as `mx.contrib.quantization` collects them.

    Its own collector takes twice as long: MXNet looks for a minimum on one core.
    """

    def __init__(self):
        self.min_max_dict = {}

    def collect(self, name, handle):
        name = py_str(name)
        # Inputs of layers come too; they are outputs of others, but for the pictures.
        if name == "data" or re.search(r"_output\d*$", name):
            handle = ctypes.cast(handle, mx.base.NDArrayHandle)
            values = mx.nd.NDArray(handle, writable=False).asnumpy()
            low, high = self.min_max_dict.get(name, (np.inf, -np.inf))
            self.min_max_dict[name] = min(low, values.min()), max(high, values.max())


def _quantize(net, images, batch_shape):
    """Convert a network to int8, the ranges of its layers taken from pictures [1].

    [1] https://mxnet.apache.org/versions/1.9.1/api/python/docs/api/contrib/quantization/index.html
    """
    backend, options = "MKLDNN_QUANTIZE", {"calib_mode": "customize", "quantized_dtype": "auto"}
    fused = net._replace(symbol=net.symbol.get_backend_symbol(backend))
    ranges = _Ranges()
    symbol, *_ = quantization.quantize_graph(
        fused.symbol, *net.split(), LayerOutputCollector=ranges, **options
    )
    # Not more pictures than there are: the rest of the batch would count.
    batch_size = min(batch_shape[0], len(images))
    batch_shape = (batch_size, *batch_shape[1:])
    encode = compile_encoder(fused, mx.cpu(), batch_shape, monitor=ranges.collect)
    _encode_all(encode, images, batch_size)
    symbol, parameters, states = quantization.calib_graph(
        symbol, *net.split(), ranges, logger=None, **options
    )
    symbol = symbol.get_backend_symbol(backend)
    return net._replace(symbol=symbol, parameters={**parameters, **states})


def _encode_all(encode, images, batch_size):
    starts = range(0, len(images), batch_size)
    return np.concatenate([encode(images[start : start + batch_size]) for start in starts])


def mean_cosine(codes, others):
    """Tell how alike two sets of codes of the same pictures are.

    Parameters
    ----------
    codes, others : numpy.ndarray
        (N, D) float32, a code a row.

    Returns
    -------
    float
        The mean of the cosines between a picture's two codes, -1 to 1, each less the mean of its
        set, if there are several: what all codes have in common says nothing of a picture. 0 for a
        code of which nothing is left.
    """
    if len(codes) > 1:
        codes, others = (array - array.mean(axis=0) for array in (codes, others))
    lengths = np.linalg.norm(codes, axis=1) * np.linalg.norm(others, axis=1)
    return float(((codes * others).sum(axis=1) / np.where(lengths > 0, lengths, 1)).mean())
