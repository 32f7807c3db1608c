"""The arguments and the error handling that the scripts share: import it first, end in `run`."""

import os
import signal

STOP_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
# Before the other imports, which may end in any error if they are broken off; `run` takes over.
for _number in STOP_SIGNALS:
    if signal.getsignal(_number) in (signal.SIG_DFL, signal.default_int_handler):
        signal.signal(_number, lambda number, frame: os._exit(128 + number))

import argparse
import contextlib
import errno
import gc
import math
import multiprocessing
import re
import shlex
import sys
import threading
import time

from mxcompat.files import printable
from mxcompat.installed import pip_command

import cv2
import mxnet as mx

from . import cluster
from .errors import ScriptError, warn

LARGEST_PIXEL = 1e6  # far beyond any checkpoint's mean, and far within float32
STOP_SECONDS = 1  # within which a second signal is ignored
WAIT_SECONDS = 60  # after which another process that does not answer is taken to be gone

ADVICE = {
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some space, or choose another folder",
    errno.EACCES: "choose another, or change its permissions",
    errno.EPERM: "choose another, or change its permissions",
    errno.EROFS: "choose a folder that you may write to",
    errno.EEXIST: "it is a file: choose a folder",
    errno.ENOTDIR: "part of the path is a file: choose a folder",
}
WRITE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE}
# What libraries raise about an argument or a path that is odd in a way nobody thought of.
LIBRARY_ERRORS = (ValueError, OverflowError, RecursionError, cv2.error, mx.MXNetError)

# No script starts a process, but tqdm and Gluon's thread pool make semaphores. With Python 3.14's
# start method a second process watches those, and complains after `_end`.
multiprocessing.set_start_method("fork", force=True)

_has_peers = False  # whether this process trains together with others


class ArgumentParser(argparse.ArgumentParser):
    """Shows the script's docstring and every default; a wrong argument is a `ScriptError`."""

    def __init__(self, docstring):
        super().__init__(description=docstring, formatter_class=_HelpFormatter)

    def add_shared(self, *flags):
        """Add arguments that several scripts have."""
        for flag in flags:
            self.add_argument(flag, **SHARED_ARGUMENTS[flag])

    def error(self, message):  # noqa: D102
        raise ScriptError(message, status=2)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


def number(kind, low=-sys.float_info.max, high=math.inf):
    """Return an argument's ``type=``: an int or a float from `low` to below `high`."""

    def read(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value < high:
            limits = f" from {low} to below {high}" if high < math.inf else f" of at least {low}"
            name = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text} is not a {name}{limits}")
        return value

    return read


def image_shape(text):
    """Read "3,224,224" as (3, 224, 224); an argument's ``type=``."""
    if not re.fullmatch(r"3,[1-9]\d{0,3},[1-9]\d{0,3}", text):
        raise argparse.ArgumentTypeError(f"{text} is not 3, a height and a width, as in 3,224,224")
    return tuple(map(int, text.split(",")))


def local_folder(text):
    """Refuse an address such as s3://name, of which a folder s3: would be made."""
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text} is not a folder on this machine")
    return text


SHARED_ARGUMENTS = {
    "--mean-rgb": {
        "metavar": ("R", "G", "B"),
        "nargs": 3,
        "type": number(float, -LARGEST_PIXEL, LARGEST_PIXEL),
        "help": "what your checkpoint wants subtracted from pixels of 0 to 255",
    },
    "--std-rgb": {
        "metavar": ("R", "G", "B"),
        "nargs": 3,
        "type": number(float, 1 / LARGEST_PIXEL, LARGEST_PIXEL),
        "help": "what it then wants them divided by",
    },
    "--ctx": {
        "choices": ("auto", "gpu", "cpu"),
        "default": "auto",
        "help": "auto: a GPU if there is one",
    },
    "--seed": {"type": number(int, 0, 2**32), "default": 42, "help": "seed of the random numbers"},
    "--logdir": {"type": local_folder, "default": "./logs", "help": "folder of the log"},
    "--data-dir": {
        "type": local_folder,
        "default": "./data",
        "help": "folder of downloads and codes",
    },
    "--offline": {"action": "store_true", "help": "download nothing; use synthetic data instead"},
}


def context(name):
    """Return the device that ``--ctx`` names: "auto", "gpu" or "cpu"."""
    try:
        gpus = mx.context.num_gpus()
    except mx.MXNetError:
        gpus = 0  # A CUDA build on a machine without a driver.
    if name == "gpu" and not gpus:
        raise ScriptError(
            f"MXNet sees no GPU: on a machine with one, {pip_command('uninstall')} mxnet, then "
            f"{pip_command('install')} --no-deps mxnet-cu112==1.9.1 (or mxnet-cu117==1.9.1), "
            "whichever CUDA it has"
        )
    return mx.gpu(0) if gpus and name != "cpu" else mx.cpu()


def tell_how_to_see(logdir):
    """Print the command that opens a log."""
    print(f"To see it: tensorboard --logdir {shlex.quote(printable(logdir))}")
    print("To keep the next run apart from this one: --logdir logs/NAME")


