"""Draws the arena of a training step over time, from the plan itself: `python tools/draw_memory_plan.py`.

Writes docs/images/arena.svg and docs/images/arena-tight.svg for docs/memory.md: all of MobileNetV2, batch 8, with all
the memory it likes and within a budget.
"""

from __future__ import annotations

from pathlib import Path

import homespun as hs
from homespun.compile.lowering import Lowered

IMAGES = Path(__file__).parent.parent / "docs" / "images"
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 1000, 430, 62, 64, 16, 46
COLOURS = {
    "saved for the backward pass": "#2f6f9f",
    "computed again": "#7fb2d9",
    "gradients of activations": "#d9822b",
    "gradients of weights": "#b5443c",
    "scratch of one kernel": "#b9b2a3",
    "passing values": "#5f9e6e",
}


def kind(name: str, lowered: Lowered, loss: int) -> str:
    """What a buffer of the arena is for, as the legend calls it."""
    buffer = lowered.arena[name]
    if "/workspace" in name:
        return "scratch of one kernel"
    if name.endswith("/again"):
        return "computed again"
    if name.startswith(("gradient/", "update/")):
        return "gradients of weights" if name.endswith((".weight", ".bias")) else "gradients of activations"
    return "saved for the backward pass" if buffer.first < loss < buffer.last else "passing values"


def picture(title: str, lowered: Lowered, top_mb: float) -> str:
    """One SVG: time (kernel calls) to the right, offsets in the arena upwards."""
    calls = len(lowered.instructions)
    loss = next(i for i, call in enumerate(lowered.instructions) if call[0] == "softmax_cross_entropy")
    across, up = (WIDTH - LEFT - RIGHT) / calls, (HEIGHT - TOP - BOTTOM) / (top_mb * 1e6)
    floor = HEIGHT - BOTTOM

    def x(call: float) -> float:
        return LEFT + call * across

    boxes = []
    for (name, buffer), offset in zip(lowered.arena.items(), lowered.plan.offsets, strict=True):
        if buffer.size < 4096:
            continue
        h = max(buffer.size * up, 0.4)
        what = kind(name, lowered, loss)
        text = f"{name}: {buffer.size / 1e6:.2f} MB, calls {buffer.first} to {buffer.last}"
        boxes.append(
            f'<rect x="{x(buffer.first):.1f}" y="{floor - offset * up - h:.2f}" '
            f'width="{(buffer.last - buffer.first + 1) * across:.1f}" height="{h:.2f}" fill="{COLOURS[what]}">'
            f"<title>{text}</title></rect>"
        )
    peak, bound = lowered.plan.size / 1e6, lowered.plan.lower_bound / 1e6
    ticks = []
    step = 20 if top_mb > 60 else 10
    for mb in range(0, int(top_mb) + 1, step):
        y = floor - mb * 1e6 * up
        ticks.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#00000018"/>')
        ticks.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{mb} MB</text>')
    legend, at = [], LEFT
    for what, colour in COLOURS.items():
        if not any(f'fill="{colour}"' in box for box in boxes):
            continue
        legend.append(f'<rect x="{at}" y="38" width="11" height="11" fill="{colour}"/>')
        legend.append(f'<text x="{at + 16}" y="48">{what}</text>')
        at += 32 + round(5.9 * len(what))
    line = floor - peak * 1e6 * up
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
            'font-size="12" fill="#333">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
            f'<text x="{LEFT}" y="24" font-size="15">{title}</text>',
            *legend,
            *ticks,
            '<g stroke="#fff" stroke-width="0.3">',
            *boxes,
            "</g>",
            f'<path d="M{LEFT} {line:.1f}H{WIDTH - RIGHT}" stroke="#333" stroke-dasharray="5 4"/>',
            f'<text x="{WIDTH - RIGHT}" y="{line - 5:.1f}" text-anchor="end">'
            f"arena {peak:.1f} MB, {lowered.plan.size / lowered.plan.lower_bound:.3f}x the lower bound of {bound:.1f}"
            "</text>",
            f'<path d="M{x(loss + 0.5):.1f} {TOP}V{floor + 6}" stroke="#333"/>',
            f'<text x="{x(loss + 0.5):.1f}" y="{floor + 19}" text-anchor="middle">loss</text>',
            f'<text x="{x(loss / 2):.1f}" y="{floor + 19}" text-anchor="middle">forward</text>',
            f'<text x="{x((loss + calls) / 2):.1f}" y="{floor + 19}" text-anchor="middle">backward and updates</text>',
            f'<text x="{WIDTH - RIGHT}" y="{floor + 36}" text-anchor="end">{calls} kernel calls</text>',
            "</svg>",
            "",
        ]
    )


def main() -> None:
    model = hs.zoo.mobilenet_v2(classes=10)
    shared = (hs.losses.CrossEntropy(), hs.optim.SGD(0.01, momentum=0.9))
    plenty = hs.Trainer(model, *shared, batch=8)
    tight = hs.Trainer(model, *shared, batch=8, memory_budget="88MB")
    for name, trainer, title in (
        ("arena", plenty, "MobileNetV2, one training step of 8 photos, 224 pixels, float32"),
        (
            "arena-tight",
            tight,
            "The same step within memory_budget=&quot;88MB&quot;: four photos at a time",
        ),
    ):
        lowered = trainer._main_program().lowered
        (IMAGES / f"{name}.svg").write_text(picture(title, lowered, 135.0))
        print(f"{name}.svg: {trainer.memory}; {trainer.compromises}")


if __name__ == "__main__":
    main()
