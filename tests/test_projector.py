import multiprocessing
from multiprocessing.pool import ThreadPool

import cv2
import mxnet as mx
import numpy as np
import pytest
from google.protobuf import text_format
from helpers import EVERY_ARRAY, files_of, find
from mxboard import SummaryWriter
from tensorboard.plugins.projector import projector_plugin
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

FORK = multiprocessing.get_context("fork")
EYE, NAN = np.eye(2), np.nan


def read_list(logdir):
    return text_format.Parse((logdir / "projector_config.pbtxt").read_text(), ProjectorConfig())


class Projected:
    """An embedding as TensorBoard's projector reads it."""

    def __init__(self, logdir, name="x"):
        (self.entry,) = (each for each in read_list(logdir).embeddings if each.tensor_name == name)
        path = logdir / self.entry.tensor_path
        try:  # The plugin's own way of telling raw from text.
            self.vectors = projector_plugin._read_tensor_tsv_file(str(path))
        except UnicodeDecodeError:
            shape = self.entry.tensor_shape
            self.vectors = projector_plugin._read_tensor_binary_file(str(path), shape)
        self.folder, self.logdir = path.parent, logdir

    @property
    def labels(self):
        return (self.logdir / self.entry.metadata_path).read_text("utf-8").splitlines()

    @property
    def sprites(self):
        """The pictures of the sheet, (side * side, H, W, 3)."""
        width, height = self.entry.sprite.single_image_dim
        sheet = cv2.imread(str(self.logdir / self.entry.sprite.image_path))[:, :, ::-1].astype(int)
        side = sheet.shape[0] // height
        assert max(sheet.shape) <= 8192
        cells = sheet.reshape(side, height, side, width, 3).swapaxes(1, 2)
        return cells.reshape(side * side, height, width, 3)


def smooth_pictures(count):
    """Draw 24 x 16 pictures that JPEG hardly changes: colors that grow brighter downwards."""
    colors = np.random.default_rng(1).integers(0, 200, (count, 3, 1, 1))
    return np.broadcast_to(colors + np.arange(24)[:, None], (count, 3, 24, 16)).astype(np.uint8)


@EVERY_ARRAY
@pytest.mark.parametrize(("count", "places"), [(2, 4), (10, 16), (16, 16)])
def test_projector_gets_every_vector_with_its_own_label_and_picture(
    count, places, to_array, sw, tmp_path
):
    vectors = np.random.default_rng(0).normal(size=(count, 7)).astype(np.float32)
    labels, images = np.arange(count) * 3, smooth_pictures(count)
    sw.add_embedding("x", to_array(vectors), labels, to_array(images))
    projected = Projected(tmp_path)
    assert (projected.entry.tensor_shape, len(projected.sprites)) == ([count, 7], places)
    assert (projected.vectors == vectors).all()
    assert projected.labels == [str(label) for label in labels]
    assert abs(projected.sprites[:count] - images.transpose(0, 2, 3, 1)).max() <= 8


TABLE = [["name", "digit"], ["a\tb", 7], ["", 8.5], ["你好", "x"]]
LINES = ["name\tdigit", "a b\t7", "-\t8.5", "你好\tx"]
NUMBERS = mx.nd.array([[0, 1], [2, 3], [4, 5], [6, 7]], dtype="int32")


ODD = ["a\tb", "c\nd", "e\r\nf", "", " \t", "g\u2028h\x85i", "  j  k ", "\udcff", 7, None]


@pytest.mark.parametrize(
    ("count", "labels", "lines"),
    [
        (10, ODD, ["a b", "c d", "e f", "-", "-", "g h i", "j k", "?", "7", "None"]),
        (3, TABLE, LINES),
        (3, np.array(TABLE, object), LINES),
        (3, NUMBERS, ["0\t1", "2\t3", "4\t5", "6\t7"]),
        (3, [["name"], ["a"], ["b"], ["c"]], ["a", "b", "c"]),
        (3, [("a",), ("b",), ("c",)], ["a", "b", "c"]),
        (3, NUMBERS[:3, :1], ["0", "2", "4"]),
    ],
    ids=["odd", "list", "objects", "ndarray", "one column", "no header", "ndarray column"],
)
def test_each_label_is_a_line_and_each_row_of_a_table(count, labels, lines, sw, tmp_path):
    sw.add_embedding("x", np.ones((count, 2)), labels=labels)
    assert find(tmp_path / "x", "metadata.tsv").read_text("utf-8").splitlines() == lines


