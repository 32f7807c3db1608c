"""Show the first-layer filters of three ConvNets and what they make of a picture.

    python plot_filter_and_output.py
    tensorboard --logdir ./logs

TensorBoard's Images page shows, for Inception-BN, ResNet-152 and VGG16:

- `swan`, the picture the networks look at;
- `..._weight`, the 64 filters of the first convolution. Those of a trained network are smooth:
  grey ones with stripes, coloured ones with blobs. Each is stretched to the full range of colours
  on its own, so one close to zero, which the network does without, looks like noise.
- `..._output`, the feature map that each filter makes of the picture, at the same place of the
  grid. Grey filters draw outlines, each in its own direction; coloured ones pick out regions.

Your own picture, or the first convolution of your own MXNet checkpoint:

    python plot_filter_and_output.py --image PATH
    python plot_filter_and_output.py --model PREFIX
"""

from pathlib import Path

from common import cli
from common.datasets import load_picture
from common.files import make_folder
from common.networks import load_first_layer, load_first_layers

import mxcompat  # makes MXNet and MXBoard run on today's Python

from mxboard import SummaryWriter
from mxnet import nd


def parse_args():
    """Read the command line."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--image", metavar="PATH", help="your own picture")
    parser.add_argument("--model", metavar="PREFIX", help="your own checkpoint")
    parser.add_argument("--layer", metavar="NAME", help="the checkpoint's convolution to show")
    parser.add_shared("--mean-rgb", "--std-rgb", "--ctx", "--logdir", "--data-dir", "--offline")
    args = parser.parse_args()
    if not args.model and (args.layer or args.mean_rgb or args.std_rgb):
        parser.error("--layer, --mean-rgb and --std-rgb are about a checkpoint: give --model too")
    return args


def convolve(layer, picture, ctx):
    """Convolve a (3, H, W) picture, stride 1 and no padding; return a (F, 1, H', W') batch."""
    mean, std = (nd.array(rgb, ctx).reshape((3, 1, 1)) for rgb in (layer.mean_rgb, layer.std_rgb))
    pixels = (nd.array(picture, ctx, dtype="float32") - mean) / std
    weight, *bias = (a.as_in_context(ctx) for a in (layer.weight, layer.bias) if a is not None)
    count, _, *kernel = weight.shape
    maps = nd.Convolution(
        pixels[None], weight, *bias, num_filter=count, kernel=kernel, no_bias=not bias
    )
    return maps.transpose((1, 0, 2, 3))


def scale_each(batch):
    """Stretch each item of a batch to [0, 1]; one that is all the same becomes 0."""
    low = batch.min(axis=(1, 2, 3), keepdims=True)
    spread = batch.max(axis=(1, 2, 3), keepdims=True) - low
    return (batch - low) / nd.where(spread > 0, spread, nd.ones_like(spread))


def main():
    """Load everything first, so that no log is left half done; then log it."""
    args = parse_args()
    ctx = cli.context(args.ctx)
    make_folder(args.logdir)
    if args.model:
        layer, weights_source = load_first_layer(
            args.model, args.layer, args.mean_rgb, args.std_rgb
        )
        layers = [layer]
    else:
        layers, weights_source = load_first_layers(args.data_dir, args.offline)
    picture, picture_source = load_picture(args.image, args.data_dir, args.offline)

    with SummaryWriter(args.logdir) as sw:
        sw.add_text("filters_data", f"{picture_source}\n\n{weights_source}")
        sw.add_image(Path(args.image).stem if args.image else "swan", picture)
        for layer in layers:
            sw.add_image(f"{layer.name}_weight", scale_each(layer.weight))
            sw.add_image(f"{layer.name}_output", scale_each(convolve(layer, picture, ctx)))

    cli.tell_how_to_see(args.logdir)


if __name__ == "__main__":
    cli.run(main)
