import math
import subprocess
import sys
import threading

import cv2
import mxnet as mx
import numpy as np
import pytest
from google.protobuf import text_format
from helpers import ROOT, files_of, find, script_env
from mxboard import SummaryWriter
from tensorboard.plugins.projector import projector_plugin
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig


class Projected:
    """An embedding as TensorBoard's projector reads it."""

    def __init__(self, logdir, name):
        self.logdir = logdir
        self.names = [entry.tensor_name for entry in read_projector_config(logdir).embeddings]
        (self.entry,) = (
            entry for entry in read_projector_config(logdir).embeddings if entry.tensor_name == name
        )

    @property
    def vectors(self):
        # The plugin's own way of telling raw from text.
        path = str(self.logdir / self.entry.tensor_path)
        try:
            return projector_plugin._read_tensor_tsv_file(path)
        except UnicodeDecodeError:
            return projector_plugin._read_tensor_binary_file(path, self.entry.tensor_shape)

    @property
    def labels(self):
        # Its browser part skips lines that look empty, and takes a tab in the first for a header.
        lines = (self.logdir / self.entry.metadata_path).read_text("utf-8").splitlines()
        assert "\t" not in lines[0]
        return [line for line in lines if line.strip()]

    @property
    def sprites(self):
        """The pictures of the sheet, (side * side, H, W, 3)."""
        width, height = self.entry.sprite.single_image_dim
        sheet = cv2.imread(str(self.logdir / self.entry.sprite.image_path))[:, :, ::-1]
        assert max(sheet.shape) <= 8192
        side = sheet.shape[0] // height
        assert sheet.shape == (side * height, side * width, 3)
        cells = sheet.reshape(side, height, side, width, 3).swapaxes(1, 2)
        return cells.reshape(side * side, height, width, 3)


EYE = np.eye(2)


def read_projector_config(logdir):
    return text_format.Parse((logdir / "projector_config.pbtxt").read_text(), ProjectorConfig())


def smooth_pictures(count, height=24, width=16):
    """Draw pictures that JPEG hardly changes: each a color that grows brighter downwards."""
    colors = np.random.default_rng(1).integers(0, 200, (count, 3, 1, 1))
    return np.broadcast_to(colors + np.arange(height)[:, None], (count, 3, height, width)).astype(
        np.uint8
    )


@pytest.mark.parametrize(
    "to_array", [np.array, lambda x: mx.nd.array(x, dtype=x.dtype), np.ndarray.tolist, tuple]
)
@pytest.mark.parametrize("count", [2, 10, 16])
def test_projector_gets_every_vector_with_its_own_label_and_picture(count, to_array, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(count, 7)).astype(np.float32)
    labels = np.arange(count, dtype=np.int32) * 3
    images = smooth_pictures(count)
    with SummaryWriter(tmp_path) as sw:
        sw.add_embedding("x", to_array(vectors), to_array(labels), to_array(images))
    projected = Projected(tmp_path, "x")
    assert list(projected.entry.tensor_shape) == [count, 7]
    assert (projected.vectors == vectors).all()
    assert projected.labels == [str(label) for label in labels]
    assert len(projected.sprites) == math.ceil(math.sqrt(count)) ** 2
    sprites = projected.sprites[:count].astype(int)
    assert abs(sprites - images.transpose(0, 2, 3, 1)).max() <= 8


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_sprites_may_be_gray_or_floats(dtype, tmp_path):
    images = np.linspace(0, 255, 5 * 8 * 8).reshape(5, 1, 8, 8).astype(np.uint8)
    logged = images if dtype == "uint8" else images.astype(np.float32) / 255
    with SummaryWriter(tmp_path) as sw:
        sw.add_embedding("x", np.ones((5, 2)), images=logged)
    sprites = Projected(tmp_path, "x").sprites[:5].astype(int)
    assert abs(sprites - images.transpose(0, 2, 3, 1)).max() <= 8


