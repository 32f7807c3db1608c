"""Take the README's pictures again: run the scripts, and photograph what TensorBoard shows.

    MXBOARD_DEMO_REAL=FOLDER python pic/make_pics.py
    MXBOARD_DEMO_REAL=FOLDER python pic/make_pics.py mnist_graph.png imagenet_mistake.png

CONTRIBUTING.md says what FOLDER has.
"""

import os
import re
import subprocess
import sys
import time
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image, ImageChops  # noqa: E402
from playwright.sync_api import expect  # noqa: E402

from common import cli  # noqa: E402
from pic import browser  # noqa: E402
from pic.browser import show  # noqa: E402

PATIENCE = 300  # seconds, for what takes TensorBoard longest: 500 iterations of t-SNE
EPOCHS = 10  # of a training, as the README has it
WEIGHTS = "hybridsequential0_dense0_weight_pictures"
GAP = 24  # pixels between pictures that stand side by side
MISTAKE = "Dungeness crab"  # which MobileNet V2 takes for a fiddler crab
MANY_COLORS = 5000  # more than a cloud has whose pictures are not there yet
T_SNE_GOALS = [1, 2, 4, 7, 10, 15, 20, 30, 40, 60, 80, 100, 140, 180, 240, 300, 400, 500]
ZOOM_TURNS = 40  # of the wheel, until dogs fill the window
GIF_WIDTH, GIF_COLORS = 720, 96
FRAME_MS, LAST_FRAME_MS = 120, 2500


def run(script, *args):
    """Run a script to its end, without the OMP_ variables that mxcompat has set here."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    subprocess.run([sys.executable, ROOT / script, *args], env=env, check=True)


def log_mnist(real, data_dir, logdir):
    """Train as the README does."""
    run("train_mnist.py", "--data-dir", data_dir, "--logdir", logdir)


def log_runs(real, data_dir, logdir):
    """Train three times, as the README does to compare runs."""
    for name, lr in {"slow": "0.01", "usual": "0.1", "fast": "0.3"}.items():
        run("train_mnist.py", "--data-dir", data_dir, "--logdir", logdir / name, "--lr", lr)


def log_filters(real, data_dir, logdir):
    """Log the filters as the README does."""
    run("plot_filter_and_output.py", "--data-dir", data_dir, "--logdir", logdir)


def log_codes(real, data_dir, logdir):
    """Log MobileNet V2's codes of one picture per class."""
    model = ["--model", real / "mobilenet_v2/mobilenet_v2", "--data-dir", data_dir]
    pictures = ["--images", real / "imagenet_samples", "--seed", "3", "--offline"]
    run("get_convnet_codes.py", *model, *pictures)
    run("plot_convnet_embedding.py", *model, "--logdir", logdir)


def mnist_graph(page, url):
    """Show the network, its layers opened, and what TensorBoard says of a weight."""
    show(page, url, "graphs")
    for name in ("", "/dense0", "/dense1", "/dense2"):
        node = page.locator(f"g.node[data-name='hybridsequential0{name}']")
        target = node.locator(".nodecolortarget").first
        target.click(trial=True)  # Waits until it stands still.
        target.dblclick()
        expect(node.locator("g.node").first).to_be_visible()
        page.wait_for_timeout(1000)  # Edges that are moved while a box grows stay where they were.
    weight = page.locator("g.node[data-name='hybridsequential0/dense0/weight'] .nodecolortarget")
    weight.dispatch_event("click")
    expect(page.locator("tf-node-info .node-name")).to_contain_text("weight")
    page.wait_for_timeout(2000)  # It glides to the weight.
    page.get_by_text("Fit to screen").click()
    page.mouse.move(1340, 1190)
    page.wait_for_timeout(2000)  # It glides there.
    page.evaluate("getSelection().removeAllRanges()")  # A double-click has selected a word.
    return [shoot(page, clip={"x": 350, "y": 72, "width": 1000, "height": 1120})]


def mnist_params_histograms(page, url):
    """Show the gradients of the six parameters, one row per layer."""
    pane = show(page, url, "histograms", "hybridsequential0")
    expect(pane.locator("g.histogram")).to_have_count(6 * EPOCHS)
    return [grid([shoot(card) for card in pane.locator("tf-histogram-loader").all()], 2)]


