"""Turn the members into one OpenVINO graph: ``python -m neurovision.ensemble.convert WEIGHTS FOLDER``.

The engine starts this as a process of its own, so that TensorFlow, which only the conversion needs, neither slows
nor swells the one that serves.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurovision.ensemble.engine import CLASSIFIER_GRAPH, GRAPH, load_classifier, load_member, openvino
from neurovision.ensemble.manifest import Networks

if TYPE_CHECKING:
    import keras


def convert(manifest: Networks, folder: Path) -> None:
    """Write the graph and its constants, the same for every processor, into an empty folder.

    The graph takes float32 ``(N, size, size, 1)`` and gives float32 ``(N, M * K, size, size)``: softmax over K
    planes a member. Planes are the processor's own layout here, so nothing is transposed on the way.
    """
    import keras
    import tensorflow as tf

    inputs = keras.Input((manifest.size, manifest.size, 1), name="canvas")
    members = [_trimmed(load_member(m, manifest)) for m in manifest.members]
    planes = [keras.ops.transpose(member(inputs), (0, 3, 1, 2)) for member, _ in members]
    graph = keras.Model(inputs, keras.ops.concatenate(planes, axis=1), name="members")
    signature = tf.TensorSpec((None, manifest.size, manifest.size, 1), tf.float32)
    traced = tf.function(lambda x: graph(x, training=False), autograph=False).get_concrete_function(signature)
    model = _with_softmax(openvino().convert_model(traced), [logits for _, logits in members])
    openvino().save_model(model, folder / GRAPH, compress_to_fp16=False)
    if manifest.classifier is not None:
        whole = load_classifier(manifest)
        traced = tf.function(lambda x: whole(x, training=False), autograph=False).get_concrete_function(signature)
        openvino().save_model(openvino().convert_model(traced), folder / CLASSIFIER_GRAPH, compress_to_fp16=False)


def _trimmed(member: keras.Model) -> tuple[keras.Model, bool]:
    """The member with upsampling that converts to one operation, and whether it ends before its softmax.

    Keras repeats rows and columns in two steps of five operations each, which cost OpenVINO as much as a convolution.
    """
    import keras

    class Nearest(keras.layers.Layer):
        """What ``UpSampling2D`` does with its default interpolation."""

        def __init__(self, factors: tuple[int, int], **options: Any) -> None:
            super().__init__(**options)
            self.factors = factors

        def call(self, x: Any) -> Any:
            size = tuple(side * factor for side, factor in zip(x.shape[1:3], self.factors, strict=True))
            return keras.ops.image.resize(x, size, interpolation="nearest")

    def same(layer: Any) -> Any:
        if isinstance(layer, keras.layers.UpSampling2D) and layer.interpolation == "nearest":
            return Nearest(layer.size, name=layer.name)
        return layer.__class__.from_config(layer.get_config())

    trimmed = keras.models.clone_model(member, clone_function=same)
    trimmed.set_weights(member.get_weights())
    last = trimmed.layers[-1]
    if isinstance(last, keras.layers.Softmax):
        return keras.Model(trimmed.input, last.input, name=member.name), True
    return trimmed, False


def _with_softmax(model: Any, logits: list[bool]) -> Any:
    """Softmax over each member's planes, put in after the conversion, which would move it back to the last axis."""
    ov = openvino()
    joined = model.get_results()[0].input_value(0).get_node()
    parts = [joined.input_value(k) for k in range(len(logits))]
    parts = [ov.opset13.softmax(p, 1).output(0) if soft else p for p, soft in zip(parts, logits, strict=True)]
    return ov.Model([ov.opset13.concat(parts, 1)], model.get_parameters(), "members")


if __name__ == "__main__":
    convert(Networks.from_json(json.load(sys.stdin), Path(sys.argv[1])), Path(sys.argv[2]))
