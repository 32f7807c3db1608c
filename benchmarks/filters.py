"""Measure the whole of plot_filter_and_output.py.

    python benchmarks/filters.py DATA_DIR

The published way sliced an NDArray for every filter and every feature map, read its minimum and
maximum back, and logged with MXBoard's own event writer and picture grid.
"""

import sys

import cv2
import measure
import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

MEAN_RGB = (123.68, 116.779, 103.939)
LAYERS = {"inception_bn_conv_1": True, "resnet_152_conv0": False, "vgg16_conv1_1": True}


def scale_each(batch):
    """Stretch each item of a batch to [0, 1], one at a time, in place."""
    for item in batch:
        low, high = item.min().asscalar(), item.max().asscalar()
        item[:] = (item - low) / (high - low)
    return batch


def plot_as_published(data_dir, logdir):
    """Log the seven pictures, one filter and one map at a time."""
    import mxcompat  # lets MXNet and MXBoard run

    import mxnet as mx

    swan = mx.nd.load(f"{data_dir}/imagenet_swan.ndarray")[0]
    with measure.open_mxboard(logdir) as sw:
        sw.add_image("swan", swan)
        for name, has_bias in LAYERS.items():
            mean = mx.nd.array(MEAN_RGB if "inception" in name else (0, 0, 0)).reshape((3, 1, 1))
            weight = mx.nd.load(f"{data_dir}/{name}_weight.param")[0]
            sw.add_image(f"{name}_weight", scale_each(weight.copy()))
            bias = mx.nd.load(f"{data_dir}/{name}_bias.param") if has_bias else []
            pixels = (swan.astype("float32") - mean).expand_dims(0)
            shape = {"num_filter": weight.shape[0], "kernel": weight.shape[2:]}
            maps = mx.nd.Convolution(pixels, weight, *bias, no_bias=not has_bias, **shape)
            sw.add_image(f"{name}_output", scale_each(maps.transpose((1, 0, 2, 3))))


def read(done):
    """Return the seconds of the whole command, and the pictures by tag."""
    log = EventAccumulator(str(done.folder), {"images": 0})
    log.Reload()
    pictures = {}
    for tag in log.Tags()["images"]:
        content = np.frombuffer(log.Images(tag)[0].encoded_image_string, np.uint8)
        pictures[tag] = cv2.imdecode(content, cv2.IMREAD_COLOR).astype(int)
    return done.seconds, pictures


def main():
    """Compare both ways."""
    if sys.argv[1:2] == ["published"]:
        return plot_as_published(*sys.argv[2:])
    args = measure.parse_args(__doc__, "data_dir")
    script = [sys.executable, measure.ROOT / "plot_filter_and_output.py"]
    ways = {"ours": [*script, "--data-dir", args.data_dir, "--logdir"]}
    ways["published"] = [sys.executable, __file__, "published", args.data_dir]
    _, results = measure.compare("the filters", ways, 1 if args.quick else args.rounds, read)
    for tag, picture in results["published"].items():
        assert abs(results["ours"][tag] - picture).max() <= 1, tag


if __name__ == "__main__":
    main()
