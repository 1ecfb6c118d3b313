"""How well the loaded weights did on scans like one: read from the evaluation that belongs to them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurovision.ensemble.manifest import Manifest
    from neurovision.ensemble.results import Result

DOCS = Path(__file__).parents[2] / "docs"  # of a checkout or a Space
EVALUATION, GENERATOR = DOCS / "evaluation", DOCS / "diffusion.json"
FILE = "evaluation.json"
CODES = {"T1 post-contrast": "T1c"}  # what the evaluation calls a sequence, where it is another word
TYPED = {"FLAIR": "lgg", "T1": "brats", "T2": "brats"}  # the data set that has tumors of one; else figshare


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
        tumors: What kind of tumors those were, in words.
    """

    scans: str
    sensitivity: float | None
    with_tumor: int
    false_alarms: float | None
    without_tumor: int
    type_right: float | None
    tumors: str = "tumors"


def measured_for(manifest: Manifest, result: Result) -> HeldOut | None:
    """The rates on held-out scans like the one of a result: of its sequence by the file, or else by the picture."""
    return held_out(manifest.digest, result.source.sequence or result.sequence, (manifest.folder, EVALUATION))


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


def generator_words(weights: str, path: Path = GENERATOR) -> str:
    """How far generated pictures are from real scans, in two sentences; empty where it was not measured.

    Args:
        weights: The generator's sha256.
        path: What ``neurovision diffuse check`` wrote.
    """
    found = _read(path, path.stat().st_mtime_ns).get("check") if path.is_file() else None
    if not found or not weights.startswith(found["weights"]):
        return ""
    drawn, real, noise = (found["kid"][k] for k in ("generated", "training", "noise"))
    nearer = "nearer to noise than to real scans" if noise - drawn < drawn - real else "nearer to real scans than to noise"
    return (
        f"Their kernel distance (KID) from real scans is {drawn:.1f}; that of noise is {noise:.1f}, that of other real "
        f"scans {real:.1f}. By this measure they are {nearer}."
    )


@lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _rates(result: dict[str, Any], sequence: str | None) -> HeldOut | None:
    types = result.get("type", {})
    code = CODES.get(sequence or "", sequence)
    sets = [found[code] for found in result.get("by_sequence", {}).values() if code in found]
    if sets:
        name, (found, tumors) = f"{sequence} slices", _pooled([s["called_tumor"] for s in sets])
        alarms, free = _pooled([s["free_called_tumor"] for s in sets])
    elif "all" in result.get("verdict", {}):
        name, measured = "slices of all kinds", result["verdict"]["all"]
        found, tumors = measured["sensitivity"]["value"], measured["sensitivity"]["n"]
        alarms, free = measured["specificity"]["value"], measured["specificity"]["n"]
        alarms = None if alarms is None else 1 - alarms
    else:
        return None
    typed = TYPED.get(code or "", "figshare") if sets else "figshare"
    right = types.get(typed, {}).get("accuracy", {}).get("value")
    return HeldOut(name, found, tumors, alarms, free, right, "tumors" if typed == "figshare" else "tumors, all gliomas")


def _pooled(rates: list[dict[str, Any]]) -> tuple[float | None, int]:
    """The rate over several data sets together, and of how many slices it is."""
    count = sum(r["n"] for r in rates)
    return (sum(r["value"] * r["n"] for r in rates if r["n"]) / count if count else None), count
