"""Synthetic data and weights, for where the real ones cannot be had: drawn, never downloaded."""

import itertools

import cv2
import mxnet as mx
import numpy as np

DIGIT_COUNTS = (60_000, 10_000)  # training and test images, as MNIST's
DIGIT_SIDE = 28  # pixels, as MNIST's
FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_COMPLEX)
LETTER_SIDE, LETTER_HEIGHT = 128, 64  # pixels of the square around a letter, and of the letter
PICTURE_SIDE = 256  # pixels
LEVEL, ANY = (-0.12, 0.12), (-np.pi, np.pi)  # radians: nobody holds a camera quite still
# Patterns: (low, high) periods across a picture, rotation, and hues in degrees; one color where a
# function of x and y, in radians, and of noise is positive, and another elsewhere. Untrained
# networks see little but color and texture: some classes have their own hues, others share them.
CLASSES = {
    "bricks": ((4, 7), LEVEL, (0, 50), lambda x, y, noise:
        0.9 - np.maximum(np.cos(y), np.cos(x / 2 + np.pi * np.floor(y / 2 / np.pi)))),
    "checks": ((2, 5), ANY, (0, 360), lambda x, y, noise: np.sin(x) * np.sin(y)),
    "clouds": ((1, 1), ANY, (190, 260), lambda x, y, noise: noise / 4),
    "dots": ((6, 12), ANY, (0, 360), lambda x, y, noise: np.cos(x) + np.cos(y) - 1),
    "grass": ((18, 25), LEVEL, (80, 150), lambda x, y, noise: np.sin(x + 3 * noise)),
    "rings": ((3, 6), ANY, (260, 330), lambda x, y, noise: np.sin(np.hypot(x, y))),
    "stripes": ((3, 8), ANY, (0, 360), lambda x, y, noise: np.sin(x)),
    "waves": ((3, 7), LEVEL, (170, 220), lambda x, y, noise: np.sin(y + np.sin(x / 2))),
}  # fmt: skip


def _draw_letters():
    """Draw each font's digits, one below the other: pixels of distance from the strokes' middle."""
    ink = np.zeros((len(FONTS) * 10 * LETTER_SIDE, LETTER_SIDE), np.uint8)
    # OpenCV 5 strikes its zero through.
    for cell, (font, letter) in enumerate(itertools.product(FONTS, "O123456789")):
        cv2.putText(ink, letter, (32, LETTER_SIDE * cell + 96), font, fontScale=3, color=1)
    outside, inside = (cv2.distanceTransform(part, cv2.DIST_L2, 5) for part in (1 - ink, ink))
    return outside - inside + 2 * inside[ink > 0].mean()  # however bold the letters are


