"""What is put back into, or mended in, Python, NumPy, onnx, MXNet and MXBoard.

Each function mends one thing that MXNet 1.9.1 or MXBoard 0.1.0 takes for granted and that is no
longer so.
"""

import contextlib
import functools
import importlib
import importlib.util
import math
import multiprocessing
import os
import re
import struct
import sys
import types
import warnings
from numbers import Number
from unittest import mock

import numpy as np

MXBOARD_PROTOS = (
    *("attr_value", "event", "graph", "node_def", "resource_handle", "summary"),
    *("tensor", "tensor_shape", "types", "versions"),
)
# Where MXNet hands arguments to C++ as text.
MODULES_THAT_WRITE_TEXT = (
    *("mxnet._ctypes.ndarray", "mxnet._ctypes.symbol", "mxnet.symbol.symbol", "mxnet.io.io"),
)
# Environment variables that MXNet and OpenCV abort on if they hold anything but a number.
NUMBERS = re.compile(r"OMP_NUM_THREADS|MXNET_\w+_NTHREADS|OPENCV_IO_MAX_IMAGE_\w+")
ONNX_OPERATOR_SET = 13  # the newest that MXNet exports
IS_NUMPY_2 = np.lib.NumpyVersion(np.__version__) >= "2.0.0"


def prepare():
    """Mend what must be right before MXNet is imported."""
    _set_environment()
    _restore_numpy_names()
    _restore_binary_fromstring()
    _lend_tensorboard_protos()


def mend():
    """Mend MXNet itself, once it is imported."""
    _write_plain_numbers()
    _convert_to_numpy()
    if IS_NUMPY_2:
        _widen_scalars()
    _pack_records()
    _fork_data_loaders()
    if "onnx" in sys.modules:
        _lend_onnx_mapping()
        _export_one_operator_set()


def available_cores():
    """Count the cores that this process may run on.

    Returns
    -------
    int
        At least 1. Where a process cannot be bound to cores, as on macOS, all of the machine's.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _set_environment():
    # On an Intel processor MXNet would use half of these. OpenMP also takes a number per level.
    threads = os.environ.get("OMP_NUM_THREADS") or str(available_cores())
    os.environ["OMP_NUM_THREADS"] = threads.split(",")[0].strip()
    for name, value in os.environ.items():
        if NUMBERS.fullmatch(name) and value and not value.isdecimal():
            raise ImportError(f"the environment variable {name} is {value!r}, and no whole number")
    # Threads that spin while they wait hold on to a core that another program wants: steps then
    # take a hundred times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA"):
        if "AMX" in os.environ.get(name, "").upper():
            del os.environ[name]
            warnings.warn(f"{name} is ignored: MXNet's AMX code corrupts memory", stacklevel=4)


def _restore_numpy_names():
    """Give NumPy back the names that NumPy 1.20 to 2.5 removed."""

    def removed(*args, **kwargs):
        raise NotImplementedError("NumPy's financial functions are in the package numpy-financial")

    names = {
        **{"bool": bool, "object": object, "int": int, "float": float},
        **{"float_": np.float64, "unicode_": np.str_, "mat": np.asmatrix},
        **{"PZERO": 0.0, "NZERO": -0.0, "PINF": math.inf, "NINF": -math.inf},
        **dict.fromkeys(("Inf", "Infinity", "infty"), math.inf),
        **dict.fromkeys(("NaN", "NAN"), math.nan),
        **{"product": np.prod, "cumproduct": np.cumprod, "alltrue": np.all, "sometrue": np.any},
        **{"round_": np.round, "row_stack": np.vstack, "in1d": np.isin},
        "msort": functools.partial(np.sort, axis=0),
        # NumPy 1 has no trapezoid.
        "trapz": getattr(np, "trapezoid", None),
        # MXNet lists these and never calls them.
        **dict.fromkeys(("mirr", "npv", "pmt", "ppmt", "pv", "rate"), removed),
    }
    for name, value in names.items():
        # Through vars(), because asking NumPy itself for a name it removed warns or raises.
        vars(np).setdefault(name, value)


def _restore_binary_fromstring():
    """Let `numpy.fromstring` read bytes again, as loaders of MNIST do."""
    read_text = np.fromstring

    @functools.wraps(read_text)
    def fromstring(string, dtype=float, count=-1, *, sep="", **options):
        if sep:
            return read_text(string, dtype, count, sep=sep, **options)
        return np.frombuffer(string, dtype, count, **options).copy()

    np.fromstring = fromstring


def _lend_tensorboard_protos():
    """Let TensorBoard's protocol buffers stand for MXBoard's own, which need protobuf < 4."""
    for name in MXBOARD_PROTOS:
        proto = importlib.import_module(f"tensorboard.compat.proto.{name}_pb2")
        sys.modules[f"mxboard.proto.{name}_pb2"] = proto
    sys.modules["mxboard.proto.plugin_pr_curve_pb2"] = importlib.import_module(
        "tensorboard.plugins.pr_curve.plugin_data_pb2"
    )


class _IsString(type):
    def __instancecheck__(cls, value):
        return isinstance(value, str)


class _PlainText(str, metaclass=_IsString):
    """Stands for `str`, and writes NumPy's numbers in tuples and lists as NumPy 1 does."""

    def __new__(cls, value=""):
        return str(_to_python(value))


