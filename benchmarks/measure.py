"""What the benchmarks share: programs that are run in turn, and a table of what they took.

A benchmark is also the program of each way that it compares: JOB.py NAME ARGUMENTS FOLDER runs that
way alone. Peers run in their own environment:

    python3 -m venv benchmarks/.venv
    benchmarks/.venv/bin/pip install --upgrade pip
    benchmarks/.venv/bin/pip install --group benchmarks
"""

import argparse
import importlib
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
PEER_PYTHON = ROOT / "benchmarks" / ".venv" / "bin" / "python"
PEER_PACKAGES = ("torch", "tensorboardX", "onnxruntime", "openvino", "nncf")
# As it is before mxcompat sets what the programs to be measured set themselves.
ENVIRONMENT = dict(os.environ)


class Run(NamedTuple):
    """A program that has ended: its seconds, its peak memory in MB, what it printed and wrote."""

    seconds: float
    megabytes: float
    output: str
    folder: Path


def run(command, folder):
    """Run a program that is given a folder last."""
    command = [str(part) for part in (*command, folder)]
    started = time.perf_counter()
    # Peers write hundreds of warnings, which matter only if they fail.
    with tempfile.TemporaryFile("w+") as errors:
        pipes = {"stdout": subprocess.PIPE, "stderr": errors, "text": True}
        with subprocess.Popen(command, env=ENVIRONMENT, **pipes) as process:
            output = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        if process.returncode:
            errors.seek(0)
            sys.exit(f"{errors.read()}{' '.join(command)} ended with {process.returncode}")
    return Run(seconds, usage.ru_maxrss / 1000, output, Path(folder))


def find_pythons(own, peers):
    """Return the Python of each way by its name, without the peers if they are not installed."""
    found = dict.fromkeys(own, sys.executable)
    if not PEER_PYTHON.exists():
        print(f"- left out, for there is no {PEER_PYTHON}: {', '.join(peers)}")
        return found
    probe = "import sys, importlib.metadata as m; [print(n, m.version(n)) for n in sys.argv[1:]]"
    versions = subprocess.check_output([PEER_PYTHON, "-c", probe, *PEER_PACKAGES], text=True)
    print(f"- {', '.join(versions.splitlines())}")
    return {**found, **dict.fromkeys(peers, PEER_PYTHON)}


def parse_args(docstring, *positional):
    """Read the command line that all benchmarks have, and say what it is measured on."""
    parser = argparse.ArgumentParser(
        description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in positional:
        parser.add_argument(name)
    parser.add_argument("--quick", action="store_true", help="a smaller version of the same")
    parser.add_argument("--rounds", type=int, default=5, help="after a warm-up")
    args = parser.parse_args()
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    print(f"- {model[1] if model else platform.machine()}, {len(os.sched_getaffinity(0))} cores")
    ours = ", ".join(f"{name} {version(name)}" for name in ("mxnet", "mxboard", "numpy"))
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    print(f"- Python {platform.python_version()}, {ours}; OMP_NUM_THREADS {threads}")
    return args


def compare(job, ways, rounds, read, warm_ups=1):
    """Run every way in turn, `rounds` times after a warm-up, and print a table.

    `ways` maps a name to its command, the first being ours; `read` gets a `Run` and returns the
    seconds that count and the result, which the caller compares. Returns, by name, the ratios of
    the seconds to ours, and the last result.
    """
    seconds, memory, results = {name: [] for name in ways}, dict.fromkeys(ways, 0), {}
    for number in range(warm_ups + rounds):
        for name, command in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                done = run(command, folder)
                figure, results[name] = read(done)
            memory[name] = max(memory[name], done.megabytes)
            if number >= warm_ups:
                seconds[name].append(figure)
    ours, medians = next(iter(seconds.values())), {}
    print(f"\n| {job} | seconds | times ours | peak memory |\n| --- | --- | --- | --- |")
    for name, each in seconds.items():
        ratios = [a / b for a, b in zip(each, ours)]
        medians[name] = statistics.median(ratios)
        spread = f"{medians[name]:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        median = statistics.median(each)
        print(f"| {name} | {median:.3g} | {spread} | {memory[name]:,.0f} MB |", flush=True)
    widest = max(max(each) / min(each) for each in seconds.values())
    if widest > 1.3:
        print(f"\nThe same took {widest:.1f} times as long at times: is the machine quiet?")
    return medians, results


def open_mxboard(logdir):
    """Open MXBoard's own SummaryWriter, which mxcompat puts ours in place of."""
    import mxcompat

    import mxboard.writer
    import numpy as np

    published = importlib.reload(mxboard.writer)
    make_summary = published.scalar_summary
    # It makes an array of one element of a number, and of that a float, which NumPy 2 refuses.
    published.scalar_summary = lambda tag, value: make_summary(tag, np.array(value))
    return published.SummaryWriter(logdir, flush_secs=5, verbose=False)


def told(done):
    """Return the seconds that a program measured itself, which it printed last."""
    return float(done.output.splitlines()[-1])
