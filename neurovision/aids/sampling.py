"""Pictures of heads that no patient had: the network of the diffusion model, its noise schedule, and sampling.

Denoising diffusion implicit models (Song 2020, arXiv 2010.02502) with a continuous cosine schedule (Nichol and Dhariwal
2021, arXiv 2102.09672), conditioned on whether the slice shows a tumor. The network predicts the velocity (Salimans and
Ho 2022, arXiv 2202.00512), from which noise and picture both follow; with few training steps it is steadier than the
noise alone. Only ``keras.ops`` and NumPy are used, so every Keras backend trains and samples.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from neurovision.ensemble.engine import fill
from neurovision.ensemble.weights import find_weights
from neurovision.errors import ModelError, WeightsMissing, WeightsTampered

FILE = "diffusion.json"
KINDS = ("no tumor", "tumor")
SIGNAL = (0.02, 0.95)  # least and most share of the picture's amplitude in a noisy one
FREQUENCIES = 16
GROUPS = 8


@dataclass(frozen=True)
class Plan:
    """What is trained and how.

    Attributes:
        size: Side of the pictures, a multiple of ``4 * patch``.
        patch: Stride of the first and the last convolution.
        widths: Channels on the three grids, finest first.
        depths: Residual blocks on each grid, on the way down and again on the way up.
        batch: Pictures a step.
        learning_rate: Highest, after the warm-up; it falls along a cosine to a twentieth.
        warmup: Share of all steps in which the rate rises.
        ema: Share of the averaged weights that a step keeps.
        epochs: Passes over the scans.
    """

    size: int = 48
    patch: int = 3
    widths: tuple[int, int, int] = (32, 64, 128)
    depths: tuple[int, int, int] = (1, 1, 2)
    batch: int = 32
    learning_rate: float = 2e-3
    warmup: float = 0.03
    ema: float = 0.995
    epochs: int = 30


@keras.saving.register_keras_serializable("neurovision")
class NoiseEmbedding(layers.Layer):
    """Sines and cosines of the noise's power at FREQUENCIES frequencies from 1 to 1000 (Vaswani 2017, arXiv 1706.03762).

    Shape:
        In ``(N, 1)`` in [0, 1]; out ``(N, 2 * FREQUENCIES)``.
    """

    def call(self, power: Any) -> Any:
        """Embed a batch of noise powers."""
        speeds = ops.exp(ops.linspace(0.0, math.log(1000.0), FREQUENCIES)) * 2 * math.pi
        angles = ops.cast(power, "float32") * ops.cast(speeds, "float32")
        return ops.cast(ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1), self.compute_dtype)


def network(plan: Plan) -> keras.Model:
    """Build the U-Net.

    Args:
        plan: Sizes.

    Returns:
        Inputs ``[(N, size, size, 1) noisy pictures, (N, 1) noise power, (N, 2) one-hot kind]``; output
        ``(N, size, size, 1)``, the velocity, float32.

    Raises:
        ModelError: A size that the grids do not divide.
    """
    if plan.size % (4 * plan.patch):
        raise ModelError(f"The side of generated pictures is a multiple of {4 * plan.patch}; received {plan.size}.")
    noisy = keras.Input((plan.size, plan.size, 1), name="noisy")
    power = keras.Input((1,), name="noise_power")
    kind = keras.Input((len(KINDS),), name="kind")
    condition = layers.Concatenate(name="condition")([NoiseEmbedding(name="embedding")(power), kind])
    condition = layers.Dense(128, activation="silu", name="condition1")(condition)
    condition = layers.Dense(128, activation="silu", name="condition2")(condition)
    x = layers.Conv2D(plan.widths[0], plan.patch + 1, plan.patch, "same", name="patches")(noisy)
    skips = []
    for level, (width, depth) in enumerate(zip(plan.widths, plan.depths, strict=True)):
        if level:
            x = layers.AveragePooling2D(2, name=f"shrink{level}")(x)
        for k in range(depth):
            x = _residual(x, condition, width, f"down{level}_{k}")
            skips.append(x)
    for level in reversed(range(len(plan.widths))):
        for k in range(plan.depths[level]):
            x = layers.Concatenate(name=f"join{level}_{k}")([x, skips.pop()])
            x = _residual(x, condition, plan.widths[level], f"up{level}_{k}")
        if level:
            x = layers.UpSampling2D(2, interpolation="bilinear", name=f"grow{level}")(x)
    x = layers.Activation("silu", name="last_silu")(layers.GroupNormalization(GROUPS, name="last_norm")(x))
    # Zero at the start: the first prediction is the mean, and training does not begin with noise of the network's own.
    x = layers.Conv2DTranspose(
        1, plan.patch + 2, plan.patch, "same", kernel_initializer="zeros", dtype="float32", name="velocity"
    )(x)
    return keras.Model([noisy, power, kind], x, name="diffusion")


def _residual(x: Any, condition: Any, width: int, name: str) -> Any:
    """Two 3 x 3 convolutions beside a shortcut; the condition scales and shifts each channel between them."""
    shortcut = x if x.shape[-1] == width else layers.Conv2D(width, 1, name=f"{name}_shortcut")(x)
    x = layers.Activation("silu", name=f"{name}_silu1")(layers.GroupNormalization(GROUPS, name=f"{name}_norm1")(x))
    x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"{name}_conv1")(x)
    x = layers.GroupNormalization(GROUPS, center=False, scale=False, name=f"{name}_norm2")(x)
    scale = layers.Dense(width, bias_initializer="ones", name=f"{name}_scale")(condition)
    shift = layers.Dense(width, name=f"{name}_shift")(condition)
    x = layers.Multiply(name=f"{name}_scaled")([x, layers.Reshape((1, 1, width), name=f"{name}_scale_map")(scale)])
    x = layers.Add(name=f"{name}_shifted")([x, layers.Reshape((1, 1, width), name=f"{name}_shift_map")(shift)])
    x = layers.Activation("silu", name=f"{name}_silu2")(x)
    x = layers.Conv2D(width, 3, padding="same", name=f"{name}_conv2")(x)
    return layers.Add(name=f"{name}_sum")([x, shortcut])


def rates(time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Amplitudes of picture and noise at diffusion times in [0, 1]; their squares sum to 1."""
    first, last = math.acos(SIGNAL[1]), math.acos(SIGNAL[0])
    angle = first + np.asarray(time, np.float32) * (last - first)
    return np.cos(angle), np.sin(angle)


