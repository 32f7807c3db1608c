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


@pytest.fixture
def log_graph(tmp_path):
    """Log a network; return its nodes by name, in their order."""

    def log_graph(net, input_shapes=None):
        with SummaryWriter(tmp_path) as sw:
            sw.add_graph(net, input_shapes)
        return {node.name: node for node in read_log(tmp_path).Graph().node}

    return log_graph


def shapes(node):
    listed = node.attr["_output_shapes"].list.shape
    return [None if each.unknown_rank else [dim.size for dim in each.dim] for each in listed]


def chain(*names):
    """Return a symbol of dense layers of these names, one after the other."""
    net = DATA
    for name in names:
        net = dense(net, name=name)
    return net


@pytest.mark.parametrize("kind", ["symbol", "block"])
def test_graph_holds_the_layers_of_a_symbol_or_a_block(kind, log_graph):
    net = mx.gluon.nn.HybridSequential(prefix="")
    net.add(mx.gluon.nn.Dense(3, activation="relu", prefix="one_"))
    nodes = log_graph(net(DATA) if kind == "symbol" else run(net, 1, 2))
    assert {name: list(node.input) for name, node in nodes.items()} == {
        "data": [],
        "one/weight": [],
        "one/bias": [],
        "one/fwd": ["data", "one/weight", "one/bias"],
        "one/relu/fwd": ["one/fwd"],
    }


TWICE = dense(dense(DATA, weight=WEIGHT), weight=WEIGHT, name="again")
BOTH = mx.sym.concat(mx.sym.var("input_left"), mx.sym.var("input_right"), name="both")
SOFTMAX = mx.sym.SoftmaxOutput(dense(DATA, weight=mx.sym.var("w")), name="softmax")
BN = "bn_data/gamma bn_data/beta bn_data/moving_mean bn_data/moving_var bn_data/bn_data"
NAMES = {
    "weight first": (dense(WEIGHT, DATA), "data layer/weight layer/layer"),
    "block": (run(Mix(), 3, 3), "data layer/mixture layer/dot/dot"),
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


def test_sum_that_has_no_name_is_in_the_box_of_the_layers_it_adds(log_graph):
    first = chain("stage_unit1_a", "stage_unit1_b")
    second = dense(dense(first, name="stage_unit2_a"), name="stage_unit2_b") + first
    nodes = log_graph(second)
    (name,) = (name for name in nodes if "plus" in name)
    assert name.split("_plus")[0] == "stage/unit2/"
    assert list(nodes[name].input) == ["stage/unit2/b/b", "stage/unit1/b/b"]


def test_sum_after_an_activation_is_beside_the_layer_that_has_it(log_graph):
    one = mx.gluon.nn.Dense(3, prefix="net_one_")(DATA)
    both = one + mx.gluon.nn.Dense(3, activation="relu", prefix="net_two_")(DATA)
    assert both.name.startswith("_plus")
    assert f"net/{both.name}/{both.name}" in log_graph(both)


def test_colon_in_a_name_is_not_taken_for_the_number_of_an_output(log_graph):
    halves = mx.sym.SliceChannel(mx.sym.var("input_1:0"), num_outputs=2, name="split:0")
    nodes = log_graph(halves[0] + halves[1])
    assert list(nodes)[:2] == ["input_1.0", "split.0/split.0"]
    (plus,) = (node for name, node in nodes.items() if "plus" in name)
    assert list(nodes["split.0/split.0"].input) == ["input_1.0"]
    assert list(plus.input) == ["split.0/split.0", "split.0/split.0:1"]


def test_operators_of_a_layer_that_is_used_twice_are_two_nodes(log_graph):
    layer = mx.gluon.nn.Dense(3, prefix="one_")
    nodes = log_graph(mx.sym.concat(layer(DATA), layer(DATA * 2), name="both"))
    assert list(nodes["both/both"].input) == ["one/fwd", "one/fwd_2"]
    parameters = ["one/weight", "one/bias"]
    assert list(nodes["one/fwd"].input) == ["data", *parameters]
    assert list(nodes["one/fwd_2"].input)[1:] == parameters


@pytest.mark.parametrize("name", ["vgg11_bn", "resnet18_v2", "inception_v3", "densenet121"])
def test_graphs_of_known_networks_have_the_published_nodes_edges_and_boxes(name, log_graph):
    symbol = getattr(mx.gluon.model_zoo.vision, name)()(DATA)
    nodes, published = list(log_graph(symbol).values()), _net2pb(symbol).node
    paths = {theirs.name: ours.name for theirs, ours in zip(published, nodes)}
    assert [node.op for node in nodes] == [node.op for node in published]
    assert [list(node.input) for node in nodes] == [
        [paths[each] for each in node.input] for node in published
    ]
    for theirs, ours in paths.items():
        # The published names are OPERATOR/OPERATOR and OPERATOR/PARAMETER.
        operator = theirs.split("/")[0]
        if operator != theirs:
            box = paths[f"{operator}/{operator}"].rpartition("/")[0]
            assert ours.rpartition("/")[0] == box


BLOCKS = {
    "resnet152_v2": [
        *("net/conv0/fwd", "net/relu0/fwd", "net/stage1/batchnorm0/running_mean"),
        *("net/stage1/activation0/activation0", "net/stage4/_plus2/_plus2", "net/dense0/bias"),
    ],
    "mobilenet_v2_1_0": ["net/features/linearbottleneck0/conv0/weight", "net/output/pred/fwd"],
    "squeezenet1_0": ["net/concat7/concat7"],
}


@pytest.mark.parametrize("name", BLOCKS)
def test_names_of_gluon_open_block_by_block(name, log_graph):
    nodes = log_graph(getattr(mx.gluon.model_zoo.vision, name)(prefix="net_")(DATA))
    assert {each.split("/")[0] for each in nodes} == {"data", "net"}
    assert set(BLOCKS[name]) <= set(nodes)


def test_names_of_the_module_api_open_stage_by_stage(real, log_graph):
    symbol = mx.sym.load(str(real / "resnet-152-symbol.json"))
    nodes = log_graph(symbol, {"data": (1, 3, 224, 224)})
    assert len(nodes) == len(_net2pb(symbol).node) == 1286
    top = " ".join(dict.fromkeys(each.split("/")[0] for each in nodes))
    assert top == (
        "data bn_data conv0 bn0 relu0 pooling0 stage1 stage2 stage3 stage4 "
        "bn1 relu1 pool1 flatten0 fc1 softmax"
    )
    assert list(nodes["stage1/unit2/_plus1/_plus1"].input) == [
        "stage1/unit2/conv3/conv3",
        "stage1/unit1/_plus0/_plus0",
    ]
    assert shapes(nodes["stage1/unit2/conv3/conv3"]) == [[1, 256, 56, 56]]
    assert shapes(nodes["stage1/unit2/conv3/weight"]) == [[256, 64, 1, 1]]


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
    node = log_graph(dense(DATA))["layer/layer"]
    attributes = {name: value.s for name, value in node.attr.items() if name != "_output_shapes"}
    assert attributes == {"num_hidden": b"3", "no_bias": b"True"}


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
