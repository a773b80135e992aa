"""`Predictor`: a model, compiled for inference, that maps NumPy arrays to NumPy arrays."""

from __future__ import annotations

from threading import Lock

import numpy as np

from homespun import _native
from homespun.compile.compiler import MOST_THREADS, MemoryReport, choose_isa, load_program, lower, report
from homespun.compile.lowering import ConstantPool, Lowered, aligned_empty
from homespun.compile.passes import for_inference
from homespun.errors import OptionError
from homespun.graph import Array, Graph, check, infer
from homespun.graph.inputs import input_arrays, wrong_shape
from homespun.options import at_least_one

WEIGHTS = ("float32", "int8")


class Predictor:
    """Runs a model forward.

    `batch` is the largest number of samples that run at once; a call may pass any number. `weights` "int8" keeps
    weights in 8 bits, one scale an output channel, and multiplies in 8 bits where the CPU is faster so. `threads` are
    threads of this predictor's own. Programs for other batch sizes are compiled when first needed and share weights.
    Calls from several threads take turns.
    """

    def __init__(
        self, model: Graph, batch: int = 1, weights: str = "float32", threads: int = 2, isa: str | None = None
    ) -> None:
        if not isinstance(model, Graph):
            raise OptionError(f"model is {model!r}; it must be a Graph, as hs.load(path) and hs.zoo give it")
        batch, threads = at_least_one("batch", batch), at_least_one("threads", threads)
        if threads > MOST_THREADS:
            raise OptionError(f"threads is {threads}; it can be at most {MOST_THREADS}")
        if weights not in WEIGHTS:
            raise OptionError(f"weights is {weights!r}; it can be {' or '.join(repr(w) for w in WEIGHTS)}")
        check(model)
        self.batch, self.weights, self.threads, self.isa = batch, weights, threads, choose_isa(isa)
        self._model = model
        self._constants = ConstantPool()
        self._programs: dict[int, tuple[Lowered, _native.Program]] = {}
        self._lock = Lock()
        with self._lock:
            self._compiled(batch)

    @property
    def memory(self) -> MemoryReport:
        """What the program of the full batch size takes."""
        with self._lock:
            return report(self._compiled(self.batch)[0])

    def __call__(self, *inputs: Array) -> Array | tuple[Array, ...]:
        """Outputs for inputs (N, ...) float32, in the order of the model's inputs; N is free.

        Raises `ShapeError` for another number of inputs, or other shapes, than the model's.
        """
        arrays = self._check(inputs)
        count = arrays[0].shape[0]
        parts: list[list[Array]] = []
        for start in range(0, count, self.batch):
            parts.append(self._run([a[start : start + self.batch] for a in arrays]))
        if not parts:
            types = infer(self._model)
            results = [np.zeros((0, *types[name].shape[1:]), types[name].dtype) for name in self._model.outputs]
        elif len(parts) == 1:
            results = parts[0]
        else:
            results = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return results[0] if len(results) == 1 else tuple(results)

    def profile(self, *inputs: Array, repeat: int = 20) -> dict[str, float]:
        """Median seconds of each kernel call, by "node (kernel)", for one batch of inputs."""
        arrays = self._check(inputs)
        with self._lock:
            lowered, program = self._compiled(arrays[0].shape[0])
            externals = self._externals(arrays, lowered)
            program.profile(True)
            runs = []
            for _ in range(repeat):
                program.run(externals)
                runs.append(list(program.timings()))
            program.profile(False)
        medians = np.median(np.asarray(runs), axis=0)
        calls = [
            f"{i:03d} {n} ({c[0]})" for i, (n, c) in enumerate(zip(lowered.nodes, lowered.instructions, strict=True))
        ]
        return dict(zip(calls, medians.tolist(), strict=True))

    def _compiled(self, batch: int) -> tuple[Lowered, _native.Program]:
        """The program for a batch size. The passes run again for each: what they fold is not kept, only packed."""
        if batch not in self._programs:
            graph = for_inference(self._model, int8=self.weights == "int8")
            lowered = lower(graph, batch, self.isa, self.threads, self._constants)
            externals = len(graph.inputs) + len(graph.outputs)
            self._programs[batch] = (lowered, load_program(lowered, externals, self.isa, self.threads))
        return self._programs[batch]

    def _check(self, inputs: tuple[Array, ...]) -> list[Array]:
        arrays = input_arrays(self._model, inputs)
        for name, array in zip(self._model.inputs, arrays, strict=True):
            if array.shape[0] != arrays[0].shape[0]:
                raise wrong_shape(self._model, name, array)
        return arrays

    def _externals(self, arrays: list[Array], lowered: Lowered) -> list[Array]:
        outputs = []
        for name in self._model.outputs:
            t = lowered.types[name]
            outputs.append(aligned_empty(t.nbytes).view(t.dtype).reshape(t.shape))
        return [*arrays, *outputs]

    def _run(self, arrays: list[Array]) -> list[Array]:
        with self._lock:
            lowered, program = self._compiled(arrays[0].shape[0])
            externals = self._externals(arrays, lowered)
            self._execute(program, externals)
        return externals[len(arrays) :]

    def _execute(self, program: _native.Program, externals: list[Array]) -> None:
        program.run(externals)
