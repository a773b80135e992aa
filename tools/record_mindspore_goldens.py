"""Records MindSpore's files and what it computes, for tests of their import: what maintainers run once.

Needs a Python with mindspore (2.x for CPUs, `pip install mindspore`), and nothing of ours:

    python tools/record_mindspore_goldens.py

Writes `tests/formats/goldens/mindspore.zip`, networks and checkpoints as MindSpore writes them and a small network for
each operator, and `mindspore.npz`, inputs and outputs of all. Outputs are for three samples a batch, while files are
exported for one or two: a batch that stays fixed would show.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, lazy_inline, nn, ops
from mindspore.train import serialization

GOLDENS = Path(__file__).parents[1] / "tests" / "formats" / "goldens"
BATCH = 3


class LeNet(nn.Cell):
    """A narrow LeNet-5, its second convolution with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 5, pad_mode="valid", has_bias=True)
        self.conv2 = nn.Conv2d(4, 6, 5, pad_mode="same")
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2, 2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Dense(6 * 6 * 6, 16)
        self.fc2 = nn.Dense(16, 5)

    def construct(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.conv1(x)))
        x = self.pool(self.relu(self.norm(self.conv2(x))))
        return self.fc2(self.relu(self.fc1(self.flatten(x))))


def conv_norm(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, group: int = 1) -> list[nn.Cell]:
    """A convolution without bias, and its norm."""
    pad = (kernel - 1) // 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride, pad_mode="pad", padding=pad, group=group, has_bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Cell):
    """Expand, depthwise, project; added to its input where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        self.adds = stride == 1 and inputs == outputs
        wide = inputs * expand
        layers = [*conv_norm(inputs, wide, 1), nn.ReLU6()] if expand != 1 else []
        layers += [*conv_norm(wide, wide, 3, stride, wide), nn.ReLU6(), *conv_norm(wide, outputs, 1)]
        self.layers = nn.SequentialCell(layers)

    def construct(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


class MobileNetV2(nn.Cell):
    """MobileNetV2 as MindSpore's model collections build it, with their names; `stages` and widths are small here."""

    def __init__(self, stages: tuple[tuple[int, int, int, int], ...], stem: int, last: int, classes: int) -> None:
        super().__init__()
        features = [*conv_norm(3, stem, 3, 2), nn.ReLU6()]
        channels = stem
        for expand, outputs, blocks, stride in stages:
            for block in range(blocks):
                features.append(InvertedResidual(channels, outputs, stride if block == 0 else 1, expand))
                channels = outputs
        features += [*conv_norm(channels, last, 1), nn.ReLU6()]
        self.features = nn.SequentialCell(features)
        self.classifier = nn.SequentialCell([nn.Dropout(p=0.2), nn.Dense(last, classes)])

    def construct(self, x: Tensor) -> Tensor:
        return self.classifier(ops.mean(self.features(x), (2, 3)))


class Attention(nn.Cell):
    """Multi-head self-attention, written out."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, channels // heads
        self.query, self.key, self.value, self.out = (nn.Dense(channels, channels) for _ in range(4))
        self.softmax = nn.Softmax(-1)

    def split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, self.width).transpose(0, 2, 1, 3)

    def construct(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        scores = ops.BatchMatMul(transpose_b=True)(q, k) / self.width**0.5
        mixed = ops.BatchMatMul()(self.softmax(scores), v).transpose(0, 2, 1, 3)
        return self.out(mixed.reshape(x.shape[0], x.shape[1], self.heads * self.width))


class Block(nn.Cell):
    """A transformer's layer, norm first."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm((channels,), epsilon=1e-5), nn.LayerNorm((channels,), epsilon=1e-5)
        self.attention = Attention(channels, heads)
        self.up, self.down = nn.Dense(channels, 2 * channels), nn.Dense(2 * channels, channels)
        self.gelu = nn.GELU(approximate=False)

    def construct(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(self.gelu(self.up(self.norm2(x))))


class FunctionBlock(Block):
    """A layer that stays a function of the file, called for each of its kind; MindSpore can't run that on CPUs."""

    @lazy_inline
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, heads)


