"""Collect a network's codes of pictures, to walk through in TensorBoard's projector.

    python get_convnet_codes.py
    python plot_convnet_embedding.py
    tensorboard --logdir ./logs

A network's code of a picture is the output of its last fully connected layer. Pictures that look
alike to the network get codes that are alike, whatever their pixels are. Here ResNet-152 looks at
2,304 pictures of Imagenette, ten classes of ImageNet; the next script shows where it puts them.

Your own pictures, in a folder with one subfolder per class or in a RecordIO file, and your own
checkpoint:

    python get_convnet_codes.py --images PATH
    python get_convnet_codes.py --model PREFIX --mean-rgb R G B --std-rgb R G B
"""

import os

# Streams of one thread each do not wait for each other after every layer, as the threads of one
# stream do. More than two cores have not been measured.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
STREAMS = min(CORES, 4)
os.environ.setdefault("OMP_NUM_THREADS", str(CORES // STREAMS))
os.environ.setdefault("MXNET_CPU_WORKER_NTHREADS", str(STREAMS))

import itertools
import platform
import shlex
import threading
import time
from pathlib import Path

import mxcompat  # makes MXNet run on today's Python
from mxcompat.downloads import Files

import mxnet as mx
import numpy as np
from mxnet import gluon
from tqdm import tqdm

from common import cli
from common.checkpoints import choose_code_layer, load_checkpoint
from common.codes import DEFAULT_MODEL, Description, save_codes
from common.datasets import load_output_names, load_pictures
from common.errors import ScriptError, warn
from common.int8 import SAMPLE_COUNT, choose_dtype
from common.networks import load_resnet_152, make_network, readable_errors, warn_if_dead
from common.pictures import name_labels, shrink, stack_readable

THUMBNAIL_SIDE = 64  # pixels: a sprite sheet of 2,304 is then 3,072 pixels wide
BATCH_SIZE = 32  # enough to keep every core busy; a Ctrl-C waits for one batch


def parse_args():
    """Read the command line."""
    parser = cli.ArgumentParser(__doc__)
    add = parser.add_argument
    add("--max-num-images", type=cli.COUNT, default=2304, help="pictures, drawn at random")
    add("--model", type=cli.prefix, default=DEFAULT_MODEL, help="or your own checkpoint's prefix")
    add("--images", metavar="PATH", type=cli.path, help="your own pictures: a folder or a .rec")
    add("--image-shape", type=cli.image_shape, default="3,224,224", help="what the network takes")
    add("--code-layer", help="output of your checkpoint (default: the last before its softmax)")
    add("--classes", metavar="FILE", type=cli.path, help="names of the outputs, one per line")
    add("--batch-size", type=cli.COUNT, default=BATCH_SIZE, help="pictures at a time")
    dtypes = ("auto", "float32", "int8")
    add("--dtype", choices=dtypes, default="auto", help="auto: int8 if fast and good enough")
    add("--mean-rgb", metavar="R", nargs="+", type=cli.MEAN, help=cli.MEAN_HELP)
    add("--std-rgb", metavar="R", nargs="+", type=cli.STD, help=cli.STD_HELP)
    add("--ctx", choices=("auto", "gpu", "cpu"), default="auto", help="auto: a GPU if there is one")
    add("--seed", type=cli.SEED, default=42, help="seed of the random numbers")
    add("--data-dir", type=cli.path, default="./data", help="folder of downloads and codes")
    add("--offline", action="store_true", help="download nothing; use synthetic data instead")
    args = parser.parse_args()
    if args.model == DEFAULT_MODEL and (args.code_layer or args.mean_rgb or args.std_rgb):
        parser.error("--code-layer, --mean-rgb, --std-rgb: these need --model PREFIX")
    cli.check_channels(args, args.image_shape[0])
    if args.images is not None and not os.path.exists(args.images):
        parser.error(f"argument --images: there is no {args.images}")
    return args


def load_network(args, files):
    """Load the network up to its code layer."""
    if args.model == DEFAULT_MODEL:
        return load_resnet_152(files, args.image_shape)
    symbol, params, path = load_checkpoint(args.model)
    layer, is_output = choose_code_layer(symbol, args.code_layer, args.image_shape)
    # The scores before the softmax: probabilities would hide all classes but the most likely.
    code = symbol.get_internals()[layer]
    if args.mean_rgb or args.std_rgb:
        mean, std = tuple(args.mean_rgb or (0,)), tuple(args.std_rgb or (1,))
        code = code(data=mx.sym.image.normalize(mx.sym.var("data"), mean, std))
    about = {"weights": f"`{layer}` of `{path}`.", "is_output": is_output, "trained": True}
    return make_network(code, params, args.image_shape, path, **about)


def load_batches(pictures, indices, batch_size):
    """Read pictures in the order of their indices, some batches ahead, in threads."""
    return gluon.data.DataLoader(
        pictures,
        batch_size,
        sampler=indices,
        batchify_fn=stack_readable,
        num_workers=CORES,
        thread_pool=True,
        timeout=threading.TIMEOUT_MAX,  # a pause by Ctrl-Z may be long
    )


def collect(encoder, batches, shape, stopped):
    """Return the codes, thumbnails and labels of all batches, or of those before it is stopped."""
    count, _ = shape
    codes = np.empty(shape, np.float32)
    thumbnails = np.empty((count, 3, THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)
    labels = np.empty(count, np.int64)
    done = 0
    with readable_errors(), tqdm(total=count, unit="picture", disable=None) as bar:
        batches = itertools.takewhile(lambda _: not stopped, batches)
        for images, batch_labels, batch_codes in encoder.encode(batches):
            rows = slice(done, done + len(images))
            codes[rows], labels[rows] = batch_codes, batch_labels
            thumbnails[rows] = shrink(images, THUMBNAIL_SIDE)
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
    print(f"To log them: {shlex.join(command)}")


def main():
    """Load a network and pictures, run one over the others, and keep the codes."""
    args = parse_args()
    ctx = cli.context(args.ctx)
    cli.make_folder(args.data_dir)
    files = Files(args.data_dir, args.offline)
    pictures = load_pictures(args.images, args.image_shape, files)
    network = load_network(args, files)
    has_classes = network.about["is_output"] and network.about["trained"]
    outputs = network.code_size if has_classes else 0
    output_names = load_output_names(args.classes, outputs, files)

    indices = np.random.default_rng(args.seed).permutation(len(pictures))[: args.max_num_images]
    if len(indices) < args.max_num_images:
        warn(f"only {len(indices):,} pictures found: using all of them")
    sample = load_batches(pictures, indices[:SAMPLE_COUNT], args.batch_size)
    # On other processors MXNet must not compute in two threads at once.
    streams = STREAMS if ctx.device_type == "cpu" and platform.machine() == "x86_64" else 1
    encoder, precision, cosine = choose_dtype(
        network, args.dtype, sample, args.image_shape, ctx, streams
    )

    with cli.signals_held() as stopped:
        started = time.perf_counter()
        batches = load_batches(pictures, indices, args.batch_size)
        shape = (len(indices), network.code_size)
        codes, thumbnails, labels = collect(encoder, batches, shape, stopped)
        seconds = time.perf_counter() - started
        pictures.report()
        if len(codes):
            warn_if_dead(codes)
            labels, class_names = name_labels(labels, pictures.classes or output_names)
            description = Description(
                class_names=class_names,
                pictures=f"{pictures.source} {len(codes):,} of {len(pictures):,}, at random.",
                **network.about,
                output_names=output_names,
                precision=precision,
                cosine=cosine,
                seed=args.seed,
            )
            name = Path(args.model).name
            save_codes(args.data_dir, name, codes, thumbnails, labels, description)
        elif not stopped:
            raise ScriptError(f"no picture of {args.images} can be read: choose others")
        if stopped:
            warn(f"stopped early: saved {len(codes):,} codes")

    speed = f"{len(codes) / seconds:.1f} pictures per second"
    print(f"{len(codes):,} codes of {network.code_size:,} numbers: {speed}")
    tell_what_is_next(args)


if __name__ == "__main__":
    cli.run(main)
