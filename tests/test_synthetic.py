from common.synthetic import (
    CLASSES,
    GLYPHS,
    draw_class,
    draw_filters,
    draw_mnist,
    draw_picture,
    draw_weights,
)

import cv2
import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon.model_zoo import vision

COUNT = 12  # pictures a class


@pytest.fixture(scope="module")
def digits():
    return draw_mnist(0)


@pytest.fixture(scope="module")
def images(digits):
    return np.concatenate([images for images, _ in digits])


def test_digits_have_the_shapes_and_types_of_mnist(digits):
    for (images, labels), count in zip(digits, (60_000, 10_000)):
        assert images.shape == (count, 28, 28) and images.dtype == np.uint8
        assert labels.shape == (count,) and labels.dtype == np.int32


def test_digits_are_equally_common_and_come_in_no_order(digits):
    for _, labels in digits:
        np.testing.assert_allclose(np.bincount(labels) / len(labels), 0.1, atol=0.01)
        repeated = np.mean(labels[1:] == labels[:-1])
        counted_up = np.mean(labels[1:] == (labels[:-1] + 1) % 10)
        np.testing.assert_allclose([repeated, counted_up], 0.1, atol=0.02)


def test_seed_decides_the_digits(digits):
    for drawn, again in zip(digits, draw_mnist(0)):
        assert (drawn[0] == again[0]).all() and (drawn[1] == again[1]).all()
    assert (draw_mnist(1)[1][0] != digits[1][0]).any(axis=(1, 2)).mean() > 0.99


def test_no_digit_touches_the_border_where_it_would_be_cut_off(images):
    assert not images[:, [0, -1]].any() and not images[:, :, [0, -1]].any()


def test_digits_are_about_as_large_and_as_bold_as_mnists(images):
    inked = images > 50
    spans = []
    for lines in (inked.any(axis=2), inked.any(axis=1)):
        first, last = lines.argmax(axis=1), 27 - lines[:, ::-1].argmax(axis=1)
        assert abs((first + last) / 2 - 13.5).max() < 5
        spans.append(last - first + 1)
    assert 18 <= np.median(np.maximum(*spans)) <= 22  # MNIST fits its digits to 20
    # MNIST's training images: mean 33.3, 19.1% of the pixels above 0 and 13.2% above 127; from
    # image to image the mean varies with a standard deviation of 11.2.
    assert 28 < images.mean() < 38
    assert 0.16 < np.mean(images > 0) < 0.22
    assert 0.11 < np.mean(images > 127) < 0.155
    assert 8 < images.mean(axis=(1, 2)).std() < 14


def test_no_test_digit_is_a_copy_of_a_training_digit(digits):
    (train_images, _), (test_images, _) = digits
    known = {image.tobytes() for image in train_images}
    assert not known & {image.tobytes() for image in test_images}


