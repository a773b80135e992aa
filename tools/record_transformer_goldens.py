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

from homespun.zoo.tinybert import SIZES, Size  # noqa: E402
from tests.zoo.made import made_weights, samples  # noqa: E402
from tests.zoo.test_tinybert import SMALL, WIDE, words  # noqa: E402

STEPS = 20


def network(
    head: str, classes: int = 3, size: Size = SMALL["size"], layers: int = SMALL["layers"], vocabulary: int = 50
) -> torch.nn.Module:
    """The reference, in float64 and without dropout."""
    config = transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=size.width,
        num_hidden_layers=layers,
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
    np.savez_compressed(ROOT / "tests" / "zoo" / "goldens" / "tinybert.npz", **record | record_wide())


def record_wide() -> dict[str, np.ndarray]:
    """Of both networks in full width and depth: every layer's output, and what a classifier reads."""
    record = {}
    for layers, size in SIZES.items():
        net = network("none", size=size, layers=layers, vocabulary=WIDE["vocabulary"])
        record[f"wide {layers}/shapes"] = np.array(json.dumps(shapes_of(net)))
        fill(net, made_weights(shapes_of(net)))
        ids, mask, types = (torch.from_numpy(a).long() for a in words(2, WIDE["sequence"], WIDE["vocabulary"]))
        with torch.inference_mode():
            out = net.eval()(input_ids=ids, attention_mask=mask, token_type_ids=types, output_hidden_states=True)
        record[f"wide {layers}/layers"] = np.stack([samples(h.numpy()) for h in out.hidden_states])
        record[f"wide {layers}/features"] = out.pooler_output.float().numpy()
    return record


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
