"""Measure `plot_filter_and_output.py` against the way it used to be written.

    python benchmarks/plot_filter_and_output.py DATA_DIR

The old way: a slice of an NDArray for every filter and every feature map, its minimum and maximum
read back, MXBoard's own event writer and picture grid. The two run in turn, each as a whole
command, five times.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import common  # noqa: E402, F401

import mxboard.event_file_writer  # noqa: E402
import mxnet as mx  # noqa: E402

ROUNDS = 5
MEAN_RGB = mx.nd.array([123.68, 116.779, 103.939]).reshape((3, 1, 1))
LAYERS = {
    "inception_bn_conv_1": (True, MEAN_RGB),
    "resnet_152_conv0": (False, 0),
    "vgg16_conv1_1": (True, 0),
}


def scale_each(batch):
    """Stretch each item of a batch to [0, 1], one at a time, in place."""
    for item in batch:
        low, high = item.min().asscalar(), item.max().asscalar()
        item[:] = (item - low) / (high - low)
    return batch


def plot_as_published(data_dir, logdir):
    """Log the seven pictures, one filter and one map at a time."""
    mxboard.writer.EventFileWriter = mxboard.event_file_writer.EventFileWriter
    swan = mx.nd.load(f"{data_dir}/imagenet_swan.ndarray")[0]
    with mxboard.SummaryWriter(logdir, flush_secs=5, verbose=False) as sw:
        sw.add_image("swan", swan)
        for name, (has_bias, mean) in LAYERS.items():
            weight = mx.nd.load(f"{data_dir}/{name}_weight.param")[0]
            sw.add_image(f"{name}_weight", scale_each(weight.copy()))
            bias = mx.nd.load(f"{data_dir}/{name}_bias.param") if has_bias else []
            maps = mx.nd.Convolution(
                (swan.astype("float32") - mean).expand_dims(0),
                *(weight, *bias),
                num_filter=weight.shape[0],
                kernel=weight.shape[2:],
                no_bias=not has_bias,
            )
            sw.add_image(f"{name}_output", scale_each(maps.transpose((1, 0, 2, 3))))


def seconds(command):
    """Run a command that logs to the folder it is given last; return the time it takes."""
    with tempfile.TemporaryDirectory() as logdir:
        started = time.perf_counter()
        subprocess.run([sys.executable, *command, logdir], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


def main():
    """Run both in turn and print the ratio of their medians."""
    if len(sys.argv) > 2:
        plot_as_published(*sys.argv[1:])
        return
    (data_dir,) = sys.argv[1:]
    ours = [ROOT / "plot_filter_and_output.py", "--data-dir", data_dir, "--logdir"]
    rounds = [(seconds(ours), seconds([__file__, data_dir])) for _ in range(ROUNDS)]
    new, old = map(statistics.median, zip(*rounds))
    print(f"the whole command: {new:.2f} s; as published: {old:.2f} s; {new / old:.2f} of the time")


if __name__ == "__main__":
    main()