@contextlib.contextmanager
def held_signals():
    """Hold back Ctrl-C and SIGTERM; yields a list of those that came, delivered after the block."""
    came = []
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number, handler in handlers.items():
        # A job that a shell runs in the background ignores Ctrl-C, and must go on ignoring it.
        if handler != signal.SIG_IGN:
            signal.signal(number, lambda number, _: came.append(number))
    try:
        yield came
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def watch_waits(kv_store):
    """Check what `kv_store` needs; from then on end this process if it waits too long for others.

    MXNet waits for ever, in C, where Python cannot interrupt it. So a thread keeps signalling the
    main thread. Python runs the handler only when the main thread is back in Python, and no reply
    for too long means that it is stuck.
    """
    global _has_peers
    if kv_store == "device":
        return
    if problem := cluster.find_problem():
        raise ScriptError(problem)
    try:
        limit = number(float, 1)(os.environ.get("MXBOARD_DEMO_WAIT_SECONDS", WAIT_SECONDS))
    except argparse.ArgumentTypeError as error:
        raise ScriptError(f"MXBOARD_DEMO_WAIT_SECONDS: {error}") from error
    _has_peers = True
    silent = 0  # seconds without a reply; a clock would run on while Ctrl-Z holds the process
    signals, write_end = os.pipe()  # a byte a signal, written even while the main thread is stuck

    def reply(number, frame):
        nonlocal silent
        silent = 0

    def watch():
        nonlocal silent
        while silent < limit:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGURG)
            time.sleep(0.5)
            silent += 0.5
            for number in STOP_SIGNALS.keys() & set(os.read(signals, 1000)):
                time.sleep(2 * STOP_SECONDS)  # `run` does it, unless the main thread is stuck
                _end(f"stopped by {STOP_SIGNALS[number]}", 128 + number)
        _end(
            f"error: no answer for {limit:g} seconds (MXBOARD_DEMO_WAIT_SECONDS): another process "
            "has probably gone, or was never started",
            1,
        )

    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGURG, reply)
    threading.Thread(target=watch, daemon=True).start()


def _end(line, status):
    """Print the line on standard error and end the process, from whichever thread."""
    if _has_peers:
        line += "; the scheduler and the servers may still be running: end them with Ctrl-C or kill"
    with contextlib.suppress(OSError):  # of a full or closed standard error
        warn(line)
    # Not sys.exit: threads that are still decoding pictures would abort the program at its end.
    os._exit(status)


def run(main):
    """Run a script's `main`; turn what a user can cause into one line and an exit status."""
    for stream in (sys.stdout, sys.stderr):
        # Lines reach a file or a pipe as they are printed, not only when a buffer is full.
        stream.reconfigure(line_buffering=True, errors="replace")
    stops = []  # when it was stopped, and by which signal

    def stop(number, frame):
        # One is enough: a second one must not break off what the first has set going.
        if not stops or time.monotonic() - stops[0][0] > STOP_SECONDS:
            stops.append((time.monotonic(), number))
            raise KeyboardInterrupt

    def stop_again(number, frame):
        raise KeyboardInterrupt

    def stop_soon(unraisable, show=sys.unraisablehook):
        # Python drops what a signal raises while MXNet calls back or an object is deleted.
        if unraisable.exc_type is KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        elif not stops:  # or else it is about an object that the signal left half made
            show(unraisable)

    heeded = [each for each in STOP_SIGNALS if signal.getsignal(each) != signal.SIG_IGN]
    error = None
    try:
        sys.unraisablehook = stop_soon
        signal.signal(signal.SIGALRM, stop_again)
        for number in heeded:
            signal.signal(number, stop)
        try:
            main()
            if _has_peers:
                gc.collect()  # frees MXNet's store, whose wait for the others is still watched
        finally:
            # From here on signals are ignored: the exit status is decided.
            for number in (*heeded, signal.SIGALRM):
                signal.signal(number, signal.SIG_IGN)
    except BaseException as raised:
        error = raised
    if stops:  # also where a library made another error of it, or none
        line, status = f"stopped by {STOP_SIGNALS[stops[0][1]]}", 128 + stops[0][1]
    elif error is None:
        for number in heeded:
            signal.signal(number, signal.SIG_DFL)
        return
    elif description := _describe(error):
        line, status = f"error: {description}", getattr(error, "status", 1)
    elif _has_peers:  # Python's own exit would free MXNet's store, and nobody would watch it wait
        sys.excepthook(type(error), error, error.__traceback__)
        line, status = f"error: {type(error).__name__}", 1
    else:
        raise error
    _end(line, status)


def _describe(error):
    """Say in one line what went wrong and what to do; None for a bug, which needs its traceback."""
    message = str(error).strip().splitlines() or [type(error).__name__]
    if isinstance(error, ScriptError):
        return str(error)
    if isinstance(error, OSError):
        # Every file that a script writes to has a name; what it prints has none.
        where = os.fsdecode(error.filename or "standard output" * (error.errno in WRITE_ERRORS))
        parts = where, error.strerror or message[-1], ADVICE.get(error.errno)
        return ": ".join(filter(None, parts))
    if isinstance(error, LIBRARY_ERRORS) and not re.search("bad_alloc|memory", str(error), re.I):
        return f"{message[-1]}: try other arguments"
    if isinstance(error, (MemoryError, *LIBRARY_ERRORS)):
        return "there is too little memory: try a smaller --batch-size, or smaller pictures"
    return None
