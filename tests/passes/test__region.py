from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from passes.graph_maker import GraphMaker, kinds
from vivace.passes._region import Finder, alive, attributes, consumers_until, geometry, reads

WEIGHT = np.ones((4, 4, 3), np.float32)


def chain() -> GraphMaker:
    """Two convolutions that a Softmax keeps apart, and one beside them."""
    g = GraphMaker(x=["batch", 4, "frames"])
    first = g.op("LeakyRelu", g.op("Conv", "x", WEIGHT, pads=[1, 1], name="/a"), alpha=0.2)
    g.op("Add", first, g.op("Conv", first, WEIGHT, pads=[2, 2], dilations=[2], name="/b"), name="/sum")
    g.op("Softmax", "/sum_output_0", axis=1, name="/softmax")
    g.op("Conv", "/softmax_output_0", WEIGHT, pads=[1, 1], name="/c")
    return g


def test_regions_are_connected_groups_around_convolutions() -> None:
    g = chain()
    alone = g.op("Relu", g.op("Neg", "x"))
    regions = Finder(g.model("/c_output_0", alone)).regions()
    assert sorted([n.op_type for n in region] for region in regions) == [
        ["Conv"],
        ["Conv", "LeakyRelu", "Conv", "Add"],
    ]


def test_reach_adds_up_over_layers_and_rates() -> None:
    g = GraphMaker(x=["batch", 4, "frames"])
    y = g.op("Conv", "x", WEIGHT, pads=[2, 2], dilations=[2])
    y = g.op("ConvTranspose", y, np.ones((4, 4, 4), np.float32), strides=[2], pads=[1, 1])
    y = g.op("Conv", y, WEIGHT, pads=[0, 2])
    finder = Finder(g.model(y))
    (region,) = finder.regions()
    cuts = {cut.tensor: cut for cut in finder.cuts(region)}
    assert [cuts[n.input[0]].ratio for n in region] == [2, 2, 1]
    # right: 2 of the first, 1 / 2 of the second, 2 at double rate of the third; left: 2 + 2 / 2 + 0
    assert [cuts[n.input[0]].reach for n in region] == [4, 2, 2]


def test_no_cut_where_lengths_change_or_pieces_would_differ() -> None:
    def count(kind: str, *inputs: object, **given: object) -> int:
        g = GraphMaker(x=["batch", 4, "frames"], mask=["batch", 1, "frames"])
        y = g.op("Conv", "x", WEIGHT, pads=[1, 1])
        y = g.op(kind, y, *inputs, **given)
        finder = Finder(g.model(g.op("Conv", y, WEIGHT, pads=[1, 1])))
        return len(finder.cuts(finder.regions()[0]))

    assert count("LeakyRelu", alpha=0.1) == 2
    assert count("Conv", WEIGHT, pads=[1, 0]) == 1
    assert count("Conv", WEIGHT, pads=[1, 1], strides=[2]) == 1
    assert count("ConvTranspose", WEIGHT, pads=[0, 0]) == 1
    assert count("Mul", "mask") == 1
    assert count("Add", np.ones((1, 1, 5), np.float32)) == 1
    assert count("Concat", np.ones((1, 4, 5), np.float32), axis=2) == 1


def test_consumers_until() -> None:
    finder = Finder(chain().model("/c_output_0"))
    (first,) = (n for n in finder.graph.nodes if n.name == "/a")
    assert [n.name for n in consumers_until(finder, first.output[0], ("Conv",))] == ["/b"]
    assert consumers_until(finder, "/b_output_0", ("Conv",)) == []  # the Softmax is in the way


def test_geometry_and_attributes() -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[3], pads=[1, 2], output_padding=[1])
    g = geometry(node, np.zeros((2, 2, 5), np.float32))
    assert (g.kernel, g.stride, g.dilation, g.left, g.right, g.groups, g.extra, g.span) == (5, 3, 1, 1, 2, 1, 1, 4)
    assert attributes(helper.make_node("Pad", ["x"], ["y"], mode="edge")) == {"mode": "edge"}


def test_subgraphs_read_tensors_too() -> None:
    out = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    body = helper.make_graph([helper.make_node("Add", ["x", "k"], ["inner"])], "body", [], [out])
    branch = helper.make_node("If", ["which"], ["y"], then_branch=body, else_branch=body)
    assert reads(branch) == {"which", "x", "k", "inner"}
    nodes = [
        helper.make_node("Neg", ["a"], ["x"]),
        helper.make_node("Abs", ["a"], ["unused"]),
        helper.make_node("Exp", ["a"], ["k"]),
        branch,
    ]
    assert [n.op_type for n in alive(nodes, {"y"})] == ["Neg", "Exp", "If"]


def test_maker_is_what_it_says() -> None:
    assert kinds(chain().model("/c_output_0")) == ["Conv", "LeakyRelu", "Conv", "Add", "Softmax", "Conv"]
