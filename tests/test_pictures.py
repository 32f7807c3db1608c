import os
import sys

import cv2
import numpy as np
import pytest
from helpers import centers, encode, paint, run, write_folder, write_rec

from common.errors import ScriptError
from common.pictures import (
    PictureFolder,
    PictureRecords,
    SyntheticPictures,
    crop,
    name_labels,
    shrink,
    stack_readable,
)
from common.synthetic import CLASSES, draw_class

SHAPE = (3, 32, 48)
NAMES = ["cat", "ant", "cat", "bee"]


def noise(height, width):
    return np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)


def gradient(height, width):
    """Paint a picture that is smooth enough to scale without a trace."""
    y, x = np.linspace(0, 200, height)[:, None], np.linspace(0, 200, width)
    return np.stack([y + 0 * x, 0 * y + x, 200 - (y + x) / 2], axis=2).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "zoo", map(encode, paint(4)), NAMES)


def test_picture_that_just_covers_the_shape_is_cropped_to_its_exact_center():
    tall, wide = noise(301, 224), noise(224, 356)
    assert (crop(tall, 224, 224) == tall[38:262].transpose(2, 0, 1)).all()
    assert (crop(wide, 224, 224) == wide[:, 66:290].transpose(2, 0, 1)).all()


@pytest.mark.parametrize("height, width", [(256, 341), (1024, 512), (100, 80), (28, 60)])
def test_any_other_picture_shows_seven_eighths_of_its_shorter_edge(height, width):
    picture = gradient(height, width)
    scale = 256 / min(height, width)
    size = (round(width * scale), round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(picture, size, interpolation=method)
    top, left = (size[1] - 224) // 2, (size[0] - 224) // 2
    expected = scaled[top : top + 224, left : left + 224].transpose(2, 0, 1)
    difference = crop(picture, 224, 224).astype(int) - expected
    assert abs(difference[:, 8:-8, 8:-8]).max() <= 2


def test_narrow_strip_does_not_fill_the_memory_and_fine_patterns_are_averaged():
    assert crop(gradient(1, 60_000), 224, 224).shape == (3, 224, 224)
    assert crop(gradient(60_000, 1), 10, 224).shape == (3, 10, 224)
    stripes = np.zeros((1000, 1000, 3), np.uint8)
    stripes[::2] = 255
    assert abs(crop(stripes, 224, 224).astype(int) - 127).max() < 60


def test_thumbnails_are_the_means_of_what_they_shrink():
    images = noise(64, 2 * 64 * 3).reshape(2, 3, 64, 64, 3)[..., 0]
    means = images.reshape(2, 3, 16, 4, 16, 4).mean(axis=(3, 5))
    thumbnails = shrink(images, 16)
    assert thumbnails.dtype == np.uint8 and abs(thumbnails - means).max() <= 0.51


@pytest.mark.parametrize("channels", [3, 1])
def test_folder_gives_each_picture_with_its_class_in_the_order_of_their_names(channels, folder):
    pictures = PictureFolder(folder, (channels, 32, 48))
    images, labels = stack_readable(list(pictures))
    assert (pictures.classes, labels.tolist()) == (["ant", "bee", "cat"], [0, 1, 2, 2])
    expected = centers(paint(4))[[1, 3, 0, 2]].astype(float)
    if channels == 1:  # the luminance
        expected = np.einsum("nchw,c->nhw", expected, [0.299, 0.587, 0.114])[:, None]
    assert images.dtype == np.uint8 and images.shape == expected.shape
    assert abs(images - expected).max() <= (0 if channels == 3 else 1)


def test_gray_transparent_and_deep_pictures_keep_their_colors(tmp_path):
    red, green, blue = 180, 120, 60
    bgra = np.full((32, 48, 4), (blue, green, red, 128), np.uint8)
    deep = np.full((32, 48, 3), (blue, green, red), np.uint16) * 257
    gray = np.full((32, 48), 90, np.uint8)
    for name, pixels in {"1.png": gray, "2.png": bgra, "3.png": deep, "4.tiff": deep}.items():
        cv2.imwrite(str(tmp_path / name), pixels)
    cv2.imwrite(str(tmp_path / "5.JPEG"), bgra[..., :3])
    images, _ = stack_readable(list(PictureFolder(tmp_path, SHAPE)))
    expected = np.reshape([[90] * 3] + [[red, green, blue]] * 4, (5, 3, 1, 1))
    assert abs(images - expected).max() <= 3


@pytest.mark.parametrize(
    ("files", "classes"),
    [
        (["1"], ["caf\ufffd"]),
        (["cat/1", "cat/deep/er/2", ".git/3", "cat/.cache/4", "cat/._5"], ["cat", "cat"]),
        (
            ["nette/val/n02440764/1", "nette/train/n02440764/2", "woof/val/n02086240/3", "woof/4"],
            ["n02440764", "n02440764", "woof", "n02086240"],
        ),
    ],
)
def test_class_is_the_wordnet_number_or_the_first_folder(files, classes, tmp_path, monkeypatch):
    root = tmp_path / os.fsdecode(b"caf\xe9")
    for name in files:
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(paint(1)[0]))
    assert PictureFolder(root, SHAPE).source == f"`{tmp_path}/caf\ufffd`."
    monkeypatch.chdir(root)
    pictures = PictureFolder(".", SHAPE)
    assert pictures.classes == sorted(set(classes))
    assert [pictures.classes[label] for _, label in pictures] == classes


