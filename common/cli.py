"""Arguments, devices and folders that the scripts have in common, and how a script ends."""

import argparse
import contextlib
import errno
import math
import multiprocessing
import os
import re
import shlex
import signal
import sys
import traceback
import warnings
from pathlib import Path

import mxcompat
from mxcompat.checkpoints import prefix_of

import cv2
import mxnet as mx

from .errors import ScriptError, warn


class ArgumentParser(argparse.ArgumentParser):
    """Shows the script's docstring and every default; a wrong argument is a `ScriptError`."""

    def __init__(self, docstring):
        super().__init__(description=docstring, formatter_class=_HelpFormatter)
        self.add_argument("--version", action="version", version=mxcompat.__version__)

    def error(self, message):  # noqa: D102
        raise ScriptError(f"{message} (see --help)", status=2)


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


COUNT = number(int, 1)
SEED = number(int, 0, 2**32)
MEAN = number(float)
STD = number(float, 1e-6)
MEAN_HELP = "mean to subtract from pixels of 0 to 255, one per channel or one for all"
STD_HELP = "deviation to divide them by then, one per channel or one for all"


def image_shape(text):
    """Read "3,224,224" as (3, 224, 224); an argument's ``type=``."""
    if not re.fullmatch(r"[13],[1-9]\d{0,3},[1-9]\d{0,3}", text):
        raise argparse.ArgumentTypeError(
            f"{text} is not 3 (or 1 for gray), a height and a width, as in 3,224,224"
        )
    return tuple(map(int, text.split(",")))


path = os.path.expanduser  # the shell leaves ~ as it is after =


def prefix(text):
    """Read a checkpoint's prefix, or the name of one of its files; an argument's ``type=``."""
    return prefix_of(path(text))


def check_channels(args, channels):
    """Refuse a mean or a deviation that is neither one number nor one per channel."""
    for flag, numbers in (("--mean-rgb", args.mean_rgb), ("--std-rgb", args.std_rgb)):
        if numbers and len(numbers) not in (1, channels):
            raise ScriptError(
                f"argument {flag}: {len(numbers)} numbers for pictures of {channels} channels",
                status=2,
            )


def make_folder(name):
    """Make a folder that can be written to; an `OSError` names it otherwise."""
    os.makedirs(name, exist_ok=True)
    if not os.access(name, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(name))


def make_log_folder(name, suffix):
    """Make a log's folder; warn if it holds an earlier training, whose files end with a suffix."""
    make_folder(name)
    if any(Path(name).glob(f"*{suffix}")):
        warn(
            f"{name} holds a training already, and TensorBoard will show this one in its place: to "
            "see both, give each a --logdir logs/NAME"
        )


def context(name):
    """Return the device that ``--ctx`` names: "auto", "gpu" or "cpu"."""
    try:
        gpus = mx.context.num_gpus()
    except mx.MXNetError:
        gpus = 0  # A CUDA build on a machine without a driver.
    if name == "gpu" and not gpus:
        raise ScriptError(
            "MXNet sees no GPU: on a machine with one, pip uninstall mxnet, then pip install "
            "--no-deps mxnet-cu112==1.9.1 (or mxnet-cu117==1.9.1), whichever CUDA it has"
        )
    return mx.gpu(0) if gpus and name != "cpu" else mx.cpu()


def tell_how_to_see(logdir):
    """Print the command that opens a log."""
    print(f"To see it: tensorboard --logdir {shlex.quote(logdir)}")
    if logdir == "./logs":
        print("To keep the next run apart from this one: --logdir logs/NAME")


@contextlib.contextmanager
def signals_held():
    """Hold back a first Ctrl-C or SIGTERM until the block ends; a second one ends the script.

    Yields a list, which then holds the signal.
    """
    came = []

    def hold(number, frame):
        came.append(number)
        _handle_signals(signal.SIG_DFL)

    _handle_signals(hold)
    yield came
    _handle_signals(signal.SIG_DFL)
    if came:
        signal.raise_signal(came[0])


def _handle_signals(handler):
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as in a job that a shell runs behind
            signal.signal(number, handler)


def run(main):
    """Run a script's `main`; turn what a user can cause into one line and an exit status."""
    _ready_process()
    try:
        main()
    except ScriptError as error:
        _fail(error, error.status)
    except MemoryError:
        _fail("there is too little memory: try a smaller --batch-size, or smaller pictures")
    except OSError as error:
        if error.filename is None:
            _fail(error)
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space" if is_full else "choose another, or change its permissions"
        _fail(f"{os.fsdecode(error.filename)}: {error.strerror}: {advice}")
    except Exception:
        # Here, because Python's own end would wait: one worker of several for all the others.
        traceback.print_exc()
        os._exit(1)


def _ready_process():
    # The kernel may end the process where it stands: all that was logged is on the disk.
    _handle_signals(signal.SIG_DFL)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell, as in >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (stays open)
        # Lines reach a file or a pipe as they are printed, not only when a buffer is full.
        getattr(sys, name).reconfigure(line_buffering=True, errors="replace")
    warnings.showwarning = lambda message, *_, **__: warn(message)
    # The scripts name the pictures that OpenCV cannot read, and MXNet need not say what it fuses.
    (cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging).setLogLevel(0)
    os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")
    # No script starts a process, but tqdm and Gluon's thread pool make semaphores. With Python
    # 3.14's start method a second process watches those, and complains when a script is stopped.
    multiprocessing.set_start_method("fork", force=True)


def _fail(message, status=1):
    warn(f"error: {message}")
    # Not sys.exit: threads that are still decoding pictures would abort the program at its end.
    os._exit(status)
