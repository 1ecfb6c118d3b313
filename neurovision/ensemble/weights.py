"""``weights/manifest.json``: what is shipped, and the proof that a file is what was shipped."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurovision.ensemble.cache import user_cache
from neurovision.errors import WeightsMissing, WeightsTampered

DEFAULT = Path(__file__).parents[2] / "weights"  # of a checkout; an installed package has none
FILE = "manifest.json"
PIN = "NEUROVISION_MANIFEST_SHA256"
CURRENT = "current"  # in ``fetched_sets()``: the name of the set that was fetched last


@dataclass(frozen=True)
class MemberEntry:
    """One trained network.

    Attributes:
        name: The architecture.
        file: Its weights, safetensors in float16.
        sha256: Their digest.
        config: Arguments that its builder was called with.
        parameters: Trainable and not.
        scores: What ``neurovision evaluate`` measured, by data set, or empty.
    """

    name: str
    file: str
    sha256: str
    config: dict[str, Any]
    parameters: int
    scores: dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """The shipped set.

    Attributes:
        folder: Where the files are.
        size: Side of the canvas that all members read.
        members: In the order of the vote's features.
        vote: ``{"forest": {"file", "sha256"}, "boost": {"file", "sha256"}, "members": weights of their mean, ...}``.
        verdict: Coefficients of the verdict's model.
        training: Data, split, date and licence.
        digest: sha256 of the manifest's own bytes.
        classifier: The network that reads the whole slice, or None where the set has none.
        familiar: ``{"file", "sha256", "refuse", "warn"}``, see ``ensemble.familiar``; None without a classifier.
    """

    folder: Path
    size: int
    members: tuple[MemberEntry, ...]
    vote: dict[str, Any]
    verdict: dict[str, Any]
    training: dict[str, Any]
    digest: str
    classifier: MemberEntry | None = None
    familiar: dict[str, Any] | None = None

    def path(self, file: str, sha256: str) -> Path:
        """The path of a listed file, after its digest was checked.

        Raises:
            WeightsMissing: It is not there.
            WeightsTampered: Its digest differs.
        """
        self.read(file, sha256)
        return self.folder / file

    def read(self, file: str, sha256: str) -> bytes:
        """The bytes of a listed file: the very ones whose digest was checked, so that no other can be parsed.

        Raises:
            WeightsMissing: It is not there.
            WeightsTampered: Its digest differs.
        """
        path = self.folder / file
        if Path(file).name != file or not path.is_file():
            raise WeightsMissing(f"The manifest names {file}, which is not in the weights folder; fetch the weights again.")
        data = path.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != sha256:
            raise WeightsTampered(
                f"{file} is not the file that was shipped (sha256 {found[:12]}, expected {sha256[:12]}); fetch it again."
            )
        return data


def fetched_sets() -> Path:
    """Where ``neurovision hub pull`` keeps what it fetched, one folder a revision."""
    return user_cache() / "hub"


def local_weights() -> Path | None:
    """The folder that needs no fetching: what NEUROVISION_WEIGHTS names, else the working directory's, else a checkout's."""
    named = os.environ.get("NEUROVISION_WEIGHTS")
    if named:
        return Path(named)
    return next((folder for folder in (Path.cwd() / "weights", DEFAULT) if (folder / FILE).is_file()), None)


def find_weights() -> Path:
    """The local folder, else what was fetched last; DEFAULT, which then has no manifest, where there is neither."""
    local = local_weights()
    if local is not None:
        return local
    current = fetched_sets() / CURRENT
    return fetched_sets() / current.read_text().strip() if current.is_file() else DEFAULT


def load_manifest(folder: Path | None = None) -> Manifest:
    """Read the manifest; files are checked when :meth:`Manifest.path` hands them out.

    Args:
        folder: The weights folder; by default what ``find_weights`` finds.

    Raises:
        WeightsMissing: There is none.
        WeightsTampered: It cannot be parsed, or is not the one that NEUROVISION_MANIFEST_SHA256 names.
    """
    folder = folder or find_weights()
    path = folder / FILE
    if not path.is_file():
        raise WeightsMissing(
            f"There is no {FILE} in {folder.name}/; name a folder in NEUROVISION_WEIGHTS, fetch one with 'neurovision hub"
            " pull', or make one with 'neurovision train' and 'neurovision stack'."
        )
    data = path.read_bytes()
    digest, pinned = hashlib.sha256(data).hexdigest(), os.environ.get(PIN, "").lower()
    if pinned and digest != pinned:
        raise WeightsTampered(f"{FILE} has the sha256 {digest[:12]}, {PIN} asks for {pinned[:12]}; fetch the weights again.")
    try:
        raw = json.loads(data)
        _check(raw)
        members = tuple(MemberEntry(**m) for m in raw["members"])
        return Manifest(
            folder, int(raw["size"]), members, raw["vote"], raw["verdict"], raw["training"], digest,
            MemberEntry(**raw["classifier"]) if raw.get("classifier") else None, raw.get("familiar"),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise WeightsTampered(f"{FILE} is not a manifest that this version reads; fetch the weights again.") from e


def _check(raw: dict[str, Any]) -> None:
    """Refuse what would be used before any digest is checked: sizes, names and arguments of builders.

    Raises:
        ValueError: Something is not as this project writes it.
        KeyError: Something is missing.
    """
    networks = [*raw["members"], *([raw["classifier"]] if raw.get("classifier") else [])]
    listed = [*networks, *(part for part in raw["vote"].values() if isinstance(part, dict) and "file" in part)]
    listed += [raw["familiar"]] if raw.get("familiar") else []
    sound = (
        32 <= int(raw["size"]) <= 1024
        and 1 <= len(raw["members"]) <= 32
        and all(re.fullmatch(r"[A-Za-z0-9_.-]{1,80}", e["file"]) for e in listed)
        and all(re.fullmatch(r"[0-9a-f]{64}", e["sha256"]) for e in listed)
        and all(re.fullmatch(r"[a-z0-9_]{1,40}", m["name"]) for m in networks)
        and not any("weights" in key for m in networks for key in m["config"])  # a builder would fetch those
        and isinstance(raw["verdict"], dict)
        and isinstance(raw["training"], dict)
    )
    if not sound:
        raise ValueError("a manifest that this project did not write")
