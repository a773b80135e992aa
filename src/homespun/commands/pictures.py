"""Photos of a folder as a model takes them: what models are compared, calibrated and compressed on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from homespun import Graph
    from homespun.graph import Array

GOLDEN = 0.6180339887498949
#: Photos that ranges of activations are measured on.
CALIBRATION = 64


def read_photos(folder: Path, graph: Graph, limit: int) -> Array:
    """Up to `limit` photos from all over a folder, as a model takes them (N, H, W, C)."""
    import numpy as np

    from homespun import FormatError, OptionError
    from homespun.data.pictures import picture_files, read_pixels
    from homespun.data.preprocessing import Preprocessing

    given = {} if "input_mean" in graph.metadata else {"mean": 127.5, "scale": 127.5}
    preparation = Preprocessing.of(graph, **given)  # type: ignore[arg-type]
    pictures = []
    files = picture_files(folder)
    order = np.argsort(np.arange(len(files)) * GOLDEN % 1.0)  # far apart, whatever the limit
    for path in (files[i] for i in order):
        try:
            pixels = read_pixels(path, preparation.height, preparation.width, preparation.channels)
        except FormatError:
            continue  # what can't be read says nothing of the models
        pictures.append(preparation.apply(pixels))
        if len(pictures) == limit:
            break
    if not pictures:
        raise OptionError(f"{folder}: there are no photos in it that can be read")
    return np.stack(pictures)
