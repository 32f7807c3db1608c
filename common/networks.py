"""Networks ready to run: a checkpoint's, ResNet-152, and either in int8 where that is fast."""

import ctypes
import platform
import re
from pathlib import Path
from typing import NamedTuple

import mxnet as mx
import numpy as np
import onnx
from google.protobuf.message import DecodeError
from mxnet import gluon, nd
from mxnet.contrib import quantization
from mxnet.gluon.model_zoo import vision
from onnx import numpy_helper

from .checkpoints import fit_params, infer_params, rewrite_batch_norms
from .errors import ScriptError, warn
from .fetch import UnavailableError, fetch
from .synthetic import draw_weights

# What Gluon's networks were trained on: pixels of 0 to 1, less the mean, by the deviation.
GLUON_MEAN_RGB = (0.485, 0.456, 0.406)
GLUON_STD_RGB = (0.229, 0.224, 0.225)

# Pictures that give the ranges of int8, and whose codes are compared, all in one batch: 32 make the
# codes of other pictures no better.
SAMPLE_COUNT = 16
CPU_INFO = Path("/proc/cpuinfo")  # of Linux
# An int8 network that names as many pictures right as in float32 has 0.98 or more; at 0.93
# neighbors begin to change.
LOWEST_COSINE = 0.97


class Network(NamedTuple):
    """A Gluon block that makes codes of pictures, and what is known of it."""

    block: gluon.SymbolBlock
    code_size: int
    weights: str  # where they come from, as Markdown
    is_output: bool  # whether the code is the network's own output
    trained: bool


def make_block(symbol, params, image_shape, ctx, source):
    """Make a Gluon block of a symbol and copies of its parameters; return also its code size.

    Copies, because MXNet rearranges the weights of a running network in place: another one that
    shared them would give wrong codes.
    """
    symbol = mx.sym.flatten(symbol)
    shapes, (_, size) = fit_params(symbol, params, image_shape, source)
    block = gluon.SymbolBlock(symbol, mx.sym.var("data", dtype="float32"))
    for name, parameter in block.collect_params().items():
        parameter.shape = shapes[name]
        parameter.initialize(mx.init.Zero(), ctx)
        parameter.set_data(params[name].astype(parameter.dtype))
    return block, size


def load_resnet_152(data_dir, image_shape, ctx, offline=False):
    """Return Gluon's ResNet-152 v2, trained on ImageNet, or at random if that cannot be had.

    It takes RGB of 0 to 255; its code is what its last layer says of ImageNet's 1,000 classes.
    """
    with mx.name.NameManager():  # so that names do not go on counting from the last network's
        gluon_net = vision.resnet152_v2(prefix="")
    pixels = mx.sym.image.normalize(mx.sym.var("data") / 255, GLUON_MEAN_RGB, GLUON_STD_RGB)
    symbol = gluon_net(pixels)
    try:
        (path,) = fetch(["resnet152-v2-7.onnx"], data_dir, offline)
    except UnavailableError as reason:
        warn(
            f"{reason}: using random weights instead; untrained codes group by color and texture "
            "only"
        )
        draw_weights(gluon_net)
        params = {name: each.data() for name, each in gluon_net.collect_params().items()}
        source, trained = f"**Not trained:** a ResNet-152 with random weights ({reason}).", False
    else:
        params = read_resnet_152(path, symbol)
        source = f"ResNet-152 (Gluon's `resnet152_v2`), trained on ImageNet, from `{path}`."
        trained = True
    block, code_size = make_block(symbol, params, image_shape, ctx, source)
    return Network(block, code_size, source, is_output=True, trained=trained)


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
    expected, _ = infer_params(symbol, (3, 224, 224))
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
    # An emulator shows the flags of the processor that it runs on.
    if platform.machine() != "x86_64" or not CPU_INFO.exists():
        return False
    flags = re.search(r"^flags\s*:(.*)", CPU_INFO.read_text(), re.MULTILINE)
    return flags is not None and "avx512_vnni" in flags[1].split()


def encode(block, images, ctx):
    """Return codes, (n, D) float32, of (n, 3, H, W) uint8 pictures, all in one batch."""
    try:
        return block(nd.array(images, ctx, dtype="float32")).asnumpy()
    except mx.MXNetError as error:
        if "bad_alloc" in str(error) or "memory" in str(error).lower():
            raise MemoryError from error
        reason = str(error).strip().splitlines()[-1]
        raise ScriptError(f"MXNet cannot run this network: {reason}") from error


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


def warn_if_stuck(net, classes, loss, epoch):
    """Warn if an epoch ended with a loss no better than guessing; return whether it did."""
    if loss < 0.99 * np.log(classes):  # one percent less than that of guessing
        return False
    gradients = [parameter.grad() for parameter in net.collect_params().values()]
    zero = sum(not gradient.asnumpy().any() for gradient in gradients)
    warn(
        f"epoch {epoch} ends with a loss of {loss:.3f}, no better than guessing, and {zero} of "
        f"{len(gradients)} gradients are all zero: try another --lr"
    )
    return True


