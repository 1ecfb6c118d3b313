"""Analyzer: a Study goes in, Findings come out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from neurovision.classes import BACKGROUND, CLASSES, FIRST_TUMOR, HEAD, TUMORS
from neurovision.ensemble.engine import Engine, classify_both_ways, load_engine, predict_both_ways
from neurovision.ensemble.features import Scene, disagreement, tumor_threshold
from neurovision.ensemble.findings import Findings, MemberFinding, find_regions
from neurovision.ensemble.manifest import Manifest
from neurovision.ensemble.out_of_distribution import OutOfDistribution
from neurovision.ensemble.verdict import refusal, retyped, tumor_probability, type_probabilities, verdict_features
from neurovision.ensemble.voter import Voter
from neurovision.ensemble.weights import load_manifest
from neurovision.scan.prepare import Canvas, prepare, standardize
from neurovision.scan.study import Study
from neurovision.segmenters import title_of

BATCH = 8
NOT_A_BRAIN = "This does not look like a slice of a brain MRI; open one, upright and with the whole head in the picture."
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
        softmax: float32 ``(M, len(readable), size, size, 5)``, or None where nothing is readable.
        answers: The classifier's, float32 ``(len(readable), 5)``, or None without one.
        scores: Out-of-distribution score of each readable slice, or None without a classifier.
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
    timing: dict[str, float]

    def scenes(self) -> list[Scene]:
        """What the vote sees of each readable slice beside the members' maps."""
        given = [None] * len(self.readable) if self.answers is None else list(self.answers)
        canvases = [self.canvases[k] for k in self.readable]
        return [Scene(standardize(c.pixels), c.head, a) for c, a in zip(canvases, given, strict=True)]


