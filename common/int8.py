"""Networks in int8: whether that is fast here, and good enough; or float32, its layers fused."""

import contextlib
import json
import platform
import re
from collections import Counter
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet.contrib import quantization

from .checkpoints import infer_shapes
from .errors import ScriptError, warn
from .networks import Encoder, check_finite, readable_errors

# Pictures that give the ranges of int8, and whose codes are compared, all in one batch: 32 make the
# codes of other pictures no better.
SAMPLE_COUNT = 16
CPU_INFO = Path("/proc/cpuinfo")  # of Linux
# An int8 network that names as many pictures right as in float32 has 0.98 or more; below 0.97
# nearest neighbors begin to change.
LOWEST_COSINE = 0.97


def has_vnni():
    """Tell whether the processor multiplies int8 quickly, where Linux says so."""
    # An emulator shows the flags of the processor that it runs on.
    if platform.machine() != "x86_64" or not CPU_INFO.exists():
        return False
    flags = re.search(r"^flags\s*:(.*)", CPU_INFO.read_text(), re.MULTILINE)
    return flags is not None and "avx512_vnni" in flags[1].split()


def choose_dtype(network, dtype, batches, image_shape, ctx, streams=1):
    """Make a network ready to run: in int8 where that is asked for, or fast and good enough here.

    `batches` yields a sample of pictures, (n, C, H, W) uint8, and their labels; it is read only if
    int8 is tried. Returns an `Encoder`, "int8" or "float32", and the mean cosine of the int8 and
    the float32 codes, or None.
    """
    on_cpu = ctx.device_type == "cpu"
    if dtype == "int8" and not on_cpu:
        raise ScriptError("argument --dtype: MXNet computes in int8 on a CPU only", status=2)
    if dtype == "int8" or (dtype == "auto" and on_cpu and has_vnni()):
        sample = [images for images, _ in batches if len(images)]
        if not sample:
            raise ScriptError("none of the first pictures can be read: choose others")
        encoder, cosine = _try_int8(network, np.concatenate(sample), dtype, streams)
        # Not the other way round: codes that are NaN have no cosine.
        good = encoder and cosine >= LOWEST_COSINE
        if encoder and not good:
            advice = "--dtype float32 is better" if dtype == "int8" else "using float32"
            warn(f"int8 is not good enough for this network: {advice}")
        if dtype == "int8" or good:
            return encoder, "int8", cosine
    with readable_errors():  # MXNet fuses layers by itself as it binds a network
        return Encoder(network.symbol, network.params, image_shape, ctx, streams), "float32", None


def _try_int8(network, sample, dtype, streams):
    """Quantize a network; return it, or None if MXNet cannot, and its mean cosine with float32."""
    try:
        encoder, expected = quantize(network, sample, streams)
        (codes,) = encoder.start(sample)()
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        with contextlib.suppress(mx.MXNetError):  # what was under way may fail, too
            mx.nd.waitall()
        if dtype == "int8":
            raise ScriptError(
                f"MXNet cannot compute this network in int8 ({reason}): try --dtype float32"
            ) from error
        warn(f"no int8 for this network ({reason}): using float32")
        return None, None
    cosine = mean_cosine(codes, expected)
    print(
        f"int8: the mean cosine of its codes with those of float32 is {cosine:.4f} "
        "(1: the same; --dtype float32 turns it off)"
    )
    return encoder, cosine


def quantize(network, images, streams=1):
    """Return a network in int8, and the codes in float32 of the (n, C, H, W) uint8 pictures.

    One pass over the pictures gives both the codes and the ranges of the layers.
    """
    symbol, params = rewrite_batch_norms(network.symbol, network.params, images.shape[1:])
    args = {name: params[name] for name in symbol.list_arguments() if name != "data"}
    states = {name: params[name] for name in symbol.list_auxiliary_states()}
    fused = symbol.get_backend_symbol("MKLDNN_QUANTIZE")
    # In int8 MXNet dies of most products, and of a pooling other than the mean and the maximum.
    nodes = json.loads(fused.tojson())["nodes"]
    odd = [n["name"] for n in nodes if n.get("attrs", {}).get("pool_type") in ("sum", "lp")]
    odd += [n["name"] for n in nodes if n["op"] == "elemwise_mul"]
    options = {"excluded_sym_names": odd, "quantized_dtype": "auto", "calib_mode": "naive"}
    int8_symbol, _, _, collector = quantization.quantize_graph(fused, args, states, **options)
    collector.min_max_dict, codes = _observe(
        fused, params, collector.include_layer, images, streams
    )
    check_finite(codes)
    int8_symbol, int8_args, states = quantization.calib_graph(
        int8_symbol, args, states, collector, calib_mode="naive"
    )
    int8_symbol = int8_symbol.get_backend_symbol("MKLDNN_QUANTIZE")
    encoder = Encoder(int8_symbol, {**int8_args, **states}, images.shape[1:], mx.cpu(), streams)
    return encoder, codes


