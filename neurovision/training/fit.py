"""Train one network by its recipe, resumably."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import keras
import numpy as np

from neurovision.classes import BACKGROUND, FIRST_TUMOR, SHIPPED, Classes
from neurovision.classifiers import build as build_classifier
from neurovision.errors import DataError
from neurovision.files import replacing, write
from neurovision.machine import accelerator, cores
from neurovision.scan.phantom import KINDS, phantom
from neurovision.scan.prepare import label_grid, prepare, standardize
from neurovision.segmenters import build
from neurovision.training.accepted import accepted_items
from neurovision.training.augment import augment
from neurovision.training.dataset import ACCEPTED, LGG_CHANNELS, SOURCES, Item, classes_of, load_index, pack, sources_in
from neurovision.training.losses import AllowedCrossEntropy, CrossEntropyDice, TumorDice, allowed_accuracy
from neurovision.training.provenance import facts_of_network
from neurovision.training.recipes import Phase, Recipe
from neurovision.training.strange import like_ct, strange
from neurovision.training.trainer import HISTORY, NONE, RUN, Fitted, Plan, fit, open_run, record, save_weights

log = logging.getLogger(__name__)

GROUPS = (
    "figshare", "lgg_tumor", "lgg_tumor_t1", "lgg_tumor_t1c", "lgg_free", "brats_tumor", "brats_free", "ms", "healthy",
    "own_tumor", "own_free", "unmarked", "phantom", "strange",
)  # fmt: skip
PHANTOMS = 240
STRANGE = 1200
# Every so many scans stand on their head, are negatives, or are redrawn as CT among the strange pictures.
UPSIDE_DOWN, NEGATIVE, LIKE_CT = 3, 8, 8
OWN = (0.7, 0.3)  # of the scans from data sets of one's own: with a tumor, and without
FINAL = "final.weights.h5"
TOOK = "took.json"  # of a phase: scans shown and seconds
OUT_OF_FOLD = "out_of_fold.weights.h5"  # those before the phases that refit on the vote's fold


def without(runs: Path, fold: int) -> Path:
    """Folder of the runs whose networks left a fold out, on which the vote is fitted too when it is cross-fitted."""
    return runs / f"without-fold-{fold}"


def group_of(item: Item) -> str:
    """The group of GROUPS that an item is drawn from; ``unmarked`` ones, tumors without a mask, train no segmenter."""
    if item.source in ("figshare", ACCEPTED):
        return "figshare"
    if item.source == "lgg":
        if not item.tumor:
            return "lgg_free"
        return {"T1": "lgg_tumor_t1", "T1c": "lgg_tumor_t1c"}.get(item.sequence or "", "lgg_tumor")
    if item.source == "brats":
        return "brats_tumor" if item.tumor else "brats_free"
    if item.source == "ms":
        return "ms"
    if item.source not in SOURCES and (item.mask is not None or not item.tumor):
        return "own_tumor" if item.tumor else "own_free"
    return "unmarked" if item.tumor else "healthy"


def phantom_pack(size: int, classes: Classes) -> tuple[np.ndarray, np.ndarray]:
    """PHANTOMS procedural heads as canvases, of those kinds that are classes, and healthy ones.

    Seeds are from 1000 up, so that examples and tests use others.
    """
    return _phantoms(size, classes, PHANTOMS)


@lru_cache(maxsize=1)  # every phase of every network asks for them
def _phantoms(size: int, classes: Classes, count: int) -> tuple[np.ndarray, np.ndarray]:
    kinds = [kind for kind in KINDS if kind == "healthy" or kind in classes.by_key]

    def drawn(k: int) -> tuple[np.ndarray, np.ndarray]:
        kind = kinds[k % len(kinds)]
        study, truth = phantom(kind, 1000 + k, sequence="FLAIR" if k % 3 == 0 else "T1")
        canvas = prepare(study.gray(), size)
        return canvas.pixels, label_grid(canvas, truth >= FIRST_TUMOR, classes.index_of(kind))

    with ThreadPoolExecutor(cores()) as threads:
        pixels, labels = zip(*threads.map(drawn, range(count)), strict=True)
    return np.stack(pixels), np.stack(labels)


def allowed_types(labels: np.ndarray, group: str, count: int) -> np.ndarray:
    """What the whole-slice classifier may answer for a canvas.

    Args:
        labels: uint8 ``(size, size)`` of class indices, or ``count`` for a tumor of no stated class.
        group: One of GROUPS; ``unmarked`` allows every type.
        count: How many classes there are.

    Returns:
        float32 ``(count,)`` of 0 and 1: no tumor, each type, not a brain MRI.
    """
    answers = np.eye(count, dtype=np.float32)  # air and head are one answer, no tumor; the last is not a brain MRI
    if group == "unmarked" or labels.max(initial=0) == count:
        return answers[1:-1].sum(0)
    if group == "strange":
        return answers[-1]
    return answers[max(0, int(labels.max(initial=0)) - FIRST_TUMOR + 1)]


def strange_pack(size: int) -> tuple[np.ndarray, np.ndarray]:
    """STRANGE pictures of nothing as canvases, and empty labels."""
    rng = np.random.default_rng(2000)
    pixels = np.stack([prepare(strange(rng), size).pixels for _ in range(STRANGE)])
    return pixels, np.zeros(pixels.shape, np.uint8)


class Batches(keras.utils.PyDataset):
    """Batches of standardized canvases ``(B, size, size, 1)``, drawn by group, and what is to be learned of them.

    That is labels ``(B, size, size)`` where the recipe segments, and allowed answers ``(B, K)`` where it classifies.
    """

    def __init__(
        self,
        groups: dict[str, tuple[np.ndarray, np.ndarray]],
        recipe: Recipe,
        seed: int,
    ) -> None:
        super().__init__()
        mix = {**recipe.mix, "own_tumor": OWN[0] * recipe.own, "own_free": OWN[1] * recipe.own}
        self.groups = {g: a for g, a in groups.items() if len(a[0]) and mix.get(g, 0) > 0}
        share = np.array([mix[g] for g in self.groups])
        self.share = share / share.sum()
        self.recipe, self.seed, self.epoch = recipe, seed, 0
        # A CPU is busy with the network; beside PyTorch on a GPU, processes draw batches.
        threaded = accelerator() is not None and keras.backend.backend() != "torch"
        self._threads = ThreadPoolExecutor(max(1, cores() - 1)) if threaded else None

    def __len__(self) -> int:
        return max(1, self.recipe.epoch_scans // self.recipe.batch)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        names = list(self.groups)

        def drawn(place: int, which: int, k: int) -> tuple[np.ndarray, np.ndarray]:
            rng = np.random.default_rng([self.seed, self.epoch, index, place])
            pixels, labels = self.groups[names[which]]
            skull = not names[which].startswith("brats")
            x, y = augment(pixels[k], labels[k], rng, self.recipe.augment, self.recipe.randomize, skull, self.recipe.closer)
            if self.recipe.task == "type":
                y = allowed_types(labels[k], names[which], self.recipe.config["answers"])
            return standardize(x)[..., None], y

        chosen = [(place, which, k) for place, (which, k) in enumerate(self._chosen(self.epoch)[index])]
        of = map if self._threads is None else self._threads.map
        xs, ys = zip(*of(lambda one: drawn(*one), chosen), strict=True)
        return np.stack(xs), np.stack(ys)

    @lru_cache(maxsize=2)  # noqa: B019 - lives as long as one phase
    def _chosen(self, epoch: int) -> list[list[tuple[int, int]]]:
        """Group and number of each scan of each batch of an epoch, the same whether or not training was interrupted.

        Without replacement: every scan of a group comes up before one comes up again, from epoch to epoch.
        """
        sizes = [len(pixels) for pixels, _ in self.groups.values()]
        drawn = np.zeros(len(sizes), int)
        for earlier in range(epoch):
            drawn += np.bincount(self._groups_of(earlier).ravel(), minlength=len(sizes))
        decks: dict[tuple[int, int], np.ndarray] = {}
        found = []
        for batch in self._groups_of(epoch).tolist():
            row = []
            for which in batch:
                deal, place = divmod(int(drawn[which]), sizes[which])
                if (which, deal) not in decks:
                    decks[which, deal] = np.random.default_rng([self.seed, which, deal]).permutation(sizes[which])
                row.append((which, int(decks[which, deal][place])))
                drawn[which] += 1
            found.append(row)
        return found

    def _groups_of(self, epoch: int) -> np.ndarray:
        """The group of each scan of an epoch, ``(batches, B)``."""
        rng = np.random.default_rng([self.seed, epoch])
        return rng.choice(len(self.share), (len(self), self.recipe.batch), p=self.share)


def grouped(
    items: Sequence[Item], size: int, cache: Path, task: str, classes: Classes = SHIPPED
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Packed arrays of each group, drawn ones included; only the classifier learns from strange ones."""
    pixels, labels = pack(items, size, cache)
    names = np.array([group_of(i) for i in items])
    arrays = {g: (pixels[names == g], labels[names == g]) for g in GROUPS[:-2]}
    arrays["phantom"] = phantom_pack(size, classes)
    if task == "type":
        rng = np.random.default_rng(2001)
        heads = [(p, y != BACKGROUND.index) for p, y in zip(pixels[1::LIKE_CT], labels[1::LIKE_CT], strict=True)]
        ct = np.stack([like_ct(p, head, rng) for p, head in heads if head.any()])
        parts = [strange_pack(size)[0], pixels[::UPSIDE_DOWN, ::-1, ::-1], 1 - pixels[::NEGATIVE], ct]
        every = np.concatenate(parts)
        arrays["strange"] = (every, np.zeros(every.shape, np.uint8))
    return arrays


