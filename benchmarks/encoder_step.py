"""Training steps of an encoder beside PyTorch: TinyBERT with 4 layers, a classifier, 128 tokens, in one run.

    pip install -r benchmarks/requirements-peers.txt
    python benchmarks/encoder_step.py [--batches 8] [--precisions float32,mixed] [--dropouts 0,0.1] [--json FILE]
    python benchmarks/encoder_step.py --all-words    # after a pass over the vocabulary: all states are in memory
    python benchmarks/encoder_step.py --kernels    # time of each kernel and its share of peak, without a peer

Engines take turns, each in a process of its own. PyTorch runs as its users would run it fastest here: scaled
dot-product attention in one call, one product for queries, keys and values, and the fused AdamW.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from turns import Step, serve, take_turns

TOKENS, WORDS, CLASSES, RATE, DECAY = 128, 30522, 2, 1e-4, 0.01


def samples(batch: int, first_word: int | None = None) -> tuple[list[np.ndarray], np.ndarray]:
    """(ids, mask, types), labels. The last quarter of every other sample is padding. Words are drawn by chance, or
    follow one another from `first_word`."""
    random = np.random.default_rng(0)
    ids = random.integers(0, WORDS, (batch, TOKENS)).astype(np.int32)
    if first_word is not None:
        ids = np.minimum(first_word + np.arange(ids.size, dtype=np.int32).reshape(ids.shape), WORDS - 1)
    mask = np.ones((batch, TOKENS), np.int32)
    mask[1::2, TOKENS * 3 // 4 :] = 0
    return [ids, mask, np.zeros_like(ids)], random.integers(0, CLASSES, batch)


def trainer_of(precision: str, batch: int, threads: int, dropout: float, budget: str = "") -> Any:
    import homespun as hs

    model = hs.zoo.tinybert(classes=CLASSES, dropout=dropout)
    optimizer = hs.optim.AdamW(RATE, weight_decay=DECAY)
    options = {"batch": batch, "precision": precision, "threads": threads, "memory_budget": budget or None}
    return hs.Trainer(model, hs.losses.CrossEntropy(), optimizer, **options)


def batches(batch: int, all_words: bool) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
    """What is trained on: a pass over all words, if asked for, and then one batch of samples."""
    for first in range(0, WORDS, batch * TOKENS) if all_words else ():
        yield samples(batch, first)
    yield samples(batch)


def homespun(precision: str, batch: int, threads: int, dropout: float, all_words: bool, budget: str) -> Step:
    trainer = trainer_of(precision, batch, threads, dropout, budget)
    for x, y in batches(batch, all_words):
        trainer.step(x, y)
    return lambda: trainer.step(x, y)


def torch_network(dropout: float) -> Any:
    """The same network as a PyTorch module, in training mode."""
    import torch
    import torch.nn.functional as F  # noqa: N812
    from torch import nn

    width, heads, hidden = 312, 12, 1200

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.expand, self.contract = nn.Linear(width, hidden), nn.Linear(hidden, width)
            self.attention_norm, self.norm = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)
            self.drop = nn.Dropout(dropout)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            n, t, _ = x.shape
            q, k, v = self.qkv(x).view(n, t, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
            x = self.attention_norm(x + self.drop(self.project(y.transpose(1, 2).reshape(n, t, width))))
            return self.norm(x + self.drop(self.contract(F.gelu(self.expand(x)))))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.positions = nn.Embedding(WORDS, width), nn.Embedding(512, width)
            self.types, self.norm = nn.Embedding(2, width), nn.LayerNorm(width, eps=1e-12)
            self.layers = nn.ModuleList(Layer() for _ in range(4))
            self.pooler, self.classifier = nn.Linear(width, width), nn.Linear(width, CLASSES)
            self.drop = nn.Dropout(dropout)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
            x = self.words(ids) + self.types(types) + self.positions.weight[: ids.shape[1]]
            x, seen = self.drop(self.norm(x)), mask.bool()[:, None, None, :]
            for layer in self.layers:
                x = layer(x, seen)
            return self.classifier(self.drop(torch.tanh(self.pooler(x[:, 0]))))

    return Network().train()


def pytorch(precision: str, batch: int, threads: int, dropout: float, all_words: bool, _: str) -> Step:
    import torch

    torch.set_num_threads(threads)
    network = torch_network(dropout)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY, fused=True)

    def step(inputs: list[torch.Tensor], labels: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "mixed"):
            loss = torch.nn.functional.cross_entropy(network(*inputs), labels)
        loss.backward()
        optimizer.step()

    for x, y in batches(batch, all_words):
        inputs, labels = [torch.from_numpy(a).long() for a in x], torch.from_numpy(y)
        step(inputs, labels)
    return lambda: step(inputs, labels)


ENGINES = {"homespun": homespun, "pytorch": pytorch}
IMPORTS = {"homespun": "homespun", "pytorch": "torch"}
Settings = tuple[str, int, int, float, int, str]  # ..., whether all words come first, memory budget


def compare(settings: Settings, turns: int) -> dict[str, float]:
    """Medians, minima, working sets, and ratios of ours to PyTorch's."""
    told = [str(s) for s in settings]
    reports = take_turns({e: [sys.executable, __file__, "--serve", e, *told] for e in ENGINES}, turns)
    row: dict[str, float] = {}
    for engine, report in reports.items():
        row |= {f"{engine}_ms": report.ms, f"{engine}_least_ms": report.least_ms}
        row[f"{engine}_mb"] = report.working_set_mb
    row["time_ratio"] = row["homespun_ms"] / row["pytorch_ms"]
    row["memory_ratio"] = row["homespun_mb"] / row["pytorch_mb"]
    return row


