"""Random and grid search over the source document's planned space, one classifier's head over a frozen encoder."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurovision.errors import DataError, ModelError
from neurovision.training.fit_classifier import (
    LOSSES,
    ClassifierRecipe,
    Labeled,
    Stage,
    fit_stages,
)
from neurovision.training.trainer import OPTIMIZERS

if TYPE_CHECKING:
    import optuna

RATES = (1e-5, 1e-2)  # drawn evenly on a logarithmic scale; the grid takes the powers of ten between
SPACE: dict[str, tuple[Any, ...]] = {
    "optimizer": OPTIMIZERS,
    "dropout": (0.2, 0.3, 0.4, 0.5),
    "dense": (128, 256, 512),
    "batch": (16, 32, 64),
    "loss": LOSSES,
}
GRID: dict[str, tuple[Any, ...]] = {"rate": (1e-5, 1e-4, 1e-3, 1e-2), **SPACE}
COLUMNS = ("trial", "auc", "accuracy", "seconds", *GRID)
Ask = Callable[[dict[str, Any]], dict[str, float]]


def search(
    ask: Ask, out: Path, how: str = "random", trials: int = 20, seed: int = 1, settings: dict[str, Any] | None = None
) -> Path:
    """Try settings until there are ``trials`` of them, counting those of an earlier call; then write the tables.

    Args:
        ask: Takes one setting (the keys of GRID), returns at least ``"auc"``, which is maximized.
        out: Folder of the log, ``search.log``, and of ``search.csv`` and ``search.md``.
        how: ``"random"`` or ``"grid"``; the grid has 1,296 points and is walked in random order.
        trials: How many settings in all.
        seed: Of the order.
        settings: What else a trial depends on; a folder keeps to those of its first call.

    Returns:
        ``out / "search.md"``, best first.

    Raises:
        ModelError: Another kind of search, other settings than the folder's, or optuna is not installed.
    """
    if how not in ("random", "grid"):
        raise ModelError(f"A search is 'random' or 'grid'; received {how!r}.")
    try:
        import optuna
    except ImportError as e:
        raise ModelError("A search needs optuna; install it with: pip install 'neurovision[search]'.") from e
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    out.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(out / "search.log")))
    study = optuna.create_study(storage=storage, study_name="search", direction="maximize", load_if_exists=True)
    asked = {"how": how, **(settings or {})}
    if study.user_attrs.setdefault("settings", asked) != asked:
        raise ModelError("This folder holds a search with other settings; give another folder.")
    study.set_user_attr("settings", asked)
    done = len(_complete(study))
    # A fresh random sampler would draw the same settings again: its seed counts on with the trials.
    study.sampler = (
        optuna.samplers.GridSampler({k: list(v) for k, v in GRID.items()}, seed=seed)
        if how == "grid"
        else optuna.samplers.RandomSampler(seed + 1000 * len(study.trials))
    )
    if done < trials:
        study.optimize(lambda trial: _one(trial, ask, how), n_trials=trials - done)
    return _write(_complete(study), out)


def _complete(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    import optuna

    return study.get_trials(states=[optuna.trial.TrialState.COMPLETE])


def _one(trial: optuna.Trial, ask: Ask, how: str) -> float:
    low, high = RATES
    rate = trial.suggest_float("rate", low, high, log=True) if how == "random" else _choice(trial, "rate")
    chosen = {"rate": rate, **{name: _choice(trial, name) for name in SPACE}}
    started = time.perf_counter()
    scores = ask(chosen)
    trial.set_user_attr("seconds", round(time.perf_counter() - started, 1))
    for name, value in scores.items():
        trial.set_user_attr(name, value)
    return scores["auc"]


def _choice(trial: optuna.Trial, name: str) -> Any:
    return trial.suggest_categorical(name, GRID[name])


def _write(trials: Sequence[optuna.trial.FrozenTrial], out: Path) -> Path:
    best_first = sorted(trials, key=lambda t: -float(t.value or 0))
    rows = [{"trial": t.number, "auc": t.value, **t.user_attrs, **t.params} for t in best_first]
    with (out / "search.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    lines = ["| " + " | ".join(COLUMNS) + " |", "| " + " | ".join("---" for _ in COLUMNS) + " |"]
    lines += ["| " + " | ".join(_cell(r.get(c, "")) for c in COLUMNS) + " |" for r in rows]
    (out / "search.md").write_text("\n".join(lines) + "\n")
    return out / "search.md"


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def classifier_trial(training: Labeled, validation: Labeled, epochs: int, encoder: str, weights: str | None) -> Ask:
    """A trial: the first ResNet50's head over a frozen encoder, scored on the validation scans.

    Args:
        training: What it learns from.
        validation: What early stopping looks at and the score is taken of, so a table's best is optimistic.
        epochs: At most.
        encoder: A name in ``classifiers._blocks.ENCODERS``.
        weights: ``"imagenet"`` or None.
    """
    import keras

    from neurovision.classifiers import build

    side = int(training.pixels.shape[1])
    if validation.pixels.shape[1] != side:
        raise DataError(f"Both parts need canvases of one size; received {side} and {validation.pixels.shape[1]}.")

    def ask(chosen: dict[str, Any]) -> dict[str, float]:
        from sklearn.metrics import accuracy_score, roc_auc_score

        keras.utils.set_random_seed(1)
        keras.utils.clear_session()
        model = build(
            "resnet50_v1", (side, side, 1), width=chosen["dense"], dropout=chosen["dropout"], encoder=encoder,
            encoder_weights=weights,
        )  # fmt: skip
        stages = (Stage(epochs, chosen["rate"]),)
        plan = ClassifierRecipe(
            "resnet50_v1", stages, chosen["batch"], optimizer=chosen["optimizer"], loss=chosen["loss"]
        )
        fit_stages(model, plan, training, validation)
        probability = np.asarray(model.predict(validation.canvases(), verbose=0))[:, 0]
        return {
            "auc": float(roc_auc_score(validation.tumor, probability)),
            "accuracy": float(accuracy_score(validation.tumor, probability >= 0.5)),
        }

    return ask