def train(
    recipe: Recipe,
    data: Path,
    folds: Sequence[int],
    validation_fold: int,
    out: Path,
    sources: Sequence[str] | None = None,
    seed: int = 1,
    verbose: int = 1,
    accepted: bool = False,
    start: Path | None = None,
) -> Path:
    """Train one network, or resume an interrupted run.

    Args:
        recipe: What to train and how.
        data: The prepared folder.
        folds: Folds that are trained on.
        validation_fold: A fold that only early stopping and the plateau schedule look at, until a phase refits: such
            a phase trains on it as well, and its validation figures then say nothing about unseen scans.
        out: Folder of this run; it may hold an earlier, unfinished one.
        sources: Data sets; None takes all that are there. Leaving LGG out keeps its non-commercial terms off the weights.
        seed: Of initialization and sampling.
        verbose: Keras' verbosity.
        accepted: Also train on masks that people accepted; nothing is measured on them.
        start: Folder of a finished run of the same network to go on from, with its weights of before it refitted.

    Returns:
        ``out / FINAL``, beside ``history.csv``, ``history.png``, ``run.json`` and, where a phase refits, OUT_OF_FOLD.

    Raises:
        DataError: The folds overlap, the data break a rule of :func:`load_index`, the folder holds a run with other
            options, or ``start`` no finished run of this network that saw nothing but what this one may see.
    """
    if validation_fold in folds:
        raise DataError(f"Fold {validation_fold} is trained on and cannot validate; choose another.")
    sources = sources_in(data) if sources is None else sources
    classes = classes_of(data, sources)
    recipe = recipe.learning(len(classes))
    final, refitted = out / FINAL, sorted([*folds, validation_fold])
    wanted: dict[str, Any] = {
        "recipe": asdict(recipe), "folds": list(folds), "validation_fold": validation_fold, "sources": list(sources),
        "seed": seed, "accepted": accepted, "classes": classes.to_json(), "from": None,
    }  # fmt: skip
    if any(p.refit for p in recipe.phases):
        wanted["refit_folds"] = refitted
    previous: Path | None = None
    before: tuple[int, float | None] = (0, 0.0)  # scans, and seconds: None where a phase does not say what it took
    if start is not None:
        previous, before = _start(start, json.loads(json.dumps(wanted)))
        digest = hashlib.sha256(previous.read_bytes()).hexdigest()
        wanted["from"] = {"sha256": digest, "scans_seen": before[0], "seconds": before[1]}
    open_run(out, wanted, final.is_file())
    if final.is_file():
        log.info("%s is finished already.", out)
        return final
    log.info("%s: seed %d, folds %s, data sets %s.", recipe.name, seed, list(folds), ", ".join(sources))
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "jax":  # the second phase need not compile again
        import jax

        jax.config.update("jax_compilation_cache_dir", str((out.parent / "cache" / "jax").resolve()))
    sequences = tuple(LGG_CHANNELS)
    items, more = (
        limited(load_index(data, sources, some, sequences), recipe.limit)
        + (accepted_items(data, some, classes) if accepted else [])
        for some in (folds, refitted)
    )
    checks = limited(load_index(data, sources, [validation_fold]), recipe.limit)
    if recipe.task == "segment":
        items, more = ([i for i in some if group_of(i) != "unmarked"] for some in (items, more))
        checks = [i for i in checks if i.mask is not None]
    checks = checks[::4]
    for number, phase in enumerate(recipe.phases):
        finished = out / f"phase{number}.weights.h5"
        if phase.refit and not recipe.phases[number - 1].refit:
            assert previous is not None
            _hand_out(previous, out / OUT_OF_FOLD)
        if not finished.is_file():
            earlier = previous if phase.start is None else out / f"phase{phase.start}.weights.h5"
            model = _phase_model(recipe, phase, earlier)
            groups = grouped(more if phase.refit else items, phase.size, out.parent / "cache", recipe.task, classes)
            timed = phase.seconds is not None
            validation = None if timed else _validation(checks, phase.size, out.parent / "cache", recipe.task)
            batches = Batches(groups, recipe.during(phase), seed + number)
            done = _fit(model, recipe, phase, batches, validation, out / f"phase{number}", verbose)
            save_weights(model, finished)
            write(out / f"phase{number}" / TOOK, json.dumps([done.steps * batches.recipe.batch, done.seconds]))
        previous = finished
    assert previous is not None
    seen, seconds = _shown(out, recipe.phases, recipe.epoch_scans, len(recipe.phases) - 1, before)
    _hand_out(previous, final)
    plot_history(out)
    scans = len({(i.source, i.id) for i in (more if "refit_folds" in wanted else items)})
    record(out, scans=scans, scans_seen=seen, **facts_of_network(seconds))
    if seconds is not None:
        log.info("%s: %d scans shown in %.1f minutes of training.", recipe.name, seen, seconds / 60)
    return final


