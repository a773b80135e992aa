"""From Caffe's layers to the model in ONNX's terms that `formats.onnx.importer` makes a graph of.

Layers run in the order in which they stand, and one may write over what it reads: here every version of a blob has a
name of its own. Shapes are worked out on the way, since some layers depend on them. What a layer becomes is in
`rules_*.py`; data, losses and what only watches training are dealt with here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from homespun.errors import ModelError, OptionError
from homespun.formats.assembly import Unsupported
from homespun.formats.caffe.network import Layer, Network
from homespun.formats.checked import SENSELESS, shortened
from homespun.formats.onnx.nodes import ForeignInput, ForeignModel, ForeignNode
from homespun.graph import Array
from homespun.graph.graph import AUXILIARY_KEY

_OPSET = 17
_MOST_BOTTOMS = 1000
_DATA = (
    *("Input", "Data", "ImageData", "HDF5Data", "MemoryData", "WindowData", "DummyData"),
    *("AnnotatedData", "ImageLabelData"),
)
#: Their first operands are the network's outputs; the losses themselves are of training, which is done here otherwise.
_LOSSES = (
    *("SoftmaxWithLoss", "SigmoidCrossEntropyLoss", "EuclideanLoss", "HingeLoss", "InfogainLoss"),
    *("MultinomialLogisticLoss", "SmoothL1Loss"),
)
_WATCHERS = ("Accuracy", "HDF5Output")
_ADVICE = {
    "": (
        "what can be left out (boxes, priors, decoding at the end): take it out of the .prototxt; what can't: "
        "replace it there by layers that docs/caffe.md lists, or add it (docs/adding-a-format.md)"
    ),
    "Python": "its code is not run: write the layer's work with others",
    "ArgMax": "take it out, and the largest output in your program",
    "DetectionOutput": "boxes are chosen after the network: take it and the prior boxes out",
    "PriorBox": "boxes are chosen after the network: take it and DetectionOutput out",
    "LSTM": "recurrent layers can't be trained here",
    "RNN": "recurrent layers can't be trained here",
}

Rule = Callable[["Translation", Layer], None]
Shape = tuple[int, ...]


class Translation:
    """Rules get blobs and their shapes by `read`, weights by `weight` and `blob`; they `emit` nodes and `give` tops."""

    def __init__(
        self, network: Network, weights: Mapping[str, list[Array]], weights_path: Path, shapes: Mapping[str, Any] | None
    ) -> None:
        self.network, self.weights, self.weights_path = network, weights, weights_path
        self.given = dict(shapes or {})
        self.nodes: list[ForeignNode] = []
        self.inputs: list[ForeignInput] = []
        self.constants: dict[str, Array] = {}
        #: Shapes of versions of blobs, in Caffe's order of axes; none for what can't be had.
        self.shapes: dict[str, Shape | None] = {}
        self.labels: set[str] = set()
        self._now: dict[str, str] = {}  # blob -> its version
        self._unread: dict[str, str] = {}  # versions that nobody has read yet -> blob
        self._predictions: dict[str, float] = {}  # what losses read, and how much they weigh
        self._makers: dict[str, ForeignNode] = {}  # of results that no top is yet
        self._given: dict[int, str] = {}  # tops that the layer at hand has got
        self._readers = _count_readers(network)
        self._tried: dict[str, int] = {}
        self._shared: dict[str, str] = {}

    # -- the walk -----------------------------------------------------------------------------------------------

    def run(self, rules: Mapping[str, Rule], size: int) -> ForeignModel:
        """The whole model. Layers that can't be translated are in it, for the importer to list them all."""
        for name, dims in self.network.inputs:
            self._input(name, dims)
        for layer in self.network.layers:
            if len(layer.bottoms) > _MOST_BOTTOMS:
                raise self.network.fail(f"layer {shortened(layer.name)}", f"it reads {len(layer.bottoms)} blobs")
            for bottom in layer.bottoms:
                if bottom not in self._now and not self._ignored(layer):
                    raise self.network.fail(
                        f"layer {shortened(layer.name)}",
                        f"it reads {shortened(bottom)}, which no layer before it writes",
                    )
            if not self._ignored(layer):
                self._layer(layer, rules)
        for name in self.given:
            if name not in [i.name for i in self.inputs]:
                names = ", ".join(i.name for i in self.inputs)
                raise OptionError(f"shapes: {self.network.path} has no input {name!r}; it has {names}")
        outputs, auxiliary = self._outputs()
        if not outputs:
            raise self.network.fail("network", "no layer of it computes anything from an input")
        return ForeignModel(
            name=self.network.name or self.network.path.stem,
            path=self.network.path,
            fail=self.network.fail,
            size=size,
            nodes=self.nodes,
            constants=self.constants,
            inputs=self.inputs,
            outputs=outputs,
            source="Caffe",
            opset=_OPSET,
            advice=_ADVICE,
            channels_first=True,
            metadata={AUXILIARY_KEY: ",".join(auxiliary)} if auxiliary else {},
        )

    def _ignored(self, layer: Layer) -> bool:
        return layer.kind in _WATCHERS

    def _layer(self, layer: Layer, rules: Mapping[str, Rule]) -> None:
        reads = [self._now[b] for b in layer.bottoms]
        if layer.kind in _DATA:
            try:
                self._data(layer)
            except Unsupported as e:
                raise self.network.fail(f"layer {shortened(layer.name)}", str(e)) from None
            return
        if layer.kind in _LOSSES:
            self._loss(layer, reads)
            return
        for version in reads:
            self._unread.pop(version, None)
        if layer.kind == "Silence":
            return
        problem = ""
        self._given.clear()
        if layer.kind not in rules:
            problem = "there is no such layer here"
        elif self.labels.intersection(reads):
            problem = "it reads labels, which only training has"
        elif all(self.shapes[v] is not None for v in reads):
            try:
                rules[layer.kind](self, layer)
                if unknown := layer.not_understood():
                    problem = f"it sets {', '.join(unknown[:8])}, which is not understood here"
                elif len(self._given) < len(layer.tops):
                    problem = f"it has {len(layer.tops)} tops; the first can be had"
                else:
                    return
            except (Unsupported, ModelError) as e:
                problem = str(e)
            except SENSELESS as e:
                problem = f"its settings make no sense ({type(e).__name__}: {e})"
        for version in self._given.values():
            self._unread.pop(version, None)
        tops: list[str] = []
        for i in range(len(layer.tops)):
            tops.append(self.fresh(layer.name or layer.kind))
            self.shapes[tops[-1]] = None
            self.give(layer, tops[-1], i)
        op = "" if problem else "Identity"  # what reads what can't be had is no problem of its own
        self.nodes.append(ForeignNode(op, reads, tops, {}, layer.name, layer.kind, problem=problem))

    # -- inputs, losses, outputs --------------------------------------------------------------------------------

    def _input(self, name: str, dims: Sequence[int] | None) -> None:
        if name in self.shapes or not name:
            raise self.network.fail("network", f"an input is named {shortened(name)}, or two are")
        if name in self.given:
            dims = [int(d) for d in self.given[name]]
        if dims is None or any(d < 1 for d in dims[1:]):
            raise self.network.fail(
                f"input {shortened(name)}",
                f"its shape is not known. Say hs.load(path, shapes={{{name!r}: (1, channels, height, width)}}), or use "
                "the network's deploy.prototxt",
            )
        self.inputs.append(ForeignInput(name, list(dims), "float32"))
        self.shapes[name] = tuple(dims)
        self._now[name] = name

    def _data(self, layer: Layer) -> None:
        shapes: list[list[int]] = []
        if layer.kind == "Input":
            shapes = [m.integers("dim") for m in layer.settings("input_param").messages("shape")]
            shapes = shapes * len(layer.tops) if len(shapes) == 1 else shapes
        for i, top in enumerate(layer.tops):
            if layer.kind == "Input" or i == 0:
                self._input(top, shapes[i] if i < len(shapes) else self._image(layer, top))
            else:
                label = self.fresh(top)
                self.labels.add(label)
                self.shapes[label] = None
                self._now[top] = label

    def _image(self, layer: Layer, top: str) -> list[int] | None:
        """The shape of the images that a data layer gives, where it and the first convolution tell."""
        memory = layer.message.message("memory_data_param")
        images = layer.message.message("image_data_param")
        crop = layer.message.message("transform_param").integer("crop_size", 0)
        height, width = (memory.integer(n, images.integer(f"new_{n}", 0)) for n in ("height", "width"))
        channels = memory.integer("channels", 0)
        for reader in self.network.layers:
            if top in reader.bottoms and reader.kind == "Convolution" and not channels:
                (weight, *_) = self.weights.get(reader.name, [np.zeros((1, 0))])
                channels = weight.shape[1] * reader.message.message("convolution_param").integer("group", 1)
        dims = [1, channels, crop or height, crop or width]
        return dims if min(dims) > 0 else None

    def _loss(self, layer: Layer, reads: Sequence[str]) -> None:
        weight = layer.loss_weights[0] if layer.loss_weights else 1.0
        computed = [v for v in reads if v not in self.labels and v not in [i.name for i in self.inputs]]
        for version in reads:
            self._unread.pop(version, None)
        for version in computed[:1]:
            self._predictions[version] = max(weight, self._predictions.get(version, 0.0))

    def _outputs(self) -> tuple[list[str], list[str]]:
        """Names of the outputs, the most important first, and of those that only training needs."""
        heaviest = max(self._predictions.values(), default=0.0)
        found = sorted(self._predictions, key=lambda v: -self._predictions[v]) + list(self._unread)
        blobs = {version: blob for blob, version in self._now.items()}
        taken = {*self.shapes, *self.constants}
        names = {v: blobs[v] for v in found if v in blobs and blobs[v] not in taken}
        for node in self.nodes:
            node.outputs = [names.get(o, o) for o in node.outputs]
            node.inputs = [names.get(i, i) for i in node.inputs]
        outputs = [names.get(v, v) for v in found]
        return outputs, [names.get(v, v) for v in found if self._predictions.get(v, heaviest) < heaviest]

    # -- what rules use -----------------------------------------------------------------------------------------

    def fresh(self, stem: str) -> str:
        """A name that nothing has yet."""
        i = self._tried.get(stem, 0)
        while (name := f"{stem}_{i}" if i else stem) in self.shapes or name in self.constants:
            i += 1
        self._tried[stem] = i
        return name

    def read(self, layer: Layer, i: int = 0) -> tuple[str, Shape]:
        """The version of a blob that a layer reads, and its shape."""
        if i >= len(layer.bottoms):
            raise Unsupported(f"it reads {len(layer.bottoms)} blobs")
        name = self._now[layer.bottoms[i]]
        shape = self.shapes[name]
        if shape is None:
            raise Unsupported(f"its input {layer.bottoms[i]!r} can't be had")
        return name, shape

    def is_read_once(self, layer: Layer) -> bool:
        """Whether nobody else reads the version of a blob that this layer reads."""
        return self._readers.get((layer.bottoms[0], id(layer)), 0) == 1

    def blob(self, layer: Layer, i: int, shape: Sequence[int], what: str) -> Array:
        """The values of a layer's blob, in a shape; those of the file may have more axes of length one."""
        blobs = self.weights.get(layer.name, [])
        if i >= len(blobs):
            raise Unsupported(f"{self.weights_path.name} has no {what} for it")
        if [d for d in blobs[i].shape if d != 1] != [d for d in shape if d != 1]:
            stored = f"{list(blobs[i].shape)} in {self.weights_path.name}"
            raise Unsupported(f"its {what} should be {list(shape)}; it is {stored}")
        return blobs[i].reshape(shape)

    def weight(self, layer: Layer, i: int, shape: Sequence[int], what: str) -> str:
        """The name of a layer's blob as a constant; the same one for layers that share it."""
        owner = layer.shared[i] if i < len(layer.shared) else ""
        if owner and owner in self._shared:
            name = self._shared[owner]
            if self.constants[name].shape != tuple(shape):
                raise Unsupported(f"it shares {owner!r}, which has another shape")
            return name
        name = self.constant(f"{layer.name}.{what}", self.blob(layer, i, shape, what))
        if owner:
            self._shared[owner] = name
        return name

    def constant(self, name: str, values: Any) -> str:
        """A constant's name."""
        name = self.fresh(name)
        self.constants[name] = np.asarray(values)
        return name

    def number(self, layer: Layer, value: float) -> str:
        """The name of a single number."""
        return self.constant(f"{layer.name}.number", np.float32(value))

    def whole_numbers(self, layer: Layer, *values: int) -> str:
        """The name of a list of whole numbers."""
        return self.constant(f"{layer.name}.numbers", np.asarray(values, np.int64))

    def emit(self, layer: Layer, op: str, inputs: Sequence[str], shape: Sequence[int], **attributes: Any) -> str:
        """Append one of ONNX's nodes with a result of this shape, and return the result's name."""
        if any(d < 1 for d in shape):
            raise Unsupported(f"its result would have the shape {list(shape)}")
        if math.prod(shape) >= 2**40:
            raise Unsupported(f"its result would have {math.prod(shape)} numbers")
        name = self.fresh(f"{layer.name}/{op.lower()}")
        self.shapes[name] = tuple(shape)
        self._makers[name] = ForeignNode(op, list(inputs), [name], attributes, name, layer.kind)
        self.nodes.append(self._makers[name])
        return name

    def give(self, layer: Layer, name: str, top: int = 0) -> None:
        """Say what one of a layer's tops is."""
        if top >= len(layer.tops):
            return
        maker = self._makers.pop(name, None)
        if maker is not None:  # the layer's last node has its name, or the top's where there are several
            new = self.fresh((layer.name if len(layer.tops) == 1 else layer.tops[top]) or layer.kind)
            self.shapes[new] = self.shapes.pop(name)
            maker.outputs, maker.name, name = [new], new, new
        self._now[layer.tops[top]] = name
        self._unread[name] = layer.tops[top]
        self._given[top] = name


def _count_readers(network: Network) -> dict[tuple[str, int], int]:
    """For each (blob, layer that reads it): how many layers read that version of it."""
    readers: dict[tuple[str, int], list[tuple[str, int]]] = {}
    versions: dict[str, int] = {}
    for at, layer in enumerate(network.layers):
        for bottom in dict.fromkeys(layer.bottoms):
            readers.setdefault((bottom, versions.get(bottom, -1)), []).append((bottom, id(layer)))
        for top in layer.tops:
            versions[top] = at
    return {key: len(group) for group in readers.values() for key in group}
