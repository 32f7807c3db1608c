"""What the benchmarks share: programs that are run in turn, and a table of what they took.

A benchmark is also the program of each way that it compares: JOB.py NAME ARGUMENTS FOLDER runs that
way alone. Peers need what pyproject.toml lists for benchmarks, in an environment of their own:

    python3 -m venv benchmarks/.venv
    benchmarks/.venv/bin/pip install --upgrade pip
    benchmarks/.venv/bin/pip install --group benchmarks
"""

import argparse
import importlib
import json
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
PYTHONS = (sys.executable, str(ROOT / "benchmarks" / ".venv" / "bin" / "python"))
# As it is before mxcompat sets what the programs to be measured set themselves.
ENVIRONMENT = dict(os.environ)
WIDE_SPREAD = 1.3  # of the seconds of one way, beyond which a machine is not quiet
PROBE = """
import importlib, sys
from importlib.metadata import version
for name in sys.argv[1:]: importlib.import_module(name); print(name, version(name))
"""


class Run(NamedTuple):
    """A program that has ended: its seconds, its peak memory in MB, what it printed and wrote."""

    seconds: float
    megabytes: float
    output: str
    folder: Path


def run(command, folder):
    """Run a program that is given a folder last."""
    started = time.perf_counter()
    command = [str(part) for part in (*command, folder)]
    # Peers write hundreds of warnings, which matter only if they fail.
    with tempfile.TemporaryFile("w+") as errors:
        options = {"stdout": subprocess.PIPE, "stderr": errors, "text": True, "env": ENVIRONMENT}
        with subprocess.Popen(command, **options) as process:
            output = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        if process.returncode:
            errors.seek(0)
            sys.stderr.write(errors.read())
            raise subprocess.CalledProcessError(process.returncode, command)
    return Run(seconds, usage.ru_maxrss / 1000, output, Path(folder))


def find_pythons(ways):
    """Return, by the name of a way, the Python that has its packages; say what is left out."""
    found = {}
    for name, packages in ways.items():
        if not packages:
            found[name] = sys.executable
            continue
        for python in filter(os.path.exists, PYTHONS):
            probe = [python, "-c", PROBE, *packages.split()]
            result = subprocess.run(probe, capture_output=True, text=True)
            if not result.returncode:
                found[name] = python
                print(f"- {name}: {', '.join(result.stdout.splitlines())}")
                break
        else:
            print(f"- {name} is left out: {packages} not installed")
    return found


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
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    print(f"- {model[1] if model else platform.machine()}, {len(os.sched_getaffinity(0))} cores")
    ours = ", ".join(f"{name} {version(name)}" for name in ("mxnet", "mxboard", "numpy"))
    print(f"- Python {platform.python_version()}, {ours}; OMP_NUM_THREADS {threads}")
    return args


def compare(job, ways, rounds, read, warm_ups=1):
    """Run every way in turn, `rounds` times after a warm-up, and print a table.

    `ways` maps a name to its command, the first being ours; `read` gets a `Run` and returns the
    seconds that count and the result, which the caller compares. Returns, by name, the ratios of
    the seconds to ours, and the last result.
    """
    seconds = {name: [] for name in ways}
    memory, results = {}, {}
    for number in range(warm_ups + rounds):
        for name, command in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                done = run(command, folder)
                figure, results[name] = read(done)
            memory[name] = max(memory.get(name, 0), done.megabytes)
            if number >= warm_ups:
                seconds[name].append(figure)
    ours = next(iter(seconds.values()))
    ratios = {name: [a / b for a, b in zip(each, ours)] for name, each in seconds.items()}
    print(f"\n| {job} | seconds | times ours | peak memory |\n| --- | --- | --- | --- |")
    for name, each in ratios.items():
        spread = f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"
        median = statistics.median(seconds[name])
        print(f"| {name} | {median:.3g} | {spread} | {memory[name]:,.0f} MB |", flush=True)
    widest = max(max(each) / min(each) for each in seconds.values())
    if widest > WIDE_SPREAD:
        print(f"\nThe same took {widest:.1f} times as long at times: is the machine quiet?")
    return {name: statistics.median(each) for name, each in ratios.items()}, results


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


def tell(**figures):
    """Print what a program measured of itself, for `told` to read."""
    print(json.dumps(figures))


def told(done):
    """Return what a program told last."""
    return json.loads(done.output.splitlines()[-1])


def require(ratio, least):
    """End with an error if another way takes less than so many times as long as ours."""
    if ratio < least:
        sys.exit(f"{ratio:.2f} times as fast, which is less than {least}")
