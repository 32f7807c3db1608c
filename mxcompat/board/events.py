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
    """Writes events to a new file in a folder, which is made if it is missing.

    MXBoard's own hands them to a thread, which may die with events that wait. Files are named by
    process and writer, so that no two writers share one.
    """

    _numbers = itertools.count()

    def __init__(self, logdir, filename_suffix=""):
        os.makedirs(logdir, exist_ok=True)
        self._lock = threading.RLock()  # A signal handler may log while its thread does.
        self._process = os.getpid()
        unique = f"{socket.gethostname()}.{self._process}.{next(self._numbers)}{filename_suffix}"
        name = f"events.out.tfevents.{int(time.time()):010}.{unique}"
        self._open(os.path.join(logdir, name), "x")
        self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def _open(self, path, mode):
        self._file = _EventFile(path, mode)
        self._records = RecordWriter(self._file)

    def add_event(self, event):
        """Write an event."""
        if os.getpid() != self._process:
            processes = f"opened by process {self._process}, and this is process {os.getpid()}"
            raise RuntimeError(f"{self._file.name} was {processes}: open a SummaryWriter in each")
        with self._lock:
            if self._file.closed:
                self._open(self._file.name, "r+")
                self._file.seek(0, os.SEEK_END)
            if not os.fstat(self._file.fileno()).st_nlink:
                raise FileNotFoundError(errno.ENOENT, "the log was deleted", self._file.name)
            self._records.write(event.SerializeToString())

    def close(self):
        """Close the file, until the next event."""
        with self._lock:
            self._file.close()
