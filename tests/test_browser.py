"""What a person sees of real runs: a real TensorBoard in a real Chromium."""

import base64
import contextlib
import io
import itertools
import os
import re
import time
from pathlib import Path
from typing import NamedTuple

from common.datasets import load_mnist, load_picture

import cv2
import numpy as np
import pytest
from helpers import (
    assert_same_picture,
    convolve,
    decode,
    decode_png,
    grid,
    read_log,
    run_main,
    stretch,
)
from mxboard import SummaryWriter
from playwright.sync_api import Page, expect

from pic.browser import (
    CHROMIUMS,
    color_by,
    find_chromium,
    open_page,
    open_projector,
    serve,
    show,
)
from plot_filter_and_output import load_layers

EPOCHS, SEED = 3, 42
LAYERS = [f"hybridsequential0_dense{n}" for n in range(3)]
PARAMETER_SIZES = dict(
    zip(
        (f"{layer}_{kind}" for layer in LAYERS for kind in ("weight", "bias")),
        (784 * 128, 128, 128 * 64, 64, 64 * 10, 10),
    )
)
# Pictures of one color, RGB, and how many of each: what is selected is tinted.
COLORS = {"red": ((230, 0, 0), 24), "green": ((0, 200, 0), 16), "blue": ((0, 0, 230), 8)}
PICTURES = sum(count for _, count in COLORS.values())


class Demo(NamedTuple):
    """The scripts' data, what the training printed, and an open page of the TensorBoard."""

    data_dir: Path
    printed: str
    url: str
    codes_url: str
    page: Page


@pytest.fixture(scope="module")
def chromium():
    path = find_chromium()
    if not path:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"none of {', '.join(CHROMIUMS)} is on PATH")
    return path


def draw_pictures(folder):
    rng = np.random.default_rng(0)
    for name, (color, count) in COLORS.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            # Shades, for codes that lie apart: a picture that is hidden by others is not tested.
            shades = rng.uniform(0.6, 1, (4, 4, 1)).repeat(16, axis=0).repeat(16, axis=1)
            picture = np.array(color[::-1]) * shades
            cv2.imwrite(str(folder / name / f"{number}.png"), picture)


