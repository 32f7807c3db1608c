"""Warnings and errors of the scripts: lines on standard error."""

import sys
from pathlib import Path

from tqdm import tqdm


class ScriptError(Exception):
    """Ends a script with one line: what is wrong and what to do. Status 2 is a wrong argument."""

    def __init__(self, message, status=1):
        super().__init__(message)
        self.status = status


def visible(text):
    """Replace what a terminal would act on, and bytes of a file's name that are no text."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text)


def warn(message):
    """Print a line on standard error, beside a progress bar and not through it."""
    tqdm.write(f"{Path(sys.argv[0]).name}: {visible(str(message))}", file=sys.stderr)
