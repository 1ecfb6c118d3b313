"""Results: what neurovision says of a scan. One family for a slice, a volume and a file that could not be read.

    Result                what tables, reports, DICOM and the page may ask of any scan
    ├── Findings          one slice
    ├── VolumeFindings    all slices of a scan, and what they say together
    └── Unread            a file that could not become a Study

``result.verdict`` is a :class:`Verdict`, or None where there is none (then ``result.reason`` says why);
``result.shown`` is the slice that pictures and reports draw; ``result.row()`` is its row of a table;
``result.mask_in(study)`` is its label map in the study's own voxels. Views take a Result and ask for no more: they never
run a network.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from neurovision.classes import FIRST_TUMOR, SHIPPED, Classes
from neurovision.ensemble.calibration import is_borderline
from neurovision.ensemble.manifest import BorderlineRule
from neurovision.scan.laterality import Side
from neurovision.scan.paint import paint
from neurovision.scan.study import Source, Study

State = Literal["tumor", "borderline", "no tumor"]
Status = Literal["ok", "rejected", "unread"]
Row = dict[str, str | int | float | None]


@dataclass(frozen=True)
class Interval:
    """A range that holds the true value with a stated chance.

    Attributes:
        low: Its lower end.
        high: Its upper end.
        unit: ``"px"``, ``"mm2"`` or ``"ml"``.
    """

    low: float
    high: float
    unit: Literal["px", "mm2", "ml"]

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high:
            raise ValueError(f"An interval runs upward from 0 or more; received {self.low} to {self.high}.")


@dataclass(frozen=True)
class Verdict:
    """What is said of a scan as a whole.

    Attributes:
        state: ``"tumor"`` or ``"no tumor"`` where the verdict is plain; ``"borderline"`` where the probability is so near
            the threshold that verdicts there are often wrong. :attr:`called` is what the threshold alone says.
        probability: Of a tumor, calibrated on slices, in [0, 1].
        threshold: The probability from which the state is ``"tumor"``.
        types: Key of each tumor type to its probability given that there is a tumor; they sum to 1, or there is none.
        interval: Of the tumor's area or volume, or None where it is not estimated.
        expected_dice: Dice that the mask is expected to reach, in [0, 1], or None where it is not estimated.
    """

    state: State
    probability: float
    threshold: float
    types: dict[str, float] = field(default_factory=dict)
    interval: Interval | None = None
    expected_dice: float | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.probability <= 1 and 0 <= self.threshold <= 1):
            raise ValueError(f"Probability and threshold are in [0, 1]; received {self.probability}, {self.threshold}.")

    @classmethod
    def of(
        cls, probability: float, threshold: float, types: dict[str, float], rule: BorderlineRule | None = None
    ) -> Verdict:
        """The verdict that a probability, its threshold and the manifest's rule give."""
        if rule is not None and is_borderline(probability, rule):
            return cls("borderline", probability, threshold, types)
        return cls("tumor" if probability >= threshold else "no tumor", probability, threshold, types)

    @property
    def positive(self) -> bool:
        """Whether the probability reaches the threshold, borderline or not."""
        return self.probability >= self.threshold

    @property
    def called(self) -> Literal["tumor", "no tumor"]:
        """What the threshold says."""
        return "tumor" if self.positive else "no tumor"

    @property
    def likeliest_type(self) -> str | None:
        """Key of the likeliest tumor type, or None where no tumor is called."""
        return max(self.types, key=lambda t: self.types[t]) if self.positive and self.types else None


@dataclass(frozen=True)
class Region:
    """One connected tumor region of one slice.

    Attributes:
        type: Key of its tumor class.
        area_px: Pixels.
        area_mm2: Square millimeters, or None where the file gives no spacing.
        bbox: ``(top, left, bottom, right)`` in pixels, bottom and right exclusive.
        centroid: ``(row, column)`` in pixels.
        longest_diameter_px: Longest distance between two of its outline's pixel centers, plus one pixel.
        longest_diameter_mm: The same in millimeters, or None.
        perpendicular_diameter_px: Its extent across the longest diameter, plus one pixel.
        perpendicular_diameter_mm: The same in millimeters, or None.
        side: ``left`` or ``right`` of the patient where the geometry tells; ``image left`` or ``image right`` where
            it does not; ``midline`` where the region reaches across the head's middle.
    """

    type: str
    area_px: int
    area_mm2: float | None
    bbox: tuple[int, int, int, int]
    centroid: tuple[float, float]
    longest_diameter_px: float
    longest_diameter_mm: float | None
    perpendicular_diameter_px: float
    perpendicular_diameter_mm: float | None
    side: Side


