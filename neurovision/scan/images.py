"""Reader for pictures: PNG, JPEG, TIFF, WebP and BMP."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from neurovision.errors import DamagedScan, ScanTooLarge, UnsupportedScan
from neurovision.scan.intensity import LARGEST
from neurovision.scan.study import Source, Study

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
MAX_PIXELS = 16_000_000
MAX_BYTES = 64_000_000
MIN_SIDE = 32


def read_image(data: bytes, name: str) -> Study:
    """Decode a picture into a one-slice Study.

    Grays of any depth are kept as they are and then scaled by the range of the type (8 bit), or robustly by the
    0.5 and 99.5 percentiles (16 and 32 bit, where a scanner rarely uses the whole range). Alpha is composed over
    black, palettes and CMYK become RGB, EXIF orientation is applied.

    Args:
        data: The file's bytes.
        name: The file's name, for messages.

    Raises:
        DamagedScan: Empty, truncated or not decodable.
        UnsupportedScan: Not one of FORMATS, animated or multi-page, smaller than MIN_SIDE, or without contrast.
        ScanTooLarge: More than MAX_BYTES or MAX_PIXELS.
    """
    if not data:
        raise DamagedScan(f"{name}: the file is empty (0 bytes); send the picture again.")
    if len(data) > MAX_BYTES:
        raise ScanTooLarge(f"{name}: a picture may have {MAX_BYTES // 10**6} MB; received {len(data) // 10**6} MB.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own, lower limit follows
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as e:
        raise ScanTooLarge(f"{name}: a picture may have {MAX_PIXELS // 10**6} million pixels; this has far more.") from e
    except Exception as e:  # Pillow raises anything on hostile or damaged files
        raise UnsupportedScan(f"{name}: this is not a readable {', '.join(FORMATS)} picture; export the scan as PNG.") from e
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ScanTooLarge(
            f"{name}: a picture may have {MAX_PIXELS // 10**6} million pixels; received {width} x {height}, scale it down."
        )
    try:
        frames = getattr(picture, "n_frames", 1)
        if frames > 1:
            raise UnsupportedScan(
                f"{name}: a picture holds one image; received {frames} frames, save the one to read by itself."
            )
        if min(width, height) < MIN_SIDE:
            raise UnsupportedScan(f"{name}: a scan has at least {MIN_SIDE} pixels a side; received {width} x {height}.")
        picture.load()
        values = _to_array(ImageOps.exif_transpose(picture))
    except UnsupportedScan:
        raise
    except Exception as e:  # Pillow raises anything on hostile or damaged files
        raise DamagedScan(f"{name}: the picture is damaged or cut off and cannot be decoded; send it again.") from e
    notes = []
    if values.shape[2] == 3:
        red, green, blue = np.moveaxis(values, 2, 0)
        if max(np.abs(a - b).max() for a, b in ((red, green), (green, blue), (blue, red))) <= 0.02:
            values = values[..., :1]
        else:
            notes.append("This is a color picture; the networks read its brightness only.")
    if float(np.ptp(values)) == 0.0:
        raise UnsupportedScan(f"{name}: every pixel has the same value; there is nothing to read.")
    source = Source(Path(name).name, str(picture.format), hashlib.sha256(data).hexdigest())
    return Study(np.ascontiguousarray(values[None], np.float32), source, warnings=tuple(notes))


def _to_array(picture: Image.Image) -> np.ndarray:
    """Return float32 ``(H, W, 1 or 3)`` in [0, 1] whatever Pillow's mode is."""
    mode = picture.mode
    if mode == "1":
        return np.asarray(picture, np.float32)[..., None]
    if mode in ("I", "F") or mode.startswith("I;16"):
        return _robust(np.asarray(picture).astype(np.float32))[..., None]
    if mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    elif mode != "L":
        picture = picture.convert("RGB")
    values = np.asarray(picture, np.float32) / 255.0
    return values[..., None] if values.ndim == 2 else values


def _robust(values: np.ndarray) -> np.ndarray:
    """Scale values of unknown range to [0, 1] by their 0.5 and 99.5 percentiles; NaN and beyond LARGEST become 0."""
    finite = np.abs(values) <= LARGEST
    if not finite.any():
        return np.zeros(values.shape, np.float32)
    low, high = np.percentile(values[finite], (0.5, 99.5))
    if high <= low:
        low, high = float(values[finite].min()), float(values[finite].max())
    scaled = (np.where(finite, values, low) - low) / max(high - low, 1e-12)
    return np.clip(scaled, 0, 1).astype(np.float32)
