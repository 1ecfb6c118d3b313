"""A pydicom plugin for JPEG Lossless and 12-bit JPEG through imagecodecs, whose license is permissive."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydicom.pixels import get_decoder
from pydicom.uid import JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import DecodeRunner

LABEL = "imagecodecs"
DECODER_DEPENDENCIES = {uid: ("imagecodecs",) for uid in (JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1)}


def is_available(uid: str) -> bool:
    """Whether this plugin decodes a transfer syntax; pydicom asks."""
    return uid in DECODER_DEPENDENCIES


def decode_frame(source: bytes, runner: DecodeRunner) -> bytes:
    """Decode one frame to little-endian pixel bytes; pydicom calls it.

    Raises:
        ValueError: The frame's size is not the header's.
    """
    from imagecodecs import jpeg8_decode

    pixels: np.ndarray = jpeg8_decode(source)
    if pixels.shape[:2] != (runner.rows, runner.columns):
        raise ValueError("the frame's size is not the header's")
    runner.set_option("bits_allocated", pixels.itemsize * 8)
    return pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()


def register() -> None:
    """Offer the plugin to pydicom's decoders, once."""
    for uid in DECODER_DEPENDENCIES:
        decoder = get_decoder(uid)
        if LABEL not in decoder.available_plugins:
            decoder.add_plugin(LABEL, (__name__, "decode_frame"))


def coded_size(frame: bytes) -> tuple[int, int] | None:
    """Read ``(rows, columns)`` from a JPEG, JPEG-LS or JPEG 2000 codestream without decoding it; None if unreadable."""
    if frame[:4] == b"\xff\x4f\xff\x51" or b"jP  \r\n" in frame[:16]:
        at = frame.find(b"\xff\x4f\xff\x51")
        if at < 0 or len(frame) < at + 24:
            return None
        width, height, left, top = (int.from_bytes(frame[at + k : at + k + 4], "big") for k in (8, 12, 16, 20))
        return height - top, width - left
    if frame[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 < len(frame):
        if frame[at] != 0xFF:
            return None
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if marker == 0xFF:
            at += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return int.from_bytes(frame[at + 5 : at + 7], "big"), int.from_bytes(frame[at + 7 : at + 9], "big")
        else:
            at += 2 + max(length, 2)
    return None