def test_labels_that_are_no_single_word_stay_on_their_own_row(tmp_path):
    labels = [*("a\tb", "c\nd", "e\r\nf", "", " \t", "g\u2028h\x85i", "  j  k "), "\udcff", 7, None]
    with SummaryWriter(tmp_path) as sw:
        sw.add_embedding("x", np.ones((len(labels), 2)), labels=labels)
    expected = [*("a b", "c d", "e f", "-", "-", "g h i", "j k", "?", "7", "None")]
    assert Projected(tmp_path, "x").labels == expected


HEADER, ROWS = ["name", "digit"], [["a\tb", 7], ["", 8.5], ["你好", "x"]]
LINES = ["name\tdigit", "a b\t7", "-\t8.5", "你好\tx"]


@pytest.mark.parametrize(
    ("labels", "lines"),
    [
        ([HEADER, *ROWS], LINES),
        (np.array([HEADER, *ROWS], object), LINES),
        (mx.nd.array(np.arange(8).reshape(4, 2), dtype="int32"), ["0\t1", "2\t3", "4\t5", "6\t7"]),
        ([["name"], ["a"], ["b"], ["c"]], ["a", "b", "c"]),
        ([("a",), ("b",), ("c",)], ["a", "b", "c"]),
        (mx.nd.array([[1], [2], [3]], dtype="int32"), ["1", "2", "3"]),
    ],
    ids=["list", "objects", "ndarray", "one column", "no header", "ndarray column"],
)
def test_labels_in_two_dimensions_are_a_table_whose_first_row_names_the_columns(
    labels, lines, tmp_path
):
    with SummaryWriter(tmp_path) as sw:
        sw.add_embedding("x", np.ones((3, 2)), labels=labels)
    assert find(tmp_path / "x", "metadata.tsv").read_text("utf-8").splitlines() == lines


def test_logging_a_tag_again_replaces_it_and_keeps_the_others(tmp_path):
    first, second, other = (np.random.default_rng(seed).normal(size=(9, 3)) for seed in range(3))
    images = smooth_pictures(9)
    # What MXBoard leaves behind: an entry for each call.
    entry = 'tensor_name: "x" tensor_path: "x/tensors.tsv" metadata_path: "x/metadata.tsv"'
    entry += ' sprite {image_path: "x/sprite.png" single_image_dim: 8 single_image_dim: 8}'
    (tmp_path / "projector_config.pbtxt").write_text(f"embeddings {{{entry}}}\n" * 2)
    with SummaryWriter(tmp_path) as sw:
        sw.add_embedding("other", other, labels=list("abcdefghi"), images=images)
        sw.add_embedding("x", first, labels=list("abcdefghi"), images=images)
        assert Projected(tmp_path, "x").entry.sprite.single_image_dim == [16, 24]
        sw.add_embedding("x", second[:4])
    projected = Projected(tmp_path, "x")
    assert sorted(projected.names) == ["other", "x"]
    assert (projected.vectors == second[:4].astype(np.float32)).all()
    assert list(projected.entry.tensor_shape) == [4, 3]
    assert not projected.entry.metadata_path and not projected.entry.HasField("sprite")
    kept = Projected(tmp_path, "other")
    assert (kept.vectors == other.astype(np.float32)).all()
    assert kept.labels == list("abcdefghi") and len(kept.sprites) == 9


