"""Makes MXNet 1.9.1 and MXBoard 0.1.0 run on Python 3.9 to 3.15. Import it before MXNet.

Write it above the other imports, and leave the rest of the program as it is::

    import mxcompat

    import mxnet as mx
    from mxboard import SummaryWriter

Whatever in the process then imports MXBoard gets the mended `SummaryWriter`. To run a program
without changing it at all, put ``-m mxcompat`` before its name: ``python -m mxcompat train.py``.

The import changes neither signal handlers, hooks, streams nor the start method of processes, and it
prints nothing. It gives NumPy its old names back, lets NumPy 2 print numbers as NumPy 1 did, and
sets defaults for these environment variables, which MXNet reads once: ``OMP_NUM_THREADS`` (all
available cores) and ``OMP_WAIT_POLICY`` (``PASSIVE``). On Linux on 64-bit Arm it imports OpenCV,
whose OpenBLAS MXNet uses there.

Raises
------
ImportError
    MXNet cannot run here, or was imported before. The message is one line that names the first
    package or library that is missing, and the command that installs all of them.
"""

import platform

from .installed import explained

__all__ = ["SummaryWriter", "__version__"]
__version__ = "1.0"

with explained():
    from . import arm, patches

    if (platform.system(), platform.machine()) == ("Linux", "aarch64"):
        arm.prepare()
    patches.prepare()
    import mxnet  # noqa: F401 (to be mended)

    patches.mend()
    from .board.writer import SummaryWriter
