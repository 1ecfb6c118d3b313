"""Which format a file has, told from its first bytes: never from its name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from neurovision.scan import nifti

Kind = Literal["DICOM", "NIfTI", "NIfTI pair", "picture", "unknown"]

HEAD = nifti.PEEK  # bytes that tell any format
_PLAIN = 4096  # bytes that tell the format of a file that is not compressed
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


def other_kind(head: bytes) -> str | None:
    """What a file is that no reader takes, a few words for its refusal; or None."""
    if nifti.is_analyze(head):
        return "a header of Analyze 7.5, which does not say how the head lies; convert it to NIfTI"
    if any(without_preamble(head[k:]) for k in range(1, 9)):
        return "a DICOM data set that begins with bytes which do not belong to it; export it again as a DICOM file"
    if nifti.is_packed(head):
        return "a compressed file that is cut off or holds no NIfTI; unpack it and send what is in it"
    return next((words for magic, words in _OTHERS.items() if head.startswith(magic) or head[4:].startswith(magic)), None)


_OTHERS = {
    b"GIF8": "a GIF; export the scan as PNG", b"%PDF": "a PDF; export the scan itself as PNG or DICOM",
    b"PK\x03\x04": "a ZIP archive; unpack it and send what is in it", b"ftypheic": "a HEIC photograph; export it as JPEG",
    b"ftypavif": "an AVIF picture; export it as PNG", b"\x0a\x24\x03": "a MetaImage header; convert the scan to NIfTI",
    b"NRRD": "an NRRD file; convert the scan to NIfTI", b"\x89HDF": "an HDF5 or MINC file; convert the scan to NIfTI",
    b"jP  \r\n": "a JPEG 2000 picture; export it as PNG", b"\xff\x4f\xff\x51": "a JPEG 2000 picture; export it as PNG",
    b"ftypheix": "a HEIC photograph; export it as JPEG", b"ftypmif1": "a HEIC photograph; export it as JPEG",
    b"ObjectType": "a MetaImage header; convert the scan to NIfTI",
    b"NDims": "a MetaImage header; convert the scan to NIfTI",
    b"CDF\1": "a MINC file; convert the scan to NIfTI", b"8BPS": "a Photoshop picture; export the scan as PNG",
    b"\xfd7zXZ\0": "an XZ archive; unpack it and send what is in it",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive; unpack it and send what is in it",
    b"Rar!": "a RAR archive; unpack it and send what is in it", b"<!DOCTYPE": "a web page; export the scan itself",
    b"<html": "a web page; export the scan itself", b"<svg": "a drawing (SVG); export the scan as PNG",
}  # fmt: skip


def kind_of(file: Path) -> Kind:
    """What :func:`sniff` says of a file; ``"unknown"`` where it cannot be opened."""
    try:
        with file.open("rb") as stream:
            head = stream.read(_PLAIN)
            return sniff(head + stream.read(HEAD - _PLAIN) if nifti.is_packed(head) else head)
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