@dataclass(frozen=True)
class Lesion:
    """One tumor of a volume, connected through the slices.

    Attributes:
        type: Key of its commonest tumor class.
        voxels: How many.
        volume_ml: Milliliters, or None where the file gives no spacing.
        first_slice: Lowest slice that shows it, from 0.
        last_slice: Highest slice that shows it.
        largest_slice: The slice with its largest area.
        largest_area_mm2: That area, or None.
        longest_diameter_px: Longest diameter in any one slice, in pixels (as RANO measures, not through slices).
        longest_diameter_mm: The same in millimeters, or None.
        perpendicular_diameter_px: Across it in the same slice, in pixels.
        perpendicular_diameter_mm: The same in millimeters, or None.
        diameter_slice: The slice of both diameters.
        centroid: ``(slice, row, column)`` in voxels.
        side: As in :class:`Region`, of its largest region.
    """

    type: str
    voxels: int
    volume_ml: float | None
    first_slice: int
    last_slice: int
    largest_slice: int
    largest_area_mm2: float | None
    longest_diameter_px: float
    longest_diameter_mm: float | None
    perpendicular_diameter_px: float
    perpendicular_diameter_mm: float | None
    diameter_slice: int
    centroid: tuple[float, float, float]
    side: Side


@dataclass(frozen=True)
class MemberFinding:
    """What one member alone says of a slice.

    Attributes:
        name: The segmenter.
        area_px: Tumor pixels of its own mask.
        tumor_type: Its most frequent tumor class, or None without tumor pixels.
        mask: uint8 ``(H, W)`` of its class indices.
        title: What it is called to readers, its encoder being the one that it has.
    """

    name: str
    area_px: int
    tumor_type: str | None
    mask: np.ndarray
    title: str


@dataclass(frozen=True, kw_only=True)
class Result(ABC):
    """What is said of one scan; see the module for the family.

    Attributes:
        source: Where the scan comes from.
        verdict: None where the scan was rejected or could not be read.
        reason: Why there is no verdict, one sentence; None where there is one.
        timing_ms: Milliseconds by stage.
        weights: First 12 hexadecimal digits of the manifest's sha256.
        classes: Of the weights' label maps.
        sequence: Which sequence the picture looks like, or None where the weights do not tell; the header's word is
            ``source.sequence``.
        warnings: Sentences for the reader.
    """

    source: Source
    verdict: Verdict | None = None
    reason: str | None = None
    timing_ms: dict[str, float] = field(default_factory=dict)
    weights: str = ""
    classes: Classes = SHIPPED
    sequence: str | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.verdict is None) == (self.reason is None):
            raise ValueError("A result has a verdict, or a reason why it has none.")

    @property
    def status(self) -> Status:
        """``"ok"``; ``"rejected"`` where it is no readable brain MRI; ``"unread"`` where the file could not be read."""
        return "rejected" if self.verdict is None else "ok"

    @property
    def positive(self) -> bool:
        """Whether the verdict is tumor."""
        return self.verdict is not None and self.verdict.positive

    @property
    @abstractmethod
    def shown(self) -> Findings | None:
        """The slice that pictures and reports draw; None only of a file that could not be read."""

    @property
    def tumors(self) -> tuple[Region, ...] | tuple[Lesion, ...]:
        """What was measured, largest first: a slice's regions, a volume's lesions."""
        return ()

    @property
    def place(self) -> str:
        """Tells a result of the whole scan from one of a single slice: ``"volume"``, or the slice's number from 0."""
        return "volume"

    @property
    def volumes_ml(self) -> dict[str, float | None]:
        """Milliliters of each tumor type in the mask; None where the file gives no spacing, or for a single slice."""
        return dict.fromkeys(self.classes.keys)

    @abstractmethod
    def mask_in(self, study: Study) -> np.ndarray:
        """The label map, uint8 ``(S, H, W)`` of class indices; slices that this says nothing of are 0."""

    @abstractmethod
    def probability_in(self, study: Study) -> np.ndarray:
        """The vote's probability of any tumor in 255ths, uint8 ``(S, H, W)``; slices that this says nothing of are 0."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON: everything but the maps."""

    @abstractmethod
    def _measures(self) -> Row:
        """The columns of :meth:`row` that differ between a slice and a volume."""

    def row(self) -> Row:
        """The scan as one flat row of a table, numbers rounded; unknown ones are None. Keys are those of :func:`columns`."""
        verdict = self.verdict
        longest = [(t.longest_diameter_px, t.longest_diameter_mm) for t in self.tumors]
        row: Row = {
            **dict.fromkeys(columns(self.classes)),
            "scan": self.source.name,
            "status": self.status,
            "reason": self.reason,
            "verdict": None if verdict is None else verdict.called,
            "state": None if verdict is None else verdict.state,
            "tumor_probability": None if verdict is None else round(verdict.probability, 4),
            "threshold": None if verdict is None else round(verdict.threshold, 4),
            "tumor_type": None if verdict is None else verdict.likeliest_type,
            **{f"p_{k}": round(p, 4) for k, p in ({} if verdict is None else verdict.types).items()},
            "longest_diameter_px": _rounded(max((px for px, _ in longest), default=None), 2),
            "longest_diameter_mm": _rounded(max((mm for _, mm in longest if mm is not None), default=None), 2),
            "laterality": self.tumors[0].side if self.tumors else None,
            "format": self.source.format or None,
            "sequence": self.source.sequence,
            "sequence_seen": self.sequence,
            "weights": self.weights or None,
            "warnings": " ".join(self.warnings) or None,
        }
        return row | self._measures()


