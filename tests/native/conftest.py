"""Runs one kernel of `homespun._native` on NumPy arrays: what every test of a kernel needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from homespun import _native

Array = np.ndarray


def align(offset: int) -> int:
    return (offset + 63) // 64 * 64


class KernelRunner:
    """Calls a kernel by name, with operands, ints and floats by name, on one instruction set and thread count.

    Inputs and outputs are laid into the arena with guard bytes between them, so that a write out of bounds is seen.
    """

    guard = 64

    def __init__(self, isa: str, threads: int) -> None:
        self.isa = isa
        self.threads = threads

    def pack(self, kernel: str, ints: Mapping[str, int], *arrays: Array) -> Array:
        return _native.pack(kernel, dict(ints), [np.ascontiguousarray(a) for a in arrays], self.isa)

    def __call__(
        self,
        kernel: str,
        operands: Mapping[str, Array],
        ints: Mapping[str, int],
        floats: Mapping[str, float] | None = None,
        outputs: Sequence[str] = ("output",),
        in_place: Mapping[str, str] | None = None,
    ) -> dict[str, Array]:
        """Returns the outputs. `in_place` maps an output to the input whose memory it shares."""
        names, int_names, float_names = _native.kernels()[kernel]
        ints = {**{n: 0 for n in int_names if n.endswith("_row")}, **ints}
        arrays = {name: np.ascontiguousarray(a) for name, a in operands.items()}
        workspace = _native.workspace_bytes(kernel, dict(ints), self.threads, self.isa)
        if "workspace" in names and workspace:
            arrays["workspace"] = np.full(workspace, 0xA5, np.uint8)
        unknown = set(arrays) - set(names)
        assert not unknown, f"{kernel} has no operands {unknown}"
        shared = dict(in_place or {})
        offsets: dict[str, int] = {}
        size = self.guard
        for name, array in arrays.items():
            if name not in shared:
                offsets[name] = size
                size = align(size + array.nbytes) + self.guard
        for name, other in shared.items():
            offsets[name] = offsets[other]
        where = [(0, offsets[name]) if name in offsets else (-1, 0) for name in names]
        given = dict(floats or {})
        program = _native.Program(
            [(kernel, where, [int(ints[n]) for n in int_names], [float(given.get(n, 0.0)) for n in float_names])],
            size, np.empty(0, np.uint8), None, 0, self.threads, self.isa,
        )  # fmt: skip
        arena = program.arena
        arena[:] = 0xA5
        for name, array in arrays.items():
            if name not in shared:
                arena[offsets[name] : offsets[name] + array.nbytes] = array.reshape(-1).view(np.uint8)
        used = np.zeros(size, bool)
        before = arena.copy()
        assert program.run([]) == 1
        for name in [*outputs, "workspace"]:
            if name in arrays:
                used[offsets[name] : offsets[name] + arrays[name].nbytes] = True
        changed = np.flatnonzero((before != arena) & ~used)
        assert changed.size == 0, f"{kernel} wrote outside its outputs, first at byte {changed[0]}"
        return {
            name: arena[offsets[name] : offsets[name] + arrays[name].nbytes]
            .copy()
            .view(arrays[name].dtype)
            .reshape(arrays[name].shape)
            for name in outputs
        }


@pytest.fixture(
    params=[(isa, threads) for isa in _native.isas() for threads in (1, 2, 3)], ids=lambda p: f"{p[0]}-{p[1]}"
)
def kernel(request: pytest.FixtureRequest) -> KernelRunner:
    return KernelRunner(*request.param)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


ActivationReference = Callable[[Array, float, float], Array]
