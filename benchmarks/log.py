"""Measure logging: 10,000 scalars, 100 histograms of 100,000 values, 100 grids of 64 pictures.

    python benchmarks/log.py

What counts is the time from the first call until the log is closed; it is then read back.
"""

import sys
import time

import measure
import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

OWN, PEERS = ("ours", "MXBoard"), ("PyTorch", "tensorboardX")
COUNTS = {"scalars": 10_000, "histograms": 100, "grids": 100}
EVERYTHING = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0}


def open_writer(way, folder):
    """Open a writer; MXBoard as it comes, but for what makes it run on today's Python."""
    if way == "MXBoard":
        return measure.open_mxboard(folder)
    if way == "PyTorch":
        from torch.utils.tensorboard import SummaryWriter
    elif way == "tensorboardX":
        from tensorboardX import SummaryWriter
    else:
        from mxcompat import SummaryWriter
    return SummaryWriter(folder)


def log(way, kind, count, folder):
    """Log one kind of thing, so many times."""
    rng = np.random.default_rng(0)
    count, values = int(count), rng.normal(size=100_000).astype(np.float32)
    pictures = rng.integers(0, 256, (64, 3, 32, 32), dtype=np.uint8)
    sw = open_writer(way, folder)
    started = time.perf_counter()
    for step in range(count):
        if kind == "scalars":
            sw.add_scalar("x", float(values[step % len(values)]), step)
        elif kind == "histograms":
            sw.add_histogram("x", values, step)
        else:
            (getattr(sw, "add_images", None) or sw.add_image)("x", pictures, step)
    sw.close()
    print(time.perf_counter() - started)


def read(done):
    """Return the seconds, and what TensorBoard reads."""
    log = EventAccumulator(str(done.folder), EVERYTHING)
    log.Reload()
    tags = log.Tags()
    events = [(e.step, round(e.value, 5)) for tag in tags["scalars"] for e in log.Scalars(tag)]
    for event in (e for tag in tags["histograms"] for e in log.Histograms(tag)):
        value = event.histogram_value
        events.append((event.step, value.num, round(value.sum, 1), round(value.max, 4)))
    events += [event.step for tag in tags["images"] for event in log.Images(tag)]
    return measure.told(done), events


def main():
    """Compare the four, kind by kind."""
    if sys.argv[1:2] and sys.argv[1] in OWN + PEERS:
        return log(*sys.argv[1:])
    args = measure.parse_args(__doc__)
    pythons = measure.find_pythons(OWN, PEERS)
    for kind, count in COUNTS.items():
        count = count // 10 if args.quick else count
        ways = {way: [python, __file__, way, kind, count] for way, python in pythons.items()}
        _, results = measure.compare(f"{count:,} {kind}", ways, args.rounds, read)
        assert all(result == results["ours"] for result in results.values())
        assert len(results["ours"]) == count


if __name__ == "__main__":
    main()
