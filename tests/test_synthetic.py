import cv2
import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon.model_zoo import vision

from common import synthetic
from common.synthetic import CLASSES, draw_class


def test_digits_look_like_mnists_and_each_label_names_its_digit():
    for (images, labels), count in zip(synthetic.draw_mnist(0), (60_000, 10_000)):
        assert (images.shape, images.dtype) == ((count, 28, 28), np.uint8)
        assert (labels.shape, labels.dtype) == ((count,), np.int32)
        assert not images[:, [0, -1]].any() and not images[:, :, [0, -1]].any()
        assert 26 < images.mean() < 38  # MNIST's: 33.3
        np.testing.assert_allclose(np.bincount(labels) / count, 0.1, atol=0.01)
        np.testing.assert_allclose(np.mean(labels[1:] == labels[:-1]), 0.1, atol=0.02)
        letters = np.zeros((10, 28, 28), np.uint8)
        for digit, letter in enumerate(letters):
            cv2.putText(letter, str(digit), (6, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.75, 255, 2)
        means = [images[labels == digit].mean(axis=0).ravel() for digit in range(10)]
        blurred = [cv2.GaussianBlur(np.float32(each), (0, 0), 2).ravel() for each in letters]
        likeness = np.corrcoef(means - np.mean(means, axis=0), blurred - np.mean(blurred, axis=0))
        assert likeness[:10, 10:].argmax(axis=1).tolist() == list(range(10))


def test_patterns_can_be_told_apart_by_their_colors():
    looks, count = [], 12
    for name in CLASSES:
        for number in range(count):
            small = cv2.resize(draw_class(name, number), (64, 64), interpolation=cv2.INTER_AREA)
            colors = cv2.calcHist([small], [0, 1, 2], None, [4] * 3, [0, 256] * 3)
            looks.append(np.sqrt(colors.ravel()))
    looks = np.array(looks)
    distances = np.linalg.norm(looks[:, None] - looks, axis=2)
    np.fill_diagonal(distances, np.inf)
    labels = np.arange(len(looks)) // count
    assert np.mean(labels[distances.argmin(axis=1)] == labels) > 0.5  # by chance: 1 in 8


@pytest.mark.parametrize("kernel", [3, 7])
def test_filters_are_half_gray_half_colored_all_different_and_of_one_length(kernel):
    filters = synthetic.draw_filters(kernel, seed=1)
    assert filters.shape == (64, 3, kernel, kernel) and filters.dtype == np.float32
    assert np.sum(np.ptp(filters, axis=1).max(axis=(1, 2)) < 1e-6) == 32
    assert len(np.unique(filters.reshape(64, -1).round(4), axis=0)) == 64
    np.testing.assert_allclose((filters**2).sum(axis=(1, 2, 3)), 1, rtol=1e-5)


def test_signals_neither_vanish_nor_explode_under_random_weights():
    pictures = np.array([draw_class(name, 0)[:96, :96] for name in list(CLASSES)[:4]])
    values = mx.nd.array(pictures.transpose(0, 3, 1, 2), dtype="float32") / 64 - 2
    net = vision.resnet152_v2()
    synthetic.draw_weights(net)
    spreads = []
    for layer in net.features:
        values = layer(values)
        spreads.append(values.asnumpy().std())
    assert max(spreads[1:]) < 10 and min(spreads[1:]) > 0.1
