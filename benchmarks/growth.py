"""Measure how time and memory grow with the number of pictures, codes and embeddings alike.

    python benchmarks/growth.py

A small checkpoint of random weights makes codes of painted pictures. What counts is the time of the
whole command, less that of the same one with two pictures; the exponent is the slope of a line
through the logarithms, 1 for twice the time for twice the pictures.
"""

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
    """Save a checkpoint, `net`, and `pictures` of ten classes."""
    mx.random.seed(0)
    net = vision.mobilenet0_5()
    net.initialize(mx.init.Xavier())
    net.hybridize()
    net(mx.nd.zeros((1, 3, SIDE, SIDE)))
    net.export(str(folder / "net"))
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / "pictures" / str(number % 10) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        fields = rng.integers(256, size=(16, 16, 3), dtype=np.uint8)
        cv2.imwrite(str(path), cv2.resize(fields, (256, 256)))


def compare_sizes(job, commands, written, rounds):
    """Run the command of each count in turn; print how time and memory grow with the count."""
    figures = []
    for _ in range(rounds):
        runs = [measure.run(each, f"{written}-{count}") for count, each in commands.items()]
        figures.append([(run.seconds, run.megabytes) for run in runs])
    seconds, memory = np.median(figures, axis=0).T
    _, *counts = commands
    exponent, _ = np.polyfit(np.log(counts), np.log(seconds[1:] - seconds[0]), 1)
    more_than = f"seconds more than for {LEAST} | MB more than for {counts[0]:,}"
    print(f"\n| {job} | {more_than} | codes, MB |\n| --- | --- | --- | --- |")
    for count, extra, more in zip(counts, seconds[1:] - seconds[0], memory[1:] - memory[1]):
        outputs = (count - counts[0]) * OUTPUT_BYTES / 1e6
        print(f"| {count:,} | {extra:.2f} | {more:.0f} | {outputs:.0f} |")
    print(f"\nTime grows by the power of {exponent:.2f}.", flush=True)


def main():
    """Measure both scripts."""
    args = measure.parse_args(__doc__)
    counts = QUICK_COUNTS if args.quick else COUNTS
    with tempfile.TemporaryDirectory() as work:
        prepare(Path(work), max(counts))
        codes = [sys.executable, measure.ROOT / "get_convnet_codes.py", "--offline"]
        codes += ["--model", f"{work}/net", "--images", f"{work}/pictures"]
        codes += ["--dtype", "float32", "--image-shape", f"3,{SIDE},{SIDE}"]
        embedding = [sys.executable, measure.ROOT / "plot_convnet_embedding.py", "--model", "net"]
        collect = {n: [*codes, "--max-num-images", n, "--data-dir"] for n in (LEAST, *counts)}
        embed = {n: [*embedding, "--data-dir", f"{work}/codes-{n}", "--logdir"] for n in collect}
        compare_sizes("codes", collect, f"{work}/codes", args.rounds)
        compare_sizes("embedding", embed, f"{work}/logs", args.rounds)


if __name__ == "__main__":
    main()
