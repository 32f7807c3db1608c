import hashlib
import io
import os
import struct
import subprocess
import sys
import tarfile
import time
import zlib

from common.datasets import (
    PictureFolder,
    PictureRecords,
    SyntheticPictures,
    crop,
    load_output_names,
    load_picture,
    load_pictures,
    name_labels,
    shrink,
    stack_readable,
    unpack_imagenette,
)
from common.errors import ScriptError
from common.fetch import FILES, File
from common.synthetic import CLASSES, draw_class

import cv2
import numpy as np
import pytest
from helpers import ROOT, centers, damage, encode, paint, script_env, write_folder, write_rec
from mxnet import gluon

SHAPE = (3, 32, 48)
NAMES = ["cat", "ant", "cat", "bee"]


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


def gradient(height, width):
    """Paint a picture that is smooth enough to scale without a trace."""
    y, x = np.linspace(0, 200, height)[:, None], np.linspace(0, 200, width)
    return np.stack([y + 0 * x, 0 * y + x, 200 - (y + x) / 2], axis=2).astype(np.uint8)


def write_pictures(folder, **pictures):
    folder.mkdir(exist_ok=True)
    for name, content in pictures.items():
        (folder / f"{name}.png").write_bytes(content)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "zoo", map(encode, paint(4)), NAMES)


def test_picture_that_just_covers_the_shape_is_cropped_to_its_exact_center():
    tall, wide = noise(301, 224), noise(224, 356)
    assert (crop(tall, 224, 224) == tall[38:262].transpose(2, 0, 1)).all()
    assert (crop(wide, 224, 224) == wide[:, 66:290].transpose(2, 0, 1)).all()


@pytest.mark.parametrize(
    "height, width", [(256, 341), (512, 700), (1024, 512), (100, 80), (28, 60)]
)
def test_any_other_picture_shows_seven_eighths_of_its_shorter_edge(height, width):
    picture = gradient(height, width)
    scale = 256 / min(height, width)
    size = (round(width * scale), round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(picture, size, interpolation=method)
    top, left = (size[1] - 224) // 2, (size[0] - 224) // 2
    expected = scaled[top : top + 224, left : left + 224].transpose(2, 0, 1)
    assert abs(crop(picture, 224, 224).astype(int) - expected).max() <= 6


def test_narrow_strip_does_not_fill_the_memory():
    assert crop(gradient(1, 60_000), 224, 224).shape == (3, 224, 224)


def test_fine_patterns_are_averaged_and_not_skipped_when_shrunk():
    stripes = np.zeros((1000, 1000, 3), np.uint8)
    stripes[::2] = 255
    assert abs(crop(stripes, 224, 224).astype(int) - 127).max() < 60


def test_thumbnails_are_the_means_of_what_they_shrink():
    images = noise(64, 2 * 64 * 3).reshape(2, 3, 64, 64, 3)[..., 0]
    means = images.reshape(2, 3, 16, 4, 16, 4).mean(axis=(3, 5))
    thumbnails = shrink(images, 16)
    assert thumbnails.dtype == np.uint8 and abs(thumbnails - means).max() <= 0.51


def test_folder_gives_each_picture_with_its_class_in_the_order_of_their_names(folder):
    pictures = PictureFolder(folder, SHAPE)
    assert pictures.classes == ["ant", "bee", "cat"] and len(pictures) == 4
    painted = paint(4)
    for index, number in enumerate((1, 3, 0, 2)):
        image, label = pictures[index]
        assert (image == crop(painted[number], 32, 48)).all() and image.dtype == np.uint8
        assert pictures.classes[label] == NAMES[number]


def test_loader_keeps_picture_and_label_together_in_any_order(folder):
    pictures = PictureFolder(folder, SHAPE)
    loader = gluon.data.DataLoader(
        pictures,
        3,
        sampler=[3, 0, 2, 1],
        batchify_fn=stack_readable,
        num_workers=2,
        thread_pool=True,
    )
    images, labels = (np.concatenate(arrays) for arrays in zip(*loader))
    assert [pictures.classes[label] for label in labels] == ["cat", "ant", "cat", "bee"]
    for image, index in zip(images, (3, 0, 2, 1)):
        assert (image == pictures[index][0]).all()


def test_gray_transparent_and_deep_pictures_keep_their_colors(tmp_path):
    red, green, blue = 180, 120, 60
    bgra = np.full((32, 48, 4), (blue, green, red, 128), np.uint8)
    deep = np.full((32, 48, 3), (blue, green, red), np.uint16) * 257
    gray = np.full((32, 48), 90, np.uint8)
    for name, pixels in {"1.png": gray, "2.png": bgra, "3.png": deep, "4.tiff": deep}.items():
        cv2.imwrite(str(tmp_path / name), pixels)
    cv2.imwrite(str(tmp_path / "5.JPEG"), bgra[..., :3])
    pictures = PictureFolder(tmp_path, SHAPE)
    expected = [(90, 90, 90)] + [(red, green, blue)] * 4
    for (image, _), color in zip(pictures, expected):
        assert abs(image.reshape(3, -1).T.astype(int) - color).max() <= 3


def test_picture_of_a_turned_camera_is_upright(tmp_path):
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:8, :8] = 255
    jpeg = encode(pixels, ".jpg")
    # TIFF's tag 0x112, Orientation: 3 means upside down.
    tiff = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x112, 3, 1, 3, 0)
    exif = b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff
    (tmp_path / "turned.jpg").write_bytes(jpeg[:2] + exif + jpeg[2:])
    image, _ = PictureFolder(tmp_path, SHAPE)[0]
    assert image[:, -1, -1].min() > 200 and image[:, 0, 0].max() < 50


