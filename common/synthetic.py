"""Synthetic data and weights, for where the real ones cannot be had: drawn, never downloaded."""

import cv2
import mxnet as mx
import numpy as np

DIGIT_SIDE = 28  # pixels, as MNIST's
DIGIT_COUNTS = (60_000, 10_000)  # training and test images, as MNIST's
DIGIT_CHUNK = 1_000  # digits on a sheet: it then takes 13 MB
DIGIT_SCALE = 4  # digits are drawn this many times as large, and shrunk: their edges become soft

# Three ways to write each digit: points of one stroke or two, each point its x (0 to 4, from the
# left) and its y (0 to 8, from the top).
GLYPHS = (
    ("20 02 06 28 46 42 20", "30 11 05 18 37 43 30", "20 12 16 28 36 32 20"),
    ("20 28", "12 20 28", "31 27/27 18"),
    ("02 10 30 42 08 48", "01 20 41 34 08/08 37 48", "11 30 42 34 17 08 16 38 47"),
    ("01 20 40 42 24/24 45 47 28 07", "00 40 23/23 44 47 28 07", "10 40 42 14/14 44 46 38 08"),
    ("30 05 45/30 38", "00 04 44/40 48", "20 05 46/34 38"),
    ("40 10 04/04 23 44 46 28 07", "10 03 33 46 28 08/10 40", "40 00 03/03 42 47 28 08"),
    ("40 12 06 28 47 45 24 06", "30 03 07 28 46 34 05", "20 04 17 38 46 35 15"),
    ("00 40 18", "01 40 28/14 44", "00 40 33 28"),
    (
        "41 20 01 13 35 47 28 07 15 33 41",
        "30 11 23 46 28 06 23 41 30",
        "20 02 24 46 28 06 24 42 20",
    ),
    ("42 20 02 04 24 42/42 46 28 08", "42 20 02 24 42/42 38", "31 11 03 24 42 31/31 37 18"),
)
STROKE_POINTS = 20
STROKE_SMOOTHING = 5  # points over which the corners of a stroke are rounded

# How digits differ: the (low, high) ends of uniform distributions. They were tuned together so
# that a perceptron learns these digits about as fast as MNIST's; wider ones are harder to learn.
DIGIT_ROTATION = (-0.35, 0.35)  # radians
DIGIT_SLANT = (-0.2, 0.5)  # sideways for each unit upwards: most hands lean to the right
DIGIT_ASPECT = (0.5, 0.8)  # width for a height of 1
DIGIT_BEND = (-0.12, 0.12)  # heights by which a wave bends the strokes
DIGIT_WAVE = (2.0, 6.0)  # radians a height: a digit spans a third of a wave to a whole one
DIGIT_EXTENT = (18.0, 22.0)  # pixels of the longer side: MNIST's have 20
DIGIT_JITTER = (-3.0, 3.0)  # pixels off the center, as far as the frame leaves room
DIGIT_INK = (0.75, 1.0)  # brightness: nobody presses equally hard each time
PEN_WIDTHS = range(7, 14)  # pixels of the enlarged drawing

PICTURE_SIDE = 256  # pixels
DEEP_TONES = ((0.6, 0.95), (0.3, 0.65))  # (low, high) saturation and value of the darker color
PALE_TONES = ((0.15, 0.5), (0.85, 1.0))
TILT = 0.12  # radians, for what grows or lies level: nobody holds a camera still
ANY, WARM, COOL, GREEN = (0, 360), (-30, 60), (170, 290), (80, 150)  # hues in degrees


def _digit_paths():
    """Return the strokes of every glyph, (10, 3, 2, STROKE_POINTS, 2) x and y, -0.5 to 0.5."""
    return np.array([[_strokes(glyph) for glyph in glyphs] for glyphs in GLYPHS])


def _strokes(glyph):
    strokes = [_round_corners(stroke) for stroke in glyph.split("/")]
    return strokes if len(strokes) == 2 else strokes * 2  # so that all glyphs have two


def _round_corners(stroke):
    corners = np.array([[int(x), int(y)] for x, y in stroke.split()]) / (4, 8) - 0.5
    along = np.cumsum([0, *np.hypot(*np.diff(corners, axis=0).T)])
    places = np.linspace(0, along[-1], STROKE_POINTS)
    line = np.transpose([np.interp(places, along, axis) for axis in corners.T])
    margin = STROKE_SMOOTHING // 2
    if (corners[0] == corners[-1]).all():
        line = np.pad(line[:-1], ((margin, margin + 1), (0, 0)), mode="wrap")
    else:
        line = np.pad(line, ((margin, margin), (0, 0)), mode="reflect", reflect_type="odd")
    return np.lib.stride_tricks.sliding_window_view(line, STROKE_SMOOTHING, axis=0).mean(axis=-1)


