"""Files that are whole or not there at all, and a lock on a folder."""

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

PART_PREFIX = ".mxcompat-part-"
STALE_SECONDS = 60  # after which a part folder that nobody has locked was left by a killed process


def printable(name):
    """Replace the surrogates by which Python reads a file name that is not UTF-8."""
    return re.sub("[\ud800-\udfff]", "\ufffd", os.fsdecode(name))


@contextlib.contextmanager
def part_folder(folder):
    """Yield the `Path` of a new folder in a folder, to write files to before they are renamed.

    It is removed in the end; if the process is killed, by a later call. An `OSError` about a file
    in it names the folder.
    """
    remove_leftovers(folder)
    try:
        with tempfile.TemporaryDirectory(prefix=PART_PREFIX, dir=folder) as part, locked(part):
            yield Path(part)
    except OSError as error:
        # The system's errors about an open file do not say which one.
        is_ours = not error.filename or PART_PREFIX in error.filename
        if error.errno and is_ours:
            error.filename = error.filename2 or str(folder)
        raise


def remove_leftovers(folder):
    """Remove the part folders of killed processes; those in use stay."""
    for part in Path(folder).glob(f"{PART_PREFIX}*"):
        with contextlib.suppress(OSError), locked(part, fcntl.LOCK_EX | fcntl.LOCK_NB):
            if time.time() - part.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def atomic_write(paths):
    """Yield temporary paths; when the block ends well, rename them to `paths`, in this order."""
    with part_folder(paths[-1].parent) as part:
        temporary = [part / path.name for path in paths]
        yield temporary
        for source, path in zip(temporary, paths):
            os.replace(source, path)


@contextlib.contextmanager
def locked(folder, how=fcntl.LOCK_EX):
    """Let one process or thread at a time into a block."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, how)
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)  # in children that were forked meanwhile, too
        os.close(lock)
