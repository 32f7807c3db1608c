"""Networks that MXNet saved as PREFIX-symbol.json and PREFIX-NNNN.params."""

import json
import re
from pathlib import Path
from typing import NamedTuple, Optional

import mxnet as mx

import mxfiles

# Operators that follow pointers, run code or read files that a symbol names.
UNTRUSTED = re.compile(
    r"(_npi_)?Custom|_CustomFunction|_Native|_NDArray|_CachedOp.*|_sg_.*|(_npi)?_cv.*"
    r"|_contrib_(tvm|dgl).*|_backward_.*|_broadcast_backward"
)
# Heads of training: predicting, they read their first input and no label.
HEADS = {"SoftmaxOutput", "SVMOutput", "MakeLoss", "IdentityAttachKLSparseReg"}
HEADS |= {f"{kind}RegressionOutput" for kind in ("Linear", "Logistic", "MAE")}
# Raised by JSON of another shape, and by MXNet.
MALFORMED = (mx.MXNetError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


class Checkpoint(NamedTuple):
    """A network in float32."""

    symbol: mx.sym.Symbol
    params: dict  # arrays by name, without "arg:" and "aux:"
    path: Path  # of the parameters


def load_checkpoint(prefix: str, epoch: Optional[int] = None) -> Checkpoint:
    """Read a network, and mend what keeps an old or a converted one from running.

    Parameters
    ----------
    prefix : str
        What comes before ``-symbol.json`` in the name of its file.
    epoch : int, optional
        The number of the parameters, by default the highest there is.

    Raises
    ------
    FileNotFoundError
        A file is missing. The message is one line, as all are.
    ValueError
        A file is damaged, or has an operator that could run foreign code.
    """
    symbol_path = Path(f"{prefix}-symbol.json")
    pattern = re.compile(re.escape(Path(prefix).name) + r"-(\d{4,})\.params")
    numbered = {
        int(match[1]): symbol_path.parent / match[0]
        for match in map(pattern.fullmatch, (p.name for p in symbol_path.parent.glob("*.params")))
        if match
    }
    epoch = max(numbered, default=0) if epoch is None else epoch
    path = numbered.get(epoch, Path(f"{prefix}-{epoch:04}.params"))
    for each in (symbol_path, path):
        if not each.is_file():
            raise FileNotFoundError(_explain_missing(prefix, each))
    saved = mxfiles.load(path)
    if not isinstance(saved, dict):
        raise ValueError(f"{path} holds arrays without names: it is no checkpoint")
    # `arg:` and `aux:` stand before the names of parameters and of auxiliary states.
    params = {
        name.split(":", 1)[-1]: mx.nd.array(
            array, dtype="float32" if array.dtype.kind == "f" else array.dtype
        )
        for name, array in saved.items()
    }
    params.pop("data", None)  # some files hold all that an executor had
    text = symbol_path.read_text("utf-8", errors="replace")
    if text.startswith("version https://git-lfs"):
        raise ValueError(f"{symbol_path} is a Git LFS pointer: run git lfs pull")
    try:
        graph = json.loads(text)
        untrusted = _untrusted_operators(graph)
        symbol = None if untrusted else _mend(graph)
    except MALFORMED as error:
        reason = str(error).strip().splitlines()[-1]  # MXNet names an operator that it lacks
        raise ValueError(f"{symbol_path} cannot be read: {reason}") from error
    if untrusted:
        raise ValueError(f"{symbol_path} has the operator {untrusted[0]}, which is not trusted")
    return Checkpoint(symbol, params, path)


def prefix_of(path: str) -> str:
    """Return the prefix of a checkpoint, of which a shell may have completed a file's name."""
    return re.sub(r"-(symbol\.json|\d{4,}\.params)$", "", path)


def inputs_of(symbol: mx.sym.Symbol, params: dict) -> list:
    """Name the inputs that predicting needs, in MXNet's order: no labels."""
    graph = json.loads(symbol.tojson())
    needed = needed_nodes(graph["nodes"], graph["heads"])
    return [
        node["name"]
        for index, node in enumerate(graph["nodes"])
        if index in needed and node["op"] == "null" and node["name"] not in params
        if not node["name"].endswith("label")
    ]


def node_inputs(node: dict) -> list:
    """Return which outputs of which nodes a node reads: of a head of training not its label."""
    places = [(index, output) for index, output, *_ in node["inputs"]]
    return places[:1] if node["op"] in HEADS else places


def needed_nodes(nodes: list, heads: list) -> set:
    """Return the indices of the nodes that predicting needs."""
    needed = {index for index, *_ in heads}
    for index in reversed(range(len(nodes))):
        if index in needed:
            needed.update(each for each, _ in node_inputs(nodes[index]))
    return needed


def _explain_missing(prefix, missing):
    if any(Path(f"{prefix}{suffix}").is_file() for suffix in ("", ".params")):
        return (
            f"{missing} is missing: save_parameters writes no symbol; net.export({str(prefix)!r}) "
            "writes both, once the net is hybridized and has seen a picture"
        )
    return f"{missing} is missing: give what comes before -symbol.json in the network's name"


def _untrusted_operators(graph):
    """Name what reaches outside a graph, before MXNet loads it and acts on it."""
    names = [node["op"] for node in graph["nodes"] if UNTRUSTED.fullmatch(node["op"])]
    subgraphs = [each for node in graph["nodes"] for each in node.get("subgraphs", ())]
    return names + [name for subgraph in subgraphs for name in _untrusted_operators(subgraph)]


def _mend(graph):
    """Compute in float32, and work around checks of MXNet's that are wrong."""
    # MXNet brings the graphs of its older versions up to date.
    graph = json.loads(mx.sym.load_json(json.dumps(graph)).tojson())
    for node in graph["nodes"]:
        attrs = node.get("attrs", {})
        if node["op"] == "Pooling" and attrs.get("global_pool") in ("True", "1"):
            # A kernel larger than the map, which global pooling ignores, fails in int8.
            attrs["kernel"] = re.sub(r"\d+", "1", attrs.get("kernel", "(1, 1)"))
        if node["op"] == "FullyConnected":
            # Without its shape MXNet tells what it would have to be.
            graph["nodes"][node["inputs"][1][0]].get("attrs", {}).pop("__shape__", None)
        if attrs.get("dtype") in ("float16", "float64"):
            attrs["dtype"] = "float32"
        attrs.pop("__dtype__", None)
    return mx.sym.load_json(json.dumps(graph))
