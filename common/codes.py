"""Codes on the disk, and what they say."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import NamedTuple, Optional

from mxcompat.board.files import atomic_write

import numpy as np

import mxfiles

from .errors import ScriptError

DEFAULT_MODEL = "imagenet1k-resnet-152"
ARRAYS = ("convnet_codes", "resized_images", "labels")
MOST_JUDGES = 2500  # pictures whose neighbors are looked at, evenly spread over all of them
SYNSET_ID = re.compile(r"n\d{8}\b\s*")  # that a line of synset.txt begins with


class Description(NamedTuple):
    """Facts about a set of codes, as its JSON file has them."""

    class_names: list  # of the pictures, by label
    pictures: str  # where they come from, as Markdown
    weights: str  # likewise
    precision: str  # "float32" or "int8"
    cosine: Optional[float]  # mean cosine of int8 and float32 codes
    seed: int
    is_output: bool  # whether a code is the network's own output
    trained: bool
    output_names: list  # classes that the network's outputs stand for, or none


def save_codes(data_dir, name, codes, thumbnails, labels, description):
    """Write a set of codes, whole or not at all: three arrays, and a JSON file with their sha256.

    Codes are (N, D) float32, thumbnails (N, 3, 64, 64) uint8 RGB, labels (N,) int32 that count the
    description's `class_names`.
    """
    os.makedirs(data_dir, exist_ok=True)
    with atomic_write(_paths(data_dir, name)) as (*array_paths, json_path):
        digests = {}
        for kind, path, array in zip(ARRAYS, array_paths, (codes, thumbnails, labels)):
            mxfiles.save(path, [array])
            digests[kind] = hashlib.sha256(path.read_bytes()).hexdigest()
        content = {**description._asdict(), "sha256": digests}
        json_path.write_text(json.dumps(content, indent=2) + "\n")


def load_codes(data_dir, name):
    """Return codes, thumbnails, labels and their description, as they were given to `save_codes`.

    Files that are missing, damaged or of different runs are a `ScriptError`.
    """
    *array_paths, json_path = paths = _paths(data_dir, name)
    if missing := [path.name for path in paths if not path.is_file()]:
        raise ScriptError(
            f"{' '.join(missing)} not in {data_dir}: run get_convnet_codes.py first, with the same "
            "--model and --data-dir"
        )
    try:
        content = json.loads(json_path.read_bytes())
        digests = content.pop("sha256")
    except ValueError as error:
        raise ScriptError(f"{json_path} is damaged: run get_convnet_codes.py again") from error
    arrays = []
    for path, kind in zip(array_paths, ARRAYS):
        encoded = path.read_bytes()  # once: another run may replace the file at any time
        if hashlib.sha256(encoded).hexdigest() != digests[kind]:
            raise ScriptError(
                f"{path} and {json_path.name} are of different runs, or one is damaged: "
                "run get_convnet_codes.py again"
            )
        arrays += mxfiles.load(encoded)
    return *arrays, Description(**content)


def _paths(data_dir, name):
    arrays = [Path(data_dir, f"{name}_{kind}.ndarray") for kind in ARRAYS]
    return [*arrays, Path(data_dir, f"{name}_codes.json")]


def tabulate(codes, labels, description):
    """Return a row of labels per picture, after the columns' names, and how many are right.

    Where codes are the scores of a trained classifier whose `output_names` are known, the columns
    are `name`, `predicted`, `confidence` (softmax) and `correct` (yes, no, or empty where the
    network was not trained on the picture's class); otherwise `name` alone.
    """
    classes, outputs = description.class_names, description.output_names
    names = [SYNSET_ID.sub("", classes[label]) for label in labels]
    known = description.is_output and description.trained
    if not known or len(outputs) != codes.shape[1]:
        return [["name"], *([name] for name in names)], None

    scores = codes - codes.max(axis=1, keepdims=True)
    confidence = 1 / np.exp(scores).sum(axis=1)
    predicted = codes.argmax(axis=1)
    output_keys = [_class_key(output) for output in outputs]
    learned, keys = set(output_keys), [_class_key(classes[label]) for label in labels]
    correct = [
        ("yes" if key == output_keys[guess] else "no") if key in learned else ""
        for key, guess in zip(keys, predicted)
    ]
    guesses = [SYNSET_ID.sub("", outputs[guess]) for guess in predicted]
    rows = zip(names, guesses, (f"{share:.4f}" for share in confidence), correct)
    judged = len(correct) - correct.count("")
    verdict = "no class of the network is named like these folders: predictions are not judged"
    if judged:
        verdict = f"{correct.count('yes') / judged:.1%} of {judged:,} pictures are named right."
    return [("name", "predicted", "confidence", "correct"), *rows], verdict


def _class_key(name):
    """Return what makes a class the same class elsewhere: its synset id, or else its name."""
    synset_id = SYNSET_ID.match(name)
    return synset_id[0].strip() if synset_id else name.strip()


def neighbor_precision(codes, labels, k):
    """Return the share of the k nearest neighbors that have a picture's class, and chance's.

    Neighbors are the nearest by cosine. Of more than MOST_JUDGES pictures an even sample is
    judged. Pictures that are alone in their class have no say; None if all are alone, or if there
    is one class only.
    """
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    judges = np.flatnonzero(sizes[classes] > 1)
    judges = judges[:: -(-len(judges) // MOST_JUDGES) or 1]  # or time would grow with the square
    if not len(judges) or len(sizes) == 1:
        return None
    k = min(k, len(codes) - 1)
    unit = codes / np.maximum(np.linalg.norm(codes, axis=1, keepdims=True), 1e-12)
    hits = 0
    for rows in np.array_split(judges, -(-len(judges) // 512)):  # not all N x N cosines at once
        cosines = unit[rows] @ unit.T
        cosines[np.arange(len(rows)), rows] = -np.inf
        nearest = np.argpartition(cosines, -k)[:, -k:]
        hits += (classes[nearest] == classes[rows, None]).sum()
    chance = (sizes[classes[judges]] - 1).mean() / (len(codes) - 1)
    return hits / (k * len(judges)), chance