@pytest.mark.parametrize("logged", [{}, {"labels": list("ab"), "images": smooth_pictures(2)}])
def test_logging_a_tag_again_keeps_what_a_user_added_to_its_entry(logged, tmp_path):
    path = tmp_path / "projector_config.pbtxt"
    with SummaryWriter(tmp_path) as sw:
        sw.add_embedding("x", np.eye(2))
        config = read_projector_config(tmp_path)
        (entry,) = config.embeddings
        entry.bookmarks_path, entry.metadata_path = "view.json", "mine.tsv"
        entry.sprite.image_path = "mine.png"
        entry.sprite.single_image_dim.extend([8, 9])
        path.write_text(text_format.MessageToString(config))
        sw.add_embedding("x", np.ones((2, 3)), **logged)
    entry = Projected(tmp_path, "x").entry
    assert list(entry.tensor_shape) == [2, 3] and entry.bookmarks_path == "view.json"
    folder = entry.tensor_path.rpartition("/")[0]
    assert entry.metadata_path == (f"{folder}/metadata.tsv" if logged else "mine.tsv")
    assert entry.sprite.image_path == (f"{folder}/sprite.jpg" if logged else "mine.png")
    assert list(entry.sprite.single_image_dim) == ([16, 24] if logged else [8, 9])


@pytest.mark.parametrize("kept", ["x/20261127", "x/mine", "x"])
def test_new_embedding_removes_the_files_that_it_replaces_and_nothing_else(kept, tmp_path):
    """Whatever else lies in the folder of its tag is another embedding, curve or run."""
    (tmp_path / kept).mkdir(parents=True)
    (tmp_path / kept / "deadbeef").touch()
    with SummaryWriter(tmp_path) as sw:
        sw.add_embedding(kept + "/inner", np.eye(2))
        sw.add_scalar("x", {"20261127": 1})
        before = files_of(tmp_path)
        sw.add_embedding("x", np.eye(3))
        sw.add_embedding("x", np.eye(2), ["a", "b"])
        folder = (tmp_path / Projected(tmp_path, "x").entry.tensor_path).parent
    (tmp_path / "projector_config.pbtxt").unlink()
    after = files_of(tmp_path)
    assert {path for path in after if path not in before} == set(folder.iterdir())
    assert set(before) - set(after) == {tmp_path / "projector_config.pbtxt"}


@pytest.mark.parametrize(
    "named", ["x/link", "x/..", "y/deadbeef", "x", ".", "{tmp_path}/y/deadbeef"]
)
def test_no_folder_is_removed_that_is_a_link_or_not_within_that_of_the_tag(named, tmp_path):
    log = tmp_path / "log"
    for folder in (log / "x", log / "y" / "deadbeef"):
        folder.mkdir(parents=True)
        (folder / "mine").touch()
    (log / "x" / "link").symlink_to(log / "y" / "deadbeef")
    path = f"{named.format(tmp_path=log)}/tensors.bytes"
    entry = f'embeddings {{tensor_name: "x" tensor_path: "{path}"}}'
    (log / "projector_config.pbtxt").write_text(entry)
    before = set(log.rglob("*"))
    with SummaryWriter(log) as sw:
        sw.add_embedding("x", np.eye(2))
    assert before <= set(log.rglob("*"))


def test_step_is_part_of_the_name_as_in_mxboard(tmp_path):
    with SummaryWriter(tmp_path) as sw:
        for step in (None, 0, np.int64(12), -3):
            sw.add_embedding("x", np.ones((2, 2)), labels=["a", "b"], global_step=step)
    assert Projected(tmp_path, "x").names == ["x", "x_000000", "x_000012", "x_-00003"]
    assert find(tmp_path / "x_000012", "metadata.tsv").read_text() == "a\nb\n"


def _late_first_byte_that_is_no_text():
    # 17 MB of zeros with a line end in them: what makes this raw lies behind what TensorBoard
    # reads at first, and behind a line of text that holds no number.
    vectors = np.zeros((17_000, 250), np.float32)
    vectors[0, 0] = np.frombuffer(b"\0\n\0\0", "<f4")[0]
    vectors[-1] = -1
    return vectors


@pytest.mark.parametrize(
    "vectors",
    [
        np.zeros((5, 4)),
        np.full((5, 4), 2.0),  # bytes 0, 0, 0 and 64
        np.array([[2.0, np.frombuffer(b"\0\n\0A", "<f4")[0]], [1e-30, -1 / 3]]),
        _late_first_byte_that_is_no_text(),
    ],
    ids=["zeros", "twos", "first line is text", "beginning is text"],
)
def test_vectors_whose_bytes_pass_for_text_still_arrive(vectors, tmp_path):
    with SummaryWriter(tmp_path) as sw:
        sw.add_embedding("x", vectors)
    assert (Projected(tmp_path, "x").vectors == vectors.astype(np.float32)).all()


