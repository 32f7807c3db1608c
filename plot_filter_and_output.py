"""Show the first-layer filters of three ConvNets and what they make of a picture.

    python plot_filter_and_output.py
    tensorboard --logdir ./logs

TensorBoard's Images page shows, for Inception-BN, ResNet-152 and VGG16:

- `swan`, the picture the networks look at;
- `..._weight`, the 64 filters of the first convolution. Those of a trained network are smooth and
  well formed: grey ones with stripes, coloured ones with blobs. Each is stretched to the full
  range of colours on its own, so that one close to zero, which the network does without, looks
  like noise.
- `..._output`, the feature map that each filter makes of the picture, at the same place of the
  grid. Grey filters draw outlines, each in its own direction; coloured ones pick out regions.

Your own picture, or the first convolution of your own MXNet checkpoint:

    python plot_filter_and_output.py --image PATH
    python plot_filter_and_output.py --model PREFIX
"""

from pathlib import Path

from common import SummaryWriter, cli
from common.models import load_first_layer, load_first_layers
from common.pictures import load_picture, read_picture

from mxnet import nd


def parse_args():
    """Read the command line."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--image", metavar="PATH", help="your own picture")
    parser.add_argument("--model", metavar="PREFIX", help="your own checkpoint")
    parser.add_argument("--layer", metavar="NAME", help="the checkpoint's convolution to show")
    cli.add_shared_arguments(parser, "--mean-rgb", "--ctx", "--logdir", "--data-dir", "--offline")
    args = parser.parse_args()
    if not args.model and (args.layer or any(args.mean_rgb)):
        parser.error("--layer and --mean-rgb are about a checkpoint: give --model too")
    return args


def feature_maps(layer, picture, ctx):
    """Convolve a (3, H, W) picture, stride 1 and no padding; return a (F, 1, H', W') batch."""
    mean = nd.array(layer.mean_rgb, ctx=ctx).reshape((1, 3, 1, 1))
    pixels = nd.array(picture[None], ctx=ctx, dtype="float32") - mean
    count, _, *kernel = layer.weight.shape
    bias = [] if layer.bias is None else [nd.array(layer.bias, ctx=ctx)]
    weight = nd.array(layer.weight, ctx=ctx)
    maps = nd.Convolution(
        pixels, weight, *bias, num_filter=count, kernel=kernel, no_bias=layer.bias is None
    )
    return maps.transpose((1, 0, 2, 3))


def scale_each(batch):
    """Stretch each item of a batch to [0, 1]; one that is all the same becomes 0."""
    low = batch.min(axis=(1, 2, 3), keepdims=True)
    spread = batch.max(axis=(1, 2, 3), keepdims=True) - low
    return (batch - low) / nd.where(spread > 0, spread, nd.ones_like(spread))


def main():
    """Read everything first, so that nothing is logged by half; then log it."""
    args = parse_args()
    ctx = cli.context(args.ctx)
    cli.make_folder(args.logdir)
    if args.model:
        layer, weights_source = load_first_layer(args.model, args.layer, args.mean_rgb)
        layers = [layer]
    else:
        layers, weights_source = load_first_layers(args.data_dir, args.offline)
    if args.image:
        largest_filter = max(max(layer.weight.shape[2:]) for layer in layers)
        picture, picture_source = read_picture(args.image, largest_filter)
    else:
        picture, picture_source = load_picture(args.data_dir, args.offline)

    with SummaryWriter(args.logdir, flush_secs=5) as sw:
        sw.add_text("filters_data", f"{picture_source}\n\n{weights_source}")
        sw.add_image(Path(args.image).stem if args.image else "swan", picture)
        for layer in layers:
            filters = nd.array(layer.weight, ctx=ctx)
            sw.add_image(f"{layer.name}_weight", scale_each(filters))
            maps = feature_maps(layer, picture, ctx)
            sw.add_image(f"{layer.name}_output", scale_each(maps))

    cli.tell_how_to_see(args.logdir)


if __name__ == "__main__":
    cli.run(main)