class Transformer(nn.Cell):
    """Ids to logits: embedding, positions, two blocks, a norm, the first token's vector."""

    def __init__(self, block: type[Block], vocabulary: int = 13, length: int = 6, channels: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, channels)
        self.positions = Parameter(Tensor(np.zeros((length, channels), np.float32)), name="positions")
        self.blocks = nn.CellList([block(channels, 2) for _ in range(2)])
        self.norm = nn.LayerNorm((channels,), epsilon=1e-5)
        self.head = nn.Dense(channels, 3)

    def construct(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Biased(nn.Cell):
    """A convolution that is read with its bias and without."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)
        self.bias = Parameter(Tensor(np.zeros(4, np.float32)), name="bias")

    def construct(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return ops.bias_add(y, self.bias) * ops.sigmoid(y)


class Wide(nn.Cell):
    """One layer."""

    def __init__(self, dense: nn.Cell) -> None:
        super().__init__()
        self.dense = dense

    def construct(self, x: Tensor) -> Tensor:
        return self.dense(x)


class Made(nn.Cell):
    """A cell of one expression of `x` and parameters w (8, 8), b (8), s (4)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = Parameter(Tensor(np.zeros((8, 8), np.float32)), name="w")
        self.b = Parameter(Tensor(np.zeros(8, np.float32)), name="b")
        self.s = Parameter(Tensor(np.ones(4, np.float32)), name="s")
        self.v = Parameter(Tensor(np.ones(4, np.float32)), name="variance")


class Assigned(nn.Cell):
    """Keeps a running sum: a call changes the next."""

    def __init__(self) -> None:
        super().__init__()
        self.total = Parameter(Tensor(np.zeros(8, np.float32)), name="total")

    def construct(self, x: Tensor) -> Tensor:
        y = x + self.total
        ops.assign(self.total, x[0])
        return y


class Branches(nn.Cell):
    """Chooses by its data."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Dense(8, 8)

    def construct(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = self.dense(x)
        return x


class Twice(nn.Cell):
    """One layer twice, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Dense(8, 8)

    def construct(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = self.dense(self.dense(x))
        return x * y, x


IMAGE, VECTORS, ROWS = (4, 8, 6), (6, 8), (8,)
#: Name -> (layer, shape of a sample).
LAYERS: dict[str, tuple[Callable[[], nn.Cell], tuple[int, ...]]] = {
    "conv_pad": (lambda: nn.Conv2d(4, 8, 3, stride=2, pad_mode="pad", padding=1, has_bias=True), IMAGE),
    "conv_pads": (lambda: nn.Conv2d(4, 8, 3, stride=2, pad_mode="pad", padding=(0, 1, 2, 1)), IMAGE),
    "conv_same": (lambda: nn.Conv2d(4, 8, 3, stride=2, pad_mode="same"), IMAGE),
    "conv_valid": (lambda: nn.Conv2d(4, 8, (3, 2), stride=(1, 2), pad_mode="valid"), IMAGE),
    "conv_depthwise": (lambda: nn.Conv2d(4, 4, 3, pad_mode="same", group=4, dilation=2), IMAGE),
    "conv_groups": (lambda: nn.Conv2d(4, 8, 3, pad_mode="same", group=2, has_bias=True), IMAGE),
    "conv_with_and_without_bias": (Biased, IMAGE),
    "conv_row": (lambda: nn.Conv1d(6, 4, 3), VECTORS),
    "batch_norm": (lambda: nn.BatchNorm2d(4, eps=1e-3, momentum=0.8), IMAGE),
    "batch_norm_plain": (lambda: nn.BatchNorm2d(4, affine=False), IMAGE),
    "batch_norm_rows": (lambda: nn.BatchNorm1d(8), ROWS),
    "layer_norm": (lambda: nn.LayerNorm((8,)), VECTORS),
    "dense": (lambda: nn.Dense(8, 5, activation="relu"), ROWS),
    "dense_vectors": (lambda: nn.Dense(8, 5), VECTORS),
    "dense_plain": (lambda: nn.Dense(8, 5, has_bias=False), ROWS),
    "prelu": (lambda: nn.PReLU(4), IMAGE),
    "prelu_one": (lambda: nn.PReLU(), IMAGE),
    "leaky_relu": (lambda: nn.LeakyReLU(0.3), IMAGE),
    "elu": (lambda: nn.ELU(), IMAGE),
    "gelu": (lambda: nn.GELU(approximate=False), VECTORS),
    "gelu_tanh": (lambda: nn.GELU(), VECTORS),
    "conv_transpose": (lambda: nn.Conv2dTranspose(4, 6, 3, stride=2, has_bias=True), IMAGE),
    "conv_transpose_valid": (lambda: nn.Conv2dTranspose(4, 6, 3, stride=2, pad_mode="valid"), IMAGE),
    "conv_transpose_pad": (lambda: nn.Conv2dTranspose(4, 6, 4, stride=2, pad_mode="pad", padding=1), IMAGE),
    "log_softmax": (lambda: nn.LogSoftmax(1), VECTORS),
    "softmax": (lambda: nn.Softmax(1), IMAGE),
    "log_sigmoid": (lambda: nn.LogSigmoid(), VECTORS),
    "hardtanh": (lambda: nn.Hardtanh(), VECTORS),
    "mish": (lambda: nn.Mish(), VECTORS),
    "max_pool_same": (lambda: nn.MaxPool2d(3, 2, pad_mode="same"), IMAGE),
    "max_pool_pad": (lambda: nn.MaxPool2d(3, 2, pad_mode="pad", padding=1), IMAGE),
    "max_pool_ceil": (lambda: nn.MaxPool2d(3, 2, pad_mode="pad", padding=0, ceil_mode=True), IMAGE),
    "average_pool_same": (lambda: nn.AvgPool2d(3, 2, pad_mode="same"), IMAGE),
    "average_pool_valid": (lambda: nn.AvgPool2d(3, 2), IMAGE),
    "average_pool_pad": (lambda: nn.AvgPool2d(3, 2, pad_mode="pad", padding=1, count_include_pad=False), IMAGE),
    "average_pool_pad_counted": (lambda: nn.AvgPool2d(3, 2, pad_mode="pad", padding=1), IMAGE),
    "adaptive_pool": (lambda: nn.AdaptiveAvgPool2d(1), IMAGE),
    "adaptive_pool_two": (lambda: nn.AdaptiveAvgPool2d((2, 3)), IMAGE),
    "attention": (lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), VECTORS),
}
#: Name -> (expression, shape of a sample).
EXPRESSIONS = {
    "mean_pool": ("ops.mean(x, (2, 3))", IMAGE),
    "mean_pool_kept": ("x.mean((2, 3), keep_dims=True)", IMAGE),
    "sum": ("ops.sum(x, 1)", VECTORS),
    "max": ("ops.max(x, axis=1)[0]", VECTORS),
    "matmul": ("ops.matmul(x, self.w) + self.b", VECTORS),
    "matmul_turned": ("ops.MatMul(transpose_b=True)(x, self.w)", ROWS),
    "products": ("ops.bmm(x, x.swapaxes(1, 2)) / 8.0**0.5", VECTORS),
    "products_turned": ("ops.BatchMatMul(transpose_a=True)(x, x)", VECTORS),
    "dense_function": ("ops.dense(x, self.w, self.b)", VECTORS),
    "turned": ("ops.transpose(x, (0, 2, 3, 1)) + self.s", IMAGE),
    "reshaped": ("x.reshape(x.shape[0], -1)", IMAGE),
    "reshaped_back": ("x.reshape(-1, 8).reshape(x.shape[0], 2, 24)", VECTORS),
    "concat": ("ops.cat((x, x * 2), 1)", IMAGE),
    "stack": ("ops.stack((x, x + 1.0), axis=1)", VECTORS),
    "split": ("ops.split(x, 2, axis=1)[1]", IMAGE),
    "chunk": ("ops.chunk(x, 2, axis=1)[0] * 2.0 + ops.chunk(x, 2, axis=1)[1]", VECTORS),
    "sliced": ("x[:, 1:3, 2:]", IMAGE),
    "first": ("x[:, 0]", VECTORS),
    "last": ("x[:, -1]", VECTORS),
    "squeezed": ("ops.squeeze(ops.expand_dims(x, 1), 1)", VECTORS),
    "padded": ("ops.pad(x, (1, 2, 0, 3))", IMAGE),
    "padded_pairs": ("ops.Pad(((0, 0), (0, 0), (1, 2), (0, 3)))(x)", IMAGE),
    "clamped": ("ops.clamp(x, -0.5, 0.75)", VECTORS),
    "hard_swish_by_hand": ("x * ops.relu6(x + 3.0) / 6.0", IMAGE),
    "hard_swish": ("ops.hardswish(x) + ops.hardsigmoid(x)", IMAGE),
    "functions": ("ops.pow(x, 2) + ops.sqrt(ops.abs(x)) + ops.exp(x) - ops.rsqrt(ops.square(x) + 1.0)", VECTORS),
    "silu": ("ops.silu(x) + ops.erf(x) + ops.tanh(x) + ops.sigmoid(x)", VECTORS),
    "arithmetic": ("ops.mul(-x, x) / ops.maximum(ops.abs(x), ops.minimum(x, 1.0) + 3.0) + 1", VECTORS),
    "half": ("ops.cast(ops.matmul(ops.cast(x, ms.float16), ops.cast(self.w, ms.float16)), ms.float32)", ROWS),
    "shuffled": ("nn.ChannelShuffle(2)(x)", IMAGE),
    "space_to_depth": ("ops.SpaceToDepth(2)(x)", IMAGE),
    "depth_to_space": ("ops.DepthToSpace(2)(x)", IMAGE),
    "broadcast": ("ops.broadcast_to(x, x.shape) * 2.0", VECTORS),
    "flat": ("ops.flatten(x)", IMAGE),
    "repeated": ("ops.interpolate(x, size=(16, 12), mode='nearest')", IMAGE),
    "resized_nearest": ("ops.interpolate(x, size=(11, 9), mode='nearest')", IMAGE),
    "resized_linear": ("ops.interpolate(x, size=(11, 9), mode='bilinear')", IMAGE),
    "resized_corners": ("ops.interpolate(x, size=(11, 9), mode='bilinear', align_corners=True)", IMAGE),
    "response_norm": ("ops.lrn(x, depth_radius=2, bias=1.5, alpha=0.1, beta=0.6)", IMAGE),
    "excited": ("x * ops.sigmoid(x.mean((2, 3), keep_dims=True))", IMAGE),
}
_NORMED = "(x - x.mean(-1, True)) / ops.sqrt(ops.square(x - x.mean(-1, True)).mean(-1, True) + 1e-5) * self.b + self.b"
#: Operators that MindSpore can't run on CPUs, mostly those of `mindspore.mint`, and the same in others that it can.
TWINS = {
    "layer_norm_function": ("ops.layer_norm(x, (8,), self.b, self.b)", _NORMED, VECTORS),
    "mint_linear": ("mint.nn.functional.linear(x, self.w, self.b)", "ops.dense(x, self.w, self.b)", VECTORS),
    "mint_softmax": ("mint.nn.functional.softmax(x, -1)", "ops.softmax(x, -1)", VECTORS),
    "mint_mean": ("mint.mean(x, -1)", "ops.mean(x, -1)", VECTORS),
    "mint_gelu": ("mint.nn.functional.gelu(x)", "ops.gelu(x, approximate='none')", VECTORS),
    "mint_gelu_tanh": ("mint.nn.functional.gelu(x, approximate='tanh')", "ops.gelu(x, approximate='tanh')", VECTORS),
    "mint_conv": (
        "mint.nn.functional.conv2d(x, self.w.reshape(4, 4, 2, 2), self.s, stride=2, padding=1)",
        "ops.conv2d(x, self.w.reshape(4, 4, 2, 2), self.s, stride=2, pad_mode='pad', padding=1)",
        IMAGE,
    ),
    "mint_max_pool": ("mint.nn.functional.max_pool2d(x, 2)", "ops.max_pool2d(x, 2)", IMAGE),
    "mint_average_pool": ("mint.nn.functional.avg_pool2d(x, 2)", "ops.avg_pool2d(x, 2, 2)", IMAGE),
    "mint_adaptive_pool": ("mint.nn.functional.adaptive_avg_pool2d(x, (1, 1))", "x.mean((2, 3), True)", IMAGE),
    "mint_layer_norm": (
        "mint.nn.functional.layer_norm(x, (8,), self.b, self.b)",
        _NORMED,
        VECTORS,
    ),
    "mint_batch_norm": (
        "mint.nn.functional.batch_norm(x, self.s, self.v, self.s, self.s)",
        "(x - self.s.reshape(4, 1, 1)) / ops.sqrt(self.v.reshape(4, 1, 1) + 1e-5) * self.s.reshape(4, 1, 1)"
        " + self.s.reshape(4, 1, 1)",
        IMAGE,
    ),
    "mint_transpose": ("mint.transpose(x, 1, 2) + 0.0", "x.swapaxes(1, 2)", VECTORS),
    "mint_flatten": ("mint.flatten(x, 1) * 1.0", "ops.flatten(x)", IMAGE),
    "mint_split": ("mint.split(x, 4, 1)[1] * 1.0", "ops.split(x, 4, axis=1)[1]", VECTORS),
}
#: What can't be imported: name -> (expression, sample).
REFUSED = {
    "argmax": ("ops.argmax(x, 1)", VECTORS),
    "selected": ("ops.where(x > 0, x, x * 2) + ops.cumsum(x, 1)", VECTORS),
    "samples": ("x[0] + x", VECTORS),
    "group_norm": ("nn.GroupNorm(2, 4)(x)", IMAGE),
}


def cells_of(expressions: dict[str, str], folder: Path) -> dict[str, nn.Cell]:
    """A cell for each expression. MindSpore reads the sources of cells, so there must be a file of them."""
    lines = ["import mindspore as ms", "from mindspore import mint, nn, ops", ""]
    for name, expression in expressions.items():
        lines += [f"class {name}(Made):", "    def __init__(self):", "        super().__init__()"]
        if expression.startswith("nn."):
            lines += [f"        self.layer = {expression.removesuffix('(x)')}"]
            expression = "self.layer(x)"
        lines += ["", "    def construct(self, x):", f"        return {expression}", ""]
    path = folder / "made_cells.py"
    path.write_text("\n".join(lines))
    spec = importlib.util.spec_from_file_location("made_cells", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    module.Made = Made
    sys.modules["made_cells"] = module
    spec.loader.exec_module(module)
    return {name: getattr(module, name)() for name in expressions}


def fill(net: nn.Cell, seed: int, coarse: bool = False) -> nn.Cell:
    """Parameters that are no initial values: statistics too, so that a norm which is left out shows.

    With `coarse`, weights are -1, 0 or 1 times a power of two, so that a large network is a small file once packed.
    """
    random = np.random.default_rng(seed)
    for p in net.get_parameters():
        if coarse and p.name.endswith("weight"):
            scale = 2.0 ** np.round(np.log2(1.5 / np.sqrt(np.prod(p.shape[1:]))))
            p.set_data(Tensor((random.integers(-1, 2, p.shape) * scale).astype(np.float32)))
            continue
        values = random.standard_normal(p.shape) * (0.5 if len(p.shape) < 2 else 1.5 / np.sqrt(np.prod(p.shape[1:])))
        if "variance" in p.name:
            values = np.abs(values) + 0.5
        elif p.name.endswith("gamma"):
            values = values + 1.0
        p.set_data(Tensor(values.astype(np.float32)))
    return net.set_train(False)


def sample(shape: tuple[int, ...], batch: int, seed: int, largest: int = 0) -> np.ndarray:
    """Normal numbers, or ids below `largest`."""
    random = np.random.default_rng(seed)
    if largest:
        return random.integers(0, largest, (batch, *shape)).astype(np.int32)
    return random.standard_normal((batch, *shape)).astype(np.float32)


def export(net: nn.Cell, path: Path, *inputs: np.ndarray | Tensor) -> None:
    """The network as MindSpore writes it."""
    given = [i if isinstance(i, Tensor) else Tensor(i) for i in inputs]
    path.parent.mkdir(parents=True, exist_ok=True)
    ms.export(net, *given, file_name=str(path), file_format="MINDIR")


class Recording:
    """Outputs by name; inputs by name too, but what is recorded of vectors and images of one shape shares them."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}

    def add(self, name: str, net: nn.Cell, *inputs: np.ndarray) -> None:
        """What a network computes of these."""
        results = net(*(Tensor(i) for i in inputs))
        shared = "in/" + "x".join(str(n) for n in inputs[0].shape[1:])
        if len(inputs) == 1 and np.array_equal(self.arrays.setdefault(shared, inputs[0]), inputs[0]):
            inputs = ()
        for i, array in enumerate(inputs):
            self.arrays[f"{name}/in{i}"] = array
        for i, result in enumerate(results if isinstance(results, tuple) else (results,)):
            self.arrays[f"{name}/out{i}"] = result.asnumpy()


def record_networks(recording: Recording, out: Path) -> None:
    """Whole networks, checkpoints, and a network whose weights are in files beside it."""
    lenet = fill(LeNet(), 1)
    export(lenet, out / "lenet.mindir", sample((1, 28, 28), 1, 0))
    recording.add("lenet", lenet, sample((1, 28, 28), BATCH, 11))
    ms.save_checkpoint(fill(lenet, 5), str(out / "lenet.ckpt"))  # other weights than in the network's file
    recording.add("lenet.ckpt", lenet, sample((1, 28, 28), BATCH, 11))
    ms.save_checkpoint(lenet, str(out / "checked.ckpt"), crc_check=True, append_dict={"epoch_num": 3, "note": "text"})

    stages = ((1, 8, 1, 1), (3, 8, 2, 2), (2, 12, 1, 2))
    paper = ((1, 8, 1, 1), (6, 8, 2, 2), (6, 8, 3, 2), (6, 8, 4, 2), (6, 16, 3, 1), (6, 16, 3, 2), (6, 32, 1, 1))
    tenth = fill(MobileNetV2(paper, 8, 1280, 3), 6, coarse=True)  # of the paper's width
    ms.save_checkpoint(tenth, str(out / "mindcv.ckpt"))
    recording.add("mindcv.ckpt", tenth, sample((3, 32, 32), BATCH, 12))

    mobilenet = fill(MobileNetV2(stages, 8, 16, 4), 2)
    export(mobilenet, out / "mobilenet_v2.mindir", sample((3, 32, 32), 2, 0))
    export(mobilenet, out / "mobilenet_v2_free.mindir", Tensor(shape=[None, 3, 32, 32], dtype=ms.float32))
    ms.save_checkpoint(mobilenet, str(out / "mobilenet_v2.ckpt"))
    recording.add("mobilenet_v2", mobilenet, sample((3, 32, 32), BATCH, 12))
    training = fill(MobileNetV2(stages, 8, 16, 4), 2).set_train(True)
    export(training, out / "mobilenet_v2_training.mindir", sample((3, 32, 32), 2, 0))

    export(fill(Transformer(FunctionBlock), 3), out / "functions.mindir", sample((6,), 1, 0, 13))
    transformer = fill(Transformer(Block), 3)
    export(transformer, out / "transformer.mindir", sample((6,), 1, 0, 13))
    recording.add("transformer", transformer, sample((6,), BATCH, 13, 13))

    twice = fill(Twice(), 4)
    optimizer = nn.Momentum(twice.trainable_params(), 0.1, 0.9)
    step = nn.TrainOneStepCell(nn.WithLossCell(Wide(twice.dense), nn.MSELoss()), optimizer)
    step(Tensor(sample(ROWS, 2, 0)), Tensor(sample(ROWS, 2, 1)))
    ms.save_checkpoint(step, str(out / "trained.ckpt"), append_dict={"epoch_num": 1, "step_num": 1})
    export(twice, out / "twice.mindir", sample(ROWS, 2, 0), sample(ROWS, 2, 1))
    recording.add("twice", twice, sample(ROWS, BATCH, 14), sample(ROWS, BATCH, 15))

    serialization.TOTAL_SAVE = 0  # instead of a gigabyte: from there on weights go into a file of their own
    serialization.PARAMETER_SPLIT_SIZE = 2  # kilobytes, rather than a gigabyte, a file
    export(fill(lenet, 1), out / "split.mindir", sample((1, 28, 28), 1, 0))
    serialization.TOTAL_SAVE = serialization.PARAMETER_SPLIT_SIZE = 2**20


def record_operators(recording: Recording, out: Path, sources: Path) -> None:
    """A file for each layer and expression, and one for each that must be refused."""
    texts = {name: e for name, (e, _) in EXPRESSIONS.items()} | {name: e for name, (e, _, _) in TWINS.items()}
    texts |= {f"{name}_plain": e for name, (_, e, _) in TWINS.items()} | {name: e for name, (e, _) in REFUSED.items()}
    cells = cells_of(texts, sources)
    cases = {name: (make(), shape) for name, (make, shape) in LAYERS.items()}
    cases |= {name: (cells[name], shape) for name, (_, shape) in EXPRESSIONS.items()}
    cases |= {name: (cells[name], shape) for name, (_, _, shape) in TWINS.items()}
    for i, (name, (net, shape)) in enumerate(cases.items()):
        export(
            fill(net, i),
            out / "operators" / f"{name}.mindir",
            sample(shape, 2 if name == "attention" else 1 + i % 2, 0),
        )
        plain = fill(cells[f"{name}_plain"], i) if name in TWINS else net
        recording.add(name, plain, sample(shape, BATCH, 100))
    refused = {name: (cells[name], shape) for name, (_, shape) in REFUSED.items()}
    refused |= {"assigned": (Assigned(), ROWS), "branches": (Branches(), ROWS)}
    for name, (net, shape) in refused.items():
        export(fill(net, 0), out / "refused" / f"{name}.mindir", sample(shape, 1, 0))


def main() -> None:
    ms.set_context(mode=ms.GRAPH_MODE)
    recording = Recording()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "files"
        record_networks(recording, out)
        record_operators(recording, out, Path(folder))
        with zipfile.ZipFile(GOLDENS / "mindspore.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in sorted(p for p in out.rglob("*") if p.is_file()):
                # The same bytes each time, and none of the permissions: MindSpore lets nobody but the owner read.
                archive.writestr(zipfile.ZipInfo(str(path.relative_to(out))), path.read_bytes(), zipfile.ZIP_DEFLATED)
    np.savez_compressed(GOLDENS / "mindspore.npz", **recording.arrays)


if __name__ == "__main__":
    main()