def test_class_can_be_a_link_but_a_link_in_it_is_not_followed(folder, tmp_path):
    write_folder(tmp_path / "elsewhere", [encode(paint(1)[0])], ["dogs"])
    (folder / "dog").symlink_to(tmp_path / "elsewhere" / "dogs")
    (folder / "cat" / "round").symlink_to(folder)
    assert len(PictureFolder(folder, SHAPE)) == 5


def test_unreadable_pictures_are_left_out_counted_and_named(folder, capsys):
    # OpenCV reads no picture that is wider than 2**20 pixels.
    contents = {"half": encode(noise(32, 48))[:2000], "none": b"", "wide": b"P5 2000000 1 255\n"}
    for name, content in contents.items():
        (folder / "ant" / f"{name}.png").write_bytes(content)
    (folder / "bee" / "zero.gif").write_bytes(bytes(100))
    (folder / "bee" / "notes.txt").write_text("no picture")
    pictures = PictureFolder(folder, SHAPE)
    _, labels = stack_readable(list(pictures))
    assert [pictures.classes[n] for n in labels] == sorted(NAMES)
    pictures.report()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("left out: 4 (ant/half.png, ant/none.png, ant/wide.png, ...)")


def test_folder_without_pictures_is_an_error_that_names_it(tmp_path):
    (tmp_path / "empty" / "class").mkdir(parents=True)
    with pytest.raises(ScriptError, match="empty has no pictures"):
        PictureFolder(tmp_path / "empty", SHAPE)


def test_folder_that_cannot_be_read_is_an_error_that_names_it(folder, unprivileged):
    (folder / "cat").chmod(0)
    code = f"import mxcompat, common.pictures as p; p.PictureFolder({str(folder)!r}, {SHAPE})"
    result = run(*unprivileged, sys.executable, "-c", code)
    assert f"PermissionError: [Errno 13] Permission denied: '{folder}/cat'" in result.stderr


@pytest.mark.parametrize("index", [True, False])
def test_records_have_their_labels(index, tmp_path):
    labels = [7.0, 0.0, 999.0, np.array([3, 1, 2], np.float32), np.array([6], np.float32)]
    rec = write_rec(tmp_path / "val.rec", map(encode, paint(5)), labels, index)
    pictures = PictureRecords(rec, SHAPE)
    images, read = stack_readable([pictures[number] for number in (4, 0, 2, 1, 3)])
    assert (read.tolist(), read.dtype) == ([6, 7, 999, 0, 3], np.int64)
    assert (images == centers(paint(5))[[4, 0, 2, 1, 3]]).all()
    assert len(list(tmp_path.iterdir())) == 1 + index


