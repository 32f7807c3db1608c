"""Arrays as pictures: pixels, grids of them, and the formats they are kept in."""

import math

import cv2
import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary

from .summary import to_numbers

LARGEST_PNG = 16 * 2**20  # bytes of pixels; a PNG of photographs would be nearly as large
SMALL_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
JPEG_SIDE = 65_500  # pixels; libjpeg refuses more
LARGEST_STRIP = 256  # pictures; more of them are a square grid
ROUNDING = 1 / 512  # floats as far as this from [0, 1] are the same pixels
SPRITE_SIDE = 8192  # pixels; the projector refuses a larger sheet


def to_image(subject, values):
    """Convert pictures, as `add_image` takes them, to what TensorBoard's Images shows."""
    batch = to_pixels(subject, values)
    columns = 8 if len(batch) <= LARGEST_STRIP else math.isqrt(len(batch) - 1) + 1
    pixels = make_grid(batch, columns)
    height, width, channels = pixels.shape
    lossy = pixels.nbytes > LARGEST_PNG and max(height, width) <= JPEG_SIDE
    content = encode(pixels, ".jpg" if lossy else ".png")
    return Summary.Image(
        height=height, width=width, colorspace=channels, encoded_image_string=content
    )


def to_pixels(subject, values):
    """Convert pictures, as `add_image` takes them, to a (N, 1 or 3, H, W) uint8 batch."""
    image = to_numbers(subject, values)
    batch = image.reshape((1,) * (4 - image.ndim) + image.shape)
    if image.ndim not in (2, 3, 4) or not image.size or batch.shape[1] not in (1, 3):
        advice = _advise(batch.shape) if image.size and image.ndim in (3, 4) else ""
        raise ValueError(f"{subject}: expected ([[N,] 1 or 3,] H, W), not {image.shape}{advice}")
    if batch.dtype == np.uint8:
        return batch
    low, high = batch.min(), batch.max()
    largest, error = (255, 0) if batch.dtype.kind in "iu" else (1, ROUNDING)
    if not (low >= -error and high <= largest + error):
        got = f"{batch.dtype} from {low} to {high}"
        raise ValueError(f"{subject}: expected integers in [0, 255] or floats in [0, 1], not {got}")
    if low < 0 or high > largest:
        batch = batch.clip(0, largest)
    return (batch if largest == 255 else np.rint(batch * 255)).astype(np.uint8)


def _advise(shape):
    """Say how to convert a (N, H, W, C) batch, or one with an alpha channel."""
    if shape[3] in (1, 3) or shape[3] == 4 < shape[1]:
        return f": convert it by np.moveaxis(image{'[..., :3]' if shape[3] == 4 else ''}, -1, -3)"
    return ": convert it by image[..., :3, :, :]" if shape[1] == 4 else ""


def make_grid(batch, columns, rows=1, padding=2):
    """Lay out a (N, C, H, W) RGB batch in `rows` or more as (H', W', C) BGR; one stays as it is."""
    batch = batch[:, ::-1].transpose(0, 2, 3, 1)
    count, height, width, channels = batch.shape
    if count == 1:
        return np.ascontiguousarray(batch[0])
    columns = min(columns, count)
    rows = max(rows, math.ceil(count / columns))
    down, right = height + padding, width + padding
    sheet = np.zeros((rows * down + padding, columns * right + padding, channels), np.uint8)
    # A view of the pictures' places in the sheet, because a copy of a large one fills the memory.
    cells = sheet[padding:, padding:].reshape(rows, down, columns, right, channels)
    places = cells[:, :height, :, :width].swapaxes(1, 2)
    full = count // columns
    places[:full] = batch[: full * columns].reshape(full, columns, *batch.shape[1:])
    places[full : full + 1, : count % columns] = batch[full * columns :]
    return sheet


def encode(pixels, extension):
    """Encode a (H, W, 1) gray or (H, W, 3) BGR picture as ".png" or ".jpg"."""
    if extension == ".jpg":
        # Colors at half the resolution would run from each picture of a sheet into the next.
        full_color = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
        options = (cv2.IMWRITE_JPEG_QUALITY, 90, *full_color)
    else:
        # OpenCV's own options are the quickest, and good for photographs; flatter pictures get
        # half as large with others. A strip of the picture tells which one it is.
        strip = pixels[: max(1, len(pixels) // 16)]
        quick, small = (len(cv2.imencode(".png", strip, each)[1]) for each in ((), SMALL_PNG))
        options = SMALL_PNG if quick > 1.15 * small else ()
    return cv2.imencode(extension, pixels, options)[1].tobytes()


def fit_sprites(batch):
    """Shrink a (N, C, H, W) batch to fit the largest sprite sheet; return also its columns."""
    count, channels, height, width = batch.shape
    columns = math.isqrt(count - 1) + 1
    room, longer = SPRITE_SIDE // columns, max(height, width)
    if longer > room:
        size = max(1, width * room // longer), max(1, height * room // longer)
        planes = batch.reshape(-1, height, width)
        small = [cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in planes]
        batch = np.stack(small).reshape(count, channels, *size[::-1])
    return batch, columns
