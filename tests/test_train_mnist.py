import re
import shlex
import signal
import subprocess
import sys

from common.charts import draw_confusion, scale_each
from common.datasets import load_mnist
from common.errors import ScriptError

import cv2
import mxnet as mx
import numpy as np
import pytest
from helpers import (
    ROOT,
    assert_one_line_error,
    decode,
    find,
    grid,
    read_log,
    read_text,
    run_script,
    script_env,
    start_in_terminal,
)
from mxboard import SummaryWriter
from mxnet import gluon, nd

from train_mnist import build_net, log_epoch, train_epoch

SCRIPT = "train_mnist.py"
PARAMETERS = {
    "hybridsequential0_dense0_weight": 128 * 784,
    "hybridsequential0_dense0_bias": 128,
    "hybridsequential0_dense1_weight": 64 * 128,
    "hybridsequential0_dense1_bias": 64,
    "hybridsequential0_dense2_weight": 10 * 64,
    "hybridsequential0_dense2_bias": 10,
}
SMALL = ("--offline", "--epochs", 1, "--batch-size", 3000)  # 20 steps


class Run:
    """A finished run: what it printed and what it logged."""

    def __init__(self, folder, epochs, *args):
        self.logdir, self.epochs = folder / "logs", epochs
        result = run_script(
            SCRIPT,
            "--logdir",
            self.logdir,
            "--epochs",
            epochs,
            *args,
            env={"OMP_NUM_THREADS": None},
        )
        assert result.returncode == 0, result.stderr
        self.lines, self.errors = result.stdout.splitlines(), result.stderr.splitlines()
        self.log = read_log(self.logdir)

    def scalars(self, tag):
        return [(event.step, event.value) for event in self.log.Scalars(tag)]

    def printed(self, kind):
        pattern = rf"\[Epoch (\d+)\] {kind}: accuracy=(\d\.\d{{6}})"
        matches = (re.fullmatch(pattern, line) for line in self.lines)
        return [(int(match[1]), float(match[2])) for match in matches if match]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Train as the README does, on synthetic digits."""
    folder = tmp_path_factory.mktemp("synthetic")
    return Run(folder, 4, "--offline", "--data-dir", folder / "data")


def test_real_mnist_is_learned_as_well_as_it_should_be_and_it_says_that_it_was(real, tmp_path):
    run = Run(tmp_path, 2, "--data-dir", real / "mnist")
    assert dict(run.printed("Validation"))[1] >= 0.96
    text = read_text(run.log, "mnist_data")
    assert text.startswith("MNIST: handwritten digits") and "60,000" in text and "10,000" in text
    assert run.errors == []


def test_synthetic_digits_are_as_hard_to_learn_as_mnist(run):
    accuracies = dict(run.printed("Validation"))
    assert 0.88 <= accuracies[0] <= 0.97
    assert 0.97 <= accuracies[3] <= 0.997


def test_every_step_is_logged_once_in_order(run):
    steps, losses = zip(*run.scalars("cross_entropy"))
    assert steps == tuple(range(2400))
    assert 2 < losses[0] < 3  # ten classes known nothing about: about ln(10) = 2.3
    assert np.mean(losses[-600:]) < 0.1 * losses[0]


def test_accuracies_are_logged_as_they_are_printed(run):
    for tag, kind in (("train_acc", "Training"), ("valid_acc", "Validation")):
        printed = run.printed(kind)
        assert [epoch for epoch, _ in printed] == list(range(4))
        assert run.scalars(tag) == [(step, pytest.approx(acc, abs=1e-6)) for step, acc in printed]


def test_lines_every_log_interval_give_the_accuracy_up_to_that_batch(run):
    pattern = r"\[Epoch 0 Batch (\d+)\] Training: accuracy=(\d\.\d{6})"
    matches = [match for match in (re.fullmatch(pattern, line) for line in run.lines) if match]
    assert [int(match[1]) for match in matches] == [100, 200, 300, 400, 500]
    for match in matches:
        hits = float(match[2]) * 100 * (int(match[1]) + 1)
        assert hits == pytest.approx(round(hits), abs=0.05)


def test_pictures_show_the_training_images_that_each_epoch_began_with(run, tmp_path):
    (images, _), _, _ = load_mnist(tmp_path, offline=True)
    rng = np.random.default_rng(42)
    events = run.log.Images("minist_first_minibatch")
    assert [event.step for event in events] == list(range(4))
    for event in events:
        first = images[rng.permutation(len(images))[:100], None].repeat(3, axis=1)
        assert (decode(event) == grid(first)).all()


def test_histograms_hold_every_gradient_in_a_thousand_bins(run):
    assert set(run.log.Tags()["histograms"]) == set(PARAMETERS)
    for name, size in PARAMETERS.items():
        events = run.log.Histograms(name)
        assert [event.step for event in events] == list(range(4))
        for event in events:
            histogram = event.histogram_value
            assert len(histogram.bucket) == 1000
            assert histogram.num == sum(histogram.bucket) == size
            assert histogram.min < 0 < histogram.max
    # Pixels at the border are always black, so that the gradient of their weights is exactly 0; the
    # weights themselves differ.
    for event in run.log.Histograms("hybridsequential0_dense0_weight"):
        assert max(event.histogram_value.bucket) > 128 * (28 * 28 - 26 * 26)


def test_graph_leads_through_three_dense_layers_and_is_logged_before_the_first_step(run):
    nodes = {node.name: node for node in run.log.Graph().node}
    name, path = "hybridsequential0/dense2/fwd", []
    while name:
        (shape,) = nodes[name].attr["_output_shapes"].list.shape
        path.append((name, [dim.size for dim in shape.dim]))
        name = next(iter(nodes[name].input), None)
    prefix = "hybridsequential0/"
    assert path[::-1] == [
        ("data", [1, 1, 28, 28]),
        (f"{prefix}dense0/fwd", [1, 128]),
        (f"{prefix}dense0/relu/fwd", [1, 128]),
        (f"{prefix}dense1/fwd", [1, 64]),
        (f"{prefix}dense1/relu/fwd", [1, 64]),
        (f"{prefix}dense2/fwd", [1, 10]),
    ]
    (file,) = run.logdir.glob("events*")
    content = file.read_bytes()
    name = b"hybridsequential0/dense2/weight"
    assert content.count(name) == content.count(name, 0, content.index(b"cross_entropy")) > 0


@pytest.mark.parametrize(
    ("tag", "low", "high"), [("mnist_codes_untrained", 0, 0.3), ("mnist_codes", 0.96, 1)]
)
def test_projector_has_the_codes_of_test_digits_before_and_after(tag, low, high, run, tmp_path):
    _, (images, labels), _ = load_mnist(tmp_path, offline=True)
    folder = run.logdir / tag
    vectors = np.fromfile(find(folder, "tensors.bytes"), "<f4").reshape(2000, 64)
    assert (vectors >= 0).all() and vectors.std(axis=0).max() > 0.1  # after a ReLU
    header, *rows = find(folder, "metadata.tsv").read_text().splitlines()
    assert header == "digit\tpredicted\tcorrect"
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    rows = [row.split("\t") for row in rows]
    assert [row[0] for row in rows] == [words[label] for label in labels[:2000]]
    assert all((row[0] == row[1]) == (row[2] == "yes") for row in rows)
    assert low <= np.mean([row[2] == "yes" for row in rows]) <= high
    sheet = cv2.imread(str(find(folder, "sprite.jpg")), cv2.IMREAD_GRAYSCALE)
    sprites = sheet.reshape(45, 28, 45, 28).swapaxes(1, 2).reshape(-1, 28, 28)
    assert abs(sprites[:2000] - images[:2000].astype(int)).mean() < 8


def test_log_and_terminal_say_that_digits_are_synthetic(run):
    text = read_text(run.log, "mnist_data")
    assert text.startswith("**Not MNIST:** synthetic digits")
    (line,) = run.errors
    for words in (text, line):
        assert "train-images-idx3-ubyte.gz" in words and "--offline" in words


def test_output_ends_with_what_to_do_next(run):
    assert run.lines[-3] == "finished training"
    assert f"tensorboard --logdir {run.logdir}" in run.lines[-2]
    assert "--logdir logs/NAME" in run.lines[-1]


def test_seed_decides_the_curves_and_a_second_run_keeps_the_first_file(call, tmp_path):
    def curve(*args):
        said.append(call(SCRIPT, *SMALL, *args).err)
        newest = max((tmp_path / "logs").glob("events*"), key=lambda file: file.stat().st_mtime_ns)
        log = read_log(newest)
        return [log.Scalars(tag)[0].value for tag in ("cross_entropy", "train_acc", "valid_acc")]

    said = []
    first = curve()
    (file,) = (tmp_path / "logs").glob("events*")
    before = file.read_bytes(), file.stat().st_mtime_ns
    assert curve() == first != curve("--seed", 43)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    assert len(list((tmp_path / "logs").glob("events*"))) == 3
    assert not (tmp_path / "data").exists()
    holds = ["./logs holds a training already" in each for each in said]
    assert holds == [False, True, True]


def test_log_of_another_script_is_no_training(call, tmp_path):
    with SummaryWriter(str(tmp_path / "logs")) as sw:
        sw.add_scalar("x", 1, 0)
    assert "already" not in call(SCRIPT, *SMALL).err


def test_last_partial_batch_is_dropped(call, tmp_path):
    call(SCRIPT, "--offline", "--epochs", 2, "--batch-size", 7000)
    steps = [event.step for event in read_log(tmp_path / "logs").Scalars("cross_entropy")]
    assert steps == list(range(2 * 8))


def test_terminal_shows_a_bar_per_epoch_with_its_batches(tmp_path):
    command = [sys.executable, ROOT / SCRIPT, *map(str, SMALL), "--logdir", tmp_path]
    process, output = start_in_terminal(command)
    shown = "".join(output)
    assert process.wait() == 0
    assert "20/20 " in shown.split("epoch 0: ")[-1]


def test_help_shows_every_default():
    text = run_script(SCRIPT, "--help").stdout
    for default in (100, 10, 0.1, 0.9, 100, "./logs", "./data", 42):
        assert f"(default: {default})" in text


@pytest.mark.parametrize(
    "arguments",
    [
        *("--batch-size 0", "--batch-size ten", "--offline --batch-size 60001", "--epochs 0"),
        *("--lr 0", "--lr nan", "--lr inf", "--momentum 1", "--momentum -0.1", "--log-interval 0"),
        *("--seed -1", "--seed 4294967296", "--seed 1.5", "--no-such-flag"),
    ],
)
def test_wrong_argument_is_named_and_nothing_is_logged(arguments, call, tmp_path):
    words = shlex.split(arguments)
    with pytest.raises(ScriptError, match=words[-2 if len(words) > 1 else 0]) as raised:
        call(SCRIPT, *words)
    assert raised.value.status == 2 and "\n" not in str(raised.value)
    assert not list(tmp_path.glob("logs/*"))


def test_wrong_argument_ends_a_script_in_one_line_without_its_usage(tmp_path):
    assert_one_line_error(run_script(SCRIPT, "--epochs", 0, cwd=tmp_path), 2, "--epochs", "0")


@pytest.mark.parametrize("flag", ["--logdir", "--data-dir"])
@pytest.mark.parametrize("path", ["a_file", "a_file/below", "/proc/no_such_folder"])
def test_folder_that_cannot_be_one_is_named(flag, path, call, tmp_path):
    (tmp_path / "a_file").write_text("kept")
    with pytest.raises((OSError, ScriptError)) as raised:
        call(SCRIPT, flag, path)
    assert path.split("/")[-1] in str(raised.value)
    assert (tmp_path / "a_file").read_text() == "kept"


def test_folder_that_is_a_file_ends_a_script_in_one_line(tmp_path):
    (tmp_path / "a_file").touch()
    result = run_script(SCRIPT, "--logdir", "a_file", cwd=tmp_path)
    assert_one_line_error(result, 1, "a_file: File exists: it is a file: choose a folder")


def test_cuda_without_a_gpu_says_how_to_get_one(call):
    with pytest.raises(ScriptError, match="no GPU.*mxnet-cu112==1.9.1.*mxnet-cu117==1.9.1"):
        call(SCRIPT, "--cuda")


def test_loss_that_is_nan_stops_training_and_says_so(call, tmp_path):
    with pytest.raises(ScriptError, match="nan.*--lr"):
        call(SCRIPT, "--offline", "--lr", "1e30")
    losses = [event.value for event in read_log(tmp_path / "logs").Scalars("cross_entropy")]
    assert np.isfinite(losses[:-1]).all() and not np.isfinite(losses[-1])


@pytest.mark.parametrize(
    ("arguments", "zero"),
    [
        (("--lr", "0.6", "--epochs", 4), "5 of 6 gradients are all zero"),
        (("--lr", "1e-9", "--epochs", 2), "0 of 6 gradients are all zero"),
    ],
    ids=["dead", "does not move"],
)
def test_training_that_learns_nothing_says_so_once_and_its_histograms_have_no_width(
    arguments, zero, real, tmp_path
):
    options = "--data-dir", real / "mnist", "--logdir", tmp_path
    result = run_script(SCRIPT, *arguments, *options, env={"OMP_NUM_THREADS": None})
    (line,) = result.stderr.splitlines()
    assert result.returncode == 0
    assert re.search(r"epoch \d ends with a loss of 2\.3\d\d, no better than guessing", line)
    assert zero in line and "--lr" in line
    if zero.startswith("5"):
        last = read_log(tmp_path).Histograms("hybridsequential0_dense0_weight")[-1].histogram_value
        assert (list(last.bucket_limit), list(last.bucket)) == ([0], [784 * 128])


@pytest.mark.parametrize("small_disk", ["1200k"], indirect=True)
def test_full_disk_ends_in_one_line_and_leaves_the_log_readable(small_disk):
    args = "--offline", "--logdir", small_disk / "run"
    result = run_script(SCRIPT, *args, env={"OMP_NUM_THREADS": None}, timeout=120)
    assert_one_line_error(result, 1, "No space left on device", str(small_disk), "free some space")
    steps = [event.step for event in read_log(small_disk / "run").Scalars("cross_entropy")]
    assert len(steps) > 100 and steps == list(range(len(steps)))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_run_keeps_what_it_logged(number, tmp_path):
    command = [sys.executable, ROOT / SCRIPT, "--offline", "--logdir", tmp_path]
    env = script_env(OMP_NUM_THREADS=None)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    for line in process.stdout:
        if line.startswith("[Epoch 0 Batch 300]"):
            break
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -number and "Traceback" not in errors
    steps = [event.step for event in read_log(tmp_path).Scalars("cross_entropy")]
    assert len(steps) > 100 and steps == list(range(len(steps)))


def test_step_takes_the_mean_of_the_gradients_of_its_batch():
    net = gluon.nn.Dense(2, in_units=1, use_bias=False)
    net.initialize(mx.init.Zero())
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 1})
    images, labels = nd.array([[1], [2], [4]]), nd.array([0, 1, 1])
    ((loss, hits),) = train_epoch(net, trainer, images, [(nd.arange(3), labels)], 3)
    # Both classes have a probability of a half; the gradient is that less what is true.
    expected = -np.mean([[1 * -0.5, 1 * 0.5], [2 * 0.5, 2 * -0.5], [4 * 0.5, 4 * -0.5]], axis=0)
    np.testing.assert_allclose(net.weight.data().asnumpy().ravel(), expected, rtol=1e-5)
    assert loss == pytest.approx(np.log(2), rel=1e-5) and hits == 1


def test_accuracies_confusion_and_weight_pictures_are_those_of_the_network_after_the_epoch(
    tmp_path,
):
    rng = np.random.default_rng(0)
    images = nd.array(rng.random((300, 1, 28, 28)))
    mx.random.seed(0)
    net = build_net(mx.cpu())
    taken_for = net(images).argmax(axis=1).asnumpy().astype(int)
    seen, unseen = rng.integers(0, 10, 300), np.where(rng.random(300) < 0.8, taken_for, 3)
    with SummaryWriter(tmp_path) as sw:
        valid_acc = log_epoch(net, (images, seen), (images, unseen), {"--lr": 0.1}, 5, sw)

    assert valid_acc == np.mean(unseen == taken_for)
    for name, labels in (("train", seen), ("valid", unseen)):
        (event,) = read_log(tmp_path / "accuracy" / name).Scalars("accuracy")
        assert (event.step, event.value) == (5, pytest.approx(np.mean(labels == taken_for)))
    log = read_log(tmp_path)
    (event,) = log.Scalars("valid_acc")
    assert (event.step, event.value) == (5, pytest.approx(valid_acc))
    (event,) = log.Images("mnist_confusion")
    expected = draw_confusion(unseen, taken_for).transpose(1, 2, 0)
    np.testing.assert_array_equal(decode(event), expected)
    (event,) = log.Images("hybridsequential0_dense0_weight_pictures")
    pictures = scale_each(net[0].weight.data().reshape((-1, 1, 28, 28))).asnumpy()
    shown = decode(event).astype(int)
    expected = grid((pictures * 255).astype(int).repeat(3, axis=1))
    assert shown.shape == expected.shape
    assert abs(shown - expected).max() <= 1
