"""Measure how time and memory grow with the number of pictures, codes and embeddings alike.

    python benchmarks/growth.py

A small checkpoint of random weights makes codes of painted pictures. What counts is the time of the
whole command, less that of the same one with two pictures; the exponent is the slope of a line
through the logarithms, 1 for twice the time for twice the pictures.
"""

import statistics
import sys
import tempfile
from pathlib import Path

import measure  # isort: skip (before mxcompat)
import mxcompat

import cv2
import mxnet as mx
import numpy as np
from mxnet.gluon.model_zoo import vision

COUNTS, QUICK_COUNTS, SIDE = (500, 2000, 8000), (50, 200), 160
LEAST = 2  # pictures: what the projector needs
OUTPUT_BYTES = 4 * 1000 + 3 * 64 * 64 + 4  # of a picture: code, thumbnail and label


def prepare(folder, count):
    """Save a checkpoint and a RecordIO file of pictures; return its prefix, and the file."""
    mx.random.seed(0)
    net = vision.mobilenet0_5()
    net.initialize(mx.init.Xavier())
    net.hybridize()
    net(mx.nd.zeros((1, 3, SIDE, SIDE)))
    net.export(str(folder / "net"))
    rng, pictures = np.random.default_rng(0), folder / "pictures.rec"
    records = mx.recordio.MXRecordIO(str(pictures), "w")
    for number in range(count):
        fields = rng.integers(256, size=(16, 16, 3), dtype=np.uint8)
        _, content = cv2.imencode(".jpg", cv2.resize(fields, (256, 256)))
        header = mx.recordio.IRHeader(0, number % 10, number, 0)
        records.write(mx.recordio.pack(header, content.tobytes()))
    records.close()
    return folder / "net", pictures


def compare_sizes(job, counts, command, written, rounds):
    """Run a command for each count in turn; print how its time and memory grow with it."""
    runs = {count: [] for count in (LEAST, *counts)}
    for _ in range(rounds):
        for count, found in runs.items():
            found.append(measure.run(command(count), Path(f"{written}-{count}")))
    seconds = {n: statistics.median(run.seconds for run in found) for n, found in runs.items()}
    memory = {n: statistics.median(run.megabytes for run in found) for n, found in runs.items()}
    above = [seconds[count] - seconds[LEAST] for count in counts]
    exponent, _ = np.polyfit(np.log(counts), np.log(above), 1)
    print(
        f"\n| {job} | seconds more than for {LEAST} | MB more than for {counts[0]:,} | codes, MB |"
    )
    print("| --- | --- | --- | --- |")
    for count, extra in zip(counts, above):
        outputs = (count - counts[0]) * OUTPUT_BYTES / 1e6
        more = memory[count] - memory[counts[0]]
        print(f"| {count:,} | {extra:.2f} | {more:.0f} | {outputs:.0f} |")
    print(f"\nTime grows by the power of {exponent:.2f}.", flush=True)


def main():
    """Measure both scripts."""
    args = measure.parse_args(__doc__)
    counts = QUICK_COUNTS if args.quick else COUNTS
    with tempfile.TemporaryDirectory() as work:
        prefix, pictures = prepare(Path(work), max(counts))
        codes = [sys.executable, measure.ROOT / "get_convnet_codes.py", "--offline", "--dtype"]
        codes += ["float32", "--model", prefix, "--images", pictures]
        codes += ["--image-shape", f"3,{SIDE},{SIDE}"]
        embedding = [sys.executable, measure.ROOT / "plot_convnet_embedding.py", "--model", "net"]

        def collect(count):
            return [*codes, "--max-num-images", count, "--data-dir"]

        def embed(count):
            return [*embedding, "--data-dir", f"{work}/codes-{count}", "--logdir"]

        compare_sizes("codes", counts, collect, f"{work}/codes", args.rounds)
        compare_sizes("embedding", counts, embed, f"{work}/logs", args.rounds)


if __name__ == "__main__":
    main()
