"""Collect a network's codes of pictures, to walk through in TensorBoard's projector.

    python get_convnet_codes.py
    python plot_convnet_embedding.py
    tensorboard --logdir ./logs

A code is what a trained network says of a picture last: the output of its last fully connected
layer, before the softmax turns it into probabilities. Pictures that the network finds alike get
codes that are alike, whatever their pixels are. ResNet-152 sees 2,304 pictures of Imagenette here,
ten classes of ImageNet; the next script shows where it puts them.

Your own pictures, a folder with a subfolder a class or a RecordIO file, and your own checkpoint:

    python get_convnet_codes.py --images PATH
    python get_convnet_codes.py --model PREFIX --code-layer fc1_output
"""

import contextlib
import os
import shlex
import time
from pathlib import Path

from common import cli
from common.codes import DEFAULT_MODEL, save_codes
from common.models import code_size, load_code_layer, load_resnet_152, require_numbers
from common.pictures import load_picture_set, name_labels
from common.precision import PRECISIONS, SAMPLE_COUNT, candidates, make_encoder
from common.records import peek, thumbnails

import numpy as np
from tqdm import tqdm

THUMBNAIL_SIDE = 64  # pixels: a sprite sheet of 2,304 is then 3,072 pixels wide
BATCH_SIZE = 32  # enough to keep every core busy; a Ctrl-C waits for one batch


def parse_args():
    """Read the command line."""
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument(
        "--max-num-images", type=cli.positive_int, default=2304, help="pictures, drawn at random"
    )
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help="network, or the prefix of your own checkpoint"
    )
    parser.add_argument("--images", metavar="PATH", help="your own pictures: a folder, or a .rec")
    parser.add_argument(
        "--image-shape", type=cli.image_shape, default="3,224,224", help="what the network takes"
    )
    parser.add_argument(
        "--code-layer", help="output of your checkpoint that is the code (default: fc1_output)"
    )
    parser.add_argument("--classes", metavar="FILE", help="names of a .rec's classes, one a line")
    parser.add_argument(
        "--batch-size", type=cli.positive_int, default=BATCH_SIZE, help="pictures at a time"
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", *PRECISIONS),
        default="auto",
        help="precision; auto: the fastest here whose codes are like those of float32",
    )
    cli.add_shared_arguments(parser, "--mean-rgb", "--ctx", "--seed", "--data-dir", "--offline")
    args = parser.parse_args()
    if args.model == DEFAULT_MODEL and (args.code_layer or any(args.mean_rgb)):
        parser.error("--code-layer and --mean-rgb are about a checkpoint: give --model too")
    if args.images is not None and not os.path.exists(args.images):
        parser.error(f"argument --images: there is no {args.images}")
    if args.classes and (not args.images or os.path.isdir(args.images)):
        parser.error("--classes names the labels of a .rec: give one with --images")
    return args


def load_network(args):
    """Read the network that makes the codes."""
    if args.model == DEFAULT_MODEL:
        return load_resnet_152(args.data_dir, args.offline)
    code_layer = args.code_layer or "fc1_output"
    return load_code_layer(args.model, code_layer, args.image_shape, args.mean_rgb)


def collect(encode, batches, shape, stopped):
    """Return the codes, thumbnails and labels of all batches, or of those before it is stopped."""
    count, _ = shape
    codes = np.empty(shape, np.float32)
    pictures = np.empty((count, 3, THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)
    labels = np.empty(count, np.int32)
    done = 0
    bar = tqdm(total=count, unit="picture", disable=None)
    with bar, contextlib.closing(batches):
        for batch in batches:
            if stopped:
                break
            rows = slice(done, done + len(batch.labels))
            codes[rows] = encode(batch.images)
            require_numbers(codes[rows])
            pictures[rows] = thumbnails(batch.images, THUMBNAIL_SIDE)
            labels[rows] = batch.labels
            done = rows.stop
            bar.update(len(batch.labels))
    return codes[:done], pictures[:done], labels[:done]


def save(args, arrays, picture_set, net, encoder):
    """Write the codes, and what one should know of them."""
    codes, pictures, labels = arrays
    labels, class_names = name_labels(labels, picture_set.classes)
    shown = f"{len(codes):,} of {len(picture_set.records):,}, at random."
    description = {
        "class_names": class_names,
        "pictures": f"{picture_set.source} {shown}",
        "weights": net.source,
        "precision": encoder.precision,
        "cosine": encoder.cosine,
        "seed": args.seed,
    }
    save_codes(args.data_dir, Path(args.model).name, codes, pictures, labels, description)


def same_arguments(args):
    """Return what the next script needs to find these codes."""
    arguments = []
    if args.model != DEFAULT_MODEL:
        arguments += ["--model", args.model]
    if args.data_dir != "./data":
        arguments += ["--data-dir", args.data_dir]
    return shlex.join(arguments)


def main():
    """Run the network over the pictures, and keep what it says of each."""
    args = parse_args()
    ctx = cli.context(args.ctx)
    precisions = candidates(args.dtype, ctx)
    cli.make_folder(args.data_dir)
    net = load_network(args)
    size = code_size(net, args.image_shape)
    picture_set = load_picture_set(args.images, args.classes, size, args.data_dir, args.offline)
    keys = picture_set.records.draw(args.max_num_images, args.seed)
    if len(keys) < args.max_num_images:
        cli.notice(f"there are {len(keys):,} pictures, no more: all of them are taken")

    batch_shape = (min(args.batch_size, len(keys)), *args.image_shape)
    batches = picture_set.records.batches(keys, batch_shape[0], args.image_shape)
    sample, batches = peek(batches, SAMPLE_COUNT)
    encoder = make_encoder(net, precisions, ctx, batch_shape, sample)

    started = time.perf_counter()
    with cli.held_signals() as stopped:
        arrays = collect(encoder.encode, batches, (len(keys), size), stopped)
        seconds = time.perf_counter() - started
        count = len(arrays[0])
        if count:
            save(args, arrays, picture_set, net, encoder)
            if stopped:
                cli.notice(f"the {count:,} codes that were there are kept")

    print(f"{count:,} codes of {size:,} numbers: {count / seconds:.1f} pictures a second")
    print(f"To log them: python plot_convnet_embedding.py {same_arguments(args)}".rstrip())


if __name__ == "__main__":
    cli.run(main)