def _start(run: Path, wanted: dict[str, Any]) -> tuple[Path, tuple[int, float | None]]:
    """Weights of a finished run, and the scans that it had been shown by then, with the seconds if known.

    It may have seen only what the new run, as RUN describes it, may see: the vote is fitted on other folds, and the terms
    of every data set stay on the weights.
    """
    weights = next((run / name for name in (OUT_OF_FOLD, FINAL) if (run / name).is_file()), None)
    if weights is None or not (run / RUN).is_file():
        raise DataError(f"{run} holds no finished run to go on from; it needs {RUN} and {OUT_OF_FOLD} or {FINAL}.")
    told = json.loads((run / RUN).read_text())
    for what in ("folds", "sources"):
        if not set(told[what]) <= set(wanted[what]):
            allowed = ", ".join(map(str, wanted[what]))
            raise DataError(f"{run} saw the {what} {', '.join(map(str, told[what]))}; this run is to see {allowed} only.")
    if told.get("accepted") and not wanted["accepted"]:
        raise DataError(f"{run} was trained on accepted masks too; this run needs --accepted as well.")
    config = [{k: v for k, v in r["recipe"]["config"].items() if k != "encoder_weights"} for r in (told, wanted)]
    if config[0] != config[1] or told.get("classes", wanted["classes"]) != wanted["classes"]:
        raise DataError(f"{run} is another network, or tells other classes apart; train this one without --from.")
    before = told.get("from") or {"scans_seen": 0, "seconds": 0.0}
    phases = [Phase(**p) for p in told["recipe"]["phases"]]
    last = max(number for number, phase in enumerate(phases) if not phase.refit)
    return weights, _shown(run, phases, told["recipe"]["epoch_scans"], last, (before["scans_seen"], before["seconds"]))