def test_more_pictures_than_the_largest_sprite_sheet_holds_are_shrunk(tmp_path):
    # 130 a side: of 8192 pixels, 63 for each.
    count, brightness = 16_900, np.arange(16_900) % 251
    images = np.zeros((count, 1, 10, 80), np.uint8)
    images[:] = brightness[:, None, None, None]
    with SummaryWriter(tmp_path) as sw:
        sw.add_embedding("x", np.ones((count, 2)), images=images)
    projected = Projected(tmp_path, "x")
    assert list(projected.entry.sprite.single_image_dim) == [63, 7]
    middles = projected.sprites[:count, 3, 31, 0].astype(int)
    # Sprites whose sides are no multiple of JPEG's blocks run into each other a little.
    assert np.percentile(abs(middles - brightness), 95) <= 8


@pytest.mark.parametrize(
    ("embedding", "others", "words"),
    [
        *(
            (np.ones(shape), {}, "both 2 or more")
            for shape in [3, (1, 3), (3, 1), (0, 3), (2, 2, 2)]
        ),
        ([[1, np.nan], [np.inf, np.nan], [1, 2]], {}, "2 of 3 vectors hold NaN or infinity"),
        ([[1, 1e39], [1, 2]], {}, "1 of 2 vectors hold NaN or infinity"),
        (np.ones((2, 2), complex), {}, "real numbers, not complex128"),
        (EYE, {"labels": [["a", "b", " a\n"], [1, 2, 3], [4, 5, 6]]}, "two columns .* one name"),
        (EYE, {"labels": ["a"]}, "labels are 2, or 3 rows of a table"),
        (EYE, {"labels": list("abc")}, "labels are 2, or 3 rows of a table"),
        (EYE, {"labels": [HEADER, *ROWS]}, "labels are 2, or 3 rows of a table"),
        (EYE, {"labels": [HEADER, ["a"], ["b"]]}, "labels are 2, or 3 rows of a table"),
        (EYE, {"labels": ROWS[:2]}, "labels are 2, or 3 rows of a table"),
        (EYE, {"images": np.zeros((3, 3, 4, 4), np.uint8)}, "3 images for 2 vectors"),
        (EYE, {"images": np.zeros((3, 4, 4), np.uint8)}, "1 images for 2 vectors"),
        (EYE, {"images": np.zeros((2, 8, 8, 3), np.uint8)}, r"not \(2, 8, 8, 3\): convert it by"),
    ],
)
def test_what_the_projector_cannot_show_is_refused_and_nothing_is_written(
    embedding, others, words, tmp_path
):
    with SummaryWriter(tmp_path) as sw, pytest.raises(ValueError, match=f"^embedding x: .*{words}"):
        sw.add_embedding("x", embedding, **others)
    (events,) = tmp_path.iterdir()
    assert "tfevents" in events.name


def test_full_disk_is_an_error_that_leaves_the_earlier_embedding_whole(small_disk):
    vectors = np.random.default_rng(0).normal(size=(50, 20)).astype(np.float32)
    with SummaryWriter(str(small_disk)) as sw:
        sw.add_embedding("x", vectors, labels=range(50))
        before = files_of(small_disk / "x")
        with pytest.raises(OSError, match="No space left on device") as raised:
            sw.add_embedding("x", np.tile(-vectors, (20, 1)), labels=range(1000))
    assert raised.value.filename == str(small_disk)
    assert files_of(small_disk / "x") == before
    projected = Projected(small_disk, "x")
    assert (projected.vectors == vectors).all() and len(projected.labels) == 50


