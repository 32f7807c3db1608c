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
import threading
from pathlib import Path

import mxnet as mx
from tqdm import tqdm

PROGRAM = Path(sys.argv[0]).name

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
    """What ends a script with one line on standard error.

    Parameters
    ----------
    message : str
        What is wrong and what to do, in one line.
    status : int
        Exit status: 1, or 2 for a wrong argument.
    """

    def __init__(self, message, status=1):
        super().__init__(message)
        self.status = status


class ArgumentParser(argparse.ArgumentParser):
    """A parser that shows every default and reports a wrong argument in one line.

    Parameters
    ----------
    docstring : str
        The script's docstring, shown above the arguments.
    """

    def __init__(self, docstring):
        super().__init__(description=docstring, formatter_class=_HelpFormatter)

    def error(self, message):
        """Raise `ScriptError` with exit status 2."""
        raise ScriptError(message, status=2)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults where there are any, and the docstring as it was written."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


def add_shared_arguments(parser, *flags):
    """Add arguments that several scripts have.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser to add them to.
    *flags : str
        Which, of "--mean-rgb", "--ctx", "--seed", "--logdir", "--data-dir" and "--offline".
    """
    for flag in flags:
        parser.add_argument(flag, **SHARED_ARGUMENTS[flag])


def positive_int(text):
    """Read a whole number above 0; an argument's ``type=``.

    Raises
    ------
    argparse.ArgumentTypeError
        It is not one.
    """
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return value


def seed(text):
    """Read a seed, a whole number from 0 to 2**32 - 1; an argument's ``type=``.

    Raises
    ------
    argparse.ArgumentTypeError
        It is not one.
    """
    if not (text.isdecimal() and int(text) < 2**32):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to 2**32 - 1")
    return int(text)


def positive_float(text):
    """Read a finite number above 0; an argument's ``type=``.

    Raises
    ------
    argparse.ArgumentTypeError
        It is not one.
    """
    value = finite_float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def fraction(text):
    """Read a number of at least 0 and below 1; an argument's ``type=``.

    Raises
    ------
    argparse.ArgumentTypeError
        It is not one.
    """
    value = finite_float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0 and below 1")
    return value


def image_shape(text):
    """Read the shape of a picture, such as 3,224,224; an argument's ``type=``.

    Returns
    -------
    tuple of int
        (3, H, W).

    Raises
    ------
    argparse.ArgumentTypeError
        It is not one.
    """
    if not re.fullmatch(r"3,[1-9]\d{0,3},[1-9]\d{0,3}", text):
        raise argparse.ArgumentTypeError(f"{text} is not 3, a height and a width, as in 3,224,224")
    return tuple(map(int, text.split(",")))


def finite_float(text):
    """Read a finite number; an argument's ``type=``.

    Raises
    ------
    argparse.ArgumentTypeError
        It is not one.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a number")
    return value


SHARED_ARGUMENTS = {
    "--mean-rgb": {
        "metavar": ("R", "G", "B"),
        "nargs": 3,
        "type": finite_float,
        "default": (0, 0, 0),
        "help": "what your checkpoint wants subtracted from pixels of 0 to 255",
    },
    "--ctx": {
        "choices": ("auto", "gpu", "cpu"),
        "default": "auto",
        "help": "auto: a GPU if there is one",
    },
    "--seed": {"type": seed, "default": 42, "help": "where the random numbers start"},
    "--logdir": {"default": "./logs", "help": "folder of the log"},
    "--data-dir": {"default": "./data", "help": "folder of downloads and codes"},
    "--offline": {"action": "store_true", "help": "download nothing; draw what is not there"},
}


def gpu():
    """Return the context of GPU 0.

    Returns
    -------
    mxnet.Context
        GPU 0.

    Raises
    ------
    ScriptError
        MXNet sees no GPU.
    """
    if not _count_gpus():
        raise ScriptError(
            "MXNet sees no GPU: on a machine with one, pip uninstall mxnet, then "
            "pip install mxnet-cu112==1.9.1 (or mxnet-cu117==1.9.1), whichever CUDA it has"
        )
    return mx.gpu(0)


def context(name):
    """Return the device that ``--ctx`` names.

    Parameters
    ----------
    name : str
        "auto", "gpu" or "cpu".

    Returns
    -------
    mxnet.Context
        GPU 0 or the CPU.

    Raises
    ------
    ScriptError
        "gpu", and MXNet sees none.
    """
    if name == "gpu" or (name == "auto" and _count_gpus()):
        return gpu()
    return mx.cpu()


def _count_gpus():
    try:
        return mx.context.num_gpus()
    except mx.MXNetError:
        # A CUDA build on a machine without a driver.
        return 0


def make_folder(path):
    """Make a folder that can be written to, before any work is done for it.

    Parameters
    ----------
    path : str
        The folder.

    Raises
    ------
    ScriptError
        It cannot be made or written to.
    """
    try:
        os.makedirs(path, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    except OSError as error:
        raise ScriptError(_describe(error)) from error


def tell_how_to_see(logdir):
    """Print the command that opens a log.

    Parameters
    ----------
    logdir : str
        The log's folder.
    """
    print(f"To see it: tensorboard --logdir {shlex.quote(logdir)}")
    print("To keep the next run apart from this one: --logdir logs/NAME")


def notice(message):
    """Tell the user something in one line on standard error.

    Parameters
    ----------
    message : str
        The line.
    """
    # Not through the middle of a progress bar.
    tqdm.write(f"{PROGRAM}: {message}", file=sys.stderr)


@contextlib.contextmanager
def held_signals():
    """Hold back Ctrl-C and SIGTERM until a block has ended, so that it can end well.

    Yields
    ------
    list of int
        The signals that came: empty until the block should come to its end. The first is delivered
        when it has.
    """
    came = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in handlers.items():
        # What a shell runs in the background ignores Ctrl-C, and is to go on ignoring it.
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
    """Run a script's ``main`` and leave the process.

    A user's mistake, or a failure outside the program, ends in one line on standard error. The exit
    status is 0 or that of the `ScriptError`; 1 after an `OSError`, 130 after Ctrl-C and 143 after
    SIGTERM, in which case whatever ``main`` holds open in a ``with`` is closed first.

    Parameters
    ----------
    main : callable
        Takes nothing, returns nothing.
    """
    # Lines reach a file or a pipe as they are printed, not only when a buffer is full.
    sys.stdout.reconfigure(line_buffering=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.unraisablehook = _send_again
    try:
        main()
    except ScriptError as failure:
        notice(f"error: {failure}")
        sys.exit(failure.status)
    except OSError as error:
        notice(f"error: {_describe(error)}")
        # What could not be printed must not be tried again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (MemoryError, mx.MXNetError) as error:
        if isinstance(error, mx.MXNetError) and "memory" not in str(error).lower():
            raise
        notice("error: there is too little memory: try a smaller --batch-size")
        sys.exit(1)
    except KeyboardInterrupt:
        notice("stopped by Ctrl-C")
        sys.exit(128 + signal.SIGINT)


def _send_again(unraisable, show=sys.unraisablehook):
    """Send a signal again that came while an object was deleted, where Python ignores it."""
    numbers = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}
    if unraisable.exc_type in numbers:
        arguments = (os.getpid(), numbers[unraisable.exc_type])
        threading.Timer(0.01, os.kill, arguments).start()
    else:
        show(unraisable)


def _describe(error):
    """Say in one line what an `OSError` was about and what to do."""
    where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
    advice = f": {ADVICE[error.errno]}" if error.errno in ADVICE else ""
    return f"{where}{error.strerror or error}{advice}"
