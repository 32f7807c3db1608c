from common.charts import CELL, MARGIN, draw_confusion, scale_each

import cv2
import numpy as np
from mxnet import nd


def cell_colors(picture):
    """Return the color of each cell, beside its number: (10, 10, 3)."""
    at = MARGIN + 3 + CELL * np.arange(10)
    return picture[:, at[:, np.newaxis], at].transpose(1, 2, 0).astype(int)


def test_confusion_is_redder_the_more_digits_of_a_row_are_taken_for_a_column():
    labels = np.array([7] * 5 + [2] * 9 + [4] * 3)
    predicted = np.array([1] * 5 + [3] * 9 + [4] * 3)
    colors = cell_colors(draw_confusion(labels, predicted))
    redness = colors[:, :, 0] - colors[:, :, 1]
    assert [*map(tuple, np.argwhere(redness > 20))] == [(2, 3), (7, 1)]
    assert redness[2, 3] > redness[7, 1]
    assert len(np.unique(colors[range(10), range(10)], axis=0)) == 1


def test_confusion_has_a_number_in_each_cell_that_counts_something_and_in_no_other():
    picture = draw_confusion(np.array([0, 5, 5]), np.array([0, 6, 5])).transpose(1, 2, 0)
    written = np.zeros((10, 10), bool)
    for row, column in np.ndindex(10, 10):
        y, x = MARGIN + CELL * row + 3, MARGIN + CELL * column + 3
        cell = cv2.cvtColor(picture[y : y + CELL - 6, x : x + CELL - 6].copy(), cv2.COLOR_RGB2GRAY)
        written[row, column] = np.ptp(cell.astype(int)) > 50
    assert [*map(tuple, np.argwhere(written))] == [(0, 0), (5, 5), (5, 6)]


def test_confusion_without_a_mistake_is_drawn():
    colors = cell_colors(draw_confusion(np.arange(10), np.arange(10)))
    assert (colors[~np.eye(10, dtype=bool)] == 255).all()


def test_scaling_stretches_each_picture_by_itself_and_makes_a_flat_one_black():
    batch = nd.array([[[[1, 2, 3]]], [[[-10, 0, 10]]], [[[7, 7, 7]]]])
    np.testing.assert_array_equal(
        scale_each(batch).asnumpy()[:, 0, 0], [[0, 0.5, 1], [0, 0.5, 1], [0, 0, 0]]
    )
