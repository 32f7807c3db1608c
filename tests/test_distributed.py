import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

from common.cluster import VARIABLES
from common.errors import ScriptError

import numpy as np
import pytest
from helpers import (
    ROOT,
    assert_one_line_error,
    read_log,
    read_text,
    run_main,
    run_script,
    script_env,
)
from mxnet import gluon, nd

from pic.browser import ask, serve
from train_mnist import check_batch_size, draw_batches, train_epoch

SCRIPT = "train_mnist.py"
DISTRIBUTED = ("--kv-store", "dist_sync")
SCHEDULER, SERVER, WORKER = range(3)  # in the order in which processes start


def cluster_env(workers):
    """Return what every process of a training on the loopback needs, at a port that is free."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    return {
        "DMLC_PS_ROOT_URI": "127.0.0.1",
        "DMLC_PS_ROOT_PORT": str(port),
        "DMLC_NODE_HOST": "127.0.0.1",
        "DMLC_NUM_SERVER": "1",
        "DMLC_NUM_WORKER": str(workers),
        "OMP_NUM_THREADS": None,
    }


def start(role, *command, env):
    """Start one process of a training."""
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=script_env(**env, DMLC_ROLE=role),
    )


@contextlib.contextmanager
def cluster(workers, *command, last=(), **variables):
    """Start a scheduler, a server and workers, each in a process of its own; the last has more."""
    env = {**cluster_env(workers), **variables}
    processes = [start(role, ROOT / SCRIPT, env=env) for role in ("scheduler", "server")]
    processes += [start("worker", *command, env=env) for _ in range(workers - 1)]
    processes.append(start("worker", *command, *last, env=env))
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def wait(processes):
    """Wait for all to end well, by themselves."""
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")


def values(log, tag):
    return [event.value for event in log.Scalars(tag)]


# Which process gets which signal, and how each worker ends.
FAILURES = {
    "server killed, and a worker stopped that waits for it": (
        {SERVER: signal.SIGKILL, WORKER: signal.SIGINT},
        [-signal.SIGINT, 1],
    ),
    "a worker stopped, and another killed": (
        {WORKER: signal.SIGINT, WORKER + 1: signal.SIGKILL},
        [-signal.SIGINT, -signal.SIGKILL, 1],
    ),
    "scheduler killed": ({SCHEDULER: signal.SIGKILL}, [1]),
}
LAST_LINE = (
    "error: no answer for 10 seconds (MXBOARD_DEMO_WAIT_SECONDS): another process has probably gone"
)


def wait_for_losses(workers, folder):
    """Wait until each worker has logged its first losses; none may end before."""
    logged = 0
    while logged < len(workers):
        for worker in workers:
            assert worker.poll() is None, worker.communicate()
        time.sleep(0.05)
        logged = sum(b"cross_entropy" in path.read_bytes() for path in folder.glob("*/*.mnist"))


@pytest.fixture(scope="module")
def failures(real, tmp_path_factory):
    """Let several trainings lose a process; return the log folder and the workers of each."""
    flags = *DISTRIBUTED, "--data-dir", real / "mnist", "--epochs", 1, "--batch-size", 96
    trainings = {}
    with contextlib.ExitStack() as stack:
        for name, (signals, statuses) in FAILURES.items():
            folder = tmp_path_factory.mktemp("failure")
            command = ROOT / SCRIPT, *flags, "--logdir", folder
            training = cluster(len(statuses), *command, MXBOARD_DEMO_WAIT_SECONDS="10")
            processes = stack.enter_context(training)
            trainings[name] = folder, processes[WORKER:]
            wait_for_losses(processes[WORKER:], folder)
            for process, number in signals.items():
                processes[process].send_signal(number)
                processes[process].wait(timeout=5)
        yield trainings


@pytest.fixture(scope="module")
def training(real):
    return "--data-dir", real / "mnist", "--epochs", 2, "--batch-size", 3000


@pytest.fixture(scope="module")
def alone(training, tmp_path_factory):
    """Log what a single process does."""
    folder = tmp_path_factory.mktemp("alone")
    run_main(SCRIPT, *training, "--logdir", folder)
    return read_log(folder)


def train_as_the_page_says(training, folder):
    page = (ROOT / "docs" / "several-machines.md").read_text()
    (block,) = re.findall(r"^    \(\n.*?^    \)\n", page, re.DOTALL | re.MULTILINE)
    command = f"{sys.executable} {ROOT / SCRIPT}"
    flags = " ".join(map(str, ("--kv-store dist_sync", *training, "--logdir", folder)))
    block = block.replace("python train_mnist.py", command).replace("--kv-store dist_sync", flags)
    port = cluster_env(2)["DMLC_PS_ROOT_PORT"]
    result = subprocess.run(
        ["bash", "-c", re.sub("(DMLC_PS_ROOT_PORT)=[0-9]+", rf"\1={port}", block)],
        capture_output=True,
        text=True,
        timeout=100,
        env=script_env(OMP_NUM_THREADS=None),
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("Validation") == 2  # one of the workers speaks for all


@pytest.fixture(scope="module")
def logdirs(training, failures, tmp_path_factory):
    """Train with 1, 2 and 4 workers, while those of `failures` wait; return the logs' folders."""
    folders = {workers: tmp_path_factory.mktemp(f"{workers}-workers") for workers in (1, 2, 4)}
    with contextlib.ExitStack() as stack:
        others = [
            stack.enter_context(
                cluster(n, ROOT / SCRIPT, *DISTRIBUTED, *training, "--logdir", folders[n])
            )
            for n in (1, 4)
        ]
        train_as_the_page_says(training, folders[2])
        for processes in others:
            wait(processes)
    return folders


