"""The typed Manifest: what a set of weights holds, what each part was fitted on, and the proof of every file's digest.

``manifest.json`` is read into these classes and written from them (:meth:`Manifest.from_json`, :meth:`Manifest.to_json`);
nothing else reads it by keys. They check themselves when constructed. A new section is one more class and one more field
of :class:`Manifest` with a default of None, so that older sets stay readable.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass

from neurovision.classes import SHIPPED, Classes
from neurovision.errors import WeightsMissing, WeightsTampered

FILE = "manifest.json"
CARD = "README.md"  # a set's model card, beside its manifest on the Hub
FORMAT = 2  # 1, which has no such number, is what ``_of_format_1`` turns into 2
GENERATOR_FILE = "diffusion.json"  # of format 1

_CHECKED = ConfigDict(extra="forbid", allow_inf_nan=False)


def _no_fetching(config: dict[str, Any]) -> dict[str, Any]:
    if any("weights" in key for key in config):
        raise ValueError("a builder's arguments name weights, which it would fetch")
    return config


def _own_name(file: str) -> str:
    if file in (FILE, CARD):
        raise ValueError(f"{file} is not a file of weights")
    return file


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,79}$"), AfterValidator(_own_name)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Folds = tuple[Annotated[int, Field(ge=1, le=99)], ...]
Config = Annotated[dict[str, Any], AfterValidator(_no_fetching)]
ClassSet = Annotated[
    Classes,
    PlainValidator(lambda value: value if isinstance(value, Classes) else Classes.from_json(value) if value else SHIPPED),
    PlainSerializer(Classes.to_json),
]
Digests = Annotated[  # in JSON one string, so that thousands of them take one line
    frozenset[Annotated[str, Field(pattern=r"^[0-9a-f]{16}([0-9a-f]{48})?$")]],
    BeforeValidator(lambda value: value.split() if isinstance(value, str) else value),
    PlainSerializer(lambda value: " ".join(sorted(value)), return_type=str),
]


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Provenance:
    """What one part of a set was fitted on, and how. Fields that were not recorded are None or empty.

    Attributes:
        sources: Data sets, by their folder's name.
        folds: Of those data sets. Who stood in them: :attr:`Manifest.patients`.
        license: Of the strictest data set.
        scans: Different pictures.
        scans_seen: Pictures shown to a network, every epoch counted.
        hardware: Processor or accelerator.
        seconds: Wall-clock time of the fit.
        backend: Of Keras, for a network.
        date: ISO 8601, of its end.
        versions: Package to version.
    """

    sources: tuple[str, ...] = ()
    folds: Folds = ()
    license: str | None = None
    scans: int | None = None
    scans_seen: int | None = None
    hardware: str | None = None
    seconds: float | None = None
    backend: str | None = None
    date: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class File:
    """A file of the set.

    Attributes:
        file: Its name in the weights folder.
        sha256: Its digest.
        provenance: What it was fitted on; None where that was not recorded.
    """

    file: FileName
    sha256: Sha256
    provenance: Provenance | None = None

    def read(self, folder: Path) -> bytes:
        """The bytes whose digest was checked. Parse these and do not open the file again, which may have changed.

        Raises:
            WeightsMissing: It is not in ``folder``.
            WeightsTampered: Its digest differs.
        """
        path = folder / self.file
        if not path.is_file():
            raise WeightsMissing(
                f"The manifest names {self.file}, which is not in the weights folder; fetch the weights again."
            )
        data = path.read_bytes()
        if not data:  # XGBoost ends the whole process over an empty file
            raise WeightsTampered(f"{self.file} is empty; fetch it again.")
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256:
            raise WeightsTampered(
                f"{self.file} is not the file that was shipped (sha256 {found[:12]}, expected {self.sha256[:12]}); "
                "fetch it again."
            )
        return data

    @classmethod
    def of(cls, path: Path, **values: Any) -> Any:
        """Describe a file that was just written; ``values`` are the other fields."""
        return cls(file=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), **values)


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Network(File):
    """One trained network.

    Attributes:
        name: The architecture.
        config: Arguments of its builder.
        parameters: Trainable and not.
    """

    name: Name
    config: Config
    parameters: int


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Vote:
    """The vote's fitted parts.

    Attributes:
        forest: The random forest.
        boost: The gradient-boosted trees.
        members: Weights of the members' mean, in the members' order; empty where only trees vote.
        context: Whether the trees also read what stands around a pixel, see ``features.Scene``.
        pixels: How many it was fitted on.
        provenance: As of :class:`File`.
    """

    forest: File
    boost: File
    members: tuple[float, ...] = ()
    context: bool = False
    pixels: int
    provenance: Provenance | None = None


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class VerdictFit:
    """How the verdict did on the scans that it was fitted on.

    Attributes:
        scans: How many.
        sensitivity: Share of tumor scans called tumor, sources weighing alike.
        false_alarms: Share of tumor-free scans called tumor, likewise.
    """

    scans: int
    sensitivity: Share
    false_alarms: Share


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class VerdictModel:
    """Logistic regression of a slice's features, and what follows from its answer.

    Attributes:
        features: Names, as of ``verdict.FEATURES``.
        mean: Of each feature.
        scale: Deviation of each feature.
        coefficients: Of each standardized feature.
        intercept: Log odds at the mean.
        threshold: The probability from which the verdict is tumor.
        type_weight: The classifier's share in the tumor's type, 0 to 1.
        mask_share: Share of a slice's peak probability from which pixels are marked; None marks from 0.5.
        fitted: How it did where it was fitted.
        provenance: As of :class:`File`.
    """

    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float
    threshold: Share
    type_weight: Share = 0.0
    mask_share: Share | None = None
    fitted: VerdictFit | None = None
    provenance: Provenance | None = None

    def __post_init__(self) -> None:
        if not len(self.features) == len(self.mean) == len(self.scale) == len(self.coefficients):
            raise ValueError("the verdict's features, means, scales and coefficients differ in number")
        if not all(s > 0 for s in self.scale):
            raise ValueError("the verdict's scales must be above 0")


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class OutOfDistributionModel(File):
    """The file of :class:`~neurovision.ensemble.out_of_distribution.OutOfDistribution` and its two limits.

    Attributes:
        refuse: Score from which a picture is refused.
        warn: Score from which a result carries a warning and a lower confidence.
    """

    refuse: float
    warn: float


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class QualityModel:
    """Ridge regression of the Dice that a slice's outline can be expected to have; see ``calibration.expected_dice``.

    Attributes:
        features: Names, as of ``calibration.QUALITY``.
        mean: Of each feature.
        scale: Deviation of each feature.
        coefficients: Of each standardized feature.
        intercept: Dice at the mean.
        correlation: Spearman's, with the Dice of slices that neither it nor their vote was fitted on.
        scans: How many it was fitted on.
    """

    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float
    correlation: float
    scans: int


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class IntervalModel:
    """90 % intervals of area and volume by split-conformal calibration; see ``calibration.area_interval``.

    Attributes:
        level: The share of tumors whose true size is to lie inside.
        base: Spread of the log ratio of true to marked area at an expected Dice of 1.
        slope: Added to it for each unit that the expected Dice lies below 1.
        low: By sequence, the lower quantile of the log ratio in spreads; ``""`` stands for any other.
        high: By sequence, the upper one.
        volume: Quantile of the absolute log ratio of volumes; None where too few patients were at hand.
        scans: Slices that it was calibrated on.
        patients: Patients that the volume's was calibrated on.
    """

    level: Share
    base: Annotated[float, Field(gt=0)]
    slope: Annotated[float, Field(ge=0)]
    low: dict[str, float]
    high: dict[str, float]
    volume: float | None = None
    scans: int
    patients: int = 0


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class BorderlineRule:
    """When a verdict is called borderline; see ``calibration.is_borderline``.

    Attributes:
        low: Probability from which it is.
        high: Probability below which it is.
        rate: Share of the scans that the rule was fitted on that are borderline, sources weighing alike.
        errors_inside: Share of those that the verdict gets wrong.
        errors_outside: Share of the others that the verdict gets wrong.
    """

    low: Share
    high: Share
    rate: Share
    errors_inside: Share
    errors_outside: Share


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class SequenceModel(File):
    """The file of the linear head that tells the sequence from the classifier's features.

    Attributes:
        sequences: Names, in the order of its answers.
        sure: Probability from which its answer is given; below, the sequence is "other".
    """

    sequences: tuple[str, ...]
    sure: Share


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class GeneratorModel(File):
    """The diffusion model that draws pictures.

    Attributes:
        plan: Arguments of ``Plan``, which builds and trains it.
        mean: Of the canvases that it was trained on.
        deviation: Of the same.
        parameters: How many.
        validation_fold: The fold that its losses were measured on.
        losses: By name, at the end of training.
    """

    plan: Config
    mean: float
    deviation: Annotated[float, Field(gt=0)]
    parameters: int
    validation_fold: int
    losses: dict[str, float] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Training:
    """Facts of the whole set.

    Attributes:
        date: ISO 8601, of the stacking.
        sources: Data sets of any part.
        member_folds: What the networks were first trained on, when the vote was fitted.
        vote_fold: What the vote, the verdict and the limits of the out-of-distribution score were fitted on.
        crossed: What vote and verdict were also fitted on, each fold as networks see it that were trained without it.
        refitted: Network to the folds that its shipped weights were trained on, where those are more than ``member_folds``.
        split: How the folds were made, one sentence.
        license: Of the weights.
        trial: Shortened to see whether everything runs: what it says of a scan means nothing.
    """

    date: str
    sources: tuple[str, ...]
    member_folds: Folds
    vote_fold: int
    crossed: Folds = ()
    refitted: dict[Name, Folds] = Field(default_factory=dict)
    split: str
    license: str
    trial: bool = False

    @property
    def vote_folds(self) -> tuple[int, ...]:
        """Every fold that vote and verdict were fitted on."""
        return tuple(sorted({self.vote_fold, *self.crossed}))

    @property
    def fitted_folds(self) -> frozenset[int]:
        """Every fold that any part was fitted on."""
        return frozenset({*self.member_folds, *self.vote_folds}.union(*self.refitted.values()))


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Networks:
    """What an engine needs of a set.

    Attributes:
        folder: Where the files are; not in the JSON.
        size: Side of the canvas that all networks read, in pixels.
        members: In the order of the vote's features.
        classifier: The network that reads the whole slice; None where the set has none.
        classes: Of the label maps; in JSON the tumors, of which an empty list stands for SHIPPED.
    """

    folder: Path = Field(exclude=True)
    size: Annotated[int, Field(ge=32, le=1024)]
    members: Annotated[tuple[Network, ...], Field(min_length=1, max_length=32)]
    classifier: Network | None = None
    classes: ClassSet = SHIPPED

    @property
    def networks(self) -> tuple[Network, ...]:
        """The members and, last, the classifier."""
        return self.members if self.classifier is None else (*self.members, self.classifier)

    def read(self, file: File) -> bytes:
        """The checked bytes of one of the set's files; see :meth:`File.read`."""
        return file.read(self.folder)

    def to_json(self) -> dict[str, Any]:
        """Plain values; fields that are None are left out."""
        plain: dict[str, Any] = TypeAdapter(type(self)).dump_python(self, mode="json", exclude_none=True)
        return plain

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], folder: Path) -> Any:
        """The reverse of :meth:`to_json`; of a Manifest's JSON, Networks takes its own fields.

        Raises:
            ValueError: A field is missing, unknown or of another form.
        """
        known = {f.name for f in fields(cls)} if cls is Networks else raw
        return TypeAdapter(cls).validate_python({**{k: v for k, v in raw.items() if k in known}, "folder": folder})


