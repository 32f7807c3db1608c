"""What the four scripts share. Importing it readies the process, before MXNet is imported."""

import os
import signal
import sys
import threading
from pathlib import Path

from . import cluster


def _end(message):
    sys.exit(f"{Path(sys.argv[0]).name}: error: {message}")


# Streams that a shell has closed (>&-) go nowhere, or the log would be opened in their place.
for _name, _mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
    if getattr(sys, _name) is None:
        setattr(sys, _name, open(os.devnull, _mode))  # noqa: SIM115 (stays open)

# The scripts name the pictures that OpenCV cannot read.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")

# The import is all that MXNet's scheduler and servers do.
_role = os.environ.get("DMLC_ROLE", "worker")
_problem = cluster.find_problem() if _role != "worker" else None
if _problem:
    _end(_problem)

# An import that Ctrl-C breaks off may end in any error, so it ends the program meanwhile. MXNet's
# scheduler and servers never leave the import, and no handler of Python's would run there.
_handler = signal.getsignal(signal.SIGINT)
_in_main_thread = threading.current_thread() is threading.main_thread()
if _in_main_thread and _handler == signal.default_int_handler:
    signal.signal(
        signal.SIGINT,
        (lambda number, _: os._exit(128 + number)) if _role == "worker" else signal.SIG_DFL,
    )
try:
    import mxcompat  # noqa: F401 (makes MXNet run, which the modules here import)
except ImportError as error:
    if error.name:  # a module or a name that should be there: a bug
        raise
    _end(error)
except RuntimeError as error:  # MXNetError, which is about the cluster only in a server
    if _role == "worker":
        raise
    _end(
        f"MXNet's {_role} cannot start ({str(error).split(': ')[-1].strip()})"
        ": is DMLC_PS_ROOT_URI this machine's, and DMLC_PS_ROOT_PORT free?"
    )
finally:
    if _in_main_thread:
        signal.signal(signal.SIGINT, _handler)