@pytest.fixture(scope="module")
def logs(logdirs):
    return {
        workers: [read_log(folder / f"worker-{rank}") for rank in range(workers)]
        for workers, folder in logdirs.items()
    }


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_take_the_same_steps_as_a_single_process(workers, alone, logs):
    losses = np.array([values(log, "cross_entropy") for log in logs[workers]])
    assert losses.shape == (workers, 40)
    expected = values(alone, "cross_entropy")
    np.testing.assert_allclose(losses.mean(axis=0), expected, rtol=0, atol=1e-4)
    # Each for a part of its own.
    assert all(len(set(step)) == workers for step in losses.T)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_become_as_accurate_as_a_single_process(workers, alone, logs):
    expected = values(alone, "valid_acc")
    assert len(expected) == 2 and expected[-1] > 0.8
    assert values(logs[workers][0], "valid_acc") == pytest.approx(expected, abs=0.003)
    seen = np.mean([values(log, "train_acc") for log in logs[workers]], axis=0)
    assert seen == pytest.approx(values(alone, "train_acc"), abs=0.003)


def test_gradients_of_worker_0_are_the_sum_over_all_workers(alone, logs):
    names = alone.Tags()["histograms"]
    assert len(names) == 6 and names == logs[4][0].Tags()["histograms"]
    for name in names:
        expected, found = (log.Histograms(name)[0].histogram_value for log in (alone, logs[4][0]))
        for statistic in ("min", "max", "sum_squares"):
            value = getattr(expected, statistic)
            assert getattr(found, statistic) == pytest.approx(value, rel=1e-3)


def test_worker_0_logs_what_a_single_process_does_and_the_others_their_curves(alone, logs):
    first, *others = (log.Tags() for log in logs[4])
    assert first == alone.Tags()
    for tags in others:
        assert sorted(tags["scalars"]) == ["cross_entropy", "train_acc"]
        assert not (tags["images"] or tags["histograms"] or tags["graph"])
    assert all(read_text(log, "mnist_data").startswith("MNIST") for log in logs[4])


def test_one_tensorboard_shows_a_curve_a_worker(logdirs, logs):
    with serve(logdirs[4]) as url:
        for rank in range(4):
            path = f"scalars/scalars?run=worker-{rank}&tag=cross_entropy"
            points = json.loads(ask(url, f"plugin/{path}"))
            assert [point[2] for point in points] == values(logs[4][rank], "cross_entropy")


class Recorder(gluon.nn.Dense):
    """Notes which pictures it sees: the only pixel of each has a value of its own."""

    def forward(self, images):
        self.seen.extend((630 * images[:, 0, 0, 0]).round().asnumpy())
        return super().forward(images)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_sample_of_the_full_batches_is_used_exactly_once_an_epoch(workers):
    images, labels = nd.arange(630).reshape((-1, 1, 1, 1)) / 630, nd.zeros(630)
    net = Recorder(10, in_units=1)
    net.initialize()
    parts = []
    for rank in range(workers):
        net.seen = []
        trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0})
        kv = SimpleNamespace(rank=rank, num_workers=workers)
        rng = np.random.default_rng(0)
        for _ in range(2):
            batches = zip(*draw_batches(images, labels, 100, rng, kv))
            assert len(list(train_epoch(net, trainer, images, batches, 100))) == 6
        parts.append(np.reshape(net.seen, (2, 6, -1)))
    rng = np.random.default_rng(0)
    for epoch in np.concatenate(parts, axis=2):
        dealt = rng.permutation(630)[:600].reshape(6, 100)
        assert (np.sort(epoch) == np.sort(dealt)).all()


