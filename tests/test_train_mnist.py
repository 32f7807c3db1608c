import re
import subprocess
import sys

from mxcompat.downloads import Files

import cv2
import mxnet as mx
import numpy as np
import pytest
from helpers import (
    ROOT,
    assert_one_line_error,
    assert_same_picture,
    decode,
    find,
    grid,
    read_log,
    read_text,
    run_main,
    run_script,
    script_env,
    start_in_terminal,
    stretch,
)
from tensorboard.plugins.hparams import metadata

from common.charts import draw_confusion
from common.datasets import load_mnist
from common.errors import ScriptError
from train_mnist import build_net

SCRIPT = "train_mnist.py"
SMALL = ("--offline", "--epochs", "1", "--batch-size", "3000")  # 20 steps
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LAYERS = [f"hybridsequential0_dense{number}" for number in range(3)]


class Reference:
    """The same training in plain arithmetic: 2 epochs of 17 steps, from the same weights."""

    def __init__(self, seed, lr, momentum):
        *sets, _ = load_mnist(Files("nowhere", offline=True))
        (self.pictures, labels), (self.test_pictures, self.test_labels) = sets
        images, self.test = (np.float32(each[0]).reshape(-1, 784) / 255 for each in sets)
        mx.random.seed(seed)
        net = build_net(mx.cpu())
        net(mx.nd.zeros((1, 1, 28, 28)))
        parameters = net.collect_params()
        self.params = [each.data().asnumpy().astype(float) for each in parameters.values()]
        self.names, self.untrained = list(parameters), self.params
        velocities, rng = [0] * 6, np.random.default_rng(seed)
        self.losses, self.hits, self.gradients = [], [], []
        order = [rng.permutation(60_000)[:59_500].reshape(17, 3500) for _ in range(2)]
        self.order = np.concatenate(order)
        for batch in self.order:
            x, true = images[batch], np.eye(10)[labels[batch]]
            (hidden0, hidden1), scores = self.forward(self.params, x)
            chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
            self.losses.append(-np.log(chances[true == 1]).mean())
            self.hits.append((scores.argmax(axis=1) == labels[batch]).mean())
            slope2 = chances - true
            slope1 = slope2 @ self.params[4] * (hidden1 > 0)
            slope0 = slope1 @ self.params[2] * (hidden0 > 0)
            pairs = (slope0, x), (slope1, hidden0), (slope2, hidden1)
            gradients = [each for up, down in pairs for each in (up.T @ down, up.sum(axis=0))]
            velocities = [
                momentum * velocity - lr * gradient / 3500
                for velocity, gradient in zip(velocities, gradients)
            ]
            self.params = [param + step for param, step in zip(self.params, velocities)]
            self.gradients.append(gradients)
        self.predicted = self.forward(self.params, self.test)[1].argmax(axis=1)
        seen = self.forward(self.params, images[:10_000])[1].argmax(axis=1)
        self.train_acc = np.mean(seen == labels[:10_000])

    @staticmethod
    def forward(params, x):
        """Return the outputs of both hidden layers, and the scores."""
        hidden0 = np.maximum(x @ params[0].T + params[1], 0)
        hidden1 = np.maximum(hidden0 @ params[2].T + params[3], 0)
        return (hidden0, hidden1), hidden1 @ params[4].T + params[5]


