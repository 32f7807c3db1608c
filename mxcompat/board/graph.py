"""A symbol as TensorBoard's graph."""

import json
import re
from collections import Counter, defaultdict
from posixpath import basename, dirname, join

import mxnet as mx
from tensorboard.compat.proto.graph_pb2 import GraphDef

# Where a name may be split: not after an underscore that begins a word, as in _plus0, and not
# before a digit, for conv_1 and conv_2 are two layers, and not two parts of one.
BREAK = re.compile(r"(?<=[^_/])_(?=[^\d/])")


def to_graph(net, input_shapes=None):
    """Convert a symbol or block to a `GraphDef`, given shapes of its inputs by their names."""
    if isinstance(net, mx.gluon.HybridBlock):
        if not net._cached_graph:
            raise RuntimeError("call the block's hybridize(), and the block, before add_graph()")
        net = net._cached_graph[1]
    elif not isinstance(net, mx.sym.Symbol):
        raise TypeError(f"a network is a Symbol or a HybridBlock, not {type(net).__name__}")
    for name in input_shapes or {}:
        if name not in net.list_arguments():
            raise ValueError(f"the network has no input {name}")
    # Every output of every node is one of its heads, by which shapes find their nodes.
    internals = net.get_internals()
    saved = json.loads(internals.tojson())
    for node in saved["nodes"]:
        node["name"] = node["name"].replace(":", ".")  # NAME:0 would be an output of NAME
    try:
        _, shapes, _ = internals.infer_shape_partial(**(input_shapes or {}))
    except mx.MXNetError:  # The network does not take inputs of these shapes.
        shapes = [()] * len(saved["heads"])
    names = _to_paths(saved["nodes"])
    graph = GraphDef()
    for node, name in zip(saved["nodes"], names):
        converted = graph.node.add(name=name, op=node["op"])
        for source, output, *_ in node["inputs"]:
            converted.input.append(f"{names[source]}:{output}" if output else names[source])
        for key, value in node.get("attrs", {}).items():
            converted.attr[key].s = value.encode()
    for (index, *_), shape in zip(saved["heads"], shapes):
        attributes = graph.node[index].attr
        if shape and "__shape__" in attributes:
            # Gluon's may have been saved before the sizes were known, and has zeros for them.
            attributes["__shape__"].s = str(tuple(shape)).encode()
        listed = attributes["_output_shapes"].list.shape.add(unknown_rank=not shape)
        for size in shape or ():
            listed.dim.add(size=size if size > 0 else -1)  # MXNet's 0 and TensorBoard's -1: unknown
    return graph


def _to_paths(nodes):
    """Name each node by a path; TensorBoard draws a box around nodes that begin alike.

    What several names begin with is a box if an operator is among them: dense0_weight and
    dense0_fwd are in the box dense0 as weight and fwd; but running_mean and running_var are two
    parameters, and running is nothing. Each operator has its own box, LAYER/fwd as Gluon
    calls it or else NAME/NAME: a node cannot have the name of a box that holds its parameters, and
    nodes called relu0, relu1, ... are taken out of the network by TensorBoard, as a series.
    """
    longer, operators = defaultdict(set), set()  # by beginning: the next longer ones; those of one
    for node in nodes:
        name = node["name"]
        begins = [*(name[: match.start()] for match in BREAK.finditer(name)), name]
        for begin, following in zip(begins, [*begins[1:], name]):
            longer[begin].add(following)
        if node["op"] != "null":
            operators.update(begins)
    boxes = {begin for begin in operators if len(longer[begin]) > 1}
    boxes.update(name[:-4] for name in operators if name.endswith("_fwd"))

    paths, layers, seen = [], set(), Counter()
    for node in nodes:
        path = BREAK.sub(lambda m: "/" if m.string[: m.start()] in boxes else "_", node["name"])
        if node["op"] == "null":
            layers.add(dirname(path))
        else:
            if path.startswith("_") and node["inputs"]:
                # Named by MXNet, as the sums of ResNet are: it goes beside the layer before it.
                box = dirname(dirname(paths[max(index for index, *_ in node["inputs"])]))
                path = join(dirname(box) if box in layers else box, path)
            if basename(path) != "fwd":
                path = join(path, basename(path))
        # The nodes of a layer that is used twice have one name, and TensorBoard would draw one.
        seen[path] += 1
        paths.append(path if seen[path] == 1 else f"{path}_{seen[path]}")
    return paths
