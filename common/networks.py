"""Networks that make codes of pictures: a checkpoint's, or ResNet-152."""

import contextlib
import functools
import itertools
import json
from collections import Counter
from typing import NamedTuple

from mxcompat.old_downloads import fetch_weights

import mxnet as mx
import numpy as np
from mxnet import nd
from mxnet.gluon.model_zoo import vision

import mxfiles

from .checkpoints import fit_params
from .datasets import fetch_or_warn
from .errors import ScriptError, warn
from .synthetic import draw_weights

# What Gluon's networks were trained on: pixels of 0 to 1, less the mean, by the deviation.
GLUON_MEAN_RGB = (0.485, 0.456, 0.406)
GLUON_STD_RGB = (0.229, 0.224, 0.225)
# What MXNet may fuse with the convolution that it reads.
FUSED = {"BatchNorm", "Activation", "LeakyReLU", "clip", "elemwise_add"}
PART = 8  # pictures that a stream takes at a time: larger parts leave the caches


class Network(NamedTuple):
    """A network that makes codes, (N, code_size), of pictures of 0 to 255, (N, C, H, W)."""

    symbol: mx.sym.Symbol
    params: dict  # float32 arrays by name
    code_size: int
    about: dict  # `weights`, `is_output` and `trained`, as `codes.Description` has them


def make_network(symbol, params, image_shape, path, **about):
    """Make a network of a symbol and the parameters that it takes from those in a file."""
    symbol = _mend_fusing(mx.sym.flatten(symbol))
    shapes, (_, size) = fit_params(symbol, params, image_shape, path)
    params = {name: params[name].astype("float32", copy=False) for name in shapes}
    return Network(symbol, params, size, about)


def _mend_fusing(symbol):
    """Return a symbol of the same outputs that MXNet fuses without a mistake."""
    graph = json.loads(symbol.tojson())
    nodes = graph["nodes"]
    readers = Counter(i for node in nodes if node["op"] in FUSED for i, *_ in node["inputs"])
    for node in list(nodes):
        if node["op"] == "FullyConnected" and node["attrs"].get("flatten") != "False":
            # A dense layer whose input is in oneDNN's layout is an error.
            name, source = f"{node['name']}_input", node["inputs"][0]
            node["inputs"][0] = [len(nodes), 0, 0]
            nodes.append({"op": "Flatten", "name": name, "inputs": [source]})
        elif node["op"] == "elemwise_add":
            # A sum that reads a convolution directly and through other layers cannot be fused with
            # it; MXNet then overlooks the sum, and gives it the next layer's output.
            sources = [
                i for i, *_ in node["inputs"] if nodes[i]["op"] in ("Convolution", "BatchNorm")
            ]
            if any(readers[i] > 1 for i in sources):
                node["op"] = "broadcast_add"  # the same, but never fused
    return mx.sym.load_json(json.dumps(graph))


class Encoder:
    """Makes codes of pictures in one or more streams, each with a part of the batch.

    MXNet computes a network layer by layer, and at the end of each layer its threads wait for each
    other. Streams of one thread each do not. All are driven from one Python thread: in two, MXNet
    hangs or dies once in a few hundred runs.
    """

    def __init__(self, symbol, params, image_shape, ctx, streams=1, part=PART):
        self._ctx, self._part, self._executors = ctx, part, []
        nodes = json.loads(symbol.tojson())["nodes"]
        inputs = [node["inputs"] for node in nodes if node["op"] == "Deconvolution"]
        # Each stream has its own of what MXNet rearranges in place, and of states, which it locks.
        own = {nodes[index]["name"] for each in inputs for index, *_ in each}
        own.update(symbol.list_auxiliary_states())
        for _ in range(streams):
            arrays = {name: each.copy() if name in own else each for name, each in params.items()}
            arrays["data"] = nd.zeros((part, *image_shape), ctx)
            args = [arrays[name] for name in symbol.list_arguments()]
            states = [arrays[name] for name in symbol.list_auxiliary_states()]
            self._executors.append(symbol.bind(ctx, args, grad_req="null", aux_states=states))

    def start(self, images):
        """Start on (n, C, H, W) uint8 pictures; return a function that waits for the outputs."""
        parts = []
        starts, shape = range(0, len(images), self._part), (self._part, *images.shape[1:])
        for start, executor in zip(starts, itertools.cycle(self._executors)):
            # The last part is filled up with its own pictures.
            part = np.resize(images[start : start + self._part], shape)
            pixels = nd.array(part, self._ctx, dtype="uint8").astype("float32")
            outputs = executor.forward(is_train=False, data=pixels)
            # Copies, before the stream's next part takes their place.
            parts.append([output.copy() for output in outputs])

        def wait():
            arrays = [[output.asnumpy() for output in outputs] for outputs in parts]
            return [np.concatenate(output)[: len(images)] for output in zip(*arrays)]

        return wait

    def encode(self, batches):
        """Yield pictures, labels and codes of each batch; the next one runs meanwhile."""
        running = None
        for images, labels in batches:
            if len(images):
                started = images, labels, self.start(images)
                if running:
                    yield _finish(*running)
                running = started
        if running:
            yield _finish(*running)


def _finish(images, labels, wait):
    (codes,) = wait()
    check_finite(codes)
    return images, labels, codes


def load_resnet_152(files, image_shape):
    """Return Gluon's ResNet-152 v2, trained on ImageNet, or at random if that cannot be had.

    Its code is what its last layer says of ImageNet's 1,000 classes.
    """
    with mx.name.NameManager():  # so that names do not go on counting from the last network's
        gluon_net = vision.resnet152_v2(prefix="")
    pixels = mx.sym.image.normalize(mx.sym.var("data") / 255, GLUON_MEAN_RGB, GLUON_STD_RGB)
    path, missing = fetch_or_warn(
        functools.partial(fetch_weights, files),
        ["resnet152_v2"],
        "using random weights instead; untrained codes group by color and texture only",
    )
    if missing:
        draw_weights(gluon_net)
        params = {name: each.data() for name, each in gluon_net.collect_params().items()}
        source = f"**Not trained:** a ResNet-152 with random weights ({missing})."
    else:
        params = {name: nd.array(array) for name, array in mxfiles.load(path).items()}
        source = f"ResNet-152 (Gluon's `resnet152_v2`), trained on ImageNet, from `{path}`."
    about = {"weights": source, "is_output": True, "trained": not missing}
    return make_network(gluon_net(pixels), params, image_shape, source, **about)


@contextlib.contextmanager
def readable_errors():
    """Turn MXNet's errors in a block into one line, and those about memory into `MemoryError`."""
    try:
        yield
    except mx.MXNetError as error:
        if "bad_alloc" in str(error) or "memory" in str(error).lower():
            raise MemoryError from error
        reason = str(error).strip().splitlines()[-1]
        raise ScriptError(f"MXNet cannot run this network: {reason}") from error


def check_finite(codes):
    """Make sure that codes can be compared."""
    if not np.isfinite(codes).all():
        raise ScriptError(
            "some codes are NaN or infinite: train the network again, or give the --image-shape, "
            "--mean-rgb and --std-rgb that it was trained with"
        )


def warn_if_dead(codes):
    """Say so if a network makes the same code of every picture."""
    if len(codes) > 1 and (codes == codes[0]).all():
        warn(
            "every picture has the same code: the pictures are all the same, or the network, or a "
            "layer of it, is dead"
        )
