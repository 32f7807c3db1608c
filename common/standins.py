"""What takes an asset's place when there is no network: drawn, never downloaded."""

import cv2
import numpy as np

DIGIT_SIDE = 28  # pixels, as MNIST's
DIGIT_COUNTS = (60_000, 10_000)  # training and test images, as MNIST's
DIGIT_CHUNK = 1_000  # digits drawn at once: each array of their pixels still takes only 3 MB

# The fonts least like print: one round, one angular, one cursive.
DIGIT_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_PLAIN, cv2.FONT_HERSHEY_SCRIPT_COMPLEX)
GLYPH_HEIGHT = 64  # template pixels: three times the drawn size, so that no shape gets lost
GLYPH_TILE = 128  # template pixels: the broadest pen's strokes stay clear of the tile's edges
GLYPH_STROKE = 3  # template pixels: just closes the double strokes of the cursive font
GLYPH_OUTLINE = 64  # points that trace a glyph when its extent is measured
GLYPH_UNIT = GLYPH_HEIGHT / 2  # template pixels in a glyph unit, in which lengths are given below

# How digits differ: the (low, high) ends of uniform distributions. They were tuned together so
# that a perceptron learns these digits about as fast as MNIST's; wider ones are harder to learn.
DIGIT_ROTATION = (-0.35, 0.35)  # radians
DIGIT_SLANT = (-0.2, 0.5)  # sideways for each unit upwards: most hands lean to the right
DIGIT_ASPECT = (0.7, 1.3)  # width, as a multiple of the font's
DIGIT_SWAY = (-0.2, 0.2)  # how far a wave bends the strokes sideways
DIGIT_LIFT = (-0.1, 0.1)  # and up or down: half as far, so that few digits end up too squat to read
DIGIT_WAVE = (1.0, 3.0)  # radians for each unit: a digit spans a third of a wave to a whole one
DIGIT_EXTENT = (18.0, 23.0)  # pixels, the longer side under the broadest pen: MNIST's 20 or so
DIGIT_JITTER = (-3.0, 3.0)  # pixels off the centre, as far as the frame leaves room
DIGIT_MARGIN = 1  # pixels around the digit that stay black
PEN_RADIUS = (0.08, 0.18)  # thin lines to bold ones; on average they leave MNIST's share of ink
PEN_BLUR = (0.1, 0.2)  # the width of a stroke's soft edge
PEN_GRAIN = (-0.03, 0.03)  # noise, pixel by pixel, in where that edge runs
PEN_INK = (0.75, 1.0)  # brightness: nobody presses equally hard each time
PEN_REACH = PEN_RADIUS[1] + PEN_BLUR[1] / 2 + PEN_GRAIN[1]  # no ink lies farther from a stroke


