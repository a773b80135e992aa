"""Pass over an expanded training graph: keep activations in 16 bits, and with them the gradients that follow.

Rule 1: operators whose kernels read and write 16 bits do so; a `cast` stands where a float32 tensor meets one.
Rule 2: what works on fewer rows than `LEAST_ROWS`, images aside, and convolutions of a single pixel, stay float32:
classifiers and gates, where precision counts and memory does not. Parameters, statistics, sums, coefficients and the
loss are float32 or float64 always.
Source: Kalamkar et al. 2019, "A Study of BFLOAT16 for Deep Learning Training";
Micikevicius et al. 2018, "Mixed Precision Training", for float16.
"""

from __future__ import annotations

from collections.abc import Mapping

from homespun.graph import Graph, Node, Tensor, TensorType
from homespun.ops.activation import FUSIBLE
from homespun.ops.channels import is_gate
from homespun.ops.training_norm import rows_of

LEAST_ROWS = 64
#: Functions that networks have between layers; others, as `log` and `exp`, stay float32.
ACTIVATIONS = (*FUSIBLE, "gelu", "gelu_tanh", "elu", "softplus", "mish")
#: For operands of one shape, and products with a gate.
_ARITHMETIC = ("add", "sub", "mul")
#: Operators with kernels for 16 bits, and the positions of the inputs that are activations.
HALF = {
    "train_conv2d": (0,),
    "train_linear": (0,),
    "channel_sums": (0,),
    "normalize": (0, 4),
    "global_average_pool": (0,),
    "train_dropout": (0,),
    "train_attention": (0, 1, 2),
    "layer_norm": (0,),
    **dict.fromkeys(("max_pool", "average_pool", "channel_shuffle", "local_response_norm", "upsample", "resize"), (0,)),
    **dict.fromkeys((*ACTIVATIONS, "split"), (0,)),
    **dict.fromkeys(_ARITHMETIC, (0, 1)),
    "concat": (),  # all
}
#: Float32 where there are fewer rows than `LEAST_ROWS`.
_MANY_ROWS = ("train_linear", "train_dropout", "layer_norm", "concat", "split", *ACTIVATIONS)
_EITHER = ("flatten", "reshape", "identity", "slice")  # the bytes stay as they are


def store_half(graph: Graph, types: Mapping[str, TensorType], storage: str) -> None:
    """Apply the pass in place. `types` are those before it; infer anew afterwards. `storage`: "bfloat16", "float16"."""
    half: set[str] = set()
    casts: dict[tuple[str, str], str] = {}
    old, graph.nodes = graph.nodes, []

    def cast(name: str, dtype: str) -> str:
        if (name, dtype) not in casts:
            made = graph.add_tensor(Tensor(graph.fresh_name(f"{name}/{dtype}"), "activation"))
            graph.add_node("cast", (name,), (made,), {"dtype": dtype})
            casts[name, dtype] = made
        return casts[name, dtype]

    for node in old:
        inputs = list(node.inputs)
        if node.op in _EITHER and inputs[0] in half:
            half.update(node.outputs)
        elif _goes_half(node, types):
            positions = range(len(inputs)) if node.op == "concat" else HALF[node.op]
            for i in positions:
                if i < len(inputs) and inputs[i] and inputs[i] not in half:
                    inputs[i] = cast(inputs[i], storage)
            half.update(o for o in node.outputs if o and types.get(o, _FLOAT).dtype == "float32")
        else:
            inputs = [cast(n, "float32") if n in half else n for n in inputs]
        node.inputs = tuple(inputs)
        graph.nodes.append(node)
    for out in list(graph.outputs):
        if out in half:
            graph.outputs[graph.outputs.index(out)] = cast(out, "float32")


_FLOAT = TensorType(())


def _goes_half(node: Node, types: Mapping[str, TensorType]) -> bool:
    if node.op not in HALF:
        return False
    x = types[node.inputs[0]]
    if node.op == "train_conv2d":
        return x.shape[1:3] != (1, 1)
    if node.op in _ARITHMETIC:
        other = types[node.inputs[1]]
        gates = node.op == "mul" and (is_gate(x, other) or is_gate(other, x))
        return (x == other or gates) and max(rows_of(x), rows_of(other)) >= LEAST_ROWS
    return node.op not in _MANY_ROWS or rows_of(x) >= LEAST_ROWS
