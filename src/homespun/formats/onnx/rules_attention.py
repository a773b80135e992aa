"""What ONNX's `Attention` (operator set 23 on) becomes: two products of matrices with a softmax between them."""

from __future__ import annotations

import numpy as np

from homespun.formats.assembly import Unsupported
from homespun.formats.onnx.conversion import Conversion
from homespun.formats.onnx.nodes import ForeignNode
from homespun.formats.onnx.rules_masks import LOWEST, finite


def attention(imp: Conversion, node: ForeignNode) -> None:
    """softmax(q k^T scale + mask) v, for heads side by side (N, heads, tokens, C) or in a row (N, tokens, heads C)."""
    if any(node.has(i) for i in (4, 5, 6)) or node.get("softcap", 0.0):
        raise Unsupported("with keys of earlier calls, or a cap, it can't be read; export the network without a cache")
    rank = len(imp.shape(node.inputs[0]))
    counts = [int(node.get(f"{which}_num_heads", 0)) for which in ("q", "kv", "kv")]
    parts = []
    for name, heads in zip(node.inputs[:3], counts, strict=True):
        part, shape = imp.plain(name), imp.shape(name)
        if rank == 3:
            if heads < 1 or shape[2] % heads:
                raise Unsupported(f"its width {shape[2]} is not one of {heads} heads")
            part = imp.reshape(part, (shape[0], shape[1], heads, shape[2] // heads))
            part = imp.emit("transpose", [part], axes=(0, 2, 1, 3))
        parts.append(part)
    q, k, v = parts
    (_, heads, rows, width), (_, others, columns, _) = imp.types[q].shape, imp.types[k].shape
    if heads != others:
        raise Unsupported(f"{heads} heads of queries share {others} of keys")
    scale = imp.add_array("scale", np.asarray(node.get("scale", 0.0) or width**-0.5, np.float32))
    scores = imp.emit("matmul", [imp.emit("mul", [q, scale]), k], transpose_b=True)
    if node.get("is_causal", 0):
        later = np.triu(np.ones((rows, columns), np.float32), 1) * np.float32(LOWEST)
        scores = imp.emit("add", [scores, imp.add_array("later", later)])
    if node.has(3):
        scores = imp.emit("add", [scores, _added(imp, node)])
    y = imp.emit("matmul", [imp.emit("softmax", [scores]), v])
    if rank == 3:
        joined = imp.emit("transpose", [y], axes=(0, 2, 1, 3))
        n, tokens, _, wide = imp.types[joined].shape
        y = imp.reshape(joined, (n, tokens, heads * wide))
    imp.set(node.outputs[0], y)


def _added(imp: Conversion, node: ForeignNode) -> str:
    """The mask as numbers to add: 0 where something may be seen."""
    name = node.inputs[3]
    if imp.is_constant(name):
        given = imp.constants[name]
        shift = np.where(given, 0.0, LOWEST).astype(np.float32) if given.dtype == bool else finite(given)
        return imp.add_array("mask", shift)
    mask = imp.plain(name)
    if mask not in imp.whole:
        return mask
    one, low = (imp.add_array(what, np.asarray(v, np.float32)) for what, v in (("one", 1.0), ("lowest", -LOWEST)))
    return imp.emit("mul", [imp.emit("sub", [mask, one]), low])


RULES = {"Attention": attention}
