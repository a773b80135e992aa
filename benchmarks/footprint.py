"""What Homespun costs before it does anything: import time and memory, size on disk.

    python benchmarks/footprint.py            # prints a table; --json for machines

Import time is the median over fresh interpreters, less that of an empty interpreter in the same round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

MEASURE = """
import resource, sys
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{code}
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
CASES = {
    "import homespun": "import homespun",
    "import all of the engine": "import homespun as hs\nfor name in hs.__all__: getattr(hs, name)",
    "MobileNetV2 predictor, batch 1": (
        "import homespun as hs, numpy as np\nhs.Predictor(hs.zoo.mobilenet_v2())(np.zeros((1, 224, 224, 3), 'f4'))"
    ),
}


def fresh(code: str) -> tuple[float, float]:
    """(seconds, MB of growth) of a fresh interpreter that runs `code`."""
    start = time.perf_counter()
    out = subprocess.run([sys.executable, "-c", MEASURE.format(code=code)], capture_output=True, text=True, check=True)
    return time.perf_counter() - start, float(out.stdout)


def installed_bytes(album: bool) -> int:
    """Bytes of the package's files, sources and compiled module, without caches."""
    from homespun import __file__ as init
    from homespun import _native

    root = Path(init).parent
    files = {p for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts and p.suffix != ".so"}
    engine = [p for p in files if album or "album" not in p.relative_to(root).parts]
    return sum(p.stat().st_size for p in engine) + Path(_native.__file__ or "").stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    memory: dict[str, float] = {}
    for _ in range(options.rounds):
        empty, _ = fresh("pass")
        for name, code in CASES.items():
            taken, grown = fresh(code)
            seconds[name].append(taken - empty)
            memory[name] = grown
    result = {
        "seconds": {name: round(statistics.median(v), 4) for name, v in seconds.items()},
        "megabytes_of_memory": {name: round(v, 1) for name, v in memory.items()},
        "megabytes_installed": {
            "engine": round(installed_bytes(album=False) / 1e6, 2),
            "with the album": round(installed_bytes(album=True) / 1e6, 2),
        },
    }
    if options.json:
        print(json.dumps(result, indent=2))
        return
    for name in CASES:
        print(f"{name:<32} {result['seconds'][name] * 1e3:8.1f} ms {result['megabytes_of_memory'][name]:8.1f} MB")
    for name, size in result["megabytes_installed"].items():
        print(f"installed, {name:<21} {size:8.2f} MB")


if __name__ == "__main__":
    main()
