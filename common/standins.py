"""What takes an asset's place when there is no network: drawn, never downloaded."""

import cv2
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
STROKE_POINTS = 32
STROKE_SMOOTHING = 7  # points over which the corners of a stroke are rounded

# How digits differ: the (low, high) ends of uniform distributions. They were tuned together so
# that a perceptron learns these digits about as fast as MNIST's; wider ones are harder to learn.
DIGIT_ROTATION = (-0.35, 0.35)  # radians
DIGIT_SLANT = (-0.2, 0.5)  # sideways for each unit upwards: most hands lean to the right
DIGIT_ASPECT = (0.5, 0.8)  # width for a height of 1
DIGIT_BEND = (-0.12, 0.12)  # heights by which a wave bends the strokes
DIGIT_WAVE = (2.0, 6.0)  # radians a height: a digit spans a third of a wave to a whole one
DIGIT_EXTENT = (18.0, 22.0)  # pixels of the longer side: MNIST's have 20
DIGIT_JITTER = (-3.0, 3.0)  # pixels off the centre, as far as the frame leaves room
DIGIT_INK = (0.75, 1.0)  # brightness: nobody presses equally hard each time
PEN_WIDTHS = range(7, 14)  # pixels of the enlarged drawing

PHOTO_SIDE = 256  # pixels: `records.pack` keeps a JPEG of this size as it is
PHOTO_PARTS = 251  # how many parts of a picture can differ: more than most have
ROW_STEP = 37  # from a cell's number to that of the cell below: odd, so that checks alternate

# A photo's stand-in is ink on paper, one deep and one pale, so that they differ whatever their
# hues are. These are the (low, high) ends of their saturation and value, 0 to 1.
DEEP = ((0.6, 0.95), (0.3, 0.65))
PALE = ((0.15, 0.55), (0.85, 1.0))
HUE_SPREAD = (-15.0, 15.0)  # degrees, within one ink or paper
ANY, WARM, COOL = (0, 360), (-30, 60), (150, 290)  # hues, degrees

# How else those of one class differ, as the digits do.
PHOTO_TURN = (-np.pi, np.pi)  # radians
PHOTO_TILT = (-0.12, 0.12)  # radians, for what grows or lies level: nobody holds a camera still
PHOTO_SHIFT = (-0.3, 0.3)  # sides
PHOTO_SWAY = (0.0, 0.03)  # sides, by which soft noise bends the lines
PHOTO_BLUR = (1.2, 3.0)  # pixels, the width of an edge: sharp, or slightly out of focus
PHOTO_SHADE = (0.0, 0.5)  # share of its light that paper loses in the ink's shadow
SHAPE_SIZE = (0.28, 0.42)  # cells, the radius: with the shift, it stays in its cell
SHAPE_SHIFT = (-0.08, 0.08)  # cells

