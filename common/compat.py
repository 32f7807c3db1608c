"""Makes MXNet 1.9.1 and MXBoard 0.1.0 import, and run at full speed, on Python 3.9 to 3.12.

Importing this module before mxnet is all there is to do. It changes the process in five ways, each
because of something that MXNet or MXBoard takes for granted and that is no longer so:

- environment variables that MXNet reads once, when it is loaded, are set where the user left them;
- Linux is asked for the registers of AMX, where there are any;
- the aliases that NumPy 1.24 removed are put back;
- TensorBoard's protocol buffer classes take the place of MXBoard's, which need protobuf < 4;
- the warnings that only the authors of MXNet and MXBoard could act on are not shown.
"""

import ctypes
import importlib
import os
import platform
import re
import shlex
import sys
import warnings
from pathlib import Path

OLDEST_PYTHON, NEWEST_PYTHON = (3, 9), (3, 12)
AMX = "AVX512_CORE_AMX"  # as oneDNN calls it
PROTOS = (
    *("attr_value", "event", "graph", "node_def", "resource_handle", "summary"),
    *("tensor", "tensor_shape", "types", "versions"),
)


def _check_python():
    if OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
        return
    oldest, newest, current = (
        ".".join(map(str, version))
        for version in (OLDEST_PYTHON, NEWEST_PYTHON, sys.version_info[:2])
    )
    sys.exit(
        f"MXNet 1.9.1 runs on Python {oldest} to {newest}, and this is {current}; to get one that "
        f"works: uv run --python {newest} --with-requirements requirements.txt "
        + shlex.join(sys.argv)
    )


def _available_cores():
    """Count the cores this process may run on; macOS cannot bind a process to some of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _processor_flags():
    """Return the names of what the processor can do, where Linux lists them."""
    try:
        listed = re.search(r"^flags\s*:(.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return set()
    return set(listed[1].split()) if listed else set()


def _allow_amx():
    """Have oneDNN use AMX; without Linux' leave it would die of an illegal instruction [1].

    [1] https://docs.kernel.org/arch/x86/xstate.html
    """
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    granted = (
        platform.machine() == "x86_64"
        and "amx_tile" in PROCESSOR_FLAGS
        and ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0
    )
    if granted:
        os.environ.setdefault("DNNL_MAX_CPU_ISA", AMX)
    elif os.environ.get("DNNL_MAX_CPU_ISA") == AMX:
        del os.environ["DNNL_MAX_CPU_ISA"]
    return os.environ.get("DNNL_MAX_CPU_ISA") == AMX


def _set_environment():
    # On an Intel processor MXNet would use half of these.
    os.environ.setdefault("OMP_NUM_THREADS", str(AVAILABLE_CORES))
    # Threads that spin while they wait take the core from the one they wait for as soon as
    # another program wants it too: steps then take a hundred times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")


def _restore_numpy_aliases():
    import numpy as np

    for name, alias in {"bool": bool, "object": object, "int": int, "float": float}.items():
        # Through vars(), because asking NumPy itself for a name it removed warns.
        vars(np).setdefault(name, alias)


def _lend_tensorboard_protos():
    for name in PROTOS:
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


AVAILABLE_CORES = _available_cores()
PROCESSOR_FLAGS = _processor_flags()

_check_python()
_set_environment()
HAS_VNNI = "avx512_vnni" in PROCESSOR_FLAGS
HAS_AMX = _allow_amx()
try:
    _restore_numpy_aliases()
    _lend_tensorboard_protos()
    _import_quietly("mxnet", "mxboard")
except ModuleNotFoundError as error:
    sys.exit(f"{error.name} is not installed: pip install -r requirements.txt")
except OSError as error:
    # The wheel brings its libraries but for the compiler's own, which a slim image may lack.
    sys.exit(
        f"MXNet cannot be loaded ({error}): install the library it names with the system's package "
        "manager (on Debian and Ubuntu: apt-get install libgomp1 libquadmath0)"
    )
except KeyboardInterrupt:
    sys.exit(130)
