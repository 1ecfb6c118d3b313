"""Grad-CAM: which places of a scan made a network answer as it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from neurovision.classes import FIRST_TUMOR
from neurovision.errors import ModelError
from neurovision.scan.prepare import head_mask, prepare, standardize

Network = Any  # a functional keras.Model
# Layers that only move or rescale what another layer found.
_MOVES = ("MaxPooling", "ZeroPadding", "UpSampling", "Resizing", "Conv2DTranspose", "Dropout", "Rescaling", "Normalization")
NEAREST = 0.01
COARSEST = 7  # the grid that the paper's networks end on; coarser heat points nowhere
POSITIVE = 1  # class index of "tumor" for a classifier with a single sigmoid


def gradcam_layers(model: Network) -> tuple[str, ...]:
    """Layers worth looking at: the last of each block on each grid, in the model's order.

    Any other layer with a spatial output can be given to :func:`gradcam` as well; a layer of a nested model is called
    ``"<nested>/<layer>"``.
    """
    last: dict[tuple[str, tuple[int, int]], str] = {}
    for name, layer, grid in _spatial(model):
        if not type(layer).__name__.startswith(_MOVES):
            last[name.split("_")[0], grid] = name
    return tuple(last.values())


def gradcam(model: Network, canvas: np.ndarray, class_index: int, layer: str | None = None) -> np.ndarray:
    """Grad-CAM (Selvaraju 2017, arXiv 1610.02391) of a classifier, Seg-Grad-CAM (arXiv 2002.11434) of a segmenter.

    The gradient of the class' score before softmax or sigmoid weights the layer's channels; what speaks for the class
    is kept. A segmenter's score is the mean over the pixels to which it gives the class, or, where it gives it to
    none, over the NEAREST share of pixels to which it gives it most nearly.

    Args:
        model: A Keras model from ``(N, size, size, C)``, standardized canvases, to ``(N, K)`` or
            ``(N, size, size, K)``; a single sigmoid counts as the classes 0 (no tumor) and 1 (tumor).
        canvas: float32 ``(size, size)``, standardized.
        class_index: Whose heat.
        layer: A name as :func:`gradcam_layers` gives them. By default a classifier's last one, and a segmenter's last
            one on its coarsest grid of at least COARSEST x COARSEST.

    Returns:
        float32 ``(size, size)`` in [0, 1], the hottest place at 1; all 0 where nothing speaks for the class.

    Raises:
        ModelError: An unknown layer or class, a canvas of another size, or Keras not running on TensorFlow.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ModelError(f"Grad-CAM needs Keras on TensorFlow; it runs on {keras.backend.backend()}, set KERAS_BACKEND.")
    import tensorflow as tf

    _, height, width, channels = model.input_shape
    if canvas.shape != (height, width):
        raise ModelError(f"{model.name} reads canvases of {height} x {width}; received {canvas.shape}.")
    grids = {name: grid for name, _, grid in _spatial(model)}
    if layer is None:
        wide = [g for g in grids.values() if len(model.output_shape) == 2 or min(g) >= COARSEST]
        layer = [name for name, grid in grids.items() if grid == min(wide)][-1]
    if layer not in grids:
        raise ModelError(f"{model.name} has no spatial layer {layer!r}; choose one of {', '.join(gradcam_layers(model))}.")
    count = max(2, model.output_shape[-1])
    if not 0 <= class_index < count:
        raise ModelError(f"{model.name} has the classes 0 to {count - 1}; received {class_index}.")

    head = model.outputs[0]._keras_history.operation
    seen: dict[str, Any] = {}
    with tf.GradientTape(watch_accessed_variables=False) as tape:

        def look(name: str, operation: Any, inputs: Any, output: Any) -> None:
            if name == layer:
                tape.watch(output)
                seen["maps"] = output
            if operation is head and isinstance(head, keras.layers.Softmax | keras.layers.Activation):
                seen["scores"] = inputs

        picture = np.repeat(canvas.astype(np.float32)[None, ..., None], channels, axis=-1)
        output = _run(model, tf.convert_to_tensor(picture), look)
        score = _score(seen.get("scores", output), output, class_index)
    gradient = tape.gradient(score, seen["maps"])
    weights = gradient.numpy().astype(np.float32).mean((0, 1, 2))
    heat = np.maximum(seen["maps"].numpy().astype(np.float32)[0] @ weights, 0)
    large = cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR)
    return (large / max(float(large.max()), 1e-12)).astype(np.float32)


