import math

import cv2
import numpy as np
import pytest
from helpers import decode, find, grid, make_codes, read_log, read_text

from common.codes import DEFAULT_MODEL, neighbor_precision, save_codes
from common.errors import ScriptError

SCRIPT = "plot_convnet_embedding.py"
TAG = "resnet_152_image_codes"


@pytest.fixture
def log_codes(call, tmp_path):
    """Save a set of codes and log it; return what was printed."""

    def log_codes(codes, thumbnails, labels, description, model=DEFAULT_MODEL, args=()):
        save_codes(tmp_path / "codes", model, codes, thumbnails, labels, description)
        return call(SCRIPT, "--data-dir", "codes", "--logdir", "here", *args)

    return log_codes


def test_each_code_is_shown_with_its_name_and_picture_and_what_it_is_a_code_of(log_codes, tmp_path):
    codes, thumbnails, labels, description = make_codes()
    printed = log_codes(codes, thumbnails, labels, description)
    folder, log = tmp_path / "here" / TAG, read_log(tmp_path / "here")
    assert find(folder, "tensors.bytes").read_bytes() == codes.tobytes()
    names = ["English springer", "church", "garbage truck"]  # without the ids
    rows = find(folder, "metadata.tsv").read_text().splitlines()
    assert rows == [names[label] for label in labels]
    sheet = cv2.imread(str(find(folder, "sprite.jpg")))[:, :, ::-1]
    side = math.ceil(math.sqrt(len(codes)))
    sprites = sheet.reshape(side, 64, side, 64, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, 64, 64)
    assert abs(sprites[: len(codes)].astype(int) - thumbnails).max() <= 4
    (event,) = log.Images("imagenet_50_images")
    assert (decode(event) == grid(thumbnails)).all()
    assert read_text(log, "codes_data") == (
        "50 codes of 20 numbers\n\n- Pictures: colored squares\n- Weights: made up\n"
        "- Precision: float32\n- Seed: 0\n"
        "- Predictions: none, for the codes are not scores of known classes.\n"
    )
    share, chance = neighbor_precision(codes, labels, 5)
    neighbors, restart, see = printed.out.splitlines()
    assert neighbors == read_text(log, "codes_neighbours")
    assert neighbors == (
        f"Of the 5 nearest neighbors of a picture, {share:.1%} are of its class; "
        f"by chance it would be {chance:.1%}."
    )
    assert "restart" in restart and see.endswith(" --logdir here") and printed.err == ""


def test_predictions_their_accuracy_and_what_int8_cost_are_logged(log_codes, tmp_path):
    names = {"class_names": ["class 3", "class 7", "other"], "precision": "int8"}
    outputs = {"is_output": True, "output_names": [f"class {n}" for n in range(20)]}
    codes, thumbnails, labels, description = make_codes(cosine=0.98765, **names, **outputs)
    line = log_codes(codes, thumbnails, labels, description).out.splitlines()[0]
    right = codes.argmax(axis=1) == np.array([3, 7, -1])[labels]
    count = (labels < 2).sum()
    assert line == f"{right.sum() / count:.1%} of {count} pictures are named right."
    text = read_text(read_log(tmp_path / "here"), "codes_data")
    assert f"- Predictions: {line}" in text
    assert "int8; the mean cosine of its codes with those of float32 is 0.9877\n" in text
    header, *rows = find(tmp_path / "here" / TAG, "metadata.tsv").read_text().splitlines()
    assert header.split("\t") == ["name", "predicted", "confidence", "correct"]
    assert [row.split("\t")[1] for row in rows] == [f"class {n}" for n in codes.argmax(axis=1)]
    assert [row.endswith("yes") for row in rows] == right.tolist()


@pytest.mark.parametrize(
    ("labels", "reason"),
    [([0, 1, 2, 3], "no two pictures are"), ([2, 2, 2, 2], "all pictures are")],
)
def test_classes_that_have_no_neighbors_are_said_to_have_none(labels, reason, log_codes, tmp_path):
    codes, thumbnails, _, description = make_codes(4, class_names=["a", "b\tb", "c\nc", ""])
    printed = log_codes(codes, thumbnails, np.int32(labels), description)
    line = f"There is nothing to group: {reason} of one class."
    assert printed.out.splitlines()[0] == line
    assert read_text(read_log(tmp_path / "here"), "codes_neighbours") == line
    shown = find(tmp_path / "here" / TAG, "metadata.tsv").read_text().splitlines()
    assert shown == [["a", "b b", "c c", "-"][label] for label in labels]


def test_codes_of_another_network_are_an_embedding_of_its_name(log_codes, tmp_path):
    log_codes(*make_codes(9), model="mobile", args=["--model", "some/where/mobile"])
    assert find(tmp_path / "here" / "mobile_image_codes", "tensors.bytes").exists()


def test_missing_set_is_an_error_before_anything_is_logged(call, tmp_path):
    with pytest.raises(ScriptError, match=f"{DEFAULT_MODEL}_codes.json not in ./data: run get_con"):
        call(SCRIPT)
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(("count", "size"), [(1, 20), (50, 1)])
def test_too_few_codes_or_numbers_are_an_error(count, size, log_codes, tmp_path):
    codes, *others = make_codes(count)
    with pytest.raises(ScriptError, match=rf"2 or more codes .*, not \({count}, {size}\): run"):
        log_codes(codes[:, :size], *others)
    assert not (tmp_path / "here").exists()
