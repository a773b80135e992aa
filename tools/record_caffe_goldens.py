"""Records what OpenCV, an independent reader of Caffe's files, computes: what maintainers run once.

Needs a Python with NumPy and opencv-python-headless 4:

    python tools/record_caffe_goldens.py

Writes small networks (`.prototxt`), made-up weights for them (`.caffemodel`) and, for an input, what OpenCV computes
(`.npz`) into tests/formats/goldens/caffe. OpenCV reads the files with Caffe's own schema, so what it reads is what
Caffe writes.
Where OpenCV is known to differ from Caffe there is no recording, but a test against the arithmetic of Caffe's source.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.formats.caffe_files import write_weights  # noqa: E402

GOLDENS = ROOT / "tests" / "formats" / "goldens" / "caffe"

IMAGE = """name: "NAME"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 dim: 9 dim: 11 } } }
"""
SMALL = IMAGE.replace("dim: 9 dim: 11", "dim: 5 dim: 6")
Shapes = dict[str, list[tuple[int, ...]]]

NETWORKS: dict[str, tuple[str, Shapes]] = {
    "convolutions": (
        IMAGE
        + """
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "grouped" type: "Convolution" bottom: "conv1" top: "grouped"
  convolution_param { num_output: 6 kernel_size: 3 pad: 2 dilation: 2 group: 2 bias_term: false } }
layer { name: "flat" type: "Convolution" bottom: "conv1" top: "flat"
  convolution_param { num_output: 4 kernel_h: 1 kernel_w: 5 pad_h: 0 pad_w: 2 stride_h: 2 stride_w: 1 } }
layer { name: "depthwise" type: "Convolution" bottom: "conv1" top: "depthwise"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 group: 8 engine: CAFFE } }
""",
        {
            "conv1": [(8, 4, 3, 3), (8,)],
            "grouped": [(6, 4, 3, 3)],
            "flat": [(4, 8, 1, 5), (4,)],
            "depthwise": [(8, 1, 3, 3), (8,)],
        },
    ),
    "pooling": (
        IMAGE
        + """
layer { name: "max" type: "Pooling" bottom: "data" top: "max" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "max_padded" type: "Pooling" bottom: "data" top: "max_padded"
  pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "mean" type: "Pooling" bottom: "data" top: "mean" pooling_param { pool: AVE kernel_size: 4 stride: 3 } }
layer { name: "mean_padded" type: "Pooling" bottom: "data" top: "mean_padded"
  pooling_param { pool: AVE kernel_h: 3 kernel_w: 4 stride: 3 pad_h: 1 pad_w: 2 } }
layer { name: "max_all" type: "Pooling" bottom: "data" top: "max_all" pooling_param { pool: MAX global_pooling: true } }
layer { name: "mean_all" type: "Pooling" bottom: "data" top: "mean_all"
  pooling_param { pool: AVE global_pooling: true } }
""",
        {},
    ),
    "classifier": (
        IMAGE
        + """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 5 kernel_size: 3 } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "fc1" type: "InnerProduct" bottom: "pool" top: "fc1" inner_product_param { num_output: 7 } }
layer { name: "drop" type: "Dropout" bottom: "fc1" top: "fc1" dropout_param { dropout_ratio: 0.4 } }
layer { name: "tanh" type: "TanH" bottom: "fc1" top: "fc1" }
layer { name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2"
  inner_product_param { num_output: 3 bias_term: false } }
layer { name: "prob" type: "Softmax" bottom: "fc2" top: "prob" }
""",
        {"conv": [(5, 4, 3, 3), (5,)], "fc1": [(7, 60), (7,)], "fc2": [(3, 7)]},
    ),
    "norms": (
        IMAGE
        + """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 6 kernel_size: 3 bias_term: false } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" batch_norm_param { use_global_stats: true eps: 0.001 } }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "bn2" type: "BatchNorm" bottom: "conv" top: "bn2" }
