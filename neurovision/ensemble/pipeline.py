"""Analyzer: a Study goes in, Findings come out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter

import numpy as np

from neurovision.classes import BACKGROUND, FIRST_TUMOR, HEAD, Classes
from neurovision.ensemble.calibration import (
    OTHER,
    SequenceHead,
    area_interval,
    expected_dice,
    quality_features,
)
from neurovision.ensemble.engine import Engine, load_engine
from neurovision.ensemble.features import Scene, disagreement, tumor_threshold
from neurovision.ensemble.looks import classify_both_ways, look_twice
from neurovision.ensemble.manifest import Manifest
from neurovision.ensemble.out_of_distribution import OutOfDistribution
from neurovision.ensemble.regions import find_regions, smallest_region
from neurovision.ensemble.results import Findings, Interval, MemberFinding, Verdict
from neurovision.ensemble.screen import SENTENCES, Screen
from neurovision.ensemble.verdict import refusal, retyped, tumor_probability, type_probabilities, verdict_features
from neurovision.ensemble.voter import Voter
from neurovision.ensemble.weights import load_manifest
from neurovision.scan.prepare import Canvas, prepare, standardize
from neurovision.scan.study import Study
from neurovision.segmenters import title_of

BATCH = 8
NOT_A_BRAIN = "This does not look like a slice of a brain MRI; open one, upright and with the whole head in the picture."
SCREENED = 0.5  # doubt about a picture that is upside down, negative or a CT
UNFAMILIAR = (
    "The picture is unlike the scans that the networks know (another view, sequence or crop, upside down, or no brain): "
    "confidence was lowered, and the result is to be trusted less."
)


@dataclass(frozen=True)
class _Batch:
    """Slices on their way from the networks to the vote.

    Attributes:
        indices: Which slices of the study.
        grays: The slices.
        canvases: The slices on the networks' grid.
        reasons: Why each is refused, or None.
        readable: Positions of those that are not refused.
        softmax: float32 ``(M, len(readable), size, size, K)``, or None where nothing is readable.
        answers: The classifier's, float32 ``(len(readable), K)``, or None without one.
        scores: Out-of-distribution score of each readable slice, or None without a classifier.
        sequences: What each readable slice looks like, or None where the weights do not tell.
        timing: Milliseconds a slice, by stage.
    """

    indices: list[int]
    grays: list[np.ndarray]
    canvases: list[Canvas]
    reasons: list[str | None]
    readable: list[int]
    softmax: np.ndarray | None
    answers: np.ndarray | None
    scores: np.ndarray | None
    sequences: list[str] | None
    timing: dict[str, float]

    def scenes(self) -> list[Scene]:
        """What the vote sees of each readable slice beside the members' maps."""
        given = [None] * len(self.readable) if self.answers is None else list(self.answers)
        canvases = [self.canvases[k] for k in self.readable]
        return [Scene(standardize(c.pixels), c.head, a) for c, a in zip(canvases, given, strict=True)]


@dataclass(frozen=True)
class _Voted:
    """One readable slice after the vote, all maps on the networks' grid.

    Attributes:
        index: Which slice of the study.
        gray: The slice.
        canvas: The slice on the grid.
        softmax: float32 ``(M, size, size, K)``, the members'.
        vote: float32 ``(size, size, K)``.
        answers: The classifier's, float32 ``(K,)``, or None without one.
        score: The out-of-distribution score, or None without a classifier.
        sequence: What the slice looks like, or None where the weights do not tell.
    """

    index: int
    gray: np.ndarray
    canvas: Canvas
    softmax: np.ndarray
    vote: np.ndarray
    answers: np.ndarray | None
    score: float | None
    sequence: str | None

    @cached_property
    def member_maps(self) -> np.ndarray:
        """Each member's probability of any tumor, float32 ``(M, size, size)``."""
        return self.softmax[..., FIRST_TUMOR:].sum(-1)


