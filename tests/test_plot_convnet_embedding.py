import json
import math
import re

import cv2
import numpy as np
import pytest
from helpers import (
    assert_one_line_error,
    decode,
    files_of,
    find,
    grid,
    make_codes,
    read_log,
    read_text,
    run_main,
    run_script,
)

from common.codes import neighbor_precision, save_codes
from common.errors import ScriptError
from pic.browser import ask, serve

SCRIPT = "plot_convnet_embedding.py"
MODEL, TAG = "imagenet1k-resnet-152", "resnet_152_image_codes"
NAMES = ["English springer", "church", "garbage truck"]  # without the ids


@pytest.fixture
def logged(call, tmp_path):
    """Save a set of 50 and log it; return the set, what was printed, and the log."""
    given = make_codes()
    save_codes(tmp_path / "data", MODEL, *given)
    printed = call(SCRIPT)
    return given, printed, read_log(tmp_path / "logs")


def sprites_of(encoded, count):
    """Cut a sheet of 64 x 64 sprites into (count, 64, 64, 3) RGB."""
    sheet = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    side = math.ceil(math.sqrt(count))
    assert sheet.shape == (64 * side, 64 * side, 3)
    cells = sheet.reshape(side, 64, side, 64, 3).swapaxes(1, 2).reshape(-1, 64, 64, 3)
    return cells[:count].astype(int)


def test_tensorboard_serves_each_code_with_its_own_name_and_picture(logged, tmp_path):
    (codes, thumbnails, labels, _), _, _ = logged
    with serve(tmp_path / "logs") as url:

        def get(path):
            return ask(url, f"plugin/projector/{path}")

        (embedding,) = json.loads(get("info?run=."))["embeddings"]
        assert (embedding["tensorName"], embedding["tensorShape"]) == (TAG, [50, 20])
        assert embedding["sprite"]["singleImageDim"] == [64, 64]
        assert get(f"tensor?run=.&name={TAG}&num_rows=100000") == codes.tobytes()
        lines = get(f"metadata?run=.&name={TAG}&num_rows=100000").decode().splitlines()
        assert lines == [NAMES[label] for label in labels]
        sprites = sprites_of(get(f"sprite_image?run=.&name={TAG}"), 50)
    assert abs(sprites - thumbnails.transpose(0, 2, 3, 1)).max() <= 4


def test_grid_shows_every_picture_in_order(logged):
    (_, thumbnails, _, _), _, log = logged
    (event,) = log.Images("imagenet_50_images")
    assert (decode(event) == grid(thumbnails)).all()


def test_log_says_which_pictures_weights_and_precision_the_codes_came_from(logged):
    text = read_text(logged[2], "codes_data")
    assert "50 codes of 20 numbers" in text and "colored squares" in text and "made up" in text
    assert "Precision: float32\n" in text and "Seed: 0" in text


def test_what_the_network_said_of_each_picture_is_logged_and_how_often_it_was_right(call, tmp_path):
    codes, thumbnails, labels, description = make_codes(
        class_names=["class 3", "class 7", "other"],
        output_names=[f"class {n}" for n in range(20)],
        is_output=True,
    )
    save_codes(tmp_path / "data", MODEL, codes, thumbnails, labels, description)
    line = call(SCRIPT).out.splitlines()[0]
    right = codes.argmax(axis=1) == np.array([3, 7, -1])[labels]
    share = f"{right.sum() / (labels < 2).sum():.1%}"
    assert line == f"{share} of {(labels < 2).sum()} pictures are named right."
    assert line in read_text(read_log(tmp_path / "logs"), "codes_data")
    header, *rows = find(tmp_path / "logs" / TAG, "metadata.tsv").read_text().splitlines()
    assert header.split("\t") == ["name", "predicted", "confidence", "correct"]
    assert [row.split("\t")[1] for row in rows] == [f"class {n}" for n in codes.argmax(axis=1)]
    assert [row.endswith("yes") for row in rows] == right.tolist()


def test_log_says_what_int8_cost(call, tmp_path):
    save_codes(tmp_path / "data", MODEL, *make_codes(precision="int8", cosine=0.98765))
    call(SCRIPT)
    text = read_text(read_log(tmp_path / "logs"), "codes_data")
    assert "int8; the mean cosine of its codes with those of float32 is 0.9877" in text


