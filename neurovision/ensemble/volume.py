"""Volumes: every slice analyzed, and what they say together, in milliliters."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import cv2
import numpy as np

from neurovision.classes import CLASSES, FIRST_TUMOR, HEAD, TUMORS
from neurovision.ensemble.findings import MIN_REGION, Findings, Region, Side
from neurovision.ensemble.pipeline import Analyzer
from neurovision.scan.study import Source, Study

MIN_HEIGHT_MM = 3.0  # a lesion reaches through at least this much, so that one thin slice's error is none


@dataclass(frozen=True)
class SliceSummary:
    """What one slice of a volume says.

    Attributes:
        index: Which slice.
        status: ``"ok"``, or ``"rejected"`` where the slice shows no readable head (above and below it, usually).
        verdict: ``"tumor"``, ``"no tumor"``, or None when rejected.
        tumor_probability: Of the slice alone, calibrated, in [0, 1]; None when rejected.
        area_px: Tumor pixels in the volume's mask.
        area_mm2: The same in square millimeters, or None.
        disagreement: Of the members, in [0, 1].
    """

    index: int
    status: Literal["ok", "rejected"]
    verdict: Literal["tumor", "no tumor"] | None
    tumor_probability: float | None
    area_px: int
    area_mm2: float | None
    disagreement: float


@dataclass(frozen=True)
class Lesion:
    """One tumor, connected through the slices.

    Attributes:
        type: Key of its commonest tumor class.
        voxels: How many.
        volume_ml: Milliliters, or None where the file gives no spacing.
        first_slice: Lowest slice that shows it.
        last_slice: Highest slice that shows it.
        largest_slice: The slice with its largest area.
        largest_area_mm2: That area, or None.
        longest_diameter_px: Longest diameter in any one slice, in pixels (as RANO measures, not through slices).
        longest_diameter_mm: The same in millimeters, or None.
        perpendicular_diameter_mm: Across it in the same slice, or None.
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
    perpendicular_diameter_mm: float | None
    diameter_slice: int
    centroid: tuple[float, float, float]
    side: Side


