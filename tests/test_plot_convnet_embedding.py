import json
import math
import re
import urllib.request

from common.cli import ScriptError
from common.codes import _save_array, load_codes, neighbour_share, save_codes

import cv2
import mxnet as mx
import numpy as np
import pooch
import pytest
from conftest import (
    assert_one_line_error,
    decode,
    read_log,
    read_text,
    run_script,
)
from google.protobuf import text_format
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from pic.browser import serve

MODEL = "imagenet1k-resnet-152"
TAG = "resnet_152_image_codes"
CLASSES = ["n02102040 English springer", "n03028079 church, church building", "garbage truck"]
NAMES = ["English springer", "church, church building", "garbage truck"]
SUFFIXES = ("convnet_codes.ndarray", "resized_images.ndarray", "labels.ndarray", "codes.json")


def draw_set(count, seed=0):
    """Draw codes in three clusters, pictures in a colour of their own, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).astype(np.int32)
    centres = rng.normal(size=(3, 20)) * 3
    codes = (centres[labels] + rng.normal(size=(count, 20))).astype(np.float32)
    colours = rng.integers(0, 256, (count, 3, 1, 1), dtype=np.uint8)
    return codes, np.broadcast_to(colours, (count, 3, 64, 64)).copy(), labels


def describe(**changes):
    description = {
        "class_names": CLASSES,
        "pictures": "**Not Imagenette:** coloured squares",
        "weights": "made up",
        "precision": "float32",
        "seed": 42,
    }
    return {**description, **changes}


@pytest.fixture
def data_dir(tmp_path):
    save_codes(tmp_path / "data", MODEL, *draw_set(50), describe())
    return tmp_path / "data"


def plot(folder, *args):
    return run_script("plot_convnet_embedding.py", *args, cwd=folder)


class Run:
    """A finished run over a set of 50 pictures: what it was given, printed and logged."""

    def __init__(self, folder):
        self.codes, self.thumbnails, self.labels = draw_set(50)
        save_codes(folder / "data", MODEL, self.codes, self.thumbnails, self.labels, describe())
        self.result = plot(folder)
        assert self.result.returncode == 0, self.result.stderr
        self.logdir = folder / "logs"
        self.log = read_log(self.logdir)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def served(run):
    """Get what TensorBoard's own server answers the projector."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with serve(run.logdir) as url:
        yield lambda path: opener.open(f"{url}data/plugin/projector/{path}", timeout=30).read()


def sprites_of(encoded, count):
    """Cut a sheet of 64 x 64 sprites into (count, 64, 64, 3) RGB."""
    sheet = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    side = math.ceil(math.sqrt(count))
    assert sheet.shape == (64 * side, 64 * side, 3)
    cells = sheet.reshape(side, 64, side, 64, 3).swapaxes(1, 2).reshape(-1, 64, 64, 3)
    return cells[:count].astype(int)


def test_tensorboard_serves_each_code_with_its_own_name_and_picture(run, served):
    (embedding,) = json.loads(served("info?run=."))["embeddings"]
    assert embedding["tensorName"] == TAG
    assert embedding["tensorShape"] == [50, 20]
    assert embedding["sprite"]["singleImageDim"] == [64, 64]
    assert served(f"tensor?run=.&name={TAG}&num_rows=100000") == run.codes.tobytes()
    lines = served(f"metadata?run=.&name={TAG}&num_rows=100000").decode().splitlines()
    assert lines == [NAMES[label] for label in run.labels]
    sprites = sprites_of(served(f"sprite_image?run=.&name={TAG}"), 50)
    assert abs(sprites - run.thumbnails.transpose(0, 2, 3, 1)).max() <= 4


def test_grid_shows_every_picture_in_order(run):
    (event,) = run.log.Images("imagenet_50_images")
    grid = decode(event)
    assert grid.shape == (7 * 66 + 2, 8 * 66 + 2, 3)
    cells = grid[2:, 2:].reshape(7, 66, 8, 66, 3).swapaxes(1, 2)[:, :, :64, :64]
    assert (cells.reshape(56, 64, 64, 3)[:50] == run.thumbnails.transpose(0, 2, 3, 1)).all()


def test_log_says_which_pictures_weights_and_precision_the_codes_came_from(run):
    text = read_text(run.log, "codes_data")
    for words in ("50 codes of 20 numbers", "**Not Imagenette:** coloured squares", "made up"):
        assert words in text
    assert "float32" in text and "42" in text


def test_neighbour_figure_is_printed_and_logged(run):
    share, chance = neighbour_share(run.codes, run.labels)
    line = run.result.stdout.splitlines()[0]
    assert f"{share:.1%}" in line and f"{chance:.1%}" in line
    assert share > 0.9 > 0.5 > chance
    assert read_text(run.log, "codes_neighbours") == line


