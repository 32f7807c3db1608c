"""Makes MXNet 1.9.1 and MXBoard 0.1.0 import, and run at full speed, on Python 3.9 to 3.15.

Import this before mxnet. Each step mends something that MXNet or MXBoard takes for granted and that
is no longer so:

- environment variables that MXNet and OpenCV read when they are loaded get better defaults;
- NumPy gets back the names that NumPy 1.20 to 2.5 removed and MXNet still asks for;
- TensorBoard's protocol buffer classes replace MXBoard's own, which need protobuf < 4;
- warnings that only the authors of MXNet and MXBoard could act on are hidden.
"""

import functools
import importlib
import math
import os
import platform
import re
import sys
import warnings
from pathlib import Path

OLDEST_PYTHON, NEWEST_PYTHON = (3, 9), (3, 15)
PLATFORMS = {("Linux", "x86_64"), ("Darwin", "x86_64")}  # that MXNet 1.9.1 has working wheels for
# Debian's packages of the libraries that MXNet's wheel expects to find on the system.
LIBRARY_PACKAGES = {"libgomp": "libgomp1", "libquadmath": "libquadmath0"}
MXBOARD_PROTOS = (
    *("attr_value", "event", "graph", "node_def", "resource_handle", "summary"),
    *("tensor", "tensor_shape", "types", "versions"),
)
# Variables that every process of a distributed training needs, and the pattern of their values.
CLUSTER_VARIABLES = {
    "DMLC_ROLE": "scheduler|server|worker",
    "DMLC_PS_ROOT_URI": ".+",
    **dict.fromkeys(("DMLC_PS_ROOT_PORT", "DMLC_NUM_SERVER", "DMLC_NUM_WORKER"), "[1-9][0-9]*"),
}


class CannotRunError(ImportError):
    """MXNet cannot be imported here; the message says why, and what to do, in one line."""


def _show_in_one_line(error_type, error, traceback, show=sys.excepthook):
    """Print a `CannotRunError` that nobody caught without its traceback."""
    if isinstance(error, CannotRunError):
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
    else:
        show(error_type, error, traceback)


def _open_closed_streams():
    """Let what a shell has closed (``>&-``) go nowhere, or the log would be opened in its place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (stays open)


def _check_python():
    current = tuple(map(int, platform.python_version_tuple()[:2]))
    if OLDEST_PYTHON <= current <= NEWEST_PYTHON:
        return
    oldest, newest, current_name = (
        ".".join(map(str, version)) for version in (OLDEST_PYTHON, NEWEST_PYTHON, current)
    )
    tested = f"this is Python {current_name}, and MXNet 1.9.1 was tested on {oldest} to {newest}"
    if current < OLDEST_PYTHON:
        raise CannotRunError(f"{tested}: make the virtual environment with one of those")
    print(f"{tested}: going on, it may well work", file=sys.stderr)


def check_cluster():
    """Name the variable that is missing or wrong: MXNet would crash, or wait for ever."""
    for name, pattern in CLUSTER_VARIABLES.items():
        value = os.environ.get(name)
        if not re.fullmatch(pattern, value or ""):
            raise CannotRunError(
                f"the environment variable {name} is {value or 'not set'}: "
                "the README, Several machines, says what it must be"
            )


def _available_cores():
    """Count the cores this process may run on; macOS cannot bind a process to some of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _has_vnni():
    """Tell whether the processor multiplies int8 quickly, where Linux says so."""
    try:
        flags = re.search(r"^flags\s*:(.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return False
    return flags is not None and "avx512_vnni" in flags[1].split()


def _set_environment():
    # On an Intel processor MXNet would use half of these.
    os.environ.setdefault("OMP_NUM_THREADS", str(AVAILABLE_CORES))
    # Threads that spin while they wait hold on to a core that another program wants: steps then
    # take a hundred times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")
    # The scripts name the pictures that OpenCV cannot read.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    for name in ("DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA"):
        if "AMX" in os.environ.get(name, "").upper():
            print(f"{name} is ignored: MXNet's AMX code corrupts memory", file=sys.stderr)
            del os.environ[name]


def _restore_numpy_names():
    import numpy as np

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


def _lend_tensorboard_protos():
    for name in MXBOARD_PROTOS:
        proto = importlib.import_module(f"tensorboard.compat.proto.{name}_pb2")
        sys.modules[f"mxboard.proto.{name}_pb2"] = proto
    sys.modules["mxboard.proto.plugin_pr_curve_pb2"] = importlib.import_module(
        "tensorboard.plugins.pr_curve.plugin_data_pb2"
    )


def _import_quietly(*packages):
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, SyntaxWarning):
            warnings.simplefilter("ignore", category)
        for package in packages:
            importlib.import_module(package)


def _explain(error):
    """Say in one line why an import failed, and what to do."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) == ("Linux", "aarch64"):
        return (
            "MXNet's wheel for aarch64 needs a library of Arm's that it does not bring "
            f"({error}): use Linux on x86-64"
        )
    if (system, machine) not in PLATFORMS:
        return (
            "MXNet 1.9.1 runs on Linux on x86-64 and on macOS on Intel, and this is "
            f"{system} on {machine} ({error})"
        )
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed: pip install --no-deps -r requirements.txt"
    for library, package in LIBRARY_PACKAGES.items():
        if str(error).startswith(library):
            return f"MXNet needs {library}: install it (Debian, Ubuntu: apt-get install {package})"
    return f"MXNet cannot be loaded ({error}): install the library that is named here"


AVAILABLE_CORES = _available_cores()
HAS_VNNI = _has_vnni()

sys.excepthook = _show_in_one_line
_open_closed_streams()
_check_python()
_set_environment()
_role = os.environ.get("DMLC_ROLE", "worker")
if _role != "worker":
    check_cluster()  # The import is all that MXNet's scheduler and servers do.
try:
    _restore_numpy_names()
    _lend_tensorboard_protos()
    _import_quietly("mxnet", "mxboard")
except (ModuleNotFoundError, OSError) as error:
    raise CannotRunError(_explain(error)) from error
except RuntimeError as error:  # MXNetError, which is about the cluster only in a server
    if _role == "worker":
        raise
    raise CannotRunError(
        f"MXNet's {_role} cannot start ({str(error).split(': ')[-1].strip()})"
        ": is DMLC_PS_ROOT_URI this machine's, and DMLC_PS_ROOT_PORT free?"
    ) from error
