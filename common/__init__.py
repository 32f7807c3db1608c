"""What the four scripts share. Importing it readies the process, before MXNet is imported."""

import os
import signal


def _end(number, frame):
    os._exit(128 + number)


# Before the imports, which take a second: the kernel may end the process, as all logs are on the
# disk. To the first process of a container it delivers no signal that is not handled.
for _number in (signal.SIGINT, signal.SIGTERM):
    if signal.getsignal(_number) != signal.SIG_IGN:  # as in a job that a shell runs behind others
        signal.signal(_number, _end if os.getpid() == 1 else signal.SIG_DFL)

import multiprocessing
import sys

try:
    from . import cluster
    from .errors import fail
except ValueError as error:  # tqdm reads its variables when it is imported
    sys.exit(f"an environment variable TQDM_...: {error}")

# Streams that a shell has closed (>&-) go nowhere, or the log would be opened in their place.
for _name, _mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
    if getattr(sys, _name) is None:
        setattr(sys, _name, open(os.devnull, _mode))  # noqa: SIM115 (stays open)

# No script starts a process, but tqdm and Gluon's thread pool make semaphores. With Python 3.14's
# start method a second process watches those, and complains when a script is stopped.
multiprocessing.set_start_method("fork", force=True)

# The scripts name the pictures that OpenCV cannot read.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")

try:
    with cluster.server_errors():
        import mxcompat  # makes MXNet run, which the modules here import
except ImportError as error:
    if error.name:  # of a module or a name that should be there: a bug
        raise
    fail(error)