@dataclass(frozen=True)
class Generator:
    """A trained network and the constants that its pictures are scaled by.

    Attributes:
        model: The network with averaged weights.
        mean: Of the training canvases.
        deviation: Of the training canvases.
        described: What ``diffusion.json`` says, or empty while training.
    """

    model: keras.Model
    mean: float
    deviation: float
    described: dict[str, Any]

    def sample(self, tumor: Sequence[bool] | np.ndarray, seed: int, steps: int = 20, batch: int = 64) -> np.ndarray:
        """Draw pictures, from noise, without chance after the first noise (eta = 0).

        Args:
            tumor: ``(N,)``, which kind each picture is to be.
            seed: Same seed, same pictures.
            steps: Of denoising.
            batch: Pictures at a time.

        Returns:
            float32 ``(N, size, size)`` in [0, 1]: canvases, air 0.

        Raises:
            ModelError: No picture or no step was asked for.
        """
        if not len(tumor) or steps < 1:
            raise ModelError(f"At least one picture and one step are needed; received {len(tumor)} and {steps}.")
        size = int(self.model.input_shape[0][1])  # type: ignore[attr-defined]
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal((len(tumor), size, size, 1), np.float32)
        kinds = np.eye(len(KINDS), dtype=np.float32)[np.asarray(tumor, int)]
        out = np.empty((len(tumor), size, size), np.float32)
        for first in range(0, len(tumor), batch):
            part = slice(first, first + batch)
            out[part] = self._denoise(noise[part], kinds[part], steps)[..., 0]
        return np.clip(out * self.deviation + self.mean, 0, 1)

    def _denoise(self, noisy: np.ndarray, kinds: np.ndarray, steps: int) -> np.ndarray:
        times = np.linspace(1, 0, steps + 1)
        picture = noisy
        for now, after in pairwise(times):
            signal, noise = rates(now)
            power = np.full((len(noisy), 1), noise**2, np.float32)
            velocity = np.asarray(self.model.predict_on_batch([noisy, power, kinds]), np.float32)
            picture, predicted = split(noisy, velocity, signal, noise)
            # The darkest value is air, of which a canvas has much; keeping to it keeps later steps on course.
            picture = np.clip(picture, -self.mean / self.deviation, (1 - self.mean) / self.deviation)
            signal, noise = rates(after)
            noisy = (signal * picture + noise * predicted).astype(np.float32)
        return picture


def split(noisy: Any, velocity: Any, signal: Any, noise: Any) -> tuple[Any, Any]:
    """The picture and the noise that a noisy picture and a velocity stand for."""
    return signal * noisy - noise * velocity, noise * noisy + signal * velocity


def plan_of(described: dict[str, Any]) -> Plan:
    """The plan that a run or a manifest holds."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in described.items()}
    return Plan(**values)


def load(folder: Path | None = None) -> Generator:
    """Load the shipped generator.

    Args:
        folder: The weights folder; by default the one that every command finds.

    Raises:
        WeightsMissing: It is not there.
        WeightsTampered: The manifest cannot be read, or the weights are not the shipped ones.
    """
    folder = folder or find_weights()
    path = folder / FILE
    if not path.is_file():
        raise WeightsMissing(f"There is no {FILE} in {folder.name}/; see 'neurovision diffuse export'.")
    try:
        described = json.loads(path.read_bytes())
        file, sha256, plan = str(described["file"]), str(described["sha256"]), plan_of(described["plan"])
        mean, deviation = float(described["mean"]), float(described["deviation"])
    except (ValueError, KeyError, TypeError) as e:
        raise WeightsTampered(f"{FILE} is not a manifest that this version reads; fetch the weights again.") from e
    weights = folder / file
    if Path(file).name != file or not weights.is_file():
        raise WeightsMissing(f"{FILE} names {file}, which is not beside it; fetch the weights again.")
    data = weights.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise WeightsTampered(f"{file} is not the file that {FILE} describes; fetch the weights again.")
    model = network(plan)
    fill(model, weights, data)  # the very bytes whose digest was checked
    return Generator(model, mean, deviation, described)
