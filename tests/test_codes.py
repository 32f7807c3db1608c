import mxnet as mx
import numpy as np
import pytest
from helpers import contents, make_codes

from common.codes import MOST_JUDGES, load_codes, neighbor_precision, save_codes, tabulate
from common.errors import ScriptError

SUFFIXES = ("convnet_codes.ndarray", "resized_images.ndarray", "labels.ndarray", "codes.json")


@pytest.fixture
def saved(tmp_path):
    save_codes(tmp_path, "x", *make_codes())
    return tmp_path


def test_set_comes_back_as_it_went_in_and_in_mxnets_format(tmp_path):
    codes, *others, description = make_codes(class_names=["你好", "\udcff", "c"])
    # As a transposed array is: not contiguous.
    save_codes(tmp_path, "x", np.asfortranarray(codes), *others, description)
    *arrays, loaded = load_codes(tmp_path, "x")
    for array, expected, suffix in zip(arrays, (codes, *others), SUFFIXES):
        (stored,) = mx.nd.load(str(tmp_path / f"x_{suffix}"))
        np.testing.assert_array_equal(array, expected, strict=True)
        np.testing.assert_array_equal(stored.asnumpy(), expected, strict=True)
    assert loaded == description
    assert sorted(contents(tmp_path)) == sorted(f"x_{suffix}" for suffix in SUFFIXES)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("how", ["missing", "cut", "of another run"])
def test_incomplete_damaged_or_mixed_set_is_refused(how, suffix, saved):
    path = saved / f"x_{suffix}"
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        save_codes(saved / "other", "x", *make_codes(seed=7))
        (saved / "other" / path.name).replace(path)
    named = "x_" if how == "of another run" else path.name
    with pytest.raises(ScriptError, match=rf"^.*{named}.*run get_convnet_codes\.py.*$"):
        load_codes(saved, "x")


def test_description_is_never_beside_arrays_that_it_does_not_describe(saved):
    before = (saved / "x_codes.json").read_bytes()
    (saved / "x_labels.ndarray").unlink()
    (saved / "x_labels.ndarray").mkdir()  # so that only the arrays before it can be replaced
    with pytest.raises(IsADirectoryError):
        save_codes(saved, "x", *make_codes(seed=7))
    assert (saved / "x_codes.json").read_bytes() == before


def test_set_whose_last_file_does_not_fit_the_disk_leaves_the_earlier_one_whole(small_disk):
    save_codes(small_disk, "x", *make_codes(1))
    before = contents(small_disk)
    with pytest.raises(OSError, match="No space left on device") as raised:
        save_codes(small_disk, "x", *make_codes(1, seed=7, weights="x" * 60_000))
    assert raised.value.filename == str(small_disk) and contents(small_disk) == before


LABELS = {
    "of a few classes": np.arange(1200) ** 2 % 7,  # more pictures than are searched at once
    "many alone in theirs": np.random.default_rng(0).integers(600, size=1200) * 7,
    # Sorted by class, as in a folder: the first ones say little about the last.
    "judged by an even sample": np.repeat([0, 1], [MOST_JUDGES - 300, 800]),
}


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("k", [1, 5])
def test_neighbor_precision_is_that_of_a_brute_force_search(k, name):
    labels = LABELS[name]
    noise = np.random.default_rng(0).normal(size=(len(labels), 30))
    codes = (labels[:, None] % 5 + noise).astype(np.float32)
    unit = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    same = labels[:, None] == labels
    hits = np.take_along_axis(same, np.argsort(cosines)[:, -k:], axis=1)
    judges = np.flatnonzero(same.sum(axis=1) > 1)[:: 2 if len(labels) > MOST_JUDGES else 1]
    chance = (same.sum(axis=1) - 1) / (len(labels) - 1)
    expected = hits[judges].mean(), chance[judges].mean()
    assert neighbor_precision(codes, labels, k) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("codes", "labels", "k", "expected"),
    [
        ([[0, 0], [1, 0], [0.9, 0.1]], [0, 1, 1], 1, (1, 0.5)),  # zero is nobody's neighbor
        (np.eye(3), [0, 0, 1], 5, (0.5, 0.5)),  # fewer than five others: all of them
        (np.ones((3, 3)), [0, 1, 2], 5, None),  # all alone
        (np.ones((3, 3)), [3, 3, 3], 5, None),  # all of one class
    ],
)
def test_neighbor_precision_of_too_few_pictures_or_classes(codes, labels, k, expected):
    found = neighbor_precision(np.float32(codes), np.array(labels), k)
    assert found == pytest.approx(expected)


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