def test_folder_without_subfolders_is_one_class_named_after_it(tmp_path, monkeypatch):
    write_pictures(tmp_path / "holiday", a=encode(paint(1)[0]))
    assert PictureFolder(tmp_path / "holiday", SHAPE).classes == ["holiday"]
    monkeypatch.chdir(tmp_path / "holiday")
    assert PictureFolder(".", SHAPE).classes == ["holiday"]


def test_class_has_what_lies_deeper_or_behind_a_link_but_nothing_hidden(tmp_path):
    pictures, content = tmp_path / "pictures", encode(paint(1)[0])
    for name in ("cat/1.png", "cat/deep/er/2.png", ".git/3.png", "cat/.cache/4.png", "cat/._1.png"):
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        (pictures / name).write_bytes(content)
    (pictures / "nothing").mkdir()
    write_pictures(tmp_path / "elsewhere", a=content)
    (pictures / "dog").symlink_to(tmp_path / "elsewhere")
    (pictures / "cat" / "round").symlink_to(pictures)
    found = PictureFolder(pictures, SHAPE)
    assert [found.classes[label] for _, label in found] == ["cat", "cat", "dog"]


def test_class_name_that_is_not_utf8_can_be_printed(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.mkdir(path)
    with open(f"{path}/1.png", "wb") as file:
        file.write(encode(paint(1)[0]))
    assert PictureFolder(path, SHAPE).classes == ["caf\ufffd"]
    assert PictureFolder(path, SHAPE)[0] is not None


def test_unreadable_pictures_are_left_out_counted_and_named(folder, capsys):
    whole = encode(noise(32, 48))
    write_pictures(folder / "ant", half=whole[: len(whole) // 2], none=b"", page=b"<html>")
    (folder / "bee" / "zero.gif").write_bytes(bytes(100))
    (folder / "bee" / "notes.txt").write_text("no picture")
    pictures = PictureFolder(folder, SHAPE)
    images, labels = stack_readable([pictures[index] for index in range(len(pictures))])
    assert images.shape == (4, *SHAPE) and [pictures.classes[n] for n in labels] == sorted(NAMES)
    pictures.report()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("left out: 4 (ant/half.png, ant/none.png, ant/page.png, ...)")


def test_folder_without_pictures_is_an_error_that_names_it(tmp_path):
    (tmp_path / "empty" / "class").mkdir(parents=True)
    with pytest.raises(ScriptError, match="empty has no pictures"):
        PictureFolder(tmp_path / "empty", SHAPE)


@pytest.mark.parametrize("index", [True, False])
def test_rec_made_elsewhere_is_served_with_its_labels_the_first_of_several(index, tmp_path):
    labels = [7.0, 0.0, 999.0, np.array([3, 1, 2], np.float32), np.array([6], np.float32)]
    rec = write_rec(tmp_path / "val.rec", map(encode, paint(5)), labels, index)
    pictures = PictureRecords(rec, [], SHAPE)
    images, read = stack_readable([pictures[number] for number in (4, 0, 2, 1, 3)])
    assert read.tolist() == [6, 7, 999, 0, 3]
    assert (images == [crop(paint(5)[number], 32, 48) for number in (4, 0, 2, 1, 3)]).all()
    assert len(list(tmp_path.iterdir())) == 1 + index


def test_record_that_contains_recordios_own_magic_number_is_whole(tmp_path):
    magic = np.frombuffer(struct.pack("<I", 0xCED7230A), np.uint8)
    picture = np.tile(magic, 32 * 48 * 3 // 4).reshape(32, 48, 3)
    # An uncompressed format, so that the number is in the record, at a multiple of 4 bytes.
    content = encode(picture, ".bmp")
    rec = write_rec(tmp_path / "x.rec", [content, encode(paint(1)[0])], [1, 2])
    image, label = PictureRecords(rec, [], SHAPE)[0]
    assert label == 1 and (image.transpose(1, 2, 0) == picture).all()


@pytest.mark.parametrize("how", ["empty", "half", "cut", "text"])
def test_file_that_is_no_whole_recordio_is_an_error_that_names_it(how, tmp_path):
    rec = write_rec(tmp_path / "x.rec", map(encode, paint(5)), range(5))
    damage(rec, how)
    with pytest.raises(ScriptError, match=r"x\.rec"):
        PictureRecords(rec, [], SHAPE)


@pytest.mark.parametrize("content", ["no index", "1\tx\n"])
def test_index_that_is_none_is_an_error_that_names_it(content, tmp_path):
    rec = write_rec(tmp_path / "x.rec", map(encode, paint(2)), range(2))
    (tmp_path / "x.idx").write_text(content)
    with pytest.raises(ScriptError, match=r"x\.idx"):
        PictureRecords(rec, [], SHAPE)


def test_damaged_records_are_left_out_counted_and_named(tmp_path, capsys):
    contents = [
        b"no picture" if number in (1, 3) else encode(each) for number, each in enumerate(paint(5))
    ]
    rec = write_rec(tmp_path / "x.rec", contents, range(5), index=True)
    # An index that leads into the middle of a record.
    lines = (tmp_path / "x.idx").read_text().splitlines()
    (tmp_path / "x.idx").write_text(
        "\n".join([*lines[:4], "4\t" + lines[4].split("\t")[1] + "1\n"])
    )
    pictures = PictureRecords(rec, [], SHAPE)
    _, labels = stack_readable([pictures[number] for number in range(5)])
    assert labels.tolist() == [0, 2]
    pictures.report()
    assert "3 (record 1, record 3, record 4)" in capsys.readouterr().err


def test_synthetic_pictures_are_of_each_class_in_turn():
    pictures = SyntheticPictures("drawn", (3, 256, 256))
    assert len(pictures) == 2304 and pictures.classes == list(CLASSES)
    for number in (0, 1, len(CLASSES)):
        image, label = pictures[number]
        assert label == number % len(CLASSES)
        drawn = draw_class(pictures.classes[label], [label, number])
        assert (image == drawn.transpose(2, 0, 1)).all()


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Write an archive like Imagenette's to the data folder."""
    data = tmp_path / "data"
    data.mkdir()
    with tarfile.open(data / "imagenette2-320.tgz", "w:gz") as tar:
        for number, each in enumerate(paint(6)):
            content = encode(each)
            part = ("val/n02102040", "val/n03028079", "train/n02102040")[number % 3]
            member = tarfile.TarInfo(f"imagenette2-320/{part}/{number}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    content = (data / "imagenette2-320.tgz").read_bytes()
    file = File("the tests", (), len(content), hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(FILES, "imagenette2-320.tgz", file)
    return data


def test_validation_pictures_of_imagenette_are_unpacked_once(archive, capsys):
    pictures = load_pictures(None, [], SHAPE, archive, offline=True)
    assert pictures.classes == ["n02102040", "n03028079"] and len(pictures) == 4
    assert (pictures[2][0] == crop(paint(6)[1], 32, 48)).all()
    assert "synset.txt" in capsys.readouterr().err
    assert sorted(path.name for path in archive.iterdir()) == [
        "imagenette2-320",
        "imagenette2-320.tgz",
    ]
    (archive / "imagenette2-320.tgz").unlink()
    assert len(load_pictures(None, [], SHAPE, archive, offline=True)) == 4


def test_unpacking_that_is_killed_halfway_is_not_taken_for_whole(archive, tmp_path):
    # Large enough to be killed on the way.
    with tarfile.open(archive / "imagenette2-320.tgz", "w") as tar:
        for number in range(5_000):
            tar.addfile(tarfile.TarInfo(f"imagenette2-320/val/n02102040/{number}.png"))
    content = (archive / "imagenette2-320.tgz").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    file = File("the tests", (), len(content), digest)
    code = f"""
from common import datasets, fetch
fetch.FILES["imagenette2-320.tgz"] = fetch.File("the tests", (), {len(content)}, {digest!r})
datasets.unpack_imagenette({str(archive)!r}, offline=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=script_env())
    while not list(archive.glob(".mxcompat-part-*/imagenette2-320/val/n02102040/99.png")):
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert not (archive / "imagenette2-320").exists()
    FILES["imagenette2-320.tgz"] = file
    assert len(list((unpack_imagenette(archive, offline=True) / "n02102040").iterdir())) == 5_000


SYNSETS = ["mine", "n02102040", "n03028079"]


def test_folders_named_like_synsets_take_their_names_from_synset_txt(real, tmp_path):
    folder = write_folder(tmp_path / "pictures", map(encode, paint(3)), SYNSETS)
    (tmp_path / "synset.txt").write_bytes((real / "synset.txt").read_bytes())
    assert load_pictures(folder, [], SHAPE, tmp_path, offline=True).classes == [
        "mine",
        "n02102040 English springer, English springer spaniel",
        "n03028079 church, church building",
    ]


def test_folders_named_like_synsets_keep_their_ids_without_synset_txt(tmp_path, capsys):
    folder = write_folder(tmp_path / "pictures", map(encode, paint(3)), SYNSETS)
    pictures = load_pictures(folder, [], SHAPE, tmp_path / "data", offline=True)
    assert pictures.classes == SYNSETS
    (line,) = capsys.readouterr().err.splitlines()
    assert "synset.txt" in line and "ids" in line


def test_outputs_are_imagenets_classes_only_if_there_are_a_thousand(real, tmp_path):
    (tmp_path / "synset.txt").write_bytes((real / "synset.txt").read_bytes())
    assert load_output_names(None, 1000, tmp_path)[0] == "n01440764 tench, Tinca tinca"
    assert load_output_names(None, 999, tmp_path) == []
    (tmp_path / "mine.txt").write_text("\ufeffant\nbee\n", "utf-8")
    assert load_output_names(tmp_path / "mine.txt", 1000, tmp_path) == ["ant", "bee"]


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        ([2, 0, 2, 1], ["ant", "bee", "cow", "unused"], ["cow", "ant", "cow", "bee"]),
        ([-3, 0, 1, 9], ["ant", "bee"], ["-3", "ant", "bee", "9"]),
        ([500, 0, 9, 0], [], ["500", "0", "9", "0"]),
    ],
    ids=["all named", "too few names", "no names"],
)
def test_labels_without_a_name_are_named_by_their_number(labels, classes, expected):
    numbers, names = name_labels(np.array(labels), classes)
    assert [names[number] for number in numbers] == expected and numbers.dtype == np.int32


@pytest.mark.parametrize("height, width", [(500, 300), (300, 500), (20, 30)])
def test_own_picture_is_shown_as_large_a_center_square_as_it_has(height, width, tmp_path):
    picture = gradient(height, width)
    (tmp_path / "photo.png").write_bytes(encode(picture))
    shown, source = load_picture(tmp_path / "photo.png", tmp_path)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = picture[top : top + side, left : left + side]
    method = cv2.INTER_AREA if side > 224 else cv2.INTER_LINEAR
    expected = cv2.resize(square, (224, 224), interpolation=method)
    assert abs(shown.transpose(1, 2, 0).astype(int) - expected).max() <= 1
    assert "photo.png" in source


def test_real_pictures_come_back_with_their_thumbnails_and_classes(real):
    pictures = PictureFolder(real / "imagenet_samples", (3, 224, 224))
    assert len(pictures) == len(pictures.classes) == 1000
    for index in range(0, 1000, 100):
        image, label = pictures[index]
        (path,) = (real / "imagenet_samples" / pictures.classes[label]).iterdir()
        expected = cv2.imread(str(path))[:, :, ::-1]
        top, left = (expected.shape[0] - 224) // 2, (expected.shape[1] - 224) // 2
        expected = expected[top : top + 224, left : left + 224].transpose(2, 0, 1)
        assert min(expected.shape[1:]) == 224 and (image == expected).all()
        assert not pictures.unreadable


def test_class_folder_that_cannot_be_read_is_counted_and_named(folder, unprivileged):
    (folder / "cat").chmod(0)
    code = f"""
from common.datasets import PictureFolder
pictures = PictureFolder({str(folder)!r}, {SHAPE})
print(pictures.classes)
pictures.report()
"""
    result = subprocess.run(
        [*unprivileged, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=script_env(),
    )
    assert result.stdout == "['ant', 'bee']\n", result.stderr
    assert "unreadable pictures left out: 1 (cat)" in result.stderr


@pytest.mark.parametrize("kind", ["fifo", "wide", "large"])
def test_picture_that_is_no_file_or_beyond_opencvs_limits_is_unreadable(kind, folder, capsys):
    path = folder / "bee" / "odd.png"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        height, width = {"wide": (1, 2_000_000), "large": (40_000, 40_000)}[kind]
        path.write_bytes(draw_empty_png(height, width))
    pictures = PictureFolder(folder, SHAPE)
    assert sum(pictures[index] is None for index in range(len(pictures))) == 1
    pictures.report()
    assert "unreadable pictures left out: 1 (bee/odd.png)" in capsys.readouterr().err
    with pytest.raises((ScriptError, OSError), match="odd.png"):
        load_picture(path, "nowhere")


def draw_empty_png(height, width):
    """Write a black picture of any size, which OpenCV itself would not."""

    def chunk(name, content):
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(-(-width // 8) + 1) * height, 1)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("label", "expected", "note"),
    [
        ([2, 5, 1, 0.1, 0.2, 0.3, 0.4], 1, "records of boxes: the class of the first object"),
        ([4, 6, 7, 8, 2, 0, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0], 2, "records of boxes"),
        ([1, 0, 3], 1, "labels of several numbers: the first is taken"),
        ([7, 9], 7, "labels of several numbers"),
    ],
)
def test_label_of_several_numbers_is_a_class_and_it_says_which(
    label, expected, note, tmp_path, capsys
):
    labels = [np.float32(label)] * 3
    rec = write_rec(tmp_path / "x.rec", map(encode, paint(3)), labels)
    records = PictureRecords(rec, [], (3, 32, 48))
    assert [records[number][1] for number in range(3)] == [expected] * 3
    records.report()
    (line,) = capsys.readouterr().err.splitlines()
    assert note in line


def test_records_without_a_picture_are_left_out_without_a_word(tmp_path, capsys):
    contents = [b"", encode(paint(1)[0]), b""]
    labels = [np.float32([3, 9]), 1, np.float32([3, 9])]
    records = PictureRecords(write_rec(tmp_path / "x.rec", contents, labels), [], (3, 32, 48))
    assert [records[number] is None for number in range(3)] == [True, False, True]
    records.report()
    assert capsys.readouterr().err == ""


def test_gray_pictures_are_the_luminance_of_colored_ones(tmp_path):
    pictures = paint(2)
    folder = write_folder(tmp_path / "x", map(encode, pictures), "ab")
    items = [PictureFolder(folder, (1, 32, 48))[number][0] for number in range(2)]
    expected = centers(pictures) * np.reshape([0.299, 0.587, 0.114], (3, 1, 1))
    assert abs(np.stack(items) - expected.sum(axis=1, keepdims=True)).max() <= 1
    assert shrink(np.stack(items), 8).shape == (2, 1, 8, 8)
