"""Runs a script or a module as Python itself would, after ``import mxcompat``."""

import os
import runpy
import sys
import types

USAGE = """\
usage: python -m mxcompat SCRIPT [ARGUMENT ...]
       python -m mxcompat -m MODULE [ARGUMENT ...]"""


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
    sys.excepthook = show_without_runner
    if is_module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        run_script(sys.argv[0])


main()