def test_worker_that_finds_nobody_says_so(tmp_path):
    env = {**cluster_env(1), "DMLC_ROLE": "worker", "MXBOARD_DEMO_WAIT_SECONDS": "1"}
    result = run_script(SCRIPT, *DISTRIBUTED, "--logdir", tmp_path, env=env, timeout=30)
    assert_one_line_error(result, 1, "no answer for 1 second", "or was never started")


# What keeps the store alive waits for the others when Python frees it.
BUG = """
import time
from common import cli
from common.cluster import PeerWatch

class Store:
    def __del__(self):
        time.sleep(60)

def main():
    with PeerWatch():
        store = Store()
        store.no_such_name

cli.run(main)
"""


def test_bug_in_a_worker_shows_its_traceback_and_ends_without_a_wait(tmp_path):
    (tmp_path / "bug.py").write_text(BUG)
    process = start("worker", tmp_path / "bug.py", env={**cluster_env(1), "PYTHONPATH": str(ROOT)})
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "store.no_such_name" in errors
    assert errors.splitlines()[-1].startswith("AttributeError: ")


@pytest.fixture
def worker_env(monkeypatch):
    """Make this process a worker's; call with the variables that differ."""

    def set_env(**variables):
        env = {**cluster_env(1), "DMLC_ROLE": "worker", **variables}
        for name, value in env.items():
            monkeypatch.setenv(name, value or "")

    return set_env


def test_limit_that_is_no_number_of_seconds_is_named(call, worker_env):
    worker_env(MXBOARD_DEMO_WAIT_SECONDS="1m")
    with pytest.raises(ScriptError, match="MXBOARD_DEMO_WAIT_SECONDS: 1m is not a number"):
        call(SCRIPT, *DISTRIBUTED)


@pytest.mark.parametrize("name", FAILURES)
def test_workers_end_with_one_line_and_whole_logs_when_a_process_is_lost(name, failures):
    folder, workers = failures[name]
    for worker, status in zip(workers, FAILURES[name][1]):
        _, errors = worker.communicate(timeout=30)
        assert worker.returncode == status
        assert len(errors.splitlines()) == (status > 0)
        assert status != 1 or LAST_LINE in errors
    logs = [read_log(each) for each in folder.iterdir()]
    assert len(logs) == len(workers)
    for log in logs:
        steps = [event.step for event in log.Scalars("cross_entropy")]
        assert len(steps) >= 50 and steps == list(range(len(steps)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, None) for name in VARIABLES),
        *(("DMLC_ROLE", "boss"), ("DMLC_PS_ROOT_PORT", "http"), ("DMLC_NUM_WORKER", "0")),
    ],
)
def test_variable_that_is_missing_or_wrong_is_named(name, value, call, worker_env):
    worker_env(**{name: value})
    with pytest.raises(
        ScriptError, match=f"{name} is {value or 'not set'}: docs/several-machines.md"
    ):
        call(SCRIPT, *DISTRIBUTED)


def test_scheduler_whose_port_is_taken_says_so_in_one_line():
    env = {**cluster_env(1), "DMLC_ROLE": "scheduler"}
    with socket.create_server(("127.0.0.1", int(env["DMLC_PS_ROOT_PORT"]))):
        result = run_script(SCRIPT, env=env, timeout=30)
    assert_one_line_error(result, 1, "scheduler cannot start (bind failed)", "DMLC_PS_ROOT_PORT")


def test_scheduler_that_is_not_told_how_many_workers_says_so_in_one_line():
    env = {**cluster_env(1), "DMLC_ROLE": "scheduler", "DMLC_NUM_WORKER": None}
    assert_one_line_error(run_script(SCRIPT, env=env, timeout=30), 1, "DMLC_NUM_WORKER is not set")


def test_batch_that_workers_cannot_share_is_a_wrong_argument():
    check_batch_size(99, range(1000), SimpleNamespace(num_workers=3))
    with pytest.raises(ScriptError, match="--batch-size: 100 cannot be shared by 3") as raised:
        check_batch_size(100, range(1000), SimpleNamespace(num_workers=3))
    assert raised.value.status == 2


def test_workers_that_differ_end_in_one_line_that_says_in_what(tmp_path):
    command = ROOT / SCRIPT, *DISTRIBUTED, "--offline", "--batch-size", 3000, "--logdir", tmp_path
    with cluster(2, *command, last=("--lr", 0.2, "--seed", 1)) as processes:
        for worker in processes[WORKER:]:
            _, errors = worker.communicate(timeout=60)
            assert worker.returncode == 1
            assert errors.splitlines()[-1].endswith(
                "error: the workers differ in --lr, --seed: start all with the same"
            )