def columns(classes: Classes) -> tuple[str, ...]:
    """Keys of a row; each tumor class has a probability."""
    return (
        "scan", "slice", "status", "reason", "verdict", "state", "tumor_probability", "threshold", "tumor_type",
        *(f"p_{key}" for key in classes.keys), "tumor_area_px", "tumor_area_mm2", "tumor_volume_ml", "regions",
        "longest_diameter_px", "longest_diameter_mm", "laterality", "disagreement", "largest_slice", "slices", "height",
        "width", "spacing_slice_mm", "spacing_row_mm", "spacing_column_mm", "format", "sequence", "sequence_seen",
        "weights", "warnings",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Findings(Result):
    """Everything said of one slice.

    Attributes:
        picture: float32 ``(H, W)`` in [0, 1], the slice.
        mask: uint8 ``(H, W)`` of class indices, the vote.
        tumor_map: float32 ``(H, W)`` in [0, 1], the vote's probability of any tumor.
        uncertainty: float32 ``(H, W)`` in [0, 1]: entropy of the vote over the log of the number of classes.
        marked_from: The vote's probability of tumor from which ``mask`` marks a pixel: 0.5, or less where the verdict is
            tumor and the vote's peak is low; see :func:`~neurovision.ensemble.features.tumor_threshold`.
        regions: Largest first.
        members: What each member alone says; empty where the slice was rejected.
        disagreement: 1 minus the mean Dice between pairs of members' tumor masks, in [0, 1]; 0 where none finds one.
        spacing: Millimeters ``(row, column)``, or None.
        slice_index: Which slice of its study, from 0.
    """

    picture: np.ndarray
    mask: np.ndarray
    tumor_map: np.ndarray
    uncertainty: np.ndarray
    marked_from: float = 0.5
    regions: tuple[Region, ...] = ()
    members: tuple[MemberFinding, ...] = ()
    disagreement: float = 0.0
    spacing: tuple[float, float] | None = None
    slice_index: int = 0

    @property
    def shown(self) -> Findings:
        """The slice itself."""
        return self

    @property
    def tumors(self) -> tuple[Region, ...]:
        """The regions."""
        return self.regions

    @property
    def place(self) -> str:
        """The slice's number from 0."""
        return str(self.slice_index)

    @property
    def area_px(self) -> int:
        """Tumor pixels of the mask."""
        return int((self.mask >= FIRST_TUMOR).sum())

    def overlay(self, opacity: float = 0.45, contour: bool = False) -> np.ndarray:
        """The mask over the slice: uint8 ``(H, W, 3)`` RGB."""
        return paint(self.picture, self.mask, self.classes, opacity, contour)

    def mask_in(self, study: Study) -> np.ndarray:
        """See :meth:`Result.mask_in`."""
        return self._in(study, self.mask)

    def probability_in(self, study: Study) -> np.ndarray:
        """See :meth:`Result.probability_in`."""
        return self._in(study, in_255ths(self.tumor_map))

    def _in(self, study: Study, plane: np.ndarray) -> np.ndarray:
        stack = np.zeros(study.pixels.shape[:3], np.uint8)
        stack[self.slice_index] = plane
        return stack

    def _measures(self) -> Row:
        areas = [r.area_mm2 for r in self.regions if r.area_mm2 is not None]
        row_mm, column_mm = self.spacing or (None, None)
        return {
            "slice": self.slice_index + 1,
            "tumor_area_px": self.area_px,
            "tumor_area_mm2": round(sum(areas), 2) if areas else None,
            "regions": len(self.regions),
            "disagreement": round(self.disagreement, 4),
            "slices": 1,
            "height": self.mask.shape[0],
            "width": self.mask.shape[1],
            "spacing_row_mm": row_mm,
            "spacing_column_mm": column_mm,
        }

    def to_json(self) -> dict[str, Any]:
        """See :meth:`Result.to_json`."""
        return {
            **_said(self),
            "marked_from": round(self.marked_from, 4),
            "regions": [_plain(r, 2) for r in self.regions],
            "models": [{"name": m.name, "tumor_area_px": m.area_px, "tumor_type": m.tumor_type} for m in self.members],
            "disagreement": round(self.disagreement, 4),
            **_made(self),
            "spacing_mm": None if self.spacing is None else list(self.spacing),
            "slice_index": self.slice_index,
            "source": {**_source(self.source), "height": int(self.mask.shape[0]), "width": int(self.mask.shape[1])},
        }


@dataclass(frozen=True)
class SliceSummary:
    """What one slice of a volume says: one point of the volume's profile.

    Attributes:
        index: Which slice, from 0.
        status: ``"ok"``, or ``"rejected"`` where the slice shows no readable head (above and below it, usually).
        verdict: Of the slice alone; None when rejected.
        tumor_probability: Of the slice alone, calibrated, in [0, 1]; None when rejected.
        area_px: Tumor pixels in the volume's mask.
        area_mm2: The same in square millimeters, or None.
        disagreement: Of the members, in [0, 1].
    """

    index: int
    status: Status
    verdict: State | None
    tumor_probability: float | None
    area_px: int
    area_mm2: float | None
    disagreement: float


@dataclass(frozen=True)
class PackedSlice:
    """A slice's findings without the maps, which would fill the memory, and its members' masks, compressed.

    Attributes:
        findings: With maps of size 0.
        members: zlib of each member's mask, uint8 ``(H, W)``.
    """

    findings: Findings
    members: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, findings: Findings) -> PackedSlice:
        """Pack a slice."""
        masks = tuple(zlib.compress(m.mask.astype(np.uint8).tobytes(), 1) for m in findings.members)
        nothing = np.zeros((0, 0), np.uint8)
        members = tuple(replace(m, mask=nothing) for m in findings.members)
        without = replace(
            findings, picture=nothing, mask=nothing, tumor_map=nothing, uncertainty=nothing, members=members
        )
        return cls(without, masks)


