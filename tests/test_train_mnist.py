import re
import subprocess
import sys
from types import SimpleNamespace

from mxcompat.downloads import Files

import cv2
import helpers
import mxnet as mx
import numpy as np
import pytest
from helpers import values
from tensorboard.plugins.hparams import metadata

from common.charts import draw_confusion
from common.datasets import load_mnist
from common.errors import ScriptError
from train_mnist import build_net

SCRIPT = "train_mnist.py"
SMALL = ("--offline", "--epochs", "1", "--batch-size", "3000")  # 20 steps
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LAYER = "hybridsequential0_dense0"


@pytest.fixture(scope="module")
def reference():
    """Train by hand as `run` does, with momentum 0.5 and a rate of 0.2."""
    (digits, labels), (test_digits, answers), _ = load_mnist(Files("nowhere", offline=True))
    images, tests = (mx.nd.array(each.reshape(-1, 784)) / 255 for each in (digits, test_digits))
    mx.random.seed(7)
    net = build_net(mx.cpu())
    net(tests[:1])
    params = list(net.collect_params().values())

    def look():
        """Return the first layer's weights, and codes and predictions of test digits."""
        codes = net[1](net[0](tests))
        predicted = net[2](codes).argmax(axis=1)
        return [array.asnumpy() for array in (params[0].data(), codes[:2000], predicted)]

    untrained, velocities, rng = look(), [0] * 6, np.random.default_rng(7)
    order = [rng.permutation(60_000)[:59_500].reshape(17, 3500) for _ in range(2)]
    losses, hits, gradients = [], [], []
    for batch in np.concatenate(order):
        with mx.autograd.record():
            scores = net(images.take(mx.nd.array(batch)))
            loss = -mx.nd.log_softmax(scores).pick(mx.nd.array(labels[batch])).sum()
        loss.backward()
        losses.append(loss.asscalar() / 3500)
        hits.append(np.mean(scores.argmax(axis=1).asnumpy() == labels[batch]))
        gradients.append([parameter.grad().asnumpy() for parameter in params])
        velocities = [0.5 * v - 0.2 * g / 3500 for v, g in zip(velocities, gradients[-1])]
        for parameter, step in zip(params, velocities):
            parameter.set_data(parameter.data() + mx.nd.array(step))
    seen = net(images[:10_000]).argmax(axis=1).asnumpy()
    return SimpleNamespace(
        losses=losses,
        hits=np.reshape(hits, (2, 17)),
        gradients={p.name: pair for p, *pair in zip(params, *gradients[16::17])},
        first_digits=[digits[epoch[0]] for epoch in order],
        looks=(untrained, look()),
        train_acc=np.mean(seen == labels[:10_000]),
        test_digits=test_digits,
        answers=answers,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Train for 2 epochs of 17 steps; return the log's folder and what was printed."""
    folder = tmp_path_factory.mktemp("run")
    args = "--offline --epochs 2 --batch-size 3500 --lr 0.2 --momentum 0.5 --seed 7"
    command = [sys.executable, helpers.ROOT / SCRIPT, *args.split(), "--log-interval", "5"]
    command += ["--logdir", folder / "my logs", "--data-dir", folder / "data"]
    result = helpers.run(*command, check=True)
    assert not (folder / "data").exists()
    return folder / "my logs", result


@pytest.fixture(scope="module")
def log(run):
    return helpers.read_log(run[0])


def test_losses_of_every_step_are_those_of_stochastic_gradient_descent(log, reference):
    xavier = np.sqrt(2.24 / ((784 + 128) / 2))
    assert abs(reference.looks[0][0]).max() == pytest.approx(xavier, rel=1e-3)
    assert [event.step for event in log.Scalars("cross_entropy")] == list(range(34))
    np.testing.assert_allclose(values(log, "cross_entropy"), reference.losses, rtol=1e-3)


def test_accuracies_are_logged_as_they_are_printed(run, log, reference):
    logdir, result = run
    for tag, kind in (("train_acc", "Training"), ("valid_acc", "Validation")):
        printed = re.findall(rf"\[Epoch (\d)\] {kind}: accuracy=(\d\.\d{{6}})\n", result.stdout)
        logged = [(event.step, event.value) for event in log.Scalars(tag)]
        np.testing.assert_allclose(np.array(printed, float), logged, atol=1e-6)
    np.testing.assert_allclose(values(log, "train_acc"), reference.hits.mean(axis=1), atol=1e-3)
    folders = logdir / "accuracy" / "train", logdir / "accuracy" / "valid"
    train, valid = (values(helpers.read_log(folder), "accuracy") for folder in folders)
    right = np.mean(reference.looks[1][2] == reference.answers)
    assert (train[-1], valid[-1]) == pytest.approx((reference.train_acc, right), abs=3e-4)
    assert valid == values(log, "valid_acc")


def test_lines_every_log_interval_give_the_accuracy_up_to_that_batch(run, reference):
    pattern = r"\[Epoch (\d) Batch (\d+)\] Training: accuracy=(\d\.\d{6})\n"
    lines = np.array(re.findall(pattern, run[1].stdout), float)
    expected = [(e, n, reference.hits[e, : n + 1].mean()) for e in (0, 1) for n in (5, 10, 15)]
    np.testing.assert_allclose(lines, expected, atol=1e-3)


def test_pictures_show_the_training_images_that_each_epoch_began_with(log, reference):
    events = log.Images("minist_first_minibatch")
    assert [event.step for event in events] == [0, 1]
    for event, digits in zip(events, reference.first_digits):
        expected = helpers.grid(digits[:, None].repeat(3, axis=1), columns=60)
        assert (helpers.decode(event) == expected).all()


def test_histograms_hold_the_gradients_of_each_epochs_last_batch_in_a_thousand_bins(log, reference):
    assert log.Tags()["histograms"] == list(reference.gradients)
    for name, gradients in reference.gradients.items():
        found = [event.histogram_value for event in log.Histograms(name)]
        assert [event.step for event in log.Histograms(name)] == [0, 1]
        assert [len(each.bucket) for each in found] == [1000, 1000]
        figures = [(each.min, each.max, each.sum_squares, each.num) for each in found]
        expected = [(g.min(), g.max(), (g**2).sum(), g.size) for g in gradients]
        np.testing.assert_allclose(figures, expected, rtol=0.02)


def test_weights_and_confusion_are_those_after_the_epoch(log, reference):
    shown = log.Images(f"{LAYER}_weight_pictures"), log.Images("mnist_confusion")
    assert all([event.step for event in events] == [0, 1] for events in shown)
    weight, _, predicted = reference.looks[1]
    filters = helpers.stretch(weight.reshape(128, 1, 28, 28).repeat(3, axis=1))
    helpers.assert_same_picture(helpers.decode(shown[0][1]), helpers.grid(filters))
    expected = draw_confusion(reference.answers, predicted.astype(int)).transpose(1, 2, 0)
    # Some digits of 10,000 lie on the border between two classes.
    assert np.mean(abs(helpers.decode(shown[1][1]).astype(int) - expected) > 30) < 0.02


def test_graph_is_logged_before_the_first_step(run):
    (file,) = run[0].glob("events*.mnist")
    graph, _, rest = file.read_bytes().partition(b"cross_entropy")
    assert b"dense2/weight" in graph and b"dense2/weight" not in rest


@pytest.mark.parametrize("tag", ["mnist_codes_untrained", "mnist_codes"])
def test_projector_has_the_codes_of_test_digits_before_and_after(tag, run, reference):
    _, codes, taken_for = reference.looks["untrained" not in tag]
    folder = run[0] / tag
    vectors = np.fromfile(helpers.find(folder, "tensors.bytes"), "<f4").reshape(2000, 64)
    np.testing.assert_allclose(vectors, codes, rtol=0.01, atol=0.05)
    header, *rows = helpers.find(folder, "metadata.tsv").read_text().splitlines()
    assert header == "digit\tpredicted\tcorrect"
    digits, predicted, correct = np.transpose([row.split("\t") for row in rows])
    assert digits.tolist() == [WORDS[label] for label in reference.answers[:2000]]
    assert np.mean(predicted == np.array(WORDS)[taken_for[:2000].astype(int)]) > 0.998
    assert ((digits == predicted) == (correct == "yes")).all()
    sheet = cv2.imread(str(helpers.find(folder, "sprite.jpg")), cv2.IMREAD_GRAYSCALE)
    sprites = sheet.reshape(45, 28, 45, 28).swapaxes(1, 2).reshape(-1, 28, 28)
    assert abs(sprites[:2000] - reference.test_digits[:2000].astype(int)).mean() < 8


def test_runs_can_be_compared_by_their_settings(log):
    content = log.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    hparams = metadata.parse_session_start_info_plugin_data(content).hparams
    found = {name: value.number_value for name, value in hparams.items()}
    assert found == {"--lr": 0.2, "--batch-size": 3500, "--momentum": 0.5, "--epochs": 2}


def test_log_and_terminal_say_that_digits_are_synthetic_and_what_to_do_next(run, log):
    logdir, result = run
    text = helpers.read_text(log, "mnist_data")
    assert text.startswith("**Not MNIST:** synthetic digits")
    (line,) = result.stderr.splitlines()
    for words in (text, line):
        assert "train-images-idx3-ubyte.gz" in words and "--offline" in words
    *_, finished, see = result.stdout.splitlines()
    assert finished == "finished training" and see.endswith(f"tensorboard --logdir '{logdir}'")


@pytest.mark.parametrize("kind", ["MNIST", "synthetic"])
def test_digits_are_learned_as_well_as_they_should_be(kind, request, call, tmp_path):
    data_dir = request.getfixturevalue("real") / "mnist" if kind == "MNIST" else tmp_path
    printed = call(SCRIPT, "--offline", "--epochs", 1, "--data-dir", data_dir)
    log = helpers.read_log(tmp_path / "logs")
    assert 0.88 < log.Scalars("valid_acc")[0].value < 0.97
    assert printed.out.count("Batch") == 5  # every 100 of 600
    if kind == "MNIST":
        assert printed.err == "" and "MNIST: handwritten" in helpers.read_text(log, "mnist_data")


def test_second_run_repeats_the_first_keeps_its_file_and_is_warned_of_it(call, tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "events.other").touch()  # of another script: no reason to warn
    assert "holds a training" not in call(SCRIPT, *SMALL).err
    (first,) = (tmp_path / "logs").glob("*.mnist")
    content = first.read_bytes()
    assert "./logs holds a training already" in call(SCRIPT, *SMALL).err
    (second,) = {*(tmp_path / "logs").glob("*.mnist")} - {first}
    assert first.read_bytes() == content
    curves = [values(helpers.read_log(file), "cross_entropy") for file in (first, second)]
    assert curves[0] == curves[1] and len(curves[0]) == 20


def test_terminal_shows_a_bar_per_epoch_with_its_batches(tmp_path):
    helpers.write_digits(tmp_path / "data")
    command = [sys.executable, helpers.ROOT / SCRIPT, *SMALL, "--batch-size", "300"]
    process, output = helpers.start_in_terminal(command, cwd=tmp_path)
    assert "20/20 " in "".join(output).split("epoch 0: ")[-1]
    assert process.wait() == 0


DEFAULTS = {
    SCRIPT: "100 10 0.1 0.9 device False 100 42 ./logs ./data False",
    "plot_filter_and_output.py": "auto ./logs ./data False",
    "get_convnet_codes.py": "2304 imagenet1k-resnet-152 3,224,224 32 auto auto 42 ./data False",
    "plot_convnet_embedding.py": "imagenet1k-resnet-152 ./logs ./data",
}


@pytest.mark.parametrize("script", DEFAULTS)
def test_help_shows_every_default(script, capsys):
    with pytest.raises(SystemExit):
        helpers.run_main(script, "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert " ".join(re.findall(r"\(default: (\S+)\)", text)) == DEFAULTS[script]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ("--batch-size 60001", 2, "argument --batch-size: 60001 does not fit 60000 images"),
        ("--lr 0", 2, "argument --lr"),
        ("--momentum 1", 2, "argument --momentum"),
        ("--kv-store dist_sync", 2, "argument --kv-store"),
        ("--logdir a_file", 1, "File exists: 'a_file'"),
        ("--cuda", 1, "no GPU"),
    ],
)
def test_bad_argument_is_named_and_nothing_is_logged(arguments, status, words, call, tmp_path):
    (tmp_path / "a_file").touch()
    with helpers.script_ends(status, words):
        call(SCRIPT, "--offline", *arguments.split())
    assert not list(tmp_path.glob("logs/*"))