def print_kernels(settings: Settings) -> None:
    """Milliseconds of each kind of kernel call in a step, and GFLOP/s where the operator counts its operations."""
    from homespun.graph.operator import attributes, operator
    from training_kernels import profiled

    compiled, times = profiled(trainer_of(*settings[:4], settings[5]), *samples(settings[1]), 12)
    nodes, types = {n.name: n for n in compiled.graph.nodes}, compiled.lowered.types
    totals: dict[str, list[float]] = {}
    for call, name, ms in zip(compiled.lowered.instructions, compiled.lowered.nodes, times, strict=True):
        node = nodes[name]
        ins = [types[n] if n else None for n in node.inputs]
        outs = [types[n] for n in node.outputs if n]
        total = totals.setdefault(call[0], [0.0, 0.0, 0.0])
        total[0] += float(ms)
        total[1] += operator(node).cost(attributes(node), ins, outs).flops
        total[2] += 1
    for kernel, (ms, flops, count) in sorted(totals.items(), key=lambda item: -item[1][0]):
        print(f"{kernel:36} {ms:8.2f} ms in {count:3.0f} calls, {flops / ms / 1e6:6.1f} GFLOP/s")
    print(f"{'all':36} {sum(t[0] for t in totals.values()):8.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="8")
    parser.add_argument("--precisions", default="float32,mixed")
    parser.add_argument("--dropouts", default="0,0.1")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--kernels", action="store_true")
    parser.add_argument("--all-words", action="store_true")
    parser.add_argument("--memory-budget", default="", help="of Homespun's step, such as 201MB")
    parser.add_argument("--serve", nargs=7, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        engine, precision, batch, threads, dropout, words, budget = options.serve
        told = (precision, int(batch), int(threads), float(dropout), bool(int(words)), budget)
        serve(IMPORTS[engine], lambda: ENGINES[engine](*told))
        return
    rows = []
    for dropout in map(float, options.dropouts.split(",")):
        for precision in options.precisions.split(","):
            for batch in map(int, options.batches.split(",")):
                settings = (precision, batch, options.threads, dropout, int(options.all_words), options.memory_budget)
                if options.kernels:
                    print(f"-- {precision}, batch {batch}, dropout {dropout}")
                    print_kernels(settings)
                    continue
                row = compare(settings, options.turns)
                rows.append({"precision": precision, "batch": batch, "dropout": dropout, **row})
                print(
                    f"{precision} batch {batch} dropout {dropout:g}: {row['homespun_ms']:.0f} vs "
                    f"{row['pytorch_ms']:.0f} ms (least {row['homespun_least_ms']:.0f} vs "
                    f"{row['pytorch_least_ms']:.0f}) = {row['time_ratio']:.2f}x; working set {row['homespun_mb']:.0f} "
                    f"vs {row['pytorch_mb']:.0f} MB = {row['memory_ratio']:.2f}x",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