@pytest.fixture(scope="module")
def reference():
    return Reference(seed=7, lr=0.2, momentum=0.5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Train as the reference does; return the log's folder and what was printed."""
    folder = tmp_path_factory.mktemp("run")
    args = "--offline --epochs 2 --batch-size 3500 --lr 0.2 --momentum 0.5 --seed 7"
    logdir = folder / "logs"
    folders = "--logdir", logdir, "--data-dir", folder / "data"
    result = run_script(SCRIPT, *args.split(), "--log-interval", 5, *folders)
    assert result.returncode == 0, result.stderr
    assert not (folder / "data").exists()
    return logdir, result


@pytest.fixture(scope="module")
def log(run):
    return read_log(run[0])


def values(log, tag):
    return [event.value for event in log.Scalars(tag)]


def test_losses_of_every_step_are_those_of_stochastic_gradient_descent(log, reference):
    xavier = np.sqrt(2.24 / ((784 + 128) / 2))
    assert abs(reference.untrained[0]).max() == pytest.approx(xavier, rel=1e-3)
    assert [event.step for event in log.Scalars("cross_entropy")] == list(range(34))
    np.testing.assert_allclose(values(log, "cross_entropy"), reference.losses, rtol=1e-3)


def test_accuracies_are_logged_as_they_are_printed(run, log, reference):
    logdir, result = run
    for tag, kind in (("train_acc", "Training"), ("valid_acc", "Validation")):
        lines = re.findall(rf"\[Epoch (\d)\] {kind}: accuracy=(\d\.\d{{6}})\n", result.stdout)
        assert [int(epoch) for epoch, _ in lines] == [event.step for event in log.Scalars(tag)]
        assert values(log, tag) == pytest.approx([float(acc) for _, acc in lines], abs=1e-6)
    hits = np.reshape(reference.hits, (2, 17))
    assert values(log, "train_acc") == pytest.approx(hits.mean(axis=1), abs=1e-3)
    both = [read_log(logdir / "accuracy" / name) for name in ("train", "valid")]
    train, valid = ([event.value for event in each.Scalars("accuracy")] for each in both)
    assert valid == values(log, "valid_acc")
    right = np.mean(reference.predicted == reference.test_labels)
    assert (train[-1], valid[-1]) == pytest.approx((reference.train_acc, right), abs=3e-4)


def test_lines_every_log_interval_give_the_accuracy_up_to_that_batch(run, reference):
    pattern = r"\[Epoch (\d) Batch (\d+)\] Training: accuracy=(\d\.\d{6})\n"
    lines = [(int(epoch), int(n)) for epoch, n, _ in re.findall(pattern, run[1].stdout)]
    assert lines == [(epoch, batch) for epoch in (0, 1) for batch in (5, 10, 15)]
    found = [float(acc) for *_, acc in re.findall(pattern, run[1].stdout)]
    expected = [np.mean(reference.hits[17 * e : 17 * e + batch + 1]) for e, batch in lines]
    assert found == pytest.approx(expected, abs=1e-3)


def test_pictures_show_the_training_images_that_each_epoch_began_with(log, reference):
    events = log.Images("minist_first_minibatch")
    assert [event.step for event in events] == [0, 1]
    for event, batch in zip(events, reference.order[::17]):
        expected = grid(reference.pictures[batch][:, None].repeat(3, axis=1), columns=60)
        assert (decode(event) == expected).all()


def test_histograms_hold_the_gradients_of_each_epochs_last_batch_in_a_thousand_bins(log, reference):
    assert log.Tags()["histograms"] == reference.names
    for number, name in enumerate(reference.names):
        events = log.Histograms(name)
        assert [event.step for event in events] == [0, 1]
        for event, gradients in zip(events, reference.gradients[16::17]):
            found, expected = event.histogram_value, gradients[number]
            assert len(found.bucket) == 1000 and found.num == expected.size
            figures = expected.min(), expected.max(), (expected**2).sum()
            assert (found.min, found.max, found.sum_squares) == pytest.approx(figures, rel=0.02)


def test_weights_and_confusion_are_those_after_the_epoch(log, reference):
    shown = log.Images(f"{LAYERS[0]}_weight_pictures"), log.Images("mnist_confusion")
    assert all([event.step for event in events] == [0, 1] for events in shown)
    weights, confusion = (decode(events[-1]) for events in shown)
    filters = stretch(reference.params[0].reshape(128, 1, 28, 28).repeat(3, axis=1))
    assert_same_picture(weights, grid(filters))
    expected = draw_confusion(reference.test_labels, reference.predicted).transpose(1, 2, 0)
    # Some digits of 10,000 lie on the border between two classes.
    assert np.mean(abs(confusion.astype(int) - expected) > 30) < 0.02


def test_graph_leads_through_three_dense_layers_and_is_logged_before_the_first_step(run, log):
    nodes = {node.name: node for node in log.Graph().node}
    name, path = "hybridsequential0/dense2/fwd", []
    while name:
        (shape,) = nodes[name].attr["_output_shapes"].list.shape
        path.append((name.replace("hybridsequential0/", ""), shape.dim[1].size))
        name = next(iter(nodes[name].input), None)
    hidden = [("dense0/fwd", 128), ("dense0/relu/fwd", 128), ("dense1/fwd", 64)]
    assert path[::-1] == [("data", 1), *hidden, ("dense1/relu/fwd", 64), ("dense2/fwd", 10)]
    (file,) = run[0].glob("events*.mnist")
    content, name = file.read_bytes(), b"hybridsequential0/dense2/weight"
    assert content.count(name) == content.count(name, 0, content.index(b"cross_entropy")) > 0


@pytest.mark.parametrize("tag", ["mnist_codes_untrained", "mnist_codes"])
def test_projector_has_the_codes_of_test_digits_before_and_after(tag, run, reference):
    params = reference.untrained if "untrained" in tag else reference.params
    (_, codes), scores = reference.forward(params, reference.test[:2000])
    folder = run[0] / tag
    vectors = np.fromfile(find(folder, "tensors.bytes"), "<f4").reshape(2000, 64)
    np.testing.assert_allclose(vectors, codes, rtol=0.01, atol=0.05)
    header, *rows = find(folder, "metadata.tsv").read_text().splitlines()
    assert header == "digit\tpredicted\tcorrect"
    digits, predicted, correct = np.transpose([row.split("\t") for row in rows])
    assert digits.tolist() == [WORDS[label] for label in reference.test_labels[:2000]]
    assert np.mean(predicted == np.array(WORDS)[scores.argmax(axis=1)]) > 0.998
    assert ((digits == predicted) == (correct == "yes")).all()
    sheet = cv2.imread(str(find(folder, "sprite.jpg")), cv2.IMREAD_GRAYSCALE)
    sprites = sheet.reshape(45, 28, 45, 28).swapaxes(1, 2).reshape(-1, 28, 28)
    assert abs(sprites[:2000] - reference.test_pictures[:2000].astype(int)).mean() < 8


def test_runs_can_be_compared_by_their_settings(log):
    content = log.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    hparams = metadata.parse_session_start_info_plugin_data(content).hparams
    found = {name: value.number_value for name, value in hparams.items()}
    assert found == {"--lr": 0.2, "--batch-size": 3500, "--momentum": 0.5, "--epochs": 2}


def test_log_and_terminal_say_that_digits_are_synthetic_and_what_to_do_next(run, log):
    logdir, result = run
    text = read_text(log, "mnist_data")
    assert text.startswith("**Not MNIST:** synthetic digits")
    (line,) = result.stderr.splitlines()
    for words in (text, line):
        assert "train-images-idx3-ubyte.gz" in words and "--offline" in words
    *_, finished, see = result.stdout.splitlines()
    assert finished == "finished training" and see.endswith(f"tensorboard --logdir {logdir}")


@pytest.mark.parametrize("kind", ["MNIST", "synthetic"])
def test_digits_are_learned_as_well_as_they_should_be(kind, request, tmp_path):
    data_dir = request.getfixturevalue("real") / "mnist" if kind == "MNIST" else tmp_path
    args = "--offline", "--epochs", 1, "--logdir", tmp_path / "logs", "--data-dir", data_dir
    result = run_script(SCRIPT, *args)
    log, lines = read_log(tmp_path / "logs"), result.stdout.splitlines()
    (accuracy,) = values(log, "valid_acc")
    assert 0.88 < accuracy < 0.97
    assert sum("Batch" in line for line in lines) == 5  # every 100 of 600
    if kind == "MNIST":
        assert result.stderr == ""
        assert read_text(log, "mnist_data").startswith("MNIST: handwritten digits")


def test_second_run_repeats_the_first_keeps_its_file_and_says_that_there_are_two(call, tmp_path):
    assert "already" not in call(SCRIPT, *SMALL).err
    (first,) = (tmp_path / "logs").glob("*.mnist")
    content = first.read_bytes()
    assert "./logs holds a training already" in call(SCRIPT, *SMALL).err
    (second,) = {*(tmp_path / "logs").glob("*.mnist")} - {first}
    assert first.read_bytes() == content
    curves = [values(read_log(file), "cross_entropy") for file in (first, second)]
    assert curves[0] == curves[1] and len(curves[0]) == 20


def test_terminal_shows_a_bar_per_epoch_with_its_batches(tmp_path):
    process, output = start_in_terminal([sys.executable, ROOT / SCRIPT, *SMALL], cwd=tmp_path)
    shown = "".join(output)
    assert process.wait() == 0
    assert "20/20 " in shown.split("epoch 0: ")[-1]


DEFAULTS = {
    SCRIPT: "100 10 0.1 0.9 device False 100 42 ./logs ./data False",
    "plot_filter_and_output.py": "auto ./logs ./data False",
    "get_convnet_codes.py": "2304 imagenet1k-resnet-152 3,224,224 32 auto auto 42 ./data False",
    "plot_convnet_embedding.py": "imagenet1k-resnet-152 ./logs ./data",
}


@pytest.mark.parametrize("script", DEFAULTS)
def test_help_shows_every_default(script, capsys):
    with pytest.raises(SystemExit):
        run_main(script, "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert " ".join(re.findall(r"\(default: (\S+)\)", text)) == DEFAULTS[script]


@pytest.mark.parametrize(
    "arguments",
    [
        "--batch-size 0", "--offline --batch-size 60001", "--epochs 0", "--lr 0", "--lr nan",
        "--momentum 1", "--momentum -0.1", "--log-interval 0", "--seed -1", "--kv-store dist_sync",
    ],
)  # fmt: skip
def test_wrong_argument_is_named_and_nothing_is_logged(arguments, call, tmp_path):
    *words, flag, value = arguments.split()
    with pytest.raises(ScriptError, match=f"argument {flag}") as raised:
        call(SCRIPT, *words, flag, value)
    assert raised.value.status == 2 and not list(tmp_path.glob("logs/*"))


@pytest.mark.parametrize(
    ("arguments", "words"), [("--logdir a_file", "File exists: 'a_file'"), ("--cuda", "no GPU")]
)
def test_folder_or_device_that_cannot_be_used_is_named(arguments, words, call, tmp_path):
    (tmp_path / "a_file").touch()
    with pytest.raises((ScriptError, OSError), match=words):
        call(SCRIPT, *arguments.split())


def test_loss_that_is_not_finite_ends_the_script_in_one_line(tmp_path):
    result = run_script(SCRIPT, *SMALL, "--lr", "1e30", cwd=tmp_path)
    assert_one_line_error(result, 1, "the loss is nan at step 1: try a smaller --lr")
    first, second = values(read_log(tmp_path / "logs"), "cross_entropy")
    assert np.isfinite(first) and not np.isfinite(second)


@pytest.mark.parametrize(
    ("arguments", "zero"),
    # The last begins with a loss of 2.29 and ends with 2.22; that of guessing is 2.30.
    [("--lr 1e-9", 0), ("--lr 10", 5), ("--lr 0.001 --batch-size 600", None)],
)
def test_training_that_learns_nothing_says_so_and_how_many_gradients_are_zero(
    arguments, zero, call
):
    said = call(SCRIPT, *SMALL, *arguments.split()).err
    found = re.search(r"epoch 0 ends with a loss of [\d.]+, no better .* (\d) of 6 gradients", said)
    assert (found and int(found[1])) == zero


def test_killed_run_keeps_what_it_logged(tmp_path):
    command = [sys.executable, ROOT / SCRIPT, *SMALL, "--epochs", "999", "--logdir", tmp_path]
    options = {"env": script_env(), "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **options) as process:
        for line in process.stdout:
            if line.startswith("[Epoch 1] Validation"):
                break
        process.kill()
    steps = [event.step for event in read_log(tmp_path).Scalars("cross_entropy")]
    assert len(steps) >= 40 and steps == list(range(len(steps)))
