"""What the scripts share. Import it before mxnet: it makes MXNet and MXBoard run on today's Python.

In a script of your own, ``from common import SummaryWriter`` in place of
``from mxboard import SummaryWriter`` is all it takes; ``common/compat.py``, ``common/files.py`` and
``common/summary.py`` are the files to copy.
"""

import os
import signal
import threading

# An import that Ctrl-C breaks off may end in any error, so it ends the program meanwhile. MXNet's
# scheduler and servers never leave the import, and no handler of Python's would run there.
_handler = signal.getsignal(signal.SIGINT)
_in_main_thread = threading.current_thread() is threading.main_thread()
if _in_main_thread and _handler == signal.default_int_handler:
    _is_worker = os.environ.get("DMLC_ROLE", "worker") == "worker"
    signal.signal(
        signal.SIGINT, (lambda number, _: os._exit(128 + number)) if _is_worker else signal.SIG_DFL
    )
try:
    from .compat import AVAILABLE_CORES
    from .summary import SummaryWriter
finally:
    if _in_main_thread:
        signal.signal(signal.SIGINT, _handler)

__all__ = ["AVAILABLE_CORES", "SummaryWriter"]