@dataclass(frozen=True, kw_only=True)
class VolumeFindings(Result):
    """Everything said of all slices of a scan; a picture may be a volume of one slice.

    ``verdict`` is of the whole volume: its probability is the highest mean of two neighboring slices' probabilities, so
    that one slice alone cannot decide (calibrated for slices, not for whole volumes); its types are the slices', weighted by
    their tumor area. :meth:`at` gives each slice's findings with all maps, drawn with the volume's mask.

    Attributes:
        study: What was analyzed.
        mask: uint8 ``(S, H, W)`` of class indices: the slices' votes, without what is too small, too flat or
            without a single slice whose own verdict is tumor.
        probability: uint8 ``(S, H, W)``, the vote's probability of any tumor in 255ths.
        uncertainty: uint8 ``(S, H, W)``, as of :class:`Findings` in 255ths.
        slices: One summary a slice, in order: the profile.
        packed: One a slice, for :meth:`at`.
        lesions: Largest first.
        voxels: Of each tumor type in the mask.
    """

    study: Study
    mask: np.ndarray
    probability: np.ndarray
    uncertainty: np.ndarray
    slices: tuple[SliceSummary, ...]
    packed: tuple[PackedSlice, ...]
    lesions: tuple[Lesion, ...] = ()
    voxels: dict[str, int] = field(default_factory=dict)

    @property
    def spacing(self) -> tuple[float | None, float, float] | None:
        """Millimeters ``(slice, row, column)``, or None."""
        return self.study.spacing

    @property
    def tumors(self) -> tuple[Lesion, ...]:
        """The lesions."""
        return self.lesions

    @property
    def volumes_ml(self) -> dict[str, float | None]:
        """See :meth:`Result.volumes_ml`."""
        voxel = voxel_ml(self.study)
        return {k: None if voxel is None else n * voxel for k, n in self.voxels.items()}

    @property
    def largest_slice(self) -> int | None:
        """The slice with the largest tumor area, or None without a tumor."""
        best = max(self.slices, key=lambda s: s.area_px)
        return best.index if best.area_px else None

    @property
    def shown_slice(self) -> int:
        """The slice with the largest tumor area; without one, the readable slice with the highest probability."""
        if (largest := self.largest_slice) is not None:
            return largest
        if self.verdict is None:
            return len(self.slices) // 2
        return max(self.slices, key=lambda s: -1.0 if s.tumor_probability is None else s.tumor_probability).index

    @property
    def shown(self) -> Findings:
        """:meth:`at` of ``shown_slice``."""
        return self.at(self.shown_slice)

    @property
    def longest_diameter_mm(self) -> float | None:
        """The longest diameter of any lesion in any slice, or None without lesions or spacing."""
        return max((x.longest_diameter_mm for x in self.lesions if x.longest_diameter_mm is not None), default=None)

    def at(self, index: int) -> Findings:
        """One slice's findings with all maps.

        ``verdict`` and ``members`` are of that slice alone; ``mask`` and ``regions`` are the volume's, so that no picture
        shows what the volume does not count. Probability and uncertainty are rounded to 255ths.

        Raises:
            IndexError: There is no such slice.
        """
        if not 0 <= index < len(self.packed):
            raise IndexError(f"The volume has {len(self.packed)} slices; there is no slice {index}.")
        packed, mask = self.packed[index], self.mask[index]
        masks = [np.frombuffer(zlib.decompress(data), np.uint8).reshape(mask.shape) for data in packed.members]
        members = tuple(replace(m, mask=own) for m, own in zip(packed.findings.members, masks, strict=True))
        return replace(
            packed.findings,
            picture=self.study.gray(index),
            mask=mask,
            tumor_map=self.probability[index] / np.float32(255),
            uncertainty=self.uncertainty[index] / np.float32(255),
            members=members,
        )

    def mask_in(self, study: Study) -> np.ndarray:
        """See :meth:`Result.mask_in`."""
        return self.mask

    def probability_in(self, study: Study) -> np.ndarray:
        """See :meth:`Result.probability_in`."""
        return self.probability

    def _measures(self) -> Row:
        milliliters = [v for v in self.volumes_ml.values() if v is not None]
        slice_mm, row_mm, column_mm = self.spacing or (None, None, None)
        return {
            "tumor_area_px": sum(s.area_px for s in self.slices),
            "tumor_volume_ml": round(sum(milliliters), 3) if milliliters else None,
            "regions": len(self.lesions),
            "disagreement": round(max(s.disagreement for s in self.slices), 4),
            "largest_slice": self.largest_slice,
            "slices": len(self.slices),
            "height": self.mask.shape[1],
            "width": self.mask.shape[2],
            "spacing_slice_mm": slice_mm,
            "spacing_row_mm": row_mm,
            "spacing_column_mm": column_mm,
        }

    def to_json(self) -> dict[str, Any]:
        """See :meth:`Result.to_json`."""
        slices, height, width = (int(n) for n in self.mask.shape)
        return {
            **_said(self),
            "volumes_ml": {k: _rounded(v, 3) for k, v in self.volumes_ml.items()},
            "voxels": dict(self.voxels),
            "largest_slice": self.largest_slice,
            "longest_diameter_mm": _rounded(self.longest_diameter_mm, 2),
            "lesions": [_plain(x, 4) for x in self.lesions],
            "slices": [_plain(x, 4) for x in self.slices],
            **_made(self),
            "spacing_mm": None if self.spacing is None else list(self.spacing),
            "source": {**_source(self.source), "slices": slices, "height": height, "width": width},
        }