@pytest.fixture(scope="module")
def demo(chromium, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    data_dir, logdir = folder / "data", folder / "logs"
    data_dir.mkdir()
    if real := os.environ.get("MXBOARD_DEMO_REAL"):
        for path in [*Path(real).glob("mnist/*"), *Path(real).glob("filters/*")]:
            (data_dir / path.name).symlink_to(path.resolve())

    options = ["--data-dir", data_dir, "--logdir"]
    training = ["--epochs", EPOCHS, "--seed", SEED, "--offline"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        run_main("train_mnist.py", *training, *options, logdir / "mnist")
    run_main("plot_filter_and_output.py", "--offline", *options, logdir / "filters")
    draw_pictures(folder / "pictures")
    pictures = ["--images", folder / "pictures", "--data-dir", data_dir]
    encoding = ["--offline", "--image-shape", "3,64,64", "--dtype", "float32"]
    run_main("get_convnet_codes.py", *encoding, *pictures)
    run_main("plot_convnet_embedding.py", *options, logdir / "codes")
    with serve(logdir) as url, serve(logdir / "codes") as codes_url, open_page(chromium) as page:
        yield Demo(data_dir, printed.getvalue(), url, codes_url, page)


def pixels(image):
    """Read the pixels of a picture in the page: (H, W, 3) uint8 RGB."""
    url = image.evaluate(
        """async image => {
            await image.decode();
            const canvas = document.createElement("canvas");
            [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
            canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL();
        }"""
    )
    return decode_png(base64.b64decode(url.split(",")[1]))


def read_chart(demo, tag, runs):
    """Return the value that the only chart of a tag shows, by run and step."""
    page = demo.page
    show(page, demo.url, "timeseries", f"^{tag}$")
    cards = page.locator("scalar-card")
    expect(cards.locator(".heading .name")).to_have_text([tag])
    box = cards.locator("line-chart-interactive-view").bounding_box()
    shown, deadline = {}, time.monotonic() + 30
    # The tooltip tells the points that are nearest to the pointer, one of each run.
    for x in itertools.cycle(np.linspace(0.02, 0.98, 8 * EPOCHS)):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + box["height"] / 2)
        page.wait_for_timeout(50)
        header, *rows = page.locator("table.tooltip tr").evaluate_all(
            "rows => rows.map(row => Array.from(row.cells, cell => cell.innerText))"
        ) or [[]]
        for cells in rows:
            row = dict(zip(header, cells))
            shown[row["Run"], int(row["Step"])] = float(row["Value"])
        if len(shown) == runs * EPOCHS or time.monotonic() > deadline:
            return shown


@pytest.mark.parametrize(("tag", "word"), [("train_acc", "Training"), ("valid_acc", "Validation")])
def test_time_series_plots_the_accuracies_that_were_printed(tag, word, demo):
    printed = re.findall(rf"\[Epoch (\d+)\] {word}: accuracy=(\S+)", demo.printed)
    assert len(printed) == EPOCHS
    expected = {("mnist", int(epoch)): float(value) for epoch, value in printed}
    assert read_chart(demo, tag, runs=1) == pytest.approx(expected, abs=6e-5)  # shows four digits


def test_time_series_plots_training_and_validation_accuracy_in_one_chart(demo):
    expected = {}
    for name in ("mnist/accuracy/train", "mnist/accuracy/valid"):
        for point in read_log(demo.data_dir.parent / "logs" / name).Scalars("accuracy"):
            expected[name, point.step] = point.value
    assert read_chart(demo, "accuracy", runs=2) == pytest.approx(expected, abs=6e-5)


def test_images_shows_the_first_minibatch_of_each_epoch_as_the_slider_moves(demo):
    (images, _), _, _ = load_mnist(demo.data_dir, offline=True)
    rng = np.random.default_rng(SEED)
    card = show(demo.page, demo.url, "images", "^minist_first_minibatch$").locator(
        "tf-image-loader"
    )
    slider = card.locator("paper-slider")
    slider.press("Home")
    for epoch in range(EPOCHS):
        expect(card.locator(".heading-label", has_text="step")).to_have_text(f"step {epoch}")
        expect(card.locator("paper-spinner-lite")).to_be_hidden()
        batch = images[rng.permutation(len(images))[:100], np.newaxis].repeat(3, axis=1)
        assert_same_picture(pixels(card.locator("img")), grid(batch))
        slider.press("ArrowRight")


def test_graphs_opens_box_by_box_and_shows_shapes_on_edges(demo):
    page, box = demo.page, "hybridsequential0"
    show(page, demo.url, "graphs")

    def node(name):
        return page.locator(f"tf-graph-scene g.node[data-name='{name}']")

    for name, inside in ((box, f"{box}/dense0"), (f"{box}/dense0", f"{box}/dense0/weight")):
        for _ in range(30):
            # A click is lost while the graph is being drawn.
            if node(inside).count():
                break
            node(name).locator(".nodecolortarget").first.dispatch_event("dblclick")
            page.wait_for_timeout(1000)
    names = ["data", *(f"{box}/dense{n}" for n in range(3))]
    parts = [f"{box}/dense0/{part}" for part in ("weight", "bias", "fwd", "relu")]
    for name in names + parts:
        expect(node(name)).to_have_count(1)
    layers = [node(name).bounding_box() for name in names[1:]]
    assert [each["y"] for each in layers] == sorted((each["y"] for each in layers), reverse=True)
    shapes = {
        edge: page.locator(f"tf-graph-scene g.edge[data-edge='{edge}']").text_content().strip()
        for edge in (
            f"{parts[0]}--{parts[2]}",
            f"{parts[2]}--{parts[3]}",
            f"{names[2]}--{names[3]}",
        )
    }
    assert list(shapes.values()) == ["128×784", "1×128", "1×64"]


def test_hparams_has_the_settings_of_a_run_beside_its_last_accuracy(demo):
    show(demo.page, demo.url, "hparams")
    accuracies = re.findall(r"Validation: accuracy=(\S+)", demo.printed)
    cells = demo.page.locator("tf-hparams-table-view vaadin-grid-cell-content")
    for name in ("--batch-size", "--epochs", "--lr", "--momentum", "valid_acc"):
        expect(cells.get_by_text(name, exact=True)).to_be_visible()
    for value in (
        "mnist",
        "100.00",
        "3.0000",
        "0.10000",
        "0.90000",
        f"{float(accuracies[-1]):.5f}",
    ):
        expect(cells.get_by_text(value, exact=True).first).to_be_visible()


@pytest.mark.parametrize("tag", ["mnist_confusion", "hybridsequential0_dense0_weight_pictures"])
def test_images_shows_the_confusion_and_the_weights_of_the_last_epoch(tag, demo):
    log = read_log(demo.data_dir.parent / "logs" / "mnist")
    cards = show(demo.page, demo.url, "images", f"^{tag}$").locator("tf-image-loader")
    expect(cards).to_have_count(1)
    assert_same_picture(pixels(cards.locator("img")), decode(log.Images(tag)[-1]))


def test_histograms_has_a_row_an_epoch_for_each_of_six_parameters(demo):
    pane = show(demo.page, demo.url, "histograms", "hybridsequential0")
    expect(pane.locator("g.histogram")).to_have_count(len(PARAMETER_SIZES) * EPOCHS)
    shown = {}
    for card in pane.locator("tf-histogram-loader").all():
        rows = card.locator("g.histogram").evaluate_all(
            """rows => rows.map(row => {
                const {step, bins} = row.__data__;
                return [step, bins.reduce((sum, bin) => sum + bin.y, 0)];
            })"""
        )
        shown[card.locator(".heading-label").first.inner_text()] = rows
    assert shown == {
        name: [[epoch, pytest.approx(size)] for epoch in range(EPOCHS)]
        for name, size in PARAMETER_SIZES.items()
    }


def test_text_shows_what_the_network_was_trained_on(demo):
    _, _, source = load_mnist(demo.data_dir, offline=True)
    pane = show(demo.page, demo.url, "text", "^mnist_data$")
    expect(pane.locator(".text tf-markdown-view")).to_have_text(re.sub(r"\*\*|`", "", source))


def test_filter_pictures_have_the_right_pixels(demo):
    layers, _ = load_layers(demo.data_dir, offline=True)
    picture, _ = load_picture(None, demo.data_dir, offline=True)
    expected = {"swan": picture.transpose(1, 2, 0)}
    for name, weight, bias, mean_rgb, _ in layers:
        expected[f"{name}_weight"] = grid(stretch(weight.asnumpy()))
        bias = 0 if bias is None else bias.asnumpy()
        maps = convolve(picture, weight.asnumpy(), bias, mean_rgb)
        expected[f"{name}_output"] = grid(stretch(maps))

    cards = show(demo.page, demo.url, "images", "^swan$|_weight$|_output$").locator(
        "tf-image-loader"
    )
    expect(cards).to_have_count(7)
    for card in cards.all():
        (tag,) = expected.keys() & set(card.locator(".heading-label").all_inner_texts())
        assert_same_picture(pixels(card.locator("img")), expected.pop(tag))
    assert not expected


@pytest.fixture
def projector(demo):
    """Open the projector afresh: the frame it is in."""
    frame = open_projector(demo.page, demo.codes_url)
    expect(frame.locator(".numDataPoints")).to_have_text(str(PICTURES))
    return frame


def assert_colors(names, projector, page):
    """Wait until the pictures in the cloud have these colors, and no other."""
    deadline = time.monotonic() + 30
    while (seen := colors(projector)) != names and time.monotonic() < deadline:
        page.wait_for_timeout(100)
    assert seen == names


def colors(projector):
    """Name the colors of `COLORS` in the cloud, bright, or dark as those of a selection are."""
    cloud = decode_png(projector.locator("#scatter").screenshot()).astype(int)
    highest = cloud.max(axis=2, keepdims=True)
    vivid = highest - cloud.min(axis=2, keepdims=True) > 50
    strong = (cloud > highest / 2) & vivid
    found = set()
    for name, (color, _) in COLORS.items():
        same = (strong == (np.array(color) > 0)).all(axis=2)
        # Axes are colored too, but thin.
        if cv2.erode(same.astype(np.uint8), np.ones((5, 5))).any():
            found.add(name)
    return found


def test_projector_shows_each_picture_as_a_point(projector, demo):
    expect(projector.get_by_text("Dimension: 1000")).to_be_visible()
    assert_colors(set(COLORS), projector, demo.page)


def test_projector_finds_the_pictures_of_a_class_by_its_name(projector, demo):
    name, (_, count) = "blue", COLORS["blue"]
    projector.locator("#search-box input").fill(name)
    expect(projector.get_by_text(f"{count} matches.")).to_be_visible()
    expect(projector.locator(".matches-list .list > *")).to_have_text([name] * count)
    projector.get_by_text(f"Isolate {count} points").click()
    expect(projector.locator(".numDataPoints")).to_have_text(str(count))
    assert_colors({name}, projector, demo.page)
    # The cloud turns: no other was merely hidden.
    for _ in range(10):
        demo.page.wait_for_timeout(100)
        assert colors(projector) <= {name}


def test_projector_counts_the_iterations_of_t_sne(projector):
    projector.locator("#tsne-tab").click()
    iteration = projector.locator(".run-tsne-iter")
    expect(iteration).not_to_have_text("0")
    first = iteration.inner_text()
    expect(iteration).not_to_have_text(first)
    assert int(iteration.inner_text()) > int(first) > 0


@pytest.fixture(scope="module")
def own(chromium, demo, tmp_path_factory):
    """Log what no script logs; return TensorBoard's address."""
    logdir = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    table = [["name", "class", "digit", "score"]]
    table += [[f"point {row}", "abc"[row % 3], row % 10, row * 1.5] for row in range(60)]
    with SummaryWriter(str(logdir)) as sw:
        sw.add_pr_curve("my_curve", rng.integers(0, 2, 500), rng.random(500), 50, global_step=3)
        sw.add_embedding("my_points", rng.normal(size=(60, 5)), labels=table)
    with serve(logdir) as url:
        yield url


def test_pr_curves_draws_a_precision_recall_curve(own, demo):
    show(demo.page, own, "pr_curves")
    card = demo.page.locator("tf-pr-curve-card")
    expect(card.locator(".legend-row")).to_contain_text("step 3")
    expect(card.locator("path.line")).to_have_attribute("d", re.compile(r"(L[\d.]+,[\d.]+){40}"))


def test_projector_offers_the_columns_of_a_table_of_labels(own, demo):
    projector = open_projector(demo.page, own)
    expect(projector.locator(".numDataPoints")).to_have_text("60")

    def offered(menu):
        items = projector.locator(f"#{menu} paper-item")
        return [" ".join(text.split()) for text in items.all_text_contents()]

    assert offered("labelby") == ["name", "class", "digit", "score"]
    assert offered("colorby")[2:] == ["class 3 colors", "digit 10 colors", "score gradient"]
    color_by(projector, "class")
    legend = projector.locator("vz-projector-legend .item .label")
    expect(legend).to_have_text(["a", "b", "c"])


def test_projector_of_a_training_has_its_digits_before_and_after(demo):
    with serve(demo.data_dir.parent / "logs" / "mnist") as url:
        projector = open_projector(demo.page, url)
        expect(projector.locator(".numDataPoints")).to_have_text("2000")
        tensors = projector.locator("vz-projector-data-panel paper-dropdown-menu").first
        names = [text.split()[0] for text in tensors.locator("paper-item").all_text_contents()]
        assert sorted(names) == ["mnist_codes", "mnist_codes_untrained"]
        color_by(projector, "digit")
        expect(projector.locator("vz-projector-legend .item")).to_have_count(10)
