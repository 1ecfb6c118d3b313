"""How the networks are run. One interface, one place that chooses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from neurovision.ensemble.weights import Manifest, MemberEntry
from neurovision.errors import ModelError, WeightsTampered

if TYPE_CHECKING:
    import keras

ENGINES = ("auto", "keras", "reference")


class Engine(Protocol):
    """Runs all members on batches of canvases."""

    device: str

    def predict(self, canvases: np.ndarray) -> np.ndarray:
        """Softmax of every member.

        Args:
            canvases: float32 ``(N, size, size)``, standardized.

        Returns:
            float32 ``(M, N, size, size, 5)``, members in the manifest's order.
        """


def load_engine(manifest: Manifest, choice: str = "auto") -> Engine:
    """Choose and load an engine.

    Args:
        manifest: The weights.
        choice: One of ENGINES.

    Raises:
        ModelError: An unknown choice.
        WeightsError: Files that are missing or not the shipped ones.
    """
    if choice not in ENGINES:
        raise ModelError(f"An engine is one of {', '.join(ENGINES)}; received {choice!r}.")
    return ReferenceEngine(manifest) if choice == "reference" else KerasEngine(manifest)


def load_member(entry: MemberEntry, manifest: Manifest) -> keras.Model:
    """Build one member and fill in its shipped weights.

    Raises:
        WeightsTampered: The digest is wrong, or the file does not fit the architecture.
    """
    from neurovision.segmenters import build

    model = build(entry.name, (manifest.size, manifest.size, 1), **entry.config)
    fill(model, manifest.path(entry.file, entry.sha256))
    return model


def variable_key(variable: Any) -> str:
    """Name of a Keras variable in a weights file: its path, without the counter that Keras gives to unnamed layers.

    ``keras.applications`` leaves its normalization layer unnamed, so that its name depends on what was built before.
    """
    return re.sub(r"normalization_\d+/", "normalization/", variable.path)


def fill(model: keras.Model, path: Path) -> None:
    """Assign every variable of ``model`` from a safetensors file keyed by variable path.

    Raises:
        WeightsTampered: A variable is missing, superfluous or of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(path.read_bytes())
    except SafetensorError as e:
        raise WeightsTampered(f"{path.name} is not a safetensors file; fetch it again.") from e
    variables = {variable_key(v): v for v in model.variables if v.dtype.startswith("float")}
    if set(variables) != set(tensors) or any(tuple(v.shape) != tensors[k].shape for k, v in variables.items()):
        raise WeightsTampered(f"{path.name} does not fit the architecture {model.name}; fetch it again.")
    for key, variable in variables.items():
        variable.assign(tensors[key].astype(np.float32))
    for layer in model._flatten_layers():
        if layer.__class__.__name__ == "Normalization" and layer.built:
            layer.finalize_state()  # it caches its weights at build time


class KerasEngine:
    """All members in one compiled Keras graph."""

    def __init__(self, manifest: Manifest) -> None:
        import keras

        members = [load_member(m, manifest) for m in manifest.members]
        inputs = keras.Input((manifest.size, manifest.size, 1), name="canvas")
        self._graph = keras.Model(inputs, [m(inputs) for m in members], name="members")
        self.device = device()

    def predict(self, canvases: np.ndarray) -> np.ndarray:
        """See :class:`Engine`."""
        outputs = self._graph.predict_on_batch(canvases[..., None])
        members = outputs if isinstance(outputs, list) else [outputs]  # Keras unwraps a single output
        return np.stack([np.asarray(p, np.float32) for p in members])


class ReferenceEngine:
    """Member after member, eagerly in float32: slow and plain, what the other engines are compared with."""

    def __init__(self, manifest: Manifest) -> None:
        self._members = [load_member(m, manifest) for m in manifest.members]
        self.device = device()

    def predict(self, canvases: np.ndarray) -> np.ndarray:
        """See :class:`Engine`."""
        import keras

        return np.stack(
            [keras.ops.convert_to_numpy(m(canvases[..., None].astype(np.float32), training=False)) for m in self._members]
        )


def device() -> str:
    """``"GPU"`` or ``"CPU"``, whichever Keras computes on."""
    import keras

    return "GPU" if any("gpu" in d.lower() or "cuda" in d.lower() for d in keras.distribution.list_devices()) else "CPU"