class Analyzer:
    """The loaded ensemble. It keeps no state of a study, so that one analyzer may serve everyone."""

    def __init__(self, manifest: Manifest, engine: Engine, voter: Voter) -> None:
        self.manifest, self.engine, self.voter = manifest, engine, voter
        self._outside = OutOfDistribution.load(manifest)
        self._sequence = SequenceHead.load(manifest)
        self._titles = tuple(title_of(m.name, m.config) for m in manifest.members)

    @classmethod
    def load(cls, weights: Path | None = None, engine: str = "auto") -> Analyzer:
        """Load the shipped weights.

        Args:
            weights: Folder with a manifest; the project's own by default.
            engine: One of ``engine.ENGINES``.

        Raises:
            WeightsError: A file is missing or is not the shipped one.
        """
        manifest = load_manifest(weights)
        with ThreadPoolExecutor(1, "load") as beside:  # compiling networks and importing trees use different cores
            voter = beside.submit(Voter.load, manifest)
            return cls(manifest, load_engine(manifest, engine), voter.result())

    def restore(self, canvas: Canvas, probabilities: np.ndarray, threshold: float = 0.5) -> np.ndarray:
        """Labels in the slice's own pixels; see :func:`restore_labels`, which the benchmark's naive way replaces."""
        return restore_labels(canvas, probabilities, threshold)

    def analyze(self, study: Study, slice_index: int = 0) -> Findings:
        """Analyze one slice of a study.

        Raises:
            IndexError: The study has no such slice.
        """
        if not 0 <= slice_index < study.n_slices:
            raise IndexError(f"The study has {study.n_slices} slices; there is no slice {slice_index}.")
        return next(self.analyze_slices(study, [slice_index]))

    def analyze_slices(self, study: Study, indices: Sequence[int] | None = None) -> Iterator[Findings]:
        """Analyze many slices, BATCH at a time, in order.

        The networks run on the next batch while this one is voted on and measured. No more than that one batch is
        ever ahead, so memory stays bounded as the caller consumes the findings.

        Args:
            study: A picture or a volume.
            indices: Which slices; all by default.
        """
        wanted = list(range(study.n_slices)) if indices is None else list(indices)
        batches = [wanted[first : first + BATCH] for first in range(0, len(wanted), BATCH)]
        if len(batches) < 2:
            for batch in batches:
                yield from self._finish(study, self._run(study, batch))
            return
        with ThreadPoolExecutor(1, "networks") as ahead:
            following = ahead.submit(self._run, study, batches[0])
            for batch in batches[1:]:
                ready, following = following.result(), ahead.submit(self._run, study, batch)
                yield from self._finish(study, ready)
            yield from self._finish(study, following.result())

    def _run(self, study: Study, indices: list[int]) -> _Batch:
        """Prepare a batch and run the networks on what is readable of it."""
        start = perf_counter()
        grays = [study.gray(i) for i in indices]
        canvases = [prepare(g, self.manifest.size, study.pixel_shape) for g in grays]
        classified = self._outside is not None
        reasons = [refusal(g, c, classified) for g, c in zip(grays, canvases, strict=True)]
        readable = [k for k, reason in enumerate(reasons) if reason is None]
        standard = {k: standardize(canvases[k].pixels) for k in readable}
        prepared = perf_counter()
        softmax = answers = scores = sequences = None
        if self._outside is not None and readable:
            answers, features = classify_both_ways(self.engine, np.stack([standard[k] for k in readable]))
            scores = self._outside.score(answers, features)
            known = scores < self._outside.refuse
            for k in (k for k, is_known in zip(readable, known, strict=True) if not is_known):
                reasons[k] = NOT_A_BRAIN
            readable = [k for k in readable if reasons[k] is None]
            answers, scores = answers[known], scores[known]
            sequences = None if self._sequence is None else self._sequence.tell(features[known])
        if readable:
            softmax = look_twice(self.engine, np.stack([standard[k] for k in readable]))
        done = perf_counter()
        timing = {
            "prepare": (prepared - start) * 1e3 / len(indices),
            "networks": (done - prepared) * 1e3 / max(len(readable), 1),
        }
        return _Batch(indices, grays, canvases, reasons, readable, softmax, answers, scores, sequences, timing)

    def _finish(self, study: Study, batch: _Batch) -> Iterator[Findings]:
        """Vote on a batch and measure its slices one by one."""
        vote, timing = None, dict(batch.timing)
        if batch.softmax is not None:
            start = perf_counter()
            vote = self.voter.vote_maps(batch.softmax, batch.scenes())
            timing["vote"] = (perf_counter() - start) * 1e3 / len(batch.readable)
        for k, index in enumerate(batch.indices):
            gray, reason = batch.grays[k], batch.reasons[k]
            if reason is not None or vote is None or batch.softmax is None:
                yield self._rejected(study, index, gray, str(reason), batch.timing)
                continue
            n = batch.readable.index(k)
            answers = None if batch.answers is None else batch.answers[n]
            score = None if batch.scores is None else float(batch.scores[n])
            sequence = None if batch.sequences is None else batch.sequences[n]
            voted = _Voted(index, gray, batch.canvases[k], batch.softmax[:, n], vote[n], answers, score, sequence)
            yield self._findings(study, voted, timing)

    def _rejected(self, study: Study, index: int, gray: np.ndarray, reason: str, timing: dict[str, float]) -> Findings:
        empty = np.zeros(gray.shape, np.float32)
        return Findings(
            reason=reason, source=study.source, picture=gray, mask=np.zeros(gray.shape, np.uint8), tumor_map=empty,
            uncertainty=empty, slice_index=index, timing_ms={**timing, "total": sum(timing.values())},
            weights=self.manifest.digest[:12], classes=self.manifest.classes, warnings=study.warnings,
        )  # fmt: skip

    def _findings(self, study: Study, voted: _Voted, timing: dict[str, float]) -> Findings:
        """Type, verdict, masks and measurements of one slice."""
        start = perf_counter()
        classes, model = self.manifest.classes, self.manifest.verdict
        types = type_probabilities(voted.vote, classes.keys, voted.answers, model.type_weight)
        voted = replace(voted, vote=retyped(voted.vote, types))
        differ = disagreement(voted.member_maps >= 0.5)
        verdict, warnings = self._verdict(voted, types, differ)
        warnings += sequence_differs(study.source.sequence, voted.sequence)
        mask, marked_from = self._mask(voted.canvas, voted.vote, verdict)
        regions = find_regions(mask, study, voted.index, classes)
        marked = int((mask >= FIRST_TUMOR).sum())
        verdict = self._promised(study, voted, verdict, marked, marked_from)
        warnings += differ_warning(verdict, bool(regions), marked, smallest_region(mask.shape))
        tumor_map, uncertainty = _maps(voted)
        members = self._members(voted, verdict)
        timing = {**timing, "measure": (perf_counter() - start) * 1e3}
        return Findings(
            source=study.source,
            verdict=verdict,
            picture=voted.gray,
            mask=mask,
            tumor_map=tumor_map,
            uncertainty=uncertainty,
            marked_from=marked_from,
            regions=regions,
            members=members,
            disagreement=differ,
            spacing=None if study.spacing is None else study.spacing[1:],
            slice_index=voted.index,
            timing_ms={**timing, "total": sum(timing.values())},
            weights=self.manifest.digest[:12],
            classes=classes,
            sequence=voted.sequence,
            warnings=study.warnings + warnings,
        )

    def _promised(self, study: Study, voted: _Voted, verdict: Verdict, marked: int, marked_from: float) -> Verdict:
        """The verdict with the outline's expected Dice and the interval of its area, where the weights hold them."""
        quality, intervals = self.manifest.quality, self.manifest.intervals
        if quality is None or not marked:
            return verdict
        tumor = voted.vote[..., FIRST_TUMOR:].sum(-1)
        expected = expected_dice(quality_features(tumor, tumor >= marked_from, voted.member_maps >= 0.5), quality)
        if intervals is None:
            return replace(verdict, expected_dice=expected)
        pixel = 1.0 if study.spacing is None else study.spacing[1] * study.spacing[2]
        low, high = area_interval(marked * pixel, expected, study.source.sequence or voted.sequence, intervals)
        interval = Interval(low, high, "px" if study.spacing is None else "mm2")
        return replace(verdict, expected_dice=expected, interval=interval)

    def _verdict(self, voted: _Voted, types: dict[str, float], differ: float) -> tuple[Verdict, tuple[str, ...]]:
        """The verdict, and what a reader must know of it."""
        model = self.manifest.verdict
        warnings: tuple[str, ...] = ()
        areas = (voted.member_maps >= 0.5).sum((1, 2))
        # From the members' mean, not the vote: the verdict was fitted on the fold that taught the vote its trees.
        features = verdict_features(voted.member_maps.mean(0), areas, differ, voted.answers)
        probability = tumor_probability(features, model)
        doubt = 0.0
        if self._outside is not None and voted.score is not None and voted.score >= self._outside.warn:
            doubt, warnings = self._outside.doubt(voted.score), (UNFAMILIAR,)
        faults = Screen.load().faults(voted.canvas.pixels) if self._outside is not None and voted.canvas.found else ()
        if faults:
            doubt, warnings = max(doubt, SCREENED), (UNFAMILIAR, *(SENTENCES[f] for f in faults))
        # Towards the threshold, so that doubt lowers confidence and turns no verdict over.
        probability += (model.threshold - probability) * doubt
        if self._outside is not None and not voted.canvas.found:
            warnings += ("No head stands out from the background: the whole picture was read.",)
        verdict = Verdict.of(probability, model.threshold, types, self.manifest.borderline)
        return verdict, warnings + borderline_warning(verdict)

    def _mask(self, canvas: Canvas, probabilities: np.ndarray, verdict: Verdict) -> tuple[np.ndarray, float]:
        """Labels in the slice's own pixels, and the probability from which they are marked.

        Where the verdict is tumor, pixels are marked from a fitted share of the slice's peak; sets that fitted no share,
        and other verdicts, mark from 0.5.
        """
        share, marked_from = self.manifest.verdict.mask_share, 0.5
        if verdict.positive and share is not None:
            marked_from = tumor_threshold(probabilities[..., FIRST_TUMOR:].sum(-1), share)
        return self.restore(canvas, probabilities, marked_from), marked_from

    def _members(self, voted: _Voted, verdict: Verdict) -> tuple[MemberFinding, ...]:
        masks = [self._mask(voted.canvas, p, verdict)[0] for p in voted.softmax]
        named = zip(self.manifest.members, self._titles, masks, strict=True)
        return tuple(_member(m.name, title, mask, self.manifest.classes) for m, title, mask in named)