@dataclass(frozen=True, kw_only=True, config=_CHECKED)
class Manifest(Networks):
    """A whole set of weights.

    Attributes:
        format: FORMAT.
        vote: See :class:`Vote`.
        verdict: See :class:`VerdictModel`.
        training: See :class:`Training`.
        out_of_distribution: None where the set has no classifier.
        sequence: None where the set has no classifier.
        quality: See :class:`QualityModel`; None where none was fitted, like the next two.
        intervals: See :class:`IntervalModel`.
        borderline: See :class:`BorderlineRule`.
        generator: None where the set has none.
        patients: Data set to fold to digests of the patients (of the pictures, where a data set names no patients) that
            stood in it: see ``training.identity``. With a part's ``provenance`` it tells on whom the part was fitted.
            Empty where that was not recorded.
        digest: sha256 of the file that this was read from; not in the JSON.
    """

    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)] = FORMAT
    vote: Vote
    verdict: VerdictModel
    training: Training
    out_of_distribution: OutOfDistributionModel | None = None
    sequence: SequenceModel | None = None
    quality: QualityModel | None = None
    intervals: IntervalModel | None = None
    borderline: BorderlineRule | None = None
    generator: GeneratorModel | None = None
    patients: dict[str, dict[int, Digests]] = Field(default_factory=dict)
    digest: str = Field(default="", exclude=True)

    @property
    def files(self) -> tuple[File, ...]:
        """Every file of the set."""
        more = (self.vote.forest, self.vote.boost, self.out_of_distribution, self.sequence, self.generator)
        return (*self.networks, *(f for f in more if f is not None))

    @property
    def fitted_on(self) -> frozenset[str]:
        """Digests of all patients and pictures that the members, the classifier, the vote or the verdict were fitted on."""
        parts = [*(n.provenance for n in self.networks), self.vote.provenance, self.verdict.provenance]
        found: set[str] = set()
        for source, folds in self.patients.items():
            for part in parts:
                known = part is not None and part.sources and part.folds
                wanted = part.folds if part is not None and known else self.training.fitted_folds
                if part is None or not known or source in part.sources:
                    found.update(*(digests for fold, digests in folds.items() if fold in wanted))
        return frozenset(found)

    def text(self) -> str:
        """What ``manifest.json`` holds."""
        return json.dumps(self.to_json(), indent=1) + "\n"


