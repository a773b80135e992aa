"""What 8 bits cost, told from luck: several heads on one backbone, and every photo that none was trained on.

    python benchmarks/eight_bit_heads.py --data DIR/topics --weights build/pretrained --network mobilenet_v2

`compression.py` tests one head on photos of other sources; a few answers more or less are luck there. Here heads of
several seeds learn on the float32 backbone's features of the same photos, and are tested on all others, of the same and
of other sources, with the backbone in float32 and in 8 bits. Ranges and roundings are chosen on photos to learn from.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import homespun as hs
from compression import BATCH, CALIBRATION, HEAD_EPOCHS, MEASURED, RATE, Row
from fine_tuning import WEIGHTS
from homespun.compression import dequantize_per_channel, quantize_weights
from homespun.graph import Array, Graph


def head_of(seed: int, features: Array, labels: Array) -> Graph:
    """A head trained as `compression.py` trains its own."""
    width, classes = features.shape[1], int(labels.max()) + 1
    b = hs.GraphBuilder("head", seed=seed)
    dropped = b.op("dropout", b.input("features", (width,)), rate=0.2)
    model = b.build(b.linear(dropped, "classifier", width, classes))
    trainer = hs.Trainer(model, hs.losses.CrossEntropy(), hs.optim.Adam(RATE), batch=BATCH, seed=seed)
    data = hs.data.Arrays(features, labels, seed=seed)
    trainer.fit(data, HEAD_EPOCHS, schedule=hs.schedules.Cosine(HEAD_EPOCHS * data.steps(BATCH)))
    return trainer.model()


def rounded(head: Graph) -> Graph:
    """The head with weights that 8 bits hold."""
    result = head.copy()
    for name, pair in quantize_weights(head).items():
        result.tensors[name].data = dequantize_per_channel(*pair)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folders of photos, with index.csv of their sources")
    parser.add_argument("--weights", type=Path, required=True, help="where the packages with weights were installed to")
    parser.add_argument("--out", type=Path, default=Path("evaluation/compression"), help="as of compression.py")
    parser.add_argument("--network", choices=tuple(WEIGHTS), default="mobilenet_v2")
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--photos", type=int, default=40, help="at most, of each topic, to learn from")
    parser.add_argument("--test-photos", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    row = Row(options.network, options)
    backbone = row.backbone(options.network)
    normalise = hs.data.Preprocessing.of(backbone).apply
    sides = {side: (row.images[f"{side}_x"], row.images[f"{side}_y"]) for side in ("train", "taught", "test")}
    learnt = {x.tobytes() for x in sides["train"][0]}
    unseen = np.array([x.tobytes() not in learnt for x in sides["taught"][0]])
    others = [(x[unseen], y[unseen]) if side == "taught" else (x, y) for side, (x, y) in sides.items()][1:]
    test_x, test_y = (np.concatenate(parts) for parts in zip(*others, strict=True))

    def features(model: Graph, x: Array, weights: str = "float32") -> Array:
        predict = hs.Predictor(model, BATCH, weights, options.threads)
        return np.concatenate([predict(normalise(x[i : i + BATCH])) for i in range(0, len(x), BATCH)])

    known, test = features(backbone, sides["train"][0]), features(backbone, test_x)
    heads = [head_of(seed, known, sides["train"][1]) for seed in range(options.heads)]
    exact = [hs.Predictor(head)(test).argmax(1) for head in heads]
    accuracy = [float((answers == test_y).mean()) for answers in exact]
    print(f"{options.network}: {len(heads)} heads, {len(test_y)} photos, float32 {100 * np.mean(accuracy):.2f} %")
    plain = rounded(backbone)
    on_data = hs.round_weights(backbone, row.some(backbone, MEASURED), threads=options.threads)
    for name, model in (("no data", plain), ("on photos", on_data)):
        calibrated = hs.calibrate(model, row.some(backbone, CALIBRATION), threads=options.threads)
        for what, graph, weights in (("weights", model, "float32"), ("weights and activations", calibrated, "int8")):
            made = features(graph, test_x, weights)
            answers = [hs.Predictor(rounded(head))(made).argmax(1) for head in heads]
            change = [100 * ((a == test_y).mean() - right) for a, right in zip(answers, accuracy, strict=True)]
            other = np.mean([100 * (a != b).mean() for a, b in zip(answers, exact, strict=True)])
            wins = [((a == test_y) != (b == test_y)).sum() for a, b in zip(answers, exact, strict=True)]
            luck = 100 * np.sqrt(np.mean(wins)) / len(test_y)
            each = " ".join(f"{c:+.2f}" for c in change)
            print(
                f"8-bit {what}, {name}: {np.mean(change):+.2f} points ({each}; luck of one head {luck:.2f}), "
                f"another answer on {other:.2f} % of the photos",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