# How many cells of its pattern a picture shows side by side, how far it may be turned, and the hues
# of its deep and of its pale colour. Untrained networks see little but colour and texture: some
# classes have a colour of their own, and some share theirs, as photographs do.
CLASSES = {
    "bricks": ((4, 7), PHOTO_TILT, (0, 15), (25, 40)),
    "checks": ((4, 10), PHOTO_TURN, ANY, ANY),
    "clouds": ((1, 1), PHOTO_TURN, (210, 225), (200, 220)),
    "crosses": ((1.5, 4), PHOTO_TURN, (-15, 10), ANY),
    "discs": ((1.5, 4), PHOTO_TURN, ANY, WARM),
    "dots": ((7, 12), PHOTO_TURN, ANY, ANY),
    "grass": ((20, 30), PHOTO_TILT, (100, 140), (75, 105)),
    "rays": ((1, 1), PHOTO_TURN, (0, 35), (40, 55)),
    "rings": ((1.5, 4), PHOTO_TURN, COOL, ANY),
    "spirals": ((1, 2), PHOTO_TURN, (280, 330), ANY),
    "squares": ((1.5, 4), PHOTO_TURN, ANY, COOL),
    "stars": ((1.5, 4), PHOTO_TURN, (225, 260), (42, 60)),
    "stripes": ((3, 8), PHOTO_TURN, ANY, ANY),
    "triangles": ((1.5, 4), PHOTO_TURN, WARM, ANY),
    "waves": ((3, 7), PHOTO_TILT, (185, 220), (165, 205)),
    "zigzags": ((3, 7), PHOTO_TURN, ANY, ANY),
}


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

    # Scaled to the frame, as far off its centre as there is room, each on a frame of its own.
    frame = DIGIT_SIDE * DIGIT_SCALE
    pen = rng.choice(PEN_WIDTHS, count)
    low, high = points.min(axis=2), points.max(axis=2)
    scale = (draw(DIGIT_EXTENT) * DIGIT_SCALE - pen) / (high - low).max(axis=0)
    room = frame / 2 - DIGIT_SCALE - pen / 2 - scale * (high - low) / 2
    centre = np.clip(draw(DIGIT_JITTER, 2).T * DIGIT_SCALE, -room, room) + frame / 2
    centre[1] += frame * np.arange(count)
    points = scale[:, None] * (points - (low + high)[..., None] / 2) + centre[..., None]
    strokes = np.rint(points).astype(np.int32).transpose(1, 2, 0).reshape(count, 2, -1, 2)

    sheet = np.zeros((count * frame, frame), np.uint8)
    for width in PEN_WIDTHS:
        cv2.polylines(
            sheet, [*strokes[pen == width].reshape(-1, STROKE_POINTS, 2)], False, 255, width
        )
    small = cv2.resize(sheet, (DIGIT_SIDE, count * DIGIT_SIDE), interpolation=cv2.INTER_AREA)
    return np.uint8(small.reshape(count, DIGIT_SIDE, DIGIT_SIDE) * draw(DIGIT_INK, 1, 1))


def draw_mnist(seed=0):
    """Draw digits that stand in for MNIST's: as many, as large, and about as hard to tell apart.

    Each is one of three ways to write its digit, at a random place, scale, width, slant and
    rotation, bent by two random waves, and drawn with a pen of random width and brightness. At
    least a pixel around it stays black.

    Parameters
    ----------
    seed : int
        Where the random numbers start. On one machine, equal seeds draw equal digits.

    Returns
    -------
    train : tuple of numpy.ndarray
        60,000 images, uint8, (60000, 28, 28), white (255 at most) on black (0), and the digits
        0 to 9 that they show, int32, (60000,), in random order.
    test : tuple of numpy.ndarray
        10,000 more of both, in the same form. Train and test together show each digit 7,000 times.
    """
    rng = np.random.default_rng(seed)
    train = DIGIT_COUNTS[0]
    labels = rng.permutation(np.arange(sum(DIGIT_COUNTS), dtype=np.int32) % 10)
    paths = _digit_paths()
    images = np.concatenate(
        [
            _draw_digits(labels[start : start + DIGIT_CHUNK], paths, rng)
            for start in range(0, len(labels), DIGIT_CHUNK)
        ]
    )
    return (images[:train], labels[:train]), (images[train:], labels[train:])


def _noise(rng, cells):
    """Return a sheet of soft noise, 0 to 1: a random number a cell, joined smoothly."""
    noise = rng.random((cells, cells), np.float32)
    noise = cv2.resize(noise, (PHOTO_SIDE, PHOTO_SIDE), interpolation=cv2.INTER_CUBIC)
    return np.clip(noise, 0, 1)  # cubic curves overshoot


def _vary(rng, span, part):
    """Draw a random number for each part of a picture, and put it wherever that part is."""
    return rng.uniform(*span, PHOTO_PARTS).astype(np.float32).take(part.astype(int), mode="wrap")


def _ribbons(position):
    """Ink half of each unit; return depths and parts, as `INKS` do."""
    number = np.rint(position)
    return 0.25 - abs(position - number), number


def _cells(x, y):
    """Return where in its cell a place lies, seen from the middle, and the cell's number."""
    column, row = np.rint(x), np.rint(y)
    return x - column, y - row, column + ROW_STEP * row


def _bricks(x, y, rng):
    x, y, number = _cells(x / 2 + np.rint(y) / 2, y)  # twice as long as high, every other row moved
    return np.minimum(1 - 2 * abs(x), 0.5 - abs(y)) - 0.06, number