def _observe(symbol, params, layers, images, streams):
    """Return the range of each of some layers over all pictures, and the pictures' codes."""
    internals = symbol.get_internals()
    names = [name for name in internals.list_outputs() if name in layers]
    # An operator that quantizes tells the lowest and the highest of its values.
    seen = [mx.sym.contrib.quantize_v2(internals[name], out_type="uint8") for name in names]
    ranges = [limit for _, *limits in seen for limit in limits]
    # In this order MXNet looks at each layer before it computes the next, and frees it.
    group = mx.sym.Group([*ranges, symbol])
    # By twos: what is kept of the layers until it is looked at fills the memory.
    encoder = Encoder(group, params, images.shape[1:], mx.cpu(), streams, part=2)
    *limits, codes = encoder.start(images)()
    limits = np.array(limits)
    lowest, highest = limits[::2].min(axis=1), limits[1::2].max(axis=1)
    return dict(zip(names, zip(lowest, highest))), codes


def mean_cosine(codes, others):
    """Return how alike two sets of codes of the same pictures are, -1 to 1.

    It is the mean cosine of a picture's two codes, each less the mean of its set if there are
    several: what all codes have in common says nothing about a picture.
    """
    if len(codes) > 1:
        codes, others = (array - array.mean(axis=0) for array in (codes, others))
    lengths = np.linalg.norm(codes, axis=1) * np.linalg.norm(others, axis=1)
    return float(((codes * others).sum(axis=1) / np.where(lengths > 0, lengths, 1)).mean())


def rewrite_batch_norms(symbol, params, image_shape):
    """Write each BatchNorm of maps that follows no convolution as a depthwise convolution.

    MXNet fuses that with its ReLU, and computes it in int8; a BatchNorm after a convolution it
    fuses by itself. Returns a symbol and parameters whose outputs have the same names and values.
    """
    graph, params = json.loads(symbol.tojson()), dict(params)
    nodes, internals = graph["nodes"], symbol.get_internals()
    _, shapes, _ = infer_shapes(internals.infer_shape, image_shape)
    shapes = dict(zip(internals.list_outputs(), shapes))
    uses = Counter(index for node in nodes for index, *_ in node["inputs"])
    for node in nodes:
        shape = shapes.get(f"{node['name']}_output", ())
        if node["op"] != "BatchNorm" or len(shape) != 4 or len(node["inputs"]) != 5:
            continue
        source, *variables = (nodes[index] for index, *_ in node["inputs"])
        attrs = node.get("attrs", {})
        names = [variable["name"] for variable in variables]
        axis, outputs = attrs.get("axis", "1"), attrs.get("output_mean_var", "False")
        is_shared = uses[node["inputs"][1][0]] > 1
        if source["op"] == "Convolution" or is_shared or axis != "1" or outputs != "False":
            continue
        gamma, beta, mean, variance = (params[name] for name in names)
        if attrs.get("fix_gamma", "True") in ("True", "1"):
            gamma = mx.nd.ones_like(gamma)
        scale = gamma / mx.nd.sqrt(variance + float(attrs.get("eps", 1e-3)))
        params[names[0]], params[names[1]] = scale.reshape((-1, 1, 1, 1)), beta - mean * scale
        channels = str(shape[1])
        node["op"], node["inputs"] = "Convolution", node["inputs"][:3]
        node["attrs"] = {"kernel": "(1, 1)", "num_filter": channels, "num_group": channels}
        variables[0].pop("attrs", None)  # which may have the shape of gamma
    return mx.sym.load_json(json.dumps(graph)), params
