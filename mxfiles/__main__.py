"""List what is in a file of MXNet's, or take it out."""

import argparse
import os
import signal
import sys
from collections import Counter

import numpy as np

from .arrays import load, write_whole
from .records import MAGIC, Records

SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PN": ".png"}  # by the bytes that a picture begins with


def list_arrays(arrays):
    """Print name, dtype and shape of each array."""
    for name, each in arrays.items() if isinstance(arrays, dict) else enumerate(arrays):
        print(name, each.dtype, each.shape)


def save_arrays(arrays, path):
    """Save arrays for `numpy.load`; those without names as arr_0, arr_1 and so on."""
    with write_whole(path) as file:
        if isinstance(arrays, dict):
            np.savez(file, **arrays)
        else:
            np.savez(file, *arrays)


def describe(record):
    """Return the first label of a record, and the suffix of its data's kind."""
    label = float(np.ravel(record.label)[0])
    return int(label) if label.is_integer() else label, SUFFIXES.get(record.data[:3], ".bin")


def list_records(records):
    """Print how many records there are, and their labels and kinds."""
    print(f"{len(records):,} records")
    labels, suffixes = set(), Counter()
    for label, suffix in map(describe, records):
        labels.add(label)
        suffixes[suffix] += 1
    if labels:
        print(f"{len(labels):,} different labels, from {min(labels)} to {max(labels)}")
        print(", ".join(f"{count:,} {suffix}" for suffix, count in suffixes.most_common()))


def save_records(records, folder):
    """Write the data of each record, as it is, to FOLDER/LABEL/ID.jpg."""
    os.makedirs(folder)
    for number, record in enumerate(records):
        label, suffix = describe(record)
        path = os.path.join(folder, str(label), str(record.id))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.exists(path + suffix):  # In some files all records have the same id.
            path += f"_{number}"
        with open(path + suffix, "wb") as file:
            file.write(record.data)


def main():
    """Do as the command line says."""
    parser = argparse.ArgumentParser("python -m mxfiles", description=__doc__)
    parser.add_argument("file", help="arrays (.params), records (.rec) or the .idx beside them")
    parser.add_argument("-o", metavar="NET.npz|FOLDER", help="where to save arrays or records")
    args = parser.parse_args()
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # so that `| head` ends it quietly
    root, suffix = os.path.splitext(args.file)
    path = f"{root}.rec" if suffix == ".idx" else args.file
    try:
        with open(path, "rb") as file:
            is_records = path.endswith(".rec") or file.read(4) == MAGIC
        if is_records:
            save_records(Records(path), args.o) if args.o else list_records(Records(path))
        else:
            save_arrays(load(path), args.o) if args.o else list_arrays(load(path))
    except (OSError, ValueError) as error:
        sys.exit(f"{parser.prog}: error: {error}")


if __name__ == "__main__":
    main()
