"""Arguments, devices and folders that the scripts have in common, and how a script ends."""

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

from mxcompat.installed import pip_command

import mxnet as mx

from .errors import ScriptError, fail, visible, warn

LARGEST_PIXEL = 1e6  # far beyond any checkpoint's mean, and far within float32

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


class ArgumentParser(argparse.ArgumentParser):
    """Shows the script's docstring and every default; a wrong argument is a `ScriptError`."""

    def __init__(self, docstring):
        super().__init__(description=docstring, formatter_class=_HelpFormatter)

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


COUNT = number(int, 1)
SEED = number(int, 0, 2**32)
MEAN = number(float, -LARGEST_PIXEL, LARGEST_PIXEL)
STD = number(float, 1 / LARGEST_PIXEL, LARGEST_PIXEL)
MEAN_HELP = "what your checkpoint wants subtracted from pixels of 0 to 255; or one number for all"
STD_HELP = "what it then wants them divided by; or one number for all"


def image_shape(text):
    """Read "3,224,224" as (3, 224, 224); an argument's ``type=``."""
    if not re.fullmatch(r"[13],[1-9]\d{0,3},[1-9]\d{0,3}", text):
        raise argparse.ArgumentTypeError(
            f"{text} is not 3 (or 1 for gray), a height and a width, as in 3,224,224"
        )
    return tuple(map(int, text.split(",")))


path = os.path.expanduser  # the shell leaves ~ as it is after =


def folder(text):
    """Expand ~, and refuse an address such as s3://name, of which a folder s3: would be made."""
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text} is not a folder on this machine")
    return os.path.expanduser(text)


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
            f"MXNet sees no GPU: on a machine with one, {pip_command('uninstall')} mxnet, then "
            f"{pip_command('install')} --no-deps mxnet-cu112==1.9.1 (or mxnet-cu117==1.9.1), "
            "whichever CUDA it has"
        )
    return mx.gpu(0) if gpus and name != "cpu" else mx.cpu()


def tell_how_to_see(logdir):
    """Print the command that opens a log."""
    print(f"To see it: tensorboard --logdir {shlex.quote(visible(logdir))}")
    print("To keep the next run apart from this one: --logdir logs/NAME")


@contextlib.contextmanager
def signals_held():
    """Hold back a first Ctrl-C or SIGTERM until the block ends; a second one ends the script.

    Yields a list, which then holds the signal.
    """
    came = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore():
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def hold(number, frame):
        came.append(number)
        restore()

    for number, handler in handlers.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, hold)
    try:
        yield came
    finally:
        restore()
    if came:
        signal.raise_signal(came[0])


def run(main):
    """Run a script's `main`; turn what a user can cause into one line and an exit status."""
    for stream in (sys.stdout, sys.stderr):
        # Lines reach a file or a pipe as they are printed, not only when a buffer is full.
        stream.reconfigure(line_buffering=True, errors="replace")
    try:
        main()
    except ScriptError as error:
        fail(str(error), error.status)
    except MemoryError:
        fail("there is too little memory: try a smaller --batch-size, or smaller pictures")
    except OSError as error:
        # Every file that a script writes to has a name; what it prints has none.
        where = error.filename or ("standard output" if error.errno in WRITE_ERRORS else "")
        parts = os.fsdecode(where), error.strerror or str(error), ADVICE.get(error.errno)
        fail(": ".join(filter(None, parts)))
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        os._exit(1)  # not Python's own exit, in which MXNet may wait for others
