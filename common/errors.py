"""What the scripts tell their user: lines on standard error."""

import sys
from pathlib import Path

from mxcompat.files import printable

from tqdm import tqdm

PROGRAM = Path(sys.argv[0]).name


class ScriptError(Exception):
    """Ends a script with one line: what is wrong and what to do. Status 2 is a wrong argument."""

    def __init__(self, message, status=1):
        super().__init__(message)
        self.status = status


def warn(message):
    """Print a line on standard error, beside a progress bar and not through it."""
    # One line, even if it is about a name with a line end in it.
    line = "".join(each if each.isprintable() else "\ufffd" for each in printable(message))
    tqdm.write(f"{PROGRAM}: {line}", file=sys.stderr)
