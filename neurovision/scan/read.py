"""One door for every format: a path or bytes become a Study."""

from __future__ import annotations

from pathlib import Path

from neurovision.errors import DamagedScan, UnsupportedScan
from neurovision.scan.images import MAX_BYTES, SUFFIXES, read_image
from neurovision.scan.study import Study


def read(path: Path | str) -> Study:
    """Read one scan from disk.

    Args:
        path: A picture file.

    Raises:
        ScanError: Not readable as a scan; the message says why and what to do.
    """
    file = Path(path)
    if file.is_dir():
        raise UnsupportedScan(f"{file.name}: this is a folder, not a file.")
    if not file.is_file():
        raise DamagedScan(f"{file.name}: there is no such file.")
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)  # one byte over tells the reader that the file is too large
    except OSError as e:
        raise DamagedScan(f"{file.name}: the file cannot be opened ({e.strerror}).") from e
    return read_bytes(data, file.name)


def read_bytes(data: bytes, name: str) -> Study:
    """Read one scan from memory; the content decides the format, not the name.

    Raises:
        ScanError: Not readable as a scan.
    """
    return read_image(data, name)


def find_scans(paths: list[Path]) -> list[Path]:
    """Expand folders to the files in them that look like scans, in sorted order; files are kept as they are."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        else:
            found.append(path)
    return found
