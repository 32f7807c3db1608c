import fcntl
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

from common import SummaryWriter
from common.assets import MNIST, load_mnist

import numpy as np
import pytest
from conftest import (
    ROOT,
    assert_one_line_error,
    decode,
    read_log,
    read_text,
    run_script,
    script_env,
)

PARAMETERS = {
    "hybridsequential0_dense0_weight": 128 * 784,
    "hybridsequential0_dense0_bias": 128,
    "hybridsequential0_dense1_weight": 64 * 128,
    "hybridsequential0_dense1_bias": 64,
    "hybridsequential0_dense2_weight": 10 * 64,
    "hybridsequential0_dense2_bias": 10,
}
# Few steps: two of 30,000 images.
SMALL = ("--offline", "--epochs", 1, "--batch-size", 30_000)


class Run:
    """A finished run: what it printed and what it logged."""

    def __init__(self, folder, data_dir, *args):
        self.logdir, self.data_dir = folder / "logs", data_dir
        self.result = run_script(
            "train_mnist.py", "--logdir", self.logdir, "--data-dir", data_dir, *args
        )
        assert self.result.returncode == 0, self.result.stderr
        self.lines = self.result.stdout.splitlines()
        self.log = read_log(self.logdir)

    def scalars(self, tag):
        return [(event.step, event.value) for event in self.log.Scalars(tag)]

    def printed(self, kind):
        pattern = rf"\[Epoch (\d+)\] {kind}: accuracy=(\d\.\d{{6}})"
        matches = (re.fullmatch(pattern, line) for line in self.lines)
        return [(int(match[1]), float(match[2])) for match in matches if match]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    return Run(folder, folder / "data", "--offline")


@pytest.fixture(scope="module")
def on_mnist(real, tmp_path_factory):
    return Run(tmp_path_factory.mktemp("mnist"), real / "mnist")


@pytest.fixture(scope="module", params=["drawn", "on_mnist"])
def run(request):
    return request.getfixturevalue(request.param)


def test_every_step_is_logged_once_in_order(run):
    steps, losses = zip(*run.scalars("cross_entropy"))
    assert steps == tuple(range(6000))
    assert 2 < losses[0] < 3  # ten classes known nothing about: about ln(10) = 2.3
    assert np.mean(losses[-600:]) < 0.1 * losses[0]


def test_accuracies_are_logged_as_they_are_printed(run):
    for tag, kind in (("train_acc", "Training"), ("valid_acc", "Validation")):
        printed = run.printed(kind)
        assert [epoch for epoch, _ in printed] == list(range(10))
        assert run.scalars(tag) == [
            (step, pytest.approx(value, abs=1e-6)) for step, value in printed
        ]


def test_lines_every_log_interval_give_the_accuracy_up_to_that_batch(run):
    pattern = r"\[Epoch 0 Batch (\d+)\] Training: accuracy=(\d\.\d{6})"
    matches = [match for match in (re.fullmatch(pattern, line) for line in run.lines) if match]
    assert [int(match[1]) for match in matches] == [100, 200, 300, 400, 500]
    for match in matches:
        hits = float(match[2]) * 100 * (int(match[1]) + 1)
        assert hits == pytest.approx(round(hits), abs=0.05)
    accuracies = [float(match[2]) for match in matches]
    assert accuracies == sorted(accuracies)


def test_real_mnist_is_learned_as_well_as_it_should_be(on_mnist):
    accuracies = dict(on_mnist.printed("Validation"))
    assert accuracies[1] >= 0.95
    assert accuracies[9] >= 0.97


def test_drawn_digits_are_as_hard_to_learn_as_mnist(drawn):
    accuracies = dict(drawn.printed("Validation"))
    assert 0.88 <= accuracies[0] <= 0.97
    assert 0.97 <= accuracies[9] <= 0.997


