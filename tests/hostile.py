"""Files as an attacker, a broken disk or a strange program makes them; all from phantoms, the same every time.

``python -m tests.hostile`` reads every one of them as the page does and writes the counts to docs/reliability.md.
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
import random
import struct
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

sys.path.insert(0, str(Path(__file__).parent))  # as pytest has it
from dicom_builder import NAME, geometry, head, header, saved, stored, write_enhanced

from neurovision.errors import ScanError
from neurovision.scan import contained, read
from neurovision.scan.masks import read_mask
from neurovision.scan.phantom import phantom

ROOT = Path(__file__).parents[1]
READERS = ("images", "dicom", "nifti", "masks")


@dataclass(frozen=True)
class Hostile:
    """One file.

    Attributes:
        reader: Which of READERS it is aimed at.
        name: Of the file; what was done to it.
        data: Its bytes.
    """

    reader: str
    name: str
    data: bytes


def corpus() -> list[Hostile]:
    """Every file, in a fixed order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries that write them notice what is wrong with them
        made = [*_images(), *_dicom(), *_nifti(), *_strangers()]
    masks = [Hostile("masks", h.name, h.data) for h in made if h.reader == "images"][::3]
    return [*made, *masks]


# --- pictures --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _gray() -> np.ndarray:
    return np.rint(phantom("glioma", 3, 64)[0].gray() * 255).astype(np.uint8)


def encoded(kind: str, picture: Image.Image | None = None, **options: object) -> bytes:
    """A phantom as a picture file."""
    buffer = io.BytesIO()
    (picture or Image.fromarray(_gray())).save(buffer, kind, **options)
    return buffer.getvalue()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@lru_cache(maxsize=1)
def _segment() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(b"\0" * 10**6) + packer.flush(zlib.Z_FULL_FLUSH)


def _zeros(megabytes: int) -> bytes:
    """Raw deflate of so many megabytes of zeros, a thousandth of that in size."""
    return _segment() * megabytes + b"\3\0"


def _gzipped(start: bytes, megabytes: int) -> bytes:
    """gzip of some bytes and many zeros; its checksum is wrong."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + packed + _zeros(megabytes) + b"\0" * 8


def _png(width: int, height: int, depth: int = 8, color: int = 0, body: bytes | None = None, extra: bytes = b"") -> bytes:
    raw = zlib.compress(b"\0" * 65 * 64) if body is None else body
    size = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", size) + extra + _chunk(b"IDAT", raw) + _chunk(b"IEND", b"")


def _flips(data: bytes, seed: int, count: int, within: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Copies with single bits flipped, half of them in the first bytes, where the structure is."""
    rng = random.Random(seed)
    for k in range(count):
        at = rng.randrange(min(len(data), within or 200) if k % 2 else len(data))
        spoiled = bytearray(data)
        spoiled[at] ^= 1 << rng.randrange(8)
        yield at, bytes(spoiled)


def _png_boundaries(data: bytes) -> list[int]:
    at, found = 8, [4, 8]
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found += [at + 4, at + 8, at + 8 + length, at + 12 + length]
        at += 12 + length
    return found


def _jpeg_boundaries(data: bytes) -> list[int]:
    return [k for k in range(len(data) - 1) if data[k] == 0xFF and data[k + 1] not in (0, 0xFF)][:24]