def mnist_loss_train_valid_curves(page, url):
    """Show the loss and the two accuracies, from their first points on."""
    show(page, url, "timeseries", "cross_entropy|^accuracy$")
    page.get_by_text("Ignore outliers in chart scaling").click()
    page.locator(".scalars-smoothing input[type=number]").fill("0")
    expect(page).to_have_url(re.compile("smoothing=0"))
    page.get_by_label("Close side pane").click()
    cards = page.locator("scalar-card")
    expect(cards).to_have_count(2)
    page.wait_for_timeout(3000)  # They are drawn by and by.
    return [grid([shoot(card) for card in cards.all()], 2)]


def shoot_steps(page, url, tag, steps):
    """Show a picture at some steps of its slider, side by side."""
    pane = show(page, url, "images", f"^{tag}$")
    slider = pane.locator("paper-slider")
    slider.press("Home")
    shots = []
    for step in range(max(steps) + 1):
        expect(pane.locator(".heading-label", has_text="step")).to_have_text(f"step {step}")
        if step in steps:
            shots.append(shoot_card(pane, tag))
        slider.press("ArrowRight")
    return [grid(shots, len(shots))]


mnist_image_samples = partial(shoot_steps, tag="minist_first_minibatch", steps=range(3))
mnist_confusion = partial(shoot_steps, tag="mnist_confusion", steps=(0, EPOCHS - 1))
mnist_weights = partial(shoot_steps, tag=WEIGHTS, steps=(0, EPOCHS - 1))


def mnist_codes(page, url):
    """Show t-SNE of the codes of digits, colored by digit."""
    projector = browser.open_projector(page, url)
    expect(projector.locator(".numDataPoints")).to_have_text("2000")
    browser.color_by(projector, "digit")
    run_t_sne(page, projector, (1, 600))
    page.wait_for_timeout(500)
    return [shoot(page, clip={"x": 0, "y": 64, "width": 1180, "height": 936})]


def mnist_hparams(page, url):
    """Show three runs as a table and in parallel coordinates."""
    show(page, url, "hparams")
    expect(page.locator("tf-hparams-table-view vaadin-grid-cell-content").first).to_be_visible()
    page.wait_for_timeout(2000)
    table = shoot(page, clip={"x": 262, "y": 128, "width": 1018, "height": 180})
    page.get_by_text("Parallel coordinates view").click()
    page.wait_for_timeout(2000)
    lines = shoot(page, clip={"x": 262, "y": 310, "width": 1018, "height": 480})
    return [grid([table, lines], 1)]


def first_layer(page, url, layer):
    """Show the picture, a network's filters, and their outputs for the picture."""
    tags = ["swan", f"{layer}_weight", f"{layer}_output"]
    pane = show(page, url, "images", f"^({'|'.join(tags)})$")
    expect(pane.locator("img")).to_have_count(3)
    return [grid([shoot_card(pane, tag) for tag in tags], 3)]