def _to_python(value):
    if type(value) in (tuple, list):
        return type(value)(map(_to_python, value))
    if isinstance(value, np.floating):
        return float(str(value))  # item() would turn float32's 0.1 into 0.10000000149011612
    return value.item() if isinstance(value, np.generic) else value


def _write_plain_numbers():
    """Mend shapes and sizes that come from NumPy 2, which writes them as ``(np.int64(3), ...)``."""
    for name in MODULES_THAT_WRITE_TEXT:
        vars(importlib.import_module(name))["str"] = _PlainText


def _convert_to_numpy():
    """Let NumPy, `float` and `int` take an NDArray, which NumPy walked through item by item."""
    from mxnet.ndarray import NDArray

    def to_array(self, dtype=None, copy=None):
        if copy is False:
            raise ValueError("an NDArray has no NumPy view: convert it with a copy")
        array = self.asnumpy()
        return array if dtype is None else array.astype(dtype, copy=False)

    def mean(self, *args, dtype=None, average=NDArray.mean, **options):
        # np.mean hands on its dtype.
        return average(self if dtype is None else self.astype(dtype), *args, **options)

    NDArray.__array__ = to_array
    NDArray.__float__ = lambda self: float(self.asnumpy().item())
    NDArray.__int__ = lambda self: int(self.asnumpy().item())
    NDArray.mean = mean


def _widen(number):
    """Return a NumPy number with 64 bits; other values, and 64-bit ones, as they are."""
    if not isinstance(number, np.number) or number.dtype.itemsize >= 8:
        return number
    return (np.float64 if isinstance(number, np.floating) else np.int64)(number)


def _widen_scalars():
    """Give the numbers that MXNet hands out 64 bits, as NumPy 1 gave every sum of them.

    NumPy 2 adds float32 and uint8 as such: counting up from 2^24 stays there, and 200 + 100 is 44.
    """
    from mxnet.metric import EvalMetric
    from mxnet.ndarray import NDArray

    asscalar = NDArray.asscalar
    # Of a (1, 1) array MXNet returns an array, of which NumPy 2 makes no number.
    NDArray.asscalar = functools.wraps(asscalar)(lambda self: _widen(np.ravel(asscalar(self))[0]))
    for name in ("sum_metric", "global_sum_metric"):
        setattr(EvalMetric, name, _wide_attribute(name))


def _wide_attribute(name):
    def get(self):
        return vars(self)[name]

    def set_widened(self, value):
        vars(self)[name] = _widen(value)

    return property(get, set_widened)


