"""Take the README's pictures again: run the scripts, and photograph what TensorBoard shows.

    MXBOARD_DEMO_REAL=FOLDER python pic/make_pics.py
    MXBOARD_DEMO_REAL=FOLDER python pic/make_pics.py mnist_graph.png embedding_motion.gif

FOLDER needs:

- `mnist` and `filters` with the files, and `synset.txt`, that the scripts download to ./data;
- `imagenet_samples/SYNSET/*.jpg`, a picture of each of ImageNet's classes, shorter edge 256 pixels:
  from https://github.com/EliSchwartz/imagenet-sample-images;
- `mobilenet_v2/mobilenet_v2-symbol.json` and `-0000.params`, any network for ImageNet that takes
  3,224,224 and has a layer `fc1_output`: for instance one of `mx.gluon.model_zoo.vision`, exported.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
sys.path.insert(0, str(ROOT))

from common import cli  # noqa: E402

import numpy as np  # noqa: E402
from PIL import Image, ImageChops, ImageFilter, ImageOps  # noqa: E402
from playwright.sync_api import expect  # noqa: E402

from pic.browser import (  # noqa: E402
    CHROMIUMS,
    color_by,
    find_chromium,
    open_page,
    open_projector,
    serve,
    show,
)

PATIENCE = 300  # seconds, for what takes TensorBoard longest: 500 iterations of t-SNE
EPOCHS = 10  # of a training, as the README has it
GAP = 24  # pixels between pictures that stand side by side
MISTAKE = "sombrero"  # which MobileNet V2 takes for a cowboy hat
MANY_COLORS = 5000  # more than a cloud has whose pictures are not there yet
TURN_FRAMES = 28
T_SNE_GOALS = [1, 2, 4, 6, 8, 10, *range(13, 40, 3), *range(45, 100, 10), *range(100, 500, 40)]
GIF_WIDTH, GIF_COLORS = 560, 96
FRAME_MS, LAST_FRAME_MS = 120, 2500


def parse_args():
    """Read the command line."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument(
        "names", metavar="NAME", nargs="*", type=picture, help="pictures to take (default: all)"
    )
    return parser.parse_args()


def picture(name):
    """Check the name of a picture; an argument's ``type=``."""
    if name not in PICTURES:
        raise argparse.ArgumentTypeError(f"{name} is none of {' '.join(PICTURES)}")
    return name


def run(script, *args):
    """Run a script to its end."""
    if subprocess.run([sys.executable, ROOT / script, *args]).returncode:
        raise cli.ScriptError(f"{script} failed")


def log_mnist(real, data_dir, logdir):
    """Train as the README does."""
    run("train_mnist.py", "--data-dir", data_dir, "--logdir", logdir)


def log_filters(real, data_dir, logdir):
    """Log the filters as the README does."""
    run("plot_filter_and_output.py", "--data-dir", data_dir, "--logdir", logdir)


def log_codes(real, data_dir, logdir):
    """Log the codes that MobileNet V2 makes of a picture a class."""
    model = ["--model", real / "mobilenet_v2/mobilenet_v2", "--data-dir", data_dir]
    run(
        "get_convnet_codes.py",
        *model,
        "--images",
        real / "imagenet_samples",
        "--seed",
        "3",
        "--offline",
    )
    run("plot_convnet_embedding.py", *model, "--logdir", logdir)


def mnist_image_samples(page, url):
    """Show the digits that three epochs began with."""
    return shoot_steps(page, url, "minist_first_minibatch", range(3))


