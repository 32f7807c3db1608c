"""The arguments and the error handling that the scripts share."""

import argparse
import contextlib
import errno
import math
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import mxnet as mx
from tqdm import tqdm

PROGRAM = Path(sys.argv[0]).name
STOP_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}

ADVICE = {
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some space, or choose another folder",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.EEXIST: "it is a file: choose a folder",
    errno.ENOTDIR: "part of the path is a file: choose a folder",
}


class ScriptError(Exception):
    """Ends a script with one line: what is wrong and what to do. Status 2 is a wrong argument."""

    def __init__(self, message, status=1):
        super().__init__(message)
        self.status = status


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


SHARED_ARGUMENTS = {
    "--mean-rgb": {
        "metavar": ("R", "G", "B"),
        "nargs": 3,
        "type": number(float),
        "help": "what your checkpoint wants subtracted from pixels of 0 to 255",
    },
    "--std-rgb": {
        "metavar": ("R", "G", "B"),
        "nargs": 3,
        "type": number(float, 1e-6),
        "help": "what it then wants them divided by",
    },
    "--ctx": {
        "choices": ("auto", "gpu", "cpu"),
        "default": "auto",
        "help": "auto: a GPU if there is one",
    },
    "--seed": {"type": number(int, 0, 2**32), "default": 42, "help": "seed of the random numbers"},
    "--logdir": {"default": "./logs", "help": "folder of the log"},
    "--data-dir": {"default": "./data", "help": "folder of downloads and codes"},
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
            "MXNet sees no GPU: on a machine with one, pip uninstall mxnet, then "
            "pip install mxnet-cu112==1.9.1 (or mxnet-cu117==1.9.1), whichever CUDA it has"
        )
    return mx.gpu(0) if gpus and name != "cpu" else mx.cpu()


def warn(message):
    """Print a line on standard error, beside a progress bar and not through it."""
    tqdm.write(f"{PROGRAM}: {message}", file=sys.stderr)


def tell_how_to_see(logdir):
    """Print the command that opens a log."""
    print(f"To see it: tensorboard --logdir {shlex.quote(logdir)}")
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


def run(main):
    """Run a script's ``main``; turn what a user can cause into one line and an exit status."""
    # Lines reach a file or a pipe as they are printed, not only when a buffer is full.
    sys.stdout.reconfigure(line_buffering=True)
    stopped_by = []

    def stop(number, frame):
        stopped_by.append(number)
        raise KeyboardInterrupt

    def stop_soon(unraisable, show=sys.unraisablehook):
        # Python drops what a signal raises while MXNet calls back or an object is deleted.
        if unraisable.exc_type is KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        elif not stopped_by:  # or else it is about an object that the signal left half made
            show(unraisable)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGALRM, stop)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, stop)
    sys.unraisablehook = stop_soon
    try:
        main()
    except KeyboardInterrupt:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        warn(f"stopped by {STOP_SIGNALS[stopped_by[0]]}")
        sys.exit(128 + stopped_by[0])
    except ScriptError as failure:
        warn(f"error: {failure}")
        sys.exit(failure.status)
    except OSError as error:
        warn(f"error: {_describe(error)}")
        # What could not be printed must not be tried again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (MemoryError, mx.MXNetError) as error:
        if isinstance(error, mx.MXNetError) and "memory" not in str(error).lower():
            raise
        warn("error: there is too little memory: try a smaller --batch-size")
        sys.exit(1)


def _describe(error):
    """Say in one line what an `OSError` was about and what to do."""
    where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
    advice = f": {ADVICE[error.errno]}" if error.errno in ADVICE else ""
    return f"{where}{error.strerror or error}{advice}"