def _draw_digits(labels, letters, rng):
    """Draw a digit per label: a letter of a random font, turned, slanted and bent by two waves."""
    count, inner = len(labels), DIGIT_SIDE - 2  # a margin of one pixel stays black

    def draw(mean, deviation):
        return rng.normal(mean, deviation, (count, 1, 1)).astype(np.float32)

    def bend(along):
        wave = np.sin(draw(0.4, 0.1) * along + draw(0, 2 * np.pi))
        return draw(0, 5) * (wave - wave.mean(axis=(1, 2), keepdims=True))  # more is harder

    # Where the pixels of a digit lie in its letter, both counted from the middle.
    x = np.arange(inner, dtype=np.float32) - (inner - 1) / 2
    y = x[:, None]
    angle, scale = draw(0, 0.3), draw(18, 1) / LETTER_HEIGHT
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    rows = y * cos - x * sin
    columns = (x * cos + y * sin + draw(0.15, 0.25) * rows) / draw(0.8, 0.12)  # lean, and narrow
    rows, columns = (each + (LETTER_SIDE - 1) / 2 for each in (rows + bend(x), columns + bend(y)))
    cells = 10 * rng.integers(len(FONTS), size=count) + labels
    rows = np.clip(rows, 0, LETTER_SIDE - 1) + np.float32(LETTER_SIDE * cells[:, None, None])

    maps = columns.reshape(-1, inner), rows.reshape(-1, inner)
    distance = cv2.remap(letters, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    depth = draw(6, 1.2) - distance.reshape(count, inner, inner)  # half the width of a pen
    return np.pad(np.uint8(255 * np.clip(scale * depth + 0.5, 0, 1)), ((0, 0), (1, 1), (1, 1)))


def draw_mnist(seed=0):
    """Draw digits about as hard to read as MNIST's, white on black, in random order.

    Returns ((60000, 28, 28) uint8, (60000,) int32 labels) to train on, and 10000 to test with.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(sum(DIGIT_COUNTS), dtype=np.int32) % 10)
    letters = _draw_letters()
    images = np.concatenate([_draw_digits(chunk, letters, rng) for chunk in np.split(labels, 70)])
    train = DIGIT_COUNTS[0]
    return (images[:train], labels[:train]), (images[train:], labels[train:])


def _noise(rng):
    """Return (256, 256) smooth noise around 0, with details as fine as 4 pixels."""
    sheets = [rng.normal(0, 2.0**-n, (2**n, 2**n)) for n in range(1, 7)]
    size = (PICTURE_SIDE, PICTURE_SIDE)
    return sum(cv2.resize(sheet, size, interpolation=cv2.INTER_CUBIC) for sheet in sheets)


def draw_class(name, seed):
    """Draw a picture of one of `CLASSES`, (256, 256, 3) uint8, RGB."""
    rng = np.random.default_rng(seed)
    periods, rotation, (low, high), pattern = CLASSES[name]
    periods, angle, sharpness = rng.uniform(*np.transpose([periods, rotation, (2, 8)]))
    y, x = np.indices((PICTURE_SIDE, PICTURE_SIDE)) / PICTURE_SIDE - 0.5
    x, y = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
    x, y = (2 * np.pi * periods * (axis + rng.uniform(-0.3, 0.3)) for axis in (x, y))
    share = np.clip(sharpness * pattern(x, y, _noise(rng)) + 0.5, 0, 1)[..., None]

    # Hue, saturation and value of a deep color and of a pale one.
    hsv = rng.uniform([(low, 0.6, 0.3), (low, 0.15, 0.85)], [(high, 0.95, 0.65), (high, 0.5, 1)])
    ink, paper = rng.permutation(cv2.cvtColor(np.float32(hsv[None]), cv2.COLOR_HSV2RGB)[0])
    picture = 255 * (share * ink + (1 - share) * paper) + 20 * _noise(rng)[..., None]
    return np.uint8(np.clip(picture, 0, 255))


def draw_picture(side):
    """Draw four patterns, one of them in gray, (3, side, side) uint8, RGB."""
    bricks, grass, waves, rings = (draw_class(n, 0) for n in ("bricks", "grass", "waves", "rings"))
    rings[:] = rings.mean(axis=2, keepdims=True)
    sheet = cv2.vconcat([cv2.hconcat([bricks, grass]), cv2.hconcat([waves, rings])])
    return cv2.resize(sheet, (side, side), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)


def draw_filters(kernel, seed):
    """Draw 64 filters like those of a trained first layer, (64, 3, kernel, kernel) float32, RGB.

    A quarter each: gray stripes and gray edges at 16 angles, edges between two opponent colors, and
    blobs of one color in a ring of its opponent.
    """
    angles = np.arange(16) * np.pi / 16
    # From red against green to blue against yellow and back; none of them is bright.
    colors = np.array([[1, -1, 0], [-0.5, -0.5, 1]])
    colors = np.transpose([np.cos(2 * angles), np.sin(2 * angles)]) @ colors

    def gabor(phase):  # A wavelength about as long as the filter is wide shows one stripe or edge.
        shape = (kernel, kernel), kernel / 4
        waves = [cv2.getGaborKernel(*shape, a, 0.9 * kernel, 0.8, phase) for a in angles]
        return np.array([wave - wave.mean() for wave in waves])[:, None]

    offset = np.arange(kernel) - kernel // 2
    squares = (offset**2 + offset[:, None] ** 2) / kernel**2
    blob = np.exp(-squares / 0.05) - 0.5 * np.exp(-squares / 0.15)
    stripes, edges = gabor(0), gabor(np.pi / 2)
    gray, colors = np.ones((1, 3, 1, 1)), colors[:, :, None, None]
    filters = np.concatenate([stripes * gray, edges * gray, edges * colors, blob * colors])
    filters /= np.sqrt((filters**2).sum(axis=(1, 2, 3), keepdims=True))
    return np.random.default_rng(seed).permutation(filters).astype(np.float32)


def draw_weights(net, seed=0):
    """Initialize Gluon's ResNet-152 v2 at random, so that signals keep their size.

    The variances of its branches add up, so each is made smaller, as in Fixup (arXiv:1901.09321).
    """
    mx.random.seed(seed)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    net(mx.nd.zeros((1, 3, 64, 64)))  # The first forward pass is what draws the weights.
    branches = [block for stage in net.features[5:9] for block in stage]  # after the stem
    for block in branches:
        block.conv3.weight.set_data(block.conv3.weight.data() / len(branches) ** 0.5)
