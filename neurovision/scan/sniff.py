"""Which format a file has, told from its first bytes: never from its name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from neurovision.scan import nifti

Kind = Literal["DICOM", "NIfTI", "NIfTI pair", "picture", "unknown"]

HEAD = 64 * 1024  # bytes that tell a format
_VR = re.compile(rb"[A-Z]{2}")
_GROUPS = (0x0002, 0x0008)  # one of these begins a DICOM file that has no preamble


def sniff(head: bytes) -> Kind:
    """Tell the format from a file's first HEAD bytes.

    Returns:
        ``"NIfTI pair"`` is a header whose voxels lie in another file, as Analyze 7.5 has it too. ``"unknown"`` is
        nothing that any reader takes.
    """
    if head[128:132] == b"DICM" or without_preamble(head):
        return "DICOM"
    if nifti.is_nifti(head):
        return "NIfTI pair" if nifti.is_pair(head) else "NIfTI"
    return "picture" if _is_picture(head) else "unknown"


def kind_of(file: Path) -> Kind:
    """What :func:`sniff` says of a file; ``"unknown"`` where it cannot be opened."""
    try:
        with file.open("rb") as stream:
            return sniff(stream.read(HEAD))
    except OSError:
        return "unknown"


def without_preamble(head: bytes) -> bool:
    """Whether a file begins with a DICOM element, in either byte order, in the place of the 128 bytes and ``DICM``."""
    if len(head) < 12:
        return False
    orders: tuple[Literal["little", "big"], ...] = ("little", "big")
    for order in orders:
        group, element = int.from_bytes(head[:2], order), int.from_bytes(head[2:4], order)
        if group not in _GROUPS or element > 0x0100:
            continue
        if _VR.fullmatch(head[4:6]) or int.from_bytes(head[4:8], order) <= 1024:
            return True
    return False


def _is_picture(head: bytes) -> bool:
    if head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return True
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return True
    # "BM" alone also begins texts; the size of the next header does not.
    return head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in (12, 16, 40, 52, 56, 64, 108, 124)
