"""Caffe files in: a `.prototxt`, which says the network, and the `.caffemodel` beside it, which has its weights.

`text` and `weights` read the two, `network` makes one kind of layer of all versions, `translation` puts it in ONNX's
terms, and from there it is as with ONNX files. Nothing but NumPy is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from homespun.errors import FormatError
from homespun.graph import Graph

_NETWORK, _WEIGHTS = ".prototxt", ".caffemodel"
#: How Caffe's own models name the network for predicting, among others in the folder.
_USUAL = "deploy.prototxt"


def load(
    path: Path, architecture: str | Path | None = None, shapes: Mapping[str, Sequence[int]] | None = None
) -> Graph:
    """The network of a `.prototxt` with the weights of a `.caffemodel`, channels-last, its batch free.

    `path` is either of the two; the other is found beside it. `architecture` is the `.prototxt` for a `.caffemodel`
    where there are several. `shapes` says the shape of inputs, by name, where the file doesn't.
    Raises `FormatError` that names the place, or lists every layer that can't be imported and what to do about it.
    """
    from homespun.formats.caffe import rules_elementwise, rules_layers, rules_shape
    from homespun.formats.caffe.network import Network
    from homespun.formats.caffe.translation import Translation
    from homespun.formats.caffe.weights import read_weights
    from homespun.formats.onnx import import_foreign

    text, weights = pair(path, architecture)
    network = Network(text)
    rules = {**rules_layers.RULES, **rules_elementwise.RULES, **rules_shape.RULES}
    size = text.stat().st_size + weights.stat().st_size
    return import_foreign(Translation(network, read_weights(weights), weights, shapes).run(rules, size))


def pair(path: Path, architecture: str | Path | None = None) -> tuple[Path, Path]:
    """(`.prototxt`, `.caffemodel`) of a network, given either. Raises `FormatError` where it isn't clear which."""
    if architecture is not None:
        network = Path(architecture)
        if network.suffix.lower() != _NETWORK or not network.is_file():
            raise FormatError(f"{path}: its network should be a .prototxt file; {architecture} is none")
        return network, path
    is_network = path.suffix.lower() == _NETWORK
    wanted = _WEIGHTS if is_network else _NETWORK
    beside = sorted(p for p in path.parent.iterdir() if p.suffix.lower() == wanted and p.is_file())
    chosen = [p for p in beside if p.stem == path.stem] or [p for p in beside if p.name == _USUAL] or beside
    if len(chosen) == 1:
        return (path, chosen[0]) if is_network else (chosen[0], path)
    other = "the network, its weights are in a .caffemodel" if is_network else "weights; a .prototxt says of what"
    found = f"{len(beside)} are" if beside else "none is"
    raise FormatError(
        f"{path}: the file holds {other}, and {found} beside it. Give both one name, or say which belong together: "
        'hs.load("net.caffemodel", architecture="net.prototxt"), on the command line --architecture net.prototxt'
    )