def heat_over(
    model: Network,
    picture: np.ndarray,
    pixel_shape: tuple[float, float] | None = None,
    class_index: int | None = None,
    layer: str | None = None,
) -> np.ndarray:
    """:func:`gradcam` over a slice in its own pixels, 0 outside the head.

    Args:
        model: As for :func:`gradcam`.
        picture: float32 ``(H, W)`` in [0, 1].
        pixel_shape: Height and width of a pixel, as a study has it; None for square pixels.
        class_index: Whose heat; by default :func:`likeliest`.
        layer: As for :func:`gradcam`.

    Returns:
        float32 ``(H, W)`` in [0, 1].

    Raises:
        ModelError: As :func:`gradcam`.
    """
    canvas = prepare(picture, int(model.input_shape[1]), pixel_shape)
    pixels = standardize(canvas.pixels)
    grid = gradcam(model, pixels, likeliest(model, pixels) if class_index is None else class_index, layer)
    values: np.ndarray = np.clip(canvas.restore(grid), 0, 1).astype(np.float32)
    head = head_mask(picture, pixel_shape)
    return values if head is None else np.where(head, values, np.float32(0))


def _score(scores: Any, output: Any, class_index: int) -> Any:
    """The scalar whose gradient is taken, from scores and probabilities ``(1, [H, W,] K)``."""
    import tensorflow as tf

    if output.shape[-1] == 1:
        return tf.reduce_mean(scores) if class_index == POSITIVE else -tf.reduce_mean(scores)
    chosen = np.ones(output.shape[:-1], np.float32)
    if len(output.shape) == 4:
        probability = output.numpy()
        chosen = (probability.argmax(-1) == class_index).astype(np.float32)
        if not chosen.any():
            probability = probability[..., class_index]
            chosen = (probability >= np.quantile(probability, 1 - NEAREST)).astype(np.float32)
    return tf.reduce_sum(tf.cast(scores[..., class_index], tf.float32) * (chosen / chosen.sum()))


def _run(model: Network, x: Any, look: Callable[[str, Any, Any, Any], None], prefix: str = "") -> Any:
    """Run a functional model eagerly, nested models included, and show every layer's input and output to ``look``."""
    import keras

    def wrap(operation: Any) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if isinstance(operation, keras.Model):
                return _run(operation, args[0], look, f"{prefix}{operation.name}/")
            output = operation(*args, **kwargs)
            look(prefix + operation.name, operation, args[0], output)
            return output

        return call

    outputs = model._run_through_graph(x, operation_fn=wrap)
    return outputs[0] if isinstance(outputs, list | tuple) and len(outputs) == 1 else outputs


def _spatial(model: Network, prefix: str = "") -> Iterator[tuple[str, Any, tuple[int, int]]]:
    """Name, layer and grid of every hidden layer with a spatial output of at least 2 x 2, in the model's order."""
    import keras

    outputs = {x._keras_history.operation for x in model.outputs} if not prefix else set()
    outputs |= {x._keras_history.operation for o in outputs for x in o._inbound_nodes[-1].input_tensors}  # the scores
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _spatial(layer, f"{prefix}{layer.name}/")
        elif layer not in outputs and not isinstance(layer, keras.layers.InputLayer):
            shape = layer._inbound_nodes[-1].outputs[0].shape  # a layer that is used twice has no single .output
            if len(shape) == 4 and min(shape[1:3]) >= 2:
                yield prefix + layer.name, layer, (int(shape[1]), int(shape[2]))


def likeliest(model: Network, canvas: np.ndarray) -> int:
    """The tumor class that a network gives most probability to; POSITIVE for a single sigmoid."""
    count = model.output_shape[-1]
    if count == 1:
        return POSITIVE
    picture = np.repeat(canvas[None, ..., None], model.input_shape[-1], axis=-1)
    given = np.asarray(model.predict_on_batch(picture)).reshape(-1, count).sum(0)
    return FIRST_TUMOR + int(given[FIRST_TUMOR:].argmax())