def _draw_digits(labels, paths, rng):
    """Draw one digit for each label; `paths` are those of `_digit_paths`."""
    count = len(labels)

    def draw(span, *shape):
        return rng.uniform(*span, (count, *shape))

    def wave(along):
        length, phase = draw(DIGIT_WAVE, 1), draw((0, 2 * np.pi), 1)
        return draw(DIGIT_BEND, 1) * np.sin(length * along + phase)

    x, y = paths[labels, rng.integers(paths.shape[1], size=count)].reshape(count, -1, 2).T
    x, y = x.T * draw(DIGIT_ASPECT, 1), y.T
    x = x + wave(y)
    y = y + wave(x)
    x = x - draw(DIGIT_SLANT, 1) * y  # y points down
    angle = draw(DIGIT_ROTATION, 1)
    points = np.stack(
        [x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)]
    )

    # Scaled to the frame, as far off its center as there is room, each on a frame of its own.
    frame = DIGIT_SIDE * DIGIT_SCALE
    pen = rng.choice(PEN_WIDTHS, count)
    low, high = points.min(axis=2), points.max(axis=2)
    scale = (draw(DIGIT_EXTENT) * DIGIT_SCALE - pen) / (high - low).max(axis=0)
    # OpenCV rounds up the width of a pen.
    room = frame / 2 - DIGIT_SCALE - (pen / 2 + 1) - scale * (high - low) / 2
    center = np.clip(draw(DIGIT_JITTER, 2).T * DIGIT_SCALE, -room, room) + (frame - 1) / 2
    center[1] += frame * np.arange(count)
    points = scale[:, None] * (points - (low + high)[..., None] / 2) + center[..., None]
    strokes = np.rint(points).astype(np.int32).transpose(1, 2, 0).reshape(count, 2, -1, 2)

    sheet = np.zeros((count * frame, frame), np.uint8)
    for width in PEN_WIDTHS:
        cv2.polylines(
            sheet, [*strokes[pen == width].reshape(-1, STROKE_POINTS, 2)], False, 255, width
        )
    small = cv2.resize(sheet, (DIGIT_SIDE, count * DIGIT_SIDE), interpolation=cv2.INTER_AREA)
    return np.uint8(small.reshape(count, DIGIT_SIDE, DIGIT_SIDE) * draw(DIGIT_INK, 1, 1))


def draw_mnist(seed=0):
    """Draw as many digits as MNIST has, about as hard to tell apart.

    Returns (images, labels) to train on and to test with: (60000, 28, 28) and (10000, 28, 28)
    uint8, white on black with a black margin of a pixel, and int32 digits in random order. Each is
    one of three ways to write its digit, at a random place, size and angle, bent by two waves, in a
    pen of random width and brightness.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(sum(DIGIT_COUNTS), dtype=np.int32) % 10)
    paths = _digit_paths()
    chunks = np.split(labels, range(DIGIT_CHUNK, len(labels), DIGIT_CHUNK))
    images = np.concatenate([_draw_digits(chunk, paths, rng) for chunk in chunks])
    train = DIGIT_COUNTS[0]
    return (images[:train], labels[:train]), (images[train:], labels[train:])


def _noise(rng, octaves):
    """Return a picture's sheet of smooth noise around 0, with details as fine as 2^-octaves."""
    sheets = [rng.normal(0, 2.0**-octave, (2**octave, 2**octave)) for octave in range(1, octaves)]
    size = (PICTURE_SIDE, PICTURE_SIDE)
    return sum(cv2.resize(sheet, size, interpolation=cv2.INTER_CUBIC) for sheet in sheets)


def _in_cells(shape):
    """Repeat a shape in square cells; it takes x, y, radius and angle from the cell's center."""

    def pattern(x, y, rng):
        x, y = x - np.rint(x), y - np.rint(y)
        return shape(x, y, np.hypot(x, y), np.arctan2(y, x) + rng.uniform(-np.pi, np.pi))

    return pattern


def _regular(corners, size):
    """Return the shape of a regular polygon, `size` cells from its center to an edge."""
    sector = 2 * np.pi / corners
    return lambda x, y, r, a: size - r * np.cos(a % sector - sector / 2)


def _bricks(x, y, rng):
    x = x / 2 + np.rint(y) / 2  # twice as long as high, every other row moved
    return np.minimum(1 - 2 * abs(x - np.rint(x)), 0.5 - abs(y - np.rint(y))) - 0.06


