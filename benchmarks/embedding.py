"""Measure an embedding for the projector: 2,304 codes of 1,000 numbers, with labels and sprites.

    python benchmarks/embedding.py

What counts is the time from the call until the log is closed; the files are then read as
TensorBoard would. With --quick, MXBoard must take five times as long as ours.
"""

import sys
import time

import cv2
import measure
import numpy as np
from google.protobuf import text_format
from log import OWN, PEERS, open_writer
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

COUNT, QUICK_COUNT, SIZE = 2304, 256, 1000


def make_codes(count):
    """Make codes (N, 1000) float32, labels, and thumbnails (N, 3, 64, 64) uint8."""
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(count, SIZE)).astype(np.float32)
    thumbnails = rng.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8).repeat(8, 2).repeat(8, 3)
    return codes, [f"class {number % 10}" for number in range(count)], thumbnails


def log(way, count, folder):
    """Log the embedding once."""
    codes, labels, thumbnails = make_codes(int(count))
    if way == "PyTorch":
        import torch

        codes, thumbnails = torch.from_numpy(codes), torch.from_numpy(thumbnails) / 255
    elif way == "tensorboardX":
        thumbnails = thumbnails / np.float32(255)
    sw = open_writer(way, folder)
    started = time.perf_counter()
    if way in ("PyTorch", "tensorboardX"):
        sw.add_embedding(codes, metadata=labels, label_img=thumbnails, tag="codes", global_step=1)
    else:
        sw.add_embedding("codes", codes, labels, thumbnails, 1)
    sw.close()
    print(time.perf_counter() - started)


def read(done):
    """Return the seconds, and the codes, labels and sprites that the projector gets."""
    text = (done.folder / "projector_config.pbtxt").read_text()
    (entry,) = text_format.Parse(text, ProjectorConfig()).embeddings
    path = done.folder / entry.tensor_path
    if path.suffix == ".bytes":
        codes = np.fromfile(path, "<f4").reshape(entry.tensor_shape)
    else:
        codes = np.loadtxt(path, dtype=np.float32, delimiter="\t")
    labels = (done.folder / entry.metadata_path).read_text().splitlines()
    sheet = cv2.imread(str(done.folder / entry.sprite.image_path))
    return measure.told(done), (codes, labels, sheet)


def main():
    """Compare the four."""
    if sys.argv[1:2] and sys.argv[1] in OWN + PEERS:
        return log(*sys.argv[1:])
    args = measure.parse_args(__doc__)
    count = QUICK_COUNT if args.quick else COUNT
    pythons = measure.find_pythons(OWN, PEERS)
    ways = {way: [python, __file__, way, count] for way, python in pythons.items()}
    ratios, results = measure.compare(f"{count:,} codes", ways, args.rounds, read)
    expected, labels, _ = make_codes(count)
    for codes, read_labels, sheet in results.values():
        assert np.allclose(codes, expected, atol=1e-4) and read_labels == labels
        assert np.abs(sheet.astype(int) - results["ours"][2]).mean() < 4  # JPEG or PNG
    assert not args.quick or ratios["MXBoard"] > 5


if __name__ == "__main__":
    main()