def test_pictures_show_the_training_images_that_each_epoch_began_with(run):
    (images, _), _, _ = load_mnist(run.data_dir, offline=True)
    known = {image.tobytes() for image in images}
    events = run.log.Images("minist_first_minibatch")
    assert [event.step for event in events] == list(range(10))
    first = set()
    for event in events:
        grid = decode(event)
        # 100 pictures, 8 a row, 28 pixels high, with 2 pixels around each.
        assert grid.shape == (13 * 30 + 2, 8 * 30 + 2, 3)
        assert (grid[..., 0] == grid[..., 1]).all() and (grid[..., 0] == grid[..., 2]).all()
        grid = grid[2:, 2:, 0].reshape(13, 30, 8, 30).swapaxes(1, 2).reshape(104, 30, 30)
        digits = {digit.tobytes() for digit in np.ascontiguousarray(grid[:100, :28, :28])}
        assert len(digits) == 100 and digits <= known
        assert not grid[100:].any() and not grid[:, 28:].any() and not grid[:, :, 28:].any()
        first.add(frozenset(digits))
    assert len(first) == 10


def test_histograms_hold_every_gradient_in_a_thousand_bins(run):
    assert set(run.log.Tags()["histograms"]) == set(PARAMETERS)
    for name, size in PARAMETERS.items():
        events = run.log.Histograms(name)
        assert [event.step for event in events] == list(range(10))
        for event in events:
            histogram = event.histogram_value
            assert len(histogram.bucket) == 1000
            assert histogram.num == sum(histogram.bucket) == size
            assert histogram.min < 0 < histogram.max
    # The gradient of softmax cross entropy by the ten scores adds up to nothing over the classes;
    # a histogram of the parameter itself would not.
    for event in run.log.Histograms("hybridsequential0_dense2_bias"):
        assert event.histogram_value.sum == pytest.approx(0, abs=1e-2)


def test_graph_leads_through_three_dense_layers_to_ten_scores(run):
    inputs = {node.name: list(node.input) for node in run.log.Graph().node}
    path = ["hybridsequential0_dense2_fwd/hybridsequential0_dense2_fwd"]
    while path[-1] in inputs and inputs[path[-1]]:
        path.append(inputs[path[-1]][0])
    scopes = [name.split("/")[0] for name in reversed(path)]
    assert scopes == [
        "data",
        "hybridsequential0_dense0_fwd",
        "hybridsequential0_dense0_relu_fwd",
        "hybridsequential0_dense1_fwd",
        "hybridsequential0_dense1_relu_fwd",
        "hybridsequential0_dense2_fwd",
    ]


def test_graph_is_logged_once_before_the_first_step(drawn):
    (file,) = drawn.logdir.iterdir()
    content = file.read_bytes()
    name = b"hybridsequential0_dense2_fwd/hybridsequential0_dense2_weight"
    assert content.count(name) == content.count(name, 0, content.index(b"cross_entropy")) > 0


def test_log_and_terminal_say_that_digits_were_drawn(drawn):
    text = read_text(drawn.log, "mnist_data")
    assert text.startswith("**Not MNIST:** 60,000 training and 10,000 test digits drawn")
    assert all(name in text for name in MNIST)
    (notice,) = drawn.result.stderr.splitlines()
    assert all(name in notice for name in MNIST)
    assert "--offline" in notice and "drawn digits" in notice


def test_log_says_that_it_was_mnist_and_terminal_stays_quiet(on_mnist):
    text = read_text(on_mnist.log, "mnist_data")
    assert text.startswith("MNIST: 60,000 training and 10,000 test images")
    assert on_mnist.result.stderr == ""


def test_output_ends_with_what_to_do_next(drawn):
    assert drawn.lines[-3] == "finished training"
    assert f"tensorboard --logdir {drawn.logdir}" in drawn.lines[-2]
    assert "--logdir logs/NAME" in drawn.lines[-1]