def _rays(x, y, rng):
    return np.maximum(
        np.hypot(x, y) * np.sin(rng.integers(6, 12) * np.arctan2(y, x)) / 4, 0.1 - np.hypot(x, y)
    )


# Patterns by class: how many cells a picture shows side by side (low, high), how far it is turned,
# the hues of its darker and its paler color, and how deep in the darker one a place lies, in
# cells, given x and y in cells. Untrained networks see little but color and texture, so some
# classes have colors of their own, and others share theirs, as photographs do.
CLASSES = {
    "bricks": ((4, 7), TILT, WARM, WARM, _bricks),
    "checks": ((4, 9), np.pi, ANY, ANY, lambda x, y, _: np.sin(np.pi * x) * np.sin(np.pi * y) / 4),
    "clouds": ((1, 1), np.pi, COOL, COOL, lambda x, y, rng: _noise(rng, 7) / 16),
    "crosses": ((2, 4), np.pi, WARM, ANY, _in_cells(
        lambda x, y, r, a: 0.1 - np.minimum(abs(x), abs(y)) - np.maximum(0, r - 0.4))),
    "discs": ((2, 4), np.pi, ANY, WARM, _in_cells(lambda x, y, r, a: 0.37 - r)),
    "dots": ((8, 13), np.pi, ANY, ANY, _in_cells(lambda x, y, r, a: 0.3 - r)),
    "flowers": ((2, 4), np.pi, (280, 350), GREEN, _in_cells(
        lambda x, y, r, a: 0.3 + 0.1 * np.cos(6 * a) - r)),
    "grass": ((18, 25), TILT, GREEN, GREEN,
        lambda x, y, rng: 0.25 - abs((x + 0.5 * _noise(rng, 6)) % 1 - 0.5)),
    "rays": ((1, 1), np.pi, WARM, WARM, _rays),
    "rings": ((2, 4), np.pi, COOL, ANY, _in_cells(lambda x, y, r, a: 0.08 - abs(r - 0.32))),
    "spirals": ((1, 2), np.pi, (270, 330), ANY, _in_cells(
        lambda x, y, r, a: np.minimum(np.cos(20 * r - a) / 20, 0.45 - r))),
    "squares": ((2, 4), np.pi, ANY, COOL, _in_cells(_regular(4, 0.28))),
    "stars": ((2, 4), np.pi, (220, 260), (40, 65), _in_cells(
        lambda x, y, r, a: 0.26 + 0.12 * np.cos(5 * a) - r)),
    "stripes": ((3, 8), np.pi, ANY, ANY, lambda x, y, _: 0.25 - abs(x - np.rint(x))),
    "triangles": ((2, 4), np.pi, WARM, ANY, _in_cells(_regular(3, 0.2))),
    "waves": ((3, 7), TILT, COOL, COOL,
        lambda x, y, rng: np.sin(6 * (y + 0.3 * np.sin(rng.uniform(2, 4) * x))) / 6),
}  # fmt: skip


def _color(rng, hues, tones):
    hue = rng.uniform(*hues) % 360
    hsv = np.float32([[[hue, *(rng.uniform(*span) for span in tones)]]])
    return 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]


def draw_class(name, seed):
    """Draw a picture of one of `CLASSES`, (256, 256, 3) uint8, RGB."""
    rng = np.random.default_rng(seed)
    cells, turn, deep_hues, pale_hues, pattern = CLASSES[name]
    cells, turn = rng.uniform(*cells), rng.uniform(-turn, turn)
    y, x = np.indices((PICTURE_SIDE, PICTURE_SIDE)) / PICTURE_SIDE - 0.5
    x, y = (cells * (axis + rng.uniform(-0.3, 0.3) + 0.02 * _noise(rng, 3)) for axis in (x, y))
    x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    blur = rng.uniform(1.2, 3)  # pixels across an edge
    depth = np.clip(pattern(x, y, rng) * PICTURE_SIDE / cells / blur + 0.5, 0, 1)[..., None]

    colors = [_color(rng, deep_hues, DEEP_TONES), _color(rng, pale_hues, PALE_TONES)]
    deep, pale = (color + 25 * _noise(rng, 3)[..., None] for color in rng.permutation(colors))
    return np.uint8(np.clip(depth * deep + (1 - depth) * pale, 0, 255))


