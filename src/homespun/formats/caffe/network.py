"""What a `.prototxt` says, whatever version of Caffe it was written for: its layers, in their order, and its inputs.

Layers of versions 0 (`layers { layer { type: "conv" } }`) and 1 (`layers { type: CONVOLUTION }`) become those of today
(`layer { type: "Convolution" }`). Those that Caffe leaves out when it tests are left out here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from homespun.errors import FormatError
from homespun.formats.assembly import Unsupported
from homespun.formats.caffe.text import Message, Word, parse
from homespun.formats.checked import shortened

_LARGEST_TEXT = 2**21
_MOST_AXES = 32
_LONGEST_NAME = 1000
#: Types of version 1 that are not today's names in capitals.
_TYPES = {
    **{"ABSVAL": "AbsVal", "ARGMAX": "ArgMax", "BNLL": "BNLL", "HDF5_DATA": "HDF5Data", "HDF5_OUTPUT": "HDF5Output"},
    **{"LRN": "LRN", "MVN": "MVN", "RELU": "ReLU", "PRELU": "PReLU", "SOFTMAX_LOSS": "SoftmaxWithLoss", "TANH": "TanH"},
    **{"BN": "BN", "ELU": "ELU", "RELU6": "ReLU6"},
}
_OLDEST_TYPES = {
    **{"conv": "Convolution", "innerproduct": "InnerProduct", "pool": "Pooling", "relu": "ReLU", "tanh": "TanH"},
    **{"lrn": "LRN", "bnll": "BNLL", "softmax_loss": "SoftmaxWithLoss", "images": "ImageData", "hdf5_data": "HDF5Data"},
    **{"hdf5_output": "HDF5Output"},
}
#: For types of version 0: the message of today, and today's names of settings.
_OLDEST_SETTINGS = {
    "conv": ("convolution_param", ("num_output", "biasterm", "pad", "kernelsize", "group", "stride")),
    "innerproduct": ("inner_product_param", ("num_output", "biasterm")),
    "pool": ("pooling_param", ("pool", "pad", "kernelsize", "stride")),
    "dropout": ("dropout_param", ("dropout_ratio",)),
    "lrn": ("lrn_param", ("local_size", "alpha", "beta", "k")),
    "concat": ("concat_param", ("concat_dim",)),
}
#: Types whose other settings say nothing of the network: where data are, and padding, which another layer takes over.
_SETTINGS_ELSEWHERE = ("Data", "ImageData", "HDF5Data", "WindowData", "Padding")
_RENAMED = {"biasterm": "bias_term", "kernelsize": "kernel_size", "concat_dim": "axis"}
#: Fields of a layer that say how to train it, where to compute it, or what only its own version knows.
_OF_NO_MATTER = (
    *("phase", "propagate_down", "blobs_lr", "weight_decay", "blob_share_mode", "loss_param", "transform_param"),
    *("weight_filler", "bias_filler", "device", "buffer", "param", "blobs"),
)


class Layer:
    """One layer: name, type and blobs by name as today's Caffe has them, settings as a message."""

    def __init__(self, message: Message, kind: str) -> None:
        self.message, self.kind = message, kind
        self.name = message.text("name")[:_LONGEST_NAME]
        self.bottoms, self.tops = message.texts("bottom"), message.texts("top")
        #: Names that weights are shared by, in the order of the layer's blobs; "" for those that are not.
        self.shared = [p.text("name") if isinstance(p, Message) else p for p in _params(message)]
        self.loss_weights = message.numbers("loss_weight")
        self.padding: list[Any] = []  # of a padding layer of version 0
        self._settings: list[Message] = []

    def settings(self, name: str) -> Message:
        """The message with what the layer's type lets one set, such as `convolution_param`."""
        found = self.message.message(name)
        self._settings.append(found)
        return found

    def not_understood(self) -> list[str]:
        """What was set of which nobody has asked: it would change what the layer computes."""
        self.message.ignore("include", "exclude", *_OF_NO_MATTER)
        ours = [name for name in self.message.unread() if "." not in name and not name.endswith("_param")]
        return ours + [name for settings in self._settings for name in settings.unread()]


def _params(message: Message) -> list[Message | str]:
    found = message.fields.get("param", [])
    message.ignore("param")
    return [p for p in found if isinstance(p, Message | str)]


