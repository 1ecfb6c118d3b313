"""Reader for pictures: PNG, JPEG, TIFF, WebP and BMP."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from neurovision.errors import DamagedScan, ScanTooLarge, UnsupportedScan
from neurovision.scan.intensity import AIR_NOTE, LARGEST, darken_air, scale_robust
from neurovision.scan.quiet import quiet_decoder
from neurovision.scan.study import Source, Study
from neurovision.scan.tiff import EXTRA, MAX_PREVIEWS, read_gray

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
MAX_PIXELS = 16_000_000
MAX_BYTES = 64_000_000
MIN_SIDE = 32
_SUBFILE = 254  # tag of TIFF 6.0


@quiet_decoder()
def read_image(data: bytes, name: str) -> Study:
    """Decode a picture into a one-slice Study.

    Grays of 8 bits and fewer are scaled by the range of their type, deeper ones between the darkest and the brightest
    but for a few hot pixels (``intensity.RANGE``), since a scanner rarely uses a type's whole range. Where white is
    stored as zero, or values are signed, the picture is what a viewer shows. Alpha is composed over black, palettes and
    CMYK become RGB, EXIF orientation is applied. Of a container that holds a preview, a thumbnail or a phone's second
    image beside the picture, the picture is read.

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
    gray = read_gray(data, name, MAX_PIXELS)
    if gray is not None:
        height, width = gray.values.shape
        _check_size(width, height, name, MIN_SIDE)
        values = gray.values / np.float32(255) if gray.values.dtype == np.uint8 else scale_finite(gray.values)
        return _study((1 - values if gray.white_is_zero else values)[..., None], "TIFF", data, name)
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as e:
        raise ScanTooLarge(f"{name}: a picture may have {MAX_PIXELS // 10**6} million pixels; this has far more.") from e
    except Exception as e:  # Pillow raises anything on hostile or damaged files
        raise UnsupportedScan(f"{name}: this is not a readable {', '.join(FORMATS)} picture; export the scan as PNG.") from e
    _check_size(*picture.size, name)
    try:
        _choose_frame(picture, name)
        _check_size(*picture.size, name, MIN_SIDE)
        picture.load()
        values = _to_array(ImageOps.exif_transpose(_deep(picture, data) or picture))
    except (UnsupportedScan, ScanTooLarge):
        raise
    except Exception as e:  # Pillow raises anything on hostile or damaged files
        raise DamagedScan(f"{name}: the picture is damaged or cut off and cannot be decoded; send it again.") from e
    return _study(values, "JPEG" if picture.format == "MPO" else str(picture.format), data, name)


def _study(values: np.ndarray, kind: str, data: bytes, name: str) -> Study:
    """A Study of float32 ``(H, W, 1 or 3)`` in [0, 1]."""
    notes = []
    if values.shape[2] == 3:
        red, green, blue = np.moveaxis(values, 2, 0)
        if max(np.abs(a - b).max() for a, b in ((red, green), (green, blue), (blue, red))) <= 0.02:
            values = values[..., :1]
        else:
            notes.append("This is a color picture; the networks read its brightness only.")
    if float(np.ptp(values)) == 0.0:
        raise UnsupportedScan(f"{name}: every pixel has the same value; there is nothing to read.")
    pixels = np.array(values[None], np.float32, order="C")
    if pixels.shape[3] == 1 and darken_air(pixels[..., 0]):
        notes.append(AIR_NOTE)
    source = Source(Path(name).name, kind, hashlib.sha256(data).hexdigest())
    return Study(pixels, source, warnings=tuple(notes))


def _check_size(width: int, height: int, name: str, least: int = 0) -> None:
    if width * height > MAX_PIXELS:
        raise ScanTooLarge(
            f"{name}: a picture may have {MAX_PIXELS // 10**6} million pixels; received {width} x {height}, scale it down."
        )
    if min(width, height) < least:
        raise UnsupportedScan(f"{name}: a scan has at least {least} pixels a side; received {width} x {height}.")


def _choose_frame(picture: Image.Image, name: str) -> None:
    """Go to the frame that is the picture, where the others are known to be previews or a camera's extras.

    Raises:
        UnsupportedScan: Several frames are pictures.
    """
    count = getattr(picture, "n_frames", 1)
    if count == 1 or picture.format == "MPO":  # of an MPO, a phone's JPEG, the first is the picture by definition
        return
    if picture.format == "TIFF" and count <= MAX_PREVIEWS:
        full = [k for k in range(count) if not _page_tag(picture, k, _SUBFILE) & EXTRA]
        if len(full) == 1:
            picture.seek(full[0])
            return
    raise UnsupportedScan(f"{name}: a picture holds one image; received {count} frames, save the one to read by itself.")


def _page_tag(picture: Image.Image, page: int, tag: int) -> int:
    picture.seek(page)
    return int(getattr(picture, "tag_v2", {}).get(tag, 0))


def _deep(picture: Image.Image, data: bytes) -> Image.Image | None:
    """What Pillow would lose, decoded again as a gray picture of 32-bit values, or None: colors of 16 bits a channel.

    Pillow keeps their upper 8 bits, of which a 12-bit scan leaves 4.
    """
    tags = getattr(picture, "tag_v2", {})
    depth = data[24] if picture.format == "PNG" else max(np.ravel(tags.get(258, 8)))
    if depth != 16 or picture.mode not in ("RGB", "RGBA", "LA") or getattr(picture, "n_frames", 1) != 1:
        return None
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.shape[:2] != picture.size[::-1] or values.ndim != 3:
        return None
    channels = values[..., : 3 if values.shape[2] >= 3 else 1].astype(np.float32)
    if np.ptp(channels, axis=2).max() > 0.02 * channels.max():
        return None  # colors, of which the brightness is enough
    gray = channels[..., 0]
    if values.shape[2] in (2, 4):
        gray = gray * (values[..., -1] / np.float32(65535))
    deep = Image.fromarray(gray)
    deep.info = {k: v for k, v in picture.info.items() if k == "exif"}
    return deep


def _to_array(picture: Image.Image) -> np.ndarray:
    """Return float32 ``(H, W, 1 or 3)`` in [0, 1] whatever Pillow's mode is."""
    mode = picture.mode
    if mode == "1":
        return np.asarray(picture, np.float32)[..., None]
    if mode in ("I", "F") or mode.startswith("I;16"):
        return scale_finite(np.asarray(picture))[..., None]
    if mode == "LAB":
        picture = picture.getchannel(0)  # the lightness
    elif mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    elif mode != "L":
        picture = picture.convert("RGB")
    values = np.asarray(picture, np.float32) / 255.0
    return values[..., None] if values.ndim == 2 else values


def scale_finite(stored: np.ndarray) -> np.ndarray:
    """Scale ``(H, W)`` numbers of unknown range to [0, 1] as ``scale_robust`` does; what is none becomes 0."""
    with np.errstate(all="ignore"):  # what overflows float32 is no number
        lowest = stored.min() if stored.dtype.kind in "iu" else 0  # taken off first: what is left fits float32's digits
        values = (stored - lowest if stored.dtype.kind == "u" else stored.astype(np.float64) - lowest).astype(np.float32)
    finite = np.abs(values) <= LARGEST
    if not finite.any():
        return np.zeros(values.shape, np.float32)
    return scale_robust(np.where(finite, values, values[finite].min()).astype(np.float32))
