"""Collect a network's codes of pictures, to walk through in TensorBoard's projector.

    python get_convnet_codes.py
    python plot_convnet_embedding.py
    tensorboard --logdir ./logs

A network's code of a picture is the output of its last fully connected layer, before the softmax
turns it into probabilities. Pictures that look alike to the network get codes that are alike,
whatever their pixels are. Here ResNet-152 looks at 2,304 pictures of Imagenette, ten classes of
ImageNet; the next script shows where it puts them.

Your own pictures, a folder with a subfolder a class or a RecordIO file, and your own checkpoint:

    python get_convnet_codes.py --images PATH
    python get_convnet_codes.py --model PREFIX --mean-rgb R G B --std-rgb R G B
"""

import os
import shlex
import time
from pathlib import Path

from common import cli
from common.codes import DEFAULT_MODEL, save_codes
from common.datasets import load_output_names, load_pictures, name_labels, shrink, stack_readable
from common.errors import ScriptError, warn
from common.files import make_folder
from common.networks import (
    SAMPLE_COUNT,
    check_finite,
    choose_code_layer,
    choose_dtype,
    load_checkpoint,
    load_resnet_152,
    make_network,
    warn_if_dead,
)

import mxcompat  # makes MXNet run on today's Python
from mxcompat.files import printable

import mxnet as mx
import numpy as np
from mxnet import gluon, nd
from tqdm import tqdm

THUMBNAIL_SIDE = 64  # pixels: a sprite sheet of 2,304 is then 3,072 pixels wide
BATCH_SIZE = 32  # enough to keep every core busy; a Ctrl-C waits for one batch


def parse_args():
    """Read the command line."""
    parser = cli.ArgumentParser(__doc__)
    positive = cli.number(int, 1)
    parser.add_argument(
        "--max-num-images", type=positive, default=2304, help="pictures, drawn at random"
    )
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help="network, or the prefix of your own checkpoint"
    )
    parser.add_argument("--images", metavar="PATH", help="your own pictures: a folder, or a .rec")
    parser.add_argument(
        "--image-shape", type=cli.image_shape, default="3,224,224", help="what the network takes"
    )
    parser.add_argument(
        "--code-layer", help="output of your checkpoint (default: the last before its softmax)"
    )
    parser.add_argument("--classes", metavar="FILE", help="names of the outputs, one a line")
    parser.add_argument(
        "--batch-size", type=positive, default=BATCH_SIZE, help="pictures at a time"
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "int8"),
        default="auto",
        help="auto: int8 where it is fast and its codes are like those of float32",
    )
    parser.add_shared("--mean-rgb", "--std-rgb", "--ctx", "--seed", "--data-dir", "--offline")
    args = parser.parse_args()
    if args.model == DEFAULT_MODEL and (args.code_layer or args.mean_rgb or args.std_rgb):
        parser.error(
            "--code-layer, --mean-rgb and --std-rgb are about a checkpoint: give --model too"
        )
    if args.images is not None and not os.path.exists(args.images):
        parser.error(f"argument --images: there is no {args.images}")
    if min(args.batch_size, args.max_num_images) * np.prod(args.image_shape) >= 2**31:
        parser.error("argument --batch-size: a batch has more numbers than an array of MXNet holds")
    return args


def load_network(args, ctx):
    """Load the network up to its code layer; return also the size of a code, and what it is."""
    if args.model == DEFAULT_MODEL:
        return load_resnet_152(args.data_dir, args.image_shape, ctx, args.offline)
    symbol, params, path = load_checkpoint(args.model)
    layer, is_output = choose_code_layer(symbol, args.code_layer, params, args.image_shape)
    code = symbol.get_internals()[layer]
    if args.mean_rgb or args.std_rgb:
        mean, std = args.mean_rgb or (0, 0, 0), args.std_rgb or (1, 1, 1)
        code = code(data=mx.sym.image.normalize(mx.sym.var("data"), tuple(mean), tuple(std)))
    net, code_size = make_network(code, params, args.image_shape, ctx, path)
    about = {"weights": f"`{layer}` of `{path}`.", "is_output": is_output, "trained": True}
    return net, code_size, about


