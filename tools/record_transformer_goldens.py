"""Records what the `transformers` package's BERT computes, for the tests of TinyBERT: outputs of each head, and losses
and parameters over 20 steps of training. Where torch and transformers are installed:

    python tools/record_transformer_goldens.py

Weights are made by `tests/zoo/made.py` on both sides. Writes tests/zoo/goldens/tinybert.npz and
tests/training/transformer.npz.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from torch.nn import functional as F  # noqa: N812

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests.zoo.made import made_weights  # noqa: E402
from tests.zoo.test_tinybert import SMALL, words  # noqa: E402

STEPS = 20


def network(head: str, classes: int = 3) -> torch.nn.Module:
    """The reference, in float64 and without dropout."""
    size = SMALL["size"]
    config = transformers.BertConfig(
        vocab_size=SMALL["vocabulary"],
        hidden_size=size.width,
        num_hidden_layers=SMALL["layers"],
        num_attention_heads=size.heads,
        intermediate_size=size.hidden,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=classes,
    )
    kind = {
        "none": transformers.BertModel,
        "classification": transformers.BertForSequenceClassification,
        "masked_lm": transformers.BertForMaskedLM,
    }[head]
    return kind(config).double()


def shapes_of(net: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {n: tuple(p.shape) for n, p in net.named_parameters()}


def fill(net: torch.nn.Module, state: dict[str, np.ndarray]) -> None:
    with torch.no_grad():
        for name, value in state.items():
            net.get_parameter(name).copy_(torch.from_numpy(value))


def run(net: torch.nn.Module, count: int) -> list[torch.Tensor]:
    ids, mask, types = (torch.from_numpy(a).long() for a in words(count))
    out = net(input_ids=ids, attention_mask=mask, token_type_ids=types)
    return [out.logits] if "logits" in out else [out.last_hidden_state, out.pooler_output]


def record_outputs() -> None:
    record: dict[str, np.ndarray] = {}
    for head in ("none", "classification", "masked_lm"):
        net = network(head)
        record[f"{head}/shapes"] = np.array(json.dumps(shapes_of(net)))
        fill(net, made_weights(shapes_of(net)))
        for i, out in enumerate(run(net.eval(), 2)):
            record[f"{head}/{i}"] = out.detach().numpy().astype(np.float32)
    np.savez_compressed(ROOT / "tests" / "zoo" / "goldens" / "tinybert.npz", **record)


def record_training() -> None:
    net = network("classification").train()
    fill(net, made_weights(shapes_of(net)))
    labels = torch.arange(6) % 3
    optimizer = torch.optim.SGD(net.parameters(), 0.02, momentum=0.9)
    losses = []
    for _ in range(STEPS):
        loss = F.cross_entropy(run(net, 6)[0], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    record = {n: p.detach().numpy().astype(np.float32) for n, p in net.named_parameters()}
    positions = "bert.embeddings.position_embeddings.weight"
    record[positions] = record[positions][: SMALL["sequence"]]  # the others do not move
    record |= {"losses": np.array(losses), "shapes": np.array(json.dumps(shapes_of(net)))}
    np.savez_compressed(ROOT / "tests" / "training" / "transformer.npz", **record)


if __name__ == "__main__":
    record_outputs()
    record_training()
