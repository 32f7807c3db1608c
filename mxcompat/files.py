"""Files that are whole, or not there at all, and a lock on a folder."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
import time
import warnings
from pathlib import Path

PART_PREFIX = ".mxcompat-part-"
STALE_SECONDS = 60  # after which a folder that nobody has locked is what a killed process left
LOCK_NAME = ".lock"


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
        # Not to the end, which a file of the kernel's may not have: they say that they are empty.
        return file.read(os.fstat(file.fileno()).st_size)


@contextlib.contextmanager
def part_folder(folder):
    """Make a folder of one's own in a folder, for files to be written to before they are renamed.

    It is removed in the end, and what a killed process left is removed by the next to come. An
    `OSError` about what is written there names the folder.
    """
    part = lock = None
    try:
        remove_leftovers(folder)
        part = tempfile.mkdtemp(prefix=PART_PREFIX, dir=folder)
        lock = os.open(part, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)  # says that it is in use, as long as this process lives
        yield Path(part)
    except OSError as error:
        # Errors of an open file do not say which one.
        if not error.filename or PART_PREFIX in os.fsdecode(error.filename):
            error.filename = error.filename2 or str(folder)
        raise
    finally:
        if lock is not None:
            fcntl.flock(lock, fcntl.LOCK_UN)  # in children that were forked meanwhile, too
            os.close(lock)
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def remove_leftovers(folder):
    """Remove what killed processes left in a folder; what is in use stays."""
    for part in Path(folder).glob(f"{PART_PREFIX}*"):
        try:
            lock = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # gone, or somebody else's
            continue
        if _take(lock) and time.time() - os.fstat(lock).st_mtime > STALE_SECONDS:
            shutil.rmtree(part, ignore_errors=True)
        os.close(lock)


@contextlib.contextmanager
def atomic_write(paths):
    """Replace files only once all the new ones are written.

    Yields temporary paths to write to. When the block ends well, each is renamed to its final path,
    in this order; when it raises, the files stay as they were.
    """
    with part_folder(paths[-1].parent) as part:
        temporary = [part / path.name for path in paths]
        yield temporary
        for source, path in zip(temporary, paths):
            os.replace(source, path)


@contextlib.contextmanager
def locked(folder):
    """Let one process or thread at a time into a block; one that waits says so after a second."""
    path = Path(folder, LOCK_NAME)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        lock = os.open(path, flags)
    except FileNotFoundError:
        lock = os.open(path, flags | os.O_CREAT, 0o666)
    try:
        started, warned = time.monotonic(), False
        while not _take(lock):
            if time.monotonic() - started > 1 and not warned:
                warnings.warn(f"waiting for {_holder(lock)}, which has {path}", stacklevel=4)
                warned = True
            time.sleep(0.01)
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)  # in children that were forked meanwhile, too
        os.close(lock)


def _take(lock):
    """Lock what nobody else has locked; return whether that worked."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(lock):
    """Name the process that has a lock, where Linux tells."""
    locks = Path("/proc/locks")
    pattern = rf"FLOCK.* (\d+) \S+:{os.fstat(lock).st_ino} "
    match = re.search(pattern, locks.read_text()) if locks.exists() else None
    return f"process {match[1]}" if match else "another process"
