"""Building, checking, changing and printing graphs."""

import numpy as np
import pytest

import homespun.ops  # noqa: F401  (fills the operator table)
from homespun.errors import ModelError, ShapeError
from homespun.graph import BATCH, Graph, GraphBuilder, Tensor, check, infer


def small() -> Graph:
    b = GraphBuilder("small")
    x = b.input("image", (9, 9, 3))
    y = b.conv(x, "stem", inputs=3, outputs=8, kernel=3, stride=2)
    y = b.op("relu6", b.batch_norm(y, "norm", 8), name="act")
    y = b.op("flatten", b.op("global_average_pool", y, name="pool"), name="flat")
    return b.build(b.linear(y, "head", 8, 4))


def test_shapes_follow_from_the_batch_size() -> None:
    graph = small()
    for batch in (1, 5):
        types = infer(graph, batch)
        assert types["stem"].shape == (batch, 5, 5, 8)
        assert types["head"].shape == (batch, 4)


def test_listing_names_shapes_parameters_and_flops() -> None:
    text = str(small())
    assert "small: image 9x9x3 -> head 4" in text
    assert "268 parameters" in text  # 3*3*3*8 + 2*8 + 8*4 + 4
    stem = next(line for line in text.splitlines() if line.startswith("stem"))
    assert "5x5x8" in stem and "216" in stem and "0.01" in stem  # 2 * 27 * 200 FLOPs


def test_parameters_are_named_after_their_layer_and_shared_not_copied() -> None:
    graph = small()
    assert list(graph.parameters()) == ["stem.weight", "norm.weight", "norm.bias", "head.weight", "head.bias"]
    graph.parameters()["head.bias"][0] = 7
    assert graph.data("head.bias")[0] == 7


def test_a_copy_can_be_changed_alone() -> None:
    graph = small()
    other = graph.copy()
    other.nodes[0].attributes["stride"] = (1, 1)
    other.nodes.pop()
    assert graph.nodes[0].attributes["stride"] == (2, 2) and len(graph.nodes) == 6


def test_rename_reaches_every_mention() -> None:
    graph = small()
    graph.rename("head", "logits")
    graph.rename("image", "photo")
    check(graph)
    assert graph.outputs == ["logits"] and graph.inputs == ["photo"] and graph.nodes[0].inputs[0] == "photo"


def test_prune_drops_what_nobody_needs_and_keeps_written_states() -> None:
    graph = small()
    graph.add_node("relu", ["stem"], ["unused"])
    graph.add_array("counter", np.zeros((1, 5, 5, 8), np.float32), "state")
    graph.add_node("identity", ["stem"], ["counter"], name="count")
    graph.prune()
    assert "unused" not in graph.tensors
    assert [n.name for n in graph.nodes][-1] == "count" and len(graph.nodes) == 7


def broken_unknown_operator(g: Graph) -> None:
    g.nodes[1].op = "convolve"


def broken_attribute(g: Graph) -> None:
    g.nodes[0].attributes["strides"] = (1, 1)


def broken_order(g: Graph) -> None:
    g.nodes.reverse()


def broken_reader(g: Graph) -> None:
    g.nodes[2].inputs = ("nowhere",)


def broken_second_writer(g: Graph) -> None:
    g.nodes.append(g.nodes[-1])


def broken_arity(g: Graph) -> None:
    g.nodes[0].inputs = ("image",)


def broken_too_many(g: Graph) -> None:
    g.nodes[2].inputs = ("norm", "norm")


def broken_output(g: Graph) -> None:
    g.outputs = ["elsewhere"]


def broken_parameter(g: Graph) -> None:
    g.tensors["stem.weight"].data = None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (broken_unknown_operator, "no operator named 'convolve'"),
        (broken_attribute, "unknown attribute 'strides'; the operator has stride"),
        (broken_order, "not computed before"),
        (broken_reader, "reads 'nowhere', which does not exist"),
        (broken_second_writer, "a second time"),
        (broken_arity, "input 'weight' is missing"),
        (broken_too_many, "2 inputs, but the operator takes 1"),
        (broken_output, "output 'elsewhere' is never computed"),
        (broken_parameter, "parameter 'stem.weight' carries no data"),
    ],
)
def test_check_names_what_is_wrong(damage, message: str) -> None:
    graph = small()
    damage(graph)
    with pytest.raises(ModelError, match=message):
        check(graph)


def test_a_shape_error_names_the_node_and_what_it_was_given() -> None:
    b = GraphBuilder("bad")
    x = b.input("x", (4, 4, 3))
    w = b.parameter("w", np.zeros((3, 3, 5, 8)))
    graph = b.graph
    graph.outputs = [b.op("conv2d", x, w, name="odd")]
    with pytest.raises(ShapeError, match=r"node odd \(conv2d\): 3 channels in 1 groups.*given float32\[1, 4, 4, 3\]"):
        infer(graph)


def test_a_tensor_name_is_given_once() -> None:
    graph = small()
    with pytest.raises(ModelError, match="'stem' exists already"):
        graph.add_tensor(Tensor("stem", "input", (BATCH, 1)))
