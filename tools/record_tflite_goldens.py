"""Writes tests/formats/goldens/tflite: small networks by TensorFlow, and what LiteRT computes with them.

Run by hand, in an environment of its own: pip install tensorflow-cpu ai-edge-litert. The tests need neither. What goes
in is made by `tests/formats/tflite/recorded.py` on both sides.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import layers

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

from tests.formats.tflite.recorded import SIDE, given  # noqa: E402


def block(x: Any, channels: int, stride: int = 1, activation: str = "relu6") -> Any:
    """An inverted residual with batch norms."""
    y = layers.Conv2D(2 * channels, 1, use_bias=False)(x)
    y = layers.Activation(activation)(layers.BatchNormalization()(y))
    y = layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(y)
    y = layers.Activation(activation)(layers.BatchNormalization()(y))
    y = layers.BatchNormalization()(layers.Conv2D(channels, 1, use_bias=False)(y))
    return layers.Add()([x, y]) if stride == 1 and x.shape[-1] == channels else y


def classifier(second: str = "hard_swish") -> Any:
    """A mobile network: batch norms, relu6 and hard swish, a gate, a residual, the mean over the image."""
    x = given = keras.Input((SIDE, SIDE, 3))
    x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(8, 3, 2, use_bias=False)(x)))
    x = block(block(x, 8), 12, 2, second)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(12, 1, activation="sigmoid")(layers.Conv2D(4, 1, activation="relu")(gate))
    x = layers.Multiply()([x, gate])
    x = layers.MaxPooling2D(2, padding="same")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(given, layers.Dense(5, activation="softmax")(layers.Dropout(0.2)(x)))


def detector() -> Any:
    """Features of two sizes brought together, boxes and scores of all places in one list."""
    x = given = keras.Input((SIDE, SIDE, 3))
    x = layers.PReLU(shared_axes=[1, 2], alpha_initializer="random_uniform")(layers.Conv2D(8, 3, 2, padding="same")(x))
    fine = layers.LeakyReLU(0.1)(layers.Conv2D(8, 3, padding="same", dilation_rate=2)(x))
    coarse = layers.Conv2D(16, 3, 2, padding="same", activation="relu")(fine)
    coarse = layers.AveragePooling2D(3, 1, padding="same")(coarse)
    up = layers.Conv2D(8, 1)(layers.UpSampling2D(2, interpolation="bilinear")(coarse))
    raised = layers.Conv2DTranspose(8, 3, 2, padding="same", activation="relu")(coarse)
    nearest = layers.Conv2D(8, 1)(layers.UpSampling2D(2)(coarse))
    fine = layers.Concatenate()([fine, layers.Add()([up, nearest]), raised])
    found = []
    for features, anchors in ((fine, 2), (coarse, 3)):
        numbers = layers.Conv2D(anchors * 5, 3, padding="same")(features)
        found.append(layers.Reshape((-1, 5))(numbers))
    joined = layers.Concatenate(axis=1)(found)
    return keras.Model(given, [joined[:, :, :4], keras.ops.sigmoid(joined[:, :, 4])])


def encoder() -> Any:
    """A transformer over numbers of words: embedding, positions, attention, layer norm, GELU."""
    given = keras.Input((12,), dtype="int32")
    x = layers.Embedding(30, 16)(given)
    x = x + layers.Embedding(12, 16)(np.arange(12)[None])
    for _ in range(2):
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 8)(x, x))
        x = layers.LayerNormalization()(x + layers.Dense(16)(layers.Dense(32, activation="gelu")(x)))
    return keras.Model(given, layers.Dense(3)(layers.Dense(16, activation="tanh")(x[:, 0])))


class Operators(tf.Module):
    """What exporters write between layers, one after the other."""

    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 6), tf.float32)])
    def __call__(self, x: Any) -> Any:
        v1 = tf.compat.v1.image
        parts = tf.split(x, 3, axis=3)
        a, b = tf.unstack(tf.reshape(x, (1, 8, 8, 2, 3)), axis=3)
        small = [
            v1.resize_bilinear(x, (5, 11), align_corners=True),
            v1.resize_bilinear(x, (5, 11)),
            v1.resize_nearest_neighbor(x, (5, 11), align_corners=True),
            v1.resize_nearest_neighbor(x, (5, 11), half_pixel_centers=True),
            v1.resize_nearest_neighbor(x, (5, 11)),
        ]
        moved = tf.stack([parts[0], parts[2] - parts[1]], axis=1)
        padded = tf.pad(x, [[0, 0], [2, 1], [1, 2], [0, 0]], "REFLECT") + tf.pad(
            x, [[0, 0], [1, 2], [2, 1], [0, 0]], constant_values=0.5
        )
        mirrored = tf.pad(x, [[0, 0], [2, 1], [1, 2], [0, 0]], "SYMMETRIC")
        cut = x[:, 1:7:2, ::3, 1:] * 2.0
        means = tf.reduce_mean(x, axis=-1, keepdims=True) + tf.reduce_max(x, axis=[1, 2], keepdims=True)
        least = -tf.reduce_min(x, axis=[1, 2])
        picked = tf.gather(x, [4, 1, 1], axis=3)
        blocks = tf.nn.depth_to_space(tf.concat([x, parts[0]], axis=3), 2) + 0.0
        products = tf.linalg.matmul(tf.reshape(a, (1, 8, 24)), tf.reshape(b, (1, 8, 24)), transpose_b=True)
        functions = [tf.exp(-tf.abs(x)), tf.math.rsqrt(tf.square(x) + 1), tf.math.log(tf.abs(x) + 1), tf.nn.elu(x)]
        functions += [tf.math.squared_difference(x, means), tf.pow(x, 2.0), tf.nn.relu(x - 0.5), tf.nn.log_softmax(x)]
        functions += [tf.maximum(x, 0.2), tf.minimum(tf.clip_by_value(x, -1.0, 1.0), 0.7), tf.nn.l2_normalize(x, -1)]
        functions += [
            tf.nn.local_response_normalization(x, 2),
            tf.broadcast_to(means, x.shape),
            tf.tile(parts[0], (1, 1, 1, 3)),
        ]
        whole = [*small, moved, padded, mirrored, cut, means, least, picked, blocks, products, tf.add_n(functions[:8])]
        return (*whole, tf.add_n(functions[8:]), tf.transpose(x, (0, 3, 1, 2)), tf.squeeze(x[:, :1], 1))


def representative(model: Any) -> Callable[[], Iterator[list[Any]]]:
    def batches() -> Iterator[list[Any]]:
        random = np.random.default_rng(1)
        for _ in range(24):
            yield [random.standard_normal((1, *model.input_shape[1:])).astype(np.float32)]

    return batches


def lived_in(model: Any) -> Any:
    """The model with norms, biases and slopes that training could have left."""
    random = np.random.default_rng(2)
    for weight in model.weights:
        spread = {"gamma": (0.7, 1.4), "moving_variance": (0.3, 1.5), "moving_mean": (-0.3, 0.3), "beta": (-0.3, 0.5)}
        low, high = spread.get(weight.name, (-0.2, 0.2) if weight.name == "bias" else (0, 0))
        if high:
            weight.assign(random.uniform(low, high, weight.shape))
    return model


def converter(model: Any, quantised: str = "") -> Any:
    made = tf.lite.TFLiteConverter.from_keras_model(model)
    if quantised:
        made.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantised == "float16":
        made.target_spec.supported_types = [tf.float16]
    if quantised in ("int8", "uint8", "int8 per tensor"):
        made.representative_dataset = representative(model)
        made.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        kind = tf.uint8 if quantised == "uint8" else tf.int8
        made.inference_input_type = made.inference_output_type = kind
        made._experimental_disable_per_channel = quantised == "int8 per tensor"
    if quantised == "int16":
        made.representative_dataset = representative(model)
        made.target_spec.supported_ops = [tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8]
    return made.convert()


def dequantised(values: Any, details: Any) -> Any:
    scale, zero = details["quantization"]
    return values if not scale else (values.astype(np.float32) - zero) * np.float32(scale)


def run(raw: bytes, x: Any) -> list[Any]:
    """What LiteRT gives for each sample by itself, quantised numbers as what they stand for."""
    interpreter = Interpreter(model_content=raw)
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    outputs: list[list[Any]] = []
    for i in range(len(x)):
        sample = x[i : i + 1]
        scale, zero = given["quantization"]
        if scale:
            kind = np.iinfo(given["dtype"])
            sample = np.clip(np.round(sample / scale + zero), kind.min, kind.max).astype(given["dtype"])
        interpreter.set_tensor(given["index"], sample)
        interpreter.invoke()
        details = interpreter.get_output_details()
        outputs.append([dequantised(interpreter.get_tensor(d["index"]), d) for d in details])
    return [np.concatenate(parts) for parts in zip(*outputs, strict=True)]


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "tests" / "formats" / "goldens" / "tflite")
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    mobile, finder = lived_in(classifier()), lived_in(detector())
    module = Operators()
    made = {
        "classifier": converter(mobile),
        "classifier_float16": converter(mobile, "float16"),
        "detector_int8_weights": converter(finder, "weights"),
        "classifier_int8": converter(mobile, "int8"),
        "classifier_int8_per_tensor": converter(mobile, "int8 per tensor"),
        "classifier_uint8": converter(mobile, "uint8"),
        "classifier_int16": converter(lived_in(classifier("relu6")), "int16"),
        "detector": converter(finder),
        "detector_int8": converter(finder, "int8"),
        "encoder": converter(lived_in(encoder())),
        "operators": tf.lite.TFLiteConverter.from_concrete_functions(
            [module.__call__.get_concrete_function()], module
        ).convert(),
    }
    for name, raw in made.items():
        (folder / f"{name}.tflite").write_bytes(raw)
        outputs = {f"output{i}": y for i, y in enumerate(run(raw, given(name)))}
        np.savez_compressed(folder / f"{name}.npz", **outputs)
        print(f"{name}: {len(raw)} bytes, outputs {[y.shape for y in outputs.values()]}")


if __name__ == "__main__":
    main()