layer { name: "scale2" type: "Scale" bottom: "bn2" top: "scale2" }
layer { name: "both" type: "Eltwise" bottom: "bn2" bottom: "scale2" top: "both" }
layer { name: "alone" type: "Scale" bottom: "conv" top: "alone" scale_param { bias_term: true axis: 1 } }
layer { name: "bn3" type: "BatchNorm" bottom: "alone" top: "bn3" }
""",
        {
            "conv": [(6, 4, 3, 3)],
            "bn": [(6,), (6,), (1,)],
            "scale": [(6,), (6,)],
            "bn2": [(6,), (6,), (1,)],
            "scale2": [(6,)],
            "alone": [(6,), (6,)],
            "bn3": [(6,), (6,), (1,)],
        },
    ),
    "activations": (
        SMALL
        + """
layer { name: "relu" type: "ReLU" bottom: "data" top: "relu" }
layer { name: "leaky" type: "ReLU" bottom: "data" top: "leaky" relu_param { negative_slope: 0.1 } }
layer { name: "prelu" type: "PReLU" bottom: "data" top: "prelu" }
layer { name: "prelu_one" type: "PReLU" bottom: "data" top: "prelu_one" prelu_param { channel_shared: true } }
layer { name: "sigmoid" type: "Sigmoid" bottom: "data" top: "sigmoid" }
layer { name: "tanh" type: "TanH" bottom: "data" top: "tanh" }
layer { name: "abs" type: "AbsVal" bottom: "data" top: "abs" }
layer { name: "bnll" type: "BNLL" bottom: "data" top: "bnll" }
layer { name: "elu" type: "ELU" bottom: "data" top: "elu" }
layer { name: "relu6" type: "ReLU6" bottom: "data" top: "relu6" }
layer { name: "swish" type: "Swish" bottom: "data" top: "swish" }
layer { name: "mish" type: "Mish" bottom: "data" top: "mish" }
layer { name: "line" type: "Power" bottom: "data" top: "line" power_param { scale: -0.5 shift: 2 } }
layer { name: "square" type: "Power" bottom: "data" top: "square" power_param { power: 2 scale: 0.3 shift: 0.1 } }
layer { name: "exp" type: "Exp" bottom: "data" top: "exp" exp_param { base: 2 scale: 0.5 shift: 0.25 } }
""",
        {"prelu": [(4,)], "prelu_one": [(1,)]},
    ),
    "arithmetic": (
        SMALL
        + """
layer { name: "a" type: "Sigmoid" bottom: "data" top: "a" }
layer { name: "b" type: "TanH" bottom: "data" top: "b" }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" bottom: "data" top: "sum" }
layer { name: "mix" type: "Eltwise" bottom: "a" bottom: "b" top: "mix"
  eltwise_param { operation: SUM coeff: 0.5 coeff: -2 } }
layer { name: "less" type: "Eltwise" bottom: "a" bottom: "b" top: "less" eltwise_param { coeff: 1 coeff: -1 } }
layer { name: "product" type: "Eltwise" bottom: "a" bottom: "b" top: "product" eltwise_param { operation: PROD } }
layer { name: "largest" type: "Eltwise" bottom: "a" bottom: "b" top: "largest" eltwise_param { operation: MAX } }
""",
        {},
    ),
    "movement": (
        SMALL
        + """
layer { name: "slice" type: "Slice" bottom: "data" top: "first" top: "rest" slice_param { axis: 1 slice_point: 1 } }
layer { name: "halves" type: "Slice" bottom: "data" top: "half1" top: "half2" }
layer { name: "join" type: "Concat" bottom: "rest" bottom: "first" top: "join" concat_param { axis: 1 } }
layer { name: "wide" type: "Concat" bottom: "half1" bottom: "half2" top: "wide" concat_param { axis: 3 } }
layer { name: "permute" type: "Permute" bottom: "join" top: "permute"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "flatten" type: "Flatten" bottom: "permute" top: "flatten" }
layer { name: "reshape" type: "Reshape" bottom: "data" top: "reshape"
  reshape_param { shape { dim: 0 dim: 2 dim: -1 dim: 6 } } }
