"""Volumes: every slice analyzed, and what they say together, in milliliters."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np

from neurovision.classes import FIRST_TUMOR, HEAD, Classes
from neurovision.ensemble.calibration import volume_interval
from neurovision.ensemble.manifest import Manifest
from neurovision.ensemble.pipeline import Analyzer, borderline_warning, differ_warning, sequence_differs
from neurovision.ensemble.regions import smallest_region
from neurovision.ensemble.results import (
    Findings,
    Interval,
    Lesion,
    PackedSlice,
    Region,
    Result,
    SliceSummary,
    Verdict,
    VolumeFindings,
    in_255ths,
    voxel_ml,
)
from neurovision.ensemble.screen import SENTENCES
from neurovision.scan.study import Study

MIN_HEIGHT_MM = 3.0  # a lesion reaches through at least this much, so that one thin slice's error is none

Place = tuple[int, Region, tuple[int, int]]  # slice, region, one pixel (row, column) inside it


def analyze_study(analyzer: Analyzer, study: Study, progress: Callable[[int, int], None] | None = None) -> Result:
    """Analyze all of a study: a picture gives :class:`Findings`, several slices give :class:`VolumeFindings`.

    Args:
        analyzer: The loaded ensemble.
        study: What was read.
        progress: Called with ``(slices done, slices)``.
    """
    if study.n_slices > 1:
        return analyze_volume(analyzer, study, progress)
    findings = analyzer.analyze(study)
    if progress is not None:
        progress(1, 1)
    return findings


def analyze_volume(
    analyzer: Analyzer, study: Study, progress: Callable[[int, int], None] | None = None
) -> VolumeFindings:
    """Analyze every slice of a study and bring the slices together.

    Slices go through the analyzer in its batches. Of each voxel three bytes are kept (mask, probability, uncertainty),
    and the members' masks compressed.

    Args:
        analyzer: The loaded ensemble.
        study: A volume; a picture is a volume of one slice.
        progress: Called with ``(slices done, slices)``.
    """
    shape, classes = study.pixels.shape[:3], analyzer.manifest.classes
    mask, probability, uncertainty = (np.zeros(shape, np.uint8) for _ in range(3))
    seen: list[PackedSlice] = []
    places: list[Place] = []
    timing: dict[str, float] = {}
    for findings in analyzer.analyze_slices(study):
        k = findings.slice_index
        mask[k] = findings.mask
        probability[k], uncertainty[k] = in_255ths(findings.tumor_map), in_255ths(findings.uncertainty)
        places += [(k, r, at) for r, at in _points(findings)]
        for stage, milliseconds in findings.timing_ms.items():
            timing[stage] = timing.get(stage, 0.0) + milliseconds
        seen.append(PackedSlice.of(findings))
        if progress is not None:
            progress(len(seen), study.n_slices)
    said = [p.findings for p in seen]
    lesions = _lesions(mask, [f.positive for f in said], places, study, classes)
    slices = tuple(_summary(f, mask[f.slice_index], study) for f in said)
    verdict = _verdict(analyzer.manifest, said, slices, study)
    counts = np.bincount(mask.reshape(-1), minlength=len(classes))
    warnings, sequence = study.warnings + _screened(said), _commonest([f.sequence for f in said])
    if verdict is not None:
        warnings += sequence_differs(study.source.sequence, sequence) + borderline_warning(verdict)
        warnings += differ_warning(verdict, bool(lesions), int(counts[FIRST_TUMOR:].sum()), smallest_region(shape[1:]))
    return VolumeFindings(
        source=study.source,
        verdict=verdict,
        reason=said[0].reason if verdict is None else None,
        timing_ms=timing,
        weights=said[0].weights,
        classes=classes,
        sequence=sequence,
        warnings=warnings,
        study=study,
        mask=mask,
        probability=probability,
        uncertainty=uncertainty,
        slices=slices,
        packed=tuple(_kept(p, mask, places) for p in seen),
        lesions=lesions,
        voxels={t.key: int(counts[t.index]) for t in classes.tumors},
    )


def _kept(packed: PackedSlice, mask: np.ndarray, places: list[Place]) -> PackedSlice:
    """A slice with those of its regions alone that are part of a lesion."""
    at = packed.findings.slice_index
    regions = tuple(r for k, r, (row, column) in places if k == at and mask[k, row, column] >= FIRST_TUMOR)
    return replace(packed, findings=replace(packed.findings, regions=regions))


def _verdict(
    manifest: Manifest, said: list[Findings], slices: tuple[SliceSummary, ...], study: Study
) -> Verdict | None:
    """The volume's, or None where no slice shows a readable head."""
    verdicts = [f.verdict for f in said]
    readable = [v for v in verdicts if v is not None]
    if not readable:
        return None
    areas = np.array([s.area_px for s, v in zip(slices, verdicts, strict=True) if v is not None], float)
    weights = areas if areas.any() else np.array([v.probability for v in readable]) + 1e-9
    types = {k: float(np.average([v.types[k] for v in readable], weights=weights)) for k in manifest.classes.keys}
    chance = _probability([None if v is None else v.probability for v in verdicts])
    verdict = Verdict.of(chance, readable[0].threshold, types, manifest.borderline)
    return _promised(manifest, verdict, verdicts, slices, study)


