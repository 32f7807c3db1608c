"""What a person sees of real runs: a real TensorBoard in a real Chromium."""

import os
import re
import time
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from helpers import decode_png, encode, read_log, run_main, write_digits, write_folder
from mxboard import SummaryWriter
from playwright.sync_api import Page, expect

from pic import browser
from pic.browser import serve, show

EPOCHS = 3
# Pictures of one color, RGB, and how many of each: what is selected is tinted.
COLORS = {"red": ((230, 0, 0), 24), "green": ((0, 200, 0), 16), "blue": ((0, 0, 230), 8)}


class Demo(NamedTuple):
    """The folder of the logs, the address of their TensorBoard, and an open page."""

    logs: Path
    url: str
    page: Page

    def read(self, run):
        return read_log(self.logs / run)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    if not (chromium := browser.find_chromium()):
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"none of {', '.join(browser.CHROMIUMS)} is on PATH")
    folder = tmp_path_factory.mktemp("demo")
    logs, data = folder / "logs", ["--data-dir", folder / "data"]
    write_digits(folder / "data")
    run_main("train_mnist.py", "--epochs", EPOCHS, *data, "--logdir", logs / "mnist")
    run_main("plot_filter_and_output.py", "--offline", *data, "--logdir", logs / "filters")
    rng, pictures, names = np.random.default_rng(0), [], []
    for name, (color, count) in COLORS.items():
        # Shades, for codes that lie apart: a picture that is hidden by others is not tested.
        shades = rng.uniform(0.6, 1, (count, 4, 4, 1)).repeat(16, axis=1).repeat(16, axis=2)
        pictures += map(encode, np.uint8(color * shades))
        names += [name] * count
    images = ["--images", write_folder(folder / "pictures", pictures, names)]
    options = ["--image-shape", "3,64,64", "--dtype", "float32"]
    run_main("get_convnet_codes.py", "--offline", *data, *images, *options)
    run_main("plot_convnet_embedding.py", *data, "--logdir", logs / "codes")
    with SummaryWriter(str(logs / "own")) as sw:  # what no script logs
        sw.add_pr_curve("my_curve", rng.integers(0, 2, 500), rng.random(500), 50, global_step=3)
    with serve(logs) as url, browser.open_page(chromium) as page:
        yield Demo(logs, url, page)


def test_time_series_plots_training_and_validation_accuracy_in_one_chart(demo):
    page, runs = demo.page, ("mnist/accuracy/train", "mnist/accuracy/valid")
    logged = [demo.read(run).Scalars("accuracy")[-1] for run in runs]
    show(page, demo.url, "timeseries", "^accuracy$")
    cards = page.locator("scalar-card")
    expect(cards.locator(".heading .name")).to_have_text(["accuracy"])
    box = cards.locator("line-chart-interactive-view").bounding_box()
    # The tooltip tells the points that are nearest to the pointer, one of each run.
    rows, deadline = page.locator("table.tooltip tbody tr"), time.monotonic() + 60
    while rows.count() < 2 and time.monotonic() < deadline:
        for x in (0.9, 0.99):
            page.mouse.move(box["x"] + x * box["width"], box["y"] + box["height"] / 2)
            page.wait_for_timeout(200)
    for run, point in zip(runs, logged):
        expect(rows.filter(has_text=run)).to_contain_text(f"{point.value:.4f}".rstrip("0"))


@pytest.mark.parametrize(
    ("tags", "count"),
    [
        ("^minist_first_minibatch$|^mnist_confusion$|_weight_pictures$", 3),
        ("^swan$|_weight$|_output$", 7),
    ],
)
def test_images_shows_each_picture_of_a_run(tags, count, demo):
    cards = show(demo.page, demo.url, "images", tags).locator("tf-image-loader")
    expect(cards).to_have_count(count)
    for card in cards.all():
        card.locator("img").evaluate("img => img.decode()")  # an error if it cannot be shown


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
    layers = [f"{box}/dense{n}" for n in range(3)]
    parts = [f"{box}/dense0/{part}" for part in ("weight", "bias", "fwd", "relu")]
    for name in ["data", *layers, *parts]:
        expect(node(name)).to_have_count(1)
    edges = (f"{parts[0]}--{parts[2]}", f"{parts[2]}--{parts[3]}", f"{layers[1]}--{layers[2]}")
    for edge, shape in zip(edges, ("128×784", "1×128", "1×64")):
        shown = page.locator(f"tf-graph-scene g.edge[data-edge='{edge}']")
        assert shown.text_content().strip() == shape


def test_hparams_has_the_settings_of_a_run_beside_its_last_accuracy(demo):
    show(demo.page, demo.url, "hparams")
    cells = demo.page.locator("tf-hparams-table-view vaadin-grid-cell-content")
    accuracy = demo.read("mnist").Scalars("valid_acc")[-1].value
    for text in ("--momentum", "valid_acc", "mnist", "0.90000", f"{accuracy:.5f}"):
        expect(cells.get_by_text(text, exact=True).first).to_be_visible()


def test_pr_curves_draws_a_precision_recall_curve(demo):
    show(demo.page, demo.url, "pr_curves")
    card = demo.page.locator("tf-pr-curve-card")
    expect(card.locator(".legend-row")).to_contain_text("step 3")
    expect(card.locator("path.line")).to_have_attribute("d", re.compile(r"(L[\d.]+,[\d.]+){40}"))


@pytest.fixture
def projector(demo, request):
    """Open the projector of the run in the test's parameter: the frame it is in."""
    run, points = request.param
    with serve(demo.logs / run) as url:
        frame = browser.open_projector(demo.page, url)
        expect(frame.locator(".numDataPoints")).to_have_text(str(points))
        yield frame


def assert_colors(names, projector, page):
    """Wait until the pictures in the cloud have these of `COLORS`, and no other."""
    seen, deadline = None, time.monotonic() + 60
    while seen != names and time.monotonic() < deadline:
        page.wait_for_timeout(100)
        cloud = decode_png(projector.locator("#scatter").screenshot()).astype(int)
        highest = cloud.max(axis=2, keepdims=True)
        # Bright, or dark as those of a selection are; axes are colored too, but thin.
        strong = (cloud > highest / 2) & (highest - cloud.min(axis=2, keepdims=True) > 50)
        found = {
            name: (strong == (np.array(color) > 0)).all(axis=2).astype(np.uint8)
            for name, (color, _) in COLORS.items()
        }
        seen = {name for name in found if cv2.erode(found[name], np.ones((5, 5))).any()}
    assert seen == names


@pytest.mark.parametrize("projector", [("codes", 48)], indirect=True)
def test_projector_shows_pictures_and_finds_those_of_a_class(projector, demo):
    assert_colors(set(COLORS), projector, demo.page)
    projector.locator("#search-box input").fill("blue")
    expect(projector.locator(".matches-list .list > *")).to_have_text(["blue"] * 8)
    projector.get_by_text("Isolate 8 points").click()
    assert_colors({"blue"}, projector, demo.page)


@pytest.mark.parametrize("projector", [("mnist", 1000)], indirect=True)
def test_projector_of_a_training_has_its_digits_before_and_after(projector):
    tensors = projector.locator("vz-projector-data-panel paper-dropdown-menu").first
    names = [text.split()[0] for text in tensors.locator("paper-item").all_text_contents()]
    assert sorted(names) == ["mnist_codes", "mnist_codes_untrained"]
    browser.color_by(projector, "digit")
    expect(projector.locator("vz-projector-legend .item")).to_have_count(10)
