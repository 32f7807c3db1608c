"""What TensorBoard's projector reads: vectors, their labels and pictures, and a list of all."""

import errno
import os
import re
import secrets
import shutil
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from tensorboard.plugins.projector.metadata import PROJECTOR_FILENAME
from tensorboard.plugins.projector.projector_config_pb2 import EmbeddingInfo, ProjectorConfig

from .files import locked, part_folder, read_file
from .images import encode, fit_sprites, make_grid

METADATA, SPRITES = "metadata.tsv", "sprite.jpg"
OUR_FILES = {METADATA, SPRITES, "sprite.png", "tensors.tsv", "tensors.bytes"}
ROWS = (list, tuple, np.ndarray)  # what a row of a table of labels may be


def save_embedding(logdir, name, vectors, table=None, pixels=None):
    """Write an embedding to a log, and list it there in place of an earlier one of its name.

    Vectors are (N, D) float32, the table is N rows of cells after a header if it has several
    columns, pixels are (N, C, H, W) uint8.
    """
    logdir, files = Path(logdir), {}
    # The files of a call lie in a folder of its own, which the list changes to at once: there is no
    # moment at which the projector could read the vectors of one call and the labels of another.
    folder = f"{name}/{secrets.token_hex(4)}"
    entry = EmbeddingInfo(tensor_name=name, tensor_shape=vectors.shape)
    file_name, content = _encode_vectors(vectors)
    entry.tensor_path = f"{folder}/{file_name}"
    files[file_name] = content
    if table is not None:
        entry.metadata_path = f"{folder}/{METADATA}"
        files[METADATA] = _encode_table(table)
    if pixels is not None:
        sprites, columns = fit_sprites(pixels)
        height, width = sprites.shape[2:]
        entry.sprite.image_path = f"{folder}/{SPRITES}"
        entry.sprite.single_image_dim.extend([width, height])
        files[SPRITES] = encode(make_grid(sprites, columns, rows=columns, padding=0), ".jpg")

    with part_folder(logdir) as part:
        (part / "files").mkdir()
        for file_name, content in files.items():
            (part / "files" / file_name).write_bytes(content)
        with locked(logdir):
            config = _list_embedding(entry, logdir / PROJECTOR_FILENAME)
            (part / PROJECTOR_FILENAME).write_bytes(config)
            (logdir / name).mkdir(parents=True, exist_ok=True)
            os.rename(part / "files", logdir / folder)
            os.replace(part / PROJECTOR_FILENAME, logdir / PROJECTOR_FILENAME)
            _remove_others(logdir / folder)


def _remove_others(folder):
    """Remove what earlier calls, and killed ones, left beside a folder of files."""
    for path in folder.parent.iterdir():
        if re.fullmatch("[0-9a-f]{8}", path.name) and path != folder:
            shutil.rmtree(path, ignore_errors=True)
        elif path.name in OUR_FILES:  # MXBoard's, and ours from when calls had no folder
            path.unlink()


def to_table(subject, labels, count):
    """Return labels as rows of the projector's table, its header first if it has one."""
    labels = list(labels.asnumpy() if hasattr(labels, "asnumpy") else labels)
    is_table = any(isinstance(label, ROWS) for label in labels)
    rows = [list(label) if isinstance(label, ROWS) else [label] for label in labels]
    columns = {len(row) for row in rows}
    has_header = is_table and len(rows) == count + 1
    if not (
        (has_header and len(columns) == 1 or len(rows) == count and columns == {1})
        and all(row and not isinstance(row[0], ROWS) for row in rows)
    ):
        raise ValueError(
            f"{subject}: labels are {count}, or {count + 1} rows of a table whose first "
            f"names the columns, not {len(rows)} of {sorted(columns)}"
        )
    # The projector skips empty lines, so that every label after one would move up.
    rows = [[" ".join(str(cell).split()) or "-" for cell in row] for row in rows]
    if has_header and len(set(rows[0])) < len(rows[0]):
        raise ValueError(f"{subject}: two columns of labels have one name, in {rows[0]}")
    # One column has no header: the projector would take it for the first label.
    return rows[1:] if has_header and columns == {1} else rows


def _encode_vectors(vectors):
    """Encode (N, D) little-endian float32 for TensorBoard; return a file name and the content.

    Raw, unless that would pass for text: TensorBoard takes a file for text if its first line is
    UTF-8, as that of all-zero vectors is.
    """
    raw = vectors.reshape(-1).view(np.uint8).data  # no copy: vectors may fill half of the memory
    first_line = re.match(rb"[\r\n]*([^\r\n]*)", raw)[1]
    try:
        first_line.decode()
    except UnicodeDecodeError:
        return "tensors.bytes", raw
    lines = ("\t".join(map(str, vector)) + "\n" for vector in vectors.tolist())
    return "tensors.tsv", "".join(lines).encode()


def _encode_table(table):
    """Encode a table of labels, one line per row, tabs between the cells."""
    # A name that comes from the file system may hold bytes that are no text.
    return "".join("\t".join(row) + "\n" for row in table).encode(errors="replace")


def _list_embedding(entry, path):
    """Return a log's list of embeddings, read from `path`, with this entry in it once.

    It keeps what a user added to an earlier entry of its name: bookmarks, labels and pictures in
    files that are not ours.
    """
    config = ProjectorConfig()
    if path.exists():
        try:
            text_format.Parse(read_file(path), config)
        except (text_format.ParseError, UnicodeDecodeError) as error:
            message = "not a list of embeddings that TensorBoard could read: delete it"
            raise OSError(errno.EINVAL, message, str(path)) from error
    name, others, listed = entry.tensor_name, [], EmbeddingInfo()
    for each in config.embeddings:
        if each.tensor_name == name:
            listed.MergeFrom(each)
        else:
            others.append(each)
    listed.ClearField("tensor_shape")
    if _is_ours(listed.metadata_path, name):
        listed.ClearField("metadata_path")
    if entry.HasField("sprite") or _is_ours(listed.sprite.image_path, name):
        listed.ClearField("sprite")
    listed.MergeFrom(entry)
    config.ClearField("embeddings")
    config.embeddings.extend([*others, listed])
    return text_format.MessageToString(config).encode()


def _is_ours(path, name):
    return path.startswith(f"{name}/") and path.rpartition("/")[2] in OUR_FILES