def test_neighbor_figure_is_printed_and_logged_and_then_what_to_do(logged):
    (codes, _, labels, _), printed, log = logged
    share, chance = neighbor_precision(codes, labels)
    assert "Predictions: none" in read_text(log, "codes_data")
    line, restart, see, _ = printed.out.splitlines()
    assert f"{share:.1%}" in line and f"{chance:.1%}" in line
    assert share > 0.9 > 0.5 > chance
    assert read_text(log, "codes_neighbours") == line
    assert "restart" in restart and "tensorboard --logdir ./logs" in see and printed.err == ""


def test_pictures_that_are_all_of_different_classes_have_no_neighbor_figure(call, tmp_path):
    names = ["one", "two\tor more", "three\nor four", ""]
    codes, thumbnails, _, description = make_codes(4, class_names=names)
    labels = np.arange(4, dtype=np.int32)
    save_codes(tmp_path / "data", MODEL, codes, thumbnails, labels, description)
    line = call(SCRIPT).out.splitlines()[0]
    assert line == "There is nothing to group: no two pictures are of one class."
    metadata = find(tmp_path / "logs" / TAG, "metadata.tsv").read_text()
    assert metadata.splitlines() == ["one", "two or more", "three or four", "-"]


def test_pictures_that_are_all_of_one_class_have_no_neighbor_figure(call, tmp_path):
    codes, thumbnails, labels, description = make_codes()
    save_codes(tmp_path / "data", MODEL, codes, thumbnails, 0 * labels, description)
    line = call(SCRIPT).out.splitlines()[0]
    assert line == "There is nothing to group: all pictures are of one class."
    assert read_text(read_log(tmp_path / "logs"), "codes_neighbours") == line


def test_second_run_replaces_the_embedding_and_keeps_that_of_another_network(
    logged, call, tmp_path
):
    save_codes(tmp_path / "data", "mobile", *make_codes(9, seed=1))
    call(SCRIPT, "--model", "some/where/mobile")
    kept = files_of(tmp_path / "logs" / "mobile_image_codes")
    codes, thumbnails, labels, description = make_codes(30, seed=2)
    save_codes(tmp_path / "data", MODEL, codes, thumbnails, labels, description)
    call(SCRIPT)
    config = (tmp_path / "logs" / "projector_config.pbtxt").read_text()
    assert sorted(re.findall(r'tensor_name: "(.*)"', config)) == ["mobile_image_codes", TAG]
    assert len(kept) == 3 and all(path.read_bytes() == kept[path] for path in kept)
    folder = tmp_path / "logs" / TAG
    assert find(folder, "tensors.bytes").read_bytes() == codes.tobytes()
    names = [NAMES[label] for label in labels]
    assert find(folder, "metadata.tsv").read_text().splitlines() == names
    sprites = sprites_of(find(folder, "sprite.jpg").read_bytes(), 30)
    assert abs(sprites - thumbnails.transpose(0, 2, 3, 1)).max() <= 4


def test_missing_set_is_an_error_before_anything_is_logged(call, tmp_path):
    with pytest.raises(ScriptError, match=f"{MODEL}_codes.json not in ./data: run get_convnet"):
        call(SCRIPT)
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(("count", "size"), [(1, 20), (50, 1)])
def test_codes_the_projector_cannot_show_are_an_error_before_anything_is_logged(
    count, size, call, tmp_path
):
    codes, *others = make_codes(count)
    save_codes(tmp_path / "data", MODEL, codes[:, :size], *others)
    with pytest.raises(
        ScriptError, match=f"2 or more pictures.* there are {count} and {size}: run"
    ):
        call(SCRIPT)
    assert not (tmp_path / "logs").exists()


def test_full_disk_ends_in_one_line_and_keeps_the_earlier_embedding(small_disk, tmp_path):
    logdir = small_disk / "logs"
    args = ("--logdir", logdir, "--data-dir", tmp_path)
    save_codes(tmp_path, MODEL, *make_codes(2))
    assert run_script(SCRIPT, *args).returncode == 0
    earlier = files_of(logdir / TAG)
    assert len(earlier) == 3
    # Pictures of one color, so that the grid has room and the codes have not.
    codes, thumbnails, labels, description = make_codes()
    save_codes(tmp_path, MODEL, np.tile(codes, (1, 20)), 0 * thumbnails, labels, description)
    result = run_script(SCRIPT, *args)
    assert_one_line_error(result, 1, "No space left on device", str(logdir), "free some space")
    assert files_of(logdir / TAG) == earlier


def test_help_shows_every_default(capsys):
    with pytest.raises(SystemExit):
        run_main(SCRIPT, "--help")
    text = capsys.readouterr().out
    for default in (MODEL, "./logs", "./data"):
        assert re.search(rf"\(default:\s+{re.escape(default)}\)", text)
