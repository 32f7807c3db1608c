"""Runs scripts one after the other, each in a fork of this process, which has imported them all.

A line of JSON on standard input is a run: the script, its arguments, the folder to run in and the
file for what it prints. The answer is its exit status, a negative number for the signal that ended
it, or null if it took longer than a minute.
"""

import importlib
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path

# A process with threads cannot be forked safely: none for MXNet's engine, OpenMP and NumPy.
os.environ["MXNET_ENGINE_TYPE"] = "NaiveEngine"
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import common.synthetic
from common import cli

SCRIPTS = (
    *("train_mnist", "plot_filter_and_output"),
    *("get_convnet_codes", "plot_convnet_embedding"),
)
LONGEST = 60  # seconds
MEMORY = 2 << 30  # bytes, beyond what the imports take


def run(module, arguments, folder, output):
    """Run a script as a shell would, with a limit to its memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(folder)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = [f"{module.__name__}.py", *arguments]
    cli.run(module.main)


def wait(child):
    """Return how a process ended, or None if it had to be ended."""
    deadline = time.monotonic() + LONGEST
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return None


def main():
    """Serve runs until the input ends."""
    common.synthetic.DIGIT_COUNTS = (600, 100)
    modules = {name: importlib.import_module(name) for name in SCRIPTS}
    for line in sys.stdin:
        script, *rest = json.loads(line)
        child = os.fork()
        if not child:
            status = 0
            try:
                run(modules[script], *rest)
            except SystemExit as end:
                status = end.code
            except BaseException:
                traceback.print_exc()
                status = 99
            sys.stdout.flush()
            os._exit(status)
        print(json.dumps(wait(child)), flush=True)


main()
