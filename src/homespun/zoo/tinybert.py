"""TinyBERT (Jiao et al. 2020, "TinyBERT: Distilling BERT for Natural Language Understanding"), a small BERT
(Devlin et al. 2019): embeddings, encoder layers of attention and feed-forward parts, and a head.

Inputs are `ids`, `mask` (1 for tokens, 0 for padding) and `types` (0 first, 1 second sentence), (N, T) int32 each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import homespun.ops  # noqa: F401  (fills the operators' table, which building checks against)
from homespun.errors import OptionError
from homespun.graph import Graph, GraphBuilder
from homespun.zoo.layers import check_head
from homespun.zoo.pretrained import Renames, Weights, load_weights

EPS = 1e-12
STD = 0.02
POSITIONS = 512
HEADS = ("classification", "masked_lm", "none")


class Size(NamedTuple):
    """Channels, attention heads and feed-forward channels of every layer."""

    width: int
    heads: int
    hidden: int


#: By the number of layers: TinyBERT4 and TinyBERT6 of the paper, section 4.2.
SIZES = {4: Size(312, 12, 1200), 6: Size(768, 12, 3072)}

#: Names of the `transformers` package, in which TinyBERT's weights are published.
RENAMES: Renames = (
    (r"(?:bert\.)?embeddings\.word_embeddings\.", "embeddings.words."),
    (r"(?:bert\.)?embeddings\.position_embeddings\.", "embeddings.positions."),
    (r"(?:bert\.)?embeddings\.token_type_embeddings\.", "embeddings.types."),
    (r"(?:bert\.)?embeddings\.LayerNorm\.", "embeddings.norm."),
    (r"(?:bert\.)?encoder\.layer\.(\d+)\.attention\.self\.", "layers.{0}."),
    (r"(?:bert\.)?encoder\.layer\.(\d+)\.attention\.output\.dense\.", "layers.{0}.project."),
    (r"(?:bert\.)?encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.", "layers.{0}.attention_norm."),
    (r"(?:bert\.)?encoder\.layer\.(\d+)\.intermediate\.dense\.", "layers.{0}.expand."),
    (r"(?:bert\.)?encoder\.layer\.(\d+)\.output\.dense\.", "layers.{0}.contract."),
    (r"(?:bert\.)?encoder\.layer\.(\d+)\.output\.LayerNorm\.", "layers.{0}.norm."),
    (r"(?:bert\.)?pooler\.dense\.", "pooler."),
    (r"cls\.predictions\.transform\.dense\.", "masked_lm.transform."),
    (r"cls\.predictions\.transform\.LayerNorm\.", "masked_lm.norm."),
    (r"cls\.predictions\.bias", "masked_lm.bias"),
)
#: What published files hold besides: position numbers, a second copy of the word table, and heads of the training.
_UNUSED = r"(?:bert\.)?embeddings\.position_ids|cls\.predictions\.decoder\.|cls\.seq_relationship\.|fit_denses?\."
_UNUSED_BY = {
    "classification": rf"{_UNUSED}|cls\.",
    "masked_lm": rf"{_UNUSED}|(?:bert\.)?pooler\.|classifier\.",
    "none": rf"{_UNUSED}|cls\.|classifier\.",
}


def tinybert(
    classes: int = 2,
    layers: int = 4,
    head: str = "classification",
    sequence: int = 128,
    dropout: float = 0.1,
    seed: int = 0,
    weights: Weights = None,
    *,
    vocabulary: int = 30522,
    size: Size | None = None,
) -> Graph:
    """TinyBERT with 4 layers of 312 channels, or with 6 of 768; other layers with a `size` of one's own.

    `head`: "classification" gives `logits` (N, classes) from the first token; "masked_lm" gives `logits` (N, T,
    vocabulary), to train with `CrossEntropy(ignore=-100)`; "none" gives the last layer's output (N, T, C) and
    `features` (N, C), to splice a head onto. `sequence` is T, at most 512. `weights`: as for every network here, named
    as in the `transformers` package; for "classification" they must hold a classifier, else load "none" and splice.
    """
    if size is None and layers not in SIZES:
        raise OptionError(f"layers is {layers}; published are {', '.join(map(str, SIZES))}, others need a size")
    if head not in HEADS:
        raise OptionError(f"head is {head!r}; it can be {', '.join(map(repr, HEADS))}")
    if not 1 <= sequence <= POSITIONS:
        raise OptionError(f"sequence is {sequence}; it can be 1 to {POSITIONS}")
    check_head(classes, dropout)
    size = size or SIZES[layers]
    build = GraphBuilder("tinybert", seed)
    build.graph.metadata.update({"architecture": "tinybert", "vocabulary": "bert-base-uncased"})
    ids, mask, types = (build.input(name, (sequence,), "int32") for name in ("ids", "mask", "types"))
    x = _embeddings(build, ids, types, sequence, vocabulary, size.width, dropout)
    for i in range(layers):
        x = _layer(build, x, mask, f"layers.{i}", size, dropout)
    if head == "masked_lm":
        outputs = [_masked_lm(build, x, size.width, vocabulary)]
    else:
        first = build.op("flatten", build.op("slice", x, name="first", axis=1, start=0, stop=1), name="first_token")
        pooled = build.op("tanh", _linear(build, first, "pooler", size.width, size.width), name="features")
        outputs = [x, pooled]
        if head == "classification":
            logits = _linear(build, _dropout(build, pooled, "classifier", dropout), "classifier", size.width, classes)
            build.graph.rename(logits, "logits")
            outputs = ["logits"]
    tables = {f"embeddings.{name}.weight" for name in ("words", "positions", "types")}
    return load_weights(build.build(*outputs), weights, RENAMES, as_they_are=tables, unused=_UNUSED_BY[head])


def _linear(build: GraphBuilder, x: str, name: str, inputs: int, outputs: int) -> str:
    return build.linear(x, name, inputs, outputs, std=STD)


def _dropout(build: GraphBuilder, x: str, name: str, rate: float) -> str:
    return str(build.op("dropout", x, name=f"{name}.dropout", rate=rate)) if rate > 0 else x


def _embeddings(
    build: GraphBuilder, ids: str, types: str, sequence: int, vocabulary: int, width: int, dropout: float
) -> str:
    words = build.embedding(ids, "embeddings.words", vocabulary, width, std=STD)
    table = build.normal("embeddings.positions.weight", (POSITIONS, width), STD)
    positions = build.op("slice", table, name="embeddings.positions", axis=0, start=0, stop=sequence)
    x = build.op("add", words, build.embedding(types, "embeddings.types", 2, width, std=STD), name="embeddings.typed")
    x = build.op("add", x, positions, name="embeddings.sum")
    return _dropout(build, build.layer_norm(x, "embeddings.norm", width, eps=EPS), "embeddings", dropout)


def _layer(build: GraphBuilder, x: str, mask: str, name: str, size: Size, dropout: float) -> str:
    """Attention and a feed-forward part, each added to what it reads and normalised: section 2 of the paper."""
    width = size.width
    q, k, v = (_linear(build, x, f"{name}.{part}", width, width) for part in ("query", "key", "value"))
    y = build.op("attention", q, k, v, mask, name=f"{name}.attention", heads=size.heads, dropout=dropout)
    y = _dropout(build, _linear(build, y, f"{name}.project", width, width), f"{name}.project", dropout)
    x = build.layer_norm(build.op("add", y, x, name=f"{name}.attention_sum"), f"{name}.attention_norm", width, eps=EPS)
    y = build.op("gelu", _linear(build, x, f"{name}.expand", width, size.hidden), name=f"{name}.gelu")
    y = _dropout(build, _linear(build, y, f"{name}.contract", size.hidden, width), f"{name}.contract", dropout)
    return build.layer_norm(build.op("add", y, x, name=f"{name}.sum"), f"{name}.norm", width, eps=EPS)


def _masked_lm(build: GraphBuilder, x: str, width: int, vocabulary: int) -> str:
    """Scores of all words at every position, from the table that embeds them (Devlin et al. 2019, section 3.1)."""
    x = build.op("gelu", _linear(build, x, "masked_lm.transform", width, width), name="masked_lm.gelu")
    x = build.layer_norm(x, "masked_lm.norm", width, eps=EPS)
    x = build.op("matmul", x, "embeddings.words.weight", name="masked_lm.scores", transpose_b=True)
    bias = build.parameter("masked_lm.bias", np.zeros(vocabulary))
    return str(build.op("add", x, bias, name="logits"))