def _pack_records():
    """Mend `recordio.pack` with several labels and `pack_img`, which call ``tostring``."""
    from mxnet import recordio

    pack_one_label = recordio.pack

    @functools.wraps(pack_one_label)
    def pack(header, s):
        header = recordio.IRHeader(*header)
        if isinstance(header.label, Number):
            return pack_one_label(header, s)
        labels = np.asarray(header.label, np.float32)
        record = bytearray(pack_one_label(header._replace(label=0), labels.tobytes() + s))
        struct.pack_into("I", record, 0, labels.size)  # the first field counts the labels
        return bytes(record)

    @functools.wraps(recordio.pack_img)
    def pack_img(header, img, quality=95, img_fmt=".jpg"):
        import cv2

        option = {
            ".jpg": cv2.IMWRITE_JPEG_QUALITY,
            ".jpeg": cv2.IMWRITE_JPEG_QUALITY,
            ".png": cv2.IMWRITE_PNG_COMPRESSION,
        }.get(img_fmt.lower())
        _, encoded = cv2.imencode(img_fmt, img, () if option is None else (option, quality))
        return pack(header, encoded.tobytes())

    recordio.pack, recordio.pack_img = pack, pack_img


def _fork_data_loaders():
    """Let a DataLoader's workers be forked, which Python 3.14 no longer does of itself."""
    from mxnet.gluon.data import dataloader

    if sys.platform == "linux":
        fork = multiprocessing.get_context("fork")
        dataloader.multiprocessing = types.SimpleNamespace(
            **{name: getattr(fork, name, value) for name, value in vars(multiprocessing).items()}
        )


def _lend_onnx_mapping():
    """Put back `onnx.mapping`, which MXNet's exporter looks types up in."""
    import onnx

    if importlib.util.find_spec("onnx.mapping"):
        return
    mapping = types.ModuleType("onnx.mapping")
    tensor_types = onnx.helper.get_all_tensor_dtypes()
    mapping.TENSOR_TYPE_TO_NP_TYPE = {
        each: onnx.helper.tensor_dtype_to_np_dtype(each) for each in tensor_types
    }
    mapping.NP_TYPE_TO_TENSOR_TYPE = {
        dtype: onnx.helper.np_dtype_to_tensor_dtype(dtype)
        for dtype in mapping.TENSOR_TYPE_TO_NP_TYPE.values()
    }
    onnx.mapping = sys.modules["onnx.mapping"] = mapping


def _export_one_operator_set():
    """Let `mx.onnx.export_model` name the operator set that it uses, not the newest there is."""
    import mxnet as mx
    import onnx
    from mxnet.onnx.mx2onnx import _export_model

    operator_set = onnx.helper.make_opsetid("", ONNX_OPERATOR_SET)
    checked_as = onnx.checker.C.CheckerContext()
    checked_as.ir_version = onnx.helper.find_min_ir_version_for([operator_set])
    checked_as.opset_imports = {"": ONNX_OPERATOR_SET}
    make_model = functools.partial(
        onnx.helper.make_model, opset_imports=[operator_set], ir_version=checked_as.ir_version
    )
    check_graph = functools.partial(onnx.checker.check_graph, ctx=checked_as)
    export = _export_model.export_model

    @functools.wraps(export)
    def export_model(*args, **kwargs):
        with contextlib.ExitStack() as replaced:
            for module, name, value in (
                (onnx.helper, "make_model", make_model),
                (onnx.checker, "check_graph", check_graph),
                (onnx.defs, "onnx_opset_version", lambda: ONNX_OPERATOR_SET),
            ):
                replaced.enter_context(mock.patch.object(module, name, value))
            return export(*args, **kwargs)

    for module in (_export_model, mx.onnx.mx2onnx, mx.onnx):
        module.export_model = export_model
    mx.contrib.onnx.export_model_ = export_model
