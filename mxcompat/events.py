"""Event files: a record is written at once and whole, so that nothing can be lost."""

import errno
import io
import itertools
import os
import socket
import threading
import time

import google_crc32c
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow
from tensorboard.summary.writer.record_writer import RecordWriter

# TensorBoard's own checksum is a Python loop over every byte.
pywrap_tensorflow.crc32c = google_crc32c.value


class _EventFile(io.FileIO):
    """Writes a record at once and whole, or not at all: half of one would hide all that follow."""

    def write(self, record):
        start, rest = self.tell(), memoryview(record)
        try:
            while rest:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.truncate(start)
            self.seek(start)
            error.filename = self.name
            raise


class EventFileWriter:
    """Writes events at once.

    MXBoard's own hands them to a thread, which may die or be killed with events that wait. This one
    names its file by process and writer, so that no two share one.

    Parameters
    ----------
    logdir : str
        Folder of the event file; made if it is missing.
    filename_suffix : str
        What to end the file's name with.

    Raises
    ------
    OSError
        An event cannot be written; those before it are. It has the file's name.
    ValueError
        An event is added after `close`.
    RuntimeError
        An event is added by a forked process: let that open a writer of its own.
    """

    _numbers = itertools.count()

    def __init__(self, logdir, filename_suffix=""):
        self._logdir, self._suffix = logdir, filename_suffix
        self._lock = threading.RLock()  # A signal handler may log while its thread does.
        self._open()

    def _open(self):
        os.makedirs(self._logdir, exist_ok=True)
        self._process = os.getpid()
        unique = f"{socket.gethostname()}.{self._process}.{next(self._numbers)}{self._suffix}"
        name = f"events.out.tfevents.{int(time.time()):010}.{unique}"
        self._file = _EventFile(os.path.join(self._logdir, name), "x")
        self._records = RecordWriter(self._file)
        self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add_event(self, event):
        """Write an event."""
        if os.getpid() != self._process:
            raise RuntimeError(
                f"{self._file.name} was opened by process {self._process}, and this is process "
                f"{os.getpid()}: open a SummaryWriter of its own in each"
            )
        with self._lock:
            if self._file.closed:
                raise ValueError(f"{self._file.name} is closed: reopen() goes on in a new file")
            if not os.fstat(self._file.fileno()).st_nlink:
                raise FileNotFoundError(errno.ENOENT, "the log was deleted", self._file.name)
            self._records.write(event.SerializeToString())

    def close(self):
        """End the file."""
        with self._lock:
            self._file.close()

    def reopen(self):
        """Go on in a new file of the same folder, once closed."""
        if self._file.closed:
            self._open()
