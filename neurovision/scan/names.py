"""What a scan and its results are called: so that two patients cannot be mixed up, in any file system."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath

# Endings that name a format. Anything else behind a dot, as in 1.2.840.113619 or T1.5T, belongs to the name.
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
VOLUMES = (".nii", ".hdr", ".img")
PACKED = (".gz", ".bz2", ".zst")  # behind one of VOLUMES
DICOM = (".dcm", ".dicom", ".ima", ".dic", ".mr")
# Results are called STEM.prob.seg.dcm and the like; file systems take 255 bytes.
MAX_STEM = 220


def stem_of(name: str | PurePath) -> str:
    """A file's name without the ending that tells its format, ``.nii.gz`` being one; folders are left out.

    Names that end otherwise are kept whole: ``1.2.840.113619`` has no ending.
    """
    whole = PurePath(name).name
    lower = whole.lower()
    packed = next((p for p in PACKED if lower.endswith(p)), "")
    for suffix in VOLUMES if packed else (*PICTURES, *VOLUMES, *DICOM):
        if lower.endswith(suffix + packed) and len(lower) > len(suffix + packed):
            return whole[: -len(suffix + packed)]
    return whole


def free_stem(stem: str, used: set[str]) -> str:
    """A name for results that no earlier scan has: ``a``, then ``a-2``, ...; it is added to ``used``.

    It has at most MAX_STEM bytes, a longer one ends with digits of its digest; names that differ in case alone count
    as the same, as in many file systems.
    """
    first = _cut(stem)
    name, number = first, 1
    while _key(name) in used:
        number += 1
        name = f"{first}-{number}"
    used.add(_key(name))
    return name


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _cut(stem: str) -> str:
    data = os.fsencode(stem)
    if len(data) <= MAX_STEM - 6:  # room for a number
        return stem
    digest = hashlib.sha256(data).hexdigest()[:8]
    return f"{data[: MAX_STEM - 16].decode(errors='ignore')}~{digest}"


def shown(name: str) -> str:
    """A name fit for a message or a table: what is no character, and what would break a line, becomes ``?``."""
    return "".join("?" if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in name)


def told_apart(paths: Sequence[Path], folders: Sequence[Path]) -> list[str]:
    """Name scans by their paths in the given folders; a scan given by itself by its file's name.

    Where two names would be alike, folders above the file are added until they differ, as far as the paths were given;
    what is alike even then is numbered.

    Args:
        paths: Of the scans, as they were found.
        folders: For each the folder that was given and holds it, or its own parent.

    Returns:
        For each its name, with ``/`` between folders. No two are alike.
    """
    names = _differing(paths, [len(p.parts) - len(f.parts) for p, f in zip(paths, folders, strict=True)])
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return numbered


def stems_of(paths: Sequence[Path]) -> list[str]:
    """What the results of scans are called: by the file's name, and by folders too where that is not enough.

    Returns:
        For each a file name without an ending; no two are alike.
    """
    bare = [p.with_name(stem_of(p)) if p.name else p for p in paths]
    used: set[str] = set()
    return [free_stem(name.replace("/", "_"), used) for name in _differing(bare, [1] * len(bare))]


def _differing(paths: Sequence[Path], depth: Sequence[int]) -> list[str]:
    """The last ``depth`` parts of each path, and more of those that would be alike."""
    depth = [max(1, d) for d in depth]
    names = [_tail(p, d) for p, d in zip(paths, depth, strict=True)]
    while True:
        counts = Counter(names)
        depth = [d + (counts[n] > 1) for n, d in zip(names, depth, strict=True)]
        longer = [_tail(p, d) for p, d in zip(paths, depth, strict=True)]
        if longer == names:
            return names
        names = longer


def _tail(path: Path, count: int) -> str:
    parts = [p for p in path.parts if p not in (path.anchor, "..")]
    return shown("/".join(parts[-count:])) if parts else shown(str(path))
