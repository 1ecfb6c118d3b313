"""What the shipped weights say of five phantoms, kept as JSON: ``python -m tests.stored_output`` writes it anew.

Write it when new weights ship. When it differs without new weights, some change of code changed the product's answers.
"""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from neurovision.ensemble.pipeline import Analyzer
from neurovision.scan.phantom import KINDS, phantom

FILE = Path(__file__).with_suffix(".json")
PHANTOMS = (*((kind, 40) for kind in KINDS), ("glioma", 41))
KEPT = ("status", "state", "tumor_probability", "type_probabilities", "tumor_type", "marked_from", "disagreement")


def output(analyzer: Analyzer) -> dict[str, Any]:
    """The weights' digest, and of each phantom what is measured of it and its mask."""
    scans = []
    for kind, seed in PHANTOMS:
        findings = analyzer.analyze(phantom(kind, seed)[0])
        facts = {k: v for k, v in findings.to_json().items() if k in KEPT}
        scans.append({**facts, "mask": packed(findings.mask)})
    return {"weights": analyzer.manifest.digest, "scans": scans}


def packed(mask: np.ndarray) -> dict[str, Any]:
    """A label map, uint8 ``(H, W)``, as text."""
    return {"shape": list(mask.shape), "labels": base64.b64encode(zlib.compress(mask.tobytes(), 9)).decode()}


def unpacked(mask: dict[str, Any]) -> np.ndarray:
    """The label map, uint8 ``(H, W)``, that :func:`packed` wrote."""
    return np.frombuffer(zlib.decompress(base64.b64decode(mask["labels"])), np.uint8).reshape(mask["shape"])


if __name__ == "__main__":
    FILE.write_text(json.dumps(output(Analyzer.load()), indent=1) + "\n")
    print(f"written: {FILE.name}")
