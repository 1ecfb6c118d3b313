"""Turn the members into one OpenVINO graph: ``python -m neurovision.ensemble.convert WEIGHTS FOLDER``.

The engine starts this as a process of its own, so that TensorFlow, which only the conversion needs, neither slows
nor swells the one that serves.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurovision.ensemble.engine import GRAPH, PRECISION, load_member, openvino
from neurovision.ensemble.weights import Manifest, load_manifest
from neurovision.scan.phantom import KINDS, phantom
from neurovision.scan.prepare import prepare, standardize

if TYPE_CHECKING:
    import keras

TOLERANCE = 3e-4  # share of pixels whose likeliest class bfloat16 may change; the vote's labels follow


def convert(manifest: Manifest, folder: Path) -> None:
    """Write the graph, its constants and the precision to run in into an empty folder.

    The graph takes float32 ``(N, size, size, 1)`` and gives float32 ``(N, M * 5, size, size)``: softmax over five
    planes a member. Planes are the processor's own layout here, so nothing is transposed on the way.
    """
    import keras
    import tensorflow as tf

    inputs = keras.Input((manifest.size, manifest.size, 1), name="canvas")
    planes = [_planes(load_member(m, manifest), inputs) for m in manifest.members]
    graph = keras.Model(inputs, keras.ops.concatenate(planes, axis=1), name="members")
    signature = tf.TensorSpec((None, manifest.size, manifest.size, 1), tf.float32)
    traced = tf.function(lambda x: graph(x, training=False), autograph=False).get_concrete_function(signature)
    model = openvino().convert_model(traced)
    openvino().save_model(model, folder / GRAPH, compress_to_fp16=False)
    (folder / PRECISION).write_text(precision(model, manifest.size))


def _planes(member: keras.Model, inputs: Any) -> Any:
    """Probabilities of one member as ``(N, 5, size, size)``: a softmax over planes runs in whole vectors."""
    import keras

    last = member.layers[-1]
    if not isinstance(last, keras.layers.Softmax):
        return keras.ops.transpose(member(inputs), (0, 3, 1, 2))
    logits = keras.Model(member.input, last.input)(inputs)
    return keras.ops.softmax(keras.ops.transpose(logits, (0, 3, 1, 2)), axis=1)


def precision(model: Any, size: int) -> str:
    """``"bf16"`` where the processor computes in it and no more than TOLERANCE of the labels change, else ``"f32"``."""
    if "BF16" not in openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return "f32"
    return "bf16" if changed_labels(model, size) <= TOLERANCE else "f32"


def changed_labels(model: Any, size: int) -> float:
    """Share of the pixels of eight phantoms whose likeliest class, by the members' mean, differs in bfloat16."""
    heads = [phantom(kind, seed)[0].gray() for kind in KINDS for seed in (900, 901)]
    canvases = np.stack([standardize(prepare(head, size).pixels) for head in heads])[..., None]
    labels = []
    for hint in ("f32", "bf16"):
        compiled = openvino().Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": hint})
        planes = compiled(canvases)[0]
        labels.append(planes.reshape(len(heads), -1, 5, size, size).mean(1).argmax(1))
    return float((labels[0] != labels[1]).mean())


if __name__ == "__main__":
    convert(load_manifest(Path(sys.argv[1])), Path(sys.argv[2]))