def _maps(voted: _Voted) -> tuple[np.ndarray, np.ndarray]:
    """Probability of any tumor and uncertainty in the slice's own pixels, float32 ``(H, W)`` in [0, 1]."""
    count = voted.vote.shape[-1]
    planes = np.stack([voted.canvas.restore(voted.vote[..., k], float(k == BACKGROUND.index)) for k in range(count)])
    entropy = -(planes * np.log(np.maximum(planes, 1e-9))).sum(0) / np.log(count)
    return planes[FIRST_TUMOR:].sum(0), np.clip(entropy, 0, 1).astype(np.float32)


def borderline_warning(verdict: Verdict) -> tuple[str, ...]:
    """What to say of a verdict near its threshold."""
    if verdict.state != "borderline":
        return ()
    return (
        f"Borderline: the probability of a tumor is {100 * verdict.probability:.0f} %, near the threshold of"
        f" {100 * verdict.threshold:.0f} %, where verdicts are often wrong.",
    )


def sequence_differs(header: str | None, seen: str | None) -> tuple[str, ...]:
    """What to say where the file's header names one sequence and the picture looks like another."""
    if header is None or seen in (None, OTHER, header):
        return ()
    return (f"The file says that this is {header}; the picture looks like {seen}.",)


def differ_warning(verdict: Verdict, found: bool, marked: int, smallest: float) -> tuple[str, ...]:
    """What to say where verdict and mask differ.

    Args:
        verdict: Of the slice or volume.
        found: Whether any region or lesion was measured.
        marked: Tumor pixels or voxels of the mask.
        smallest: Pixels of the smallest region that is measured.
    """
    if verdict.positive and not found:
        return (
            f"The verdict is tumor, but only {marked} px are marked, in no region of at least {smallest:.0f} px."
            if marked
            else "The verdict is tumor, but no pixel is marked.",
        )
    if found and not verdict.positive:
        return (
            f"The mask marks {marked} px, but the verdict is {verdict.called}: the probability of a tumor is"
            f" {100 * verdict.probability:.0f} %, the threshold {100 * verdict.threshold:.0f} %.",
        )
    return ()


