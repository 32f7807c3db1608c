"""What the scripts share. Import it before mxnet: it makes MXNet and MXBoard run on today's Python.

In a script of your own, ``from common import SummaryWriter`` in place of
``from mxboard import SummaryWriter`` is all it takes; ``common/compat.py``, ``common/files.py`` and
``common/summary.py`` are the files to copy.
"""

from .compat import AVAILABLE_CORES, ended_by_ctrl_c

with ended_by_ctrl_c():
    from .summary import SummaryWriter

__all__ = ["AVAILABLE_CORES", "SummaryWriter"]
