"""Measure `get_convnet_codes.py` against the way it used to be written.

    python benchmarks/get_convnet_codes.py DATA_DIR

The old way: a Module with MXNet's own choice of threads, batches of 8, pictures resized one at a
time, arrays that grow by concatenation. It, ours in float32 and ours in the precision that it
chooses run in turn over the same 256 pictures, three times. What counts is the time it takes to
read, encode and keep them, without the set-up before.
"""

import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
# As it is before common sets what the programs to be measured set themselves.
ENVIRONMENT = dict(os.environ)

COUNT, ROUNDS, BATCH_SIZE = 256, 3, 8
IMAGE_SHAPE = (3, 224, 224)


def collect_as_published(prefix, rec):
    """Collect codes and thumbnails, and print the pictures a second."""
    # All that MXNet needs beside NumPy 1.26, so Python below 3.13; common would set more.
    np.bool = bool
    import mxnet as mx

    symbol, arg_params, aux_params = mx.model.load_checkpoint(prefix, 0)
    module = mx.mod.Module(symbol, label_names=None)
    module.bind(for_training=False, data_shapes=[("data", (BATCH_SIZE, *IMAGE_SHAPE))])
    module.set_params(arg_params, aux_params)
    pictures = mx.io.ImageRecordIter(
        path_imgrec=rec, data_shape=IMAGE_SHAPE, batch_size=BATCH_SIZE, preprocess_threads=4
    )

    arrays = None
    started = time.perf_counter()
    for number, batch in enumerate(pictures):
        if number * BATCH_SIZE == COUNT:
            break
        module.forward(batch, is_train=False)
        small = [
            mx.image.imresize(image.transpose((1, 2, 0)).astype("uint8"), 64, 64).expand_dims(0)
            for image in batch.data[0]
        ]
        new = [module.get_outputs()[0], mx.nd.concat(*small, dim=0), batch.label[0]]
        arrays = [mx.nd.concat(*pair, dim=0) for pair in zip(arrays, new)] if arrays else new
    mx.nd.waitall()
    print(f"{COUNT / (time.perf_counter() - started):.1f} pictures a second")


def prepare(data_dir):
    """Save ResNet-152 and its pictures for both; return the checkpoint's prefix, and the file."""
    from common.datasets import load_pictures
    from common.networks import load_resnet_152

    import mxnet as mx

    prefix, rec = str(Path(data_dir, "benchmark")), str(Path(data_dir, "benchmark.rec"))
    net, _, _ = load_resnet_152(data_dir, IMAGE_SHAPE, mx.cpu())
    net.hybridize()
    net(mx.nd.zeros((1, *IMAGE_SHAPE)))
    net.export(prefix)
    pictures = load_pictures(None, None, (3, 256, 256), 1000, data_dir)
    records = mx.recordio.MXRecordIO(rec, "w")
    for number in range(COUNT):
        image, label = pictures[number * len(pictures) // COUNT]
        header = mx.recordio.IRHeader(0, label, number, 0)
        records.write(mx.recordio.pack_img(header, image.transpose(1, 2, 0)[..., ::-1], 90))
    records.close()
    return prefix, rec


def pictures_per_second(command):
    """Run a command; return the figure that it prints."""
    output = subprocess.check_output([sys.executable, *command], env=ENVIRONMENT, text=True)
    return float(re.search(r"([\d.]+) pictures a second", output)[1])


def main():
    """Run both in turn and print the ratio of their medians."""
    if len(sys.argv) > 2:
        collect_as_published(*sys.argv[1:])
        return
    (data_dir,) = sys.argv[1:]
    prefix, rec = prepare(data_dir)
    ours = [ROOT / "get_convnet_codes.py", "--max-num-images", str(COUNT), "--data-dir", data_dir]
    ours += ["--model", prefix, "--code-layer", "dense0_fwd_output", "--images", rec, "--dtype"]
    commands = {
        "as published": [__file__, prefix, rec],
        "float32": [*ours, "float32"],
        "auto": [*ours, "auto"],
    }
    rounds = [[pictures_per_second(c) for c in commands.values()] for _ in range(ROUNDS)]
    published, *_ = medians = list(map(statistics.median, zip(*rounds)))
    for name, median in zip(commands, medians):
        print(f"{name}: {median:.1f} pictures a second, {median / published:.2f} times")


if __name__ == "__main__":
    main()