@dataclass(frozen=True, kw_only=True)
class Unread(Result):
    """A file that could not become a Study; ``source`` has its name, ``reason`` the sentence that says why."""

    @classmethod
    def of(cls, name: str, reason: str, weights: str = "", classes: Classes = SHIPPED) -> Unread:
        """Of a file's name and the reader's sentence; ``weights`` and ``classes`` are those that others are read by."""
        return cls(source=Source(name, ""), reason=reason, weights=weights, classes=classes)

    @property
    def status(self) -> Status:
        """``"unread"``."""
        return "unread"

    @property
    def shown(self) -> None:
        """Nothing."""
        return None

    def mask_in(self, study: Study) -> np.ndarray:
        """Zeros."""
        return np.zeros(study.pixels.shape[:3], np.uint8)

    def probability_in(self, study: Study) -> np.ndarray:
        """Zeros."""
        return np.zeros(study.pixels.shape[:3], np.uint8)

    def _measures(self) -> Row:
        return {}

    def to_json(self) -> dict[str, Any]:
        """The keys of a slice's JSON; what a file that was not read cannot tell is null or empty."""
        nothing = np.zeros((0, 0), np.float32)
        empty = Findings(
            source=self.source, reason=self.reason, weights=self.weights, picture=nothing, mask=nothing, tumor_map=nothing,
            uncertainty=nothing,
        ).to_json()  # fmt: skip
        source = {k: v if k == "name" else None for k, v in empty["source"].items()}
        unknown = {"marked_from": None, "disagreement": None, "slice_index": None}
        return {**empty, **unknown, "status": self.status, "source": source}


