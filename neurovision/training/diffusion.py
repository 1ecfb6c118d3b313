"""Train the diffusion model of head slices; see ``aids.sampling`` for the network and how pictures are drawn."""

from __future__ import annotations

import csv
import datetime
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from neurovision.aids.sampling import FILE, KINDS, Generator, Plan, network, plan_of, rates
from neurovision.ensemble.engine import variable_key
from neurovision.errors import DataError, ModelError, WeightsMissing
from neurovision.files import write
from neurovision.training.dataset import SOURCES, Item, load_index, pack
from neurovision.training.kid import Features, kernel_distance

log = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
COLUMNS = ("epoch", "scans_seen", "noise_loss", "image_loss", "val_noise_loss", "val_image_loss", "kid")
CHECKS = 96  # pictures that the distance after each epoch is estimated on
CHECK_STEPS = 5


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
    described = json.loads((run / "run.json").read_text())
    plan = plan_of(described["plan"])
    _, averaged = _networks(plan, 0, "float32")
    epoch = _restore({f"averaged/{i}": v for i, v in enumerate(averaged.variables)}, run)
    data = save({variable_key(v): np.asarray(v, np.float32).astype(np.float16) for v in averaged.variables})
    folder.mkdir(parents=True, exist_ok=True)
    file = "diffusion.safetensors"
    write(folder / file, data)
    last = next(r for r in _rows(run / "history.csv") if int(r[0]) == epoch)
    sources = sorted(described["sources"])
    manifest = {
        "file": file,
        "sha256": hashlib.sha256(data).hexdigest(),
        "plan": asdict(plan),
        "mean": described["mean"],
        "deviation": described["deviation"],
        "parameters": int(averaged.count_params()),
        "training": {
            "date": datetime.date.today().isoformat(),
            "sources": sources,
            "folds": described["folds"],
            "validation_fold": described["validation_fold"],
            "scans": described["scans"],
            "license": "CC BY-NC-SA 4.0" if "lgg" in sources else "CC BY 4.0",
            **dict(zip(COLUMNS, (float(v) if "." in v else int(v) for v in last), strict=True)),
        },
    }
    write(folder / FILE, json.dumps(manifest, indent=1) + "\n")
    return folder / FILE


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
