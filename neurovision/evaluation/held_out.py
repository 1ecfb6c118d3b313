"""How well the loaded weights did on scans like one: read from the evaluation that belongs to them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

EVALUATION = Path(__file__).parents[2] / "docs" / "evaluation"  # of a checkout or a Space
FILE = "evaluation.json"
NAMES = {
    "lgg": "FLAIR slices",
    "all": "slices of all kinds",
}


@dataclass(frozen=True)
class HeldOut:
    """Rates on scans that neither the networks nor the vote were fitted on, per slice, in [0, 1].

    Attributes:
        scans: What kind of scans, in words.
        sensitivity: Share of tumor slices that the verdict calls tumor, or None where none were measured.
        with_tumor: How many.
        false_alarms: Share of tumor-free slices that it calls tumor, or None.
        without_tumor: How many.
        type_right: Share of found tumors whose type is right, or None.
    """

    scans: str
    sensitivity: float | None
    with_tumor: int
    false_alarms: float | None
    without_tumor: int
    type_right: float | None


def held_out(weights: str, sequence: str | None, folders: tuple[Path, ...] = (EVALUATION,)) -> HeldOut | None:
    """The rates for scans of one sequence.

    Args:
        weights: The manifest's sha256.
        sequence: As in :class:`~neurovision.scan.study.Source`.
        folders: Where the evaluation may lie; the first that holds one is read.

    Returns:
        The rates, or None where no evaluation of these weights is here.
    """
    for folder in folders:
        path = folder / FILE
        if path.is_file():
            result = _read(path, path.stat().st_mtime_ns)
            measured = str(result.get("about", {}).get("weights", ""))
            return _rates(result, sequence) if measured and weights.startswith(measured[:12]) else None
    return None


@lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _rates(result: dict[str, Any], sequence: str | None) -> HeldOut | None:
    verdicts, types = result.get("verdict", {}), result.get("type", {})
    kind = "lgg" if sequence == "FLAIR" and "lgg" in verdicts else "all"
    if kind not in verdicts:
        return None
    sensitivity, specificity = verdicts[kind]["sensitivity"], verdicts[kind]["specificity"]
    right = types.get("lgg" if kind == "lgg" else "figshare", {}).get("accuracy", {})
    return HeldOut(
        NAMES[kind], sensitivity["value"], sensitivity["n"],
        None if specificity["value"] is None else 1 - specificity["value"], specificity["n"], right.get("value"),
    )  # fmt: skip
