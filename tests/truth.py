"""An Analyzer that knows the truth, so that what is measured after it can be worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import numpy as np

from neurovision.classes import SHIPPED
from neurovision.ensemble.regions import find_regions
from neurovision.ensemble.results import Findings, Verdict
from neurovision.scan.study import Study


class TruthAnalyzer:
    """Says what it was told: uint8 ``(S, H, W)`` of class indices, the probability of each slice."""

    def __init__(self, truth: np.ndarray, chances: Sequence[float] | None = None, rejected: Sequence[int] = ()) -> None:
        self.truth, self.rejected = truth, set(rejected)
        self.chances = chances or [0.95 if (t >= 2).any() else 0.02 for t in truth]
        self.calls = 0
        self.manifest = SimpleNamespace(  # which promises nothing
            digest="f" * 64, classes=SHIPPED, borderline=None, intervals=None
        )

    def analyze_slices(self, study: Study, indices: Sequence[int] | None = None) -> Iterator[Findings]:
        self.calls += 1
        for k in range(study.n_slices) if indices is None else indices:
            mask = np.zeros_like(self.truth[k]) if k in self.rejected else self.truth[k].copy()
            tumor = (mask >= 2).astype(np.float32)
            common = {
                "source": study.source, "picture": study.gray(k), "mask": mask, "tumor_map": tumor * 0.8,
                "uncertainty": tumor * 0, "slice_index": k, "timing_ms": {"total": 2.0}, "weights": "f" * 12,
                "warnings": study.warnings, "spacing": None if study.spacing is None else study.spacing[1:],
            }  # fmt: skip
            if k in self.rejected:
                yield Findings(reason="No head stands out.", **common)
                continue
            kind = int(mask.max()) if tumor.any() else 2
            types = {t: (0.8 if kind == n else 0.1) for n, t in enumerate(("glioma", "meningioma", "pituitary"), 2)}
            yield Findings(
                verdict=Verdict.of(self.chances[k], 0.5, types),
                regions=find_regions(mask, study, k), **common,
            )  # fmt: skip

    def analyze(self, study: Study, slice_index: int = 0) -> Findings:
        return next(self.analyze_slices(study, [slice_index]))
