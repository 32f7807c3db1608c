"""Mends MXNet 1.9.1 and MXBoard 0.1.0 for Python 3.9 to 3.15 and NumPy 1 and 2.

Each function mends one thing that they take for granted and that is no longer so.
"""

import functools
import importlib
import json
import multiprocessing
import operator
import os
import sys
import types
import warnings
from numbers import Number

import numpy as np

from . import old_names

MXBOARD_PROTOS = (
    "attr_value event graph node_def resource_handle summary tensor tensor_shape types versions"
)
# MXNet's modules that hand arguments to C++ as text, or save them as JSON.
MODULES_THAT_WRITE_TEXT = ("_ctypes.ndarray", "_ctypes.symbol", "symbol.symbol", "io.io")
MODULES_THAT_WRITE_JSON = ("initializer", "image.image", "image.detection")
ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")


def prepare():
    """Mend what must be right before MXNet is imported."""
    _set_environment()
    if sys.version_info >= (3, 12):
        import setuptools  # noqa: F401 - brings distutils, even where no .pth file is read
    old_names.restore_in_numpy()
    _lend_tensorboard_protos()


def mend():
    """Mend MXNet itself, once it is imported."""
    from . import old_downloads

    _write_plain_numbers()
    _convert_to_numpy()
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        np.set_printoptions(legacy="1.25")  # 0.98 in a tuple, and not np.float64(0.98)
        _lend_numpy_1()
        _promote_scalars()
        _sum_metrics_in_float64()
    _pack_records()
    _fork_data_loaders()
    _unpack_thresholds()
    _take_scipys_rows()
    old_downloads.mend()
    if "onnx" in sys.modules:  # which MXNet imports if it is installed
        from . import onnx_graph

        onnx_graph.mend()


def _set_environment():
    # On an Intel processor MXNet would use half of the cores that this process may run on.
    can_bind = hasattr(os, "sched_getaffinity")  # not on macOS
    cores = len(os.sched_getaffinity(0)) if can_bind else os.cpu_count()
    # OpenMP also takes a number per level: the first one counts.
    threads = os.environ.get("OMP_NUM_THREADS") or str(cores)
    os.environ["OMP_NUM_THREADS"] = threads.split(",")[0].strip()
    # Threads that spin while they wait hold on to a core that another program wants: steps then
    # take a hundred times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA"):
        if "AMX" in os.environ.get(name, "").upper():
            del os.environ[name]
            warnings.warn(f"{name} is ignored: MXNet's AMX code corrupts memory", stacklevel=4)


def _lend_tensorboard_protos():
    """Let TensorBoard's protocol buffers stand for MXBoard's own, which need protobuf < 4."""
    for name in MXBOARD_PROTOS.split():
        proto = importlib.import_module(f"tensorboard.compat.proto.{name}_pb2")
        sys.modules[f"mxboard.proto.{name}_pb2"] = proto
    sys.modules["mxboard.proto.plugin_pr_curve_pb2"] = importlib.import_module(
        "tensorboard.plugins.pr_curve.plugin_data_pb2"
    )


def _with(module, **changes):
    """Return a copy of a module, for one of MXNet's, in which some names mean something else."""
    copy = types.ModuleType(module.__name__)
    vars(copy).update(vars(module), **changes)
    return copy


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
    # NumPy's own option to print as NumPy 1 would not reach other threads.
    for name in MODULES_THAT_WRITE_TEXT:
        vars(importlib.import_module(f"mxnet.{name}"))["str"] = _PlainText
    dumps = functools.partial(json.dumps, default=operator.methodcaller("item"))
    for name in MODULES_THAT_WRITE_JSON:
        importlib.import_module(f"mxnet.{name}").json = _with(json, dumps=dumps)


def _convert_to_numpy():
    """Let NumPy, `float` and `int` take an NDArray, which NumPy walked through item by item."""
    from mxnet.ndarray import NDArray

    def mean(self, *args, dtype=None, average=NDArray.mean, **options):
        # np.mean hands on its dtype.
        return average(self if dtype is None else self.astype(dtype), *args, **options)

    # NumPy itself converts to a dtype. copy=False has always meant "if needed", and here it is.
    NDArray.__array__ = lambda self, dtype=None, copy=None: self.asnumpy()
    NDArray.__float__ = lambda self: float(self.asnumpy().item())
    NDArray.__int__ = lambda self: int(self.asnumpy().item())
    NDArray.mean = mean