def restore_labels(canvas: Canvas, probabilities: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """``features.label_map`` of the restored probabilities, without restoring all of them.

    Interpolation is linear: sums and differences of classes may be taken on the grid, and what is below the threshold on
    the whole grid is below it everywhere.

    Args:
        canvas: The slice's canvas.
        probabilities: float32 ``(size, size, K)``.
        threshold: Probability of any tumor from which a pixel is marked.

    Returns:
        uint8 ``(H, W)`` of class indices.
    """
    head = canvas.restore(probabilities[..., HEAD.index] - probabilities[..., BACKGROUND.index], -1.0) > 0
    labels = np.where(head, HEAD.index, BACKGROUND.index).astype(np.uint8)
    tumor = probabilities[..., FIRST_TUMOR:].sum(-1)
    if tumor.max() >= threshold:
        inside = canvas.restore(tumor) >= threshold
        types = [canvas.restore(plane)[inside] for plane in np.moveaxis(probabilities[..., FIRST_TUMOR:], -1, 0)]
        labels[inside] = np.argmax(types, 0) + FIRST_TUMOR
    return labels


def _member(name: str, title: str, mask: np.ndarray, classes: Classes) -> MemberFinding:
    counts = np.bincount(mask.ravel(), minlength=len(classes))
    area = int(counts[FIRST_TUMOR:].sum())
    return MemberFinding(name, area, classes.commonest(counts) if area else None, mask, title)