def _shown(
    run: Path, phases: Sequence[Phase], epoch_scans: int, last: int, before: tuple[int, float | None]
) -> tuple[int, float | None]:
    """Scans shown, and seconds, in a phase and in all those that it goes back to, on top of those ``before`` the run."""
    took = [before]
    number = last
    while number >= 0:
        took.append(_took(run / f"phase{number}", epoch_scans, phases[number]))
        start = phases[number].start
        number = number - 1 if start is None else start
    seconds = [s for _, s in took if s is not None]
    return sum(shown for shown, _ in took), sum(seconds) if len(seconds) == len(took) else None


def _took(folder: Path, epoch_scans: int, phase: Phase) -> tuple[int, float | None]:
    """Scans shown in a phase, and seconds; a phase that an older version trained ran all its epochs and kept no seconds."""
    if not (folder / TOOK).is_file():
        return phase.epochs * epoch_scans, None
    shown, took = json.loads((folder / TOOK).read_text())
    return int(shown), float(took)


def limited(items: Sequence[Item], limit: int | None) -> list[Item]:
    """At most about ``limit`` items of each data set, spread evenly; None keeps all."""
    if limit is None:
        return list(items)
    found = []
    for source in dict.fromkeys(i.source for i in items):
        group = [i for i in items if i.source == source]
        found += group[:: -(-len(group) // limit)]
    return found


def _phase_model(recipe: Recipe, phase: Phase, previous: Path | None) -> keras.Model:
    keras.utils.clear_session()  # layer names start anew: they are the keys of the weights file
    config = recipe.config if previous is None else {k: v for k, v in recipe.config.items() if k != "encoder_weights"}
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.dtype)
    try:
        model = (build if recipe.task == "segment" else build_classifier)(recipe.name, (phase.size, phase.size, 1), **config)
    finally:
        keras.config.set_dtype_policy(policy)
    if previous is not None:
        model.load_weights(previous)
    if phase.freeze:
        encoder = model.get_layer("encoder")
        for layer in [encoder] if phase.freeze == "encoder" else encoder.layers:
            layer.trainable = phase.freeze == "depthwise" and not isinstance(layer, keras.layers.DepthwiseConv2D)
    return model


def _hand_out(end: Path, path: Path) -> None:
    """Write a phase's last weights without the optimizer's state, which is two thirds of the file."""
    import h5py

    with replacing(path) as part, h5py.File(end) as whole, h5py.File(part, "w") as kept:
        kept.attrs.update(whole.attrs)
        for name in whole.keys() - {"optimizer"}:
            whole.copy(name, kept)


def _validation(items: list[Item], size: int, cache: Path, task: str) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = pack(items, size, cache)
    if task == "type":
        labels = np.stack([allowed_types(y, group_of(i), len(i.classes)) for y, i in zip(labels, items, strict=True)])
    return np.stack([standardize(p) for p in pixels])[..., None], np.asarray(labels)


def _fit(
    model: keras.Model,
    recipe: Recipe,
    phase: Phase,
    batches: Batches,
    validation: tuple[np.ndarray, np.ndarray] | None,
    folder: Path,
    verbose: int,
) -> Fitted:
    common: dict[str, Any] = {"weight_decay": recipe.weight_decay, "clip": 1.0, "seconds": phase.seconds}
    plan = (
        Plan(phase.epochs, phase.learning_rate, "cosine", recipe.warmup, **common)
        if recipe.schedule == "cosine"
        else Plan(phase.epochs, phase.learning_rate, patience=20, plateau=5, **common)
    )
    segments = recipe.task == "segment"
    loss = CrossEntropyDice(recipe.class_weights, recipe.dice, recipe.kind) if segments else AllowedCrossEntropy()
    metrics = [TumorDice() if segments else allowed_accuracy]
    return fit(model, batches, validation, plan, loss, metrics, folder, verbose=verbose)


def plot_history(out: Path) -> None:
    """Join the phases' histories, and draw loss and score into ``history.png`` where matplotlib is installed."""
    rows: list[dict[str, str]] = []
    for file in sorted(out.glob(f"phase*/{HISTORY}")):
        with file.open(newline="") as lines:
            rows += csv.DictReader(lines)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(out / HISTORY) as part, part.open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerows([["step", *names], *([k, *(row.get(n, "") for n in names)] for k, row in enumerate(rows))])
    try:
        import matplotlib
    except ModuleNotFoundError:
        log.info("%s: no plot of its history without matplotlib.", out.name)
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    history = {name: [float(row.get(name, NONE).replace(NONE, "nan")) for row in rows] for name in names}
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    score = "tumor_dice" if "tumor_dice" in history else "allowed_accuracy"
    for axis, key in zip(axes, ("loss", score), strict=True):
        axis.plot(history[key], label="training")
        if not np.isnan(history[f"val_{key}"]).all():  # training by the clock does not validate
            axis.plot(history[f"val_{key}"], label="validation")
        axis.set(xlabel="epoch", ylabel=key.replace("_", " "))
        axis.legend()
    figure.savefig(out / "history.png", dpi=110)
    plt.close(figure)