def test_output_ends_with_what_to_do_next_and_nothing_goes_wrong(run):
    assert "tensorboard --logdir ./logs" in run.result.stdout.splitlines()[-2]
    assert run.result.stderr == ""


def test_set_of_another_network_is_found_by_the_last_part_of_its_prefix(tmp_path):
    codes, thumbnails, labels = draw_set(12)
    save_codes(tmp_path / "data", "mobile", codes, thumbnails, labels, describe())
    result = plot(tmp_path, "--model", "some/where/mobile")
    assert result.returncode == 0, result.stderr
    assert read_embedding_names(tmp_path / "logs") == ["mobile_image_codes"]
    assert read_log(tmp_path / "logs").Tags()["images"] == ["imagenet_12_images"]


def read_embedding_names(logdir):
    text = (logdir / "projector_config.pbtxt").read_text()
    return [entry.tensor_name for entry in text_format.Parse(text, ProjectorConfig()).embeddings]


def test_second_run_replaces_the_embedding_and_keeps_that_of_another_network(data_dir, tmp_path):
    save_codes(data_dir, "mobile", *draw_set(9, seed=1), describe())
    codes, thumbnails, labels = draw_set(30, seed=2)
    assert plot(tmp_path).returncode == 0
    assert plot(tmp_path, "--model", "mobile").returncode == 0
    kept = {path: path.read_bytes() for path in tmp_path.glob("logs/mobile_image_codes/*")}
    save_codes(data_dir, MODEL, codes, thumbnails, labels, describe())
    assert plot(tmp_path).returncode == 0

    assert sorted(read_embedding_names(tmp_path / "logs")) == ["mobile_image_codes", TAG]
    assert len(kept) == 3 and all(path.read_bytes() == kept[path] for path in kept)
    folder = tmp_path / "logs" / TAG
    assert (folder / "tensors.bytes").read_bytes() == codes.tobytes()
    names = [NAMES[label] for label in labels]
    assert (folder / "metadata.tsv").read_text().splitlines() == names
    sprites = sprites_of((folder / "sprite.jpg").read_bytes(), 30)
    assert abs(sprites - thumbnails.transpose(0, 2, 3, 1)).max() <= 4


def test_pictures_that_are_all_of_different_classes_have_no_neighbour_figure(tmp_path):
    codes, thumbnails, _ = draw_set(4)
    names = describe(class_names=["one", "two\tor more", "three\nor four", ""])
    save_codes(tmp_path / "data", MODEL, codes, thumbnails, np.arange(4), names)
    result = plot(tmp_path)
    assert result.returncode == 0, result.stderr
    line = result.stdout.splitlines()[0]
    assert "%" not in line and "No two pictures are of one class" in line
    assert read_text(read_log(tmp_path / "logs"), "codes_neighbours") == line
    labels = (tmp_path / "logs" / TAG / "metadata.tsv").read_text().splitlines()
    assert labels == ["one", "two or more", "three or four", "-"]


def test_codes_that_are_all_zero_are_logged(tmp_path):
    _, thumbnails, labels = draw_set(10)
    save_codes(tmp_path / "data", MODEL, np.zeros((10, 5)), thumbnails, labels, describe())
    result = plot(tmp_path)
    assert result.returncode == 0 and result.stderr == ""
    (table,) = (tmp_path / "logs" / TAG).glob("tensors.tsv")
    assert np.loadtxt(table, delimiter="\t").shape == (10, 5)


def test_help_shows_every_default():
    text = run_script("plot_convnet_embedding.py", "--help").stdout
    for default in (MODEL, "./logs", "./data"):
        assert re.search(rf"\(default:\s+{re.escape(default)}\)", text)


def test_wrong_argument_ends_in_one_line(tmp_path):
    assert_one_line_error(plot(tmp_path, "--no-such-flag"), 2, "--no-such-flag")


def _delete(path, data_dir):
    path.unlink()


def _flip_a_byte(path, data_dir):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut_short(path, data_dir):
    path.write_bytes(path.read_bytes()[:-10])


