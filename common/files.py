"""Folders and files that are whole, or not there at all."""

import contextlib
import errno
import os


def make_folder(path):
    """Make a folder that can be written to; an `OSError` names it otherwise."""
    os.makedirs(path, exist_ok=True)
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@contextlib.contextmanager
def atomic_write(paths):
    """Replace files only once all the new ones are written.

    Yields temporary paths beside `paths` to write to. When the block ends well, each is renamed to
    its final path, in this order; when it raises, the files stay as they were. An `OSError` that
    names no file gets the name of the folder.
    """
    temporary = [path.with_name(f"{path.name}.{os.getpid()}.part") for path in paths]
    try:
        yield temporary
        for source, path in zip(temporary, paths):
            os.replace(source, path)
    except OSError as error:
        # Errors of an open file do not say which one.
        error.filename = error.filename or str(paths[-1].parent)
        raise
    finally:
        for source in temporary:
            source.unlink(missing_ok=True)
