"""Show the first-layer filters of three ConvNets, and their outputs for a picture.

    python plot_filter_and_output.py
    tensorboard --logdir ./logs

You will see on the Images page, for Inception-BN, ResNet-152 and VGG16:

- `swan`, the picture that the networks look at;
- `..._weight`, the 64 filters of the first convolution: gray ones with stripes, colored ones with
  blobs;
- `..._output`, the feature map of each filter, at the same place of the grid: gray filters draw
  outlines, each in its own direction; colored ones pick out regions.

Your own picture, or the first convolution of your own MXNet checkpoint:

    python plot_filter_and_output.py --image PATH
    python plot_filter_and_output.py --model PREFIX

The checkpoint's network is on the Graphs page, as the run named after the checkpoint.
"""

from pathlib import Path

import mxcompat  # makes MXNet and MXBoard run on today's Python
from mxcompat.downloads import FILES, Files

from mxboard import SummaryWriter
from mxnet import nd

from common import cli
from common.charts import scale_each
from common.checkpoints import FirstLayer, load_checkpoint, load_first_layer
from common.datasets import fetch_or_warn, load_picture
from common.pictures import to_gray
from common.synthetic import draw_filters

# The published first layers: the size of their kernels, and the mean to subtract from RGB of 0 to
# 255, which for Inception-BN is that of ImageNet.
LAYERS = {
    "inception_bn_conv_1": (7, (123.68, 116.779, 103.939)),
    "resnet_152_conv0": (7, (0, 0, 0)),
    "vgg16_conv1_1": (3, (0, 0, 0)),
}
PARAMS = [name for name in FILES if name.endswith(".param")]  # their weights and biases


def parse_args():
    """Read the command line."""
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    add("--image", metavar="PATH", type=cli.path, help="your own picture")
    add("--model", metavar="PREFIX", type=cli.prefix, help="your own checkpoint")
    add("--layer", metavar="NAME", help="the checkpoint's convolution to show")
    add("--mean-rgb", metavar="R", nargs="+", type=cli.MEAN, help=cli.MEAN_HELP)
    add("--std-rgb", metavar="R", nargs="+", type=cli.STD, help=cli.STD_HELP)
    add("--ctx", choices=("auto", "gpu", "cpu"), default="auto", help="auto: a GPU if there is one")
    add("--logdir", type=cli.path, default="./logs", help="folder of the log")
    add("--data-dir", type=cli.path, default="./data", help="folder of downloads and codes")
    add("--offline", action="store_true", help="download nothing; use synthetic data instead")
    args = parser.parse_args()
    if not args.model and (args.layer or args.mean_rgb or args.std_rgb):
        parser.error("--layer, --mean-rgb, --std-rgb: these need --model PREFIX")
    return args


def load_layers(files):
    """Return the published first layers, or synthetic ones, and what they are, as Markdown."""
    paths, missing = fetch_or_warn(files.fetch, PARAMS, "showing synthetic filters instead")
    if missing:
        arrays = {
            f"{name}_weight": nd.array(draw_filters(kernel, seed))
            for seed, (name, (kernel, _)) in enumerate(LAYERS.items())
        }
        source = f"**Not trained:** the filters are drawn ({missing})."
    else:
        arrays = {path.stem: nd.load(str(path))[0] for path in paths}
        source = "The filters that Inception-BN, ResNet-152 and VGG16 learned."
    layers = [
        FirstLayer(name, arrays[f"{name}_weight"], arrays.get(f"{name}_bias"), mean_rgb)
        for name, (_, mean_rgb) in LAYERS.items()
    ]
    return layers, source


def convolve(layer, picture, ctx):
    """Convolve a (3, H, W) picture, stride 1 and no padding; return a (F, 1, H', W') batch."""
    mean, std = (nd.array(rgb, ctx).reshape((-1, 1, 1)) for rgb in (layer.mean_rgb, layer.std_rgb))
    picture = to_gray(picture) if layer.weight.shape[1] == 1 else picture
    pixels = (nd.array(picture, ctx, dtype="float32") - mean) / std
    weight, *bias = (a.as_in_context(ctx) for a in (layer.weight, layer.bias) if a is not None)
    count, _, *kernel = weight.shape
    options = {"num_filter": count, "kernel": kernel, "no_bias": not bias}
    maps = nd.Convolution(pixels[None], weight, *bias, **options)
    return maps.transpose((1, 0, 2, 3))


def main():
    """Load the layers and a picture, and log both, and the outputs."""
    args = parse_args()
    ctx = cli.context(args.ctx)
    cli.make_folder(args.logdir)
    files = Files(args.data_dir, args.offline)
    if args.model:
        checkpoint = load_checkpoint(args.model)
        layer, source = load_first_layer(checkpoint, args.layer, args.mean_rgb, args.std_rgb)
        layers = [layer]
        cli.check_channels(args, layer.weight.shape[1])
    else:
        layers, source = load_layers(files)
    picture, picture_source = load_picture(args.image, files)

    with SummaryWriter(args.logdir) as sw:
        sw.add_text("filters_data", f"{picture_source}\n\n{source}")
        sw.add_image(Path(args.image).stem if args.image else "swan", picture)
        for layer in layers:
            sw.add_image(f"{layer.name}_weight", scale_each(layer.weight))
            sw.add_image(f"{layer.name}_output", scale_each(convolve(layer, picture, ctx)))
    if args.model:
        # TensorBoard keeps only the last graph of a run, so this one gets its own run.
        shape = (1, layer.weight.shape[1], *picture.shape[1:])
        with SummaryWriter(f"{args.logdir}/{Path(args.model).name}") as sw:
            sw.add_graph(checkpoint.symbol, {"data": shape})

    cli.tell_how_to_see(args.logdir)


if __name__ == "__main__":
    cli.run(main)
