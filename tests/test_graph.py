import mxnet as mx
import pytest
from helpers import read_log
from mxboard import SummaryWriter
from mxboard.summary import _net2pb

DATA, WEIGHT = mx.sym.Variable("data"), mx.sym.Variable("layer_weight")


def dense(*inputs, name="layer", **named):
    return mx.sym.FullyConnected(*inputs, num_hidden=3, no_bias=True, name=name, **named)


class Mix(mx.gluon.HybridBlock):
    """Multiplies its weight, under a name that says nothing, by the data."""

    def __init__(self):
        super().__init__(prefix="layer_")
        with self.name_scope():
            self.mixture = self.params.get("mixture", shape=(3, 3))

    def hybrid_forward(self, F, x, mixture):  # noqa: N803
        return F.dot(mixture, x, name="dot")


def run(block, *shape):
    block.initialize()
    block.hybridize()
    block(mx.nd.ones(shape))
    return block


def logged_nodes(net, logdir):
    with SummaryWriter(logdir) as sw:
        sw.add_graph(net)
    return {node.name: list(node.input) for node in read_log(logdir).Graph().node}


@pytest.mark.parametrize("kind", ["symbol", "block"])
def test_graph_holds_the_layers_of_a_symbol_or_a_block(kind, tmp_path):
    net = mx.gluon.nn.HybridSequential(prefix="")
    net.add(mx.gluon.nn.Dense(3, activation="relu", prefix="one_"))
    inputs = logged_nodes(net(DATA) if kind == "symbol" else run(net, 1, 2), tmp_path)
    assert inputs["one_fwd/one_fwd"] == ["data", "one_fwd/one_weight", "one_fwd/one_bias"]
    assert inputs["one_relu_fwd/one_relu_fwd"] == ["one_fwd/one_fwd"]


@pytest.mark.parametrize(
    ("net", "nodes"),
    [
        (dense(WEIGHT, DATA), {"layer/layer_weight", "data", "layer/layer"}),
        (mx.sym.dot(WEIGHT, DATA, name="dot"), {"dot/layer_weight", "data", "dot/dot"}),
        (run(Mix(), 3, 3), {"layer_dot/layer_mixture", "data", "layer_dot/layer_dot"}),
        (
            dense(dense(DATA, weight=WEIGHT), weight=WEIGHT, name="again"),
            {"data", "layer_weight", "layer/layer", "again/again"},
        ),
        (
            mx.sym.concat(*map(mx.sym.Variable, ("left", "right")), name="both"),
            {"left", "right", "both/both"},
        ),
        (
            mx.sym.SoftmaxOutput(dense(DATA, weight=mx.sym.Variable("w")), name="softmax"),
            {"data", "layer/w", "layer/layer", "softmax/softmax_label", "softmax/softmax"},
        ),
    ],
    ids=["weight first", "dot", "block", "shared weight", "two inputs", "label"],
)
def test_parameter_is_in_the_layer_that_uses_it_and_an_input_or_a_shared_one_is_in_none(
    net, nodes, tmp_path
):
    assert set(logged_nodes(net, tmp_path)) == nodes


@pytest.mark.parametrize("name", ["vgg11_bn", "resnet18_v2", "inception_v3"])
def test_graphs_of_known_networks_are_as_published(name, tmp_path):
    symbol = getattr(mx.gluon.model_zoo.vision, name)()(DATA)
    with SummaryWriter(tmp_path) as sw:
        sw.add_graph(symbol)
    assert list(read_log(tmp_path).Graph().node) == list(_net2pb(symbol).node)


@pytest.mark.parametrize(
    ("net", "error", "words"),
    [
        ("data", TypeError, "a Symbol or a HybridBlock, not str"),
        (mx.gluon.nn.Sequential(), TypeError, "a Symbol or a HybridBlock, not Sequential"),
        (mx.gluon.nn.Dense(3), RuntimeError, r"hybridize\(\)"),
    ],
)
def test_what_has_no_graph_is_named(net, error, words, tmp_path):
    with SummaryWriter(tmp_path) as sw, pytest.raises(error, match=words):
        sw.add_graph(net)