def test_every_label_names_the_digit_in_its_images(digits):
    glyphs = np.zeros((10, 3, 28, 28), np.float32)
    for sheets, variants in zip(glyphs, GLYPHS):
        for sheet, glyph in zip(sheets, variants):
            for stroke in glyph.split("/"):
                points = [[int(x) * 3 + 8, int(y) * 5 // 2 + 4] for x, y in stroke.split()]
                cv2.polylines(sheet, [np.array(points)], False, 255, 2)
    expected = [cv2.GaussianBlur(mean, (0, 0), 2).ravel() for mean in glyphs.mean(axis=1)]
    expected -= np.mean(expected, axis=0)  # ink in the middle, which all digits share
    for images, labels in digits:
        means = np.array([images[labels == digit].mean(axis=0).ravel() for digit in range(10)])
        likeness = np.corrcoef(means - means.mean(axis=0), expected)[:10, 10:]
        assert likeness.argmax(axis=1).tolist() == list(range(10))


@pytest.fixture(scope="module")
def pictures():
    return np.array(
        [[draw_class(name, [label, n]) for n in range(COUNT)] for label, name in enumerate(CLASSES)]
    )


def test_pictures_are_of_at_least_ten_classes_in_color_with_ink_that_shows(pictures):
    assert len(CLASSES) >= 10
    assert pictures.shape[2:] == (256, 256, 3) and pictures.dtype == np.uint8
    assert (np.ptp(pictures, axis=4).mean(axis=(2, 3)) > 10).all()
    gray = pictures.mean(axis=4).reshape(len(CLASSES), COUNT, -1)
    low, high = np.percentile(gray, (2, 98), axis=2)
    assert (high - low > 25).all()


def test_seed_decides_a_picture(pictures):
    for label, (name, drawn) in enumerate(zip(CLASSES, pictures[:, 0])):
        assert (draw_class(name, [label, 0]) == drawn).all()
        assert (draw_class(name, [label, 99]) != drawn).mean() > 0.5


def test_pictures_of_a_class_differ_in_more_than_noise(pictures):
    for drawn in pictures:
        small = np.array([cv2.resize(each, (32, 32)) for each in drawn], float)
        differences = abs(small[:, None] - small).mean(axis=(2, 3, 4))
        assert differences[np.triu_indices(COUNT, 1)].min() > 8  # of 255


def test_classes_can_be_told_apart_by_colors_and_slopes(pictures):
    def look(picture):
        """Describe a picture as the simplest network could: how much of which color and slope."""
        small = cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA)
        colors = cv2.calcHist([small], [0, 1, 2], None, [4] * 3, [0, 256] * 3)
        gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
        slopes = np.hypot(cv2.Sobel(gray, -1, 1, 0), cv2.Sobel(gray, -1, 0, 1))
        slopes, _ = np.histogram(slopes / slopes.max(), 16, (0, 1))
        # Histograms compare by their roots: few large bins would outweigh all others.
        return np.sqrt(np.concatenate([colors.ravel(), slopes]))

    looks = np.array([look(each) for drawn in pictures for each in drawn])
    distances = np.linalg.norm(looks[:, None] - looks, axis=2)
    np.fill_diagonal(distances, np.inf)
    labels = np.arange(len(looks)) // COUNT
    assert np.mean(labels[distances.argmin(axis=1)] == labels) > 0.25  # chance: 1 in 16


def test_boat_has_flat_and_rough_regions_and_strong_colors():
    picture = draw_picture(224)
    assert picture.shape == (3, 224, 224) and picture.dtype == np.uint8
    assert (draw_picture(224) == picture).all()
    assert np.ptp(picture, axis=0).max() > 180
    blocks = picture.mean(axis=0).reshape(28, 8, 28, 8).std(axis=(1, 3))
    assert blocks.min() < 2 < 20 < blocks.max()


@pytest.mark.parametrize("kernel", [3, 7])
def test_filters_are_half_gray_half_colored_all_different_and_of_one_length(kernel):
    filters = draw_filters(kernel, seed=1)
    assert filters.shape == (64, 3, kernel, kernel) and filters.dtype == np.float32
    gray = np.ptp(filters, axis=1).max(axis=(1, 2)) < 1e-6
    assert gray.sum() == 32
    assert len(np.unique(filters.reshape(64, -1).round(4), axis=0)) == 64
    np.testing.assert_allclose((filters**2).sum(axis=(1, 2, 3)), 1, rtol=1e-5)
    assert (draw_filters(kernel, seed=1) == filters).all()
    assert (draw_filters(kernel, seed=2) != filters).any()


def test_random_weights_are_the_same_for_a_seed_and_let_signals_neither_vanish_nor_explode():
    pictures = np.array([draw_class(name, 0)[:96, :96] for name in list(CLASSES)[:4]])
    pixels = mx.nd.array(pictures.transpose(0, 3, 1, 2), dtype="float32") / 64 - 2
    nets = [vision.resnet152_v2() for _ in range(3)]
    for net, seed in zip(nets, (0, 0, 1)):
        draw_weights(net, seed)
    first, second, other = (net.output.weight for net in nets)
    assert (first.data() == second.data()).asnumpy().all()
    assert (first.data() != other.data()).asnumpy().any()
    spreads, values = [], pixels
    for layer in nets[0].features:
        values = layer(values)
        spreads.append(values.asnumpy().std())
    assert max(spreads[1:]) < 10 and min(spreads[1:]) > 0.1
