"""Inference beside onnxruntime and OpenVINO: the same networks, the same weights, taking turns in one run.

    pip install -r benchmarks/requirements-peers.txt
    python benchmarks/inference.py [--models mobilenet_v2] [--batches 1,8] [--threads 2] [--json FILE]
    python benchmarks/inference.py --engines "homespun int8,onnxruntime int8,openvino int8"

Each engine runs in a process of its own and waits asleep while another one has its turn, so that they share neither
caches nor spinning threads; turns are short and alternate, so that a busy moment of the machine hits all of them.
Ratios are of medians and of minima over all turns.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

Run = Callable[[np.ndarray], np.ndarray]


def model_of(name: str) -> object:
    import homespun as hs

    return getattr(hs.zoo, name)(classes=1000)


def homespun(name: str, batch: int, threads: int, path: Path, weights: str = "float32") -> Run:
    import homespun as hs

    return hs.Predictor(model_of(name), batch=batch, threads=threads, weights=weights)  # type: ignore[arg-type]


def homespun_int8(name: str, batch: int, threads: int, path: Path) -> Run:
    return homespun(name, batch, threads, path, "int8")


def onnxruntime(name: str, batch: int, threads: int, path: Path) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    key = session.get_inputs()[0].name
    return lambda x: session.run(None, {key: x})[0]


def openvino(name: str, batch: int, threads: int, path: Path, precision: str = "f32") -> Run:
    import openvino as ov

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    request = ov.Core().compile_model(str(path), "CPU", settings).create_infer_request()
    return lambda x: request.infer([x], share_inputs=True, share_outputs=True)[0]


def onnxruntime_int8(name: str, batch: int, threads: int, path: Path, static: bool = True) -> Run:
    from int8_twin import quantize_twin

    return onnxruntime(name, batch, threads, quantize_twin(path, static))


def onnxruntime_int8_dynamic(name: str, batch: int, threads: int, path: Path) -> Run:
    return onnxruntime_int8(name, batch, threads, path, static=False)


def openvino_int8(name: str, batch: int, threads: int, path: Path) -> Run:
    from int8_twin import quantize_twin

    copy = path.with_name("openvino.onnx")
    copy.write_bytes(path.read_bytes())
    return openvino(name, batch, threads, quantize_twin(copy, static=True))


ENGINES: dict[str, Callable[[str, int, int, Path], Run]] = {
    "homespun": homespun,
    "homespun int8": homespun_int8,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "onnxruntime int8": onnxruntime_int8,
    "onnxruntime int8 dynamic": onnxruntime_int8_dynamic,
    "openvino int8": openvino_int8,
}
#: Engines whose answers must agree with ours. The 8-bit ones are compared with each other for speed only.
EXACT = ("homespun", "onnxruntime", "openvino")


def serve(pipe: Connection, engine: str, name: str, batch: int, threads: int, path: Path) -> None:
    """The engine's process: one turn for every number received, that many runs each; an empty turn ends it."""
    x = np.random.default_rng(0).standard_normal((batch, 224, 224, 3), np.float32)
    run = ENGINES[engine](name, batch, threads, path)
    for _ in range(3):
        y = run(x)
    pipe.send(np.array(y).reshape(batch, -1))
    while count := pipe.recv():
        times = []
        for _ in range(count):
            begin = time.perf_counter()
            run(x)
            times.append(time.perf_counter() - begin)
        pipe.send(times)


def compare(name: str, batch: int, threads: int, engines: list[str], seconds: float) -> dict[str, list[float]]:
    """Seconds of every run of every engine."""
    from onnx_twin import write_onnx

    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "twin.onnx"
        write_onnx(model_of(name), path, batch)  # type: ignore[arg-type]
        pipes, answers = {}, {}
        for engine in engines:
            ours, theirs = context.Pipe()
            arguments = (theirs, engine, name, batch, threads, path)
            context.Process(target=serve, args=arguments, daemon=True).start()
            pipes[engine] = ours
            answers[engine] = ours.recv()
        exact = [engine for engine in engines if engine in EXACT]
        for engine in engines:
            if engine in EXACT:
                np.testing.assert_allclose(answers[engine], answers[exact[0]], rtol=1e-3, atol=1e-3)
        times: dict[str, list[float]] = {engine: [] for engine in engines}
        deadline = time.monotonic() + seconds
        turn = max(1, 16 // batch)
        while time.monotonic() < deadline or len(times[engines[0]]) < 8:
            for engine, pipe in pipes.items():
                pipe.send(turn)
                times[engine] += pipe.recv()
                time.sleep(0.01)  # let spinning threads of its fall asleep
        for pipe in pipes.values():
            pipe.send(0)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="mobilenet_v2,efficientnet_lite0")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engines", default="homespun,onnxruntime,openvino", help=f"of {', '.join(ENGINES)}")
    parser.add_argument("--seconds", type=float, default=20, help="for each network and batch size")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    engines = options.engines.split(",")
    rows = []
    for name in options.models.split(","):
        for batch in map(int, options.batches.split(",")):
            times = compare(name, batch, options.threads, engines, options.seconds)
            row: dict[str, object] = {"model": name, "batch": batch, "threads": options.threads}
            line = f"{name:20} batch {batch}: "
            for engine, values in times.items():
                median, least = statistics.median(values) * 1e3, min(values) * 1e3
                row[engine] = {"median_ms": median, "minimum_ms": least, "runs": len(values)}
                line += f"  {engine} {median:.2f} ({least:.2f}) ms"
            ours = times[engines[0]]
            eight_bits = "int8" in engines[0]
            peers = [
                values
                for engine, values in times.items()
                if not engine.startswith("homespun") and ("int8" in engine) == eight_bits
            ]
            if peers:
                row["ratio_of_medians"] = statistics.median(ours) / min(statistics.median(p) for p in peers)
                row["ratio_of_minima"] = min(ours) / min(min(p) for p in peers)
                line += f"  ratio to the fastest peer {row['ratio_of_medians']:.2f} ({row['ratio_of_minima']:.2f})"
            print(line, flush=True)
            rows.append(row)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