def mnist_graph(page, url):
    """Show the network, its layers opened, and what TensorBoard says of a weight."""
    page.set_viewport_size({"width": 1350, "height": 1200})
    show(page, url, "graphs")
    for name in ("", "/dense0", "/dense1", "/dense2"):
        node = page.locator(f"g.node[data-name='hybridsequential0{name}']")
        target = node.locator(".nodecolortarget").first
        target.click(trial=True)  # Waits until it stands still.
        target.dblclick()
        expect(node.locator("g.node").first).to_be_visible()
    weight = page.locator("g.node[data-name='hybridsequential0/dense0/weight'] .nodecolortarget")
    weight.dispatch_event("click")
    expect(page.locator("tf-node-info .node-name")).to_contain_text("weight")
    page.get_by_text("Fit to screen").click()
    page.mouse.move(1340, 1190)
    page.wait_for_timeout(2000)  # It glides there.
    return [shoot(page, clip={"x": 350, "y": 72, "width": 1000, "height": 1120})]


def mnist_params_histograms(page, url):
    """Show the gradients of the six parameters, one row per layer."""
    page.set_viewport_size({"width": 1060, "height": 900})
    pane = show(page, url, "histograms", "hybridsequential0")
    expect(pane.locator("g.histogram")).to_have_count(6 * EPOCHS)
    return [grid([shoot(card) for card in pane.locator("tf-histogram-loader").all()], 2)]


def mnist_loss_train_valid_curves(page, url):
    """Show the loss and the two accuracies, from their first points on."""
    page.set_viewport_size({"width": 1700, "height": 900})
    show(page, url, "timeseries", "cross_entropy|^accuracy$")
    page.get_by_text("Ignore outliers in chart scaling").click()
    page.get_by_text("Enable step selection and data table").click()
    page.locator(".scalars-smoothing input[type=number]").fill("0")
    expect(page).to_have_url(re.compile("smoothing=0"))
    page.get_by_label("Close side pane").click()
    cards = page.locator("scalar-card")
    expect(cards).to_have_count(2)
    page.wait_for_timeout(3000)  # They are drawn by and by.
    return [grid([shoot(card) for card in cards.all()], 2)]


def mnist_confusion(page, url):
    """Show what was taken for what after the first epoch, and after the last."""
    return shoot_steps(page, url, "mnist_confusion", (0, EPOCHS - 1))


def mnist_weights(page, url):
    """Show the first layer's weights after the first epoch, and after the last."""
    tag = "hybridsequential0_dense0_weight_pictures"
    return shoot_steps(page, url, tag, (0, EPOCHS - 1))


def shoot_steps(page, url, tag, steps):
    """Photograph a picture at some steps of its slider, side by side."""
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


def mnist_codes(page, url):
    """Show what t-SNE makes of the codes of digits, colored by digit."""
    page.set_viewport_size({"width": 1500, "height": 1000})
    projector = open_projector(page, url)
    expect(projector.locator(".numDataPoints")).to_have_text("2000")
    color_by(projector, "digit")
    projector.locator("#tsne-tab").click()
    iterate(projector, page, 1)
    projector.locator("#tsne-toggle").click()
    iterate(projector, page, 600)
    projector.locator(".run-tsne").click()
    page.wait_for_timeout(500)
    return [shoot(page, clip={"x": 0, "y": 64, "width": 1180, "height": 936})]


def filters(layer):
    """Return what shows the picture, the filters of a layer, and what they make of the picture."""

    def take(page, url):
        tags = ["swan", f"{layer}_weight", f"{layer}_output"]
        pane = show(page, url, "images", f"^({'|'.join(tags)})$")
        expect(pane.locator("img")).to_have_count(3)
        return [grid([shoot_card(pane, tag) for tag in tags], 3)]

    return take