def test_logging_a_tag_again_replaces_it_and_keeps_the_others(sw, tmp_path):
    first, second, other = np.random.default_rng(0).normal(size=(3, 9, 3)).astype(np.float32)
    more = {"labels": list("abcdefghi"), "images": smooth_pictures(9)}
    # What MXBoard leaves behind: an entry for each call.
    entry = 'tensor_name: "x" tensor_path: "x/tensors.tsv" metadata_path: "x/metadata.tsv"'
    entry += ' sprite {image_path: "x/sprite.png" single_image_dim: 8 single_image_dim: 8}'
    (tmp_path / "projector_config.pbtxt").write_text(f"embeddings {{{entry}}}\n" * 2)
    sw.add_embedding("other", other, **more)
    sw.add_embedding("x", first, **more)
    assert Projected(tmp_path).entry.sprite.single_image_dim == [16, 24]
    sw.add_embedding("x", second[:4])
    assert [each.tensor_name for each in read_list(tmp_path).embeddings] == ["other", "x"]
    new, kept = Projected(tmp_path), Projected(tmp_path, "other")
    assert (new.vectors == second[:4]).all() and (kept.vectors == other).all()
    fields = {field.name for field, _ in new.entry.ListFields()}
    assert fields == {"tensor_name", "tensor_path", "tensor_shape"}
    assert (kept.labels, len(kept.sprites)) == (more["labels"], 9)


ADDED = """bookmarks_path: "view.json" metadata_path: "x/mine.tsv"
sprite { image_path: "x/mine.png" single_image_dim: [8, 9] } }"""


@pytest.mark.parametrize("logged", [{}, {"labels": list("ab"), "images": smooth_pictures(2)}])
def test_logging_a_tag_again_keeps_what_a_user_added_to_its_entry(logged, sw, tmp_path):
    sw.add_embedding("x", EYE)
    path = tmp_path / "projector_config.pbtxt"
    path.write_text(path.read_text().replace("}", ADDED))
    sw.add_embedding("x", np.ones((2, 3)), **logged)
    entry = Projected(tmp_path).entry
    own = entry.tensor_path.rpartition("/")[0]
    names = [f"{own}/metadata.tsv", f"{own}/sprite.jpg"] if logged else ["x/mine.tsv", "x/mine.png"]
    assert [entry.metadata_path, entry.sprite.image_path] == names
    assert entry.sprite.single_image_dim == ([16, 24] if logged else [8, 9])
    assert entry.bookmarks_path == "view.json"


def test_new_embedding_removes_the_files_that_it_replaces_and_nothing_else(sw, tmp_path):
    """Whatever else lies in the folder of its tag is another embedding, curve or run."""
    (tmp_path / "x" / "deadbeef").mkdir(parents=True)
    (tmp_path / "x" / "deadbeef" / "mine").touch()
    for tag in ("x/20261127", "x/mine", "y"):
        sw.add_embedding(tag, EYE)
    sw.add_scalar("x", {"20261127": 1})
    others = set(files_of(tmp_path))
    for vectors in (np.eye(4), np.eye(3), EYE):
        sw.add_embedding("x", vectors, list("abcd")[: len(vectors)])
    assert set(files_of(tmp_path)) == {*others, *Projected(tmp_path).folder.iterdir()}


@pytest.mark.parametrize("named", ["x/link", "x/..", "y/deadbeef", "x", ".", "{log}/x/deadbeef"])
def test_no_folder_is_removed_that_is_a_link_or_not_within_that_of_the_tag(named, sw, tmp_path):
    for folder in (tmp_path / "x" / "deadbeef", tmp_path / "y" / "deadbeef"):
        folder.mkdir(parents=True)
        (folder / "mine").touch()
    (tmp_path / "x" / "link").symlink_to(tmp_path / "y" / "deadbeef")
    entry = f'tensor_name: "x" tensor_path: "{named.format(log=tmp_path)}/tensors.bytes"'
    (tmp_path / "projector_config.pbtxt").write_text(f"embeddings {{{entry}}}")
    before = set(tmp_path.rglob("*"))
    sw.add_embedding("x", EYE)
    assert before <= set(tmp_path.rglob("*"))


def test_step_is_part_of_the_name_as_in_mxboard(sw, tmp_path):
    for step in (None, 0, np.int64(12), -3):
        sw.add_embedding("x", EYE, global_step=step)
    names = [each.tensor_name for each in read_list(tmp_path).embeddings]
    assert names == ["x", "x_000000", "x_000012", "x_-00003"]


FIRST_LINE = np.frombuffer(b"\0\n\0\0\0\0\x80\xbf" * 2, "<f4").reshape(2, 2)
LINE_ENDS = np.frombuffer(b"\n\n\xff\x3f" * 4, "<f4").reshape(2, 2)
THIRDS = np.full((5, 4), -1 / 3)
RAW = [(THIRDS, ".bytes"), (LINE_ENDS, ".bytes"), (np.zeros((5, 4)), ".tsv"), (FIRST_LINE, ".tsv")]


@pytest.mark.parametrize(("vectors", "suffix"), RAW, ids=["usual", "line ends", "zeros", "line"])
def test_vectors_arrive_raw_unless_their_first_line_passes_for_text(vectors, suffix, sw, tmp_path):
    sw.add_embedding("x", vectors)
    projected = Projected(tmp_path)
    assert (projected.vectors == vectors.astype(np.float32)).all()
    assert projected.entry.tensor_path.endswith(suffix)