def read_manifest(folder: Path, pinned: str = "") -> Manifest:
    """Read and check ``manifest.json``; its files are checked when they are read.

    Args:
        folder: The weights folder.
        pinned: The sha256 that the manifest must have, or "".

    Raises:
        WeightsMissing: There is none.
        WeightsTampered: It has another digest than the pinned one, or this version does not read it.
    """
    path = folder / FILE
    if not path.is_file():
        raise WeightsMissing(
            f"There are no weights (no {FILE} in {folder.name}/): fetch a published set with 'neurovision hub pull"
            " OWNER/NAME', or name a folder in NEUROVISION_WEIGHTS."
        )
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if pinned and digest != pinned.lower():
        raise WeightsTampered(f"{FILE} has the sha256 {digest[:12]}, not the pinned {pinned[:12]}; fetch the weights again.")
    try:
        raw = json.loads(data)
        if "format" not in raw:
            raw = _of_format_1(raw, folder)
        manifest: Manifest = Manifest.from_json({**raw, "digest": digest}, folder)
        return manifest
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:  # ValidationError is a ValueError
        raise WeightsTampered(
            f"{FILE} is not a manifest that this version reads{_place(e)}; fetch the weights again."
        ) from e


def _place(error: Exception) -> str:
    """Where a manifest breaks which rule, in words."""
    if not isinstance(error, ValidationError):
        return ""
    first = error.errors(include_url=False, include_input=False)[0]
    at = ".".join(re.sub(r"\W", "", str(part))[:40] for part in first["loc"])
    return f" (at {at or 'its top'}: {first['msg']})"


def _of_format_1(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A manifest of the first format in the second's form; its generator stood in a file of its own."""
    for network in _networks_of(raw):
        network.pop("scores", None)
    raw["format"] = FORMAT
    if (model := raw.pop("familiar", None)) is not None:
        raw["out_of_distribution"] = model
    if (folder / GENERATOR_FILE).is_file():
        raw["generator"] = _generator_of_format_1(json.loads((folder / GENERATOR_FILE).read_bytes()))
    return raw


def _networks_of(raw: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from raw["members"]
    if raw.get("classifier"):
        yield raw["classifier"]


def _generator_of_format_1(raw: dict[str, Any]) -> dict[str, Any]:
    training = raw.pop("training")
    losses = {
        k: training[k] for k in ("noise_loss", "image_loss", "val_noise_loss", "val_image_loss", "kid") if k in training
    }
    provenance = {k: training.get(k) for k in ("sources", "folds", "license", "scans", "scans_seen", "date")}
    return {**raw, "provenance": provenance, "validation_fold": training["validation_fold"], "losses": losses}