def _checks(x, y, rng):
    x, y, number = _cells(x, y)
    depth = 0.5 - np.maximum(abs(x), abs(y))  # in the odd cells; the others stay paper
    return np.where(number % 2, depth, -depth), number


def _clouds(x, y, rng):
    # The finer the noise, the fainter. Shallow depths make soft edges.
    heap = sum(_noise(rng, 2**octave) / 2**octave for octave in range(1, 7))
    return 0.05 * (heap - heap.mean()), np.zeros_like(x)


def _dots(x, y, rng):
    x, y, number = _cells(x, y)
    return 0.3 - cv2.magnitude(x, y), number


def _grass(x, y, rng):
    column = np.rint(x)
    y = y / 6 + _vary(rng, (0, 1), column)  # blades are long, and no two neighbours begin level
    row = np.floor(y)
    return 0.5 * np.sqrt(y - row) - abs(x - column), column + ROW_STEP * row


def _rays(x, y, rng):
    count = rng.integers(7, 13)
    radius, angle = cv2.cartToPolar(x, y)
    depth, number = _ribbons(angle * count / (2 * np.pi))
    sun = 0.1 - radius
    depth *= radius * 2 * np.pi / count  # a ray is as wide as its share of the circle here
    return np.maximum(depth, sun), np.where(sun > 0, count, number % count)


def _scatter(corners, shape):
    """Make an ink that draws a shape in each cell, its place, size and angle varied.

    The shape tells how deep inside a place lies, given its radius, 1 or less, and its angle from
    the nearest of the corners, which thus come out all alike.
    """

    def ink(x, y, rng):
        x, y, number = _cells(x, y)
        right, down, size, turn = (
            _vary(rng, span, number) for span in (SHAPE_SHIFT, SHAPE_SHIFT, SHAPE_SIZE, PHOTO_TURN)
        )
        radius, angle = cv2.cartToPolar(x - right, y - down)
        sector = 2 * np.pi / corners
        angle += turn
        return size * shape(radius / size, angle - sector * np.rint(angle / sector)), number

    return ink


# Each takes x and y, in cells, and random numbers, and returns how deep in the ink a place lies, in
# cells and negative outside, and the number of the stripe, brick, disc ... that it belongs to.
INKS = {
    "bricks": _bricks,
    "checks": _checks,
    "clouds": _clouds,
    "crosses": _scatter(4, lambda r, a: np.minimum(0.95 - r * np.cos(a), 0.3 - r * abs(np.sin(a)))),
    "discs": _scatter(1, lambda r, a: 1 - r),
    "dots": _dots,
    "grass": _grass,
    "rays": _rays,
    "rings": _scatter(1, lambda r, a: 0.2 - abs(r - 0.8)),
    "spirals": _scatter(1, lambda r, a: np.minimum(_ribbons(3 * r + a / np.pi / 2)[0] / 3, 1 - r)),
    "squares": _scatter(4, lambda r, a: 0.7 - r * np.cos(a)),
    "stars": _scatter(5, lambda r, a: 0.4 - r * np.cos(abs(a) - np.arccos(0.4))),
    "stripes": lambda x, y, rng: _ribbons(x),
    "triangles": _scatter(3, lambda r, a: 0.5 - r * np.cos(a)),
    "waves": lambda x, y, rng: _ribbons(y + 0.3 * np.sin(rng.uniform(2, 4) * x)),
    "zigzags": lambda x, y, rng: _ribbons(y + rng.uniform(0.8, 1.5) * abs(x - np.rint(x))),
}


def _colour(rng, spans, weight):
    """Mix two neighbouring colours by a sheet of weights, 0 to 1, into a sheet of BGR, to 255."""
    hues, *tones = spans
    hue = rng.uniform(*hues) + rng.uniform(*HUE_SPREAD, 2)
    hsv = np.stack([hue % 360, *(rng.uniform(*tone, 2) for tone in tones)], axis=-1)
    start, end = 255 * cv2.cvtColor(np.float32([hsv]), cv2.COLOR_HSV2BGR)[0]
    return cv2.merge([low + weight * (high - low) for low, high in zip(start, end)])


