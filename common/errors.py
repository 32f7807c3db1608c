"""What the scripts tell their user: lines on standard error."""

import os
import sys
from pathlib import Path

from tqdm import tqdm

PROGRAM = Path(sys.argv[0]).name


class ScriptError(Exception):
    """Ends a script with one line: what is wrong and what to do. Status 2 is a wrong argument."""

    def __init__(self, message, status=1):
        super().__init__(message)
        self.status = status


def warn(message):
    """Print a line on standard error, beside a progress bar and not through it."""
    # One line, even if it is about a name with a line end, or with bytes that are no text.
    line = "".join(each if each.isprintable() else "\ufffd" for each in message)
    tqdm.write(f"{PROGRAM}: {line}", file=sys.stderr)


def fail(message, status=1):
    """Print an error, and end the process at once, from whichever thread."""
    warn(f"error: {message}")
    # Not sys.exit: threads that are still decoding pictures would abort the program at its end.
    os._exit(status)
