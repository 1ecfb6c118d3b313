"""A denoising diffusion model of head slices: the network, its noise schedule, training and sampling.

Denoising diffusion implicit models (Song 2020, arXiv 2010.02502) with a continuous cosine schedule (Nichol and Dhariwal
2021, arXiv 2102.09672), conditioned on whether the slice shows a tumor. The network predicts the velocity (Salimans and
Ho 2022, arXiv 2202.00512), from which noise and picture both follow; with few training steps it is steadier than the
noise alone. Only ``keras.ops`` and NumPy are used, so every Keras backend trains and samples.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from neurovision.ensemble.engine import fill, variable_key
from neurovision.ensemble.weights import find_weights
from neurovision.errors import DataError, ModelError, WeightsMissing, WeightsTampered
from neurovision.files import write
from neurovision.training.dataset import SOURCES, Item, load_index, pack
from neurovision.training.kid import Features, kernel_distance

log = logging.getLogger(__name__)

FILE = "diffusion.json"
KINDS = ("no tumor", "tumor")
SIGNAL = (0.02, 0.95)  # least and most share of the picture's amplitude in a noisy one
FREQUENCIES = 16
GROUPS = 8
CHECKPOINT = "checkpoint.safetensors"
COLUMNS = ("epoch", "scans_seen", "noise_loss", "image_loss", "val_noise_loss", "val_image_loss", "kid")
CHECKS = 96  # pictures that the distance after each epoch is estimated on
CHECK_STEPS = 5


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
        told: What ``diffusion.json`` says, or empty while training.
    """

    model: keras.Model
    mean: float
    deviation: float
    told: dict[str, Any]

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


def train(
    plan: Plan,
    data: Path,
    folds: Sequence[int],
    validation_fold: int,
    out: Path,
    sources: Sequence[str] = SOURCES,
    seed: int = 1,
    precision: str = "float32",
) -> Path:
    """Train, or go on where an interrupted run stopped: a checkpoint is written after each epoch.

    ``history.csv`` gets a row an epoch: noise and image loss (mean absolute errors, in deviations of the canvases), the
    same with the averaged weights on CHECKS scans of the validation fold, and the kernel distance (see
    :mod:`neurovision.training.kid`) between these scans and as many generated ones, kinds alike.

    Args:
        plan: What to train and how.
        data: The prepared folder.
        folds: Folds that are trained on; whole patients stand in one fold.
        validation_fold: A fold that is only measured on.
        out: Folder of this run; it may hold an earlier, unfinished one.
        sources: Data sets; of LGG the FLAIR sequence is read.
        seed: Of initialization and sampling.
        precision: ``"float32"`` or ``"mixed_bfloat16"``, faster where the processor has it.

    Returns:
        ``out / "checkpoint.safetensors"`` after the last epoch.

    Raises:
        DataError: The folds overlap, or the data break a rule.
        ModelError: The folder holds a run of another plan.
    """
    if validation_fold in folds:
        raise DataError(f"Fold {validation_fold} is trained on and cannot validate; choose another.")
    out.mkdir(parents=True, exist_ok=True)
    scans, tumor = canvases(load_index(data, sources, folds), plan.size, out.parent / "cache")
    held, held_tumor = canvases(load_index(data, sources, [validation_fold]), plan.size, out.parent / "cache")
    if len(scans) < plan.batch or len(held) < 2:
        raise DataError(f"A generator needs {plan.batch} scans or more to train on; received {len(scans)}.")
    mean, deviation = float(scans.mean()), float(scans.std())
    described = {
        "plan": asdict(plan), "folds": list(folds), "validation_fold": validation_fold, "sources": list(sources),
        "seed": seed, "scans": len(scans), "mean": mean, "deviation": deviation,
    }  # fmt: skip
    run = out / "run.json"
    if run.is_file() and json.loads(run.read_text()) != json.loads(json.dumps(described)):
        raise ModelError(f"{out.name} holds a run of another plan or other data; name another folder with --out.")
    write(run, json.dumps(described, indent=1))
    model, averaged = _networks(plan, seed, precision)
    per_epoch = len(scans) // plan.batch
    warm = max(1, int(per_epoch * plan.epochs * plan.warmup))
    rate = keras.optimizers.schedules.CosineDecay(
        plan.learning_rate / 20, per_epoch * plan.epochs - warm, 0.05, warmup_target=plan.learning_rate, warmup_steps=warm
    )
    optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-4, clipnorm=1.0, use_ema=True, ema_momentum=plan.ema)
    optimizer.build(model.trainable_variables)
    # Compiling through XLA is slower than plain kernels on a CPU.
    model.compile(optimizer=optimizer, loss=velocity_loss, metrics=[noise_loss, image_loss], jit_compile=False)
    named = [("model", model.variables), ("averaged", averaged.variables), ("optimizer", optimizer.variables)]
    state = {f"{part}/{i}": v for part, variables in named for i, v in enumerate(variables)}
    done, history = _restore(state, out), out / "history.csv"
    rows = [r for r in _rows(history) if int(r[0]) <= done]
    features = Features()
    chosen = np.random.default_rng(0).permutation(len(held))[:CHECKS]
    real = features(held[chosen])
    pictures, checks = (scans - mean) / deviation, (held[chosen] - mean) / deviation
    for epoch in range(done, plan.epochs):
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(pictures))
        model.reset_metrics()
        losses: dict[str, float] = {}
        for step in range(per_epoch):
            picked = order[step * plan.batch : (step + 1) * plan.batch]
            clean = pictures[picked][..., None]
            clean = np.where(rng.random((len(clean), 1, 1, 1)) < 0.5, clean[:, :, ::-1], clean)
            losses = model.train_on_batch(*noised(clean, tumor[picked], rng), return_dict=True)
        _average(model, averaged)
        generator = Generator(averaged, mean, deviation, {})
        drawn = generator.sample(held_tumor[chosen], seed, CHECK_STEPS)
        values = (
            losses["noise_loss"], losses["image_loss"], *_errors(averaged, checks, held_tumor[chosen]),
            kernel_distance(real, features(drawn)),
        )  # fmt: skip
        rows.append([str(epoch + 1), str((epoch + 1) * per_epoch * plan.batch), *(f"{float(v):.5f}" for v in values)])
        write(history, "".join(",".join(r) + "\n" for r in [COLUMNS, *rows]))
        _save(state, out, epoch + 1)
        log.info("epoch %s: %s", rows[-1][0], ", ".join(f"{c} {v}" for c, v in zip(COLUMNS[1:], rows[-1][1:], strict=True)))
    return out / CHECKPOINT


