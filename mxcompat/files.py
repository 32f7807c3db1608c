"""Folders and files that are whole, or not there at all."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
from pathlib import Path


def printable(name):
    """Replace what Python reads for the bytes of a file name that are not UTF-8."""
    return re.sub("[\ud800-\udfff]", "\ufffd", os.fsdecode(name))


def open_file(path):
    """Open a file to read; an `OSError` if it is a FIFO or a device, which might never end."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return open(path, "rb")


def read_file(path):
    """Return a file's bytes; errors are those of `open_file`."""
    with open_file(path) as file:
        return file.read()


@contextlib.contextmanager
def part_folder(folder):
    """Make an empty folder in a folder, for files to be written to before they are renamed.

    One process or thread at a time has it, and what a killed one left there is removed. An
    `OSError` about what is written there names the folder.
    """
    part = Path(folder, ".part")
    with open(Path(folder, ".lock"), "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(part, ignore_errors=True)
        try:
            part.mkdir()
            yield part
        except OSError as error:
            # Errors of an open file do not say which one.
            if not error.filename or str(part) in os.fsdecode(error.filename):
                error.filename = error.filename2 or str(folder)
            raise
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def atomic_write(paths):
    """Replace files only once all the new ones are written.

    Yields temporary paths to write to. When the block ends well, each is renamed to its final path,
    in this order; when it raises, the files stay as they were. One block at a time is in the folder
    of the last path.
    """
    with part_folder(paths[-1].parent) as part:
        temporary = [part / path.name for path in paths]
        yield temporary
        for source, path in zip(temporary, paths):
            os.replace(source, path)
