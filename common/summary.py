"""MXBoard's SummaryWriter on TensorBoard's event writer: fast checksums, no hang, nothing lost."""

import contextlib
import threading

import cv2
import google_crc32c
import mxboard.writer
import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer import event_file_writer

# TensorBoard's own checksum is a Python loop over every byte.
pywrap_tensorflow.crc32c = google_crc32c.value


def _hide_writer_threads(args, show=threading.excepthook):
    """Show what ended a thread, but for a writing thread: its error is raised to the caller."""
    if not isinstance(args.thread, event_file_writer._AsyncWriterThread):
        show(args)


threading.excepthook = _hide_writer_threads


class EventFileWriter(event_file_writer.EventFileWriter):
    """TensorBoard's event writer as MXBoard calls it.

    Unlike MXBoard's, it names its file by process and writer, so that no two share one, and it
    raises what went wrong in its thread instead of blocking.

    Parameters
    ----------
    logdir : str
        Folder of the event file; made if it is missing.
    max_queue : int
        Events that may wait for the writing thread.
    flush_secs : float
        Seconds between two flushes to the disk.
    filename_suffix : str, optional
        What to end the file's name with.
    verbose : bool
        Taken for MXBoard's sake; there is nothing to say.

    Raises
    ------
    OSError
        The file cannot be written: raised by the call that finds out, at the latest by `close`,
        with the file's name.
    """

    def __init__(self, logdir, max_queue=10, flush_secs=120, filename_suffix=None, verbose=False):
        self._arguments = (logdir, max_queue, flush_secs, filename_suffix or "")
        with self._naming_file():
            super().__init__(*self._arguments)

    def add_event(self, event):
        """Queue an event for the writing thread."""
        with self._naming_file():
            super().add_event(event)

    def flush(self):
        """Return once every queued event is on the disk."""
        with self._naming_file():
            super().flush()

    def close(self):
        """Write what is queued and end the file."""
        with self._naming_file():
            super().close()
            self._async_writer._check_worker_status()

    def reopen(self):
        """Go on in a new file of the same folder, once closed."""
        if self._async_writer._closed:
            with self._naming_file():
                super().__init__(*self._arguments)

    @contextlib.contextmanager
    def _naming_file(self):
        try:
            yield
        except OSError as error:
            # Errors of an open file do not say which one.
            error.filename = error.filename or getattr(self, "_file_name", self._arguments[0])
            raise


mxboard.writer.EventFileWriter = EventFileWriter


class SummaryWriter(mxboard.SummaryWriter):
    """MXBoard's SummaryWriter (https://github.com/awslabs/mxboard), mended.

    Parameters
    ----------
    logdir : str
        Folder to open with ``tensorboard --logdir``; made if it is missing.
    max_queue : int
        Events that may wait for the writing thread.
    flush_secs : float
        Seconds between two flushes to the disk.
    filename_suffix : str, optional
        What to end the event file's name with.
    verbose : bool
        Whether MXBoard says which files it writes.

    Raises
    ------
    OSError
        The log cannot be written: raised by the call that finds out, at the latest by `close`.
    """

    def __init__(self, logdir, max_queue=10, flush_secs=120, filename_suffix=None, verbose=False):
        super().__init__(logdir, max_queue, flush_secs, filename_suffix, verbose)

    def add_image(self, tag, image, global_step=None):
        """Log a picture, or a batch of them as a grid: 8 a row, 2 black pixels between them.

        Parameters
        ----------
        tag : str
            Name of the picture.
        image : mxnet.nd.NDArray or numpy.ndarray
            (H, W), (C, H, W) or (N, C, H, W), C being 1 (grey) or 3 (RGB): uint8, or floats in
            [0, 1].
        global_step : int, optional
            Step to show it at.

        Raises
        ------
        ValueError
            It has another shape or dtype, or values out of range.
        """
        pixels = _make_grid(_to_pixels(image))
        height, width, _ = pixels.shape
        _, png = cv2.imencode(".png", pixels[:, :, ::-1])
        picture = Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=png.tobytes()
        )
        self._file_writer.add_summary(
            Summary(value=[Summary.Value(tag=tag, image=picture)]), global_step
        )

    def add_text(self, tag, text, global_step=None):
        """Log a text, which TensorBoard shows as Markdown.

        Parameters
        ----------
        tag : str
            Name of the text.
        text : str
            The text.
        global_step : int, optional
            Step to show it at.
        """
        self._file_writer.add_summary(text_pb(tag, text), global_step)


def _to_pixels(image):
    """Convert any picture that `add_image` takes to a (N, H, W, 3) uint8 batch."""
    image = image if isinstance(image, np.ndarray) else image.asnumpy()
    if image.ndim not in (2, 3, 4):
        raise ValueError(f"a picture has 2, 3 or 4 dimensions, not {image.ndim}")
    batch = image.reshape((1,) * (4 - image.ndim) + image.shape)
    if batch.shape[1] not in (1, 3):
        raise ValueError(f"a picture has 1 or 3 channels, not {batch.shape[1]}")
    if batch.dtype != np.uint8:
        if not (batch.min() >= 0 and batch.max() <= 1):
            raise ValueError("the values of a picture of floats lie between 0 and 1")
        batch = np.rint(batch * 255).astype(np.uint8)
    return np.broadcast_to(batch.transpose(0, 2, 3, 1), (*batch.shape[:1], *batch.shape[2:], 3))


def _make_grid(batch, columns=8, padding=2):
    """Lay out a (N, H, W, 3) batch as MXBoard does, row by row; one picture stays as it is."""
    count, height, width, channels = batch.shape
    if count == 1:
        return batch[0]
    columns = min(columns, count)
    rows = -(-count // columns)
    cells = np.zeros((rows * columns, height + padding, width + padding, channels), batch.dtype)
    cells[:count, :height, :width] = batch
    cells = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    cells = cells.reshape(rows * (height + padding), -1, channels)
    return np.pad(cells, ((padding, 0), (padding, 0), (0, 0)))
