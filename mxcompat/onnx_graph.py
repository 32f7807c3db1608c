"""Builds the ONNX model of a symbol; `onnx_ops` says what each of MXNet's operators becomes."""

import ast
import contextlib
import functools
import importlib.util
import json
import re
import sys
import types

import mxnet as mx
import numpy as np
import onnx
from onnx import helper, numpy_helper

from . import onnx_detection  # noqa: F401 (adds its translations)
from .checkpoints import inputs_of, needed_nodes, node_inputs
from .onnx_ops import RANDOM, TRANSLATIONS

OPERATOR_SET = 13  # which every runtime reads
IR_VERSION = 7  # of the same time
BOOL_RESULTS = {"Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "IsNaN"}
BOOL_RESULTS |= {"And", "Or", "Xor", "Not"}
INT64_RESULTS = {"Shape", "Size", "ArgMax", "ArgMin", "NonMaxSuppression"}


class Tensor:
    """A tensor of the graph that is built; Python's operators add the nodes that compute them.

    Its shape has None for a size that depends on the input, and is None inside an operator. Its
    value is an array if it is a constant.
    """

    def __init__(self, graph, name, dtype, shape=None, value=None):
        self.graph, self.name, self.dtype = graph, name, np.dtype(dtype)
        self.shape, self.value = shape, value

    @property
    def rank(self):
        """The number of axes."""
        return len(self.shape)

    def __neg__(self):
        return self.graph.Neg(self)

    def __abs__(self):
        return self.graph.Abs(self)

    def __invert__(self):
        return self.graph.Not(self)


def _add_operator(name, op):
    setattr(Tensor, f"__{name}__", lambda x, y: x.graph.node(op, x, y))
    setattr(Tensor, f"__r{name}__", lambda y, x: y.graph.node(op, x, y))


OPERATORS = (
    "add Add, sub Sub, mul Mul, truediv Div, floordiv Div, pow Pow, lt Less, le LessOrEqual, "
    "gt Greater, ge GreaterOrEqual, and And, or Or, xor Xor"
)
for _pair in OPERATORS.split(", "):
    _add_operator(*_pair.split())


class Graph:
    """An ONNX graph; ``graph.Relu(x)`` adds a node and returns its output.

    Among a node's inputs a list stands for int64 numbers, some of which may be tensors of one; a
    number has the type of the first tensor; None leaves an input out.
    """

    def __init__(self):
        self.owner = ""  # the MXNet node that is translated
        self.outputs = ()  # the shape and dtype of each of its outputs
        self.nodes, self.constants = [], {}

    def __getattr__(self, op):
        return functools.partial(self.node, op)

    def node(self, op, *inputs, outputs=1, dtype=None, dtypes=None, **attrs):
        """Add a node; return its output, or a list of `outputs` if there are several."""
        typed = inputs[1:] if op == "Where" else inputs
        like = next((x.dtype for x in typed if isinstance(x, (Tensor, np.ndarray))), np.float32)
        inputs = [self.tensor(each, like) for each in inputs]
        if dtype is None:
            dtype = bool if op in BOOL_RESULTS else np.int64 if op in INT64_RESULTS else like
        dtypes = dtypes or [dtype] * outputs
        results = [Tensor(self, f"{self.owner}/{op}", each) for each in dtypes]
        attrs = {name: value for name, value in attrs.items() if value is not None}
        self.nodes.append((op, inputs, results, attrs))
        return results[0] if outputs == 1 else results

    def tensor(self, value, dtype=np.int64):
        """Return a tensor of an array, a list of int64, or a number of type `dtype`."""
        if value is None or isinstance(value, Tensor):
            return value
        if isinstance(value, (list, tuple)):
            if any(isinstance(each, Tensor) for each in value):
                items = (each if isinstance(each, Tensor) else [each] for each in value)
                return self.Concat(*map(self.tensor, items), axis=0)
            return self.constant(np.array(value, np.int64))
        if isinstance(value, np.ndarray):
            return self.constant(value)
        return self.constant(np.asarray(value).astype(dtype))

    def constant(self, value):
        """Return the tensor of an array, the same for equal ones."""
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self.constants:
            name = f"{self.owner}/constant"
            self.constants[key] = Tensor(self, name, value.dtype, value.shape, value)
        return self.constants[key]

    def cast(self, x, dtype):
        """Return a tensor as another type."""
        dtype = np.dtype(dtype)
        if x.dtype == dtype:
            return x
        if x.value is not None:
            return self.constant(x.value.astype(dtype))
        return self.node("Cast", x, dtype=dtype, to=helper.np_dtype_to_tensor_dtype(dtype))

    def dim(self, x, axis):
        """Return a size of `x`: a number, or a tensor of one if it depends on the input."""
        axis %= x.rank
        if x.shape[axis] is None:
            return self.Slice(self.Shape(x), [axis], [axis + 1])
        return x.shape[axis]

    def dims(self, x):
        """Return all sizes of `x`, as `dim` does."""
        return [self.dim(x, axis) for axis in range(x.rank)]

    def size(self, x, axis):
        """Return a size of `x`, which must not depend on the input."""
        if x.shape[axis] is None:
            raise NotImplementedError(f"an input whose axis {axis} is of any size")
        return x.shape[axis]

    def count(self, size):
        """Return 0, 1, 2, ... as int64."""
        if not isinstance(size, Tensor):
            return self.constant(np.arange(size))
        return self.Range(self.constant(np.array(0)), self.Squeeze(size, [0]), 1, dtype=np.int64)

    def reshape(self, x, *sizes):
        """Return a tensor in another shape; 0 keeps a size, -1 is what is left."""
        if x.value is not None and not any(isinstance(each, Tensor) for each in sizes):
            return self.constant(x.value.reshape(sizes))
        return self.Reshape(x, sizes)

    def transpose(self, x, *axes):
        """Return a tensor with its axes in another order."""
        result = self.Transpose(x, perm=axes)
        result.shape = x.shape and tuple(x.shape[axis] for axis in axes)
        return result


def parse(node):
    """Return a node's attributes, which are text, as Python's values, and MXNet's defaults."""
    known, values = mx.operator.get_operator_arguments(node["op"]), {}
    kinds = dict(zip(known.names, known.types))
    defaults = {name: kind.partition("default=")[2].strip("'") for name, kind in kinds.items()}
    for name, text in {**defaults, **node.get("attrs", {})}.items():
        kind = kinds.get(name, "")
        try:
            value = ast.literal_eval(re.sub(r"(?<=\d)L", "", text))  # Python 2's (3L, 3L)
        except (ValueError, SyntaxError):
            value = text
        if value is not None and kind.startswith(("float", "double", "boolean")) and text:
            value = bool(value) if kind.startswith("boolean") else float(value)
        elif value is not None and kind.startswith(("Shape", "tuple")):
            value = tuple(value) if isinstance(value, (tuple, list)) else (value,)
        values[name] = value
    return values


def _infer(symbol, params, shapes, dtypes):
    """Return the shape and dtype of each output of a symbol."""
    names = set(symbol.list_inputs())
    arrays = {name: array for name, array in params.items() if name in names}
    known = {name: tuple(shape) for name, shape in shapes.items()}
    known.update((name, array.shape) for name, array in arrays.items())
    # What MXNet prints when it cannot is no help to a user.
    with contextlib.redirect_stdout(None):
        _, found, _ = symbol.infer_shape(**known)
        _, types, _ = symbol.infer_type(**{n: a.dtype for n, a in arrays.items()}, **dtypes)
    if found is None or types is None:
        raise ValueError("the shapes of the inputs do not tell all others")
    return [(shape, np.dtype(dtype)) for shape, dtype in zip(found, types)]


def _infer_open(symbol, params, shapes, dtypes, dims):
    """Return the shape and dtype of each output, with the names, or None, of sizes that vary.

    A size varies if it changes with a size of an input that `dims` leaves open.
    """
    found = _infer(symbol, params, shapes, dtypes)
    sizes = [list(shape) for shape, _ in found]
    for places, size, name in _open_sizes(shapes, dims):
        for larger in (size + 1, size * 2):
            varied = {each: list(shape) for each, shape in shapes.items()}
            for each, axis in places:
                varied[each][axis] = larger
            try:
                others = _infer(symbol, params, varied, dtypes)
                break
            except mx.MXNetError:
                if name and larger != size + 1:
                    raise
        else:
            continue  # The network's parameters, or another input, allow no other size.
        for known, (shape, _), (other, _) in zip(sizes, found, others):
            if len(shape) != len(other):
                raise NotImplementedError("axes that come and go with the size of an input")
            for axis, (before, after) in enumerate(zip(shape, other)):
                if before != after:
                    known[axis] = name if (before, after) == (size, larger) else None
    return [(tuple(known), dtype) for known, (_, dtype) in zip(sizes, found)]


def _open_sizes(shapes, dims):
    """List the sizes that vary together: which axes of which inputs, the size and its name."""
    together = {}
    for each, shape in dims.items():
        for axis, name in enumerate(shape):
            if not isinstance(name, int):
                places, *_ = together.setdefault(
                    name or (each, axis), ([], shapes[each][axis], name)
                )
                places.append((each, axis))
    return list(together.values())


def _compute(node, arguments, count):
    """Return the outputs of a node of which all inputs are constants."""
    names = [f"input{number}" for number in range(len(arguments))]
    nodes = [{"op": "null", "name": name, "inputs": []} for name in names]
    nodes.append({**node, "inputs": [[number, 0, 0] for number in range(len(names))]})
    heads = [[len(names), output, 0] for output in range(count)]
    graph = {"nodes": nodes, "arg_nodes": list(range(len(names))), "heads": heads}
    graph["attrs"] = {"mxnet_version": ["int", 10901]}
    symbol = mx.sym.load_json(json.dumps(graph))
    arrays = {n: mx.nd.array(each.value, dtype=each.dtype) for n, each in zip(names, arguments)}
    states = {name: arrays.pop(name) for name in symbol.list_auxiliary_states()}
    executor = symbol.bind(mx.cpu(), arrays, aux_states=states, grad_req="null")
    return [output.asnumpy() for output in executor.forward(is_train=False)]


def plain_name(name):
    """Return the name that MXNet's exporter has always given to an output."""
    for ending, number in (("_statecell_output", "2"), ("_state_output", "1"), ("_output", "")):
        if name.endswith(ending):
            return name[: -len(ending)] + number
    return re.sub(r"_output(\d+)$", r"\1", name)


def build(symbol, params, shapes, dtypes, dims=None):
    """Return the ONNX model of what a symbol computes when it predicts.

    `shapes` and `dtypes` are those of the inputs, by name, and so are `dims`: tuples that have a
    name (str) or None for each size that may be another.
    """
    internals = symbol.get_internals()
    graph = json.loads(internals.tojson())
    nodes, places = graph["nodes"], [tuple(place[:2]) for place in graph["heads"]]
    heads = [tuple(head[:2]) for head in json.loads(symbol.tojson())["heads"]]
    needed = sorted(needed_nodes(nodes, heads))
    if unknown := sorted({nodes[index]["op"] for index in needed} - {"null", *TRANSLATIONS}):
        raise NotImplementedError(f"ONNX has no words for {', '.join(unknown)}")
    found = dict(zip(places, _infer_open(internals, params, shapes, dtypes, dims or {})))
    names = dict(zip(places, internals.list_outputs()))

    g, tensors, inputs = Graph(), {}, {}
    for index in needed:
        node, numbers = nodes[index], [place for place in places if place[0] == index]
        g.owner, op = node["name"], node["op"]
        g.outputs = [
            (tuple(size if isinstance(size, int) else None for size in shape), dtype)
            for shape, dtype in map(found.get, numbers)
        ]
        try:
            arguments = [_look_up(tensors, nodes, place) for place in node_inputs(node)]
            if op == "null":
                results = [_variable(g, params)]
            elif op not in RANDOM and _is_constant(g, arguments):
                results = _compute(node, arguments, len(numbers))
            else:
                results = TRANSLATIONS[op](g, parse(node), *arguments)
        except NotImplementedError as error:
            words = f"ONNX has no words for {op} ({g.owner}) with {error}"
            raise NotImplementedError(words) from None
        results = results if isinstance(results, (list, tuple)) else [results]
        for place, (shape, dtype), result in zip(numbers, g.outputs, results):
            result = tensors[place] = g.cast(g.tensor(result), dtype)
            if result.value is None:
                result.shape = shape
                if result.name.startswith(f"{g.owner}/"):
                    result.name = plain_name(names[place])
        if g.owner in shapes:
            inputs[tensors[index, 0]] = found[index, 0][0]
    outputs = [
        (plain_name(name), _look_up(tensors, nodes, head), found[head][0])
        for name, head in zip(symbol.list_outputs(), heads)
    ]
    return _serialize(g, inputs, outputs)


def _look_up(tensors, nodes, place):
    if place not in tensors:
        node = nodes[place[0]]
        raise NotImplementedError(f"output {place[1]} of {node['op']} ({node['name']})")
    return tensors[place]


def _variable(g, params):
    (shape, dtype) = g.outputs[0]
    if g.owner not in params:
        return Tensor(g, g.owner, dtype, shape)
    value = params[g.owner].asnumpy()
    return g.constants.setdefault(g.owner, Tensor(g, g.owner, value.dtype, value.shape, value))


def _is_constant(g, arguments):
    is_fixed = all(None not in shape for shape, _ in g.outputs)
    return arguments and is_fixed and all(each.value is not None for each in arguments)


def _serialize(g, inputs, outputs):
    """Name all tensors, and write the graph down."""
    ends = {}
    for name, tensor, shape in outputs:
        if tensor in inputs or tensor in ends or tensor.value is not None:
            g.owner = name
            tensor = g.Identity(tensor)
        tensor.name = name
        ends[tensor] = shape
    used = [tensor for _, sources, _, _ in g.nodes for tensor in sources if tensor is not None]
    constants = list(dict.fromkeys(tensor for tensor in used if tensor.value is not None))
    results = [tensor for _, _, tensors, _ in g.nodes for tensor in tensors]
    taken = set()
    for tensor in dict.fromkeys([*inputs, *ends, *constants, *results]):
        name, number = tensor.name, 0
        while tensor.name in taken:
            number += 1
            tensor.name = f"{name}_{number}"
        taken.add(tensor.name)
    nodes = []
    for op, sources, targets, attrs in g.nodes:
        names = [[tensor.name if tensor else "" for tensor in each] for each in (sources, targets)]
        nodes.append(helper.make_node(op, *names, name=targets[0].name, **attrs))
    values = [
        [
            helper.make_tensor_value_info(
                tensor.name, helper.np_dtype_to_tensor_dtype(tensor.dtype), shape
            )
            for tensor, shape in each.items()
        ]
        for each in (inputs, ends)
    ]
    arrays = [numpy_helper.from_array(tensor.value, tensor.name) for tensor in constants]
    opset = helper.make_opsetid("", OPERATOR_SET)
    graph = helper.make_graph(nodes, "mxnet", *values, arrays)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model


def export_model(
    sym,
    params,
    in_shapes=None,
    in_types=np.float32,
    onnx_file_path="model.onnx",
    verbose=False,
    dynamic=False,
    dynamic_input_shapes=None,
    run_shape_inference=False,
    input_type=None,
    input_shape=None,
):
    """Write a network as ONNX; the same call as MXNet's own, in whose place it stands.

    Parameters
    ----------
    sym : str or mxnet.symbol.Symbol
        The network, or its file NAME-symbol.json.
    params : str, dict or list of two dicts
        The parameters, with or without "arg:" and "aux:", or their file NAME-0000.params.
    in_shapes : list of tuple of int
        The shape of each input, without those of labels.
    in_types : dtype or list of dtype
        The type of each input.
    onnx_file_path : str
        Where to write the model.
    dynamic : bool
        Whether the inputs may have other sizes too: all, or those of `dynamic_input_shapes`.
    dynamic_input_shapes : list of tuple, optional
        The shape of each input, with names (str) or None for sizes that may be others.
    verbose, run_shape_inference : bool
        Ignored: shapes are inferred anyway.
    input_type, input_shape
        The old names of `in_types` and `in_shapes`.

    Returns
    -------
    str
        `onnx_file_path`.

    Raises
    ------
    NotImplementedError
        ONNX has no words for an operator, which the message names.
    ValueError
        There are not as many shapes or types as inputs.
    """
    if isinstance(sym, str):
        sym = mx.sym.load(sym)
    if isinstance(params, str):
        params = mx.nd.load(params)
    if isinstance(params, (list, tuple)):
        params = {**params[0], **params[1]}
    params = {re.sub("^(arg|aux):", "", name): array for name, array in params.items()}
    in_shapes, in_types = input_shape or in_shapes, input_type or in_types
    names = inputs_of(sym, params)
    if not isinstance(in_types, (list, tuple)):
        in_types = [in_types] * len(in_shapes)
    if not len(names) == len(in_shapes) == len(in_types):
        raise ValueError(
            f"the network has {len(names)} inputs that are no parameters ({', '.join(names)}), "
            f"and there are {len(in_shapes)} shapes and {len(in_types)} types"
        )
    dims = dynamic_input_shapes or [(None,) * len(shape) for shape in in_shapes]
    shapes, types, dims = (dict(zip(names, each)) for each in (in_shapes, in_types, dims))
    model = build(sym, params, shapes, types, dims if dynamic else None)
    with open(onnx_file_path, "wb") as file:
        file.write(model.SerializeToString())
    return onnx_file_path


def mend():
    """Put `export_model` in the place of MXNet's own, and `onnx.mapping` back for its importer."""
    is_there = "onnx.mapping" in sys.modules  # put back by somebody else, and with no spec
    if not is_there and not importlib.util.find_spec("onnx.mapping"):
        numbers = helper.get_all_tensor_dtypes()
        dtypes = {number: helper.tensor_dtype_to_np_dtype(number) for number in numbers}
        mapping = onnx.mapping = sys.modules["onnx.mapping"] = types.ModuleType("onnx.mapping")
        mapping.TENSOR_TYPE_TO_NP_TYPE = dtypes
        mapping.NP_TYPE_TO_TENSOR_TYPE = {
            dtype: helper.np_dtype_to_tensor_dtype(dtype) for dtype in dtypes.values()
        }
    for module in (mx.onnx.mx2onnx._export_model, mx.onnx.mx2onnx, mx.onnx):
        module.export_model = export_model
        module.get_operator_support = lambda opset_version=None: sorted(TRANSLATIONS)
    mx.contrib.onnx.export_model_ = export_model
