"""What a fitted part is recorded with: the terms of its data sets, where and when it was fitted, and by which versions."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from neurovision import __version__
from neurovision.ensemble.cache import versions
from neurovision.errors import DataError
from neurovision.machine import accelerator, processor

ABOUT = "about.json"  # in a data set's folder: {"license": "..."}
NOT_STATED = "not stated"
LICENSES = {
    "figshare": "CC BY 4.0",
    "lgg": "CC BY-NC-SA 4.0",
    "navoneel": "none stated",
    "healthy": "CC0 1.0",
    "brats": "CC BY 4.0",
    "ms": "CC BY 4.0",
}
# From the most liberal to the strictest. Navoneel's authors state no terms, so that they add nothing to the others'.
ORDER = ("none stated", "CC0 1.0", "CC BY 4.0", "CC BY-SA 4.0", "CC BY-NC 4.0", "CC BY-NC-SA 4.0", "CC BY-NC-ND 4.0")


PACKAGES = (
    "keras", "jax", "torch", "tensorflow", "tensorflow-cpu", "openvino", "scikit-learn", "xgboost", "xgboost-cpu", "numpy",
)  # fmt: skip


def facts(seconds: float | None) -> dict[str, Any]:
    """Fields of ``manifest.Provenance`` that are true of this machine now, for a fit that took so many seconds, or None."""
    found = {name: v for name, v in zip(PACKAGES, versions(*PACKAGES), strict=True) if v}
    return {
        "hardware": processor(), "seconds": None if seconds is None else round(seconds, 1),
        "date": datetime.date.today().isoformat(),
        "versions": {"neurovision": __version__, **found},
    }  # fmt: skip


def facts_of_network(seconds: float | None) -> dict[str, Any]:
    """As :func:`facts`, of a network: on what Keras' backend computed, and which that was."""
    import keras

    found = facts(seconds)
    return {**found, "hardware": accelerator() or found["hardware"], "backend": keras.backend.backend()}


def license_of(root: Path, source: str) -> str:
    """The terms of a data set: what its ABOUT says, else what is known of it, else NOT_STATED.

    Raises:
        DataError: ABOUT cannot be read.
    """
    if root.is_file():
        from neurovision.training.packed import packed_licenses

        return packed_licenses(root).get(source, NOT_STATED)
    about = root / source / ABOUT
    if not about.is_file():
        return LICENSES.get(source, NOT_STATED)
    try:
        return str(json.loads(about.read_bytes())["license"]).strip() or NOT_STATED
    except (ValueError, KeyError, TypeError) as e:
        raise DataError(f'Data set {source}: {ABOUT} is to hold {{"license": "..."}}; correct it or take it away.') from e


def strictest(licenses: Iterable[str]) -> str:
    """The terms that weights learned from all of these keep to; terms that ORDER does not know are named as well."""
    found = set(licenses)
    if unknown := sorted(found - set(ORDER)):
        known = [name for name in ORDER[2:] if name in found]
        return ", ".join([*known[-1:], *unknown])
    return max(found, key=ORDER.index, default=NOT_STATED)
