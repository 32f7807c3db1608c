import json

from common.codes import load_codes, neighbor_precision, save_codes, tabulate
from common.errors import ScriptError

import mxnet as mx
import numpy as np
import pooch
import pytest
from helpers import contents, damage, make_codes

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


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"sha256": {}}', b'{"sha256": 1}', b"1"])
def test_description_that_is_none_is_refused(content, saved):
    (saved / "x_codes.json").write_bytes(content)
    with pytest.raises(ScriptError, match=r"x_codes.json is damaged: run get_convnet_codes\.py"):
        load_codes(saved, "x")


@pytest.mark.parametrize(
    ("labels", "words"),
    [(np.zeros(49), r"labels \(49,\)"), (np.full(50, 3), "x_codes.json does")],
)
def test_set_that_does_not_fit_together_is_refused(labels, words, saved):
    path, json_path = saved / "x_labels.ndarray", saved / "x_codes.json"
    mx.nd.save(str(path), mx.nd.array(labels, dtype="int32"))
    description = json.loads(json_path.read_text())
    description["sha256"]["labels"] = pooch.file_hash(str(path))
    json_path.write_text(json.dumps(description))
    with pytest.raises(ScriptError, match=words):
        load_codes(saved, "x")


@pytest.mark.parametrize(
    ("width", "count", "weights"),
    [(10_000, 1, ""), (16_384, 1, ""), (1, 3, ""), (1, 1, "x" * 60_000)],
    ids=["codes", "last bytes of the codes", "thumbnails", "description"],
)
def test_set_that_does_not_fit_the_disk_leaves_the_earlier_one_whole(
    width, count, weights, small_disk
):
    if width != 16_384:  # which fill the disk by themselves, to the last byte
        save_codes(small_disk, "x", *make_codes(1))
    before = contents(small_disk)
    _, thumbnails, labels, description = make_codes(count, weights=weights)
    codes = np.ones((count, width), np.float32)
    with pytest.raises((ScriptError, OSError), match="space") as raised:
        save_codes(small_disk, "x", codes, thumbnails, labels, description)
    assert "\n" not in str(raised.value) and str(small_disk) in str(raised.value)
    assert contents(small_disk) == before


def brute_force(codes, labels, k):
    unit = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    shares, chances = [], []
    for i, label in enumerate(labels):
        others = np.delete(np.arange(len(codes)), i)
        if (labels[others] == label).any():
            nearest = others[np.argsort(unit[others] @ unit[i])[::-1][:k]]
            shares.append(np.mean(labels[nearest] == label))
            chances.append(np.mean(labels[others] == label))
    return np.mean(shares), np.mean(chances)


@pytest.mark.parametrize("classes", [3, 600])
@pytest.mark.parametrize("k", [1, 5])
def test_neighbor_precision_is_that_of_a_brute_force_search(k, classes):
    # More pictures than are searched at once; with 600 classes, many are alone in theirs.
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 1200).astype(np.int32) * 7
    codes = (labels[:, None] % 5 + rng.normal(size=(1200, 30))).astype(np.float32)
    assert neighbor_precision(codes, labels, k) == pytest.approx(brute_force(codes, labels, k))


def test_neighbor_precision_of_a_case_done_by_hand():
    # On a circle: two of class 0 next to each other, two of class 1 apart, one of class 2.
    angles = np.radians([0, 10, 30, 120, 140])
    codes = np.stack([np.cos(angles), np.sin(angles)], axis=1) * [[1], [2], [3], [4], [5]]
    # Of the nearest two: 0 -> (10, 30), 10 -> (0, 30), 30 -> (10, 0), 120 -> (140, 30).
    share, chance = neighbor_precision(codes.astype(np.float32), np.array([0, 0, 1, 1, 2]), k=2)
    assert share == pytest.approx((0.5 + 0.5 + 0 + 0.5) / 4) and chance == pytest.approx(1 / 4)


def test_neighbor_precision_of_fewer_pictures_than_neighbors_uses_them_all():
    codes = np.eye(3, dtype=np.float32)
    assert neighbor_precision(codes, np.array([0, 0, 1])) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("labels", [[4], [0, 1, 2]])
