"""One file a shipped network: everything that its training needs to be repeated."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from neurovision.classes import FIRST_TUMOR, SHIPPED

CLASSIFIER = "efficientnetlite0"  # the whole-slice classifier of the ensemble
REFIT = 0.3  # of a network's time by the clock goes to what also trains on the vote's fold
EPOCH_STEPS = 100  # at least, of an epoch by the clock; one takes seconds on a GPU, and nothing is validated after it
MILD = 0.25  # of the time with and of the time without that fold goes to a mild end, where the recipe has one
MILD_RATE = 0.4  # of the rate before
WARMUP = 0.05  # of a time budget
PRETRAINED = ("linknet", "unet_efficientnet", "deeplabv3plus")  # segmenters with an ImageNet encoder


@dataclass(frozen=True)
class Phase:
    """A stretch of training at one size.

    Attributes:
        size: Side of the canvas in pixels.
        epochs: At most this many; 0 where ``seconds`` is given.
        learning_rate: Peak of Adam's rate.
        freeze: What stays as it is: ``"encoder"``, so that only the decoder is trained; ``"depthwise"``, the
            encoder's depthwise kernels, whose gradient is a fifth of a step's time on a CPU and which need the least
            change; or nothing.
        batch: Scans a step, where it is not the recipe's.
        refit: Trained on the vote's fold too. The vote is fitted on what the weights before such phases say of that
            fold, which they have not seen; what is shipped has then learned from it as well.
        seconds: A time budget in the place of ``epochs``; see ``trainer.Plan``.
        augment: Strength of augmentation, where it is not the recipe's: a mild last stretch learns scans as they come.
        randomize: Likewise, of the recipe's ``randomize``.
        closer: Likewise, of the recipe's ``closer``.
        start: Number of the phase from whose end it goes on; the one before by default.
    """

    size: int
    epochs: int
    learning_rate: float = 1e-4
    freeze: Literal["", "encoder", "depthwise"] = ""
    batch: int | None = None
    refit: bool = False
    seconds: float | None = None
    augment: float | None = None
    randomize: float | None = None
    closer: float | None = None
    start: int | None = None


@dataclass(frozen=True)
class Recipe:
    """How one network is trained.

    Attributes:
        name: The segmenter, or the classifier.
        config: Arguments of its builder, besides the input's shape.
        phases: Run in order, each from the weights of the one before.
        batch: Scans a step.
        epoch_scans: Scans an epoch, drawn anew each time according to ``mix``.
        mix: Share of each group of scans in an epoch; see ``fit.GROUPS``.
        own: Share of scans from data sets of one's own, on the scale of ``mix``.
        schedule: ``"cosine"`` (warm-up, then to zero) or ``"plateau"`` (constant, times 0.1 after 5 epochs
            without a better validation loss).
        warmup: Part of a phase's steps that the rate rises, with ``"cosine"``.
        weight_decay: Of AdamW; 0 is Adam.
        class_weights: Of the cross-entropy; every tumor's is the same.
        dice: Weight of the Dice term.
        kind: Weight of the type's term; see ``losses.CrossEntropyDice``.
        augment: Strength of augmentation.
        randomize: Share of scans whose contrast is redrawn and whose skull may be taken off; see ``augment``.
        closer: Share of scans that are shown closer, see ``augment``.
        task: ``"segment"``, or ``"type"``: which tumor the whole slice shows, if any.
        limit: At most about so many scans of each data set; None takes all.
        trial: Shortened by a caller: what it trains never takes the place of whole weights.
        dtype: ``"float32"``, or ``"mixed_bfloat16"``: layers compute in bfloat16, weights are kept in float32.
    """

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    phases: tuple[Phase, ...] = (Phase(224, 160),)
    batch: int = 16
    epoch_scans: int = 2200
    mix: dict[str, float] = field(
        default_factory=lambda: {
            "figshare": 0.42,
            "lgg_tumor": 0.19,
            "lgg_tumor_t1": 0.02,
            "lgg_tumor_t1c": 0.04,
            "lgg_free": 0.10,
            "brats_tumor": 0.09,
            "brats_free": 0.02,
            "ms": 0.04,
            "healthy": 0.07,
            "phantom": 0.01,
        }
    )
    schedule: str = "plateau"
    warmup: float = 0.0
    weight_decay: float = 0.0
    class_weights: tuple[float, ...] = (0.5, 1.0, 3.0, 3.0, 3.0)
    dice: float = 1.0
    kind: float = 0.3
    augment: float = 1.0
    randomize: float = 0.35
    closer: float = 0.0
    task: Literal["segment", "type"] = "segment"
    own: float = 0.5
    limit: int | None = None
    trial: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Keep the vote's fold out of what the vote is fitted on, and every phase's start before it."""
        for number, phase in enumerate(self.phases):
            start = phase.start
            if start is not None and (start >= number or (self.phases[start].refit and not phase.refit)):
                raise ValueError(f"Phase {number} of {self.name} goes on from one that follows it or saw more than it may.")

    @property
    def pretrained(self) -> bool:
        """Whether its encoder starts from ImageNet."""
        return bool(self.config.get("encoder_weights"))

    def during(self, phase: Phase) -> Recipe:
        """The same with what a phase says otherwise."""
        said = {k: getattr(phase, k) for k in ("batch", "augment", "randomize", "closer")}
        return replace(self, **{k: v for k, v in said.items() if v is not None})

    def unseen(self) -> Recipe:
        """The same without the phases that refit: for networks that only say what they make of a fold left out."""
        return replace(self, phases=tuple(p for p in self.phases if not p.refit))

    def by_clock(
        self, seconds: float, size: int | None = None, batch: int | None = None, dtype: str = "float32"
    ) -> Recipe:
        """The same for so many seconds: without the vote's fold, then REFIT of the time with it.

        Both freeze what the recipe's last phase freezes, and show scans as closely. The first takes the highest rate that
        the recipe has under that, the second half of it. Where the recipe's last phase has an augmentation of its own, MILD
        of each is trained with that, at MILD_RATE of its rate. No number makes it a trial.

        Args:
            seconds: Of training, what compiles the first step included; reading and building come on top.
            size: Side of the canvas in pixels; the recipe's last by default.
            batch: Scans a step; the recipe's by default.
            dtype: See above.
        """
        last = self.phases[-1]
        peak = max(p.learning_rate for p in self.phases if p.freeze == last.freeze)
        end = 0.0 if last.augment is None and last.randomize is None else MILD
        phases = []
        for refit, rate, share in ((False, peak, 1 - REFIT), (True, peak / 2, REFIT)):
            bulk, rest = (round(seconds * share * part, 1) for part in (1 - end, end))
            phases.append(Phase(size or last.size, 0, rate, last.freeze, refit=refit, seconds=bulk, closer=last.closer))
            if end:
                mild = replace(phases[-1], augment=last.augment, randomize=last.randomize)
                phases.append(replace(mild, learning_rate=rate * MILD_RATE, seconds=rest))
        chosen = replace(self, phases=tuple(phases), batch=batch or self.batch, dtype=dtype)
        chosen = replace(chosen, epoch_scans=max(self.epoch_scans, EPOCH_STEPS * chosen.batch))
        return replace(chosen, schedule="cosine", warmup=WARMUP)

    def shortened(
        self, epochs: int | None = None, size: int | None = None, batch: int | None = None, limit: int | None = None
    ) -> Recipe:
        """The same with other numbers, as a trial; without any number the recipe itself.

        Args:
            epochs: At most so many a phase.
            size: Side of the canvas in pixels, in every phase.
            batch: Scans a step, in every phase.
            limit: At most about so many scans of each data set; of validation scans too.
        """
        if (epochs, size, batch, limit) == (None,) * 4:
            return self
        phases = tuple(
            replace(p, epochs=min(p.epochs, epochs or p.epochs), size=size or p.size, batch=None if batch else p.batch)
            for p in self.phases
        )
        return replace(self, phases=phases, batch=batch or self.batch, limit=limit, trial=True)

    def learning(self, count: int) -> Recipe:
        """The same for ``count`` classes; what it is written for is SHIPPED."""
        if count == len(SHIPPED):
            return self
        weights = (*self.class_weights[:FIRST_TUMOR], *self.class_weights[FIRST_TUMOR:][:1] * (count - FIRST_TUMOR))
        argument = "classes" if self.task == "segment" else "answers"
        return replace(self, config={**self.config, argument: count}, class_weights=weights)


def recipe(name: str) -> Recipe:
    """The recipe of a shipped network; for any other segmenter the published one.

    Raises:
        ModelError: No such segmenter.
    """
    if name in {m.name for m in pkgutil.iter_modules(__path__)}:
        found: Recipe = importlib.import_module(f"{__name__}.{name}").RECIPE
        return found
    return published_recipe(name)


def published_recipe(name: str) -> Recipe:
    """The source documents' schedule at the published size: Adam 1e-4, up to 160 epochs, plateau, early stopping.

    Pretrained encoders are frozen for the first 160 epochs and trained with the rest for the second.

    Raises:
        ModelError: No such segmenter.
    """
    from neurovision.segmenters import card

    size = card(name).size
    if name in PRETRAINED:
        phases = (Phase(size, 160, freeze="encoder"), Phase(size, 160))
        return Recipe(name, config={"encoder_weights": "imagenet"}, phases=phases)
    return Recipe(name, phases=(Phase(size, 160),))