def _promised(
    manifest: Manifest,
    verdict: Verdict,
    verdicts: list[Verdict | None],
    slices: tuple[SliceSummary, ...],
    study: Study,
) -> Verdict:
    """The verdict with its slices' mean expected Dice, weighted by area, and the interval of its volume or area."""
    pairs = zip(slices, verdicts, strict=True)
    drawn = [(s.area_px, v.expected_dice) for s, v in pairs if v is not None and v.expected_dice is not None and s.area_px]
    if not drawn:
        return verdict
    areas, dice = (np.array(column, float) for column in zip(*drawn, strict=True))
    expected, voxel = float(np.average(dice, weights=areas)), voxel_ml(study)
    if study.n_slices == 1:  # a picture: of its area, as its slice says
        return replace(verdict, expected_dice=expected, interval=next(v.interval for v in verdicts if v is not None))
    total = sum(s.area_px for s in slices)
    ends = None
    if manifest.intervals is not None and voxel is not None:
        ends = volume_interval(total * voxel, manifest.intervals)
    return replace(verdict, expected_dice=expected, interval=None if ends is None else Interval(*ends, "ml"))


def _commonest(sequences: list[str | None]) -> str | None:
    """The sequence that most slices look like, or None."""
    counts = Counter(s for s in sequences if s is not None)
    return counts.most_common(1)[0][0] if counts else None


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
    mask: np.ndarray, positive: list[bool], places: list[Place], study: Study, classes: Classes
) -> tuple[Lesion, ...]:
    """Join regions through the slices (touching corners count), and clear from ``mask`` what is no lesion."""
    from scipy.ndimage import find_objects, label  # type: ignore[attr-defined]

    labels, count = label(mask >= FIRST_TUMOR, structure=np.ones((3, 3, 3), bool))
    regions: dict[int, list[tuple[int, Region]]] = {}
    for k, region, (row, column) in places:
        regions.setdefault(int(labels[k, row, column]), []).append((k, region))
    smallest = smallest_region(mask[0].shape)
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
        found.append(_lesion(mask[box], inside, box, regions[number], study, classes))
    return tuple(sorted(found, key=lambda x: -x.voxels))


def _lesion(
    labels: np.ndarray, inside: np.ndarray, box: tuple[slice, ...], regions: list[tuple[int, Region]], study: Study,
    classes: Classes,
) -> Lesion:  # fmt: skip
    counts = np.bincount(labels[inside], minlength=len(classes))
    areas = inside.sum((1, 2))
    largest = int(areas.argmax())
    where, longest = max(regions, key=lambda item: item[1].longest_diameter_mm or item[1].longest_diameter_px)
    milliliters = voxel_ml(study)
    pixel = None if study.spacing is None else study.spacing[1] * study.spacing[2]
    center = np.argwhere(inside).mean(0) + [s.start for s in box]
    return Lesion(
        type=classes.commonest(counts),
        voxels=int(inside.sum()),
        volume_ml=None if milliliters is None else float(inside.sum()) * milliliters,
        first_slice=box[0].start,
        last_slice=box[0].stop - 1,
        largest_slice=box[0].start + largest,
        largest_area_mm2=None if pixel is None else float(areas[largest]) * pixel,
        longest_diameter_px=longest.longest_diameter_px,
        longest_diameter_mm=longest.longest_diameter_mm,
        perpendicular_diameter_px=longest.perpendicular_diameter_px,
        perpendicular_diameter_mm=longest.perpendicular_diameter_mm,
        diameter_slice=where,
        centroid=(float(center[0]), float(center[1]), float(center[2])),
        side=max((r for _, r in regions), key=lambda r: r.area_px).side,
    )


def _probability(chances: list[float | None]) -> float:
    """Highest mean of two neighboring slices; of a lone readable slice, its own."""
    pairs = [(a + b) / 2 for a, b in itertools.pairwise(chances) if a is not None and b is not None]
    return max(pairs) if pairs else max(c for c in chances if c is not None)


def _summary(findings: Findings, mask: np.ndarray, study: Study) -> SliceSummary:
    verdict, area = findings.verdict, int((mask >= FIRST_TUMOR).sum())
    pixel = None if study.spacing is None else study.spacing[1] * study.spacing[2]
    return SliceSummary(
        findings.slice_index, findings.status, None if verdict is None else verdict.called,
        None if verdict is None else verdict.probability, area, None if pixel is None else area * pixel,
        findings.disagreement,
    )  # fmt: skip


def _screened(said: Sequence[Findings]) -> tuple[str, ...]:
    """What more than half of the readable slices say of the whole volume: it is upside down, a negative or a CT."""
    readable = [f for f in said if f.verdict is not None]
    return tuple(w for w in SENTENCES.values() if sum(w in f.warnings for f in readable) * 2 > max(1, len(readable)))
