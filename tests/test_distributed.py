import re
import socket
import sys

import numpy as np
import pytest
from helpers import ROOT, find, read_log, run, values, write_digits

SCRIPT = "train_mnist.py"
ARGUMENTS = "--epochs 2 --batch-size 300"  # 40 steps


def train_as_the_page_says(folder, of_the_last_worker=""):
    """Run the page's own block, at a port that is free; return once all processes have ended."""
    write_digits(folder / "data")
    page = (ROOT / "docs" / "several-machines.md").read_text()
    (block,) = re.findall(r"^    \(\n.*?^    \)\n", page, re.DOTALL | re.MULTILINE)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    block = re.sub("(DMLC_PS_ROOT_PORT)=[0-9]+", rf"\1={port}", block)
    block = block.replace("python train_mnist.py", f"{sys.executable} {ROOT / SCRIPT}")
    start = f"--kv-store dist_sync {ARGUMENTS}"
    first, second, rest = block.split("--kv-store dist_sync")
    block = f"{first}{start}{second}{start} {of_the_last_worker}{rest}"
    # Ends all of them after a hang.
    return run("timeout", "300", "bash", "-c", block, cwd=folder)


def test_two_workers_take_the_same_steps_as_a_single_process(call, tmp_path):
    result = train_as_the_page_says(tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Validation") == 2  # one of the workers speaks for all
    call(SCRIPT, *ARGUMENTS.split(), "--logdir", "alone")
    folders = [tmp_path / name for name in ("alone", "logs/worker-0", "logs/worker-1")]
    expected, *workers = map(read_log, folders)
    for log in workers:
        assert log.Tags() == expected.Tags()
        assert values(log, "valid_acc") == pytest.approx(values(expected, "valid_acc"), abs=0.003)
        for name in log.Tags()["histograms"]:  # gradients of the whole batch
            one, other = (
                [event.histogram_value.sum_squares for event in each.Histograms(name)]
                for each in (log, expected)
            )
            np.testing.assert_allclose(one, other, rtol=0.01)
    for tag in ("cross_entropy", "train_acc"):  # each of its part
        parts = np.array([values(log, tag) for log in workers])
        assert (parts[0] != parts[1]).any()
        np.testing.assert_allclose(parts.mean(axis=0), values(expected, tag), atol=1e-3)
    codes, *others = (
        np.fromfile(find(folder / "mnist_codes", "tensors.bytes"), "<f4") for folder in folders
    )
    assert (others[0] == others[1]).all()  # of the same weights
    np.testing.assert_allclose(others[0], codes, atol=0.02)


def test_error_in_one_worker_ends_all_with_one_line(tmp_path):
    result = train_as_the_page_says(tmp_path, "--batch-size 301")
    assert result.returncode == 2
    (error,) = [line for line in result.stderr.splitlines() if "error: " in line]
    assert "--batch-size: 301 does not fit 6000 images and 2 workers" in error
    assert "Validation" not in result.stdout
