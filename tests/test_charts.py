import numpy as np
from mxnet import nd

from common.charts import CELL, MARGIN, draw_confusion, scale_each


def cells(picture):
    """Cut a (3, H, W) picture into cells without their borders, (10, 10, side, side, 3)."""
    inside = picture[:, MARGIN:, MARGIN:].reshape(3, 10, CELL, 10, CELL)[:, :, 3:-3, :, 3:-3]
    return inside.transpose(1, 3, 2, 4, 0).astype(int)


def test_confusion_is_redder_the_more_digits_of_a_row_are_taken_for_a_column():
    labels = np.array([7] * 5 + [2] * 9 + [4] * 99)
    predicted = np.array([1] * 5 + [3] * 9 + [4] * 99)
    colors = cells(draw_confusion(labels, predicted))[:, :, 0, 0]
    redness = colors[..., 0] - colors[..., 1]
    assert [*map(tuple, np.argwhere(redness > 20))] == [(2, 3), (7, 1)]
    assert redness[2, 3] == 211 - 47 and abs(redness[7, 1] - 5 / 9 * redness[2, 3]) < 2
    assert len(np.unique(colors[range(10), range(10)], axis=0)) == 1


def test_confusion_has_a_number_in_each_cell_that_counts_something_and_in_no_other():
    picture = draw_confusion(np.array([0, 5, 5]), np.array([0, 6, 5]))
    written = np.ptp(cells(picture).mean(axis=4), axis=(2, 3)) > 50
    assert [*map(tuple, np.argwhere(written))] == [(0, 0), (5, 5), (5, 6)]


def test_confusion_without_a_mistake_is_drawn():
    colors = cells(draw_confusion(np.arange(10), np.arange(10)))[:, :, 0, 0]
    assert (colors[~np.eye(10, dtype=bool)] == 255).all()


def test_scaling_stretches_each_picture_by_itself_and_makes_a_flat_one_black():
    batch = nd.array([[[[1, 2, 3]]], [[[-10, 0, 10]]], [[[7, 7, 7]]]])
    expected = [[0, 0.5, 1], [0, 0.5, 1], [0, 0, 0]]
    np.testing.assert_array_equal(scale_each(batch).asnumpy()[:, 0, 0], expected)
