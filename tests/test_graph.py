from posixpath import dirname

import mxnet as mx
import pytest
from helpers import read_log
from mxboard.summary import _net2pb

DATA, WEIGHT = mx.sym.Variable("data"), mx.sym.Variable("layer_weight")
ZOO = mx.gluon.model_zoo.vision


def dense(*inputs, name="layer", **named):
    return mx.sym.FullyConnected(*inputs, num_hidden=3, no_bias=True, name=name, **named)


def run(block, *shape):
    block.initialize()
    block.hybridize()
    block(mx.nd.ones(shape))
    return block


@pytest.fixture
def log_graph(sw, tmp_path):
    """Log a network; return its nodes by name, in their order."""

    def log_graph(net, input_shapes=None):
        sw.add_graph(net, input_shapes)
        return {node.name: node for node in read_log(tmp_path).Graph().node}

    return log_graph


def shapes(node):
    listed = node.attr["_output_shapes"].list.shape
    return [None if each.unknown_rank else [dim.size for dim in each.dim] for each in listed]


def chain(*names):
    net = DATA
    for name in names:
        net = dense(net, name=name)
    return net


RELU = mx.gluon.nn.Dense(3, activation="relu", prefix="one_")
DENSE = mx.gluon.nn.Dense(3, prefix="one_")
HALVES = mx.sym.SliceChannel(mx.sym.var("input_1:0"), num_outputs=2, name="split:0")
LAYER = {"one/fwd": "data one/weight one/bias", "one/relu/fwd": "one/fwd"}
INPUTS = {
    "symbol": (RELU(DATA), LAYER),
    "block": (run(RELU, 1, 2), LAYER),
    "colons": (
        mx.sym.concat(HALVES[0], HALVES[1], name="both"),
        {"split.0/split.0": "input_1.0", "both/both": "split.0/split.0 split.0/split.0:1"},
    ),
    "layer used twice": (
        DENSE(DENSE(DATA)),
        {"one/fwd": "data one/weight one/bias", "one/fwd_2": "one/fwd one/weight one/bias"},
    ),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_operators_of_a_symbol_or_block_are_nodes_with_their_inputs(kind, log_graph):
    net, expected = INPUTS[kind]
    nodes = log_graph(net)
    assert {name: " ".join(each.input) for name, each in nodes.items() if each.input} == expected


TWICE = dense(dense(DATA, weight=WEIGHT), weight=WEIGHT, name="again")
MIX = mx.sym.dot(mx.sym.var("layer_mixture"), DATA, name="layer_dot")
BOTH = mx.sym.concat(mx.sym.var("input_left"), mx.sym.var("input_right"), name="both")
SOFTMAX = mx.sym.SoftmaxOutput(dense(DATA, weight=mx.sym.var("w")), name="softmax")
BN = "bn_data/gamma bn_data/beta bn_data/moving_mean bn_data/moving_var bn_data/bn_data"
NAMES = {
    "weight first": (dense(WEIGHT, DATA), "data layer/weight layer/layer"),
    "weight that says nothing": (MIX, "data layer/mixture layer/dot/dot"),
    "shared": (TWICE, "data layer/weight layer/layer again/again"),
    "inputs": (BOTH, "input_left input_right both/both"),
    "label": (SOFTMAX, "data w layer/layer softmax/label softmax/softmax"),
    "numbered": (chain("c_1", "c_2"), "data c_1/weight c_1/c_1 c_2/weight c_2/c_2"),
    "two words": (mx.sym.BatchNorm(DATA, name="bn_data"), f"data {BN}"),
    "slashes": (chain("n/a", "n/b"), "data n/a/weight n/a/a n/b/weight n/b/b"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_box_holds_the_parts_of_a_layer_and_words_that_name_none_stay_together(kind, log_graph):
    net, expected = NAMES[kind]
    assert set(log_graph(net)) == set(expected.split())


FIRST = chain("stage_unit1_a", "stage_unit1_b")
SECOND = dense(dense(FIRST, name="stage_unit2_a"), name="stage_unit2_b")
ONE = mx.gluon.nn.Dense(3, prefix="net_one_")(DATA)
ACTIVATED = mx.gluon.nn.Dense(3, activation="relu", prefix="net_two_")(DATA)


@pytest.mark.parametrize(
    ("first", "second", "box"), [(SECOND, FIRST, "stage/unit2"), (ONE, ACTIVATED, "net")]
)
def test_sum_that_has_no_name_is_beside_the_last_layer_it_adds(first, second, box, log_graph):
    both = first + second
    assert f"{box}/{both.name}/{both.name}" in log_graph(both)


KNOWN = {
    "resnet152_v2": "conv0/fwd relu0/fwd stage1/batchnorm0/running_mean dense0/bias "
    "stage1/activation0/activation0 stage4/_plus2/_plus2",
    "mobilenet_v2_1_0": "features/linearbottleneck0/conv0/weight output/pred/fwd",
    "squeezenet1_0": "concat7/concat7",
    "inception_v3": "dense0/weight",
    "vgg11_bn": "conv0/bias",
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_networks_have_the_published_nodes_and_edges_in_boxes_of_layers(name, log_graph):
    symbol = getattr(ZOO, name)(prefix="net_")(DATA)
    nodes, published = list(log_graph(symbol).values()), _net2pb(symbol).node
    paths = {theirs.name: ours.name for theirs, ours in zip(published, nodes)}
    assert [node.op for node in nodes] == [node.op for node in published]
    edges = [[paths[each] for each in node.input] for node in published]
    assert [list(node.input) for node in nodes] == edges
    operators = [each for each in paths if "/" in each]  # OPERATOR/OPERATOR, OPERATOR/PARAMETER
    for each in operators:
        operator = each.split("/")[0]
        assert dirname(paths[each]) == dirname(paths[f"{operator}/{operator}"])
    assert {f"net/{each}" for each in KNOWN[name].split()} <= set(paths.values())


def test_edges_carry_the_shapes_that_follow_from_those_of_the_inputs(log_graph):
    halves = mx.sym.SliceChannel(dense(DATA, name="one"), num_outputs=3, axis=1, name="split")
    nodes = log_graph(mx.sym.dot(halves[2], WEIGHT, name="two"), {"data": (5, 2)})
    assert {name: shapes(node) for name, node in nodes.items()} == {
        "data": [[5, 2]],
        "one/weight": [[3, 2]],
        "one/one": [[5, 3]],
        "split/split": [[5, 1]] * 3,
        "layer_weight": [None],
        "two/two": [None],
    }
    # Which of its outputs, as TensorBoard looks for the shape.
    assert list(nodes["two/two"].input) == ["split/split:2", "layer_weight"]


@pytest.mark.parametrize("input_shapes", [None, {"data": (1, 2)}], ids=["not told", "impossible"])
def test_graph_whose_shapes_cannot_be_inferred_is_logged_without(input_shapes, log_graph):
    net = mx.sym.Convolution(DATA, kernel=(3, 3), num_filter=4, no_bias=True, name="conv")
    nodes = log_graph(net, input_shapes)
    assert [shapes(nodes[name]) for name in ("data", "conv/weight", "conv/conv")] == [[None]] * 3


def test_size_that_is_not_known_is_left_open(log_graph):
    nodes = log_graph(dense(DATA, weight=mx.sym.Variable("layer_weight", shape=(3, 0))))
    assert shapes(nodes["layer/weight"]) == [[3, -1]]


def test_weight_whose_size_came_with_the_first_batch_is_logged_with_it(log_graph):
    nodes = log_graph(run(mx.gluon.nn.Dense(3, prefix="layer_"), 5, 2), {"data": (5, 2)})
    assert nodes["layer/weight"].attr["__shape__"].s == b"(3, 2)"


def test_attributes_of_a_node_are_logged_one_by_one(log_graph):
    attributes = log_graph(dense(DATA))["layer/layer"].attr
    values = {name: attributes[name].s for name in attributes if name != "_output_shapes"}
    assert values == {"num_hidden": b"3", "no_bias": b"True"}


@pytest.mark.parametrize(
    ("net", "input_shapes", "error", "words"),
    [
        ("data", None, TypeError, "a Symbol or a HybridBlock, not str"),
        (mx.gluon.nn.Sequential(), None, TypeError, "a Symbol or a HybridBlock, not Sequential"),
        (mx.gluon.nn.Dense(3), None, RuntimeError, r"hybridize\(\)"),
        (DATA, {"picture": (1, 2)}, ValueError, "no input picture"),
    ],
)
def test_network_or_input_that_is_none_is_named(net, input_shapes, error, words, log_graph):
    with pytest.raises(error, match=words):
        log_graph(net, input_shapes)
