"""The one loop that fits a network, for segmenters, classifiers and the trials of ``reproduce``; it resumes exactly.

A run that was interrupted and resumed ends with the weights of one that was not: the optimizer, dropout's chance, the
epoch that batches are drawn for, and what early stopping and the plateau schedule remember are kept after every epoch.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from neurovision.errors import DataError, ModelError
from neurovision.files import replacing, write
from neurovision.machine import accelerator, cores

log = logging.getLogger(__name__)

OPTIMIZERS = ("adam", "rmsprop", "sgd")
DECAY_STEPS = 1000  # of every exponential decay in the documents
PLATEAU_FACTOR, PLATEAU_DELTA = 0.1, 1e-4
START, FLOOR = 0.05, 0.01  # of the peak rate, where warm-up begins and where the cosine ends
KEEP = 60.0  # seconds between two states that are kept of a training by the clock
ENDLESS = 10**9  # epochs, where a time budget ends them
NONE = "NA"  # in HISTORY, as Keras writes it: not measured
RUN, HISTORY = "run.json", "history.csv"


@dataclass(frozen=True)
class Plan:
    """One stretch of training.

    Attributes:
        epochs: At most this many; not read where ``seconds`` is given.
        learning_rate: At the start; with ``"cosine"`` the peak.
        schedule: ``"constant"``, ``"cosine"`` (warm-up, then to FLOOR) or ``"exponential"``.
        warmup: Part of the steps that the rate rises, with ``"cosine"``.
        decay: Factor of the rate every DECAY_STEPS steps, with ``"exponential"``.
        optimizer: One of OPTIMIZERS.
        weight_decay: Decoupled, as in AdamW; 0 is plain Adam.
        clip: Largest norm of a gradient; None for any.
        watched: What early stopping watches; a name that ends in ``auc`` is better when larger, any other when smaller.
        patience: Epochs without a better value after which training stops and the best epoch's weights come back.
        plateau: Epochs without a better validation loss after which the rate is divided by ten; None for never.
        validation_batch: Scans a validation step.
        seconds: A time budget in the place of ``epochs``: the rate follows the elapsed share of it, always as with
            ``"cosine"``, training stops at its end, in the midst of an epoch if need be, and nothing is spent on
            validation. Interrupted calls count up to the last state that they kept.
    """

    epochs: int
    learning_rate: float
    schedule: str = "constant"
    warmup: float = 0.0
    decay: float = 1.0
    optimizer: str = "adam"
    weight_decay: float = 0.0
    clip: float | None = None
    watched: str = "val_loss"
    patience: int | None = None
    plateau: int | None = None
    validation_batch: int = 32
    seconds: float | None = None

    def rate_at(self, share: float) -> float:
        """The learning rate when a share of the time budget has passed."""
        if share < self.warmup:
            return self.learning_rate * (START + (1 - START) * share / self.warmup)
        past = min(1.0, (share - self.warmup) / (1 - self.warmup))
        return self.learning_rate * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * past)) / 2)

    def rate(self, steps: int) -> Any:
        """The learning rate or its schedule, over so many steps."""
        if self.seconds is not None:
            return self.learning_rate * START  # until the clock runs
        if self.schedule == "cosine":
            warm = max(1, int(steps * self.warmup))
            return keras.optimizers.schedules.CosineDecay(
                self.learning_rate * START, steps - warm, alpha=FLOOR, warmup_target=self.learning_rate, warmup_steps=warm
            )
        if self.schedule == "exponential":
            return keras.optimizers.schedules.ExponentialDecay(self.learning_rate, DECAY_STEPS, self.decay)
        return self.learning_rate

    def built_optimizer(self, steps: int) -> keras.optimizers.Optimizer:
        """The optimizer for so many steps.

        Raises:
            ModelError: Its name is none of OPTIMIZERS.
        """
        kinds = {"adam": keras.optimizers.AdamW, "rmsprop": keras.optimizers.RMSprop, "sgd": keras.optimizers.SGD}
        if self.optimizer not in kinds:
            raise ModelError(f"An optimizer is one of {', '.join(OPTIMIZERS)}; received {self.optimizer!r}.")
        built = kinds[self.optimizer](self.rate(steps), weight_decay=self.weight_decay, clipnorm=self.clip)
        if self.clip and keras.backend.backend() == "torch":  # Keras clips hundreds of gradients one by one
            setattr(built, "_clip_gradients", partial(_clipped, self.clip))  # noqa: B010 - see fused_operations
        return built


@dataclass(frozen=True)
class Fitted:
    """What a training came to, interrupted calls included.

    Attributes:
        epochs: Begun.
        steps: Batches shown.
        seconds: That it took.
    """

    epochs: int
    steps: int
    seconds: float


class Drawn(Protocol):
    """Batches that depend on nothing but their index and ``epoch``, which is set before each epoch begins."""

    epoch: int

    def __len__(self) -> int: ...


def fit(
    model: keras.Model,
    batches: Any,
    validation: tuple[np.ndarray, np.ndarray] | None,
    plan: Plan,
    loss: Any,
    metrics: Sequence[Any] = (),
    folder: Path | None = None,
    class_weight: dict[int, float] | None = None,
    verbose: int = 0,
) -> Fitted:
    """Train a built network in place.

    Args:
        model: What is trained; layers are frozen before.
        batches: A ``PyDataset`` that is :class:`Drawn`.
        validation: Inputs and targets that are only measured on; not looked at by the clock.
        plan: How.
        loss: Of Keras.
        metrics: Of Keras.
        folder: Where HISTORY and the state of every epoch are kept, for a later call to resume from; None keeps none.
        class_weight: Weight of each class in the loss.
        verbose: Keras' verbosity; by the clock a line an epoch is logged.

    """
    model.compile(optimizer=plan.built_optimizer(len(batches) * plan.epochs), loss=loss, metrics=list(metrics))
    keeper = _Keeper(batches, plan, folder)
    callbacks: list[Any] = [keras.callbacks.TerminateOnNaN()]
    if folder is not None:
        keeper.restore(model)
        callbacks.append(keras.callbacks.CSVLogger(str(folder / HISTORY), append=True))
    if plan.patience is not None:
        keeper.early = keras.callbacks.EarlyStopping(
            plan.watched, mode=_mode(plan.watched), patience=plan.patience, restore_best_weights=True
        )
        callbacks.append(keeper.early)
    if plan.plateau is not None:
        keeper.plateau = keras.callbacks.ReduceLROnPlateau(
            "val_loss", factor=PLATEAU_FACTOR, patience=plan.plateau, min_delta=PLATEAU_DELTA
        )
        callbacks.append(keeper.plateau)
    if keeper.stopped():
        if keeper.best_weights is not None:
            model.set_weights(keeper.best_weights)
        return keeper.fitted
    with fused_operations():
        model.fit(  # Keras would shuffle the batches, which are drawn at random already, by a state that is not kept
            _drawn_ahead(batches), shuffle=False, initial_epoch=keeper.epoch,
            epochs=plan.epochs if plan.seconds is None else ENDLESS,
            validation_data=validation if plan.seconds is None else None, validation_batch_size=plan.validation_batch,
            class_weight=class_weight, callbacks=[*callbacks, keeper], verbose=verbose if plan.seconds is None else 0,
        )  # fmt: skip
    return keeper.fitted


def _mode(watched: str) -> str:
    return "max" if watched.endswith("auc") else "min"


class _Keeper(keras.callbacks.Callback):
    """Tells batches their epoch, watches the clock, keeps and restores what an interrupted call needs; the last callback.

    Keras' own writes in place, where a run that is killed meanwhile could never resume, and forgets what the other
    callbacks remember.
    """

    def __init__(self, batches: Any, plan: Plan, folder: Path | None) -> None:
        super().__init__()
        self.batches, self.plan, self.folder = batches, plan, folder
        self.early: Any = None
        self.plateau: Any = None
        self.epoch, self.steps, self.seconds, self.best_weights = 0, 0, 0.0, None
        self._began: float | None = None  # seconds at the end of the first step, which compiles
        self._rate, self._kept = math.nan, -math.inf
        self._since = time.perf_counter()
        self._watched: list[float] = []  # of the epochs before
        self._losses: list[float] = []

    @property
    def fitted(self) -> Fitted:
        """What there is so far."""
        return Fitted(self.epoch, self.steps, self.seconds)

    @property
    def _elapsed(self) -> float:
        return self.seconds + time.perf_counter() - self._since

    @property
    def _latest(self) -> Path:
        assert self.folder is not None
        return self.folder / "backup" / "latest.weights.h5"

    @property
    def _state(self) -> Path:
        return self._latest.with_name("training_metadata.json")

    @property
    def _best(self) -> Path:
        assert self.folder is not None
        return self.folder / "best.weights.h5"

    def restore(self, model: keras.Model) -> None:
        """Put the model where an interrupted call left it."""
        assert self.folder is not None
        self._latest.parent.mkdir(parents=True, exist_ok=True)
        if not self._state.is_file():
            (self.folder / HISTORY).unlink(missing_ok=True)
            return
        state = json.loads(self._state.read_text())
        self.epoch, self.seconds = int(state["epoch"]), float(state.get("seconds", 0.0))
        self.steps, self._began = int(state.get("steps", self.epoch * len(self.batches))), state.get("began")
        self._cut_history()
        assert model.optimizer is not None
        model.optimizer.build(model.trainable_variables)
        if self.plan.patience is not None and self._best.is_file():
            model.load_weights(self._best)
            self.best_weights = model.get_weights()
        model.load_weights(self._latest)
        for variable, value in zip(_chance(model), state.get("chance", []), strict=False):
            variable.assign(np.array(value))

    def _cut_history(self) -> None:
        """Read what was watched, and leave no row of an epoch whose weights were not kept."""
        assert self.folder is not None
        history = self.folder / HISTORY
        if not history.is_file():
            return
        lines = history.read_text().splitlines(keepends=True)[: self.epoch + 1]
        write(history, "".join(lines))
        rows = list(csv.DictReader(lines))
        self._watched, self._losses = (
            [float(r[key]) for r in rows if r.get(key, NONE) not in ("", NONE)] for key in (self.plan.watched, "val_loss")
        )

    def _best_epoch(self) -> int:
        signed = [-v for v in self._watched] if _mode(self.plan.watched) == "max" else self._watched
        return min(range(len(signed)), key=signed.__getitem__)

    def stopped(self) -> bool:
        """Whether an interrupted call had come to its end already."""
        if self.plan.seconds is not None:
            return self.seconds >= self.plan.seconds
        if self.epoch >= self.plan.epochs:
            return self.best_weights is not None
        return self.best_weights is not None and len(self._watched) - 1 - self._best_epoch() >= (self.plan.patience or 0)

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._since = time.perf_counter()
        if self.early is not None and self.best_weights is not None and self._watched:
            best = self._best_epoch()
            self.early.best, self.early.best_epoch = self._watched[best], best
            self.early.wait, self.early.best_weights = len(self._watched) - 1 - best, self.best_weights
        if self.plateau is not None:
            for value in self._losses:
                if self.plateau.best is None or value < self.plateau.best - PLATEAU_DELTA:
                    self.plateau.best, self.plateau.wait = value, 0
                else:
                    self.plateau.wait = (self.plateau.wait + 1) % (self.plan.plateau or 1)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.batches.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self.plan.seconds is None:
            return
        began = self._began or 0.0
        share = 0.0 if self._began is None else (self._elapsed - began) / max(self.plan.seconds - began, 1e-9)
        rate = self.plan.rate_at(share)
        if not abs(rate - self._rate) < self.plan.learning_rate / 100:
            if hasattr(self.model, "jax_state_sync"):  # JAX holds the optimizer's variables elsewhere during an epoch
                self.model.jax_state_sync()
            assert self.model is not None and self.model.optimizer is not None
            self.model.optimizer.learning_rate = self._rate = rate

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.steps += 1
        if self.plan.seconds is None:
            return
        elapsed = self._elapsed
        self._began = elapsed if self._began is None else self._began
        if elapsed >= self.plan.seconds:
            assert self.model is not None
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        now = time.perf_counter()
        self.epoch, self.seconds, self._since = epoch + 1, self.seconds + now - self._since, now
        ended = self.plan.seconds is None or self.seconds >= self.plan.seconds
        if self.plan.seconds is not None:
            told = ", ".join(f"{name} {float(value):.4f}" for name, value in (logs or {}).items())
            log.info("%.0f of %.0f s, %d steps: %s", self.seconds, self.plan.seconds, self.steps, told)
        if self.folder is None or not (ended or self.seconds - self._kept >= KEEP):
            return
        self._kept = self.seconds
        assert self.model is not None
        value = float((logs or {}).get(self.plan.watched, math.nan))
        self._watched.append(value)
        if self.plan.patience is not None and self._best_epoch() == len(self._watched) - 1:
            save_weights(self.model, self._best)
        save_weights(self.model, self._latest)
        chance = [np.asarray(v).tolist() for v in _chance(self.model)]
        state = {"epoch": self.epoch, "steps": self.steps, "seconds": round(self.seconds, 3), "began": self._began}
        write(self._state, json.dumps({**state, "chance": chance}))


def _chance(model: keras.Model) -> list[Any]:
    """The states that dropout draws from, which Keras leaves out of a file of weights."""
    return [v for v in model.variables if "seed_generator_state" in v.path]


def save_weights(model: keras.Model, path: Path) -> None:
    """Write atomically: a run that is killed leaves no half file that a resumed run would read."""
    with replacing(path) as part:
        model.save_weights(part)


def open_run(out: Path, wanted: dict[str, Any], finished: bool) -> None:
    """Write ``run.json``, or check that an earlier call was asked for the same.

    Phases that have not begun may differ: what is recorded is then what is trained.

    Args:
        out: The run's folder.
        wanted: What the run is asked for, as JSON holds it.
        finished: Whether the folder holds a finished run.

    Raises:
        DataError: The folder holds a run with other options.
    """
    out.mkdir(parents=True, exist_ok=True)
    path, wanted = out / RUN, json.loads(json.dumps(wanted))
    if path.is_file():
        before = json.loads(path.read_text())
        begun = None if finished else _begun(out)
        if other := _differing(before, wanted, begun):
            state = "finished" if finished else "begun"
            raise DataError(
                f"{out.name} was {state} with another {', another '.join(other)}; name another folder with --runs, or "
                f"remove {out.name} to train it anew."
            )
        wanted = {**before, **wanted}
    if not finished:
        write(path, json.dumps(wanted, indent=1))


def record(out: Path, **facts: Any) -> None:
    """Add to ``run.json`` what the finished run came to."""
    described = json.loads((out / RUN).read_text())
    write(out / RUN, json.dumps({**described, "facts": facts}, indent=1))


def _begun(out: Path) -> int:
    """How many phases an unfinished run has begun."""
    begun = [p.name.removeprefix("phase").split(".")[0] for p in out.glob("phase*")]
    return 1 + max((int(n) for n in begun if n.isdigit()), default=-1)


def _differing(before: dict[str, Any], wanted: dict[str, Any], begun: int | None) -> list[str]:
    """Names of options that differ; those that an older version did not record are passed over."""
    found = []
    for key in wanted:
        if key == "recipe":
            old, new = (dict(d["recipe"]) for d in (before, wanted))
            phases = [[_said(p) for p in (r.pop("phases", None) or [])[:begun]] for r in (old, new)]
            if phases[0] != phases[1] or any(old[k] != v for k, v in new.items() if k in old):
                found.append("recipe")
        elif key == "refit_folds":
            continue  # follows from folds and recipe
        elif key in before and before[key] != wanted[key]:
            found.append(key.replace("_", " "))
    return found


def _said(phase: dict[str, Any]) -> dict[str, Any]:
    """A phase without what it leaves to the recipe, which an older version did not record."""
    return {k: v for k, v in phase.items() if v is not None}


def _drawn_ahead(batches: Any) -> Any:
    """The same batches; beside PyTorch on a GPU, drawn by processes while the network, which Python drives, is trained."""
    if keras.backend.backend() != "torch" or accelerator() is None:
        return batches
    import torch

    torch.backends.cudnn.benchmark = True
    placed: Any = _Placed(batches)  # PyTorch's types ask for its own Dataset
    return torch.utils.data.DataLoader(
        placed, batch_size=None, sampler=_Places(batches), num_workers=max(1, cores() - 1), prefetch_factor=4,
        persistent_workers=True, worker_init_fn=_alone,
    )  # fmt: skip


@dataclass(frozen=True)
class _Places:
    """Epoch and index of the batches to draw, for PyTorch's loader."""

    batches: Any

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.batches.epoch, index) for index in range(len(self.batches)))


