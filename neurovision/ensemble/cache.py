"""What is made once from the weights and kept on disk, because making it takes longer than reading it."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from platformdirs import user_cache_path

from neurovision.files import FULL

log = logging.getLogger(__name__)

DIGESTS = "digests.json"


def kept(weights: Path, facts: Sequence[str], names: Sequence[str], make: Callable[[Path], None]) -> dict[str, bytes]:
    """Files that ``make`` writes, from the cache or made now.

    A cached set is used only if its bytes have the digests written beside it; anything else is made anew. A set
    appears under its name in one step, so that no other process ever sees half of it. It lies beside the weights, else
    in the user's own cache, else (where nothing can be written) it is made at every start.

    Args:
        weights: The weights folder.
        facts: Everything that the files depend on, such as digests and versions.
        names: The files.
        make: Writes them into the folder that it is given.

    Returns:
        The files' bytes by name.
    """
    key = hashlib.sha256(json.dumps(list(facts)).encode()).hexdigest()[:16]
    places = [parent / key for parent in _parents(weights)]
    for place in places:
        if (found := _read(place, names)) is not None:
            return found
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{key}-"))
        except OSError:  # read-only
            continue
        try:
            files = _make(work, names, make)
            work.chmod(0o755)
            shutil.rmtree(place, ignore_errors=True)
            work.rename(place)
        except OSError as e:
            if e.errno in FULL:
                continue  # no room here; the next place may have some
            if e.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            log.debug("Another process made the same files first.")
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return files
    with tempfile.TemporaryDirectory(prefix="neurovision-") as folder:
        return _make(Path(folder), names, make)


def versions(*packages: str) -> list[str]:
    """Installed versions, "" where a package is not installed; nothing is imported."""
    found = []
    for package in packages:
        try:
            found.append(version(package))
        except PackageNotFoundError:
            found.append("")
    return found


def _make(folder: Path, names: Sequence[str], make: Callable[[Path], None]) -> dict[str, bytes]:
    make(folder)
    files = {name: (folder / name).read_bytes() for name in names}
    (folder / DIGESTS).write_text(json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in files.items()}))
    return files


def _read(folder: Path, names: Sequence[str]) -> dict[str, bytes] | None:
    try:
        if not all(is_ours(path) for path in (folder, folder / DIGESTS, *(folder / name for name in names))):
            return None
        digests = json.loads((folder / DIGESTS).read_text())
        files = {name: (folder / name).read_bytes() for name in names}
    except (OSError, ValueError):
        return None  # absent or cut off
    return files if {name: hashlib.sha256(data).hexdigest() for name, data in files.items()} == digests else None


def _parents(weights: Path) -> Iterator[Path]:
    yield weights / "cache"
    yield user_cache()


def is_ours(path: Path) -> bool:
    """Whether nobody but this user and root may have written a file or folder: what lies there is parsed.

    A link must be theirs as well as what it leads to. A group may write where it is this user's own.
    """
    if not hasattr(os, "geteuid"):
        return True
    status, trusted = path.stat(), (0, os.geteuid())
    foreign_group = status.st_mode & 0o020 and status.st_gid != os.getegid()
    return path.lstat().st_uid in trusted and status.st_uid in trusted and not (status.st_mode & 0o002 or foreign_group)


def user_cache() -> Path:
    """The user's own cache folder of neurovision; it need not exist."""
    return user_cache_path("neurovision", appauthor=False, opinion=False)