def noised(clean: np.ndarray, tumor: np.ndarray, rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    """Add noise at random times: a batch for the network and what its losses compare with.

    Args:
        clean: float32 ``(N, size, size, 1)``, zero mean and unit deviation.
        tumor: bool ``(N,)``.
        rng: Source of chance.

    Returns:
        The network's inputs, and float32 ``(N, size, size, 3)``: velocity, signal rate, noise rate.
    """
    signal, noise = (r[:, None, None, None] for r in rates(rng.random(len(clean))))
    epsilon = rng.standard_normal(clean.shape, np.float32)
    velocity = signal * epsilon - noise * clean
    target = np.concatenate([velocity, *(np.broadcast_to(r, clean.shape) for r in (signal, noise))], axis=-1)
    kinds = np.eye(len(KINDS), dtype=np.float32)[np.asarray(tumor, int)]
    return [signal * clean + noise * epsilon, noise[:, 0, 0] ** 2, kinds], target


@keras.saving.register_keras_serializable("neurovision")
def velocity_loss(truth: Any, found: Any) -> Any:
    """Mean absolute error of the velocity, what is minimized."""
    return ops.mean(ops.abs(ops.subtract(truth[..., :1], found)))


@keras.saving.register_keras_serializable("neurovision")
def noise_loss(truth: Any, found: Any) -> Any:
    """Mean absolute error of the noise that the velocity stands for."""
    return ops.mean(ops.multiply(truth[..., 1:2], ops.abs(ops.subtract(truth[..., :1], found))))


@keras.saving.register_keras_serializable("neurovision")
def image_loss(truth: Any, found: Any) -> Any:
    """Mean absolute error of the picture that the velocity stands for, in deviations of the canvases."""
    return ops.mean(ops.multiply(truth[..., 2:], ops.abs(ops.subtract(truth[..., :1], found))))


def export(run: Path, folder: Path) -> Path:
    """Write a run's averaged weights as float16 with a manifest of their own: ``diffusion.safetensors`` and FILE.

    Args:
        run: Folder of :func:`train`; an unfinished run is exported as it stands.
        folder: The weights folder.

    Returns:
        The manifest's path.

    Raises:
        WeightsMissing: There is no checkpoint.
    """
    from safetensors.numpy import save

    if not (run / CHECKPOINT).is_file():
        raise WeightsMissing(f"{run.name} holds no checkpoint; train one with 'neurovision diffuse train'.")
    told = json.loads((run / "run.json").read_text())
    plan = _plan(told["plan"])
    _, averaged = _networks(plan, 0, "float32")
    epoch = _restore({f"averaged/{i}": v for i, v in enumerate(averaged.variables)}, run)
    data = save({variable_key(v): np.asarray(v, np.float32).astype(np.float16) for v in averaged.variables})
    folder.mkdir(parents=True, exist_ok=True)
    file = "diffusion.safetensors"
    write(folder / file, data)
    last = next(r for r in _rows(run / "history.csv") if int(r[0]) == epoch)
    sources = sorted(told["sources"])
    manifest = {
        "file": file,
        "sha256": hashlib.sha256(data).hexdigest(),
        "plan": asdict(plan),
        "mean": told["mean"],
        "deviation": told["deviation"],
        "parameters": int(averaged.count_params()),
        "training": {
            "date": datetime.date.today().isoformat(),
            "sources": sources,
            "folds": told["folds"],
            "validation_fold": told["validation_fold"],
            "scans": told["scans"],
            "license": "CC BY-NC-SA 4.0" if "lgg" in sources else "CC BY 4.0",
            **dict(zip(COLUMNS, (float(v) if "." in v else int(v) for v in last), strict=True)),
        },
    }
    write(folder / FILE, json.dumps(manifest, indent=1) + "\n")
    return folder / FILE


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
        told = json.loads(path.read_bytes())
        file, sha256, plan = str(told["file"]), str(told["sha256"]), _plan(told["plan"])
        mean, deviation = float(told["mean"]), float(told["deviation"])
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
    return Generator(model, mean, deviation, told)


def canvases(items: Sequence[Item], size: int, cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Canvases, float32 ``(N, size, size)`` in [0, 1] with air 0, and whether each shows a tumor, bool ``(N,)``."""
    pixels, _ = pack(items, size, cache)
    return np.array(pixels), np.array([i.tumor for i in items])


def _networks(plan: Plan, seed: int, precision: str) -> tuple[keras.Model, keras.Model]:
    """The network to train and the one that holds its averaged weights, alike at the start."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        model, averaged = network(plan), network(plan)
    finally:
        keras.config.set_dtype_policy(policy)
    averaged.set_weights(model.get_weights())
    return model, averaged


def _average(model: keras.Model, averaged: keras.Model) -> None:
    """Copy the optimizer's averages of the weights to ``averaged``; ``model`` keeps its own."""
    current = model.get_weights()
    assert model.optimizer is not None
    model.optimizer.finalize_variable_values(model.trainable_variables)
    averaged.set_weights(model.get_weights())
    model.set_weights(current)


def _errors(model: keras.Model, checks: np.ndarray, tumor: np.ndarray) -> tuple[float, float]:
    """Noise and image loss on held-out canvases, the same noise each time."""
    inputs, target = noised(checks[..., None], tumor, np.random.default_rng(0))
    error = np.abs(np.asarray(model.predict(inputs, batch_size=64, verbose=0), np.float32) - target[..., :1])
    return float((error * target[..., 1:2]).mean()), float((error * target[..., 2:]).mean())


def _plan(told: dict[str, Any]) -> Plan:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items()}
    return Plan(**values)


def _save(state: dict[str, Any], out: Path, epoch: int) -> None:
    from safetensors.numpy import save

    tensors = {k: np.array(ops.convert_to_numpy(v), order="C") for k, v in state.items()}
    write(out / CHECKPOINT, save({**tensors, "epoch": np.array(epoch)}))


def _restore(state: dict[str, Any], out: Path) -> int:
    """Fill the variables from the checkpoint; the epochs done, 0 without one."""
    from safetensors.numpy import load as load_tensors

    if not (out / CHECKPOINT).is_file():
        return 0
    tensors = load_tensors((out / CHECKPOINT).read_bytes())
    for key, variable in state.items():
        variable.assign(tensors[key])
    return int(tensors["epoch"])


def _rows(history: Path) -> list[list[str]]:
    if not history.is_file():
        return []
    with history.open(newline="") as file:
        return list(csv.reader(file))[1:]
