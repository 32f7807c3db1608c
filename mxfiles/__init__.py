"""MXNet's files read and written without MXNet: NumPy is all it needs, on any system.

`load` reads the arrays of a ``.params`` file, `save` writes them, and `Records` reads a ``.rec``
file by its ``.idx`` or without. ``python -m mxfiles FILE`` lists what is in a file.
"""

from .arrays import load, save
from .records import Record, Records

__all__ = ["Record", "Records", "load", "save"]
