"""Mixed precision: 8 bits where they do no harm, 16 where they do, layer by layer, within a budget of accuracy.

What is chosen stays with the model (`Tensor.half`), is saved with it, and used by `Predictor(weights="int8")`: layers
in 16 bits are stored as float16 and computed in float32, with float32 activations around them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from homespun.compression import dequantize_per_channel, quantize_weights
from homespun.errors import ModelError, OptionError
from homespun.graph import Array, Graph, check
from homespun.runtime.predictor import Predictor

Score = Callable[[Array, Array], float]
_BATCH = 8


def accuracy(outputs: Array, targets: Array) -> float:
    """Share of rows whose largest output is the target: labels (N,), or the most probable class of each row."""
    labels = targets if np.issubdtype(targets.dtype, np.integer) else targets.argmax(axis=-1)
    return float((outputs.argmax(axis=-1) == labels).mean())


@dataclass(frozen=True)
class MixedPrecision:
    """What `mixed_precision` found: the model, the weights that stay in 16 bits, the worst first, and the scores of
    float32, of 8 bits everywhere, and of the model found."""

    model: Graph
    half: tuple[str, ...]
    float32: float
    int8: float
    score: float


def sensitivity(model: Graph, inputs: Any, *, threads: int = 2) -> dict[str, float]:
    """How much better outputs get if one layer stays in 16 bits while all others go into 8, by name of its weights.

    In shares of the error of 8 bits everywhere, the largest first: 1 if this layer alone were to blame, below 0 if it
    happens to make up for others. The error is the mean squared difference from float32's outputs on `inputs`: an
    array (N, ...), or a tuple of arrays; some dozen samples are enough. Takes a run for each layer.
    """
    check(model)
    arrays = inputs if isinstance(inputs, tuple) else (np.asarray(inputs),)
    candidate, layers = _candidates(model)
    if not layers or not len(arrays[0]):
        raise OptionError("there is nothing to measure: no layer with weights, or no sample")
    exact = _outputs(Predictor(model, _BATCH, threads=threads), arrays)

    def error(half: Sequence[str]) -> float:
        predict = Predictor(candidate(half), _BATCH, "int8", threads)
        return sum(float(np.mean((a - b) ** 2)) for a, b in zip(_outputs(predict, arrays), exact, strict=True))

    whole = error(())
    found = {name: (whole - error([name])) / max(whole, 1e-30) for name in layers}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def mixed_precision(
    model: Graph,
    data: Any,
    budget: float = 0.003,
    *,
    score: Score = accuracy,
    order: Iterable[str] | None = None,
    samples: int = 64,
    threads: int = 2,
) -> MixedPrecision:
    """As few layers in 16 bits as it takes for 8-bit programs to score at most `budget` less than float32 on `data`.

    `data`: a pair of arrays (x, y), a list of such batches, or a `homespun.data` set. `score` maps outputs (N, ...) and
    targets of a batch to a mean over its samples, larger being better: accuracy by default. Layers, by names of their
    weights, are taken in `order`: by default that of `sensitivity` on some `samples`. Their number is found by
    bisection, and what is returned has been measured. The model given is not changed.

    Raises `OptionError` for a budget below 0 or no data, `ModelError` if not even 16 bits everywhere are good enough.
    Source: Wu et al. 2020, "Integer quantization for deep learning inference", section 6.2, partial quantization.
    """
    if not budget >= 0:
        raise OptionError(f"budget is {budget}; it is how much less the score may be, not below 0")

    def scored(candidate: Graph, weights: str) -> float:
        predict = Predictor(candidate, _BATCH, weights, threads)
        total, count = 0.0, 0
        for x, y in _labelled(data):
            made = predict(*x)
            total += len(y) * score(made[0] if isinstance(made, tuple) else made, y)
            count += len(y)
        if not count:
            raise OptionError("mixed precision needs data to score: there is not one sample")
        return total / count

    check(model)
    reference = scored(model, "float32")
    layers = list(sensitivity(model, _first(data, samples), threads=threads) if order is None else order)
    candidate, known = _candidates(model)
    unknown = [name for name in layers if name not in known]
    if unknown:
        raise OptionError(f"{unknown[0]!r} names no weights that go into 8 bits; those that do: {', '.join(known)}")
    found = {0: scored(candidate(()), "int8")}
    low, high = 0, len(layers)
    if found[0] < reference - budget:
        found[high] = scored(candidate(layers), "int8")
        if found[high] < reference - budget:
            raise ModelError(f"16 bits in all {high} layers score {found[high]:.4f}, float32 {reference:.4f}")
        while high - low > 1:
            middle = (low + high) // 2
            found[middle] = scored(candidate(layers[:middle]), "int8")
            low, high = (low, middle) if found[middle] >= reference - budget else (middle, high)
    else:
        high = 0
    chosen = tuple(layers[:high])
    return MixedPrecision(with_half(model, chosen), chosen, reference, found[0], found[high])


def with_half(model: Graph, names: Iterable[str]) -> Graph:
    """A copy of a model in which just these weights are marked to stay in 16 bits."""
    result = model.copy()
    chosen = set(names)
    for tensor in result.tensors.values():
        tensor.half = tensor.name in chosen
    return result


def _candidates(model: Graph) -> tuple[Callable[[Sequence[str]], Graph], list[str]]:
    """What makes the model with some layers in 16 bits, and the names of the weights that can be. Weights are rounded
    to 8 bits once, for all candidates: rounding them again keeps their codes."""
    codes = quantize_weights(with_half(model, ()))
    rounded = {name: dequantize_per_channel(*pair) for name, pair in codes.items()}

    def candidate(half: Sequence[str]) -> Graph:
        result = with_half(model, half)
        for name in rounded.keys() - set(half):
            result.tensors[name].data = rounded[name]
        return result

    return candidate, list(rounded)


def _outputs(predict: Predictor, arrays: tuple[Array, ...]) -> list[Array]:
    made = predict(*arrays)
    return list(made) if isinstance(made, tuple) else [made]


def _labelled(data: Any) -> Iterator[tuple[tuple[Array, ...], Array]]:
    """(inputs, targets) of all samples, in batches."""
    if hasattr(data, "evaluation_batches"):
        batches: Iterable[Any] = data.evaluation_batches(size=_BATCH)
    elif isinstance(data, tuple) and len(data) == 2 and all(isinstance(a, np.ndarray) for a in data):
        batches = [data]
    elif isinstance(data, Sequence) and not isinstance(data, tuple):
        batches = data
    else:
        raise OptionError(f"data is {type(data).__name__}; it can be arrays (x, y), a list of batches, or a data set")
    for x, y in batches:
        yield x if isinstance(x, tuple) else (np.asarray(x),), np.asarray(y)


def _first(data: Any, count: int) -> tuple[Array, ...]:
    """The inputs of the first samples, or of samples from all over arrays that are in memory."""
    if isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], np.ndarray):
        return (data[0][np.linspace(0, len(data[0]) - 1, min(count, len(data[0]))).astype(int)],)
    taken: list[tuple[Array, ...]] = []
    for x, _ in _labelled(data):
        taken.append(x)
        if sum(len(x[0]) for x in taken) >= count:
            break
    return tuple(np.concatenate(column)[:count] for column in zip(*taken, strict=True))
