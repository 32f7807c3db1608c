"""Arrays made into pictures that tell something: weights, and what is taken for what."""

import cv2
import numpy as np
from mxnet import nd

CELL, MARGIN = 56, 72  # pixels: the side of a cell, and the room for an axis and its labels
INK, WHITE, GRAY, RED = (40, 40, 40), (255, 255, 255), (236, 239, 241), (211, 47, 47)  # RGB


def scale_each(batch):
    """Stretch each item of a batch to [0, 1]; one that is all the same becomes 0."""
    low = batch.min(axis=(1, 2, 3), keepdims=True)
    spread = batch.max(axis=(1, 2, 3), keepdims=True) - low
    return (batch - low) / nd.where(spread > 0, spread, nd.ones_like(spread))


def draw_confusion(labels, predicted, classes=10):
    """Draw how many items of each class (rows) were taken for each (columns).

    Labels and predictions are (N,) integers. Returns a (3, H, W) uint8 RGB picture, whose cells go
    from white, no mistake, to red, the most frequent one. What is right stays gray: it is so much
    more that all mistakes would look the same beside it.
    """
    counts = np.bincount(labels * classes + predicted, minlength=classes**2)
    counts = counts.reshape(classes, classes)
    mistakes = np.where(np.eye(classes), 0, counts)
    shares = mistakes / max(1, mistakes.max())
    colors = WHITE + shares[:, :, np.newaxis] * np.subtract(RED, WHITE)
    colors[range(classes), range(classes)] = GRAY
    cells = colors.repeat(CELL, axis=0).repeat(CELL, axis=1)
    cells[::CELL] = cells[:, ::CELL] = WHITE  # lines between them
    picture = np.pad(cells, ((MARGIN, 0), (MARGIN, 0), (0, 0)), constant_values=255)
    picture = picture.astype(np.uint8)

    centers = MARGIN + CELL // 2 + CELL * np.arange(classes)
    for row, column in np.argwhere(counts):
        ink = WHITE if shares[row, column] > 0.6 else INK
        weight = 1 if row == column else 2  # TensorBoard shows it at half its size
        _write(picture, counts[row, column], (centers[column], centers[row]), ink, weight)
    for number, center in enumerate(centers):
        _write(picture, number, (center, MARGIN - 16))
        _write(picture, number, (MARGIN - 16, center))
    middle = int(centers.mean())
    _write(picture, "taken for", (middle, 22))
    picture = np.rot90(picture, -1).copy()  # for a label that is read from below
    _write(picture, "digit", (len(picture) - middle, 22))
    return np.rot90(picture).transpose(2, 0, 1)


def _write(picture, text, center, color=INK, weight=2):
    """Write a text around a point (x, y)."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.6 if weight == 1 else 0.8
    (width, height), _ = cv2.getTextSize(str(text), font, scale, weight)
    corner = int(center[0] - width // 2), int(center[1] + height // 2)
    cv2.putText(picture, str(text), corner, font, scale, color, weight, cv2.LINE_AA)