def _take_from_another_run(path, data_dir):
    save_codes(data_dir / "other", MODEL, *draw_set(50, seed=7), describe(seed=7))
    (data_dir / "other" / path.name).replace(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("spoil", [_delete, _flip_a_byte, _cut_short, _take_from_another_run])
def test_incomplete_damaged_or_mixed_set_is_refused_and_the_log_left_alone(
    spoil, suffix, data_dir, tmp_path
):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "projector_config.pbtxt").write_text("an earlier log")
    path = data_dir / f"{MODEL}_{suffix}"
    if spoil is _flip_a_byte and suffix == "codes.json":
        # One in a digest: text that JSON still takes.
        path.write_text(re.sub(r'"([0-9a-f])', r'"\1\1', path.read_text()))
    else:
        spoil(path, data_dir)
    result = plot(tmp_path)
    # Whichever file is from another run, the arrays no longer match the description.
    assert_one_line_error(result, 1, f"{MODEL}_", "get_convnet_codes.py", "run")
    if spoil is not _take_from_another_run:
        assert path.name in result.stderr
    assert [file.name for file in (tmp_path / "logs").iterdir()] == ["projector_config.pbtxt"]
    assert (tmp_path / "logs" / "projector_config.pbtxt").read_text() == "an earlier log"


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"sha256": {}}', b'{"sha256": 1}', b"\xff", b'"sha256"']
)
def test_description_that_is_none_is_refused(content, data_dir, tmp_path):
    (data_dir / f"{MODEL}_codes.json").write_bytes(content)
    result = plot(tmp_path)
    assert_one_line_error(result, 1, f"{MODEL}_codes.json", "damaged", "get_convnet_codes.py")
    assert not (tmp_path / "logs").exists()


def _rewrite(data_dir, suffix, array):
    """Replace an array of the set and its digest, as a faulty writer would."""
    path, description_path = (data_dir / f"{MODEL}_{name}" for name in (suffix, "codes.json"))
    mx.nd.save(str(path), mx.nd.array(array, dtype=array.dtype))
    description = json.loads(description_path.read_text())
    description["sha256"][suffix.split(".")[0]] = pooch.file_hash(str(path))
    description_path.write_text(json.dumps(description))


def test_files_of_different_lengths_are_refused(data_dir, tmp_path):
    _rewrite(data_dir, "labels.ndarray", np.zeros(49, np.int32))
    result = plot(tmp_path)
    assert_one_line_error(result, 1, "50 codes", "50 pictures", "49 labels", "get_convnet_codes.py")
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("label", [-1, 3])
def test_label_without_a_name_is_refused(label, data_dir, tmp_path):
    _rewrite(data_dir, "labels.ndarray", np.full(50, label, np.int32))
    assert_one_line_error(plot(tmp_path), 1, f"{MODEL}_codes.json", "get_convnet_codes.py")


@pytest.mark.parametrize("files", [SUFFIXES, SUFFIXES[-1:]], ids=["all", "description"])
def test_missing_set_is_named_with_what_makes_it(files, data_dir, tmp_path):
    for suffix in files:
        (data_dir / f"{MODEL}_{suffix}").unlink()
    names = [f"{MODEL}_{suffix}" for suffix in files]
    assert_one_line_error(plot(tmp_path), 1, *names, "run get_convnet_codes.py", "./data")


def test_full_disk_ends_in_one_line_and_keeps_the_earlier_embedding(small_disk, tmp_path):
    logdir = small_disk / "logs"
    codes, thumbnails, labels = draw_set(2)
    save_codes(tmp_path / "data", MODEL, codes, thumbnails, labels, describe())
    assert plot(tmp_path, "--logdir", logdir).returncode == 0
    earlier = {path: path.read_bytes() for path in logdir.glob("[rp]*/*")}
    assert len(earlier) == 3
    # Pictures of one colour, so that the grid has room and the codes have not.
    codes = np.tile(draw_set(50)[0], (1, 20))
    thumbnails = np.zeros((50, 3, 64, 64), np.uint8)
    save_codes(tmp_path / "data", MODEL, codes, thumbnails, np.zeros(50), describe())
    result = plot(tmp_path, "--logdir", logdir)
    assert_one_line_error(result, 1, "No space left on device", str(logdir), "free some space")
    assert {path: path.read_bytes() for path in logdir.glob("[rp]*/*")} == earlier
    assert read_embedding_names(logdir) == [TAG]


def test_damaged_list_of_embeddings_ends_in_one_line_that_names_it(data_dir, tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "projector_config.pbtxt").write_text("embeddings {")
    result = plot(tmp_path)
    assert_one_line_error(result, 1, "logs/projector_config.pbtxt", "delete it")