def _images() -> Iterator[Hostile]:
    options = {"WEBP": {"lossless": True}, "TIFF": {"compression": "tiff_lzw"}}
    for number, kind in enumerate(("PNG", "JPEG", "TIFF", "WEBP", "BMP")):
        data = encoded(kind, **options.get(kind, {}))
        cuts = _png_boundaries(data) if kind == "PNG" else _jpeg_boundaries(data) if kind == "JPEG" else []
        cuts += [2, 4, 8, 12, 14, 26, 54, len(data) // 4, len(data) // 2, len(data) - 200, len(data) - 1]
        for cut in sorted({c for c in cuts if 0 < c < len(data)}):
            yield Hostile("images", f"cut-{cut}.{kind.lower()}", data[:cut])
        for k, (at, spoiled) in enumerate(_flips(data, number, 14)):
            yield Hostile("images", f"flip-{k}-{at}.{kind.lower()}", spoiled)
    most = 2**31 - 1
    for width, height in ((0, 64), (64, 0), (1, 1), (31, 400), (most, most), (2**31, 1), (30000, 30000), (64, 2**20)):
        yield Hostile("images", f"claims-{width}x{height}.png", _png(width, height))
    for depth, color in ((0, 0), (3, 0), (16, 3), (8, 7), (255, 255)):
        yield Hostile("images", f"depth-{depth}-{color}.png", _png(64, 64, depth, color))
    nothing = b"\x78\x9c" + _zeros(100) + b"\0\0\0\0"
    yield Hostile("images", "bomb-1bit.png", encoded("PNG", Image.new("1", (20_000, 20_000))))
    yield Hostile("images", "bomb-idat.png", _png(64, 64, body=nothing))
    yield Hostile("images", "bomb-ztxt.png", _png(64, 64, extra=_chunk(b"zTXt", b"Comment\0\0" + nothing)))
    yield Hostile("images", "bomb-iccp.png", _png(64, 64, extra=_chunk(b"iCCP", b"profile\0\0" + nothing)))
    yield Hostile("images", "bomb-itxt.png", _png(64, 64, extra=_chunk(b"iTXt", b"x\0\1\0\0\0" + nothing)))
    yield Hostile("images", "chunks.png", _png(64, 64, extra=_chunk(b"tEXt", b"a\0b") * 20_000))
    text = PngImagePlugin.PngInfo()
    text.add_text("PatientName", NAME)
    yield Hostile("images", "named.png", encoded("PNG", pnginfo=text))
    for width, height in ((0, 0), (65500, 65500), (65535, 1)):
        jpeg = bytearray(encoded("JPEG"))
        at = jpeg.index(b"\xff\xc0")
        jpeg[at + 5 : at + 9] = struct.pack(">HH", height, width)
        yield Hostile("images", f"claims-{width}x{height}.jpg", bytes(jpeg))
    for width, height in ((-64, 64), (64, -64), (most, most), (0, 0)):
        bmp = bytearray(encoded("BMP"))
        bmp[18:26] = struct.pack("<ii", width, height)
        yield Hostile("images", f"claims{width}x{height}.bmp", bytes(bmp))
    yield from _containers()
    yield from _tiffs()
    yield Hostile("images", "frames.tif", encoded("TIFF", save_all=True, append_images=[Image.fromarray(_gray())] * 300))
    inverse = [Image.fromarray(255 - _gray())] * 9
    yield Hostile("images", "frames.webp", encoded("WEBP", save_all=True, append_images=inverse))
    yield Hostile("images", "blank.png", encoded("PNG", Image.new("L", (64, 64), 7)))
    exif = Image.Exif()
    exif[0x0112] = 250
    yield Hostile("images", "turned.jpg", encoded("JPEG", exif=exif))
    yield Hostile("images", "exif.jpg", encoded("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff" * 400))


def _containers() -> Iterator[Hostile]:
    """Second pictures, previews and rare photometric interpretations, whole and spoiled."""
    import cv2
    import tifffile

    small = Image.fromarray(_gray()[::2, ::2])
    phone = encoded("MPO", save_all=True, append_images=[small])
    yield Hostile("images", "phone.jpg", phone)
    for cut in (len(phone) - 100, len(phone) // 2, 200):
        yield Hostile("images", f"phone-cut-{cut}.jpg", phone[:cut])
    for k, (at, spoiled) in enumerate(_flips(phone, 21, 12, 260)):
        yield Hostile("images", f"phone-flip-{k}-{at}.jpg", spoiled)
    pages = io.BytesIO()
    with tifffile.TiffWriter(pages) as writer:
        writer.write(np.asarray(small), photometric="minisblack", subfiletype=1, metadata=None, datetime=False)
        writer.write(_gray(), photometric="minisblack", metadata=None, datetime=False)
    deep = _gray().astype(np.uint16) * 16
    kinds: dict[str, tuple[np.ndarray, str]] = {
        "white16": (65535 - deep, "miniswhite"), "white-float": (3 - deep.astype(np.float32), "miniswhite"),
        "signed8": (_gray().astype(np.int16).astype(np.int8), "minisblack"), "rgb16": (np.dstack([deep] * 3), "rgb"),
        "unsigned32": (deep.astype(np.uint32) * 60_000, "minisblack"),
    }  # fmt: skip
    made = {"preview": pages.getvalue()}
    layouts: dict[str, dict[str, Any]] = {
        "white16": {"tile": (32, 32), "compression": "lzw"}, "signed16": {"byteorder": ">", "compression": "zlib"},
        "double": {"bigtiff": True, "byteorder": ">", "rowsperstrip": 7},
    }  # fmt: skip
    kinds |= {"signed16": (deep.astype(np.int16) - 300, "minisblack"), "double": (deep / 7, "minisblack")}
    for what, (values, photometric) in kinds.items():
        buffer, layout = io.BytesIO(), layouts.get(what, {})
        tifffile.imwrite(buffer, values, photometric=photometric, metadata=None, datetime=False, **layout)
        made[what] = buffer.getvalue()
    for number, (what, data) in enumerate(made.items()):
        yield Hostile("images", f"{what}.tif", data)
        for k, (at, spoiled) in enumerate(_flips(data, 30 + number, 8)):
            yield Hostile("images", f"{what}-flip-{k}-{at}.tif", spoiled)
    png = cv2.imencode(".png", np.dstack([deep] * 3))[1].tobytes()
    for k, (at, spoiled) in enumerate([(0, png), *_flips(png, 41, 10)]):
        yield Hostile("images", f"rgb16-{k}-{at}.png", spoiled)
    gray = np.tile(_gray(), (2, 2))
    yield Hostile("images", "montage.png", encoded("PNG", Image.fromarray(gray)))


def _tiffs() -> Iterator[Hostile]:
    for what, value in (("nan", np.nan), ("infinity", np.inf), ("huge", 3e38)):
        values = _gray().astype(np.float32)
        values[10:20] = value
        values[20:30] = -value
        yield Hostile("images", f"{what}.tif", encoded("TIFF", Image.fromarray(values)))
        yield Hostile("images", f"all-{what}.tif", encoded("TIFF", Image.fromarray(np.full((64, 64), value, np.float32))))
    for name, plain in (("", encoded("TIFF")), ("deep-", encoded("TIFF", Image.fromarray(_gray().astype(np.uint16) * 16)))):
        yield from _forged(name, plain)


def _forged(name: str, plain: bytes) -> Iterator[Hostile]:
    """A TIFF whose directory lies."""
    ifd = int.from_bytes(plain[4:8], "little")
    entries = int.from_bytes(plain[ifd : ifd + 2], "little")
    for k in range(entries):  # every tag's value forged, one by one
        at = ifd + 2 + 12 * k
        for value in (0, 2**31 - 1, 2**32 - 1):
            spoiled = bytearray(plain)
            spoiled[at + 8 : at + 12] = struct.pack("<I", value)
            tag = int.from_bytes(plain[at : at + 2], "little")
            yield Hostile("images", f"{name}tag-{tag}-{value}.tif", bytes(spoiled))
    looped = bytearray(plain)
    looped[ifd + 2 + 12 * entries : ifd + 6 + 12 * entries] = struct.pack("<I", ifd)  # its next page is itself
    yield Hostile("images", f"{name}loop.tif", bytes(looped))
    yield Hostile("images", f"{name}first-page-nowhere.tif", b"II*\0" + struct.pack("<I", 2**32 - 2) + plain[8:])
    counted = bytearray(plain)
    counted[ifd : ifd + 2] = b"\xff\xff"
    yield Hostile("images", f"{name}65535-tags.tif", bytes(counted))


# --- DICOM -----------------------------------------------------------------------------------------------------------


def dicom(**changes: object) -> bytes:
    """One slice of the phantom as a DICOM file, some elements changed; None removes one."""
    plane = stored(head()[0])[5]
    dataset = header("hostile", plane)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset.InstanceNumber, dataset.PixelData = 1, plane.tobytes()
    for key, value in {**geometry(head()[0].affine, 5), **changes}.items():
        if value is None:
            delattr(dataset, key)
        else:
            setattr(dataset, key, value)
    return saved(dataset)


def _compressed(syntax: str) -> bytes:
    from pydicom import dcmread

    dataset = dcmread(io.BytesIO(dicom()))
    dataset.compress(syntax, generate_instance_uid=False)
    return saved(dataset)


def _element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    size = len(value) if length is None else length
    start = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return start + b"\0\0" + struct.pack("<I", size & 0xFFFFFFFF) + value
    return start + struct.pack("<H", size & 0xFFFF) + value


def _boundaries(data: bytes) -> list[int]:
    """Where the file's elements begin, and where their values do."""
    from pydicom import dcmread

    found = [128, 132]
    for dataset in (dcmread(io.BytesIO(data)).file_meta, dcmread(io.BytesIO(data))):
        for element in dataset:
            at = dataset.get_item(element.tag).value_tell if hasattr(dataset.get_item(element.tag), "value_tell") else None
            at = at or element.file_tell
            if at:
                found += [at - 4, at]
    return sorted(set(found))


def _dicom() -> Iterator[Hostile]:
    plain = dicom()
    yield from (Hostile("dicom", f"cut-{c}.dcm", plain[:c]) for c in _boundaries(plain))
    yield from (Hostile("dicom", f"cut-{c}.dcm", plain[:c]) for c in (len(plain) // 2, len(plain) - 1, len(plain) - 2000))
    for k, (at, spoiled) in enumerate(_flips(plain, 5, 40, 1400)):
        yield Hostile("dicom", f"flip-{k}-{at}.dcm", spoiled)
    forged: dict[str, list[object]] = {
        "Rows": [0, 1, 65535], "Columns": [0, 65535], "NumberOfFrames": ["0", "-3", "2147483647", "7"],
        "BitsAllocated": [0, 1, 7, 64, 65535], "BitsStored": [0, 255], "HighBit": [255], "SamplesPerPixel": [0, 3, 65535],
        "PixelRepresentation": [9], "PhotometricInterpretation": ["", "PALETTE COLOR", "RGB", "X" * 60, "YBR_FULL_422"],
        "PixelSpacing": [["0", "0"], ["-1", "-1"], ["1e308", "1e308"]], "ImagePositionPatient": [["1e300"] * 3],
        "ImageOrientationPatient": [["0"] * 6, ["1"] * 6], "RescaleSlope": ["0", "1e300", "-1e-300"],
        "RescaleIntercept": ["1e300"], "WindowWidth": ["0", "-5", "1e-300"], "WindowCenter": ["1e300"],
        "Modality": ["CT", "X" * 16, "<script>"], "SOPClassUID": ["1.2.840.10008.1.3.10", "x"], "PixelPaddingValue": [0],
        "BodyPartExamined": ["KNEE", "<B>" * 5], "SeriesDescription": [NAME, "\\".join("ab")],
        "SpecificCharacterSet": ["ISO 2022 IR 999", "\\".join(["ISO_IR 100"] * 30)], "InstanceNumber": ["999999999999"],
    }  # fmt: skip
    for key, values in forged.items():
        for k, value in enumerate(values):
            extra = {"WindowWidth": {"WindowCenter": "100"}, "WindowCenter": {"WindowWidth": "10"}}.get(key, {})
            try:
                data = dicom(**{key: value, **extra})
            except (ValueError, TypeError, OverflowError, OSError, struct.error):
                continue  # what the writer itself refuses; bit flips make such values
            yield Hostile("dicom", f"{key}-{k}.dcm", data)
    for key in ("PixelData", "Rows", "SOPClassUID", "PhotometricInterpretation", "SamplesPerPixel"):
        yield Hostile("dicom", f"without-{key}.dcm", dicom(**{key: None}))
    meta = plain[: plain.index(b"\x08\x00\x08\x00")]
    nested = b""
    for _ in range(600):  # sequences in sequences, deeper than Python recurses
        nested = _element(0x00081115, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + nested, 0xFFFFFFFF)
    yield Hostile("dicom", "nested.dcm", meta + nested)
    yield Hostile("dicom", "endless-sequence.dcm", meta + _element(0x00081115, b"SQ", b"", 0xFFFFFFFF) + plain[len(meta) :])
    yield Hostile("dicom", "long-value.dcm", meta + _element(0x7FE00010, b"OW", b"\0" * 64, 0xFFFFFFFE))
    many = b"".join(_element(0x00090000 + k, b"UN", b"") for k in range(16, 60000))
    yield Hostile("dicom", "many-elements.dcm", meta + many)
    yield Hostile("dicom", "unknown-vr.dcm", meta + _element(0x00080060, b"ZZ", b"MR") + plain[len(meta) :])
    root = "1.2.840.10008.1.2"
    for syntax in (f"{root}.1.99", f"{root}.2", f"{root}.4.50", f"{root}.5", "1.2.3"):
        spoiled = plain.replace(b"1.2.840.10008.1.2.1\0", syntax.encode()[:20].ljust(20, b"\0"), 1)
        yield Hostile("dicom", f"syntax-{syntax}.dcm", spoiled)
    yield Hostile("dicom", "deflate-bomb.dcm", _meta("1.2.840.10008.1.2.1.99") + _zeros(700))
    yield Hostile("dicom", "deflate-cut.dcm", _meta("1.2.840.10008.1.2.1.99") + zlib.compress(plain)[2:900])
    for syntax in ("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"):
        data = _compressed(syntax)
        rows = data.index(struct.pack("<HH2sH", 0x28, 0x10, b"US", 2)) + 8
        for value in (32, 65, 4000):
            yield Hostile("dicom", f"{syntax}-rows-{value}.dcm", data[:rows] + struct.pack("<H", value) + data[rows + 2 :])
        pixels = data.index(struct.pack("<HH", 0x7FE0, 0x10))
        for cut in (20, 60, 200, 900):
            yield Hostile("dicom", f"{syntax}-cut-{cut}.dcm", data[: pixels + cut])
        for k, (at, spoiled) in enumerate(_flips(data[pixels:], 9, 12, 120)):
            yield Hostile("dicom", f"{syntax}-flip-{k}-{at}.dcm", data[:pixels] + spoiled)
    for color in ("PE", "ELF", "HTML"):  # the preamble may hold another file's beginning
        start = {"PE": b"MZ\x90\0", "ELF": b"\x7fELF", "HTML": b"<html><script>"}[color]
        yield Hostile("dicom", f"preamble-{color}.dcm", start.ljust(128, b"\0") + plain[128:])
    body = plain[plain.index(b"\x08\x00\x08\x00") :]
    for what, data in (("preamble", plain[132:]), ("meta", body)):
        yield Hostile("dicom", f"without-{what}.dcm", data)
        for k, (at, spoiled) in enumerate(_flips(data, 61, 10, 400)):
            yield Hostile("dicom", f"without-{what}-flip-{k}-{at}.dcm", spoiled)
    deflated = _meta("1.2.840.10008.1.2.1.99")[132:]
    yield Hostile("dicom", "deflate-bomb-without-preamble.dcm", deflated + _zeros(700))
    with tempfile.TemporaryDirectory() as folder:
        frames = write_enhanced(Path(folder) / "m.dcm", stored(head()[0]), head()[0].affine).read_bytes()
    for cut in (400, 1200, len(frames) // 3, len(frames) - 10):
        yield Hostile("dicom", f"enhanced-cut-{cut}.dcm", frames[:cut])
    for k, (at, spoiled) in enumerate(_flips(frames, 7, 16, 3000)):
        yield Hostile("dicom", f"enhanced-flip-{k}-{at}.dcm", spoiled)


def _meta(syntax: str) -> bytes:
    body = _element(0x00020010, b"UI", syntax.encode() + b"\0" * (len(syntax) % 2))
    return b"\0" * 128 + b"DICM" + _element(0x00020000, b"UL", struct.pack("<I", len(body))) + body


# --- NIfTI -----------------------------------------------------------------------------------------------------------


def nifti(**fields: object) -> bytes:
    """The phantom as a NIfTI-1 file, some header fields changed."""
    import nibabel

    image = nibabel.Nifti1Image(stored(head()[0]).astype(np.int16).transpose(2, 1, 0), np.diag([3, 3, 10, 1.0]))
    data = bytearray(image.to_bytes())
    changed = nibabel.Nifti1Header(bytes(data[:348]), check=False)
    for key, value in fields.items():
        changed[key] = value
    data[:348] = changed.binaryblock
    return bytes(data)


def _packed() -> Iterator[Hostile]:
    """Other compressions, whole, cut, spoiled and as bombs."""
    import bz2

    import zstandard

    plain = nifti()
    bomb = nifti(dim=[3, 460, 460, 460, 1, 1, 1, 1])[:352] + b"\0" * 60_000_000
    for end, pack in (("bz2", bz2.compress), ("zst", zstandard.ZstdCompressor().compress)):
        data = pack(plain)
        yield Hostile("nifti", f"whole.nii.{end}", data)
        yield Hostile("nifti", f"twice.nii.{end}", pack(data))
        yield Hostile("nifti", f"members.nii.{end}", b"".join(pack(plain[k : k + 9000]) for k in range(0, len(plain), 9000)))
        yield Hostile("nifti", f"bomb.nii.{end}", pack(bomb))
        for cut in (4, 12, 200, len(data) // 2, len(data) - 4):
            yield Hostile("nifti", f"cut-{cut}.nii.{end}", data[:cut])
        for k, (at, spoiled) in enumerate(_flips(data, 51, 10, 80)):
            yield Hostile("nifti", f"flip-{k}-{at}.nii.{end}", spoiled)
    window = bytearray(zstandard.ZstdCompressor().compress(plain))
    window[4:6] = b"\x00\xff"  # a window of terabytes
    yield Hostile("nifti", "window.nii.zst", bytes(window))


def _nifti() -> Iterator[Hostile]:
    plain = nifti()
    yield from _packed()
    zipped = gzip.compress(plain, mtime=0)
    for cut in (4, 40, 76, 108, 123, 148, 252, 280, 328, 344, 348, 352, 353, 500, len(plain) // 2, len(plain) - 1):
        yield Hostile("nifti", f"cut-{cut}.nii", plain[:cut])
    for cut in (2, 3, 10, 18, 100, 600, len(zipped) // 2, len(zipped) - 8, len(zipped) - 4, len(zipped) - 1):
        yield Hostile("nifti", f"cut-{cut}.nii.gz", zipped[:cut])
    for k, (at, spoiled) in enumerate(_flips(plain, 11, 40, 348)):
        yield Hostile("nifti", f"flip-{k}-{at}.nii", spoiled)
    for k, (at, spoiled) in enumerate(_flips(zipped, 12, 16, 60)):
        yield Hostile("nifti", f"flip-{k}-{at}.nii.gz", spoiled)
    big = [3, 12000, 12000, 12000, 1, 1, 1, 1]
    forged: dict[str, list[object]] = {
        "dim": [
            big, [0] * 8, [-3] * 8, [7, 64, 64, 10, 2, 2, 2, 2], [3, 32767, 32767, 1, 1, 1, 1, 1],
            [9, 64, 64, 10, 1, 1, 1, 1], [3, 64, 64, 0, 1, 1, 1, 1], [3, 31, 64, 10, 1, 1, 1, 1], [2, 64, 64, 1, 1, 1, 1, 1],
        ],
        "datatype": [0, 1, 2, 8, 16, 32, 64, 128, 255, 1536, 2048, 2304, -1],
        "vox_offset": [-1, 0, 3e38, np.nan, np.inf, 353.5], "scl_slope": [np.nan, np.inf, 0, 3e38],
        "scl_inter": [np.nan, -np.inf], "sform_code": [-7, 32767], "qform_code": [99], "xyzt_units": [255],
        "srow_x": [[np.nan] * 4, [0] * 4, [3e38] * 4], "srow_z": [[np.inf] * 4], "pixdim": [[0] * 8, [np.nan] * 8],
        "sizeof_hdr": [0, 349, -1], "magic": [b"ni1", b"xxx"], "bitpix": [0, -8], "quatern_b": [np.nan, 50, 1.0000014],
    }  # fmt: skip
    for key, values in forged.items():
        for k, value in enumerate(values):
            yield Hostile("nifti", f"{key}-{k}.nii", nifti(**{key: value}))
    yield Hostile("nifti", "header-only-claims.nii.gz", gzip.compress(nifti(dim=big)[:352]))
    yield Hostile("nifti", "bomb.nii.gz", _gzipped(plain, 300))
    full = nifti(dim=[3, 460, 460, 460, 1, 1, 1, 1])[:352]
    yield Hostile("nifti", "bomb-claimed.nii.gz", _gzipped(full, 460**3 * 2 // 10**6 + 1))
    yield Hostile("nifti", "twice-zipped.nii.gz", gzip.compress(zipped))
    members = b"".join(gzip.compress(plain[k : k + 4096]) for k in range(0, len(plain), 4096))
    yield Hostile("nifti", "members.nii.gz", members)
    swapped = bytearray(plain)
    swapped[:4] = swapped[:4][::-1]
    yield Hostile("nifti", "half-swapped.nii", bytes(swapped))
    extended = plain[:348] + b"\1\0\0\0" + struct.pack("<ii", 2**31 - 16, 6) + plain[352:]
    yield Hostile("nifti", "extension.nii", extended)
    for what, value in (("nan", np.nan), ("infinity", np.inf), ("huge", 3e38)):
        import nibabel

        voxels = np.full((64, 64, 4), value, np.float32)
        yield Hostile("nifti", f"all-{what}.nii", nibabel.Nifti1Image(voxels, np.eye(4)).to_bytes())
        voxels[:32] = 1 if value != 3e38 else -3e38
        yield Hostile("nifti", f"half-{what}.nii", nibabel.Nifti1Image(voxels, np.eye(4)).to_bytes())


# --- other things under the right names ------------------------------------------------------------------------------


class _Bad:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/neurovision-was-unpickled",)


def _zip(*names: str, size: int = 10) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, b"\0" * size)
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, target in (("../../evil", "/etc/passwd"), ("/etc/cron.d/x", "/etc/shadow")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
    return buffer.getvalue()


def _strangers() -> Iterator[Hostile]:
    png = encoded("PNG")
    things = {
        "empty": b"", "zero": b"\0", "zeros": b"\0" * 100_000, "ones": b"\xff" * 5000, "text": b"Dear colleague,\n" * 40,
        "html": b"<html><script>alert(1)</script></html>", "program": b"MZ\x90\0" + b"\0" * 900,
        "elf": b"\x7fELF" + b"\2" * 900, "pdf": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n", "pickle": pickle.dumps(_Bad()),
        "numpy": b"\x93NUMPY\1\0v\0{'descr': '|O'}", "hdf5": b"\x89HDF\r\n\x1a\n" + b"\0" * 500,
        "zip-slip": _zip("../../etc/passwd", "/abs", "a" * 300), "zip-bomb": _zip("bomb", size=20_000_000),
        "tar-links": _tar(), "tar-gz": gzip.compress(_tar()), "gif": b"GIF89a" + b"\0" * 60,
        "svg": b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><svg>&b;</svg>',
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(/etc/passwd) (r) file\n",
        "fits": b"SIMPLE  =                    T" + b" " * 2850, "icns": b"icns" + b"\xff" * 60,
        "psd": b"8BPS\0\1" + b"\0" * 90, "png-and-zip": png + _zip("x"), "zip-and-png": _zip("x") + png,
        "png-and-script": png + b"<script>alert(1)</script>", "dicom-magic-only": b"\0" * 128 + b"DICM",
        "png-as-dicom": png[:128].ljust(128, b"\0") + b"DICM" + png[128:], "nifti-and-png": nifti() + png,
        "dicom-and-nifti": dicom()[:344] + b"n+1\0" + dicom()[348:], "gzip-of-png": gzip.compress(png),
        "gzip-nothing": gzip.compress(b""), "gzip-head": b"\x1f\x8b\x08\0", "gzip-dicom": gzip.compress(dicom()),
    }  # fmt: skip
    suffixes = {"images": ".png", "dicom": ".dcm", "nifti": ".nii.gz"}
    for what, data in things.items():
        for reader, suffix in suffixes.items():
            yield Hostile(reader, f"{what}{suffix}", data)


# --- the measurement -------------------------------------------------------------------------------------------------


def ask(path: Path, reader: str) -> str:
    """Read one file as the page does; ``"read"``, or the sentence of the refusal."""
    try:
        if reader == "masks":
            contained.mask(path, (64, 64))
        else:
            contained.study([path])
    except ScanError as e:
        return str(e)
    return "read"


def sentence_faults(said: str, folder: Path) -> list[str]:
    """What is wrong with a refusal: a good one is one sentence without a path, a name or a traceback."""
    bad = {"several lines": "\n" in said, "too long": len(said) > 400, "a folder": str(folder) in said or "/tmp/" in said}
    bad |= {"a traceback": "Traceback" in said or 'File "' in said, "a patient": NAME.split("^")[0].lower() in said.lower()}
    return [what for what, wrong in bad.items() if wrong]


def directly(path: Path, reader: str) -> tuple[int, int]:
    """Read one file in a fork without the page's limits: its exit status, and how many bytes its memory grew by."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries write warnings there
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            before = _memory("VmRSS")
            try:
                read_mask(path, (64, 64)) if reader == "masks" else read.read(path)
                code = 0
            except ScanError:
                code = 1
            os.write(theirs, str(_memory("VmHWM") - before).encode())
        finally:
            os._exit(code)
    os.close(theirs)
    with os.fdopen(ours) as answer:
        grown = answer.read()
    return os.waitpid(pid, 0)[1], int(grown or 0)


def _memory(what: str) -> int:
    told = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in told if line.startswith(what))


def _cost() -> list[str]:
    """What reading a file in a process of its own costs, against reading it directly."""
    from tests.reliability import machine, table

    rows = []
    with tempfile.TemporaryDirectory() as name:
        for what, data in (
            ("picture 256 x 256 (PNG)", encoded("PNG", Image.open(ROOT / "examples" / "glioma.png"))),
            ("slice 64 x 64 (DICOM)", dicom()), ("volume 64 x 64 x 10 (NIfTI)", nifti()),
        ):  # fmt: skip
            path = Path(name) / "x"
            path.write_bytes(data)
            took = []
            for ask_ in (lambda p=path: read.read(p), lambda p=path: contained.study([p])):
                times = []
                for _ in range(31):
                    start = time.perf_counter()
                    ask_()
                    times.append(1e3 * (time.perf_counter() - start))
                took.append(f"{sorted(times)[15]:.1f} ms")
            rows.append([what, *took])
    return [f"`python -m tests.hostile`, medians of 31; {machine()}.", "", *table(["file", "directly", "contained"], rows)]


def main() -> None:
    """Read the whole corpus and write the counts."""
    from tests.reliability import machine, record, table

    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    contained.preload()
    files = corpus()
    rows, faults = [], []
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        folder = Path(name)
        for reader in READERS:
            mine = [h for h in files if h.reader == reader]
            outcome: Counter[str] = Counter()
            slowest, peak = (0.0, ""), (0, "")
            contained.study([ROOT / "examples" / "glioma.png"])  # the first process is there
            for hostile in mine:
                path = folder / hostile.name
                path.write_bytes(hostile.data)
                start = time.perf_counter()
                said = ask(path, reader)
                slowest = max(slowest, (time.perf_counter() - start, hostile.name))
                outcome["read" if said == "read" else "refused"] += 1
                faults += [f"{hostile.name}: {what}" for what in sentence_faults(said, folder)]
                status, grown = directly(path, reader)
                if status not in (0, 1 << 8):
                    outcome["crashes"] += 1
                    faults.append(f"{hostile.name}: ended with status {status}")
                peak = max(peak, (grown, hostile.name))
                path.unlink()
                outcome["left"] += len(list(folder.iterdir()))
            rows.append([
                reader, str(len(mine)), str(outcome["read"]), str(outcome["refused"]), str(outcome["crashes"]),
                str(outcome["left"]), f"{slowest[0]:.1f} s ({slowest[1]})", f"{peak[0] / 1e6:.0f} MB ({peak[1]})",
            ])  # fmt: skip
            print(*rows[-1])
    for fault in faults:
        print(fault)
    record("contained", _cost())
    columns = ["reader", "files", "read", "refused", "crashes", "files left", "slowest", "most memory, uncontained"]
    total = sum(int(r[1]) for r in rows)
    record("hostile", [
        f"`python -m tests.hostile`; {machine()}.", "", *table(columns, rows), "",
        f"{total} files, {len(faults)} faults (a sentence of several lines, with a folder or a name in it, or a crash).",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