def test_more_pictures_than_the_largest_sprite_sheet_holds_are_shrunk(sw, tmp_path):
    # 130 a side: of 8192 pixels, 63 for each. Its stripes are as bright as the mean of two of them.
    count, brightness = 16_900, 30 + np.arange(16_900) % 191
    images = np.zeros((count, 1, 14, 126), np.uint8)
    images[:] = brightness[:, None, None, None] + np.tile([-30, 30], 63)
    sw.add_embedding("x", np.ones((count, 2)), images=images)
    projected = Projected(tmp_path)
    assert list(projected.entry.sprite.single_image_dim) == [63, 7]
    # Sprites whose sides are no multiple of JPEG's blocks run into each other a little.
    middles = projected.sprites[:count, 3, 31, 0]
    assert np.percentile(abs(middles - brightness), 95) <= 8


BAD_LABELS = ["a", "abc", TABLE, [TABLE[0], ["a"], ["b"]], TABLE[:2]]
REFUSED = [  # why, and which embeddings with which labels and pictures
    ("both 2 or more", [[np.ones(each)] for each in [3, (1, 3), (3, 1), (0, 3), (2, 2, 2)]]),
    ("2 of 3 vectors hold NaN or infinity", [[[[NAN, NAN], [1, 1e39], [1, 2]]]]),
    ("real numbers, not complex128", [[np.ones((2, 2), complex)]]),
    ("two columns .* one name", [[EYE, [["a", " a\n"], [1, 2], [4, 5]]]]),
    ("labels are 2, or 3 rows of a table", [[EYE, each] for each in BAD_LABELS]),
    ("3 images for 2 vectors", [[EYE, None, np.zeros((3, 3, 4, 4), np.uint8)]]),
    (r"not \(2, 8, 8, 3\): convert it by", [[EYE, None, np.zeros((2, 8, 8, 3), np.uint8)]]),
]


@pytest.mark.parametrize(
    ("words", "arguments"), [(words, each) for words, calls in REFUSED for each in calls]
)
def test_what_cannot_be_shown_is_refused_and_nothing_is_written(words, arguments, sw, tmp_path):
    with pytest.raises(ValueError, match=f"^embedding x: .*{words}"):
        sw.add_embedding("x", *arguments)
    assert len(list(tmp_path.iterdir())) == 1  # the writer's own


def test_full_disk_is_an_error_that_leaves_the_earlier_embedding_whole(small_disk):
    vectors = np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32)
    with SummaryWriter(small_disk) as sw:
        sw.add_embedding("x", vectors, labels=range(50))
        before = files_of(small_disk)
        with pytest.raises(OSError, match="No space left on device") as raised:
            sw.add_embedding("x", np.tile(-vectors, (20, 1)), labels=range(1000))
    assert raised.value.filename == str(small_disk) and files_of(small_disk) == before


def test_embedding_is_listed_only_once_its_files_are_in_place(small_disk, sw, tmp_path):
    with pytest.raises(OSError, match="cross-device link"):  # The tag's folder is a small disk.
        sw.add_embedding("small_disk", EYE)
    assert not (tmp_path / "projector_config.pbtxt").exists()


@pytest.mark.parametrize("content", [b"embeddings {", b"\xff\xfe"])
def test_damaged_list_of_embeddings_is_named_and_left_alone(content, sw, tmp_path):
    path = tmp_path / "projector_config.pbtxt"
    path.write_bytes(content)
    with pytest.raises(OSError, match="delete it") as raised:
        sw.add_embedding("x", EYE)
    assert raised.value.filename == str(path)
    assert path.read_bytes() == content and not (tmp_path / "x").exists()


REFUSED_TAGS = {
    "not lie in a folder": ["../x", "/x", "a/../../x", "..", "", "."],
    "is a file": ["file", "file/x", "projector_config.pbtxt"],
    "the files of embedding 'c' lie there": ["{c}", "{c}/x"],
}


@pytest.mark.parametrize(
    ("words", "tag"), [(words, tag) for words, tags in REFUSED_TAGS.items() for tag in tags]
)
def test_tag_that_can_be_no_folder_is_refused_and_nothing_is_written(words, tag, tmp_path):
    log = tmp_path / "log"
    with SummaryWriter(log) as sw:
        sw.add_embedding("c/metadata.tsv", EYE)
        sw.add_embedding("c", EYE)
        (log / "file").touch()
        before = sorted(tmp_path.rglob("*"))
        tag = tag.format(c=Projected(log, "c").folder.relative_to(log))
        with pytest.raises(ValueError, match=words):
            sw.add_embedding(tag, EYE)
    assert sorted(tmp_path.rglob("*")) == before


def log_in_threads(sw, process):
    def log(thread):
        for number in range(10):
            sw.add_embedding(f"{process}_{thread}_{number}", EYE)

    with ThreadPool(2) as pool:
        pool.map(log, "cd")


def test_embeddings_that_are_logged_at_once_are_all_listed(sw, tmp_path):
    options = {"target": log_in_threads, "daemon": True}
    processes = [FORK.Process(args=(sw, name), **options) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
    entries = read_list(tmp_path).embeddings
    assert len({each.tensor_name for each in entries}) == len(entries) == 40
    assert all((tmp_path / each.tensor_path).exists() for each in entries)
