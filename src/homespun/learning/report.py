"""What `evaluate` measured, for people: a table in plain text, and plots."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from homespun.errors import OptionError

WAYS = {"album": "as the album asks", "margin": "smallest margin", "random": "at random"}
QUESTIONS = {"new": "with new topics of two photos each", "known": "of known topics only"}


def require_matplotlib() -> None:
    """Raises OptionError, which says how to install it, when there is no matplotlib."""
    if find_spec("matplotlib") is None:
        raise OptionError("the plots need matplotlib, which is not installed: pip install 'homespun[plots]'")


def progress(done: int, total: int) -> None:
    """Shows on standard error how far a step is."""
    sys.stderr.write(f"\r{done} of {total}" + ("\n" if done == total else ""))
    sys.stderr.flush()


def silence(done: int, total: int) -> None:
    """Shows nothing."""


def table(result: dict[str, Any]) -> str:
    """The main figures as text."""
    lines = [
        f"{result['photos']} photos, {len(result['known_topics'])} known topics, "
        f"{len(result['new_topics'][0])} new ones, means over {result['seeds']} seeds",
        "",
        f"Known topics        {_n(result['known']['learner'])} (nearest class mean "
        f"{_n(result['known']['nearest_mean'])})",
        f"Calibration error   {_n(result['calibration']['error'])}",
        f"Doubts              AUROC {_n(result['doubts']['auroc'])} (confidence alone "
        f"{_n(result['doubts']['auroc_confidence'])}); of the first 5% {_n(result['doubts']['first'])} are wrong, "
        f"of all {_n(result['doubts']['errors'])}",
        "",
    ]
    if "shots" in result and isinstance(result["shots"], dict):
        heading = (
            "photos each",
            "new topics",
            "no library",
            "near. mean",
            "known",
            "change",
            "near. mean",
            "calibr. error",
            "AUROC",
        )
        lines.append("  ".join(f"{word:>11}" for word in heading))
        for k, row in result["shots"].items():
            cells = (
                k,
                _n(row["new"]),
                _n(row["new_alone"]),
                _n(row["nearest_mean_new"]),
                _n(row["known"]),
                f"{100 * row['known_change']:+.1f}",
                _n(row["nearest_mean_known"]),
                _n(row["error"]),
                _n(row["doubts"]["auroc"]),
            )
            lines.append("  ".join(f"{cell:>11}" for cell in cells))
        if "retrained" in result:
            everything = result["retrained"]
            lines.append(
                "  ".join(f"{c:>11}" for c in ("everything", _n(everything["new"]), "", "", _n(everything["known"])))
            )
        lines.append("")
    lines.append("Corrections         " + "  ".join(f"{n}: {_n(value)}" for n, value in result["corrections"].items()))
    for kind, words in QUESTIONS.items():
        curves = result["questions"].get(kind)
        if isinstance(curves, dict):
            lines.append(f"Answers             {words}")
            for name, way in WAYS.items():
                points = "  ".join(f"{n}: {_n(value)}" for n, value in curves[name].items())
                lines.append(f"  {way:<18}{points}")
    weakest = result["weakest"]
    if weakest:
        lines.append(
            f"Weakest topic       {_n(weakest['before'])} -> {_n(weakest['after'])} after "
            f"{weakest['corrections']:.0f} corrections; others {_n(weakest['others_before'])} -> "
            f"{_n(weakest['others_after'])}"
        )
    if result["unreadable"]:
        lines.append(f"Unreadable          {len(result['unreadable'])} photos, named in evaluation.json")
    return "\n".join(lines) + "\n"


def plot(result: dict[str, Any], out: Path) -> None:
    """Writes reliability.png, corrections.png, questions.png and, where there are new topics, shots.png."""
    from matplotlib.figure import Figure

    def new(title: str, x: str, y: str) -> tuple[Figure, Any]:
        figure = Figure(figsize=(6, 4.5), layout="constrained")
        axes = figure.add_subplot(title=title, xlabel=x, ylabel=y)
        axes.grid(alpha=0.3)
        return figure, axes

    figure, axes = new("Is confidence right?", "confidence", "share that is right")
    bins = sorted(map(tuple, result["calibration"]["bins"]))
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--")
    axes.scatter([b[0] for b in bins], [b[1] for b in bins], s=[600 * b[2] for b in bins], alpha=0.5)
    figure.savefig(out / "reliability.png", dpi=120)

    figure, axes = new("Corrections help", "corrections", "accuracy on other photos")
    axes.plot([int(n) for n in result["corrections"]], list(result["corrections"].values()), marker="o")
    figure.savefig(out / "corrections.png", dpi=120)

    kinds = [kind for kind in QUESTIONS if isinstance(result["questions"].get(kind), dict)]
    figure = Figure(figsize=(6 * len(kinds), 4.5), layout="constrained")
    for place, kind in enumerate(kinds):
        axes = figure.add_subplot(
            1, len(kinds), place + 1, title=QUESTIONS[kind], xlabel="answers", ylabel="accuracy on other photos"
        )
        axes.grid(alpha=0.3)
        for (name, way), style in zip(WAYS.items(), ("o-", "s--", "^:"), strict=True):
            curve = result["questions"][kind][name]
            axes.plot([int(n) for n in curve], list(curve.values()), style, label=way)
        axes.legend()
    figure.savefig(out / "questions.png", dpi=120)

    if isinstance(result.get("shots"), dict):
        figure, axes = new("New topics from few photos", "photos of each new topic", "accuracy")
        counts = [int(k) for k in result["shots"]]
        for key, label, style in (
            ("new", "new topics", "o-"),
            ("new_alone", "new topics, without the library", "o-."),
            ("nearest_mean_new", "new topics, nearest class mean", "o--"),
            ("known", "known topics", "s-"),
            ("nearest_mean_known", "known topics, nearest class mean", "s--"),
        ):
            axes.plot(counts, [row[key] for row in result["shots"].values()], style, label=label)
        if "retrained" in result:
            axes.axhline(
                result["retrained"]["new"], color="grey", linestyle=":", label="new topics, everything retrained"
            )
        axes.set_xscale("log")
        axes.set_xticks(counts, [str(k) for k in counts])
        axes.legend()
        figure.savefig(out / "shots.png", dpi=120)


def _n(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.3f}"
