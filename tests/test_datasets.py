import gzip
import hashlib
import os
import shutil
import tarfile

from mxcompat.downloads import FILES, File, Files

import cv2
import numpy as np
import pytest
from helpers import assert_same_picture, centers, encode, paint, write_folder, write_rec

from common.datasets import load_mnist, load_output_names, load_picture, load_pictures

SHAPE = (3, 32, 48)
SYNSETS = ["mine", "n02102040", "n03028079"]


@pytest.fixture
def offline(tmp_path):
    (tmp_path / "data").mkdir()
    return Files(tmp_path / "data", offline=True)


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


@pytest.mark.parametrize("height, width", [(500, 300), (300, 500)])
def test_own_picture_is_shown_as_large_a_center_square_as_it_has(height, width, offline, tmp_path):
    picture = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
    (tmp_path / "photo.png").write_bytes(encode(picture))
    shown, _ = load_picture(tmp_path / "photo.png", offline)
    square = picture[100:400] if height > width else picture[:, 100:400]
    expected = cv2.resize(square, (224, 224), interpolation=cv2.INTER_AREA)
    assert_same_picture(shown.transpose(1, 2, 0), expected)


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


def test_folders_named_like_synsets_keep_their_ids_without_synset_txt(offline, tmp_path, capsys):
    folder = write_folder(tmp_path / "pictures", map(encode, paint(3)), SYNSETS)
    assert load_pictures(folder, SHAPE, offline).classes == SYNSETS
    assert load_output_names(None, 1000, offline) == []  # said once
    (line,) = capsys.readouterr().err.splitlines()
    assert "synset.txt" in line and "ids" in line


def test_names_of_the_outputs_are_the_lines_of_a_file(offline, tmp_path):
    (tmp_path / "mine.txt").write_text("\ufeffred ant\nbee\n", "utf-8")
    assert load_output_names(tmp_path / "mine.txt", 2, offline) == ["red ant", "bee"]


def test_file_of_any_name_is_of_records_whose_labels_have_no_names(offline, tmp_path):
    path = write_rec(tmp_path / "records", map(encode, paint(2)), [1, 0])
    pictures = load_pictures(path, SHAPE, offline)
    assert [label for _, label in pictures] == [1, 0] and pictures.classes == []