def images_for_convnet_codes(page, url):
    """Show all the pictures, at half their size."""
    side = 32 * 66 + 2
    page.set_viewport_size({"width": side + 500, "height": side + 500})
    pane = show(page, url, "images", "_images$")
    page.get_by_text("Show actual image size").click()
    expect(pane.locator("img")).to_have_js_property("clientWidth", side)
    # Nothing between it and the page may cut it off.
    pane.locator("img").evaluate("image => document.body.replaceChildren(image)")
    mosaic = shoot(page.locator("img"))
    half = mosaic.resize((mosaic.width // 2, mosaic.height // 2), Image.Resampling.LANCZOS)
    return [half.quantize(256)]


def open_codes(page, url, width, height):
    """Open the projector, and wait until the pictures stand at the places of their codes."""
    page.set_viewport_size({"width": width, "height": height})
    projector = open_projector(page, url)
    cloud = projector.locator("#scatter")
    expect(projector.locator(".numDataPoints")).to_have_text("1000")
    expect(projector.get_by_text("Total variance described")).to_be_visible(timeout=60_000)
    wait_until(page, lambda: len(colors(cloud)) > MANY_COLORS)
    # Buttons that float over the cloud.
    buttons = projector.locator("#reset-zoom, #help-3d-icon")
    buttons.evaluate_all("buttons => buttons.forEach(button => button.remove())")
    return projector, cloud


def imagenet_embedding(page, url):
    """Show the codes along the three directions in which they differ most."""
    _, cloud = open_codes(page, url, 1560, 1000)
    box = cloud.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, 100)
    page.mouse.move(box["x"] + 1, box["y"] + 1)
    page.wait_for_timeout(500)
    shot = shoot(cloud)
    drawn = ImageChops.difference(shot, Image.new("RGB", shot.size, shot.getpixel((0, 0))))
    return [ImageOps.expand(shot.crop(drawn.getbbox()), GAP, "white")]


def embedding_motion(page, url):
    """Turn the cloud once around."""
    _, cloud = open_codes(page, url, 1280, 720)
    box = cloud.bounding_box()
    frames = []
    # A pull as wide as the cloud is high turns it once; from a corner, where no picture is.
    x, y = box["x"] + 1, box["y"] + box["height"] - 20
    page.mouse.move(x, y)
    page.mouse.down()
    for frame in range(TURN_FRAMES):
        page.mouse.move(x + frame / TURN_FRAMES * box["height"], y)
        frames.append(shoot(cloud))
    page.mouse.up()
    return frames


def imagenet_mistake(page, url):
    """Show which pictures are named wrong, and one of them with its neighbors."""
    projector, _ = open_codes(page, url, 1400, 900)
    color_by(projector, "correct")
    projector.locator("#search-box input").fill(MISTAKE)  # The only match is selected.
    projector.get_by_text("show images").click()
    expect(projector.get_by_text("Nearest points in the original space")).to_be_visible()
    page.wait_for_timeout(1500)  # It glides there.
    return [shoot(page, clip={"x": 0, "y": 64, "width": 1400, "height": 836})]


def iterate(projector, page, goal):
    """Wait until t-SNE has done a number of iterations."""
    iteration = projector.locator(".run-tsne-iter")
    wait_until(page, lambda: int(iteration.inner_text()) >= goal)


def embedding_t_sne_motion(page, url):
    """Show t-SNE move pictures with similar codes together."""
    projector, cloud = open_codes(page, url, 1280, 720)
    frames = [shoot(cloud)]
    projector.locator("#tsne-tab").click()
    for goal in T_SNE_GOALS:
        iterate(projector, page, goal)
        frames.append(shoot(cloud))
    return frames


def imagenet_dog_cluster(page, url):
    """Search for terriers in the plane that t-SNE made, and zoom in on them."""
    projector, cloud = open_codes(page, url, 1240, 760)
    projector.locator("#tsne-tab").click()
    iterate(projector, page, 1)
    projector.locator("#tsne-toggle").click()
    iterate(projector, page, T_SNE_GOALS[-1])
    projector.locator(".run-tsne").click()
    box = cloud.bounding_box()
    clip = {"x": box["x"], "y": 66, "width": 1240 - box["x"], "height": 760 - 66}
    frames = [shoot(page, clip=clip)]
    before = shoot(cloud)
    for word in ("ter", "terri", "terrier"):
        projector.locator("#search-box input").fill(word)
        page.wait_for_timeout(500)
        frames.append(shoot(page, clip=clip))

    frames += frames[-1:] * 16  # Time to read the matches.

    # Terriers are where the cloud has changed; their names are too thin for the filter.
    changed = (
        ImageChops.difference(before, shoot(cloud)).convert("L").point(lambda v: 255 * (v > 0))
    )
    y, x = np.median(np.nonzero(changed.filter(ImageFilter.MinFilter(9))), axis=1)
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
    for _ in range(18):
        page.mouse.wheel(0, -100)
        page.wait_for_timeout(50)
        page.mouse.wheel(0, -100)
        page.wait_for_timeout(50)
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


def colors(target):
    """Return the colors in a part of the page."""
    image = shoot(target)
    return {color for _, color in image.getcolors(image.width * image.height)}


def shoot(target, **options):
    """Photograph a page or a part of it."""
    return Image.open(BytesIO(target.screenshot(**options))).convert("RGB")


def grid(images, columns):
    """Lay out pictures of one size on white."""
    width, height = (side + GAP for side in images[0].size)
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        sheet.paste(image, (column * width + GAP, row * height + GAP))
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


# What logs each picture's run, what takes it, and the pixels of a CSS pixel: the projector draws
# its sprites smaller, the more there are.
PICTURES = {
    "mnist_image_samples.png": (log_mnist, mnist_image_samples, 2),
    "mnist_graph.png": (log_mnist, mnist_graph, 2),
    "mnist_params_histograms.png": (log_mnist, mnist_params_histograms, 2),
    "mnist_loss_train_valid_curves.png": (log_mnist, mnist_loss_train_valid_curves, 2),
    "mnist_confusion.png": (log_mnist, mnist_confusion, 2),
    "mnist_weights.png": (log_mnist, mnist_weights, 2),
    "mnist_codes.png": (log_mnist, mnist_codes, 1),
    "inception_bn_conv_1_weight_output.png": (log_filters, filters("inception_bn_conv_1"), 2),
    "resnet_152_conv0_weight_output.png": (log_filters, filters("resnet_152_conv0"), 2),
    "vgg16_conv1_1_weight_output.png": (log_filters, filters("vgg16_conv1_1"), 2),
    "images_for_convnet_codes.png": (log_codes, images_for_convnet_codes, 1),
    "imagenet_embedding.png": (log_codes, imagenet_embedding, 1),
    "embedding_motion.gif": (log_codes, embedding_motion, 1),
    "embedding_t_sne_motion.gif": (log_codes, embedding_t_sne_motion, 1),
    "imagenet_mistake.png": (log_codes, imagenet_mistake, 1),
    "imagenet_dog_cluster.gif": (log_codes, imagenet_dog_cluster, 1),
}


def link_data(real, data_dir):
    """Put the real files where the scripts look for them."""
    for path in [real / "synset.txt", *real.glob("mnist/*"), *real.glob("filters/*")]:
        (data_dir / path.name).symlink_to(path)


def main():
    """Log once what the pictures need, and take them."""
    args = parse_args()
    real = Path(os.environ.get("MXBOARD_DEMO_REAL", "")).resolve()
    if not (real / "mobilenet_v2").is_dir():
        raise cli.ScriptError("set MXBOARD_DEMO_REAL to the folder of the real data")
    chromium = find_chromium()
    if not chromium:
        raise cli.ScriptError(f"none of {' '.join(CHROMIUMS)} is on PATH: install one")

    names = args.names or list(PICTURES)
    with TemporaryDirectory() as folder:
        data_dir = Path(folder, "data")
        data_dir.mkdir()
        link_data(real, data_dir)
        for log in (log_mnist, log_filters, log_codes):
            wanted = [name for name in names if PICTURES[name][0] is log]
            if not wanted:
                continue
            logdir = Path(folder, log.__name__)
            log(real, data_dir, logdir)
            with serve(logdir) as url:
                for name in wanted:
                    _, take, scale = PICTURES[name]
                    with open_page(chromium, scale=scale) as page:
                        save(take(page, url), FOLDER / name)
                    print(f"{name}: {(FOLDER / name).stat().st_size:,} bytes")


if __name__ == "__main__":
    cli.run(main)