def _lend_numpy_1():
    """Let MXNet make arrays and types as with NumPy 1, which took more for one."""
    import mxnet as mx

    def array(values, *args, dtype=None, **options):
        try:
            return np.array(values, *args, dtype=dtype, **options)
        except OverflowError:  # numbers that do not fit wrap around
            return np.array(values, *args, **options).astype(dtype)

    def dtype(value):
        return np.dtype(value.dtype if isinstance(value, mx.nd.NDArray) else value)

    numpy = _with(np, array=array, dtype=dtype)
    mx.nd.ndarray.np = mx.nd.sparse.np = mx.np.multiarray._np = numpy
    mx.nd.register._np = mx.sym.register._np = numpy

    start = mx.rnn.BucketSentenceIter.__init__

    @functools.wraps(start)
    def wrap_label(self, sentences, batch_size, buckets=None, invalid_label=-1, *names, **options):
        label = np.array(invalid_label).astype(options.get("dtype", "float32"))
        start(self, sentences, batch_size, buckets, label, *names, **options)

    mx.rnn.BucketSentenceIter.__init__ = wrap_label


def _promote_scalars():
    """Give the numbers that `asscalar` hands out the arithmetic of NumPy 1.

    With Python's numbers they widen. NumPy 2 keeps float32 and uint8: counting up from 2^24 stays
    there, and 200 + 100 is 44.
    """
    from mxnet.ndarray import NDArray

    asscalar = NDArray.asscalar
    # Of a (1, 1) array MXNet returns an array, of which NumPy 2 makes no number.
    NDArray.asscalar = functools.wraps(asscalar)(lambda self: _promote(np.ravel(asscalar(self))[0]))


def _promote(value):
    """Let a number of less than 64 bits promote as in NumPy 1; other values stay as they are."""
    if isinstance(value, np.number) and value.dtype.itemsize < 8:
        return _promoting_type(value.dtype.type)(value)
    return value


@functools.cache
def _promoting_type(base):
    """Derive a type from one of NumPy's to which a Python number is a float64 or an int64."""

    def method(operate):
        return lambda *values: _promote(operate(*map(_to_numpy, values)))

    def reflected(operate):
        return lambda self, other: _promote(operate(_to_numpy(other), _to_numpy(self)))

    methods = {
        f"__{name}__": method(getattr(operator, name)) for name in ARITHMETIC + ("neg", "abs")
    }
    for name in ARITHMETIC:
        methods[f"__r{name}__"] = reflected(getattr(operator, name))
    return type(base.__name__, (base,), methods)


def _to_numpy(value):
    return np.asarray(value)[()] if isinstance(value, Number) else value


def _sum_metrics_in_float64():
    """Let metrics add up in float64, as in NumPy 1: in NumPy 2 0.0 + float32 is a float32."""
    from mxnet.metric import EvalMetric

    def set_widened(self, name, value):
        is_narrow = isinstance(value, np.floating)
        object.__setattr__(self, name, np.float64(value) if is_narrow else value)

    EvalMetric.__setattr__ = set_widened


class _Bytes(np.ndarray):
    """An array with ``tostring``."""

    tostring = np.ndarray.tobytes


def _pack_records():
    """Mend `recordio.pack` with several labels and `pack_img`, which call ``tostring``."""
    import cv2
    from mxnet import recordio

    def asarray(*args, **options):
        return np.asarray(*args, **options).view(_Bytes)

    def imencode(suffix, picture, options):
        is_encoded, content = cv2.imencode(suffix, picture, options or ())
        return is_encoded, content.view(_Bytes)

    recordio.np, recordio.cv2 = _with(np, asarray=asarray), _with(cv2, imencode=imencode)


def _fork_data_loaders():
    """Let a DataLoader's workers be forked, which Python 3.14 no longer does of itself."""
    from mxnet.gluon.data import dataloader

    if sys.platform == "linux":
        fork = multiprocessing.get_context("fork")
        dataloader.multiprocessing = _with(multiprocessing, Pool=fork.Pool, Process=fork.Process)


def _unpack_thresholds():
    """Let int8 be calibrated by entropy, which finds arrays of one number."""
    from mxnet.contrib import quantization

    find = quantization._get_optimal_threshold
    quantization._get_optimal_threshold = lambda *args, **options: [
        np.ravel(each)[0] for each in find(*args, **options)
    ]


def _take_scipys_rows():
    """Let ``mx.nd.sparse.array`` find SciPy's matrices without ``scipy.sparse.csr``."""
    import mxnet as mx

    if mx.nd.sparse.spsp:
        scipy = mx.nd.sparse.spsp
        kinds = scipy.csr_matrix, getattr(scipy, "csr_array", scipy.csr_matrix)
        csr = types.SimpleNamespace(csr_matrix=kinds)
        mx.nd.sparse.spsp = mx.nd.utils.spsp = _with(scipy, csr=csr)
