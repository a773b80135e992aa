"""8-bit twins for peers: a float32 ONNX file quantised with onnxruntime's own tools, static (QDQ) or dynamic."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

_CALIBRATION_BATCHES = 4


class _Noise(CalibrationDataReader):
    """Images of noise, as the benchmark runs on: ranges do not change the speed."""

    def __init__(self, path: Path) -> None:
        given = onnx.load(path).graph.input[0]
        shape = [d.dim_value for d in given.type.tensor_type.shape.dim]
        random = np.random.default_rng(0)
        batches = [random.standard_normal(shape, np.float32) for _ in range(_CALIBRATION_BATCHES)]
        self._batches = iter([{given.name: x} for x in batches])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def quantize_twin(path: Path, static: bool) -> Path:
    """Writes the 8-bit twin beside `path` and returns where: unsigned activations, signed weights by channel."""
    logging.getLogger().setLevel(logging.ERROR)
    prepared, quantized = (
        path.with_suffix(".prepared.onnx"),
        path.with_suffix(f".{'static' if static else 'dynamic'}.onnx"),
    )
    quant_pre_process(str(path), str(prepared))
    if static:
        quantize_static(
            str(prepared),
            str(quantized),
            _Noise(prepared),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    else:
        quantize_dynamic(str(prepared), str(quantized), per_channel=True, weight_type=QuantType.QInt8)
    return quantized
