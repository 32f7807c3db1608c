"""A symbol as TensorBoard's graph."""

import functools
import json
import re

import mxnet as mx
from tensorboard.compat.proto.attr_value_pb2 import AttrValue
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef

# What MXNet calls the inputs of a network, and what the names of parameters end with.
INPUT = re.compile(r"data\d*$")
PARAMETER = re.compile(r".*(weight|bias|gamma|beta|mean|var)$")
# Arguments through which an operator takes data; its other arguments are its own.
DATA_ARGUMENTS = {"data", "lhs", "rhs", "args"}


def get_symbol(net):
    """Return the symbol of a symbol or a `HybridBlock`; errors are those of `add_graph`."""
    if isinstance(net, mx.sym.Symbol):
        return net
    if not isinstance(net, mx.gluon.HybridBlock):
        raise TypeError(f"a network is a Symbol or a HybridBlock, not {type(net).__name__}")
    if not net._cached_graph:
        raise RuntimeError("call the block's hybridize(), and the block itself, before add_graph()")
    return net._cached_graph[1]


def to_graph(symbol):
    """Convert a symbol to TensorBoard's graph.

    TensorBoard draws a box around the nodes that have the same name before a slash: around each
    operator, ``NAME/NAME``, and its parameters, ``NAME/PARAMETER``. The inputs of the network, and
    parameters that several operators share, stand by themselves.

    Parameters
    ----------
    symbol : mxnet.sym.Symbol
        The network.

    Returns
    -------
    GraphDef
        A node for each of the symbol's, in its order, with the attributes as JSON in ``param``.
    """
    nodes = json.loads(symbol.tojson())["nodes"]
    uses = [[] for _ in nodes]
    for user in nodes:
        for position, (index, *_) in enumerate(user["inputs"]):
            uses[index].append((user, position))
    names = [_path(*each) for each in zip(nodes, uses)]
    graph = GraphDef()
    for node, name in zip(nodes, names):
        inputs = [names[index] for index, *_ in node["inputs"]]
        converted = NodeDef(name=name, op=node["op"], input=inputs)
        if "attrs" in node:
            # TensorBoard would show quotation marks with backslashes.
            attributes = json.dumps(node["attrs"], sort_keys=True).replace('"', " ")
            converted.attr["param"].CopyFrom(AttrValue(s=attributes.encode()))
        graph.node.append(converted)
    return graph


def _path(node, uses):
    """Name a node, given the nodes that use it, each with the position among its inputs."""
    name = node["name"]
    if node["op"] != "null":
        return f"{name}/{name}"
    if len(uses) == 1:
        ((user, position),) = uses
        arguments = _arguments(user["op"])
        argument = arguments[min(position, len(arguments) - 1)]
        is_parameter = PARAMETER.match(name) or "__lr_mult__" in node.get("attrs", ())
        if is_parameter or not (INPUT.match(name) or argument in DATA_ARGUMENTS):
            return f"{user['name']}/{name}"
    return name


@functools.lru_cache(None)
def _arguments(operator):
    """Return the names of the arguments that an operator takes as inputs."""
    known = mx.operator.get_operator_arguments(operator)
    names = [name for name, kind in zip(known.names, known.types) if "Symbol" in kind]
    return names or ["data", "other"]