class Analyzer:
    """The loaded ensemble. It keeps no state of a study, so that one analyzer may serve everyone."""

    def __init__(self, manifest: Manifest, engine: Engine, voter: Voter) -> None:
        self.manifest, self.engine, self.voter = manifest, engine, voter
        self._outside = OutOfDistribution.load(manifest)
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
        canvases = [prepare(g, self.manifest.size) for g in grays]
        classified = self._outside is not None
        reasons = [refusal(g, c, classified) for g, c in zip(grays, canvases, strict=True)]
        readable = [k for k, reason in enumerate(reasons) if reason is None]
        standard = {k: standardize(canvases[k].pixels) for k in readable}
        prepared = perf_counter()
        softmax = answers = scores = None
        if self._outside is not None and readable:
            answers, features = classify_both_ways(self.engine, np.stack([standard[k] for k in readable]))
            scores = self._outside.score(answers, features)
            known = scores < self._outside.refuse
            for k in (k for k, is_known in zip(readable, known, strict=True) if not is_known):
                reasons[k] = NOT_A_BRAIN
            readable = [k for k in readable if reasons[k] is None]
            answers, scores = answers[known], scores[known]
        if readable:
            softmax = predict_both_ways(self.engine, np.stack([standard[k] for k in readable]))
        done = perf_counter()
        timing = {
            "prepare": (prepared - start) * 1e3 / len(indices),
            "networks": (done - prepared) * 1e3 / max(len(readable), 1),
        }
        return _Batch(indices, grays, canvases, reasons, readable, softmax, answers, scores, timing)

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
            else:
                n = batch.readable.index(k)
                answers = None if batch.answers is None else batch.answers[n]
                score = None if batch.scores is None else float(batch.scores[n])
                yield self._findings(
                    study, index, gray, batch.canvases[k], batch.softmax[:, n], vote[n], answers, score, timing
                )

    def _rejected(self, study: Study, index: int, gray: np.ndarray, reason: str, timing: dict[str, float]) -> Findings:
        empty = np.zeros(gray.shape, np.float32)
        return Findings(
            status="rejected", reason=reason, source=study.source, picture=gray, mask=np.zeros(gray.shape, np.uint8),
            tumor_map=empty, uncertainty=empty, slice_index=index, timing_ms={**timing, "total": sum(timing.values())},
            weights=self.manifest.digest[:12], warnings=study.warnings,
        )  # fmt: skip

    def _findings(
        self,
        study: Study,
        index: int,
        gray: np.ndarray,
        canvas: Canvas,
        softmax: np.ndarray,
        vote: np.ndarray,
        answers: np.ndarray | None,
        score: float | None,
        timing: dict[str, float],
    ) -> Findings:
        start = perf_counter()
        size = canvas.size
        types = type_probabilities(vote, answers, self.manifest.verdict.type_weight)
        vote = retyped(vote, types)
        planes = np.stack([canvas.restore(vote[..., c.index], float(c is BACKGROUND)) for c in CLASSES])
        tumor_map = planes[FIRST_TUMOR:].sum(0)
        member_maps = softmax[..., FIRST_TUMOR:].sum(-1)
        member_grids = member_maps >= 0.5
        differ = disagreement(member_grids)
        # From the members' mean, not the vote: the verdict was fitted on the fold that taught the vote its trees.
        features = verdict_features(member_maps.mean(0), member_grids.sum((1, 2)), differ, answers)
        probability = tumor_probability(features, self.manifest.verdict)
        threshold = self.manifest.verdict.threshold
        warnings = study.warnings
        if self._outside is not None and score is not None and score >= self._outside.warn:
            # Towards the threshold, so that doubt lowers confidence and turns no verdict over.
            probability += (threshold - probability) * self._outside.doubt(score)
            warnings += (UNFAMILIAR,)
        if self._outside is not None and not canvas.found:
            warnings += ("No head stands out from the background: the whole picture was read.",)
        positive = probability >= threshold
        marked_from = self._marked_from(vote[..., FIRST_TUMOR:].sum(-1), positive)
        mask = self.restore(canvas, vote, marked_from)
        _, left, side = canvas.box
        columns = np.flatnonzero(canvas.head.any(0))
        middle = left + (columns[0] + columns[-1] + 1) / 2 * side / size if len(columns) else left + side / 2
        width = (columns[-1] + 1 - columns[0]) * side / size if len(columns) else side
        entropy = -(planes * np.log(np.maximum(planes, 1e-9))).sum(0) / np.log(len(CLASSES))
        member_masks = [
            self.restore(canvas, p, self._marked_from(t, positive)) for p, t in zip(softmax, member_maps, strict=True)
        ]
        members = tuple(
            _member(m.name, title, k)
            for m, title, k in zip(self.manifest.members, self._titles, member_masks, strict=True)
        )
        regions = find_regions(mask, (middle, width), study, index)
        if positive != bool(regions):
            warnings += (
                "The verdict and the mask differ: the probability is near its threshold, or the marked area is tiny.",
            )
        timing = {**timing, "measure": (perf_counter() - start) * 1e3}
        return Findings(
            status="ok",
            source=study.source,
            picture=gray,
            mask=mask,
            tumor_map=tumor_map,
            uncertainty=np.clip(entropy, 0, 1).astype(np.float32),
            verdict="tumor" if positive else "no tumor",
            tumor_probability=probability,
            threshold=threshold,
            marked_from=marked_from,
            tumor_type=max(types, key=lambda t: types[t]) if positive else None,
            type_probabilities=types,
            regions=regions,
            members=members,
            disagreement=differ,
            spacing=None if study.spacing is None else study.spacing[1:],
            slice_index=index,
            timing_ms={**timing, "total": sum(timing.values())},
            weights=self.manifest.digest[:12],
            warnings=warnings,
        )

    def _marked_from(self, tumor: np.ndarray, positive: bool) -> float:
        """The probability from which a slice's pixels are marked; sets that fitted no share mark from 0.5."""
        share = self.manifest.verdict.mask_share
        return tumor_threshold(tumor, share) if positive and share is not None else 0.5


def restore_labels(canvas: Canvas, probabilities: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """``features.label_map`` of the restored probabilities, without restoring all of them.

    Interpolation is linear: sums and differences of classes may be taken on the grid, and what is below the threshold on
    the whole grid is below it everywhere.

    Args:
        canvas: The slice's canvas.
        probabilities: float32 ``(size, size, 5)``.
        threshold: Probability of any tumor from which a pixel is marked.

    Returns:
        uint8 ``(H, W)`` of class indices.
    """
    head = canvas.restore(probabilities[..., HEAD.index] - probabilities[..., BACKGROUND.index], -1.0) > 0
    labels = np.where(head, HEAD.index, BACKGROUND.index).astype(np.uint8)
    tumor = probabilities[..., FIRST_TUMOR:].sum(-1)
    if tumor.max() >= threshold:
        inside = canvas.restore(tumor) >= threshold
        types = [canvas.restore(probabilities[..., c.index])[inside] for c in TUMORS]
        labels[inside] = np.argmax(types, 0) + FIRST_TUMOR
    return labels


def _member(name: str, title: str, mask: np.ndarray) -> MemberFinding:
    counts = np.bincount(mask.ravel(), minlength=len(CLASSES))
    area = int(counts[FIRST_TUMOR:].sum())
    kind = max(TUMORS, key=lambda c: counts[c.index]).key if area else None
    return MemberFinding(name, area, kind, mask, title)
