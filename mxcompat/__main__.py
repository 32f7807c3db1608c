"""Runs a script or a module as Python itself would, after ``import mxcompat``."""

import os
import runpy
import sys
import types
from multiprocessing import util
from pathlib import Path

from mxcompat import old_names

USAGE = """\
usage: python -m mxcompat SCRIPT [ARGUMENT ...]
       python -m mxcompat -m MODULE [ARGUMENT ...]"""
# What a process that multiprocessing starts anew runs before anything else.
FIRST = """\
import sys; sys.path.insert(0, {folder!r})
from mxcompat import __main__; __main__.change_python()
del sys.path[0]
"""


def change_python():
    """Restore what Python removed, here and in all processes that are spawned from here."""
    old_names.restore_in_python()
    first = FIRST.format(folder=str(Path(__file__).resolve().parent.parent))
    start = util.spawnv_passfds

    def spawnv_passfds(path, arguments, descriptors):
        arguments = list(arguments)
        program = arguments.index("-c") + 1
        if "resource_tracker" not in arguments[program]:
            arguments[program] = first + arguments[program]
        return start(path, arguments, descriptors)

    util.spawnv_passfds = spawnv_passfds


def run_script(path):
    """Run a file as ``__main__``."""
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        sys.exit(f"python -m mxcompat: cannot open {path}: {error.strerror}")
    main = types.ModuleType("__main__")
    main.__file__ = os.path.abspath(path)
    sys.path[0] = os.path.dirname(os.path.realpath(path))
    sys.modules["__main__"] = main
    exec(compile(source, main.__file__, "exec", dont_inherit=True), vars(main))


def show_without_runner(kind, error, trace, show=sys.excepthook):
    """Show an uncaught error as plain Python does, without the frames above the program's own."""
    while trace and (
        trace.tb_frame.f_globals is globals() or trace.tb_frame.f_globals["__name__"] == "runpy"
    ):
        trace = trace.tb_next
    show(kind, error.with_traceback(trace), trace)


def main():
    """Take the program's name from the command line, and run it."""
    arguments = sys.argv[1:]
    is_module = arguments[:1] == ["-m"]
    sys.argv = arguments[is_module:]
    if not sys.argv or sys.argv[0].startswith("-"):
        print(USAGE, file=sys.stderr)
        sys.exit(2)
    change_python()
    sys.excepthook = show_without_runner
    if is_module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        run_script(sys.argv[0])


if __name__ == "__main__":
    main()
