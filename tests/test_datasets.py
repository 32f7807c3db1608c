import gzip
import hashlib
import os
import re
import shutil
import tarfile

from mxcompat.downloads import FILES, DamagedError, File, Files

import cv2
import numpy as np
import pytest
from helpers import centers, encode, paint, write_folder, write_rec

from common.datasets import load_mnist, load_output_names, load_picture, load_pictures

SHAPE = (3, 32, 48)
SYNSETS = ["mine", "n02102040", "n03028079"]


@pytest.fixture
def offline(tmp_path):
    (tmp_path / "data").mkdir()
    return Files(tmp_path / "data", offline=True)


@pytest.fixture
def with_synsets(real, offline):
    (offline.folder / "synset.txt").write_bytes((real / "synset.txt").read_bytes())
    return offline


@pytest.mark.parametrize("how", ["packed", "unpacked"])
def test_mnist_comes_in_its_own_order_with_its_labels(how, real, offline):
    for path in (real / "mnist").iterdir():
        if how == "packed":
            shutil.copy(path, offline.folder)
        else:
            (offline.folder / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    (images, labels), (test_images, test_labels), source = load_mnist(offline)
    assert images.shape == (60_000, 28, 28) and test_images.shape == (10_000, 28, 28)
    assert images.dtype == np.uint8 and labels.dtype == test_labels.dtype == np.int32
    # The first digits, and the share of ink, as published: a mean of 0.1307.
    assert (labels[:5].tolist(), test_labels[:5].tolist()) == ([5, 0, 4, 1, 9], [7, 2, 1, 0, 4])
    assert images.mean() / 255 == pytest.approx(0.1307, abs=1e-4)
    assert source.startswith("MNIST: ") and "60,000 to train on and 10,000 to test" in source


@pytest.mark.parametrize(
    ("name", "load", "source"),
    [
        ("train-images-idx3-ubyte.gz", lambda files: load_mnist(files)[2], "Not MNIST"),
        ("imagenet_swan.ndarray", lambda files: load_picture(None, files)[1], "No photograph"),
        ("imagenette2-320.tgz", lambda f: load_pictures(None, SHAPE, f).source, "No photographs"),
    ],
)
def test_stand_in_is_called_one_and_is_none_for_what_is_damaged(
    name, load, source, offline, capsys
):
    assert load(offline).startswith(f"**{source}:** ")
    (line,) = capsys.readouterr().err.splitlines()
    assert "(--offline)" in line and re.search(r"synthetic .* instead$", line)
    (offline.folder / name).write_bytes(b"half")
    with pytest.raises(DamagedError, match=name):
        load(offline)


@pytest.mark.parametrize("height, width", [(500, 300), (300, 500), (20, 30)])
def test_own_picture_is_shown_as_large_a_center_square_as_it_has(height, width, offline, tmp_path):
    y, x = np.linspace(0, 200, height)[:, None], np.linspace(0, 200, width)
    picture = np.stack([y + 0 * x, 0 * y + x, 200 - (y + x) / 2], axis=2).astype(np.uint8)
    (tmp_path / "photo.png").write_bytes(encode(picture))
    shown, source = load_picture(tmp_path / "photo.png", offline)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = picture[top : top + side, left : left + side]
    method = cv2.INTER_AREA if side > 224 else cv2.INTER_LINEAR
    expected = cv2.resize(square, (224, 224), interpolation=method)
    assert abs(shown.transpose(1, 2, 0).astype(int) - expected).max() <= 1
    assert "photo.png" in source


@pytest.fixture
def write_archive(monkeypatch, tmp_path):
    """Write an archive of pictures in folders, like Imagenette's."""

    def write(folder, pictures, names):
        path = folder / "imagenette2-320.tgz"
        with tarfile.open(path, "w:gz") as tar:
            tar.add(write_folder(tmp_path / "source", pictures, names), "imagenette2-320")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setitem(FILES, path.name, File("", (), path.stat().st_size, digest))

    return write


def test_validation_pictures_of_imagenette_are_unpacked_once(write_archive, offline, capsys):
    names = ["val/n02102040", "val/n03028079", "train/n02102040", "val/n02102040"]
    write_archive(offline.folder, map(encode, paint(4)), names)
    pictures = load_pictures(None, SHAPE, offline)
    assert pictures.classes == SYNSETS[1:] and "Imagenette" in pictures.source
    assert ([image for image, _ in pictures] == centers(paint(4))[[0, 3, 1]]).all()
    assert [label for _, label in pictures] == [0, 0, 1]
    assert "synset.txt" in capsys.readouterr().err
    assert sorted(os.listdir(offline.folder)) == ["imagenette2-320", "imagenette2-320.tgz"]
    assert os.listdir(offline.folder / "imagenette2-320") == ["val"]
    (offline.folder / "imagenette2-320.tgz").unlink()
    assert len(load_pictures(None, SHAPE, offline)) == 3


def test_archive_that_does_not_fit_the_disk_is_not_taken_for_unpacked(write_archive, small_disk):
    write_archive(small_disk, [bytes(30_000)] * 9, ["val/n02102040"] * 9)
    with pytest.raises(OSError, match="No space left on device") as raised:
        load_pictures(None, SHAPE, Files(small_disk, offline=True))
    assert raised.value.filename == str(small_disk)
    assert os.listdir(small_disk) == ["imagenette2-320.tgz"]


def test_folders_named_like_synsets_take_their_names_from_synset_txt(with_synsets, tmp_path):
    folder = write_folder(tmp_path / "pictures", map(encode, paint(3)), SYNSETS)
    assert load_pictures(folder, SHAPE, with_synsets).classes == [
        "mine",
        "n02102040 English springer, English springer spaniel",
        "n03028079 church, church building",
    ]


def test_folders_named_like_synsets_keep_their_ids_without_synset_txt(offline, tmp_path, capsys):
    folder = write_folder(tmp_path / "pictures", map(encode, paint(3)), SYNSETS)
    assert load_pictures(folder, SHAPE, offline).classes == SYNSETS
    assert load_output_names(None, 1000, offline) == []  # said once
    (line,) = capsys.readouterr().err.splitlines()
    assert "synset.txt" in line and "ids" in line


def test_outputs_are_imagenets_classes_only_if_there_are_a_thousand(with_synsets, tmp_path):
    names = load_output_names(None, 1000, with_synsets)
    assert len(names) == 1000 and names[0] == "n01440764 tench, Tinca tinca"
    assert load_output_names(None, 999, with_synsets) == []
    (tmp_path / "mine.txt").write_text("\ufeffred ant\nbee\n", "utf-8")
    assert load_output_names(tmp_path / "mine.txt", 2, with_synsets) == ["red ant", "bee"]


def test_file_of_any_name_is_of_records_whose_labels_have_no_names(offline, tmp_path):
    path = write_rec(tmp_path / "records", map(encode, paint(2)), [1, 0])
    pictures = load_pictures(path, SHAPE, offline)
    assert [label for _, label in pictures] == [1, 0] and pictures.classes == []
