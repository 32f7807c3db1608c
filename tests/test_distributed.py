import contextlib
import json
import re
import socket
import subprocess
import sys
import urllib.request
from types import SimpleNamespace

from common.compat import CLUSTER_VARIABLES
from common.errors import ScriptError

import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, read_log, read_text, run_script, script_env

from pic.browser import serve
from train_mnist import check_batch_size

SCRIPT = "train_mnist.py"
WORKER = ("--kv-store", "dist_sync")


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
def cluster(workers, *command, **variables):
    """Start a scheduler, a server and workers, each in a process of its own."""
    env = {**cluster_env(workers), **variables}
    processes = [start(role, ROOT / SCRIPT, env=env) for role in ("scheduler", "server")]
    processes += [start("worker", *command, env=env) for _ in range(workers)]
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


@pytest.fixture(scope="module")
def training(real):
    return "--data-dir", real / "mnist", "--epochs", 2, "--batch-size", 600


@pytest.fixture(scope="module")
def alone(training, tmp_path_factory):
    """Log what a single process does."""
    folder = tmp_path_factory.mktemp("alone")
    result = run_script(SCRIPT, *training, "--logdir", folder, env={"OMP_NUM_THREADS": None})
    assert result.returncode == 0, result.stderr
    return read_log(folder)


def train_as_the_readme_says(training, folder):
    readme = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"^    \(\n.*?^    \)\n", readme, re.DOTALL | re.MULTILINE)
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
def logdirs(training, tmp_path_factory):
    """Train with 1, 2 and 4 workers; return the folders of the logs."""
    folders = {workers: tmp_path_factory.mktemp(f"{workers}-workers") for workers in (1, 2, 4)}
    train_as_the_readme_says(training, folders[2])
    for workers in (1, 4):
        flags = (*WORKER, *training, "--logdir", folders[workers])
        with cluster(workers, ROOT / SCRIPT, *flags) as processes:
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
    assert losses.shape == (workers, 200)
    expected = values(alone, "cross_entropy")[:10]
    np.testing.assert_allclose(losses[:, :10].mean(axis=0), expected, rtol=0, atol=1e-4)
    # Each for a part of its own.
    assert (np.diff(losses, axis=0) != 0).mean() > 0.9 or workers == 1


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_become_as_accurate_as_a_single_process(workers, alone, logs):
    expected = values(alone, "valid_acc")
    assert len(expected) == 2 and expected[-1] > 0.9
    assert values(logs[workers][0], "valid_acc") == pytest.approx(expected, abs=0.003)
    seen = np.mean([values(log, "train_acc") for log in logs[workers]], axis=0)
    assert seen == pytest.approx(values(alone, "train_acc"), abs=0.003)


def test_gradients_of_worker_0_are_the_sum_over_all_workers(alone, logs):
    names = alone.Tags()["histograms"]
    assert len(names) == 6 and names == logs[4][0].Tags()["histograms"]
    for name in names:
        # After a hundred steps; weights would be of another order of magnitude.
        expected, found = (log.Histograms(name)[0].histogram_value for log in (alone, logs[4][0]))
        for statistic in ("min", "max", "sum_squares"):
            assert getattr(found, statistic) == pytest.approx(getattr(expected, statistic), rel=0.2)


def test_worker_0_logs_what_a_single_process_does_and_the_others_their_curves(alone, logs):
    first, *others = (log.Tags() for log in logs[4])
    assert first == alone.Tags()
    for tags in others:
        assert sorted(tags["scalars"]) == ["cross_entropy", "train_acc"]
        assert not (tags["images"] or tags["histograms"] or tags["graph"])
    assert all(read_text(log, "mnist_data").startswith("MNIST") for log in logs[4])


def test_one_tensorboard_shows_a_curve_a_worker(logdirs, logs):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with serve(logdirs[4]) as url:
        for rank in range(4):
            address = f"{url}data/plugin/scalars/scalars?run=worker-{rank}&tag=cross_entropy"
            points = json.load(opener.open(address, timeout=30))
            assert [point[2] for point in points] == values(logs[4][rank], "cross_entropy")


# The pixel of each picture is its number.
COUNT_SAMPLES = """
import sys
from types import SimpleNamespace
import train_mnist as script
from common import SummaryWriter
import mxnet as mx, numpy as np
from mxnet import gluon, nd

class Recorder(gluon.nn.Dense):
    def forward(self, images):
        seen.extend(images[:, 0, 0, 0].asnumpy())
        return super().forward(images)

seen = []
kv = mx.kv.create("dist_sync")
net = Recorder(10, in_units=1)
net.initialize()
trainer = gluon.Trainer(net.collect_params(), "sgd", kvstore=kv, update_on_kvstore=False)
script.share_weights(trainer)
images = nd.arange(630).reshape((-1, 1, 1, 1))
args = SimpleNamespace(batch_size=100, log_interval=100)
rng = np.random.default_rng(0)
with SummaryWriter(f"{sys.argv[1]}/{kv.rank}") as sw:
    for epoch in range(2):
        script.train_epoch(net, trainer, images / 1e3, nd.zeros(630), epoch, args, rng, kv, sw)
np.save(f"{sys.argv[1]}/{kv.rank}.npy", np.reshape(seen, (2, 6, 50)) * 1e3)
"""


def test_every_sample_of_the_full_batches_is_used_exactly_once_an_epoch(tmp_path):
    (tmp_path / "count.py").write_text(COUNT_SAMPLES)
    with cluster(2, tmp_path / "count.py", tmp_path, PYTHONPATH=str(ROOT)) as processes:
        wait(processes)
    numbers = np.concatenate([np.load(tmp_path / f"{rank}.npy") for rank in (0, 1)], axis=2)
    rng = np.random.default_rng(0)
    for epoch in numbers.round().astype(int):
        dealt = rng.permutation(630)[:600].reshape(6, 100)
        assert (np.sort(epoch) == np.sort(dealt)).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, None) for name in CLUSTER_VARIABLES),
        *(("DMLC_ROLE", "boss"), ("DMLC_PS_ROOT_PORT", "http"), ("DMLC_NUM_WORKER", "0")),
    ],
)
def test_variable_that_is_missing_or_wrong_is_named(name, value, call, monkeypatch):
    for each, text in {**cluster_env(1), "DMLC_ROLE": "worker", name: value}.items():
        monkeypatch.setenv(each, text or "")
    with pytest.raises(ScriptError, match=f"{name} is {value or 'not set'}: the README"):
        call(SCRIPT, *WORKER)


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
