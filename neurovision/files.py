"""Writing files so that nobody ever reads half of one: not after a crash, a power cut or a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from neurovision.errors import OutputError

PART = ".part-"  # begins the name of what is not finished; readers of folders pass over names that begin with a dot
FULL = (errno.ENOSPC, errno.EDQUOT)  # no room on the disk


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; what was written takes ``path``'s place in one step when the block ends well.

    The new file is on the disk before it gets its name, and the name before this returns, so that after a power cut
    either the old file or the new one is there. Where the block raises, the old file stays as it was.

    Args:
        path: The file to make or to replace; its folder exists. The path that is handed out ends like it, for
            libraries that look at suffixes.

    Raises:
        OutputError: The disk is full, or the folder cannot be written.
    """
    part = path.with_name(f"{PART}{secrets.token_hex(4)}-{path.name[-32:]}")  # a file system takes 255 bytes
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    except OSError as e:
        if e.errno in FULL:
            raise OutputError(f"{path.name} cannot be written: the disk is full; make room and start again.") from e
        if e.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise OutputError(f"{path.name} cannot be written: its folder is read-only; name another one.") from e
        raise
    finally:
        part.unlink(missing_ok=True)


def write(path: Path, data: bytes | str) -> None:
    """Write a file as :func:`replacing` does; text is UTF-8.

    Raises:
        OutputError: The disk is full, or the folder cannot be written.
    """
    with replacing(path) as part:
        part.write_bytes(data.encode() if isinstance(data, str) else data)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system can (Windows does it by itself)."""
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