@dataclass(frozen=True)
class VolumeFindings:
    """Everything said of a volume.

    Attributes:
        status: ``"ok"``, or ``"rejected"`` where no slice shows a readable head.
        source: Where the volume comes from.
        mask: uint8 ``(S, H, W)`` of class indices: the slices' votes, without what is too small, too flat or
            without a single slice whose own verdict is tumor.
        probability: uint8 ``(S, H, W)``, the vote's probability of any tumor in 255ths.
        slices: One summary a slice, in order: the profile.
        reason: Why it was rejected, one sentence; None otherwise.
        verdict: ``"tumor"`` or ``"no tumor"``; None when rejected.
        tumor_probability: The highest mean of two neighboring slices' probabilities, so that one slice alone cannot
            decide; calibrated for slices, not for whole volumes. None when rejected.
        threshold: The probability from which the verdict is ``"tumor"``.
        tumor_type: Key of the likeliest type where the verdict is tumor, else None.
        type_probabilities: The slices', weighted by their tumor area; they sum to 1.
        lesions: Largest first.
        volumes_ml: Of each tumor type in the mask, or None where the file gives no spacing.
        voxels: Of each tumor type in the mask.
        spacing: As in :class:`Study`.
        timing_ms: Milliseconds by stage, summed over the slices.
        weights: First 12 hexadecimal digits of the manifest's sha256.
        warnings: Sentences for the reader.
    """

    status: Literal["ok", "rejected"]
    source: Source
    mask: np.ndarray
    probability: np.ndarray
    slices: tuple[SliceSummary, ...]
    reason: str | None = None
    verdict: Literal["tumor", "no tumor"] | None = None
    tumor_probability: float | None = None
    threshold: float | None = None
    tumor_type: str | None = None
    type_probabilities: dict[str, float] = field(default_factory=dict)
    lesions: tuple[Lesion, ...] = ()
    volumes_ml: dict[str, float | None] = field(default_factory=dict)
    voxels: dict[str, int] = field(default_factory=dict)
    spacing: tuple[float | None, float, float] | None = None
    timing_ms: dict[str, float] = field(default_factory=dict)
    weights: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def largest_slice(self) -> int | None:
        """The slice with the largest tumor area, or None without a tumor."""
        best = max(self.slices, key=lambda s: s.area_px)
        return best.index if best.area_px else None

    @property
    def longest_diameter_mm(self) -> float | None:
        """The longest diameter of any lesion in any slice, or None without lesions or spacing."""
        return max((x.longest_diameter_mm for x in self.lesions if x.longest_diameter_mm is not None), default=None)

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON: everything but the voxels."""
        return {
            "status": self.status,
            "reason": self.reason,
            "verdict": self.verdict,
            "tumor_probability": _rounded(self.tumor_probability, 4),
            "threshold": _rounded(self.threshold, 4),
            "tumor_type": self.tumor_type,
            "type_probabilities": {k: round(v, 4) for k, v in self.type_probabilities.items()},
            "volumes_ml": {k: _rounded(v, 3) for k, v in self.volumes_ml.items()},
            "voxels": dict(self.voxels),
            "largest_slice": self.largest_slice,
            "longest_diameter_mm": _rounded(self.longest_diameter_mm, 2),
            "lesions": [_plain(x) for x in self.lesions],
            "slices": [_plain(x) for x in self.slices],
            "timing_ms": {k: round(v, 2) for k, v in self.timing_ms.items()},
            "weights": self.weights,
            "warnings": list(self.warnings),
            "spacing_mm": None if self.spacing is None else list(self.spacing),
            "source": {
                "name": self.source.name,
                "format": self.source.format,
                "sha256": self.source.sha256,
                "sequence": self.source.sequence,
                "slices": int(self.mask.shape[0]),
                "height": int(self.mask.shape[1]),
                "width": int(self.mask.shape[2]),
            },
        }


def analyze_volume(
    analyzer: Analyzer, study: Study, progress: Callable[[int, int], None] | None = None
) -> VolumeFindings:
    """Analyze every slice of a study and bring the slices together.

    Slices go through the analyzer in its batches and only the mask and the probability, one byte a voxel each, are
    kept of them.

    Args:
        analyzer: The loaded ensemble.
        study: A volume; a picture is a volume of one slice.
        progress: Called with ``(slices done, slices)``.
    """
    shape = study.pixels.shape[:3]
    mask, probability = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    seen: list[Findings] = []
    places: list[tuple[int, Region, tuple[int, int]]] = []
    timing: dict[str, float] = {}
    for findings in analyzer.analyze_slices(study):
        k = findings.slice_index
        mask[k] = findings.mask
        probability[k] = np.rint(np.clip(findings.tumor_map, 0, 1) * 255).astype(np.uint8)
        places += [(k, r, at) for r, at in _points(findings)]
        for stage, milliseconds in findings.timing_ms.items():
            timing[stage] = timing.get(stage, 0.0) + milliseconds
        seen.append(_without_maps(findings))
        if progress is not None:
            progress(len(seen), study.n_slices)
    lesions = _lesions(mask, [f.verdict == "tumor" for f in seen], places, study)
    slices = tuple(_summary(f, mask[f.slice_index], study) for f in seen)
    shared: dict[str, Any] = {
        "source": study.source, "mask": mask, "probability": probability, "slices": slices, "spacing": study.spacing,
        "timing_ms": timing, "weights": seen[0].weights, "warnings": study.warnings,
    }  # fmt: skip
    readable = [f for f in seen if f.status == "ok"]
    if not readable:
        return VolumeFindings(status="rejected", reason=seen[0].reason, **shared)
    chance = _probability([f.tumor_probability for f in seen])
    threshold = float(readable[0].threshold or 0.0)
    types = _types(readable, slices)
    positive = chance >= threshold
    counts = np.bincount(mask.reshape(-1), minlength=len(CLASSES))
    voxels = {c.key: int(counts[c.index]) for c in TUMORS}
    milliliters = _voxel_ml(study)
    return VolumeFindings(
        status="ok",
        verdict="tumor" if positive else "no tumor",
        tumor_probability=chance,
        threshold=threshold,
        tumor_type=max(types, key=lambda t: types[t]) if positive else None,
        type_probabilities=types,
        lesions=lesions,
        volumes_ml={k: None if milliliters is None else n * milliliters for k, n in voxels.items()},
        voxels=voxels,
        **shared,
    )


def _without_maps(findings: Findings) -> Findings:
    """The same findings with their maps let go, which is what bounds the memory."""
    nothing = np.zeros((0, 0), np.float32)
    return replace(
        findings, picture=nothing, mask=nothing.astype(np.uint8), tumor_map=nothing, uncertainty=nothing, members=()
    )


def _points(findings: Findings) -> list[tuple[Region, tuple[int, int]]]:
    """One pixel ``(row, column)`` inside each region, by which to find the lesion that it belongs to."""
    if not findings.regions:
        return []
    tumor = (findings.mask >= FIRST_TUMOR).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(tumor, connectivity=8)
    boxes = {(int(y), int(x), int(y + h), int(x + w), int(a)): k for k, (x, y, w, h, a) in enumerate(stats) if k}
    found = []
    for region in findings.regions:
        top, left, bottom, right = region.bbox
        label = boxes[(top, left, bottom, right, region.area_px)]
        row, column = np.argwhere(labels[top:bottom, left:right] == label)[0]
        found.append((region, (top + int(row), left + int(column))))
    return found


def _lesions(
    mask: np.ndarray, positive: list[bool], places: list[tuple[int, Region, tuple[int, int]]], study: Study
) -> tuple[Lesion, ...]:
    """Join regions through the slices (touching corners count), and clear from ``mask`` what is no lesion."""
    from scipy.ndimage import find_objects, label  # type: ignore[attr-defined]

    labels, count = label(mask >= FIRST_TUMOR, structure=np.ones((3, 3, 3), bool))
    regions: dict[int, list[tuple[int, Region]]] = {}
    for k, region, (row, column) in places:
        regions.setdefault(int(labels[k, row, column]), []).append((k, region))
    smallest = max(2, MIN_REGION * mask[0].size / 256**2)
    gap = None if study.spacing is None else study.spacing[0]
    # A volume thinner than MIN_HEIGHT_MM, a single picture for one, is not held to it.
    height = 1 if gap is None else min(mask.shape[0], max(1, round(MIN_HEIGHT_MM / gap)))
    found = []
    for number, box in enumerate(find_objects(labels, count), 1):
        inside = labels[box] == number
        slices = range(box[0].start, box[0].stop)
        if (
            inside.sum() < smallest
            or len(slices) < height
            or number not in regions
            or not any(positive[k] for k in slices)
        ):
            mask[box][inside] = HEAD.index
            continue
        found.append(_lesion(mask[box], inside, box, regions[number], study))
    return tuple(sorted(found, key=lambda x: -x.voxels))


def _lesion(
    classes: np.ndarray, inside: np.ndarray, box: tuple[slice, ...], regions: list[tuple[int, Region]], study: Study
) -> Lesion:
    counts = np.bincount(classes[inside], minlength=len(CLASSES))
    areas = inside.sum((1, 2))
    largest = int(areas.argmax())
    where, longest = max(regions, key=lambda item: item[1].longest_diameter_mm or item[1].longest_diameter_px)
    milliliters = _voxel_ml(study)
    pixel = None if study.spacing is None else study.spacing[1] * study.spacing[2]
    center = np.argwhere(inside).mean(0) + [s.start for s in box]
    return Lesion(
        type=max(TUMORS, key=lambda c: counts[c.index]).key,
        voxels=int(inside.sum()),
        volume_ml=None if milliliters is None else float(inside.sum()) * milliliters,
        first_slice=box[0].start,
        last_slice=box[0].stop - 1,
        largest_slice=box[0].start + largest,
        largest_area_mm2=None if pixel is None else float(areas[largest]) * pixel,
        longest_diameter_px=longest.longest_diameter_px,
        longest_diameter_mm=longest.longest_diameter_mm,
        perpendicular_diameter_mm=longest.perpendicular_diameter_mm,
        diameter_slice=where,
        centroid=(float(center[0]), float(center[1]), float(center[2])),
        side=max((r for _, r in regions), key=lambda r: r.area_px).side,
    )


def _voxel_ml(study: Study) -> float | None:
    """Milliliters of one voxel, or None; spacing across slices runs along their normal, so shear is allowed for."""
    if study.spacing is None or study.spacing[0] is None:
        return None
    return study.spacing[0] * study.spacing[1] * study.spacing[2] / 1000


def _probability(chances: list[float | None]) -> float:
    """Highest mean of two neighboring slices; of a lone readable slice, its own."""
    pairs = [(a + b) / 2 for a, b in itertools.pairwise(chances) if a is not None and b is not None]
    return max(pairs) if pairs else max(c for c in chances if c is not None)


def _types(readable: list[Findings], slices: tuple[SliceSummary, ...]) -> dict[str, float]:
    weights = np.array([slices[f.slice_index].area_px for f in readable], float)
    if not weights.any():
        weights = np.array([f.tumor_probability or 0.0 for f in readable]) + 1e-9
    return {
        c.key: float(np.average([f.type_probabilities[c.key] for f in readable], weights=weights)) for c in TUMORS
    }


def _summary(findings: Findings, mask: np.ndarray, study: Study) -> SliceSummary:
    area = int((mask >= FIRST_TUMOR).sum())
    pixel = None if study.spacing is None else study.spacing[1] * study.spacing[2]
    return SliceSummary(
        findings.slice_index, findings.status, findings.verdict, findings.tumor_probability, area,
        None if pixel is None else area * pixel, findings.disagreement,
    )  # fmt: skip


def _plain(item: Lesion | SliceSummary) -> dict[str, Any]:
    """A dataclass of numbers and words as JSON values, rounded."""
    plain: dict[str, Any] = {}
    for key, value in vars(item).items():
        if isinstance(value, tuple):
            plain[key] = [round(v, 2) for v in value]
        elif isinstance(value, float):
            plain[key] = round(value, 4)
        else:
            plain[key] = value
    return plain


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(float(value), digits)
