"""MNIST, the swan, Imagenette and the names of classes; or what takes their place."""

import functools
import gzip
import os
import re
import tarfile
from pathlib import Path

from mxcompat.board.files import part_folder
from mxcompat.downloads import UnavailableError
from mxcompat.old_downloads import MNIST

import numpy as np

import mxfiles

from .errors import ScriptError, warn
from .pictures import PictureFolder, PictureRecords, SyntheticPictures, crop, decode
from .synthetic import draw_mnist, draw_picture

PICTURE_SIDE = 224  # pixels: what networks trained on ImageNet look at
IMAGENETTE = "imagenette2-320"
IMAGENET_CLASSES = 1000


def fetch_or_warn(fetch, names, instead):
    """Return downloads by their names and "", or None and why; then warn what is done instead."""
    try:
        return fetch(*names), ""
    except UnavailableError as reason:
        warn(f"{reason}: {instead}")
        return None, str(reason)


def load_mnist(files):
    """Return (images, labels) to train on and to test with, and what they are, as Markdown.

    Images are (N, 28, 28) uint8, white on black; labels (N,) int32, 0 to 9.
    """
    paths, missing = [files.folder / name[: -len(".gz")] for name in MNIST], ""
    if not all(path.exists() for path in paths):  # as many have them, unpacked
        instead = "training on synthetic digits instead"
        paths, missing = fetch_or_warn(files.fetch, MNIST, instead)
    if missing:
        train_set, test_set = draw_mnist()
        name = f"**Not MNIST:** synthetic digits, because there is {missing}"
    else:
        arrays = [_read_idx(path) for path in paths]
        train_set, test_set = arrays[:2], arrays[2:]
        name = f"MNIST: handwritten digits, from `{files.folder}`"
    counts = f"{len(train_set[0]):,} to train on and {len(test_set[0]):,} to test with"
    return train_set, test_set, f"{name}; {counts}."


def _read_idx(path):
    """Return the images, (N, 28, 28) uint8, or labels, (N,) int32, in a file of MNIST's."""
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    rank = content[3]
    shape = np.frombuffer(content, ">i4", rank, offset=4)
    array = np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
    return array if rank > 1 else array.astype(np.int32)


def load_picture(path, files):
    """Return a picture, (3, 224, 224) uint8 RGB, and what it is, as Markdown.

    It is the center square of the user's own, or the published swan, or a drawn one.
    """
    if path is not None:
        pixels = decode(Path(path).read_bytes())
        if pixels is None:
            raise ScriptError(f"{path} is not a picture that OpenCV can read")
        return crop(pixels, PICTURE_SIDE, PICTURE_SIDE, center=1), f"The picture is `{path}`."
    paths, missing = fetch_or_warn(
        files.fetch, ["imagenet_swan.ndarray"], "showing a synthetic picture instead"
    )
    if missing:
        return draw_picture(PICTURE_SIDE), f"**No photograph:** the picture is drawn ({missing})."
    return mxfiles.load(paths[0])[0], "The picture is a swan from ImageNet."


def load_pictures(images, image_shape, files):
    """Return the pictures to encode: the user's own, Imagenette's, or synthetic ones.

    `images` is a RecordIO file, a folder with one subfolder per class, or None. Classes of a folder
    called like synsets get their names from synset.txt.
    """
    if images is not None and not os.path.isdir(images):
        return PictureRecords(images, image_shape)
    if images is not None:
        pictures = PictureFolder(images, image_shape)
    else:
        folder, missing = unpack_imagenette(files)
        if missing:
            source = f"**No photographs:** the pictures are drawn ({missing})."
            return SyntheticPictures(source, image_shape)
        pictures = PictureFolder(folder, image_shape, "Imagenette's validation pictures.")
    if any(re.fullmatch(r"n\d{8}", name) for name in pictures.classes):
        names = {line.split()[0]: line for line in load_synsets(files)}
        pictures.classes = [names.get(name, name) for name in pictures.classes]
    return pictures


def unpack_imagenette(files):
    """Return the folder of Imagenette's validation pictures, unpacked once, and "", or why not."""
    folder = files.folder / IMAGENETTE
    if not folder.exists():
        instead = "making codes of synthetic pictures instead"
        archives, missing = fetch_or_warn(files.fetch, [f"{IMAGENETTE}.tgz"], instead)
        if missing:
            return None, missing
        warn(f"unpacking {archives[0]}")
        with part_folder(files.folder) as part, tarfile.open(archives[0]) as tar:
            wanted = f"{IMAGENETTE}/val/"
            tar.extractall(part, (each for each in tar if each.name.startswith(wanted)))
            if not folder.exists():  # which another run may have made meanwhile
                os.replace(part / IMAGENETTE, folder)
    return folder / "val", ""


def load_output_names(class_file, outputs, files):
    """Return the classes that the user names, one per line, or ImageNet's for 1,000 outputs.

    Without outputs, the codes are no scores of classes.
    """
    if class_file is None:
        return load_synsets(files) if outputs == IMAGENET_CLASSES else []
    names = Path(class_file).read_text("utf-8-sig", errors="replace").splitlines()
    if outputs and len(names) != outputs:
        counts = f"{class_file} has {len(names)} names for {outputs} outputs"
        raise ScriptError(f"argument --classes: {counts}", status=2)
    return names


@functools.lru_cache
def load_synsets(files):
    """Return ImageNet's 1,000 classes, an id and names each, or none if they cannot be had."""
    instead = "classes go by their ids or numbers instead"
    paths, missing = fetch_or_warn(files.fetch, ["synset.txt"], instead)
    return [] if missing else paths[0].read_text(encoding="utf-8").splitlines()