def _draw_photo(name, rng):
    """Draw a picture of a class, (PHOTO_SIDE, PHOTO_SIDE, 3) uint8, BGR."""
    cells, turn, deep, pale = CLASSES[name]
    cells, turn, sway = (rng.uniform(*span) for span in (cells, turn, PHOTO_SWAY))
    y, x = np.indices((PHOTO_SIDE, PHOTO_SIDE), np.float32) / PHOTO_SIDE - 0.5
    x, y = (axis + rng.uniform(*PHOTO_SHIFT) + sway * _noise(rng, 4) for axis in (x, y))
    cos, sin = cells * np.cos(turn), cells * np.sin(turn)
    depth, part = INKS[name](x * cos - y * sin, x * sin + y * cos, rng)
    cover = np.clip(depth * (PHOTO_SIDE / cells / rng.uniform(*PHOTO_BLUR)) + 0.5, 0, 1)

    ink, paper = rng.permutation([(deep, *DEEP), (pale, *PALE)])
    ink = _colour(rng, ink, _vary(rng, (0, 1), part))
    paper = _colour(rng, paper, _noise(rng, 3))
    # Seen off its centre, a blur falls to one side, as a shadow does.
    shade = rng.uniform(*PHOTO_SHADE) * cv2.blur(cover, (15, 15), anchor=(11, 11))
    paper *= 1 - shade[..., None]
    cover = cover.astype(np.float32)  # as blendLinear wants it
    return np.uint8(cv2.blendLinear(ink, paper, cover, 1 - cover))


def draw_classes(count, seed=0):
    """Draw pictures of 16 classes that stand in for a folder of photographs.

    A class is a pattern, such as bricks, rings or waves; some keep to a range of colours. Size,
    place, angle, colours, shadow and sharpness vary at random.

    Parameters
    ----------
    count : int
        Number of pictures. They go through the classes in turn.
    seed : int
        Where the random numbers start. On one machine, equal seeds draw equal pictures, and fewer
        are the first of more.

    Yields
    ------
    tuple of (str, str, bytes)
        Class, file name (class/number.jpg) and JPEG, 256 x 256 pixels in colour, of each picture,
        as `records.pack` takes them.
    """
    names = list(CLASSES)
    for number in range(count):
        name = names[number % len(names)]
        picture = _draw_photo(name, np.random.default_rng([seed, number]))
        _, jpeg = cv2.imencode(".jpg", picture)
        yield name, f"{name}/{number:05}.jpg", jpeg.tobytes()


def draw_picture(side):
    """Draw a picture for filters: edges all ways, flat and rough regions, strong colours.

    Parameters
    ----------
    side : int
        Its side in pixels.

    Returns
    -------
    numpy.ndarray
        (3, side, side) uint8, RGB; the same at every call.
    """
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side].astype(np.float32) / side

    # A sky that is almost flat, over water with ripples in it.
    sky = np.stack([110 + 60 * y, 160 + 40 * y, 225 + 10 * y], axis=-1)
    ripples = 25 * np.sin(90 * y + 4 * np.sin(9 * x))[..., None]
    water = np.array([40, 110, 120]) + ripples
    picture = np.where(y[..., None] < 0.55, sky, water)

    # A sun with rays: edges in every direction.
    angle, distance = np.arctan2(y - 0.25, x - 0.74), np.hypot(y - 0.25, x - 0.74)
    rays = (distance < 0.2) & (np.sin(16 * angle) > 0)
    picture[rays] = (255, 205, 40)
    picture[distance < 0.11] = (250, 120, 20)

    # A meadow of noise, and a chequered board: a rough and a regular texture.
    meadow = (x + 0.6 * y > 1.12) & (y > 0.55)
    grass = rng.normal(0, 40, (side, side, 1)) + np.array([60, 150, 40])
    picture[meadow] = grass[meadow]
    board = (abs(x - 0.175) < 0.125) & (abs(y - 0.225) < 0.125)
    checks = ((x * 20).astype(int) + (y * 20).astype(int)) % 2
    picture[board] = np.where(checks[board], 245, 15)[:, None]

    # A boat in pure colours: hull, mast and two sails.
    shapes = {
        (200, 20, 30): [(0.16, 0.66), (0.66, 0.66), (0.56, 0.8), (0.26, 0.8)],
        (60, 35, 20): [(0.4, 0.3), (0.42, 0.3), (0.42, 0.66), (0.4, 0.66)],
        (245, 245, 240): [(0.43, 0.32), (0.43, 0.62), (0.64, 0.62)],
        (30, 60, 190): [(0.39, 0.36), (0.39, 0.62), (0.22, 0.62)],
    }
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    for colour, corners in shapes.items():
        points = np.round(np.array(corners) * side).astype(np.int32)
        cv2.fillPoly(picture, [points], colour, cv2.LINE_AA)
    return np.ascontiguousarray(picture.transpose(2, 0, 1))


