"""The scan that one visitor has open: files in, series listed, one of them analyzed in full."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from neurovision.classes import HEAD
from neurovision.ensemble.pipeline import Analyzer
from neurovision.ensemble.results import Findings, VolumeFindings
from neurovision.ensemble.volume import analyze_volume
from neurovision.errors import NeurovisionError, UnsupportedScan
from neurovision.scan import contained
from neurovision.scan.study import Source, Study

MAX_SERIES = 40  # listed at once; more belong into Batch
NOT_OPEN = "No scan is open; open one in Read."


@dataclass(frozen=True)
class Series:
    """One scan among the files that were dropped.

    Attributes:
        files: Its files.
        name: What it is called.
        words: Its description for a list: name, sequence, slices, spacing.
        slices: How many.
        stacked: Whether the files are pictures that are to be read as the slices of one head.
    """

    files: tuple[str, ...]
    name: str
    words: str
    slices: int
    stacked: bool = False


@dataclass(frozen=True)
class Case:
    """A scan and all that was said of it; it lives in its visitor's session only.

    Attributes:
        volume: What was said of the whole scan; a picture is a volume of one slice.
        index: The slice that the other tabs show, from 0.
        files: What the scan was read from.
        token: Of this opening, so that the same file opened twice is told apart.
    """

    volume: VolumeFindings
    index: int
    files: tuple[str, ...] = ()
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def study(self) -> Study:
        """What was read."""
        return self.volume.study

    @property
    def findings(self) -> Findings:
        """What was said of the slice that the other tabs show, with all maps."""
        return self.volume.at(self.index)

    @property
    def key(self) -> str:
        """Tells whether a tab has drawn this scan and slice already."""
        return f"{self.token}/{self.index}"

    @property
    def state(self) -> str:
        """``"tumor"``, ``"borderline"``, ``"none"`` or ``"rejected"``."""
        verdict = self.volume.verdict
        return "rejected" if verdict is None else {"no tumor": "none"}.get(verdict.state, verdict.state)

    @property
    def title(self) -> str:
        """What the scan and its slice are called on every tab."""
        place = f", slice {self.index + 1} of {self.study.n_slices}" if self.study.n_slices > 1 else ""
        return f"{self.study.source.name}{place}"


def require(case: Case | None) -> Case:
    """The open case.

    Raises:
        UnsupportedScan: None is open.
    """
    if case is None:
        raise UnsupportedScan(NOT_OPEN)
    return case


def sort_files(paths: Sequence[str]) -> tuple[list[Series], list[tuple[str, str]], Study | None]:
    """Sort dropped files into series, the one with the most slices first.

    Returns:
        The series; name and reason of what cannot be read; the study of the first series.

    Raises:
        UnsupportedScan: No file, or more series than MAX_SERIES.
    """
    files = [Path(p) for p in paths]
    if not files:
        raise UnsupportedScan("There is no scan yet; drop a file or pick an example.")
    groups = contained.group_scans(files)
    if len(groups) > MAX_SERIES:
        raise UnsupportedScan(f"At most {MAX_SERIES} series are opened at once; received {len(groups)}, use Batch for them.")
    listed: list[Series] = []
    unread: list[tuple[str, str]] = []
    pictures: list[tuple[str, tuple[int, ...]]] = []
    first: Study | None = None  # pixels are kept of one series only
    for group in groups:
        name = group[0].name if len(group) == 1 else f"{len(group)} files from {group[0].name}"
        try:
            study = contained.study(group)
        except NeurovisionError as e:
            unread.append((name, str(e).removeprefix(f"{group[0].name}: ")))
            continue
        listed.append(Series(tuple(map(str, group)), study.source.name, describe(study), study.n_slices))
        if study.source.format not in ("DICOM", "NIfTI") and study.n_slices == 1:
            pictures.append((str(group[0]), study.pixels.shape[1:3]))
        if first is None or study.n_slices > first.n_slices:
            first = study
    listed.sort(key=lambda series: -series.slices)
    if len(pictures) > 1 and len({shape for _, shape in pictures}) == 1:
        together = tuple(sorted((file for file, _ in pictures), key=lambda f: Path(f).name))
        words = f"{len(together)} pictures as the slices of one head, in the order of their names"
        listed.append(Series(together, f"{len(together)} pictures", words, len(together), stacked=True))
    return listed, unread, first


def describe(study: Study) -> str:
    """Name, sequence, slices and spacing of a series, in one line."""
    words = [study.source.name, study.source.sequence or "", f"{study.n_slices} slices" if study.n_slices > 1 else "1 slice"]
    words.append(f"{study.pixels.shape[2]} × {study.pixels.shape[1]} px")  # noqa: RUF001 - a multiplication sign
    if study.spacing is not None:
        words.append(" × ".join(f"{s:.2g}" for s in study.spacing if s is not None) + " mm")  # noqa: RUF001
    return " · ".join(w for w in words if w)


def read_series(series: Series) -> Study:
    """Read one series, or pictures of one size in the order of their names.

    Raises:
        ScanError: A file cannot be read, or they do not belong together.
    """
    if not series.stacked:
        return contained.study([Path(f) for f in series.files])
    slices = [contained.study([Path(f)]) for f in series.files]
    shapes = {s.pixels.shape[1:3] for s in slices}
    if len(shapes) > 1:
        raise UnsupportedScan("Pictures that make one volume have one size; these have several, analyze them in Batch.")
    pixels = np.stack([s.gray() for s in slices])[..., None]
    notes = ("Pictures carry no geometry: the order of their names is taken for the order of the slices.",)
    return Study(pixels, Source(series.name, slices[0].source.format), warnings=notes)


def analyze(
    analyzer: Analyzer, study: Study, files: Sequence[str] = (), tell: Callable[[int, int], None] | None = None
) -> Case:
    """Analyze every slice of a study.

    Args:
        analyzer: The loaded ensemble.
        study: A picture or a volume.
        files: What it was read from.
        tell: Called with ``(slices done, slices)``.
    """
    volume = analyze_volume(analyzer, study, tell)
    return Case(volume, volume.shown_slice, tuple(files))


def marked(volume: VolumeFindings) -> np.ndarray:
    """The mask as it may be drawn, uint8 ``(S, H, W)``: where the verdict is no tumor nothing is marked as one."""
    if volume.verdict is not None and volume.verdict.state != "no tumor":
        return volume.mask
    return np.minimum(volume.mask, HEAD.index)


def at_slice(case: Case, number: float | None) -> Case:
    """The same case with another slice for the other tabs, counted from 1."""
    if not number or math.isnan(number):
        return case
    return replace(case, index=min(max(int(number), 1), case.study.n_slices) - 1)
