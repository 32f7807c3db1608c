"""The drawn stand-ins: reproducible, whole, and near enough to what they stand in for."""

import time

from common.standins import draw_mnist

import cv2
import numpy as np
import pytest

SEED = 0


@pytest.fixture(scope="module")
def timed_draw():
    start = time.perf_counter()
    digits = draw_mnist(SEED)
    return digits, time.perf_counter() - start


@pytest.fixture(scope="module")
def digits(timed_draw):
    return timed_draw[0]


@pytest.fixture(scope="module")
def images(digits):
    (train_images, _), (test_images, _) = digits
    return np.concatenate([train_images, test_images])


def test_drawing_takes_less_than_15_seconds(timed_draw):
    assert timed_draw[1] < 15


def test_train_and_test_have_the_shapes_and_types_of_mnist(digits):
    for (images, labels), count in zip(digits, (60_000, 10_000)):
        assert images.shape == (count, 28, 28) and images.dtype == np.uint8
        assert labels.shape == (count,) and labels.dtype == np.int32


def test_every_digit_is_as_common_as_the_others_in_train_and_test(digits):
    for _, labels in digits:
        shares = np.bincount(labels, minlength=10) / len(labels)
        assert shares.shape == (10,)
        np.testing.assert_allclose(shares, 0.1, atol=0.01)


def test_labels_come_in_no_order(digits):
    for _, labels in digits:
        repeated = np.mean(labels[1:] == labels[:-1])
        counted_up = np.mean(labels[1:] == (labels[:-1] + 1) % 10)
        np.testing.assert_allclose([repeated, counted_up], 0.1, atol=0.02)


def test_same_seed_draws_the_same_digits_and_another_seed_draws_others(digits):
    for drawn, again in zip(digits, draw_mnist(SEED)):
        np.testing.assert_array_equal(drawn[0], again[0])
        np.testing.assert_array_equal(drawn[1], again[1])
    for drawn, other in zip(digits, draw_mnist(SEED + 1)):
        assert (drawn[0] != other[0]).any(axis=(1, 2)).mean() > 0.999
        assert (drawn[1] != other[1]).mean() > 0.8


def test_no_digit_touches_the_border_where_it_would_be_cut_off(images):
    border = np.ones((28, 28), bool)
    border[1:-1, 1:-1] = False
    assert images[:, border].max() == 0


def test_digits_are_about_as_large_as_mnists_and_roughly_centred(images):
    inked = images > 50
    spans = []
    for lines in (inked.any(axis=2), inked.any(axis=1)):
        first, last = lines.argmax(axis=1), 27 - lines[:, ::-1].argmax(axis=1)
        assert np.abs((first + last) / 2 - 13.5).max() < 5
        spans.append(last - first + 1)
    longer = np.maximum(*spans)
    assert longer.min() >= 12
    assert 18 <= np.median(longer) <= 22  # MNIST fits its digits to 20


def test_digits_have_about_as_much_ink_as_mnist(images):
    # MNIST's training images: mean 33.3, 19.1% of the pixels above 0 and 13.2% above 127; from
    # image to image the mean varies with a standard deviation of 11.2.
    assert 28 < images.mean() < 38
    assert 0.16 < np.mean(images > 0) < 0.22
    assert 0.11 < np.mean(images > 127) < 0.155
    assert 8 < images.mean(axis=(1, 2)).std() < 14


def test_test_digits_are_not_copies_of_training_digits(digits):
    (train_images, _), (test_images, _) = digits
    known = {image.tobytes() for image in train_images}
    assert sum(image.tobytes() in known for image in test_images) == 0
    # A copy in fresh noise would lie far closer than any two digits drawn on their own.
    train = train_images.reshape(len(train_images), -1) / np.float32(255)
    some = test_images[:500].reshape(500, -1) / np.float32(255)
    squares = (some**2).sum(axis=1)[:, None] - 2 * some @ train.T + (train**2).sum(axis=1)
    assert np.sqrt(squares.min()) > 1


def test_every_label_names_the_digit_in_its_images(digits):
    glyphs = []
    for digit in "0123456789":
        glyph = np.zeros((28, 28), np.uint8)
        (width, height), _ = cv2.getTextSize(digit, cv2.FONT_HERSHEY_SIMPLEX, 0.7, 2)
        corner = ((28 - width) // 2, (28 + height) // 2)
        cv2.putText(glyph, digit, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2, cv2.LINE_AA)
        # As soft as a mean of digits that lie now here, now there.
        glyphs.append(cv2.GaussianBlur(glyph, (0, 0), 1.5).ravel().astype(float))
    glyphs = np.array(glyphs)
    for images, labels in digits:
        means = np.array([images[labels == digit].mean(axis=0).ravel() for digit in range(10)])
        # What all digits share, ink in the middle, tells nothing about which one it is.
        correlation = np.corrcoef(means - means.mean(axis=0), glyphs - glyphs.mean(axis=0))
        np.testing.assert_array_equal(correlation[:10, 10:].argmax(axis=1), np.arange(10))