@pytest.mark.parametrize(
    ("label", "expected", "words"),
    [
        ([2, 5, 1, 0.1, 0.2, 0.3, 0.4], 1, "the class of the first object is taken"),
        ([3, 6, 7, 1, 0, 0, 1, 1, 0], 1, "the class of the first object is taken"),
        ([7, 9], 7, "the first is taken"),
        ([2, 1, 5], 2, "the first is taken"),
        ([2, 5, 1, 0.1], 2, "the first is taken"),
        ([1, 5, 0, 0, 1, 1], 1, "the first is taken"),
    ],
)
def test_of_several_numbers_the_first_or_a_boxs_class_counts(
    label, expected, words, tmp_path, capsys
):
    rec = write_rec(tmp_path / "x", map(encode, paint(3)), [np.float32(label)] * 3)
    records = PictureRecords(rec, SHAPE)
    assert [label for _, label in records] == [expected] * 3
    records.report()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(words)


@pytest.mark.parametrize(
    ("name", "content"), [("x.rec", b""), ("x.rec", b"hello, world"), ("x.idx", b"hello, world")]
)
def test_damaged_file_of_records_is_an_error_that_names_it(name, content, tmp_path):
    rec = write_rec(tmp_path / "x.rec", map(encode, paint(5)), range(5), index=name == "x.idx")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ScriptError, match=rf"{name}.*(copy it again|holds no pictures)"):
        PictureRecords(rec, SHAPE)


def test_pointer_of_git_lfs_in_place_of_records_is_answered_with_its_own_command_alone(tmp_path):
    (tmp_path / "x.rec").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ScriptError, match="x.rec is a Git LFS pointer: run git lfs pull$"):
        PictureRecords(tmp_path / "x.rec", SHAPE)


def test_damaged_records_are_left_out_counted_and_named(tmp_path, capsys):
    contents = [encode(each) for each in paint(5)]
    contents[1], contents[2] = b"", b"no picture"
    rec = write_rec(tmp_path / "x.rec", contents, range(5), index=True)
    # Backwards, and the first one leads into the middle of a record.
    lines = (tmp_path / "x.idx").read_text().splitlines()[::-1]
    (tmp_path / "x.idx").write_text("\n".join(["4\t4", *lines[1:]]))
    pictures = PictureRecords(rec, SHAPE)
    assert stack_readable(list(pictures))[1].tolist() == [3, 0]
    pictures.report()
    assert "left out: 3 (record 0, record 1, record 2)" in capsys.readouterr().err


def test_synthetic_pictures_are_of_each_class_in_turn_and_all_different():
    pictures = SyntheticPictures("drawn", (3, 256, 256))
    count = len(CLASSES)
    assert len(pictures) == 2304 and pictures.classes == list(CLASSES)
    assert [pictures[number][1] for number in (0, 1, count)] == [0, 1, 0]
    drawn = draw_class(pictures.classes[0], [0, count]).transpose(2, 0, 1)
    assert (pictures[count][0] == drawn).all() and (pictures[0][0] != drawn).any()


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        ([2, 0, 2, 1], ["ant", "bee", "cow", "unused"], ["cow", "ant", "cow", "bee"]),
        ([-3, 0, 1, 2], ["ant", "bee", "cow"], ["-3", "ant", "bee", "cow"]),
        ([2, 0, 1, 1], ["ant", "bee"], ["2", "ant", "bee", "bee"]),
        ([500, 0, 9, 0], [], ["500", "0", "9", "0"]),
    ],
)
def test_labels_without_a_name_are_named_by_their_number(labels, classes, expected):
    numbers, names = name_labels(np.array(labels), classes)
    assert [names[number] for number in numbers] == expected and numbers.dtype == np.int32