layer { name: "inner" type: "Flatten" bottom: "data" top: "inner" flatten_param { axis: 2 } }
layer { name: "channels" type: "Softmax" bottom: "data" top: "channels" }
layer { name: "shuffle" type: "ShuffleChannel" bottom: "data" top: "shuffle" shuffle_channel_param { group: 2 } }
layer { name: "small" type: "Pooling" bottom: "data" top: "small" pooling_param { kernel_size: 3 stride: 1 } }
layer { name: "crop" type: "Crop" bottom: "data" bottom: "small" top: "crop"
  crop_param { axis: 2 offset: 1 offset: 2 } }
""",
        {},
    ),
    "lrn": (
        SMALL
        + """
layer { name: "across" type: "LRN" bottom: "data" top: "across" lrn_param { local_size: 3 alpha: 0.5 beta: 0.75 } }
layer { name: "more" type: "LRN" bottom: "data" top: "more" lrn_param { local_size: 5 alpha: 0.2 beta: 0.5 } }
layer { name: "within" type: "LRN" bottom: "data" top: "within"
  lrn_param { local_size: 3 alpha: 0.5 norm_region: WITHIN_CHANNEL } }
""",
        {},
    ),
    "deconvolution": (
        SMALL
        + """
layer { name: "up" type: "Deconvolution" bottom: "data" top: "up"
  convolution_param { num_output: 3 kernel_size: 4 stride: 2 pad: 1 } }
layer { name: "plain" type: "Deconvolution" bottom: "data" top: "plain"
  convolution_param { num_output: 2 kernel_size: 3 bias_term: false } }
layer { name: "grouped" type: "Deconvolution" bottom: "data" top: "grouped"
  convolution_param { num_output: 4 kernel_size: 4 stride: 2 pad: 1 group: 4 bias_term: false } }
layer { name: "apart" type: "Deconvolution" bottom: "data" top: "apart"
  convolution_param { num_output: 2 kernel_size: 2 stride: 3 } }
""",
        {
            "up": [(4, 3, 4, 4), (3,)],
            "plain": [(4, 2, 3, 3)],
            "grouped": [(4, 1, 4, 4)],
            "apart": [(4, 2, 2, 2), (2,)],
        },
    ),
    "larger": (
        SMALL
        + """
layer { name: "zoom" type: "Interp" bottom: "data" top: "zoom" interp_param { zoom_factor: 3 } }
layer { name: "size" type: "Interp" bottom: "data" top: "size" interp_param { height: 8 width: 7 } }
layer { name: "norm" type: "Normalize" bottom: "data" top: "norm"
  norm_param { across_spatial: false channel_shared: false } }
""",
        {"norm": [(4,)]},
    ),
    "version1": (
        """name: "NAME"
input: "data" input_dim: 2 input_dim: 4 input_dim: 9 input_dim: 11
layers { name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1" blobs_lr: 1 blobs_lr: 2 weight_decay: 1
  convolution_param { num_output: 6 kernel_size: 3 weight_filler { type: "gaussian" std: 0.01 } } }
layers { name: "relu1" type: RELU bottom: "conv1" top: "conv1" }
layers { name: "pool1" type: POOLING bottom: "conv1" top: "pool1" pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layers { name: "norm1" type: LRN bottom: "pool1" top: "norm1" lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 } }
layers { name: "side" type: TANH bottom: "norm1" top: "side" }
layers { name: "join" type: CONCAT bottom: "norm1" bottom: "side" top: "join" }
layers { name: "fc" type: INNER_PRODUCT bottom: "join" top: "fc" inner_product_param { num_output: 5 } }
layers { name: "drop" type: DROPOUT bottom: "fc" top: "fc" }
layers { name: "prob" type: SOFTMAX bottom: "fc" top: "prob" }
""",
        {"conv1": [(6, 4, 3, 3), (1, 1, 1, 6)], "fc": [(1, 1, 5, 144), (1, 1, 1, 5)]},
    ),
    "version0": (
        """name: "NAME"
