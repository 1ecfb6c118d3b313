"""From a dataset's pixel data to numbers in [0, 1], after checking what the header claims."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import UID, RLELossless

from neurovision.errors import DamagedScan, UnsupportedScan
from neurovision.scan.dicom.codecs import coded_size, register
from neurovision.scan.dicom.geometry import Frame
from neurovision.scan.dicom.header import Header, refusing
from neurovision.scan.dicom.parse import COMPRESSED, syntax_name
from neurovision.scan.intensity import replace_non_numbers, scale_robust
from neurovision.scan.quiet import quiet_decoder

_GRAY, _COLOR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
_OTHER = ("PALETTE COLOR", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "HSV", "ARGB", "CMYK", "XYB")

register()


def volume_of(
    frames: Sequence[Frame], files: Iterable[tuple[Header, list[int]]], header: Header
) -> tuple[np.ndarray, list[str]]:
    """Decode frames, file by file, and scale them together between their 0.5 and 99.5 percentiles, dark air first.

    Display windows and lookup tables do not enter: what a viewer was set to must not change what the networks see.
    Pixels of padding become air.

    Args:
        frames: In slice order.
        files: Each file with its pixels, and which of ``frames`` are in it.
        header: Of the first slice's file; it tells how gray values are meant.

    Returns:
        float32 ``(S, H, W, C)`` in [0, 1], and sentences for the reader.

    Raises:
        ScanError: Pixels that cannot be decoded, or that all have one value.
    """
    color = header.text("PhotometricInterpretation").upper() in _COLOR
    volume = np.empty((len(frames), *frames[0].shape, 3 if color else 1), np.float32)
    air = None  # where pixels are padding
    for file, slices in files:
        for k, (pixels, padding) in zip(slices, _decoded(file, [frames[k] for k in slices], color), strict=True):
            volume[k] = pixels
            if padding is not None and padding.any():
                air = np.zeros(volume.shape, bool) if air is None else air
                air[k] = padding
    if color:
        if float(np.ptp(volume)) == 0.0:
            raise UnsupportedScan(f"{header.name}: every pixel has the same value; there is nothing to read.")
        volume /= 2.0 ** header.whole("BitsStored", header.whole("BitsAllocated", 8)) - 1
        np.clip(volume, 0, 1, out=volume)
        return volume, ["This is a color picture; the networks read its brightness only."]
    if header.text("PhotometricInterpretation").upper() == "MONOCHROME1":
        np.negative(volume, out=volume)
    padded = 0
    if air is not None:
        padded = int(air.sum())
        volume[air] = np.nan
    bad = replace_non_numbers(volume)
    if bad == volume.size or float(np.ptp(volume)) == 0.0:
        raise UnsupportedScan(f"{header.name}: every pixel has the same value; there is nothing to read.")
    if _inverting(header) and _bright_border(volume):
        np.negative(volume, out=volume)
    notes = []
    if bad > padded:
        notes.append(f"{bad - padded} pixels hold no number; they are taken for the darkest value.")
    return scale_robust(volume), notes


def _inverting(header: Header) -> bool:
    """Whether the file's lookup table for display shows its highest values darkest."""
    tables = header.items("VOILUTSequence")
    numbers = tables[0].value("LUTData") if tables else None
    if isinstance(numbers, bytes):
        numbers = np.frombuffer(numbers[: len(numbers) // 2 * 2], np.uint16)
    try:
        table = np.asarray(numbers, np.float64).ravel()
    except (TypeError, ValueError):
        return False
    return table.size > 1 and bool(table[0] > table[-1])


def _bright_border(volume: np.ndarray) -> bool:
    """Whether the pictures' borders, air in every MR image, are brighter than most of what is inside them."""
    border = np.concatenate([volume[:, (0, -1)].ravel(), volume[:, :, (0, -1)].ravel()])
    return float(np.median(border)) > float(np.mean(volume[:: max(1, len(volume) // 32)]))


def _decoded(
    header: Header, frames: Sequence[Frame], color: bool
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Rescaled pixels of some frames of one file, float32 ``(H, W, C)``, after checking what the header claims.

    With them comes which of a gray frame's pixels are padding, bool ``(H, W, 1)``, or None.
    """
    dataset, name = header.dataset, header.name
    _complete(header)
    _check_pixels(header, frames[0].shape, color)
    damaged = f"{name}: the pixel data are damaged or cut off and cannot be decoded; export it again."
    padding = None if color else _padding(header)
    encapsulated = dataset.file_meta.TransferSyntaxUID in COMPRESSED
    total = header.whole("NumberOfFrames", 0) or 1
    for frame in frames:
        if encapsulated:
            with refusing(damaged):
                coded = get_frame(dataset.PixelData, frame.number, number_of_frames=total)
            _check_coded(coded, header, frame)
        with refusing(damaged), quiet_decoder():
            raw = pixel_array(dataset, index=frame.number)
        if raw.shape != ((*frame.shape, 3) if color else frame.shape):
            raise DamagedScan(damaged)
        values = raw.astype(np.float32).reshape(*frame.shape, -1)
        if color:
            yield values, None
            continue
        with np.errstate(all="ignore"):  # what overflows float32 is no number, which is dealt with later
            values = values * np.float32(frame.slope) + np.float32(frame.intercept)
        if padding is None:
            yield values, None
        else:
            stored = raw.reshape(values.shape)
            yield values, np.logical_or.reduce([(stored >= low) & (stored <= high) for low, high in padding])


def _padding(header: Header) -> list[tuple[float, float]] | None:
    """Ranges of stored values that are padding, ends included, or None.

    Headers write a negative value as if it were unsigned, and the other way round; each is read as the pixels are.
    """
    prefix = next((p for p in ("Float", "DoubleFloat") if header.holds(f"{p}PixelData")), "")
    value = header.numbers(f"{prefix}PixelPaddingValue", 1)
    if value is None:
        return None
    limit = header.numbers(f"{prefix}PixelPaddingRangeLimit", 1) or value
    ends = sorted((value[0], limit[0]))
    if prefix:
        return [(ends[0], ends[1])]
    signed = header.whole("PixelRepresentation", 0) == 1
    ranges = set()
    for bits in (header.whole("BitsAllocated", 16), header.whole("BitsStored", 16)):
        if bits < 1 or bits > 64:
            continue
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        wrapped = sorted(float((int(v) - low) % 2**bits + low) if not low <= v <= high else v for v in ends)
        ranges.add((wrapped[0], wrapped[1]))
    return sorted(ranges)


def _complete(header: Header) -> None:
    """Write into a dataset what decoders insist on and what has one meaning only where the header leaves it out."""
    dataset, photometric = header.dataset, header.text("PhotometricInterpretation")
    if photometric != photometric.upper():
        dataset.PhotometricInterpretation = photometric.upper()
    if photometric.upper() in _GRAY and header.value("SamplesPerPixel") is None:
        dataset.SamplesPerPixel = 1
    if header.value("BitsStored") is None and header.value("BitsAllocated") is not None:
        dataset.BitsStored = header.whole("BitsAllocated", 0)


def _check_pixels(header: Header, shape: tuple[int, int], color: bool) -> None:
    """Refuse what cannot be decoded, and headers whose claims the pixel data do not hold, before decoding."""
    name = header.name
    keyword = next((k for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if header.holds(k)), None)
    data = None if keyword is None else header.value(keyword)
    if not isinstance(data, bytes) or not data:
        raise UnsupportedScan(f"{name}: this DICOM file holds no pixels; choose the files of the image series.")
    photometric = header.text("PhotometricInterpretation")
    if photometric not in (_COLOR if color else _GRAY):
        shown = photometric if photometric in (*_GRAY, *_COLOR, *_OTHER) else "unknown"
        raise UnsupportedScan(f"{name}: gray or RGB pixels are read; received photometric interpretation {shown}.")
    bits, samples = header.whole("BitsAllocated", 0), header.whole("SamplesPerPixel", 1)
    if bits not in (8, 16, 32, 64) or samples != (3 if color else 1):
        raise UnsupportedScan(f"{name}: 8 to 64 bits a pixel are read; received {bits} bits in {samples} channels.")
    if keyword == "PixelData" and header.value("PixelRepresentation") is None:
        raise DamagedScan(f"{name}: the header does not say whether pixels are signed (PixelRepresentation).")
    syntax = header.dataset.file_meta.TransferSyntaxUID
    if syntax not in COMPRESSED:
        count = header.whole("NumberOfFrames", 0) or 1
        expected = shape[0] * shape[1] * samples * count * bits // 8
        if photometric == "YBR_FULL_422":
            expected = expected * 2 // 3
        if not expected <= len(data) < expected + shape[1] * bits // 8:  # some pad, by less than a row
            raise DamagedScan(
                f"{name}: Rows and Columns claim {shape[1]} x {shape[0]} x {count} pixels, {expected} bytes; "
                f"the file holds {len(data)}, export it again."
            )
    elif not get_decoder(syntax).is_available:
        raise UnsupportedScan(f"{name}: no decoder for {syntax_name(UID(syntax))} is installed; export it uncompressed.")


def _check_coded(coded: bytes, header: Header, frame: Frame) -> None:
    """Compare a compressed frame with Rows and Columns before it is decoded."""
    name, (rows, columns) = header.name, frame.shape
    if header.dataset.file_meta.TransferSyntaxUID == RLELossless:
        # PackBits writes at most 128 bytes for 2.
        if rows * columns * header.whole("BitsAllocated", 0) // 8 > 64 * len(coded):
            raise DamagedScan(f"{name}: Rows and Columns claim more pixels than its RLE data can hold; export it again.")
        return
    size = coded_size(coded)
    if size != (rows, columns):
        found = "an unreadable size" if size is None else f"{size[1]} x {size[0]}"
        raise DamagedScan(
            f"{name}: Rows and Columns claim {columns} x {rows} pixels, the compressed picture {found}; export it again."
        )
    if b"\xff\xd9" not in coded[-16:]:
        raise DamagedScan(f"{name}: the compressed picture is cut off; export it again.")

