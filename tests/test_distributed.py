import re
import socket
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT, find, read_log, run_script, script_env

SCRIPT = "train_mnist.py"
ARGUMENTS = "--offline --epochs 2 --batch-size 3000"  # 40 steps


def train_as_the_page_says(folder, of_the_last_worker=""):
    """Run the page's own block, at a port that is free; return once all processes have ended."""
    page = (ROOT / "docs" / "several-machines.md").read_text()
    (block,) = re.findall(r"^    \(\n.*?^    \)\n", page, re.DOTALL | re.MULTILINE)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    block = re.sub("(DMLC_PS_ROOT_PORT)=[0-9]+", rf"\1={port}", block)
    block = block.replace("python train_mnist.py", f"{sys.executable} {ROOT / SCRIPT}")
    start, last = "--kv-store dist_sync", f"{of_the_last_worker} --logdir {folder}"
    first, second, rest = block.split(start)
    block = f"{first}{start} {ARGUMENTS} --logdir {folder}{second}{start} {ARGUMENTS} {last}{rest}"
    command = ["timeout", "300", "bash", "-c", block]  # ends all of them after a hang
    return subprocess.run(command, capture_output=True, text=True, env=script_env())


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Train with two workers; return the log's folder."""
    folder = tmp_path_factory.mktemp("together")
    result = train_as_the_page_says(folder)
    assert result.returncode == 0, result.stderr
    said = [line for line in result.stdout.splitlines() if "Validation" in line]
    assert len(said) == 2  # one of the workers speaks for all
    assert all("synthetic digits" in line for line in result.stderr.split("\n") if line)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    assert run_script(SCRIPT, *ARGUMENTS.split(), "--logdir", folder).returncode == 0
    return folder


def values(log, tag):
    return [event.value for event in log.Scalars(tag)]


def test_two_workers_take_the_same_steps_as_a_single_process(together, alone):
    expected, *workers = map(read_log, (alone, together / "worker-0", together / "worker-1"))
    for log in workers:
        assert log.Tags() == expected.Tags()
        assert values(log, "valid_acc") == pytest.approx(values(expected, "valid_acc"), abs=0.003)
        for name in log.Tags()["histograms"]:  # gradients of the whole batch
            pairs = zip(log.Histograms(name), expected.Histograms(name))
            squares = [[event.histogram_value.sum_squares for event in pair] for pair in pairs]
            assert all(one == pytest.approx(other, rel=1e-2) for one, other in squares)
    for tag in ("cross_entropy", "train_acc"):  # each of its part
        parts = np.array([values(log, tag) for log in workers])
        assert (parts[0] != parts[1]).any()
        np.testing.assert_allclose(parts.mean(axis=0), values(expected, tag), atol=1e-3)
    folders = [folder / "mnist_codes" for folder in (alone, *sorted(together.iterdir()))]
    codes, *others = (np.fromfile(find(each, "tensors.bytes"), "<f4") for each in folders)
    assert (others[0] == others[1]).all()  # of the same weights
    np.testing.assert_allclose(others[0], codes, atol=0.02)


def test_error_in_one_worker_ends_all_with_one_line(tmp_path):
    result = train_as_the_page_says(tmp_path, "--batch-size 3001")
    assert result.returncode == 2
    (error,) = [line for line in result.stderr.splitlines() if "error: " in line]
    assert "--batch-size: 3001 does not fit 60000 images and 2 workers" in error
    assert "Validation" not in result.stdout


# What keeps MXNet's store of weights alive waits for the other workers when Python frees it.
BUG = """
import time
from common import cli
class Store:
    def __del__(self):
        time.sleep(600)
def main():
    store = Store()
    store.no_such_name
cli.run(main)
"""


def test_bug_in_a_worker_shows_its_traceback_and_ends_it_without_a_wait():
    command = [sys.executable, "-c", BUG]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=script_env(), timeout=60
    )
    assert result.returncode == 1 and "AttributeError: 'Store' object" in result.stderr
