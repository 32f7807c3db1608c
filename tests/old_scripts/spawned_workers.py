"""Prepare data in processes that are spawned, which import MXNet anew."""

import multiprocessing

import mxnet as mx
import numpy as np


def resize(seed):
    """Draw a picture, resize it, and return the mean of its colors."""
    picture = np.random.RandomState(seed).randint(0, 255, (40, 60, 3)).astype(np.uint8)
    resized = mx.image.imresize(mx.nd.array(picture, dtype=np.uint8), 30, 20)
    return seed, resized.astype(np.float).mean(axis=(0, 1)).asnumpy().round(1).tolist()


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        for result in pool.imap(resize, range(3)):
            print(*result)