input: "data" input_dim: 2 input_dim: 4 input_dim: 9 input_dim: 11
layers { layer { name: "pad1" type: "padding" pad: 1 } bottom: "data" top: "pad1" }
layers { layer { name: "conv1" type: "conv" num_output: 6 kernelsize: 3 group: 2 stride: 1 blobs_lr: 1. }
  bottom: "pad1" top: "conv1" }
layers { layer { name: "relu1" type: "relu" } bottom: "conv1" top: "conv1" }
layers { layer { name: "pool1" type: "pool" pool: MAX kernelsize: 3 stride: 2 } bottom: "conv1" top: "pool1" }
layers { layer { name: "norm1" type: "lrn" local_size: 3 alpha: 0.1 beta: 0.75 } bottom: "pool1" top: "norm1" }
layers { layer { name: "fc" type: "innerproduct" num_output: 5 biasterm: false } bottom: "norm1" top: "fc" }
layers { layer { name: "prob" type: "softmax" } bottom: "fc" top: "prob" }
""",
        {"conv1": [(6, 2, 3, 3), (1, 1, 1, 6)], "fc": [(1, 1, 5, 120)]},
    ),
}

#: The network "version0" as today's Caffe writes it.
VERSION0_TODAY = """input: "data" input_shape { dim: 2 dim: 4 dim: 9 dim: 11 }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 6 kernel_size: 3 group: 2 pad: 1 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "norm1" type: "LRN" bottom: "pool1" top: "norm1" lrn_param { local_size: 3 alpha: 0.1 beta: 0.75 } }
layer { name: "fc" type: "InnerProduct" bottom: "norm1" top: "fc"
  inner_product_param { num_output: 5 bias_term: false } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""


def made(random: np.random.Generator, layer: str, i: int, shape: tuple[int, ...]) -> np.ndarray:
    """Weights of a blob: a batch norm's are positive where they must be."""
    if layer.startswith("bn") and i == 2:
        return np.asarray([7.5], np.float32)
    low, high = (3.0, 9.0) if layer.startswith("bn") and i == 1 else (-0.5, 0.5)
    return random.uniform(low, high, shape).astype(np.float32)


def record(name: str, text: str, shapes: Shapes, folder: str) -> None:
    """Write one network, its weights, and what OpenCV makes of an input."""
    random = np.random.default_rng(0)
    text = text.replace("NAME", name, 1)
    prototxt, weights = GOLDENS / f"{name}.prototxt", GOLDENS / f"{name}.caffemodel"
    prototxt.write_text(text)
    version = {"version1": 1, "version0": 0}.get(name, 2)
    layers = {
        layer: (kind, [made(random, layer, i, s) for i, s in enumerate(shapes.get(layer, []))])
        for layer, kind in re.findall(r'name: "(\w+)" type: "?(\w+)', text)
    }
    write_weights(weights, layers, version)
    dims = [int(d) for d in re.findall(r"dim: (\d+)", text)[:4]]
    x = random.uniform(-3, 3, dims).astype(np.float32)
    if version == 0:  # OpenCV reads these networks, but not their weights: it gets the same ones in today's form
        prototxt, weights = (Path(folder) / f"now{p.suffix}" for p in (prototxt, weights))
        prototxt.write_text(VERSION0_TODAY)
        write_weights(weights, {n: (kind, arrays) for n, (kind, arrays) in layers.items() if arrays})
    net = cv2.dnn.readNetFromCaffe(str(prototxt), str(weights))
    net.setInput(x)
    names = list(net.getUnconnectedOutLayersNames())
    outputs = [np.array(o) for o in net.forward(names)]
    np.savez_compressed(GOLDENS / f"{name}.npz", data=x, **dict(zip(names, outputs, strict=True)))
    print(name, {n: o.shape for n, o in zip(names, outputs, strict=True)})


def main() -> None:
    """Record all networks."""
    GOLDENS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, (text, shapes) in NETWORKS.items():
            record(name, text, shapes, folder)


if __name__ == "__main__":
    main()
