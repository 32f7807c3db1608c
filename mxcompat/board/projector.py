"""Files for TensorBoard's projector: vectors, their labels and pictures, and a list of all."""

import errno
import os
import re
import secrets
import shutil
from os.path import dirname
from pathlib import Path, PurePosixPath

import numpy as np
from google.protobuf import text_format
from tensorboard.plugins.projector.metadata import PROJECTOR_FILENAME
from tensorboard.plugins.projector.projector_config_pb2 import EmbeddingInfo, ProjectorConfig

from .files import locked, part_folder
from .images import encode, fit_sprites, make_grid
from .summary import to_numbers

ROWS = (list, tuple, np.ndarray)  # types of a row of a table of labels


def save_embedding(logdir, name, vectors, table=None, pixels=None):
    """Write an embedding to a log, and list it there in place of an earlier one of its name.

    The arguments are what `to_vectors`, `to_table` and `to_pixels` return.
    """
    # The files of each call lie in a new folder, which the list changes to at once: at no moment
    # could the projector read the vectors of one call and the labels of another.
    logdir, folder = Path(logdir), f"{name}/{secrets.token_hex(4)}"
    file_name, content = _encode_vectors(vectors)
    files = {file_name: content}
    path = f"{folder}/{file_name}"
    entry = EmbeddingInfo(tensor_name=name, tensor_path=path, tensor_shape=vectors.shape)
    if table is not None:
        lines = "".join("\t".join(row) + "\n" for row in table)
        files["metadata.tsv"] = lines.encode(errors="replace")  # names of files may be no text
        entry.metadata_path = f"{folder}/metadata.tsv"
    if pixels is not None:
        sprites, columns = fit_sprites(pixels)
        files["sprite.jpg"] = encode(make_grid(sprites, columns, rows=columns, padding=0), ".jpg")
        entry.sprite.image_path = f"{folder}/sprite.jpg"
        entry.sprite.single_image_dim.extend(sprites.shape[:1:-1])

    with part_folder(logdir) as part:
        (part / "files").mkdir()
        for file_name, content in files.items():
            (part / "files" / file_name).write_bytes(content)
        with locked(logdir):
            config, replaced = _list_embedding(entry, logdir / PROJECTOR_FILENAME)
            (part / PROJECTOR_FILENAME).write_text(text_format.MessageToString(config))
            (logdir / name).mkdir(parents=True, exist_ok=True)
            os.rename(part / "files", logdir / folder)
            os.replace(part / PROJECTOR_FILENAME, logdir / PROJECTOR_FILENAME)
    if replaced is not None:
        shutil.rmtree(logdir / replaced, ignore_errors=True)  # follows no link


def to_vectors(subject, embedding):
    """Convert an embedding to the (N, D) little-endian float32 that the projector takes."""
    vectors = to_numbers(subject, embedding)
    if vectors.ndim != 2 or min(vectors.shape) < 2:
        raise ValueError(f"{subject}: expected (N, D), both 2 or more, not {vectors.shape}")
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(vectors, "<f4")
    lost = np.count_nonzero(~np.isfinite(vectors).all(axis=1))
    if lost:  # The projector would show none of them.
        raise ValueError(f"{subject}: {lost} of {len(vectors)} vectors hold NaN or infinity")
    return vectors


def to_table(subject, labels, count):
    """Return labels as rows of the projector's table, its header first if it has one."""
    labels = list(labels.asnumpy() if hasattr(labels, "asnumpy") else labels)
    rows = [list(label) if isinstance(label, ROWS) else [label] for label in labels]
    columns = {len(row) for row in rows}
    has_header = len(rows) == count + 1 and any(isinstance(label, ROWS) for label in labels)
    if not (has_header and len(columns) == 1 or len(rows) == count and columns == {1}):
        expected = f"{count}, or {count + 1} rows of a table whose first names the columns"
        raise ValueError(f"{subject}: labels are {expected}, not {len(rows)} of {sorted(columns)}")
    # The projector skips empty lines, so that every label after one would move up.
    rows = [[" ".join(str(cell).split()) or "-" for cell in row] for row in rows]
    if has_header and len(set(rows[0])) < len(rows[0]):
        raise ValueError(f"{subject}: two columns of labels have one name, in {rows[0]}")
    # One column has no header: the projector would take it for the first label.
    return rows[1:] if has_header and columns == {1} else rows


def _encode_vectors(vectors):
    """Return the name of a file of (N, D) little-endian float32, and its content."""
    # Raw, unless TensorBoard would take it for text: as it does if the first line is UTF-8, which
    # that of all-zero vectors is. Not copied, as vectors may fill half of the memory.
    raw = vectors.reshape(-1).view(np.uint8).data
    try:
        re.match(rb"[\r\n]*([^\r\n]*)", raw)[1].decode()
    except UnicodeDecodeError:
        return "tensors.bytes", raw
    lines = ("\t".join(map(str, vector)) + "\n" for vector in vectors.tolist())
    return "tensors.tsv", "".join(lines).encode()


def _list_embedding(entry, path):
    """Return a log's list of embeddings with an entry in it, and the folder that it replaces."""
    config = ProjectorConfig()
    if path.exists():
        try:
            text_format.Parse(path.read_bytes(), config)
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise OSError(errno.EINVAL, "no list of embeddings: delete it", str(path)) from error
    tag = PurePosixPath(entry.tensor_name)
    others, listed = [], EmbeddingInfo()
    for each in config.embeddings:
        if each.tensor_name == entry.tensor_name:
            listed = each  # the last one, for MXBoard lists one per call
        elif _own_folder(each) in (tag, *tag.parents):
            raise ValueError(f"{str(tag)!r}: the files of embedding {each.tensor_name!r} lie there")
        else:
            others.append(each)
    # Bookmarks stay, and so do labels and pictures that a user put elsewhere.
    replaced, folder = _own_folder(listed), dirname(listed.tensor_path)
    listed.ClearField("tensor_shape")
    if dirname(listed.metadata_path) == folder:
        listed.ClearField("metadata_path")
    if entry.HasField("sprite") or dirname(listed.sprite.image_path) == folder:
        listed.ClearField("sprite")
    listed.MergeFrom(entry)
    config.ClearField("embeddings")
    config.embeddings.extend([*others, listed])
    return config, replaced


def _own_folder(entry):
    """Return the folder of an entry's vectors if it lies in the folder of its tag, or else None."""
    folder = PurePosixPath(entry.tensor_path).parent
    is_own = folder.parent == PurePosixPath(entry.tensor_name) and folder.name not in ("", "..")
    return folder if is_own else None
