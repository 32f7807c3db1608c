import mxcompat

import mxnet as mx
import numpy as np
import pytest
from helpers import contents, damage, make_codes

from common.codes import MOST_JUDGES, load_codes, neighbor_precision, save_codes, tabulate
from common.errors import ScriptError

SUFFIXES = ("convnet_codes.ndarray", "resized_images.ndarray", "labels.ndarray", "codes.json")


@pytest.fixture
def saved(tmp_path):
    save_codes(tmp_path, "x", *make_codes())
    return tmp_path


def test_set_comes_back_as_it_went_in_and_in_mxnets_format(tmp_path):
    codes, thumbnails, labels, description = make_codes(class_names=["你好", "\udcff", "c"])
    # As a transposed or reversed array is: not contiguous.
    save_codes(tmp_path, "x", np.asfortranarray(codes), thumbnails, labels, description)
    *arrays, loaded = load_codes(tmp_path, "x")
    for array, expected, suffix in zip(arrays, (codes, thumbnails, labels), SUFFIXES):
        (stored,) = mx.nd.load(str(tmp_path / f"x_{suffix}"))
        assert array.dtype == stored.dtype == expected.dtype
        assert (array == expected).all() and (stored.asnumpy() == expected).all()
    assert loaded == description
    assert sorted(contents(tmp_path)) == sorted(f"x_{suffix}" for suffix in SUFFIXES)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("how", ["missing", "flipped", "cut", "of another run"])
def test_incomplete_damaged_or_mixed_set_is_refused(how, suffix, saved):
    path = saved / f"x_{suffix}"
    if how == "missing":
        path.unlink()
    elif how == "of another run":
        save_codes(saved / "other", "x", *make_codes(seed=7))
        (saved / "other" / path.name).replace(path)
    elif how == "flipped" and path.suffix == ".json":
        path.write_text(path.read_text().replace('_codes": "', '_codes": "0'))
    else:
        damage(path, how)
    with pytest.raises(ScriptError, match=r"x_.*run get_convnet_codes\.py") as raised:
        load_codes(saved, "x")
    assert "\n" not in str(raised.value)
    if how != "of another run":
        assert path.name in str(raised.value)


def test_description_is_never_beside_arrays_that_it_does_not_describe(saved):
    before = (saved / "x_codes.json").read_bytes()
    (saved / "x_labels.ndarray").unlink()
    (saved / "x_labels.ndarray").mkdir()  # so that only the arrays before it can be replaced
    with pytest.raises(IsADirectoryError):
        save_codes(saved, "x", *make_codes(seed=7))
    assert (saved / "x_codes.json").read_bytes() == before


@pytest.mark.parametrize(
    ("width", "count", "weights"),
    [(10_000, 1, ""), (1, 3, ""), (1, 1, "x" * 60_000)],
    ids=["codes", "thumbnails", "description"],
)
def test_set_that_does_not_fit_the_disk_leaves_the_earlier_one_whole(
    width, count, weights, small_disk
):
    save_codes(small_disk, "x", *make_codes(1))
    before = contents(small_disk)
    _, thumbnails, labels, description = make_codes(count, weights=weights)
    codes = np.ones((count, width), np.float32)
    with pytest.raises(OSError, match="No space left on device") as raised:
        save_codes(small_disk, "x", codes, thumbnails, labels, description)
    assert raised.value.filename == str(small_disk) and contents(small_disk) == before


def brute_force(codes, labels, judges, k):
    unit = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    shares, chances = [], []
    for i in judges:
        others = np.delete(np.arange(len(codes)), i)
        if (labels[others] == labels[i]).any():
            nearest = others[np.argsort(unit[others] @ unit[i])[::-1][:k]]
            shares.append(np.mean(labels[nearest] == labels[i]))
            chances.append(np.mean(labels[others] == labels[i]))
    return np.mean(shares), np.mean(chances)


@pytest.mark.parametrize("classes", [3, 600])
@pytest.mark.parametrize("k", [1, 5])
def test_neighbor_precision_is_that_of_a_brute_force_search(k, classes):
    # More pictures than are searched at once; with 600 classes, many are alone in theirs.
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 1200).astype(np.int32) * 7
    codes = (labels[:, None] % 5 + rng.normal(size=(1200, 30))).astype(np.float32)
    expected = brute_force(codes, labels, range(1200), k)
    assert neighbor_precision(codes, labels, k) == pytest.approx(expected)