def test_same_seed_gives_the_same_curves_and_a_second_run_touches_no_file(tmp_path):
    def curve(*args):
        result = run_script("train_mnist.py", *SMALL, "--logdir", "logs", *args, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        newest = max((tmp_path / "logs").iterdir(), key=lambda file: file.stat().st_mtime_ns)
        log = read_log(newest)
        return [log.Scalars(tag)[0].value for tag in ("cross_entropy", "train_acc", "valid_acc")]

    first = curve()
    (file,) = (tmp_path / "logs").iterdir()
    before = file.read_bytes(), file.stat().st_mtime_ns
    assert curve() == first
    assert curve("--seed", 43) != first
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    assert len(list((tmp_path / "logs").iterdir())) == 3
    assert not (tmp_path / "data").exists()


def test_second_training_in_a_folder_says_that_it_replaces_the_first(tmp_path):
    with SummaryWriter(str(tmp_path / "logs")) as sw:
        sw.add_scalar("not_a_training", 1, 0)
    results = [run_script("train_mnist.py", *SMALL, cwd=tmp_path) for _ in range(2)]
    first, second = (result.stderr.splitlines() for result in results)
    (line,) = (line for line in second if line not in first)
    assert "./logs holds a training already" in line and "--logdir logs/NAME" in line


def test_partial_batch_is_dropped(tmp_path):
    result = run_script(
        *("train_mnist.py", "--offline", "--epochs", 2, "--batch-size", 7000), cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    steps = [event.step for event in read_log(tmp_path / "logs").Scalars("cross_entropy")]
    assert steps == list(range(2 * 8))


def test_terminal_shows_a_bar_an_epoch_with_batches_loss_and_accuracy(tmp_path):
    terminal, process_end = pty.openpty()
    fcntl.ioctl(process_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    command = [sys.executable, ROOT / "train_mnist.py", *map(str, SMALL), "--logdir", tmp_path]
    process = subprocess.Popen(command, stdout=process_end, stderr=process_end, env=script_env())
    os.close(process_end)
    shown = b""
    # Reading fails once the process has closed its end.
    while chunk := _read(terminal):
        shown += chunk
    assert process.wait() == 0
    last = shown.split(b"epoch 0: ")[-1]
    assert b"2/2 " in last
    assert re.search(rb"loss=\d\.\d+", last) and re.search(rb"accuracy=0\.\d+", last)


def _read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def test_help_shows_every_default():
    text = run_script("train_mnist.py", "--help").stdout
    for default in (100, 10, 0.1, 0.9, 100, "./logs", "./data", 42):
        assert f"(default: {default})" in text


@pytest.mark.parametrize(
    "arguments",
    [
        "--batch-size 0",
        "--batch-size -1",
        "--batch-size ten",
        "--offline --batch-size 60001",
        "--epochs 0",
        "--lr 0",
        "--lr -0.1",
        "--lr nan",
        "--lr fast",
        "--momentum 1",
        "--momentum -0.1",
        "--log-interval 0",
        "--seed -1",
        "--no-such-flag",
    ],
)
def test_wrong_argument_ends_in_one_line_that_names_it(arguments, tmp_path):
    result = run_script("train_mnist.py", *shlex.split(arguments), cwd=tmp_path)
    assert_one_line_error(result, 2, shlex.split(arguments)[-2 if " " in arguments else 0])
    assert not list(tmp_path.glob("logs/*"))


@pytest.mark.parametrize("flag", ["--logdir", "--data-dir"])
@pytest.mark.parametrize("path", ["a_file", "a_file/below"])
def test_folder_that_is_a_file_ends_in_one_line_that_names_it(flag, path, tmp_path):
    (tmp_path / "a_file").write_text("kept")
    result = run_script("train_mnist.py", flag, path, cwd=tmp_path)
    assert_one_line_error(result, 1, path)
    assert (tmp_path / "a_file").read_text() == "kept"


@pytest.mark.parametrize("flag", ["--logdir", "--data-dir"])
def test_folder_that_cannot_be_written_ends_in_one_line_that_names_it(flag):
    result = run_script("train_mnist.py", flag, "/proc/no_such_folder")
    assert_one_line_error(result, 1, "/proc/no_such_folder")


def test_cuda_without_a_gpu_says_how_to_get_one(tmp_path):
    result = run_script("train_mnist.py", "--cuda", cwd=tmp_path)
    assert_one_line_error(result, 1, "no GPU", "mxnet-cu112", "mxnet-cu117", "1.9.1")


def test_loss_that_is_no_number_stops_training_and_says_so(tmp_path):
    args = ("--offline", "--lr", "1e30", "--logdir", tmp_path)
    result = run_script("train_mnist.py", *args)
    assert_one_line_error(result, 1, "nan", "--lr")
    losses = [event.value for event in read_log(tmp_path).Scalars("cross_entropy")]
    assert np.isfinite(losses[:-1]).all() and not np.isfinite(losses[-1])


def test_full_disk_ends_in_one_line_and_leaves_the_log_readable(small_disk):
    result = run_script("train_mnist.py", "--offline", "--logdir", small_disk / "run", timeout=120)
    assert_one_line_error(result, 1, "No space left on device", str(small_disk), "free some space")
    steps = [event.step for event in read_log(small_disk / "run").Scalars("cross_entropy")]
    assert len(steps) > 100 and steps == list(range(len(steps)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_run_keeps_what_it_logged(number, tmp_path):
    command = [sys.executable, ROOT / "train_mnist.py", "--offline", "--logdir", tmp_path]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=script_env()
    )
    for line in process.stdout:
        if line.startswith("[Epoch 1 Batch 100]"):
            break
    time.sleep(0.5)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    killed = number == signal.SIGKILL
    assert process.returncode == (-number if killed else 128 + number)
    assert "Traceback" not in errors
    steps = [event.step for event in read_log(tmp_path).Scalars("cross_entropy")]
    assert len(steps) > 700 and steps == list(range(len(steps)))


def _copy_of_mnist(real, folder):
    shutil.copytree(real / "mnist", folder)
    return folder


def _cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def _flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_cut_short, _flip_a_byte])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_damaged_file_is_named_and_fetched_again(name, damage, real, http_folder, tmp_path):
    url, requests = http_folder(real / "mnist")
    data = _copy_of_mnist(real, tmp_path / "data")
    damage(data / name)
    args = ("--epochs", 1, "--batch-size", 30_000)
    result = run_script("train_mnist.py", *args, cwd=tmp_path, env={"MXBOARD_DEMO_MIRROR": url})
    assert result.returncode == 0, result.stderr
    assert f"{name} is damaged" in result.stderr
    assert [path for method, path in requests if method == "GET"] == [f"/{name}"]
    assert (data / name).read_bytes() == (real / "mnist" / name).read_bytes()
    assert read_text(read_log(tmp_path / "logs"), "mnist_data").startswith("MNIST:")


@pytest.mark.parametrize("options", [(), ("--offline",)])
def test_damaged_file_that_cannot_be_had_is_an_error_and_never_a_stand_in(options, tmp_path):
    damaged = tmp_path / "data" / "train-labels-idx1-ubyte.gz"
    damaged.parent.mkdir()
    damaged.write_bytes(b"not the labels")
    result = run_script("train_mnist.py", *options, cwd=tmp_path)
    assert_one_line_error(result, 1, damaged.name, "damaged")
    assert damaged.read_bytes() == b"not the labels"
    assert not list(tmp_path.glob("logs/*"))


def test_missing_files_are_fetched_and_the_others_left_alone(real, http_folder, tmp_path):
    url, requests = http_folder(real / "mnist")
    data = _copy_of_mnist(real, tmp_path / "data")
    (data / MNIST[0]).unlink()
    (data / MNIST[3]).unlink()
    args = ("--epochs", 1, "--batch-size", 30_000)
    result = run_script("train_mnist.py", *args, cwd=tmp_path, env={"MXBOARD_DEMO_MIRROR": url})
    assert result.returncode == 0, result.stderr
    assert [path for method, path in requests if method == "GET"] == [
        f"/{MNIST[0]}",
        f"/{MNIST[3]}",
    ]
    assert sorted(path.name for path in data.iterdir()) == sorted(MNIST)


def test_missing_files_that_cannot_be_had_are_named_and_all_data_is_drawn(real, tmp_path):
    data = _copy_of_mnist(real, tmp_path / "data")
    (data / MNIST[1]).unlink()
    args = ("--epochs", 1, "--batch-size", 30_000)
    result = run_script("train_mnist.py", *args, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (notice,) = result.stderr.splitlines()
    assert MNIST[1] in notice and MNIST[0] not in notice and "no connection" in notice
    assert read_text(read_log(tmp_path / "logs"), "mnist_data").startswith("**Not MNIST:**")
