"""One scan through the analyzer and against its truth, in the file's own pixels; a run can be interrupted and resumed."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from neurovision.classes import FIRST_TUMOR, Classes
from neurovision.ensemble.pipeline import Analyzer
from neurovision.ensemble.results import Findings
from neurovision.errors import DataError
from neurovision.evaluation.scores import Counts, lesion_scores, mask_scores
from neurovision.scan.prepare import head_mask
from neurovision.scan.study import Source, Study
from neurovision.training.dataset import Item

VOTE, VERDICT = "vote", "verdict"  # names beside the members': the vote's mask, and the same emptied by the verdict
TOLERANCE = 2.0  # pixels, of the boundary F1
SMALLEST_LESION = 12  # pixels: a smaller false speck is no lesion
PIXELS_A_SLICE = 400  # of the head, drawn for the uncertainty's check


@dataclass(frozen=True)
class MaskRow:
    """One mask of one scan against its truth.

    Attributes:
        counts: ``(tp, fp, fn, tn)`` pixels of any tumor.
        scores: MASK_SCORES of any tumor.
        typed_dice: Dice of the annotated type's class alone; NaN where the type is not known.
        kind: Commonest tumor class of the mask, or None.
        lesion_dice: Of :func:`~neurovision.evaluation.scores.lesion_scores`.
        lesions_found: Annotated lesions found.
        false_lesions: Lesions where none is annotated.
    """

    counts: tuple[int, int, int, int]
    scores: dict[str, float]
    typed_dice: float
    kind: str | None
    lesion_dice: float
    lesions_found: int
    false_lesions: int

    @property
    def area(self) -> int:
        """Tumor pixels of the mask."""
        return self.counts[0] + self.counts[1]


@dataclass(frozen=True)
class Row:
    """What was measured on one scan.

    Attributes:
        key: ``source/id/sequence``.
        source: The data set; ``lgg_t1c`` for LGG's post-contrast sequence.
        patient: Identifier, or None where unknown.
        sequence: As in :class:`~neurovision.training.dataset.Item`.
        sequence_right: Whether the picture was told to be of that sequence; None where either is not known.
        label: As in :class:`~neurovision.training.dataset.Item`.
        rejected: Whether the analyzer refused it.
        warned: Whether its result carries a warning.
        probability: The verdict's; NaN when rejected.
        positive: Whether the verdict was tumor.
        types: Probability of each type.
        masks: By member, VOTE and VERDICT; empty where the data set draws no tumor.
        lesions: Annotated lesions.
        uncertainty: Of up to PIXELS_A_SLICE pixels of the head.
        wrong: Whether the vote is wrong there.
        expected_dice: As the verdict promises it, or None.
        interval: Of the tumor's area in pixels, as the verdict promises it, or None.
        milliseconds: Of the whole analysis.
    """

    key: str
    source: str
    patient: str | None
    sequence: str | None
    sequence_right: bool | None
    label: str
    rejected: bool
    warned: bool
    probability: float
    positive: bool
    types: dict[str, float]
    masks: dict[str, MaskRow]
    lesions: int
    uncertainty: list[float]
    wrong: list[bool]
    expected_dice: float | None
    interval: tuple[float, float] | None
    milliseconds: float

    @property
    def tumor(self) -> bool:
        """Whether there is a tumor in truth."""
        return self.label != "none"

    @property
    def cluster(self) -> str:
        """What the bootstrap draws: the patient where one is known, else the scan."""
        return f"{self.source}/{self.patient}" if self.patient else self.key


def analyze_item(analyzer: Analyzer, item: Item) -> Findings:
    """Run the product on one item; the study tells nothing but its pixels."""
    gray = item.gray()
    return analyzer.analyze(Study(np.ascontiguousarray(gray[None, ..., None], np.float32), Source("scan", "array")))


def known_truth(item: Item, shape: tuple[int, ...]) -> np.ndarray | None:
    """Bool mask of ``shape`` (H, W), nowhere True on a scan without tumor; None for a tumor that nobody has drawn.

    Raises:
        DataError: A mask of another size than its picture.
    """
    if item.mask is None and item.tumor:
        return None
    truth = item.truth()
    if truth is None:
        return np.zeros(shape, bool)
    if truth.shape != shape:
        raise DataError(
            f"Data set {item.source}: the mask of {item.id} is {truth.shape[1]} x {truth.shape[0]}, "
            f"its picture {shape[1]} x {shape[0]}."
        )
    return truth


def measure(analyzer: Analyzer, item: Item) -> Row:
    """Analyze one item and score every mask."""
    findings = analyze_item(analyzer, item)
    truth = known_truth(item, findings.picture.shape)
    masks: dict[str, MaskRow] = {}
    uncertainty, wrong = np.zeros(0), np.zeros(0, bool)
    if truth is not None:
        nothing = np.zeros(truth.shape, np.uint8)
        drawn = {m.name: nothing for m in analyzer.manifest.members}  # a rejected scan has no member's mask
        drawn.update({m.name: m.mask for m in findings.members})
        drawn[VOTE] = findings.mask
        drawn[VERDICT] = findings.mask if findings.positive else nothing
        masks = {name: mask_row(truth, mask, item.label, findings.classes) for name, mask in drawn.items()}
        uncertainty, wrong = _pixels(findings, truth, _key(item))
    verdict = findings.verdict
    interval = None if findings.verdict is None else findings.verdict.interval
    return Row(
        key=_key(item),
        source="lgg_t1c" if item.source == "lgg" and item.sequence == "T1c" else item.source,
        patient=item.patient,
        sequence=item.sequence,
        sequence_right=None if None in (item.sequence, findings.sequence) else findings.sequence == item.sequence_title,
        label=item.label,
        rejected=findings.status == "rejected",
        warned=bool(findings.warnings),
        probability=float("nan") if verdict is None else verdict.probability,
        positive=findings.positive,
        types={} if verdict is None else dict(verdict.types),
        masks=masks,
        lesions=0 if truth is None else len(lesion_scores(truth, truth).dice),
        uncertainty=[round(float(u), 6) for u in uncertainty],
        wrong=[bool(w) for w in wrong],
        expected_dice=None if findings.verdict is None else findings.verdict.expected_dice,
        interval=None if interval is None else (interval.low, interval.high),
        milliseconds=float(findings.timing_ms.get("total", float("nan"))),
    )


def mask_row(truth: np.ndarray, mask: np.ndarray, label: str, classes: Classes) -> MaskRow:
    """Score one label map.

    Args:
        truth: bool ``(H, W)``, tumor.
        mask: uint8 ``(H, W)`` of class indices.
        label: The scan's.
        classes: Of the mask.
    """
    annotated = classes.by_key.get(label)
    tumor = mask >= FIRST_TUMOR
    counts = Counts.of(truth, tumor)
    lesions = lesion_scores(truth, tumor, SMALLEST_LESION)
    seen = np.bincount(mask[tumor], minlength=len(classes))
    return MaskRow(
        counts=(counts.tp, counts.fp, counts.fn, counts.tn),
        scores=mask_scores(truth, tumor, tolerance=TOLERANCE),
        typed_dice=float("nan") if annotated is None else Counts.of(truth, mask == annotated.index).dice,
        kind=classes.commonest(seen) if tumor.any() else None,
        lesion_dice=lesions.lesion_dice,
        lesions_found=lesions.found,
        false_lesions=lesions.false_positives,
    )


def _key(item: Item) -> str:
    return f"{item.source}/{item.id}/{item.sequence or '-'}"


def _pixels(findings: Findings, truth: np.ndarray, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Draw pixels of the head: air is certain and right, and would make any map look meaningful."""
    head = head_mask(findings.picture)
    if head is None or findings.status == "rejected":
        return np.zeros(0), np.zeros(0, bool)
    inside = np.flatnonzero(head)
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    at = rng.choice(inside, min(PIXELS_A_SLICE, len(inside)), replace=False)
    return findings.uncertainty.ravel()[at], ((findings.mask >= FIRST_TUMOR) != truth).ravel()[at]


