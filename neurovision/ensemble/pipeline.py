"""Analyzer: a Study goes in, Findings come out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from neurovision.classes import CLASSES, FIRST_TUMOR, TUMORS
from neurovision.ensemble.engine import Engine, load_engine
from neurovision.ensemble.features import disagreement, label_map, pixel_features
from neurovision.ensemble.findings import Findings, MemberFinding, find_regions
from neurovision.ensemble.verdict import refusal, tumor_probability, type_probabilities, verdict_features
from neurovision.ensemble.voter import Voter
from neurovision.ensemble.weights import Manifest, load_manifest
from neurovision.scan.prepare import Canvas, prepare, standardize
from neurovision.scan.study import Study

BATCH = 8


class Analyzer:
    """The loaded ensemble. It keeps no state of a study, so that one analyzer may serve everyone."""

    def __init__(self, manifest: Manifest, engine: Engine, voter: Voter) -> None:
        self.manifest, self.engine, self.voter = manifest, engine, voter

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
        return cls(manifest, load_engine(manifest, engine), Voter.load(manifest))

    def analyze(self, study: Study, slice_index: int = 0) -> Findings:
        """Analyze one slice of a study.

        Raises:
            IndexError: The study has no such slice.
        """
        if not 0 <= slice_index < study.n_slices:
            raise IndexError(f"The study has {study.n_slices} slices; there is no slice {slice_index}.")
        return next(self.analyze_slices(study, [slice_index]))

    def analyze_slices(self, study: Study, indices: Sequence[int] | None = None) -> Iterator[Findings]:
        """Analyze many slices, BATCH at a time, in order; memory stays bounded as the caller consumes them.

        Args:
            study: A picture or a volume.
            indices: Which slices; all by default.
        """
        wanted = list(range(study.n_slices)) if indices is None else list(indices)
        for first in range(0, len(wanted), BATCH):
            yield from self._batch(study, wanted[first : first + BATCH])

    def _batch(self, study: Study, indices: list[int]) -> Iterator[Findings]:
        start = perf_counter()
        grays = [study.gray(i) for i in indices]
        canvases = [prepare(g, self.manifest.size) for g in grays]
        reasons = [refusal(g, c) for g, c in zip(grays, canvases, strict=True)]
        readable = [k for k, reason in enumerate(reasons) if reason is None]
        prepared = perf_counter()
        softmax = None
        if readable:
            softmax = self.engine.predict(np.stack([standardize(canvases[k].pixels) for k in readable]))
        done = perf_counter()
        shared = {
            "prepare": (prepared - start) * 1e3 / len(indices),
            "networks": (done - prepared) * 1e3 / max(len(readable), 1),
        }
        for k, index in enumerate(indices):
            if softmax is None or reasons[k] is not None:
                yield self._rejected(study, index, grays[k], str(reasons[k]), shared)
            else:
                yield self._findings(study, index, grays[k], canvases[k], softmax[:, readable.index(k)], shared)

    def _rejected(self, study: Study, index: int, gray: np.ndarray, reason: str, timing: dict[str, float]) -> Findings:
        empty = np.zeros(gray.shape, np.float32)
        return Findings(
            status="rejected", reason=reason, source=study.source, picture=gray, mask=np.zeros(gray.shape, np.uint8),
            tumor_map=empty, uncertainty=empty, slice_index=index, timing_ms={**timing, "total": sum(timing.values())},
            weights=self.manifest.digest[:12], warnings=study.warnings,
        )  # fmt: skip

    def _findings(
        self, study: Study, index: int, gray: np.ndarray, canvas: Canvas, softmax: np.ndarray, timing: dict[str, float]
    ) -> Findings:
        start = perf_counter()
        size = canvas.size
        vote = self.voter.vote(pixel_features(softmax)).reshape(size, size, len(CLASSES))
        voted = perf_counter()
        probabilities = canvas.restore_probabilities(vote)
        tumor_map = probabilities[..., FIRST_TUMOR:].sum(-1)
        member_grids = label_map(softmax)
        differ = disagreement(member_grids >= FIRST_TUMOR)
        # From the members' mean, not the vote: the verdict was fitted on the fold that taught the vote its trees.
        members_map = softmax.mean(0)[..., FIRST_TUMOR:].sum(-1)
        features = verdict_features(members_map, (member_grids >= FIRST_TUMOR).sum((1, 2)), differ)
        probability = tumor_probability(features, self.manifest.verdict)
        threshold = float(self.manifest.verdict["threshold"])
        types = type_probabilities(vote)
        positive = probability >= threshold
        mask = label_map(probabilities)
        _, left, side = canvas.box
        columns = np.flatnonzero(canvas.head.any(0))
        middle = left + (columns[0] + columns[-1] + 1) / 2 * side / size if len(columns) else left + side / 2
        width = (columns[-1] + 1 - columns[0]) * side / size if len(columns) else side
        entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-9))).sum(-1) / np.log(len(CLASSES))
        members = tuple(
            self._member(entry.name, canvas.restore_probabilities(p))
            for entry, p in zip(self.manifest.members, softmax, strict=True)
        )
        regions = find_regions(mask, (middle, width), study, index)
        warnings = study.warnings
        if positive != bool(regions):
            warnings += (
                "The verdict and the mask differ: the probability is near its threshold, or the marked area is tiny.",
            )
        done = perf_counter()
        timing = {**timing, "vote": (voted - start) * 1e3, "measure": (done - voted) * 1e3}
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

    @staticmethod
    def _member(name: str, probabilities: np.ndarray) -> MemberFinding:
        mask = label_map(probabilities)
        counts = np.bincount(mask.ravel(), minlength=len(CLASSES))
        area = int(counts[FIRST_TUMOR:].sum())
        kind = max(TUMORS, key=lambda c: counts[c.index]).key if area else None
        return MemberFinding(name, area, kind, mask)