def draw_picture(side):
    """Draw a boat at sea, (3, side, side) uint8, RGB: edges all ways, flat and rough regions."""
    y, x = np.mgrid[:side, :side] / side
    sky = np.stack([110 + 60 * y, 160 + 40 * y, 225 + 10 * y], axis=-1)
    water = np.array([40, 110, 120]) + 25 * np.sin(90 * y + 4 * np.sin(9 * x))[..., None]
    picture = np.where(y[..., None] < 0.55, sky, water)

    angle, distance = np.arctan2(y - 0.25, x - 0.74), np.hypot(y - 0.25, x - 0.74)
    picture[(distance < 0.2) & (np.sin(16 * angle) > 0)] = (255, 205, 40)
    picture[distance < 0.11] = (250, 120, 20)
    meadow = (x + 0.6 * y > 1.12) & (y > 0.55)
    grass = np.random.default_rng(0).normal(0, 40, (side, side, 1)) + np.array([60, 150, 40])
    picture[meadow] = grass[meadow]
    flag = (abs(x - 0.175) < 0.125) & (abs(y - 0.225) < 0.125)
    squares = ((x * 20).astype(int) + (y * 20).astype(int)) % 2
    picture[flag] = np.where(squares[flag], 245, 15)[:, None]

    picture = np.uint8(np.clip(picture, 0, 255))
    shapes = {
        (200, 20, 30): [(0.16, 0.66), (0.66, 0.66), (0.56, 0.8), (0.26, 0.8)],  # hull
        (60, 35, 20): [(0.4, 0.3), (0.42, 0.3), (0.42, 0.66), (0.4, 0.66)],  # mast
        (245, 245, 240): [(0.43, 0.32), (0.43, 0.62), (0.64, 0.62)],  # sails
        (30, 60, 190): [(0.39, 0.36), (0.39, 0.62), (0.22, 0.62)],
    }
    for color, corners in shapes.items():
        points = np.rint(np.array(corners) * side).astype(np.int32)
        cv2.fillPoly(picture, [points], color, cv2.LINE_AA)
    return np.ascontiguousarray(picture.transpose(2, 0, 1))


def draw_filters(kernel, seed):
    """Draw 64 filters like those of a trained first layer, (64, 3, kernel, kernel) float32, RGB.

    Half are gray stripes and edges: Gabor functions [1] at 16 angles. A quarter are edges between
    two opponent colors, and a quarter blobs of one color in a ring of its opponent.

    [1] J. G. Daugman, "Uncertainty relation for resolution in space, spatial frequency, and
    orientation optimized by two-dimensional visual cortical filters", 1985.
    """
    angles = np.arange(16) * np.pi / 16
    # Red against green, blue against yellow, and what lies between them; none of them is bright.
    red_green, blue_yellow = np.array([1, -1, 0]), np.array([-0.5, -0.5, 1])
    colors = np.outer(np.cos(2 * angles), red_green) + np.outer(np.sin(2 * angles), blue_yellow)

    def gabor(angle, phase):
        # A wavelength about as long as the filter is wide shows one stripe or one edge.
        wave = cv2.getGaborKernel((kernel, kernel), kernel / 4, angle, 0.9 * kernel, 0.8, phase)
        return wave - wave.mean()

    offset = np.arange(kernel) - kernel // 2
    squares = (offset**2 + offset[:, None] ** 2) / kernel**2
    blob = np.exp(-squares / 0.05) - 0.5 * np.exp(-squares / 0.15)
    edges = np.array([gabor(angle, np.pi / 2) for angle in angles])[:, None]
    stripes = np.array([gabor(angle, 0) for angle in angles])[:, None]
    gray, colors = np.ones((1, 3, 1, 1)), colors[:, :, None, None]
    filters = np.concatenate([stripes * gray, edges * gray, edges * colors, blob * colors])
    filters /= np.sqrt((filters**2).sum(axis=(1, 2, 3), keepdims=True))
    return np.random.default_rng(seed).permutation(filters).astype(np.float32)


def draw_weights(net, seed=0):
    """Initialize Gluon's ResNet-152 v2 at random, so that signals stay of one size.

    Every residual branch adds its variance to the sum; dividing the last weights of each of L
    branches by the root of L keeps the sum from growing beyond e times, as in Fixup [1].

    [1] https://arxiv.org/abs/1901.09321
    """
    mx.random.seed(seed)
    net.initialize(mx.init.MSRAPrelu(slope=0))
    net(mx.nd.zeros((1, 3, 64, 64)))  # The first forward pass is what draws the weights.
    stages = [layer for layer in net.features if isinstance(layer, mx.gluon.nn.HybridSequential)]
    branches = [block for stage in stages for block in stage]
    for block in branches:
        weight = block.conv3.weight
        weight.set_data(weight.data() / len(branches) ** 0.5)