class Network:
    """A network as its text says it. `inputs` are names and shapes of what it declares before its layers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size
        if size > _LARGEST_TEXT:
            raise self.fail("file", f"{size} bytes are more than the text of a network has")
        net = parse(path.read_bytes().decode("utf-8-sig", "replace"), self.fail)
        try:
            self.name = net.text("name")[:_LONGEST_NAME]
            self.inputs = self._declared(net)
            self.layers = self._layers(net)
        except Unsupported as e:
            raise self.fail("network", str(e)) from None
        net.ignore("force_backward", "debug_info", "layer", "layers", "state")
        if unknown := net.unread():
            raise self.fail("network", f"{shortened(unknown[0])} is nothing that a network has; is it one of Caffe's?")

    def fail(self, place: str, what: str) -> FormatError:
        """The error about a place in the file."""
        return FormatError(f"{self.path}: {place}: {what}")

    def _declared(self, net: Message) -> list[tuple[str, list[int]]]:
        names = net.texts("input")
        shapes = [m.integers("dim") for m in net.messages("input_shape")]
        flat = net.integers("input_dim")
        if flat and len(flat) == 4 * len(names):
            shapes = [flat[i : i + 4] for i in range(0, len(flat), 4)]
        if len(shapes) == 1:
            shapes *= len(names)
        if len(shapes) != len(names):
            raise Unsupported(f"{len(shapes)} input shapes ({len(flat)} input_dim) do not fit {len(names)} inputs")
        if any(len(s) > _MOST_AXES for s in shapes):
            raise Unsupported("an input has too many axes")
        return list(zip(names, shapes, strict=True))

    def _layers(self, net: Message) -> list[Layer]:
        state = net.message("state")
        oldest = [m for m in net.messages("layers") if m.has("layer")]
        if net.has("layers") and net.has("layer"):
            raise Unsupported("it has `layers` of Caffe's version 1 and `layer` of today's")
        found: list[Layer] = []
        if oldest:
            found = _without_padding([_from_oldest(m) for m in net.messages("layers")])
        else:
            for message in [*net.messages("layers"), *net.messages("layer")]:
                kind = message.text("type")
                if net.has("layers") and kind == kind.upper():
                    kind = _TYPES.get(kind) or "".join(part.capitalize() for part in kind.split("_"))
                found.append(Layer(message, kind))
        return [layer for layer in found if _is_there(layer.message, state)]


def _is_there(message: Message, state: Message) -> bool:
    """Whether Caffe has a layer in the network when it tests."""
    included, excluded = message.messages("include"), message.messages("exclude")
    if included and excluded:
        raise Unsupported(f"layer {shortened(message.text('name'))} has rules to include and to exclude it")
    if excluded:
        return not any(_meets(rule, state) for rule in excluded)
    return not included or any(_meets(rule, state) for rule in included)


def _meets(rule: Message, state: Message) -> bool:
    level, stages = state.integer("level", 0), state.texts("stage")
    return (
        rule.word("phase", "TEST", "TRAIN") == "TEST"
        and rule.integer("min_level", level) <= level <= rule.integer("max_level", level)
        and all(s in stages for s in rule.texts("stage"))
        and not any(s in stages for s in rule.texts("not_stage"))
    )


def _from_oldest(outer: Message) -> Layer:
    """A layer of version 0 as one of today."""
    inner, now = outer.message("layer"), Message()
    old_kind = inner.text("type")
    for name in ("bottom", "top"):
        now.fields[name] = outer.fields.get(name, [])
    now.fields["name"] = inner.fields.get("name", [])
    message, names = _OLDEST_SETTINGS.get(old_kind, ("", ()))
    settings = Message()
    settings.fields = {_RENAMED.get(n, n): inner.fields[n] for n in names if n in inner.fields}
    if message:
        now.fields[message] = [settings]
    regular = "".join(part.capitalize() for part in old_kind.split("_"))
    layer = Layer(now, _OLDEST_TYPES.get(old_kind, regular))
    layer.padding = inner.fields.get("pad", [])
    inner.ignore("name", "type", *names, *_OF_NO_MATTER)
    if layer.kind not in _SETTINGS_ELSEWHERE and (unknown := inner.unread()):
        now.fields[unknown[0]] = [Word("unknown")]
    return layer


def _without_padding(layers: list[Layer]) -> list[Layer]:
    """Padding of version 0 moves into the convolution or pooling that reads it."""
    pads = {layer.tops[0]: layer for layer in layers if layer.kind == "Padding" and layer.tops and layer.bottoms}
    for layer in layers:
        for i, bottom in enumerate(layer.bottoms):
            settings = {"Convolution": "convolution_param", "Pooling": "pooling_param"}.get(layer.kind, "")
            if bottom in pads and settings and layer.kind != "Padding":
                layer.bottoms[i] = pads[bottom].bottoms[0]
                layer.message.message(settings).fields["pad"] = pads[bottom].padding
    return [layer for layer in layers if layer.kind != "Padding"]