def test_there_is_no_neighbor_precision_where_every_picture_is_alone_in_its_class(labels):
    assert neighbor_precision(np.ones((len(labels), 3)), np.array(labels)) is None


OUTPUTS = ["n02102040 English springer", "n03028079 church", "n01440764 tench"]


def scored(**changes):
    """Make scores of four pictures, and what is known of them."""
    codes = np.float32([[3, 1, 1], [0, 0, 5], [0, 9, 9.5], [-900, 0, -900]])
    _, _, _, description = make_codes(
        class_names=["n01440764 tench", "n02102040", "n99999999 unicorn"],
        is_output=True,
        output_names=OUTPUTS,
    )
    description = description._replace(**changes)
    return codes, np.array([1, 0, 1, 2]), description


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
    [
        *({"is_output": False}, {"trained": False}, {"output_names": OUTPUTS[:2]}),
        {"output_names": []},
    ],
)
def test_codes_that_are_no_scores_of_known_classes_have_names_alone(changes):
    codes, labels, description = scored(**changes)
    names = [["name"], [""], ["tench"], [""], ["unicorn"]]
    assert tabulate(codes, labels, description) == (names, None)


def test_classes_that_the_user_names_are_matched_by_their_names():
    codes, labels, description = scored(
        class_names=["cat ", "dog", "dog"], output_names=["dog", "bird", "cat"]
    )
    table, verdict = tabulate(codes, labels, description)
    assert [row[3] for row in table[1:]] == ["yes", "yes", "no", "no"]
    assert verdict == "50.0% of 4 pictures are named right."


def test_pictures_of_classes_that_the_network_was_not_trained_on_are_not_judged():
    table, verdict = tabulate(*scored(class_names=["x", "y", "z"]))
    assert {row[3] for row in table[1:]} == {""}
    assert verdict == "The network was not trained on any of the pictures' classes."


def test_set_of_an_older_version_has_no_scores_of_known_classes(saved):
    path = saved / "x_codes.json"
    content = json.loads(path.read_text())
    for key in ("is_output", "trained", "output_names"):
        del content[key]
    path.write_text(json.dumps(content))
    description = load_codes(saved, "x")[3]
    assert (description.is_output, description.output_names) == (False, [])


def change(saved, **changes):
    """Edit the description of a set as a user might, by hand."""
    path = saved / "x_codes.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"class_names": "abc"},
        {"class_names": [1, 2, 3]},
        {"class_names": None},
        {"output_names": 7},
        {"output_names": {"0": "cat"}},
        {"output_names": [None] * 20},
        {"pictures": 1},
        {"weights": ["a"]},
        {"precision": None},
        {"cosine": "high"},
        {"seed": 1.5},
        {"sha256": [1, 2]},
    ],
)
def test_description_with_another_type_is_refused(changes, saved):
    change(saved, **changes)
    with pytest.raises(ScriptError, match=r"x_codes.json is damaged: run get_convnet_codes\.py"):
        load_codes(saved, "x")


@pytest.mark.parametrize(
    ("suffix", "array"),
    [
        ("convnet_codes", np.ones((50, 2, 10), np.float32)),
        ("convnet_codes", np.ones(50, np.float32)),
        ("convnet_codes", np.ones((50, 20))),
        ("resized_images", np.ones((50, 64, 64), np.uint8)),
        ("resized_images", np.ones((50, 4, 8, 8), np.uint8)),
        ("labels", np.zeros((50, 1), np.int32)),
        ("labels", np.zeros(50)),
    ],
)
def test_arrays_of_another_rank_or_dtype_under_a_matching_digest_are_refused(suffix, array, saved):
    path = saved / f"x_{suffix}.ndarray"
    mx.nd.save(str(path), mx.nd.array(array, dtype=array.dtype))
    digests = json.loads((saved / "x_codes.json").read_text())["sha256"]
    change(saved, sha256={**digests, suffix: pooch.file_hash(str(path))})
    with pytest.raises(ScriptError, match=r"the files of x .*do not fit"):
        load_codes(saved, "x")
