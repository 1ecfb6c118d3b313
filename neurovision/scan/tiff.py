"""Gray pictures in TIFF, of every depth, sign, byte order, layout and compression.

Pillow takes some for others: it leaves the bytes of big-endian signed values as they are where they are compressed, for
one, and opens no values of 64 bits.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tifffile

from neurovision.errors import DamagedScan, ScanTooLarge, UnsupportedScan

MAX_PREVIEWS = 8  # pages that are looked at for one that is no preview
EXTRA = 0b101  # of NewSubfileType: a smaller copy, or a mask of transparency
_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # by the tag Orientation
    2: np.fliplr, 3: lambda v: v[::-1, ::-1], 4: np.flipud, 5: np.transpose, 6: lambda v: np.rot90(v, -1),
    7: lambda v: v[::-1, ::-1].T, 8: np.rot90,
}  # fmt: skip


@dataclass(frozen=True)
class Gray:
    """What is stored.

    Attributes:
        values: ``(H, W)`` of any kind of number, upright.
        white_is_zero: Whether the smallest value is white.
    """

    values: np.ndarray
    white_is_zero: bool


def read_gray(data: bytes, name: str, largest: int) -> Gray | None:
    """Decode a gray TIFF, of which everything but one page is a preview.

    Args:
        data: The file's bytes.
        name: The file's name, for messages.
        largest: How many pixels it may have.

    Returns:
        The picture; None of what Pillow reads as well: another format, colors, a palette, unsigned values of 8 bits and
        fewer, several pictures.

    Raises:
        DamagedScan: Truncated or not decodable.
        ScanTooLarge: More pixels.
        UnsupportedScan: Its compression needs a package that is not installed.
    """
    if data[:4] not in _STARTS:
        return None
    try:
        with tifffile.TiffFile(io.BytesIO(data), _multifile=False) as file:
            pages = list(itertools.islice(file.pages, MAX_PREVIEWS + 1))
            full = [p for p in pages if isinstance(p, tifffile.TiffPage) and not int(p.subfiletype) & EXTRA]
            if len(pages) > MAX_PREVIEWS or len(full) != 1 or not _deep_gray(full[0], data[2:3] + data[3:4]):
                return None
            page = full[0]
            tile = page.tilewidth * page.tilelength if page.is_tiled else 0
            if max(page.imagewidth * page.imagelength, tile // 4) > largest:
                raise ScanTooLarge(
                    f"{name}: a picture may have {largest // 10**6} million pixels; received {page.imagewidth} x "
                    f"{page.imagelength}, scale it down."
                )
            places = zip(page.dataoffsets, page.databytecounts, strict=True)
            if not all(0 < count <= len(data) - offset for offset, count in places):
                raise DamagedScan(f"{name}: the picture is cut off; send it again.")
            turn = page.tags.valueof(274, 1)
            values = np.asarray(page.asarray(maxworkers=1))
    except (DamagedScan, ScanTooLarge):
        raise
    except Exception as e:  # tifffile and its decoders raise anything on hostile or damaged files
        if "imagecodecs" in str(e):
            raise UnsupportedScan(f"{name}: this kind of TIFF is not read here; export the scan as PNG.") from e
        raise DamagedScan(f"{name}: the picture is damaged or cut off and cannot be decoded; send it again.") from e
    if values.ndim != 2 or values.dtype.kind not in "iuf":
        raise UnsupportedScan(f"{name}: this kind of TIFF is not read here; export the scan as PNG.")
    return Gray(_TURNS.get(turn, np.asarray)(values), page.photometric == tifffile.PHOTOMETRIC.MINISWHITE)


def _deep_gray(page: tifffile.TiffPage, start: bytes) -> bool:
    if page.samplesperpixel != 1 or page.imagedepth != 1 or int(page.photometric) not in (0, 1):
        return False
    return page.bitspersample > 8 or page.sampleformat != tifffile.SAMPLEFORMAT.UINT or b"+" in start
