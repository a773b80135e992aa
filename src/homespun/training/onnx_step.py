"""A trainer's step as a plain ONNX graph: forward, loss, backward, update, in standard operators only.

Any runtime that runs ONNX can then train, a phone's or a browser's. What changes from step to step goes in and comes
out: every output `NAME/next` is what the input `NAME` is to be in the next step.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from homespun.compile.passes import drop_inference_identities, fold_batch_norm
from homespun.compile.training import COMMON_STATES, LOSS, joint_graph
from homespun.errors import OptionError
from homespun.formats.onnx.exporter import Signature, as_model, write_file, write_nodes
from homespun.formats.onnx.writer import OnnxWriter
from homespun.graph import TensorType, infer
from homespun.ops.update import ONNX_HYPER
from homespun.training.steps import listed

if TYPE_CHECKING:
    from homespun.training.model_state import ModelState
    from homespun.training.programs import Programs
    from homespun.training.trainer import Trainer

RATE, STEP, NEXT = "learning_rate", "step", "/next"


def export_step(
    trainer: Trainer,
    state: ModelState,
    programs: Programs,
    path: str | Path,
    batch: int | None = None,
    targets: Any = None,
    predictor: str | Path = "",
) -> None:
    """Write the step of `batch` samples; the trainer's state as it is now is what the inputs default to.

    Inputs: the model's, with images as `hs.save` writes them; `target` (`target1`, ...); `learning_rate`; `step`, the
    number of steps done; parameters, statistics and the optimizer's states. Outputs: `loss`, then all that goes on.
    `targets` are an example, an array or a list, where the loss takes others than integer labels: probabilities,
    numbers, or as many objects as an image has at most. Their first axis is the batch then.
    `predictor` is where to write the network in inference form, with the same parameters and statistics as inputs.
    Dropout draws the runtime's random numbers; all else computes what the trainer does, in float32.
    Raises `OptionError` for a mixed-precision trainer, `ModelError` that lists all nodes which have no form in ONNX,
    `ShapeError` or `TrainingError` for targets that a step would not take.
    """
    if trainer.precision != "float32":
        raise OptionError("a training step is written in float32; make the trainer with precision='float32'")
    example = None if targets is None else [np.asarray(t) for t in listed(targets)]
    batch = batch or (example[0].shape[0] if example else trainer.batch)
    model = trainer.model()
    plan = programs.plain_plan(batch, example)
    own = {t.name for t in state.split.trained.with_role("parameter", "state")}
    states = {n: t for n, t in state.store.layout.types.items() if n not in own}
    joint, types, inputs = joint_graph(state.trained_part(), plan, "step", batch, states)

    signature = Signature(model.metadata)
    write = OnnxWriter(joint, types)
    for name in model.inputs:
        signature.input(write, name, infer(model, batch)[name])
    for i, name in enumerate(inputs[len(inputs) - len(plan.targets) :]):
        signature.input(write, name, types[name], f"target{i or ''}", as_is=True)
    signature.default(write, RATE, trainer.learning_rate)
    signature.default(write, STEP, float(trainer.step_count))
    changing = [n for n in state.store.layout.types if n not in COMMON_STATES]
    for name in changing:
        signature.default(write, name, state.store[name].copy())
    write.shared[ONNX_HYPER] = (RATE, *trainer.optimizer.hyper_to_onnx(write, write("Add", STEP, 1.0)))

    if state.split.frozen is not None:
        frozen = state.split.frozen.copy()
        drop_inference_identities(frozen)
        fold_batch_norm(frozen)
        frozen.prune()
        write.enter(frozen, infer(frozen, batch))
        write_nodes(write, frozen)
        write.enter(joint, types)
    write_nodes(write, joint)

    signature.output(write, write.ours(f"{LOSS}/now"), "loss", TensorType(()))
    signature.output(write, write("Add", STEP, 1.0), STEP + NEXT, TensorType(()))
    for name in changing:
        if name in write.next:
            signature.output(write, write.next[name], name + NEXT, types[name])
    write_file(signature.model(write, f"{model.name}: training step"), Path(path))
    if predictor:
        write_file(as_model(model, open_arrays=[n for n in changing if n in own]), Path(predictor))
