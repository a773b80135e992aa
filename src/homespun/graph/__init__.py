"""What a model is: `Graph`, `Node`, `Tensor`; building, checking and printing one."""

from homespun.graph.builder import GraphBuilder
from homespun.graph.check import check
from homespun.graph.graph import BATCH, Array, Attribute, Graph, Node, Tensor, TensorType
from homespun.graph.infer import infer

__all__ = [
    "BATCH",
    "Array",
    "Attribute",
    "Graph",
    "GraphBuilder",
    "Node",
    "Tensor",
    "TensorType",
    "check",
    "infer",
]