def draw_filters(kernel, seed):
    """Draw 64 filters like those that a trained network begins with.

    Half are grey stripes and edges, Gabor functions at 16 directions (`cv2.getGaborKernel`), as
    first layers learn them and as cells of the visual cortex answer to them (J. G. Daugman,
    "Uncertainty relation for resolution in space, spatial frequency, and orientation optimized by
    two-dimensional visual cortical filters", 1985). A quarter are edges between two opponent
    colours, a quarter blobs of one colour in a ring of its opponent.

    Parameters
    ----------
    kernel : int
        Side of a filter in pixels, odd.
    seed : int
        Where the random order comes from.

    Returns
    -------
    numpy.ndarray
        (64, 3, kernel, kernel) float32, RGB, of unit length each.
    """
    rng = np.random.default_rng(seed)
    angles = np.arange(16) * np.pi / 16
    # Red against green, blue against yellow, and what lies between them; none of them is bright.
    hues = np.arange(16) * 2 * np.pi / 16
    red_green, blue_yellow = np.array([1, -1, 0]), np.array([-0.5, -0.5, 1])
    colours = np.cos(hues)[:, None] * red_green + np.sin(hues)[:, None] * blue_yellow

    def stripes(angle, phase):
        # A wavelength about as long as the filter is wide shows one stripe or one edge.
        size = (kernel, kernel)
        wave = cv2.getGaborKernel(size, kernel / 4, angle, 0.9 * kernel, 0.8, phase)
        return wave - wave.mean()

    offset = np.arange(kernel) - kernel // 2
    distance = np.hypot(offset, offset[:, None]) / kernel
    blob = np.exp(-(distance**2) / 0.05) - 0.5 * np.exp(-(distance**2) / 0.15)

    edges = [stripes(angle, np.pi / 2) for angle in angles]
    grey = [stripes(angle, 0) for angle in angles] + edges
    filters = np.concatenate(
        [
            np.array(grey)[:, None] * np.ones((1, 3, 1, 1)),
            np.array(edges)[:, None] * colours[:, :, None, None],
            blob * colours[:, :, None, None],
        ]
    )
    filters /= np.sqrt((filters**2).sum(axis=(1, 2, 3), keepdims=True))
    return rng.permutation(filters).astype(np.float32)


def draw_weights(shapes, branch_ends, seed=0):
    """Draw the weights of a residual network at random, so that signals stay of one size.

    Those of convolutions and dense layers are normal, with the variance that keeps signals as large
    through a rectifier as they were [1]_. Each residual branch adds to the variance of what passes
    it by; with L branches, dividing the last weights of each by the root of L keeps the sum from
    growing beyond e times the variance it began with, however many branches there are, an idea
    from [2]_. Batch normalisations change nothing.

    Parameters
    ----------
    shapes : dict of str to tuple of int
        Gluon's names of all parameters and auxiliary states, and their shapes.
    branch_ends : set of str
        Names of the weights that each residual branch ends with.
    seed : int
        Where the random numbers start.

    Returns
    -------
    dict of str to numpy.ndarray
        Float32 arrays of these names and shapes.

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers",
       https://arxiv.org/abs/1502.01852
    .. [2] H. Zhang, Y. N. Dauphin, T. Ma, "Fixup Initialization: Residual Learning Without
       Normalization", https://arxiv.org/abs/1901.09321
    """
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes.items():
        if name.endswith("_weight"):
            weight = rng.standard_normal(shape, np.float32)
            weight *= np.sqrt(2 / np.prod(shape[1:]))
            weights[name] = weight / np.sqrt(len(branch_ends)) if name in branch_ends else weight
        else:
            ones = name.endswith(("_gamma", "_running_var"))
            weights[name] = np.full(shape, float(ones), np.float32)
    return weights