def test_neighbor_precision_of_many_pictures_is_that_of_an_even_sample():
    # Sorted by class, as in a folder: the first ones say little about the last.
    labels = np.repeat([0, 1], [MOST_JUDGES - 300, 800])
    codes = np.random.default_rng(0).normal(size=(len(labels), 8)).astype(np.float32)
    codes[labels == 0] += 1
    expected = brute_force(codes, labels, range(0, len(labels), 2), 5)
    assert neighbor_precision(codes, labels) == pytest.approx(expected)


def test_neighbor_precision_of_a_case_done_by_hand():
    # On a circle: two of class 0 next to each other, two of class 1 apart, one of class 2.
    angles = np.radians([0, 10, 30, 120, 140])
    codes = np.stack([np.cos(angles), np.sin(angles)], axis=1) * [[1], [2], [3], [4], [5]]
    # Of the nearest two: 0 -> (10, 30), 10 -> (0, 30), 30 -> (10, 0), 120 -> (140, 30).
    share, chance = neighbor_precision(codes.astype(np.float32), np.array([0, 0, 1, 1, 2]), k=2)
    assert share == pytest.approx((0.5 + 0.5 + 0 + 0.5) / 4) and chance == pytest.approx(1 / 4)
    # A code that is all zero is nobody's neighbor.
    codes = np.float32([[0, 0], [1, 0], [0.9, 0.1]])
    assert neighbor_precision(codes, np.array([0, 1, 1]), k=1) == (1, 0.5)


def test_neighbor_precision_of_fewer_pictures_than_neighbors_uses_them_all():
    codes = np.eye(3, dtype=np.float32)
    assert neighbor_precision(codes, np.array([0, 0, 1])) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("labels", [[4], [0, 1, 2], [3, 3, 3]])
def test_there_is_no_neighbor_precision_of_one_class_or_of_pictures_alone_in_theirs(labels):
    assert neighbor_precision(np.ones((len(labels), 3)), np.array(labels)) is None


OUTPUTS = ["n02102040 English springer", "n03028079 church", "n01440764 tench"]


def scored(**changes):
    """Make scores of four pictures, and what is known of them."""
    codes = np.float32([[3, 1, 1], [0, 0, 5], [0, 9, 9.5], [-900, 0, -900]])
    classes = ["n01440764 tench", "n02102040", "n99999999 unicorn"]
    known = {"class_names": classes, "is_output": True, "output_names": OUTPUTS, **changes}
    return codes, np.array([1, 0, 1, 2]), make_codes(**known)[3]


def test_scores_of_known_classes_name_what_the_network_said_how_sure_it_was_and_its_mistakes():
    table, verdict = tabulate(*scored())
    # The softmax of each, by hand: e^3 / (e^3 + 2e), e^5 / (e^5 + 2), 1 / (1 + e^-0.5 + e^-9.5), 1.
    assert [list(row) for row in table] == [
        ["name", "predicted", "confidence", "correct"],
        ["", "English springer", "0.7870", "yes"],
        ["tench", "tench", "0.9867", "yes"],
        ["", "tench", "0.6224", "no"],
        ["unicorn", "church", "1.0000", ""],
    ]
    assert verdict == "66.7% of 3 pictures are named right."


@pytest.mark.parametrize(
    "changes",
    [{"is_output": False}, {"trained": False}, {"output_names": OUTPUTS[:2]}, {"output_names": []}],
)
def test_codes_that_are_no_scores_of_known_classes_have_names_alone(changes):
    names = [["name"], [""], ["tench"], [""], ["unicorn"]]
    assert tabulate(*scored(**changes)) == (names, None)


@pytest.mark.parametrize(
    ("classes", "outputs", "correct", "verdict"),
    [
        (["cat ", "dog", "dog"], ["dog", "bird", "cat"], "yes yes no no", "50.0% of 4 pictures"),
        (["x", "y", "z"], OUTPUTS, "   ", "no class of the network is named like these folders"),
    ],
)
def test_pictures_are_judged_by_the_names_that_the_user_gave(classes, outputs, correct, verdict):
    table, said = tabulate(*scored(class_names=classes, output_names=outputs))
    assert [row[3] for row in table[1:]] == correct.split(" ") and said.startswith(verdict)