def in_255ths(values: np.ndarray) -> np.ndarray:
    """Values in [0, 1] as uint8."""
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def voxel_ml(study: Study) -> float | None:
    """Milliliters of one voxel, or None; spacing across slices runs along their normal, so shear is allowed for."""
    if study.spacing is None or study.spacing[0] is None:
        return None
    return study.spacing[0] * study.spacing[1] * study.spacing[2] / 1000


def _said(result: Result) -> dict[str, Any]:
    verdict = result.verdict
    interval = None if verdict is None else verdict.interval
    return {
        "status": result.status,
        "reason": result.reason,
        "verdict": None if verdict is None else verdict.called,
        "state": None if verdict is None else verdict.state,
        "tumor_probability": None if verdict is None else round(verdict.probability, 4),
        "threshold": None if verdict is None else round(verdict.threshold, 4),
        "tumor_type": None if verdict is None else verdict.likeliest_type,
        "type_probabilities": {} if verdict is None else {k: round(v, 4) for k, v in verdict.types.items()},
        "interval": None if interval is None else _plain(interval, 2),
        "expected_dice": None if verdict is None else _rounded(verdict.expected_dice, 4),
        "sequence_seen": result.sequence,
    }


def _made(result: Result) -> dict[str, Any]:
    return {
        "timing_ms": {k: round(v, 2) for k, v in result.timing_ms.items()},
        "weights": result.weights or None,
        "warnings": list(result.warnings),
    }


def _source(source: Source) -> dict[str, Any]:
    return {"name": source.name, "format": source.format, "sha256": source.sha256, "sequence": source.sequence}


def _plain(item: Region | Lesion | SliceSummary | Interval, digits: int) -> dict[str, Any]:
    """A dataclass of numbers and words as JSON values, rounded."""
    plain: dict[str, Any] = {}
    for key, value in vars(item).items():
        if isinstance(value, tuple):
            plain[key] = [v if isinstance(v, int) else round(v, 2) for v in value]
        elif isinstance(value, float):
            plain[key] = round(value, digits)
        else:
            plain[key] = value
    return plain


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(float(value), digits)
