"""Reader for pictures: PNG, JPEG, TIFF, WebP and BMP."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps

from neurovision.errors import DamagedScan, ScanTooLarge, UnsupportedScan
from neurovision.scan.intensity import AIR_NOTE, LARGEST, darken_air, scale_robust
from neurovision.scan.study import Source, Study

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
MAX_PIXELS = 16_000_000
MAX_BYTES = 64_000_000
MIN_SIDE = 32
MAX_PREVIEWS = 8  # pages of a TIFF that are looked at for one that is no preview
_SUBFILE, _PHOTOMETRIC, _FORMAT_TAG = 254, 262, 339  # tags of TIFF 6.0
_EXTRA = 0b101  # of NewSubfileType: a smaller copy, or a mask of transparency


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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own, lower limit follows
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as e:
        raise ScanTooLarge(f"{name}: a picture may have {MAX_PIXELS // 10**6} million pixels; this has far more.") from e
    except Exception as e:  # Pillow raises anything on hostile or damaged files
        raise UnsupportedScan(f"{name}: this is not a readable {', '.join(FORMATS)} picture; export the scan as PNG.") from e
    _check_size(picture, name)
    try:
        _choose_frame(picture, name)
        _check_size(picture, name)
        width, height = picture.size
        if min(width, height) < MIN_SIDE:
            raise UnsupportedScan(f"{name}: a scan has at least {MIN_SIDE} pixels a side; received {width} x {height}.")
        picture.load()
        tags = dict(getattr(picture, "tag_v2", {}))  # which copies of the picture lose
        values = _to_array(ImageOps.exif_transpose(_deep(picture, data) or picture), tags)
    except (UnsupportedScan, ScanTooLarge):
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
    pixels = np.array(values[None], np.float32, order="C")
    if pixels.shape[3] == 1 and darken_air(pixels[..., 0]):
        notes.append(AIR_NOTE)
    kind = "JPEG" if picture.format == "MPO" else str(picture.format)
    source = Source(Path(name).name, kind, hashlib.sha256(data).hexdigest())
    return Study(pixels, source, warnings=tuple(notes))


def _check_size(picture: Image.Image, name: str) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ScanTooLarge(
            f"{name}: a picture may have {MAX_PIXELS // 10**6} million pixels; received {width} x {height}, scale it down."
        )


def _choose_frame(picture: Image.Image, name: str) -> None:
    """Go to the frame that is the picture, where the others are known to be previews or a camera's extras.

    Raises:
        UnsupportedScan: Several frames are pictures.
    """
    count = getattr(picture, "n_frames", 1)
    if count == 1 or picture.format == "MPO":  # of an MPO, a phone's JPEG, the first is the picture by definition
        return
    if picture.format == "TIFF" and count <= MAX_PREVIEWS:
        full = [k for k in range(count) if not _page_tag(picture, k, _SUBFILE) & _EXTRA]
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


def _to_array(picture: Image.Image, tags: Mapping[int, Any]) -> np.ndarray:
    """Return float32 ``(H, W, 1 or 3)`` in [0, 1] whatever Pillow's mode is; ``tags`` are a TIFF's."""
    mode = picture.mode
    if mode == "1":
        return np.asarray(picture, np.float32)[..., None]
    signed = mode == "L" and tags.get(_FORMAT_TAG, (1,))[0] == 2
    if mode in ("I", "F") or mode.startswith("I;16") or signed:
        stored = np.asarray(picture)
        if signed:
            # Pillow takes signed bytes for unsigned ones, and has inverted those whose white is zero.
            stored = (255 - stored if tags.get(_PHOTOMETRIC) == 0 else stored).view(np.int8)
        elif mode == "I" and tags.get(_FORMAT_TAG, (1,))[0] == 1:
            stored = stored.view(np.uint32)
        values = scale_finite(stored.astype(np.float32))
        return (1 - values if tags.get(_PHOTOMETRIC) == 0 else values)[..., None]
    if mode == "LAB":
        picture = picture.getchannel(0)  # the lightness
    elif mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    elif mode != "L":
        picture = picture.convert("RGB")
    values = np.asarray(picture, np.float32) / 255.0
    return values[..., None] if values.ndim == 2 else values


def stored_inverted(picture: Image.Image) -> bool:
    """Whether a picture's values still have to be inverted: Pillow leaves a TIFF's deep grays with white at zero so."""
    deep = picture.mode in ("I", "F") or picture.mode.startswith("I;16")
    return deep and getattr(picture, "tag_v2", {}).get(_PHOTOMETRIC) == 0


def scale_finite(values: np.ndarray) -> np.ndarray:
    """Scale float32 ``(H, W)`` of unknown range to [0, 1] as ``scale_robust`` does; what is no number becomes 0."""
    finite = np.abs(values) <= LARGEST
    if not finite.any():
        return np.zeros(values.shape, np.float32)
    return scale_robust(np.where(finite, values, values[finite].min()).astype(np.float32))