def test_set_comes_back_as_it_went_in_and_in_mxnets_format(tmp_path):
    codes, thumbnails, labels = draw_set(7)
    # What a shuffled selection looks like: no array is contiguous, none has the type on the disk.
    given = (
        np.asfortranarray(codes, np.float64),
        thumbnails[::-1][::-1],
        labels.astype(np.int64)[::-1][::-1],
    )
    description = describe(class_names=["你好", "\udcff", "c"], cosine=0.98)
    save_codes(tmp_path, "x", *given, description)
    *arrays, loaded = load_codes(tmp_path, "x")
    for array, expected, suffix in zip(arrays, (codes, thumbnails, labels), SUFFIXES):
        (stored,) = mx.nd.load(str(tmp_path / f"x_{suffix}"))
        assert array.dtype == stored.dtype == expected.dtype
        assert (array == expected).all() and (stored.asnumpy() == expected).all()
    assert loaded == description
    assert all(array.flags.writeable for array in given)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"x_{s}" for s in SUFFIXES)


@pytest.mark.parametrize(
    ("width", "count", "weights"),
    [(10_000, 1, ""), (1, 3, ""), (1, 1, "x" * 30_000)],
    ids=["codes", "thumbnails", "description"],
)
def test_set_that_does_not_fit_leaves_the_earlier_one_whole(width, count, weights, small_disk):
    save_codes(small_disk, "x", *draw_set(1), describe())
    before = {path.name: path.read_bytes() for path in small_disk.iterdir()}
    _, thumbnails, labels = draw_set(count)
    codes = np.ones((count, width))
    with pytest.raises((ScriptError, OSError), match="space") as raised:
        save_codes(small_disk, "x", codes, thumbnails, labels, describe(weights=weights))
    assert "\n" not in str(raised.value) and str(small_disk) in str(raised.value)
    assert {path.name: path.read_bytes() for path in small_disk.iterdir()} == before
    load_codes(small_disk, "x")


def test_array_whose_last_bytes_do_not_fit_is_not_taken_for_whole(small_disk):
    # MXNet itself says nothing then: they are written only when it closes the file.
    with pytest.raises(ScriptError, match="free some space"):
        _save_array(small_disk / "x", np.ones((16_384, 1)), np.float32)


def test_folder_of_codes_that_is_a_file_ends_in_an_error_that_names_it(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ScriptError, match=f"{tmp_path}/file"):
        save_codes(tmp_path / "file", "x", *draw_set(2), describe())


def brute_force_share(codes, labels, k):
    unit = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    shares, chances = [], []
    for i, label in enumerate(labels):
        others = np.delete(np.arange(len(codes)), i)
        if (labels[others] == label).any():
            nearest = others[np.argsort(unit[others] @ unit[i])[::-1][:k]]
            shares.append(np.mean(labels[nearest] == label))
            chances.append(np.mean(labels[others] == label))
    return np.mean(shares), np.mean(chances)


@pytest.mark.parametrize("classes", [3, 40, 600])
@pytest.mark.parametrize("k", [1, 5])
def test_neighbour_share_is_that_of_a_brute_force_search(k, classes):
    # More pictures than are searched at once; with 600 classes, many are alone in theirs.
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 1200).astype(np.int32) * 7
    codes = (labels[:, None] % 5 + rng.normal(size=(1200, 30))).astype(np.float32)
    assert neighbour_share(codes, labels, k) == pytest.approx(
        brute_force_share(codes.astype(np.float64), labels, k)
    )


def test_neighbour_share_of_a_case_done_by_hand():
    # On a circle: two of class 0 next to each other, two of class 1 apart, one of class 2.
    angles = np.radians([0, 10, 30, 120, 140])
    codes = np.float32(
        np.stack([np.cos(angles), np.sin(angles)], axis=1) * [[1], [2], [3], [4], [5]]
    )
    labels = np.array([0, 0, 1, 1, 2], np.int32)
    # Of the nearest two: 0 -> (10, 30), 10 -> (0, 30), 30 -> (10, 0), 120 -> (140, 30).
    share, chance = neighbour_share(codes, labels, k=2)
    assert share == pytest.approx((0.5 + 0.5 + 0 + 0.5) / 4)
    assert chance == pytest.approx(1 / 4)


def test_neighbour_share_is_chance_where_codes_tell_nothing_apart():
    labels = np.repeat(np.arange(4), 25)
    for codes in (np.zeros((100, 8)), np.ones((100, 8))):
        share, chance = neighbour_share(codes.astype(np.float32), labels)
        assert share == pytest.approx(chance) == pytest.approx(24 / 99)


def test_neighbour_share_of_fewer_pictures_than_neighbours_uses_them_all():
    codes = np.eye(3, dtype=np.float32)
    assert neighbour_share(codes, np.array([0, 0, 1])) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("labels", [[4], [0, 1, 2]])
def test_there_is_no_neighbour_share_where_every_picture_is_alone_in_its_class(labels):
    codes = np.ones((len(labels), 3), np.float32)
    assert neighbour_share(codes, np.array(labels)) is None
