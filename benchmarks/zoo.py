"""Training steps of every network of the zoo beside PyTorch's: time and working set, turns step by step in one run.

    pip install -r benchmarks/requirements-zoo.txt
    python benchmarks/zoo.py densenet121 googlenet [--parts head,last,whole] [--precisions float32,mixed] --json FILE
    python benchmarks/zoo.py --missing --minutes 4 --json FILE    # a piece of what the file lacks
    python benchmarks/zoo.py --table --json FILE    # all that the file has, as Markdown

Measured are the head alone, the last two blocks with all that follows, and the whole network, with SGD and momentum.
The other side is the same network (`torch_zoo.py`), with as many parameters trained; what is frozen has no gradients
there, and its norms use running statistics. Its images are channels first in float32 and channels last in bfloat16, the
faster layouts there at these batch sizes; `--layout` chooses another. On processors that cannot compute in bfloat16,
PyTorch emulates it, and takes minutes for what takes a second in float32: there it is left out of mixed precision.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from turns import Report, Step, serve, take_turns

HERE = Path(__file__).resolve()
PARTS = ("head", "last", "whole")
SENTENCE, WORDS, OBJECTS = 128, 30522, 20


class Case(NamedTuple):
    """How a network is measured. `trained` says what "head" and "last" are; `turns`: fewer for slow networks."""

    size: int = 224
    classes: int = 1000
    batch: int = 8
    turns: int = 6
    options: tuple[tuple[str, Any], ...] = ()
    trained: tuple[Any, Any] = ("head", "last:2")


_YOLO: dict[str, Any] = {"size": 416, "classes": 80, "trained": (["scales.*output.*"], ["scales.*"])}
CASES = {
    "mobilenet_v1": Case(),
    "mobilenet_v2": Case(),
    "mobilenet_v3_small": Case(),
    "mobilenet_v3_large": Case(),
    "efficientnet_lite0": Case(),
    "efficientnet_lite1": Case(240),
    "efficientnet_lite2": Case(260),
    "efficientnet_lite3": Case(280, batch=4, turns=4),
    "efficientnet_lite4": Case(300, batch=4, turns=4),
    "efficientnet_b0": Case(),
    "efficientnet_b1": Case(240),
    "efficientnet_b2": Case(260, batch=4, turns=4),
    "efficientnet_b3": Case(300, batch=4, turns=4),
    "efficientnet_b4": Case(380, batch=2, turns=4),
    "shufflenet_v1": Case(),
    "shufflenet_v2": Case(),
    "densenet121": Case(turns=4),
    "densenet169": Case(batch=4, turns=4),
    "googlenet": Case(),
    "googlenet, response": Case(options=(("norm", "response"),)),
    "tinybert, 4 layers": Case(SENTENCE, 2),
    "tinybert, 6 layers": Case(SENTENCE, 2, options=(("layers", 6),)),
    "yolov3_tiny": Case(batch=4, **_YOLO),
    "yolov3": Case(batch=1, turns=3, **_YOLO),
}


def samples(name: str) -> tuple[list[np.ndarray], np.ndarray]:
    """(inputs, targets): random photos or sentences and classes, or photos and objects."""
    random, case = np.random.default_rng(0), CASES[name]
    labels = random.integers(0, case.classes, case.batch)
    if name.startswith("tinybert"):
        ids = random.integers(0, WORDS, (case.batch, case.size), np.int32)
        return [ids, np.ones_like(ids), np.zeros_like(ids)], labels
    images = random.standard_normal((case.batch, case.size, case.size, 3), np.float32)
    if not name.startswith("yolo"):
        return [images], labels
    objects = np.full((case.batch, OBJECTS, 5), -1, np.float32)
    for row in objects[:, :4].reshape(-1, 5):
        row[:] = (random.integers(case.classes), *random.uniform(0.3, 0.7, 2), *random.uniform(0.1, 0.5, 2))
    return [images], objects


def trainer_of(name: str, part: str, precision: str, threads: int) -> Any:
    import homespun as hs

    case = CASES[name]
    model = getattr(hs.zoo, name.split(",")[0])(classes=case.classes, **dict(case.options))
    loss = hs.losses.Yolo.of(model) if name.startswith("yolo") else hs.losses.CrossEntropy()
    trainable = "all" if part == "whole" else case.trained[PARTS.index(part)]
    return hs.Trainer(model, loss, hs.optim.SGD(1e-4, momentum=0.9), batch=case.batch, precision=precision,
                      threads=threads, trainable=trainable)  # fmt: skip


def homespun(name: str, part: str, precision: str, threads: int) -> Step:
    trainer = trainer_of(name, part, precision, threads)
    x, y = samples(name)
    return lambda: trainer.step(x if len(x) > 1 else x[0], y)


def trained_parameters(name: str, part: str) -> int:
    trainer = trainer_of(name, part, "float32", 1)
    parameters = trainer.parameters()
    return sum(parameters[n].size for n in trainer.trainable)


def compare(name: str, part: str, precision: str, options: argparse.Namespace) -> dict[str, Report]:
    layout = options.layout or ("last" if precision == "mixed" else "first")
    settings = [name, part, precision, str(options.threads), layout, str(trained_parameters(name, part))]
    both = precision == "float32" or "bf16" in Path("/proc/cpuinfo").read_text()
    engines = ("homespun", "pytorch") if both else ("homespun",)
    commands = {e: [sys.executable, str(HERE), "--serve", e, *settings] for e in engines}
    return take_turns(commands, CASES[name].turns)


def served(engine: str, name: str, part: str, precision: str, threads: str, layout: str, count: str) -> None:
    if engine == "homespun":
        serve("homespun", partial(homespun, name, part, precision, int(threads)))
        return
    from torch_zoo import step_of

    x, y = samples(name)
    serve("torch", partial(step_of, name, precision, int(threads), layout == "last", int(count), x, y))


def line_of(engine_and_report: tuple[str, Report]) -> str:
    engine, r = engine_and_report
    return f"{engine} {r.ms:6.0f} ({r.least_ms:.0f}) ms {r.working_set_mb:5.0f} MB;"


def print_table(rows: list[dict[str, Any]]) -> None:
    """One line a network and part: milliseconds and MB, ours / PyTorch's where it was measured."""
    found = {(r["network"], r["part"], r["precision"], r["engine"]): r for r in rows}
    print("| network | batch, size | trained | float32, ms | float32, MB | mixed, ms | mixed, MB |")
    print("|---|---|---|---|---|---|---|")
    for name, case in CASES.items():
        for part in PARTS:
            cells = []
            for precision in ("float32", "mixed"):
                pair = [found.get((name, part, precision, e)) for e in ("homespun", "pytorch")]
                for figure in ("ms", "mb"):
                    cells.append(" / ".join(f"{r[figure]:.0f}" for r in pair if r))
            if any(cells):
                print(f"| {name} | {case.batch}, {case.size} | {part} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(CASES))
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--precisions", default="float32,mixed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layout", choices=("first", "last"), help="where PyTorch's images have their channels")
    parser.add_argument("--json", type=Path, help="results are kept here, beside those of other networks")
    parser.add_argument("--missing", action="store_true", help="leave out what the file has already")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no row after so long")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--serve", nargs=7, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        served(*options.serve)
        return
    rows = json.loads(options.json.read_text()) if options.json and options.json.exists() else []
    if options.table:
        print_table(rows)
        return
    began = time.monotonic()
    for row in product(options.networks, options.parts.split(","), options.precisions.split(",")):
        kept = dict(zip(("network", "part", "precision"), row, strict=True))
        others = [r for r in rows if not kept.items() <= r.items()]
        if options.missing and len(others) < len(rows):
            continue
        if time.monotonic() - began > 60 * options.minutes:
            print("no time for more: go on with --missing")
            return
        reports = compare(*row, options)
        rows = others + [kept | {"engine": e, "ms": r.ms, "least_ms": r.least_ms, "mb": r.working_set_mb}
                         for e, r in reports.items()]  # fmt: skip
        print("{:20} {:5} {:7}".format(*row), *map(line_of, reports.items()), flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
