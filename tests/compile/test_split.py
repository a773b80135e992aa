"""A model is cut where training begins, and what crosses the cut has a row for each sample."""

from __future__ import annotations

import numpy as np

import homespun as hs
import homespun.ops
from homespun.compile.split import split
from homespun.graph import Graph, GraphBuilder


def flattened_ids() -> Graph:
    """Ids (N, 6) looked up all in one row, (6N,), as some exporters write it."""
    build = GraphBuilder("ids")
    rows = build.op("reshape", build.input("ids", (6,), "int32"), name="rows", shape=(-1,))
    vectors = build.embedding(rows, "table", 5, 4)
    flat = build.op("reshape", vectors, name="flat", shape=(-1, 24))
    return build.build(build.linear(flat, "head", 24, 3))


def test_what_has_no_row_for_each_sample_stays_in_the_trained_part() -> None:
    whole = split(flattened_ids(), ["table.weight", "head.weight", "head.bias"])
    assert (whole.frozen, whole.trained.inputs) == (None, ["ids"])
    head = split(flattened_ids(), ["head.weight", "head.bias"])
    assert (head.features, head.trained.inputs) == (("flat",), ["flat"])


def test_such_a_model_trains() -> None:
    trainer = hs.Trainer(flattened_ids(), hs.losses.CrossEntropy(), hs.optim.Adam(0.1), batch=4, accumulate=2)
    ids, y = np.random.default_rng(0).integers(0, 5, (8, 6)).astype(np.int32), np.arange(8) % 3
    first = trainer.step(ids, y).loss
    for _ in range(20):
        last = trainer.step(ids, y).loss
    assert last < first / 2
