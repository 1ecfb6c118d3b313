"""From a DICOM file's bytes to pydicom's dataset, with bounded memory."""

from __future__ import annotations

import zlib
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom import Dataset
from pydicom.filereader import _read_file_meta_info, read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from neurovision.errors import DamagedScan, ScanTooLarge, UnsupportedScan
from neurovision.scan.dicom.header import refusing

MAX_FILE_BYTES = 512_000_000  # of one file, also once inflated
_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
COMPRESSED = (RLELossless, *(f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203)))


def parse_bytes(data: bytes, name: str, pixels: bool = True) -> Dataset:
    """Parse a file with bounded memory; deflated files are inflated up to MAX_FILE_BYTES.

    Args:
        data: The file's bytes.
        name: For messages.
        pixels: Whether to read the pixel data too.

    Returns:
        The dataset, with ``file_meta``; after inflation its transfer syntax is Explicit VR Little Endian.

    Raises:
        DamagedScan: Not parsable.
        UnsupportedScan: A transfer syntax that is not read.
        ScanTooLarge: It inflates to more than MAX_FILE_BYTES.
    """
    if len(data) > MAX_FILE_BYTES:
        raise _too_large(name)
    return _parse(BytesIO(data), name, pixels)


def parse_header(path: Path) -> Dataset:
    """Parse a file up to its pixel data, without reading those.

    Raises:
        ScanError: As :func:`parse_bytes`; DamagedScan also where the file cannot be opened.
    """
    try:
        with path.open("rb") as stream:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise _too_large(path.name)
            return _parse(stream, path.name, pixels=False)
    except OSError as e:
        raise DamagedScan(f"{path.name}: the file cannot be opened ({e.strerror}).") from e


def load(path: Path) -> bytes:
    """Read a file, at most one byte more than MAX_FILE_BYTES; raises DamagedScan where it cannot be opened."""
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_FILE_BYTES + 1)
    except OSError as e:
        raise DamagedScan(f"{path.name}: the file cannot be opened ({e.strerror}).") from e


def syntax_name(syntax: UID) -> str:
    """A transfer syntax's name for messages, ``"unknown"`` where the standard has none."""
    return syntax.name if syntax.name != str(syntax) else "unknown"


def _parse(stream: BinaryIO, name: str, pixels: bool) -> Dataset:
    damaged = f"{name}: the DICOM file is damaged or cut off; export it again."
    meta, syntax = None, ImplicitVRLittleEndian
    head = stream.read(132)
    if head[128:] == b"DICM" or head[:2] == b"\x02\0":  # the file meta header, which may come without a preamble
        stream.seek(132 if head[128:] == b"DICM" else 0)
        with refusing(damaged):
            meta = _read_file_meta_info(stream)
            syntax = UID(str(meta.get("TransferSyntaxUID", syntax)))
        if syntax == DeflatedExplicitVRLittleEndian:
            inflated = BytesIO(_inflate(stream.read(), name))
            with refusing(damaged):
                dataset = read_dataset(inflated, False, True, stop_when=_stop(pixels))
                meta.TransferSyntaxUID = ExplicitVRLittleEndian
                dataset.file_meta = meta
            return dataset
    if syntax not in (*_NATIVE, *COMPRESSED):
        raise UnsupportedScan(f"{name}: its transfer syntax ({syntax_name(syntax)}) is not read; export it uncompressed.")
    stream.seek(0)
    with refusing(damaged):
        dataset = pydicom.dcmread(stream, force=head[128:] != b"DICM", stop_before_pixels=not pixels)
        if "TransferSyntaxUID" not in dataset.file_meta:  # pydicom finds out how it is written, and does not note it
            implicit, little = dataset.original_encoding
            native = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else native
    return dataset


def _too_large(name: str) -> ScanTooLarge:
    return ScanTooLarge(f"{name}: a DICOM file may have {MAX_FILE_BYTES // 10**6} MB; this has more.")


def _inflate(data: bytes, name: str) -> bytes:
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = decompressor.decompress(data, MAX_FILE_BYTES)
    except zlib.error as e:
        raise DamagedScan(f"{name}: the deflated DICOM file is damaged; export it again.") from e
    if decompressor.unconsumed_tail:
        raise ScanTooLarge(f"{name}: it inflates to more than {MAX_FILE_BYTES // 10**6} MB; export it uncompressed.")
    if not decompressor.eof:
        raise DamagedScan(f"{name}: the deflated DICOM file is cut off; export it again.")
    return inflated


def _stop(pixels: bool) -> Any:
    return None if pixels else lambda tag, vr, length: tag >= 0x7FE00008
