import mxnet as mx
import pytest
from conftest import read_log
from mxboard import SummaryWriter


@pytest.mark.parametrize("kind", ["symbol", "block"])
def test_graph_holds_the_layers_of_a_symbol_or_a_block(kind, tmp_path):
    net = mx.gluon.nn.HybridSequential(prefix="")
    net.add(mx.gluon.nn.Dense(3, activation="relu", prefix="one_"))
    if kind == "symbol":
        net = net(mx.sym.Variable("data"))
    else:
        net.initialize()
        net.hybridize()
        net(mx.nd.ones((1, 2)))
    with SummaryWriter(str(tmp_path)) as sw:
        sw.add_graph(net)
    inputs = {node.name: list(node.input) for node in read_log(tmp_path).Graph().node}
    assert inputs["one_fwd/one_fwd"] == ["data", "one_fwd/one_weight", "one_fwd/one_bias"]
    assert inputs["one_relu_fwd/one_relu_fwd"] == ["one_fwd/one_fwd"]