def images_for_convnet_codes(page, url):
    """Show all the pictures, at half their size."""
    side = 32 * 66 + 2
    pane = show(page, url, "images", "_images$")
    page.get_by_text("Show actual image size").click()
    expect(pane.locator("img")).to_have_js_property("clientWidth", side)
    # Nothing between it and the page may cut it off.
    pane.locator("img").evaluate("image => document.body.replaceChildren(image)")
    mosaic = shoot(page.locator("img"))
    half = mosaic.resize((mosaic.width // 2, mosaic.height // 2), Image.Resampling.LANCZOS)
    return [half.quantize(256)]


def open_codes(page, url):
    """Open the projector, and wait until the pictures stand at the places of their codes."""
    projector = browser.open_projector(page, url)
    cloud = projector.locator("#scatter")
    expect(projector.locator(".numDataPoints")).to_have_text("1000")
    expect(projector.get_by_text("Total variance described")).to_be_visible(timeout=60_000)
    wait_until(page, lambda: len(shoot(cloud).getcolors(2**24)) > MANY_COLORS)
    # Buttons that float over the cloud.
    buttons = projector.locator("#reset-zoom, #help-3d-icon")
    buttons.evaluate_all("buttons => buttons.forEach(button => button.remove())")
    return projector, cloud


def imagenet_embedding(page, url):
    """Show the codes along the three directions in which they differ most, spherized and not."""
    projector, cloud = open_codes(page, url)
    box = cloud.bounding_box()

    def shoot_all():
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.wheel(0, 100)  # Further away, or the cloud is cut off.
        page.mouse.move(box["x"] + 1, box["y"] + 1)
        page.wait_for_timeout(500)
        shot = shoot(cloud)
        margin = Image.new("RGB", shot.size, shot.getpixel((0, 0)))
        return shot.crop(ImageChops.difference(shot, margin).getbbox())

    spherized = shoot_all()
    projector.locator("#normalize-data-checkbox").click()
    page.wait_for_timeout(5000)  # It computes them again.
    return [grid([spherized, shoot_all()], 2)]


def imagenet_mistake(page, url):
    """Show which pictures are named wrong; and one of them with its neighbors."""
    projector, _ = open_codes(page, url)
    browser.color_by(projector, "correct")
    page.wait_for_timeout(1000)
    mistakes = shoot(page, clip={"x": 0, "y": 64, "width": 1100, "height": 836})
    projector.locator("#search-box input").fill(MISTAKE)  # The only match is selected.
    expect(projector.get_by_text("Nearest points in the original space")).to_be_visible()
    page.wait_for_timeout(1500)  # It glides there.
    labels = shoot(page, clip={"x": 820, "y": 148, "width": 278, "height": 156})
    neighbors = shoot(page, clip={"x": 1100, "y": 340, "width": 300, "height": 490})
    return [grid([mistakes, grid([labels, neighbors], 1)], 2)]


def run_t_sne(page, projector, goals):
    """Let t-SNE move the points in the plane; photograph them after so many iterations."""
    projector.locator("#tsne-tab").click()
    iteration, frames = projector.locator(".run-tsne-iter"), []
    for goal in goals:
        wait_until(page, lambda goal=goal: int(iteration.inner_text()) >= goal)
        if not frames:
            projector.locator("#tsne-toggle").click()  # from three dimensions to two
        frames.append(shoot(projector.locator("#scatter")))
    projector.locator(".run-tsne").click()
    return frames


def embedding_t_sne_motion(page, url):
    """Show t-SNE move pictures with similar codes together, in the plane."""
    projector, _ = open_codes(page, url)
    return run_t_sne(page, projector, T_SNE_GOALS)


def imagenet_dog_cluster(page, url):
    """Search for terriers in the plane that t-SNE made, and zoom in on them."""
    projector, cloud = open_codes(page, url)
    run_t_sne(page, projector, (1, 500))
    box = cloud.bounding_box()
    size, left = page.viewport_size, box["x"]
    clip = {"x": left, "y": 66, "width": size["width"] - left, "height": size["height"] - 66}
    frames = [shoot(page, clip=clip)]
    before = shoot(cloud)
    for word in ("ter", "terri", "terrier"):
        projector.locator("#search-box input").fill(word)
        page.wait_for_timeout(500)
        frames.append(shoot(page, clip=clip))
    frames += frames[-1:] * 16  # Time to read the matches.

    # Terriers are where the cloud has changed; their names are too thin for the filter.
    changed = np.array(ImageChops.difference(before, shoot(cloud))).any(axis=2)
    y, x = np.median(np.nonzero(cv2.erode(np.uint8(changed), np.ones((9, 9)))), axis=1)
    right, down = box["width"] / 2 - x, box["height"] / 2 - y
    # From a corner, where no picture answers the pointer.
    start_x = box["x"] + (2 if right > 0 else box["width"] - 2)
    start_y = box["y"] + (2 if down > 0 else box["height"] - 2)
    page.mouse.move(start_x, start_y)
    page.mouse.down(button="right")
    for step in np.linspace(0, 1, 7):
        page.mouse.move(start_x + step * right, start_y + step * down)
        frames.append(shoot(page, clip=clip))
    page.mouse.up(button="right")
    page.mouse.move(box["x"] + 2, box["y"] + box["height"] - 2)
    for turn in range(ZOOM_TURNS):
        page.mouse.wheel(0, -100)
        page.wait_for_timeout(50)
        if turn % 4 == 3:
            frames.append(shoot(page, clip=clip))
    projector.locator(".clear-selection").click()
    frames.append(shoot(page, clip=clip))
    return frames


def shoot_card(pane, tag):
    """Photograph a picture, loaded, with what stands above it but for the date."""
    card = pane.locator("tf-image-loader", has=pane.page.get_by_text(tag, exact=True))
    expect(card.locator("paper-spinner-lite")).to_be_hidden()
    pane.locator(".datetime").evaluate_all("dates => dates.forEach(date => date.remove())")
    card.locator("img").evaluate("image => image.decode()")
    return shoot(card)


def wait_until(page, condition):
    """Wait for what TensorBoard does not tell."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise cli.ScriptError("TensorBoard does not come to show what was to be photographed")
        page.wait_for_timeout(50)


def shoot(target, **options):
    """Photograph a page or a part of it."""
    return Image.open(BytesIO(target.screenshot(**options))).convert("RGB")


def grid(images, columns):
    """Lay out pictures on white, row by row."""
    rows = [images[start : start + columns] for start in range(0, len(images), columns)]
    width = max(sum(each.width + GAP for each in row) for row in rows) + GAP
    heights = [max(each.height for each in row) + GAP for row in rows]
    sheet = Image.new("RGB", (width, sum(heights) + GAP), "white")
    y = GAP
    for row, height in zip(rows, heights):
        x = GAP
        for each in row:
            sheet.paste(each, (x, y))
            x += each.width + GAP
        y += height
    return sheet


def save(frames, path):
    """Write one picture as PNG, several as GIF, whose last one stands for a while."""
    if len(frames) == 1:
        frames[0].save(path, optimize=True)
        return
    height = round(frames[0].height * GIF_WIDTH / frames[0].width)
    small = [frame.resize((GIF_WIDTH, height), Image.Resampling.LANCZOS) for frame in frames]
    palette = grid(small[::4], 3).quantize(GIF_COLORS)
    first, *rest = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in small]
    durations = [FRAME_MS] * len(rest) + [LAST_FRAME_MS]
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0, optimize=False)


# What logs each picture's run, what takes it, the page's width and height, and the pixels of a CSS
# pixel: the projector draws its sprites smaller, the more there are.
PICTURES = {
    "mnist_image_samples.png": (log_mnist, mnist_image_samples, 1280, 900, 2),
    "mnist_graph.png": (log_mnist, mnist_graph, 1350, 1200, 2),
    "mnist_params_histograms.png": (log_mnist, mnist_params_histograms, 1060, 900, 2),
    "mnist_loss_train_valid_curves.png": (log_mnist, mnist_loss_train_valid_curves, 1700, 900, 2),
    "mnist_confusion.png": (log_mnist, mnist_confusion, 1280, 900, 2),
    "mnist_weights.png": (log_mnist, mnist_weights, 1280, 900, 2),
    "mnist_codes.png": (log_mnist, mnist_codes, 1500, 1000, 1),
    "mnist_hparams.png": (log_runs, mnist_hparams, 1280, 800, 1.5),
    "images_for_convnet_codes.png": (log_codes, images_for_convnet_codes, 2614, 2614, 1),
    "imagenet_embedding.png": (log_codes, imagenet_embedding, 1560, 1000, 1),
    "embedding_t_sne_motion.gif": (log_codes, embedding_t_sne_motion, 2200, 1500, 1),
    "imagenet_mistake.png": (log_codes, imagenet_mistake, 1400, 900, 1),
    "imagenet_dog_cluster.gif": (log_codes, imagenet_dog_cluster, 1300, 800, 1),
}
for layer in ("inception_bn_conv_1", "resnet_152_conv0", "vgg16_conv1_1"):
    PICTURES[f"{layer}.png"] = (log_filters, partial(first_layer, layer=layer), 1280, 900, 1.5)


def main():
    """Log once what the pictures need, and take them."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", help="pictures to take (default: all)")
    names = parser.parse_args().names or list(PICTURES)
    if unknown := set(names) - set(PICTURES):
        parser.error(f"{unknown.pop()} is none of {' '.join(PICTURES)}")
    real = Path(os.environ.get("MXBOARD_DEMO_REAL", "")).resolve()
    if not (real / "mobilenet_v2").is_dir():
        raise cli.ScriptError("set MXBOARD_DEMO_REAL to the folder of the real data")
    chromium = browser.find_chromium()
    if not chromium:
        raise cli.ScriptError(f"none of {' '.join(browser.CHROMIUMS)} is on PATH: install one")

    with TemporaryDirectory() as folder:
        data_dir = Path(folder, "data")
        data_dir.mkdir()
        for path in [real / "synset.txt", *real.glob("mnist/*"), *real.glob("filters/*")]:
            (data_dir / path.name).symlink_to(path)  # where the scripts look for it
        for log in dict.fromkeys(PICTURES[name][0] for name in names):
            logdir = Path(folder, log.__name__)
            log(real, data_dir, logdir)
            with browser.serve(logdir) as url:
                for name in (name for name in names if PICTURES[name][0] is log):
                    _, take, *size = PICTURES[name]
                    with browser.open_page(chromium, *size) as page:
                        save(take(page, url), ROOT / "pic" / name)
                    print(f"{name}: {(ROOT / 'pic' / name).stat().st_size:,} bytes")


if __name__ == "__main__":
    cli.run(main)