def choose_dtype(block, dtype, batches, image_shape, ctx):
    """Make a network ready to run: in int8 where that is asked for, or fast and good enough here.

    `batches` yields a sample of pictures, (n, C, H, W) uint8, and their labels; it is read only if
    int8 is tried. Returns the block, "int8" or "float32", and the mean cosine of the int8 codes
    with those of float32, or None.
    """
    on_cpu = ctx.device_type == "cpu"
    if dtype == "int8" and not on_cpu:
        raise ScriptError("argument --dtype: MXNet computes in int8 on a CPU only", status=2)
    if dtype == "int8" or (dtype == "auto" and on_cpu and has_vnni()):
        sample = [images for images, _ in batches if len(images)]
        if not sample:
            raise ScriptError("none of the first pictures can be read: choose others")
        int8_block, cosine = _try_int8(block, np.concatenate(sample), dtype)
        # Not the other way round: codes that are NaN have no cosine.
        good = int8_block and cosine >= LOWEST_COSINE
        if int8_block and not good:
            advice = "--dtype float32 is better" if dtype == "int8" else "using float32"
            warn(f"int8 is not good enough for this network: {advice}")
        if dtype == "int8" or good:
            return int8_block, "int8", cosine
    if on_cpu:
        example = nd.zeros((1, *image_shape), ctx)  # fuses layers; any batch size works later
        block.optimize_for(example, backend="MKLDNN", static_alloc=True, static_shape=True)
    block.hybridize(static_alloc=True, static_shape=True)
    return block, "float32", None


def _try_int8(block, sample, dtype):
    """Quantize a network; return it, or None if MXNet cannot, and its mean cosine with float32."""
    try:
        int8_block, expected = quantize(block, sample)
        # Not by encode(), whose error would end the script.
        codes = int8_block(nd.array(sample, dtype="float32")).asnumpy()
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        if dtype == "int8":
            raise ScriptError(
                f"MXNet cannot compute this network in int8 ({reason}): try --dtype float32"
            ) from error
        warn(f"no int8 for this network ({reason}): using float32")
        return None, None
    cosine = mean_cosine(codes, expected)
    print(f"int8: the mean cosine of its codes with those of float32 is {cosine:.4f}")
    return int8_block, cosine


def quantize(block, images):
    """Return a network in int8, and the codes in float32 of the (n, C, H, W) uint8 pictures.

    One pass over the pictures gives both the codes and the ranges of the layers.
    """
    symbol = block(mx.sym.var("data"))
    # Copies, because MXNet rearranges weights in place.
    params = {name: each.data().copy() for name, each in block.collect_params().items()}
    symbol, params = rewrite_batch_norms(symbol, params, images.shape[1:])
    args, states = (
        {name: params[name] for name in names if name != "data"}
        for names in (symbol.list_arguments(), symbol.list_auxiliary_states())
    )
    fused = symbol.get_backend_symbol("MKLDNN_QUANTIZE")
    int8_symbol, _, _, collector = quantization.quantize_graph(
        fused, args, states, quantized_dtype="auto", calib_mode="naive"
    )
    codes, collector.min_max_dict = _observe(fused, params, images, collector.include_layer)
    check_finite(codes)
    int8_symbol, int8_args, states = quantization.calib_graph(
        int8_symbol, args, states, collector, calib_mode="naive"
    )
    int8_symbol = int8_symbol.get_backend_symbol("MKLDNN_QUANTIZE")
    arrays = {**int8_args, **states}
    int8_block = gluon.SymbolBlock(int8_symbol, mx.sym.var("data", dtype="float32"))
    for name, parameter in int8_block.collect_params().items():
        array = arrays[name]
        parameter.shape, parameter.dtype = array.shape, array.dtype
        parameter.initialize(mx.init.Zero())
        parameter.set_data(array)
    int8_block.hybridize(static_alloc=True, static_shape=True)
    return int8_block, codes


def _observe(symbol, params, images, layers):
    """Run pictures through a network; return their codes, and the range of each of some layers."""
    ranges, errors = {}, []

    def collect(name, handle):
        try:
            name = mx.base.py_str(name)
            if name in layers:
                values = nd.NDArray(ctypes.cast(handle, mx.base.NDArrayHandle), False).asnumpy()
                ranges[name] = values.min(), values.max()
        except Exception as error:  # MXNet, which calls this, would drop it
            errors.append(error)

    executor = symbol.simple_bind(mx.cpu(), grad_req="null", data=images.shape)
    executor.copy_params_from(params, params, allow_extra_params=True)
    executor.set_monitor_callback(collect, monitor_all=True)
    (codes,) = executor.forward(is_train=False, data=nd.array(images, dtype="float32"))
    codes = codes.asnumpy()
    for error in errors:
        raise error
    return codes, ranges


def mean_cosine(codes, others):
    """Return how alike two sets of codes of the same pictures are, -1 to 1.

    It is the mean cosine of a picture's two codes, each less the mean of its set if there are
    several: what all codes have in common says nothing about a picture.
    """
    if len(codes) > 1:
        codes, others = (array - array.mean(axis=0) for array in (codes, others))
    lengths = np.linalg.norm(codes, axis=1) * np.linalg.norm(others, axis=1)
    return float(((codes * others).sum(axis=1) / np.where(lengths > 0, lengths, 1)).mean())
