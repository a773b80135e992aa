"""`splice`: a head on a backbone, for transfer learning."""

from __future__ import annotations

from collections.abc import Sequence

from homespun.errors import ModelError, OptionError, ShapeError
from homespun.graph import Graph, GraphBuilder, check, infer
from homespun.graph.class_names import CLASSES_KEY, set_class_names
from homespun.graph.graph import Node, Tensor
from homespun.training.trainable import HEAD_KEY

#: Prefix of the names of everything that comes from the head, unless the backbone has such names.
PREFIX = "head."
#: The tensor of zoo models that a new head reads, if nothing else is said: the pooled features before the classifier.
FEATURES = "features"


def splice(
    backbone: Graph,
    head: Graph | int | Sequence[str],
    at: str | None = None,
    *,
    dropout: float = 0.0,
    seed: int = 0,
) -> Graph:
    """A model that computes `head` of `backbone`; neither is changed.

    `head` is a graph with one input, or the names of classes, or their number: then a linear layer. Names go into the
    metadata, so that predictions can say them. The head reads the backbone's tensor `at`; by default "features" where
    there is one, else the output. What lies behind `at` in the backbone goes. The head's names get the prefix "head."
    ("new_head." where the backbone has names like that itself, as zoo networks do), and `Trainer(trainable="head")`
    trains those. Raises `ShapeError` for shapes that do not fit.
    """
    if isinstance(head, str):
        raise OptionError(f"head is {head!r}; it can be a graph, a list of names of classes, or their number")
    where = at or (FEATURES if FEATURES in backbone.tensors else None)
    if where is None:
        if len(backbone.outputs) != 1:
            raise OptionError(f"the backbone has {len(backbone.outputs)} outputs: say with `at` which tensor to read")
        where = backbone.outputs[0]
    if where not in backbone.tensors:
        raise ModelError(f"the backbone has no tensor {where!r}")
    types = infer(backbone, batch=1)
    names_of_classes: Sequence[str] | None = None
    if not isinstance(head, Graph):
        names_of_classes, count = (None, head) if isinstance(head, int) else (head, len(head))
        head = _linear_head(types[where].shape, count, dropout, seed)
    if len(head.inputs) != 1:
        raise ModelError(f"the head takes {len(head.inputs)} inputs; it must take one")
    wanted = head.tensors[head.inputs[0]]
    if tuple(wanted.shape[1:]) != types[where].shape[1:] or wanted.dtype != types[where].dtype:
        raise ShapeError(f"the head takes {list(wanted.shape[1:])}, but {where!r} is {list(types[where].shape[1:])}")

    model = backbone.copy()
    model.outputs = [where]
    model.prune()
    prefix = _prefix(model)
    names = {head.inputs[0]: where}
    for t in head.tensors.values():
        if t.name not in names:
            names[t.name] = model.fresh_name(prefix + t.name)
            model.add_tensor(Tensor(names[t.name], t.role, t.shape, t.dtype, t.data, half=t.half))
    for node in head.nodes:
        inputs = tuple(names[n] if n else "" for n in node.inputs)
        outputs = tuple(names[n] if n else "" for n in node.outputs)
        model.nodes.append(Node(node.op, inputs, outputs, dict(node.attributes), prefix + (node.name or outputs[0])))
    model.outputs = [names[o] for o in head.outputs]
    model.name = f"{backbone.name}+{head.name}"
    model.metadata[HEAD_KEY] = prefix
    model.metadata.pop(CLASSES_KEY, None)  # those of the classifier that went
    if names_of_classes is not None:
        set_class_names(model, names_of_classes)
    check(model)
    infer(model)
    return model


def _prefix(backbone: Graph) -> str:
    """A prefix that no name of the backbone has, so that it tells the head from everything else."""
    prefix = PREFIX
    taken = [*backbone.tensors, *(node.name for node in backbone.nodes)]
    while any(name.startswith(prefix) for name in taken):
        prefix = f"new_{prefix}"
    return prefix


def _linear_head(shape: tuple[int, ...], classes: int, dropout: float, seed: int) -> Graph:
    if classes < 1:
        raise OptionError(f"a head for {classes} classes makes no sense")
    build = GraphBuilder("linear", seed)
    x = build.input("features", shape[1:])
    if len(shape) == 4:
        x = str(build.op("flatten", build.op("global_average_pool", x, name="pool"), name="flat"))
    if dropout > 0:
        x = str(build.op("dropout", x, name="dropout", rate=dropout))
    return build.build(build.linear(x, "classifier", shape[-1], classes))