def measure_all(analyzer: Analyzer, items: Sequence[Item], engine: str, work: Path) -> list[Row]:
    """Measure items in order; rows that an earlier run of the same weights, engine and code wrote are taken over.

    Args:
        analyzer: The loaded ensemble.
        items: What to measure.
        engine: How it runs, for telling runs apart.
        work: Folder for the rows: it names scans, so it stays out of what is published.
    """
    header = json.dumps({"weights": analyzer.manifest.digest, "engine": engine, "code": _code_digest()})
    file = work / f"rows-{analyzer.manifest.digest[:12]}-{engine}.jsonl"
    work.mkdir(parents=True, exist_ok=True)
    known = _read(file, header)
    with file.open("a" if known is not None else "w") as stream:
        if known is None:
            stream.write(header + "\n")
        rows = known or {}
        for item in tqdm(items, desc="evaluate", unit="scan", disable=None):
            if _key(item) not in rows:
                row = rows[_key(item)] = measure(analyzer, item)
                stream.write(json.dumps(asdict(row)) + "\n")
                stream.flush()
    return [rows[_key(i)] for i in items]


def _code_digest() -> str:
    package = Path(__file__).parents[1]
    code = sorted(p for room in ("scan", "segmenters", "ensemble") for p in (package / room).glob("*.py"))
    code += [Path(__file__), package / "evaluation" / "scores.py"]
    return hashlib.sha256(b"".join(p.read_bytes() for p in code)).hexdigest()


def _read(file: Path, header: str) -> dict[str, Row] | None:
    """Rows of an earlier run by key, or None where there is none that fits; a line cut off at its end is dropped."""
    if not file.is_file():
        return None
    whole = file.read_text()
    lines = whole.splitlines()
    if not lines or lines[0] != header:
        return None
    if not whole.endswith("\n"):
        lines = lines[:-1]
        file.write_text("\n".join(lines) + "\n")
    return {row.key: row for row in map(_row, lines[1:])}


def _row(line: str) -> Row:
    raw: dict[str, Any] = json.loads(line)
    raw["masks"] = {k: MaskRow(**{**v, "counts": tuple(v["counts"])}) for k, v in raw["masks"].items()}
    raw["interval"] = None if raw["interval"] is None else tuple(raw["interval"])
    return Row(**raw)