def load_batches(pictures, indices, batch_size):
    """Read pictures in the order of their indices, some batches ahead, in threads."""
    return gluon.data.DataLoader(
        pictures,
        min(batch_size, len(indices)),
        sampler=indices,
        batchify_fn=stack_readable,
        num_workers=mxcompat.available_cores(),
        thread_pool=True,
        timeout=600,
    )


def collect(net, batches, shape, ctx, stopped):
    """Return the codes, thumbnails and labels of all batches, or of those before it is stopped."""
    count, _ = shape
    codes = np.empty(shape, np.float32)
    thumbnails = np.empty((count, 3, THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)
    labels = np.empty(count, np.int64)
    done = 0
    with tqdm(total=count, unit="picture", disable=None) as bar:
        for images, batch_labels in batches:
            if stopped:
                break
            rows = slice(done, done + len(images))
            if len(images):
                codes[rows] = net(nd.array(images, ctx, dtype="float32")).asnumpy()
                check_finite(codes[rows])
                thumbnails[rows] = shrink(images, THUMBNAIL_SIDE)
                labels[rows] = batch_labels
            done = rows.stop
            bar.update(len(images))
    return codes[:done], thumbnails[:done], labels[:done]


def tell_what_is_next(args):
    """Print the command that logs the codes."""
    command = ["python", "plot_convnet_embedding.py"]
    if args.model != DEFAULT_MODEL:
        command += ["--model", args.model]
    if args.data_dir != "./data":
        command += ["--data-dir", args.data_dir]
    print(f"To log them: {shlex.join(map(printable, command))}")


def main():
    """Run the network over the pictures, and keep its code of each."""
    args = parse_args()
    ctx = cli.context(args.ctx)
    make_folder(args.data_dir)
    net, code_size, about = load_network(args, ctx)
    outputs = code_size if about["trained"] else 0  # random weights know no classes
    names = load_output_names(args.classes, outputs, args.data_dir, args.offline)
    pictures = load_pictures(args.images, names, args.image_shape, args.data_dir, args.offline)
    indices = np.random.default_rng(args.seed).permutation(len(pictures))[: args.max_num_images]
    if len(indices) < args.max_num_images:
        warn(f"there are {len(indices):,} pictures, no more: all of them are taken")
    sample = load_batches(pictures, indices[:SAMPLE_COUNT], args.batch_size)
    net, dtype, cosine = choose_dtype(net, args.dtype, sample, args.image_shape, ctx)

    started = time.perf_counter()
    with cli.held_signals() as stopped:
        batches = load_batches(pictures, indices, args.batch_size)
        shape = (len(indices), code_size)
        codes, thumbnails, labels = collect(net, batches, shape, ctx, stopped)
        seconds = time.perf_counter() - started
        pictures.report_unreadable()
        if len(codes):
            warn_if_dead(codes)
            labels, class_names = name_labels(labels, pictures.classes)
            description = {
                "class_names": class_names,
                "pictures": f"{pictures.source} {len(codes):,} of {len(pictures):,}, at random.",
                "output_names": names,
                **about,
                "precision": dtype,
                "cosine": cosine,
                "seed": args.seed,
            }
            model = Path(args.model).name
            save_codes(args.data_dir, model, codes, thumbnails, labels, description)
            if stopped:
                warn(f"the {len(codes):,} codes that were there are kept")
    if not len(codes):
        raise ScriptError(f"no picture of {args.images} can be read: choose others")

    speed = f"{len(codes) / seconds:.1f} pictures a second"
    print(f"{len(codes):,} codes of {code_size:,} numbers: {speed}")
    tell_what_is_next(args)


if __name__ == "__main__":
    cli.run(main)
