"""The drawn stand-ins: reproducible, whole, and near enough to what they stand in for."""

import time

from common.records import Records, pack
from common.standins import draw_classes, draw_mnist

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


CLASS_COUNT = 16
DRAWN = 20 * CLASS_COUNT


@pytest.fixture(scope="module")
def timed_classes():
    start = time.perf_counter()
    drawn = list(draw_classes(DRAWN, SEED))
    return drawn, time.perf_counter() - start


@pytest.fixture(scope="module")
def drawn(timed_classes):
    return timed_classes[0]


@pytest.fixture(scope="module")
def photos(drawn):
    return np.array([_decode(jpeg) for _, _, jpeg in drawn])


def _decode(jpeg):
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED)


def _look(photo):
    """Describe a picture as the simplest network could: how much of which colour and slope."""
    small = cv2.resize(photo, (64, 64), interpolation=cv2.INTER_AREA)
    colours = cv2.calcHist([small], [0, 1, 2], None, [4] * 3, [0, 256] * 3)
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY).astype(np.float32)
    slopes = np.hypot(cv2.Sobel(grey, -1, 1, 0), cv2.Sobel(grey, -1, 0, 1))
    slopes, _ = np.histogram(slopes / slopes.max(), 16, (0, 1))
    # Histograms compare by their roots: few large bins would outweigh all others.
    return np.sqrt(np.concatenate([colours.ravel(), slopes]))


def _nearest_share(looks, labels):
    """Return how often the picture most like a picture has the same label."""
    distances = np.linalg.norm(looks[:, None] - looks, axis=2)
    np.fill_diagonal(distances, np.inf)
    return np.mean(labels[distances.argmin(axis=1)] == labels)


def test_drawing_2304_pictures_takes_less_than_30_seconds(timed_classes):
    assert timed_classes[1] / DRAWN * 2304 < 30


def test_classes_take_turns_and_files_are_named_after_them(drawn):
    names = [name for name, _, _ in drawn]
    assert len(set(names[:CLASS_COUNT])) == CLASS_COUNT
    assert names == names[:CLASS_COUNT] * (DRAWN // CLASS_COUNT)
    files = [file for _, file, _ in drawn]
    assert len(set(files)) == DRAWN
    assert all(file.startswith(f"{name}/") and file.endswith(".jpg") for name, file, _ in drawn)


def test_pictures_are_jpegs_of_256_x_256_pixels_in_colour(drawn, photos):
    assert all(jpeg.startswith(b"\xff\xd8\xff") for _, _, jpeg in drawn)
    assert photos.shape == (DRAWN, 256, 256, 3) and photos.dtype == np.uint8
    assert (np.ptp(photos, axis=3).mean(axis=(1, 2)) > 10).all()


def test_ink_shows_on_paper_in_every_picture(photos):
    for photo in photos:
        grey = cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY)
        low, high = np.percentile(grey, (2, 98))
        assert high - low > 30


def test_no_colour_overflows_into_its_opposite():
    # Two of this seed's did: where a channel wraps round, it is 244 from the others.
    for _, _, jpeg in draw_classes(DRAWN, 5):
        assert np.ptp(_decode(jpeg), axis=2).max() < 200


def test_same_seed_draws_the_same_pictures_and_another_seed_draws_others(drawn):
    assert list(draw_classes(CLASS_COUNT, SEED)) == drawn[:CLASS_COUNT]
    for (name, file, jpeg), other in zip(drawn, draw_classes(CLASS_COUNT, SEED + 1)):
        assert other[:2] == (name, file) and other[2] != jpeg


def test_fewer_pictures_are_the_first_of_more(drawn):
    for count in (0, 1, CLASS_COUNT + 5):
        assert list(draw_classes(count, SEED)) == drawn[:count]


def test_pictures_of_a_class_differ_in_more_than_noise(photos):
    small = np.array(
        [cv2.resize(photo, (32, 32), interpolation=cv2.INTER_AREA) for photo in photos]
    )
    for same in small.reshape(-1, CLASS_COUNT, 32 * 32 * 3).transpose(1, 0, 2).astype(float):
        differences = abs(same[:, None] - same).mean(axis=2)
        assert differences[np.triu_indices(len(same), 1)].min() > 8  # of 255


def test_classes_can_be_told_apart_by_colours_and_slopes(photos):
    labels = np.arange(DRAWN) % CLASS_COUNT
    looks = np.array([_look(photo) for photo in photos])
    shuffled = np.random.default_rng(0).permutation(labels)
    assert _nearest_share(looks, labels) > 0.35
    assert _nearest_share(looks, shuffled) < 0.15  # chance: 1 in 16


def test_packed_pictures_come_back_with_their_classes(drawn, photos, tmp_path):
    count = 2 * CLASS_COUNT + 3
    rec, classes = pack("drawn", SEED, iter(drawn[:count]), tmp_path, count)
    (batch,) = Records(rec, tmp_path).batches(range(count), count, (3, 256, 256))
    assert [classes[label] for label in batch.labels] == [name for name, _, _ in drawn[:count]]
    np.testing.assert_array_equal(batch.images, photos[:count, ..., ::-1].transpose(0, 3, 1, 2))