@dataclass(frozen=True)
class _Placed:
    """Batches by _Places: a process that draws does not learn of a new epoch otherwise."""

    batches: Any

    def __getitem__(self, place: tuple[int, int]) -> Any:
        self.batches.epoch, index = place
        return self.batches[index]


def _alone(worker: int) -> None:
    """OpenCV's threads do not survive in a process that was forked."""
    import cv2

    cv2.setNumThreads(0)


def _clipped(largest: float, gradients: list[Any]) -> list[Any]:
    """PyTorch's gradients, each of at most this norm, as ``clipnorm`` of Keras."""
    import torch

    norms = torch.stack(torch._foreach_norm(gradients))
    return list(torch._foreach_mul(gradients, list((largest / norms.clamp(min=largest)).unbind())))


@contextmanager
def fused_operations() -> Iterator[None]:
    """Train batch normalization with TensorFlow's or PyTorch's one fused operation; JAX fuses by itself.

    Keras writes it out as a dozen elementary operations, which is a quarter of a training step on a CPU. The numbers
    are the same, but for the running variance, which the fused operation takes without bias: N / (N - 1) of Keras'.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        yield
        return
    normalize = _normalized_by_tensorflow if backend == "tensorflow" else _normalized_by_torch
    plain = keras.layers.BatchNormalization.call

    def call(self: Any, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        fused = training and self.trainable and len(inputs.shape) == 4 and (backend == "torch" or inputs.dtype == "float32")
        return normalize(self, inputs) if fused else plain(self, inputs, training=training, mask=mask)

    setattr(keras.layers.BatchNormalization, "call", call)  # noqa: B010 - a method cannot be assigned to otherwise
    try:
        yield
    finally:
        setattr(keras.layers.BatchNormalization, "call", plain)  # noqa: B010


def _normalized_by_tensorflow(layer: Any, inputs: Any) -> Any:
    import tensorflow as tf

    empty = tf.zeros([0])
    normalized, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=inputs, scale=layer.gamma, offset=layer.beta, mean=empty, variance=empty, epsilon=layer.epsilon
    )
    for running, now in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        running.assign(running * layer.momentum + now * (1 - layer.momentum))
    return normalized


def _normalized_by_torch(layer: Any, inputs: Any) -> Any:
    import torch

    normalized = torch.nn.functional.batch_norm(
        inputs.permute(0, 3, 1, 2), layer.moving_mean.value, layer.moving_variance.value, layer.gamma.value,
        layer.beta.value, training=True, momentum=1 - layer.momentum, eps=layer.epsilon,
    )  # fmt: skip
    return normalized.permute(0, 2, 3, 1)
