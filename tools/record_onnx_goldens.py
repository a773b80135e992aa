"""Writes tests/formats/goldens/onnx: small encoders as PyTorch exports them, masked in three ways.

Run by hand with torch and onnx: `python tools/record_onnx_goldens.py`. The tests run them in onnxruntime.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

FOLDER = Path(__file__).parents[1] / "tests" / "formats" / "goldens" / "onnx"
WORDS, LENGTH, WIDTH, HEADS = 30, 12, 8, 2


class Layer(nn.Module):
    """Attention and two linear layers, each with a residual and a norm behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            layer(x).view(x.shape[0], x.shape[1], HEADS, -1).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        if mask.dtype == torch.bool:
            y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            y = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + mask, -1) @ v
        x = self.first(x + self.o(y.transpose(1, 2).reshape(x.shape)))
        return self.second(x + self.narrow(nn.functional.gelu(self.wide(x))))


class Encoder(nn.Module):
    """A BERT of one layer; the mask is 1 for words that count."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.words, self.positions, self.kinds = (nn.Embedding(n, WIDTH) for n in (WORDS, LENGTH, 2))
        self.norm, self.layer, self.scores = nn.LayerNorm(WIDTH), Layer(), nn.Linear(WIDTH, 3)
        self.register_buffer("places", torch.arange(LENGTH)[None])

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        places = self.places[:, : ids.shape[1]]
        x = self.norm(self.words(ids) + self.positions(places) + self.kinds(torch.zeros_like(ids)))
        if self.style == "expanded":
            keep = (mask[:, None, None, :] != 0).expand(ids.shape[0], 1, ids.shape[1], ids.shape[1])
        elif self.style == "filled":
            keep = torch.zeros_like(mask, dtype=torch.float32).masked_fill(mask == 0, -math.inf)[:, None, None, :]
        else:
            keep = (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min
        return self.scores(torch.tanh(self.layer(x, keep)[:, 0]))


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    ids, mask = torch.zeros((2, LENGTH), dtype=torch.int64), torch.ones((2, LENGTH), dtype=torch.int64)
    for style, opset in (("added", 12), ("filled", 17), ("expanded", 14), ("expanded", 20)):
        torch.manual_seed(0)
        torch.onnx.export(
            Encoder(style).eval(),
            (ids, mask),
            str(FOLDER / f"encoder_{style}_{opset}.onnx"),
            input_names=["ids", "mask"],
            output_names=["scores"],
            opset_version=opset,
            dynamic_axes={"ids": {0: "n"}, "mask": {0: "n"}},
            dynamo=False,
        )


if __name__ == "__main__":
    main()