@pytest.mark.parametrize("content", [b"embeddings {", b"\xff\xfe"])
def test_damaged_list_of_embeddings_is_named_and_left_alone(content, tmp_path):
    path = tmp_path / "projector_config.pbtxt"
    path.write_bytes(content)
    with SummaryWriter(tmp_path) as sw, pytest.raises(OSError, match="delete it") as raised:
        sw.add_embedding("x", np.ones((2, 2)))
    assert raised.value.filename == str(path)
    assert path.read_bytes() == content and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        *((tag, "not lie in a folder") for tag in ("../x", "/x", "a/../../x", "..", "", ".")),
        *((tag, "as .*/file is a file") for tag in ("file", "file/x")),
        ("projector_config.pbtxt", "is a file"),
        *((tag, "the files of embedding 'c' lie there") for tag in ("{c}", "{c}/x")),
    ],
)
def test_tag_that_can_be_no_folder_of_the_log_is_refused_and_nothing_is_written(
    tag, words, tmp_path
):
    with SummaryWriter(tmp_path / "log") as sw:
        sw.add_embedding("c/metadata.tsv", np.eye(2))
        sw.add_embedding("c", np.eye(2))
        (tmp_path / "log" / "file").touch()
        tag = tag.format(c=Projected(tmp_path / "log", "c").entry.tensor_path.rpartition("/")[0])
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(ValueError, match=words):
            sw.add_embedding(tag, np.eye(2))
    assert sorted(tmp_path.rglob("*")) == before


def test_embeddings_that_are_logged_at_once_are_all_listed(tmp_path):
    code = f"""
import sys
import numpy as np
import mxcompat
from mxboard import SummaryWriter
with SummaryWriter({str(tmp_path)!r}) as sw:
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(10):
        sw.add_embedding(f"{{sys.argv[1]}}_{{number}}", np.eye(3))
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    others = [
        subprocess.Popen([sys.executable, "-c", code, name], cwd=ROOT, env=script_env(), **pipes)
        for name in "ab"
    ]
    for other in others:
        other.stdout.readline()
    with SummaryWriter(tmp_path) as sw:
        threads = [
            threading.Thread(target=sw.add_embedding, args=(f"thread_{number}", np.eye(3)))
            for number in range(8)
        ]
        for other in others:
            other.stdin.write("\n")
            other.stdin.flush()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for other in others:
            other.communicate(timeout=60)
    config = read_projector_config(tmp_path)
    expected = {f"{name}_{number}" for name in "ab" for number in range(10)}
    expected |= {f"thread_{number}" for number in range(8)}
    assert {each.tensor_name for each in config.embeddings} == expected
    assert all((tmp_path / each.tensor_path).exists() for each in config.embeddings)


RELOG = """
import itertools, sys
import numpy as np
import mxcompat
from mxboard import SummaryWriter
with SummaryWriter(sys.argv[1]) as sw:
    for number in itertools.count():
        images = np.full((50, 1, 8, 8), number % 256, np.uint8)
        sw.add_embedding("x", np.full((50, 2), -number - 1.0), [number] * 50, images)
        print(number, flush=True)
"""


@pytest.mark.parametrize("after", [1, 2, 5, 9])
def test_process_that_is_killed_while_it_logs_a_tag_again_leaves_no_mixture(after, tmp_path):
    command = [sys.executable, "-c", RELOG, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=script_env()) as process:
        for _ in range(after):
            process.stdout.readline()
        process.kill()
    projected = Projected(tmp_path, "x")
    numbers = -projected.vectors[:, 0] - 1
    assert list(map(float, projected.labels)) == numbers.tolist() == [numbers[0]] * 50
    assert abs(projected.sprites[:50].astype(int) - numbers[0] % 256).max() <= 2
    with SummaryWriter(tmp_path) as sw:
        sw.add_embedding("x", np.eye(2))
    assert (Projected(tmp_path, "x").vectors == np.eye(2)).all()