def test_loss_that_is_not_finite_ends_the_script(call, tmp_path):
    with pytest.raises(ScriptError, match="^the loss is nan at step 1: try a smaller --lr$"):
        call(SCRIPT, *SMALL, "--lr", "1e30")
    first, second = values(helpers.read_log(tmp_path / "logs"), "cross_entropy")
    assert np.isfinite(first) and not np.isfinite(second)


@pytest.mark.parametrize(
    ("arguments", "zero"),
    # The last begins with a loss of 2.29 and ends with 2.22; that of guessing is 2.30.
    [("--lr 1e-9", 0), ("--lr 10", 5), ("--lr 0.001 --batch-size 600", None)],
)
def test_training_that_learns_nothing_says_how_many_gradients_are_zero(arguments, zero, call):
    said = call(SCRIPT, *SMALL, *arguments.split()).err
    found = re.search(r"epoch 0 ends with a loss of [\d.]+, no better .* (\d) of 6 gradients", said)
    assert (found and int(found[1])) == zero


def test_killed_run_keeps_what_it_logged(tmp_path):
    helpers.write_digits(tmp_path / "data")
    command = [sys.executable, helpers.ROOT / SCRIPT, "--epochs", "999", "--batch-size", "300"]
    options = {"env": helpers.script_env(), "stdout": subprocess.PIPE, "text": True}
    options["cwd"] = tmp_path
    with subprocess.Popen(command, **options) as process:
        next(line for line in process.stdout if line.startswith("[Epoch 1] Validation"))
        process.kill()
    steps = [event.step for event in helpers.read_log(tmp_path / "logs").Scalars("cross_entropy")]
    assert len(steps) >= 40 and steps == list(range(len(steps)))