def _digit_templates():
    """Draw each digit in each font: distances to its strokes, and an outline around their ink.

    Returns
    -------
    distances : numpy.ndarray
        float32, (10 * fonts * GLYPH_TILE, GLYPH_TILE): a tile for each digit and font, one below
        the other, that holds each pixel's distance to the nearest stroke. Unlike a drawing, it
        can be sampled coarsely without aliasing, and serves strokes of every width.
    outlines : numpy.ndarray
        float32, (10 * fonts, 2, GLYPH_OUTLINE): x and y, from the tile's centre, of points as far
        from the strokes as ink can get.
    """
    distances, outlines = [], []
    for digit in "0123456789":
        for font in DIGIT_FONTS:
            scale = cv2.getFontScaleFromHeight(font, GLYPH_HEIGHT, GLYPH_STROKE)
            (width, height), _ = cv2.getTextSize(digit, font, scale, GLYPH_STROKE)
            corner = ((GLYPH_TILE - width) // 2, (GLYPH_TILE + height) // 2)
            paper = np.full((GLYPH_TILE, GLYPH_TILE), 255, np.uint8)
            cv2.putText(paper, digit, corner, font, scale, 0, GLYPH_STROKE)
            distance = cv2.distanceTransform(paper, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            inkable = np.uint8(distance < PEN_REACH * GLYPH_UNIT)
            (contour,), _ = cv2.findContours(inkable, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            traced = np.linspace(0, len(contour), GLYPH_OUTLINE, endpoint=False, dtype=int)
            distances.append(distance / GLYPH_UNIT)
            outlines.append((contour[traced, 0].T - GLYPH_TILE / 2) / GLYPH_UNIT)
    return np.concatenate(distances), np.array(outlines, np.float32)


def _draw_digits(labels, distances, outlines, rng):
    """Draw one digit for each label; `distances` and `outlines` are `_digit_templates`'s."""

    def draw(span, *shape):
        low, high = span
        return low + (high - low) * rng.random((len(labels), *shape), np.float32)

    def wave(span):
        height, length, phase = draw(span, 1), draw(DIGIT_WAVE, 1), draw((0, 2 * np.pi), 1)
        return lambda along: height * np.sin(length * along + phase)

    template = labels * len(DIGIT_FONTS) + rng.integers(len(DIGIT_FONTS), size=len(labels))
    sway, lift = wave(DIGIT_SWAY), wave(DIGIT_LIFT)
    angle, slant, aspect = draw(DIGIT_ROTATION), draw(DIGIT_SLANT), draw(DIGIT_ASPECT)
    cos, sin = np.cos(angle), np.sin(angle)
    # Widen and lean (y points down, so a lean to the right is negative), and then rotate.
    matrix = np.array([[cos * aspect, -cos * slant - sin], [sin * aspect, cos - sin * slant]])
    matrix = matrix.transpose(2, 0, 1)

    # Bend and turn the outlines first: they tell which scale and place keep a digit in the frame.
    x, y = outlines[template].transpose(1, 0, 2)
    x = x + sway(y)
    y = y + lift(x)
    outline = matrix @ np.stack([x, y], axis=1)
    low, high = outline.min(axis=2), outline.max(axis=2)
    scale = draw(DIGIT_EXTENT, 1) / (high - low).max(axis=1, keepdims=True)
    room = DIGIT_SIDE / 2 - DIGIT_MARGIN - scale * (high - low) / 2
    centre = (DIGIT_SIDE - 1) / 2 + np.clip(draw(DIGIT_JITTER, 2), -room, room)
    origin = centre - scale * (low + high) / 2

    # Then trace every pixel back to the place in its template that these steps bring there.
    pixels = np.indices((DIGIT_SIDE, DIGIT_SIDE), np.float32)[::-1].reshape(2, -1)
    inverse = np.linalg.inv(matrix * scale[..., None])
    x, y = (inverse @ (pixels - origin[..., None])).transpose(1, 0, 2)
    y = y - lift(x)
    x = x - sway(y)
    column, row = np.clip(np.stack([x, y]) * GLYPH_UNIT + GLYPH_TILE / 2, 0, GLYPH_TILE - 1)
    row += template[:, None] * GLYPH_TILE
    distance = cv2.remap(distances, column, row, cv2.INTER_LINEAR)

    edge = draw(PEN_RADIUS, 1) + draw(PEN_GRAIN, DIGIT_SIDE**2) - distance
    ink = np.clip(edge / draw(PEN_BLUR, 1) + 0.5, 0, 1) * draw(PEN_INK, 1)
    return np.uint8(ink * 255).reshape(-1, DIGIT_SIDE, DIGIT_SIDE)


def draw_mnist(seed=0):
    """Draw digits that stand in for MNIST's: as many, as large, and about as hard to tell apart.

    Each is a digit of one of OpenCV's stroke fonts [1]_, which go back to Hershey [2]_, at a random
    place, scale, width, slant and rotation, bent by two random waves, and drawn with a pen of
    random width, blur, grain and brightness. At least a pixel around it stays black.

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

    References
    ----------
    .. [1] OpenCV, "Drawing Functions", HersheyFonts,
       https://docs.opencv.org/4.x/d6/d6e/group__imgproc__draw.html
    .. [2] A. V. Hershey, "Calligraphy for Computers", U.S. Naval Weapons Laboratory, 1967.
    """
    rng = np.random.default_rng(seed)
    train = DIGIT_COUNTS[0]
    labels = rng.permutation(np.arange(sum(DIGIT_COUNTS), dtype=np.int32) % 10)
    templates = _digit_templates()
    images = np.concatenate(
        [
            _draw_digits(labels[start : start + DIGIT_CHUNK], *templates, rng)
            for start in range(0, len(labels), DIGIT_CHUNK)
        ]
    )
    return (images[:train], labels[:train]), (images[train:], labels[train:])


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
