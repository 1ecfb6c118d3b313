"""Where the weights are: what the environment names, what lies at hand, what was fetched."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from neurovision.ensemble.cache import is_ours, user_cache
from neurovision.ensemble.manifest import FILE, Manifest, read_manifest

log = logging.getLogger(__name__)

DEFAULT = Path(__file__).parents[2] / "weights"  # of a checkout; an installed package has none
PIN = "NEUROVISION_MANIFEST_SHA256"
CURRENT = "current"  # in ``fetched_sets()``: the name of the set that was fetched last


def fetched_sets() -> Path:
    """Where ``neurovision hub pull`` keeps what it fetched, one folder a revision."""
    return user_cache() / "hub"


def local_weights() -> Path | None:
    """The folder that needs no fetching: what NEUROVISION_WEIGHTS names, else the working directory's, else a checkout's.

    The working directory's is taken only where nobody but this user and root could have put it there.
    """
    named = os.environ.get("NEUROVISION_WEIGHTS")
    if named:
        return Path(named)
    here = Path.cwd() / "weights"
    if (here / FILE).is_file():
        if is_ours(here) and is_ours(here / FILE):
            return here
        log.warning("weights/ of the working directory is not used: another user may write it (see NEUROVISION_WEIGHTS).")
    return DEFAULT if (DEFAULT / FILE).is_file() else None


def find_weights() -> Path:
    """The local folder, else what was fetched last; DEFAULT, which then has no manifest, where there is neither."""
    local = local_weights()
    if local is not None:
        return local
    current = fetched_sets() / CURRENT
    return fetched_sets() / current.read_text().strip() if current.is_file() else DEFAULT


def load_manifest(folder: Path | None = None) -> Manifest:
    """Read and check the manifest of a folder, by default of what ``find_weights`` finds; see ``read_manifest``.

    Raises:
        WeightsMissing: There is none.
        WeightsTampered: It cannot be read, or is not the one that NEUROVISION_MANIFEST_SHA256 names.
    """
    return read_manifest(folder or find_weights(), os.environ.get(PIN, ""))
