"""Names that old programs use, and that NumPy and Python have removed since."""

import collections.abc
import functools
import inspect
import math
import time
import types

import numpy as np

ArgSpec = collections.namedtuple("ArgSpec", "args varargs keywords defaults")


class _Cast:
    def __getitem__(self, dtype):
        return lambda values: np.asarray(values).astype(dtype)


def _financial(*args, **kwargs):
    raise NotImplementedError("NumPy's financial functions are in the package numpy-financial")


def restore_in_numpy():
    """Give NumPy back the names that NumPy 1.20 to 2.5 removed."""
    names = {
        **{"bool": bool, "int": int, "long": int, "float": float, "complex": complex},
        **{"object": object, "str": str, "unicode": str, "unicode_": np.str_},
        **{"bool8": np.bool_, "float_": np.float64, "complex_": np.complex128},
        **{"string_": np.bytes_, "PZERO": 0.0, "NZERO": -0.0, "PINF": math.inf, "NINF": -math.inf},
        **dict.fromkeys(("Inf", "Infinity", "infty"), math.inf),
        **dict.fromkeys(("NaN", "NAN"), math.nan),
        **{"product": np.prod, "cumproduct": np.cumprod, "alltrue": np.all, "sometrue": np.any},
        **{"round_": np.round, "row_stack": np.vstack, "in1d": np.isin, "mat": np.asmatrix},
        "msort": functools.partial(np.sort, axis=0),
        "trapz": getattr(np, "trapezoid", None),  # NumPy 1 has no trapezoid
        "asscalar": lambda a: np.asarray(a).item(),
        "asfarray": lambda a, dtype=np.float64: np.asarray(a, dtype),
        "cast": _Cast(),
        "AxisError": np.exceptions.AxisError,
        "ComplexWarning": np.exceptions.ComplexWarning,
        "VisibleDeprecationWarning": np.exceptions.VisibleDeprecationWarning,
        "compat": types.SimpleNamespace(basestring=str),
        # MXNet lists these and never calls them.
        **dict.fromkeys(("mirr", "npv", "pmt", "ppmt", "pv", "rate"), _financial),
    }
    # Through vars(), because asking NumPy itself for a name it removed warns or raises.
    _add(np, names)
    _add(np.lib, {"pad": np.pad})
    np.fromstring = _read_bytes(np.fromstring)


def restore_in_python():
    """Give Python back the names that Python 3.8 to 3.11 removed, for the whole process."""

    def getargspec(function):
        return ArgSpec(*inspect.getfullargspec(function)[:4])

    _add(collections, {name: getattr(collections.abc, name) for name in collections.abc.__all__})
    _add(inspect, {"getargspec": getargspec})
    _add(time, {"clock": time.process_time})


def _add(module, names):
    for name, value in names.items():
        vars(module).setdefault(name, value)


def _read_bytes(read_text):
    """Let `numpy.fromstring` read bytes again, as loaders of MNIST do."""

    @functools.wraps(read_text)
    def fromstring(string, dtype=float, count=-1, *, sep="", **options):
        if sep:
            return read_text(string, dtype, count, sep=sep, **options)
        content = string.encode() if isinstance(string, str) else string
        return np.frombuffer(content, dtype, count, **options).copy()

    return fromstring
