"""One picture to look at: the published one, or the reader's own."""

from pathlib import Path

import cv2
import mxnet as mx
import numpy as np

from .assets import SWAN, UnavailableError, fetch
from .cli import ScriptError, notice
from .standins import draw_picture

SIDE = 224  # pixels: what networks trained on ImageNet look at


def load_picture(data_dir, offline=False):
    """Read the published picture, a swan, or draw one.

    Parameters
    ----------
    data_dir : str
        Folder that it is in, or is fetched to.
    offline : bool
        Fetch nothing.

    Returns
    -------
    picture : numpy.ndarray
        (3, 224, 224) uint8, RGB.
    source : str
        What it is, as Markdown.

    Raises
    ------
    ScriptError
        The file is damaged and cannot be fetched again, or the folder cannot be written to.
    """
    try:
        (path,) = fetch([SWAN], data_dir, offline)
    except UnavailableError as reason:
        notice(f"{reason}: showing a drawn picture instead")
        return draw_picture(SIDE), f"**No photograph:** the picture is drawn: {reason}."
    return mx.nd.load(str(path))[0].asnumpy(), "The picture is a swan from ImageNet."


def read_picture(path, smallest):
    """Read a picture: its centre, as large a square as it has, resized to 224 x 224.

    Parameters
    ----------
    path : str
        Any format that OpenCV reads, grey and with alpha too.
    smallest : int
        Pixels that its shorter edge must have.

    Returns
    -------
    picture : numpy.ndarray
        (3, 224, 224) uint8, RGB.
    source : str
        What it is, as Markdown.

    Raises
    ------
    ScriptError
        It is not a picture, or too small.
    OSError
        It cannot be read.
    """
    content = np.frombuffer(Path(path).read_bytes(), np.uint8)
    pixels = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    if pixels is None:
        raise ScriptError(f"{path} is not a picture that OpenCV can read")
    height, width, _ = pixels.shape
    side = min(height, width)
    if side < smallest:
        raise ScriptError(
            f"{path} is {width} x {height} pixels, less than a filter of {smallest} x {smallest}"
        )
    top, left = (height - side) // 2, (width - side) // 2
    # Shrinking averages over all pixels, so that fine patterns do not turn into coarse ones.
    method = cv2.INTER_AREA if side > SIDE else cv2.INTER_CUBIC
    pixels = cv2.resize(
        pixels[top : top + side, left : left + side], (SIDE, SIDE), interpolation=method
    )
    return np.ascontiguousarray(pixels[:, :, ::-1].transpose(2, 0, 1)), f"The picture is `{path}`."
