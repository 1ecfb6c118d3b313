"""Reading pictures: every kind is read right or refused in one sentence."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from neurovision.errors import DamagedScan, ScanError, ScanTooLarge, UnsupportedScan
from neurovision.scan.images import FORMATS, MAX_PIXELS, read_image
from neurovision.scan.phantom import phantom
from neurovision.scan.prepare import prepare
from neurovision.scan.read import find_scans, read


def gray() -> np.ndarray:
    return np.rint(phantom("glioma", 3, 128)[0].gray() * 255).astype(np.uint8)


def encode(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read(kind):
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    study = read_image(encode(Image.fromarray(gray()), kind, **options), "a.x")
    assert study.pixels.shape == (1, 128, 128, 1) and study.source.format == kind
    assert np.abs(study.gray() * 255 - gray()).max() <= (12 if kind == "JPEG" else 0.01)
    assert study.spacing is None


def test_sixteen_bits_keep_their_detail():
    deep = (gray().astype(np.uint16) * 16) + 3  # 12 bits in 16: naive conversion to 8 bits would saturate
    study = read_image(encode(Image.fromarray(deep)), "deep.png")
    assert np.corrcoef(study.gray().ravel(), gray().ravel())[0, 1] > 0.99
    assert len(np.unique(study.gray())) > 100


def test_float_tiff_with_nan_is_scaled():
    values = gray().astype(np.float32) / 1000
    values[0, 0] = np.nan
    study = read_image(encode(Image.fromarray(values), "TIFF"), "float.tif")
    assert np.isfinite(study.pixels).all() and study.gray().max() == 1


def canvas_of(data: bytes) -> np.ndarray:
    return prepare(read_image(data, "x").gray(), 96).pixels


def tiff(values: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def same_picture() -> dict[str, bytes]:
    """The phantom as every kind of gray picture that is read; a viewer shows the same of each."""
    eight = gray()
    twelve = eight.astype(np.uint16) * 16
    full = eight.astype(np.uint16) * 257
    signed = (eight.astype(np.int16) - 128).astype(np.int8)
    white, black = "miniswhite", "minisblack"
    return {
        "8 bit TIFF, white is zero": tiff(255 - eight, photometric=white),
        "12 in 16 bit PNG": encode(Image.fromarray(twelve)),
        "16 bit TIFF": tiff(full, photometric=black),
        "16 bit TIFF, big-endian": tiff(full, photometric=black, byteorder=">"),
        "16 bit TIFF, white is zero": tiff(65535 - full, photometric=white),
        "12 in 16 bit TIFF, white is zero": tiff(4095 - twelve, photometric=white),
        "signed 16 bit TIFF": tiff(twelve.astype(np.int16) - 1000, photometric=black),
        "signed 8 bit TIFF": tiff(signed, photometric=black),
        "unsigned 32 bit TIFF": tiff(eight.astype(np.uint32) * 16_000_000, photometric=black),
        "float TIFF": tiff(eight.astype(np.float32) / 1000 - 3, photometric=black),
        "float TIFF, white is zero": tiff(3 - eight.astype(np.float32) / 1000, photometric=white),
        "signed 8 bit TIFF, white is zero": tiff(~signed, photometric=white),
        "signed 16 bit TIFF, big-endian, compressed": tiff(
            twelve.astype(np.int16) - 1000, photometric=black, byteorder=">", compression="zlib"
        ),
        "signed 32 bit TIFF, big-endian, white is zero": tiff(~twelve.astype(np.int32), photometric=white, byteorder=">"),
        "unsigned 32 bit TIFF, white is zero": tiff(4_294_967_295 - twelve.astype(np.uint32), photometric=white),
        "16 bit TIFF, tiles, compressed, white is zero": tiff(
            65535 - full, photometric=white, byteorder=">", tile=(32, 32), compression="lzw"
        ),
        "16 bit TIFF, strips, predicted": tiff(
            full, photometric=black, rowsperstrip=7, compression="zlib", predictor=True
        ),
        "double TIFF, big": tiff(eight / 1000, photometric=black, bigtiff=True),
        "half TIFF, big-endian, white is zero": tiff((3 - eight / 100).astype(np.float16), photometric=white, byteorder=">"),
        "color PNG, 12 in 16 bit": cv2.imencode(".png", np.dstack([twelve] * 3))[1].tobytes(),
        "color TIFF, 12 in 16 bit": tiff(np.dstack([twelve] * 3), photometric="rgb"),
        "PNG with alpha, 16 bit": cv2.imencode(".png", np.dstack([full] * 3 + [full * 0 + 65535]))[1].tobytes(),
        "palette PNG": encode(Image.fromarray(eight).convert("P")),
        "WebP": encode(Image.fromarray(eight), "WEBP", lossless=True),
        "BMP": encode(Image.fromarray(eight), "BMP"),
    }


@pytest.mark.parametrize("kind", same_picture())
def test_the_same_picture_gives_the_same_canvas(kind: str):
    """Whatever its depth, sign, byte order, and whether white is zero."""
    expected = canvas_of(encode(Image.fromarray(gray())))
    assert np.abs(canvas_of(same_picture()[kind]) - expected).max() < 0.02


def test_a_phones_second_picture_and_a_tiffs_preview_are_passed_over():
    picture, small = Image.fromarray(gray()), Image.fromarray(255 - gray()[::2, ::2])
    phone = encode(picture, "MPO", save_all=True, append_images=[small])
    assert phone[:2] == b"\xff\xd8"
    study = read_image(phone, "IMG_0001.JPG")
    assert study.source.format == "JPEG" and study.gray().shape == (128, 128)
    for order in (1, -1):  # the preview may come first
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer) as writer:
            for page, kind in ((gray(), 0), (np.asarray(small), 1))[::order]:
                writer.write(page, photometric="minisblack", subfiletype=kind)
        assert np.array_equal(np.rint(read_image(buffer.getvalue(), "x.tif").gray() * 255), gray())


def test_air_amid_the_grays_is_taken_for_air():
    study, truth = phantom("glioma", 3, 128)
    head = truth > 0
    inside = study.gray()[head]
    scaled = np.where(head, (study.gray() - inside.mean()) / inside.std(), 0).astype(np.float32)
    read = read_image(encode(Image.fromarray(scaled), "TIFF"), "z.tif")
    assert any("taken for air" in w for w in read.warnings)
    assert read.gray()[~head].max() == 0 and read.gray()[head].mean() > 0.3
    found = prepare(read.gray(), 96)
    assert np.abs(found.pixels - prepare(np.where(head, study.gray(), 0).astype(np.float32), 96).pixels).mean() < 0.02
    eight = np.rint(np.interp(scaled, (scaled.min(), scaled.max()), (0, 255))).astype(np.uint8)
    assert read_image(encode(Image.fromarray(eight)), "z.png").gray()[~head].max() == 0
    plain = read_image(encode(Image.fromarray(gray())), "plain.png")
    assert not plain.warnings


def test_alpha_is_composed_over_black():
    rgba = np.dstack([gray()] * 3 + [np.zeros((128, 128), np.uint8)])
    rgba[:64, :, 3] = 255
    study = read_image(encode(Image.fromarray(rgba)), "alpha.png")
    assert study.gray()[64:].max() == 0 and study.gray()[:64].max() > 0.5


def test_palette_and_cmyk_become_brightness():
    picture = Image.fromarray(gray())
    palette = read_image(encode(picture.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)), "p.png")
    cmyk = read_image(encode(picture.convert("RGB").convert("CMYK"), "TIFF"), "c.tif")
    for study in (palette, cmyk):
        assert np.corrcoef(study.gray().ravel(), gray().ravel())[0, 1] > 0.99


def test_color_is_kept_and_warned_of():
    rgb = np.dstack([gray(), gray() // 2, gray() // 4])
    study = read_image(encode(Image.fromarray(rgb)), "color.png")
    assert study.pixels.shape[3] == 3 and any("color" in w for w in study.warnings)


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned a quarter
    tall = Image.fromarray(gray()[:, :96])
    assert read_image(encode(tall, "JPEG", exif=exif), "turned.jpg").gray().shape == (96, 128)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", DamagedScan, "empty"),
        (b"hello, this is text", UnsupportedScan, "not a readable"),
        (b"MZ\x90\x00" + b"\0" * 500, UnsupportedScan, "not a readable"),
        (encode(Image.fromarray(gray()))[:-2000], DamagedScan, "damaged"),
        (encode(Image.fromarray(gray()), "JPEG")[:600], DamagedScan, "damaged"),
        (encode(Image.new("L", (1, 1))), UnsupportedScan, "at least 32 pixels"),
        (encode(Image.new("L", (64, 64), 7)), UnsupportedScan, "same value"),
        (encode(Image.new("1", (20_000, 20_000))), ScanTooLarge, "million pixels"),
        (encode(Image.new("1", (5000, 4000))), ScanTooLarge, "5000 x 4000"),
    ],
    ids=["empty", "text", "program", "cut png", "cut jpeg", "one pixel", "blank", "bomb", "large"],
)
def test_bad_files_are_refused_in_one_sentence(data, error, words):
    with pytest.raises(error, match=words) as caught:
        read_image(data, "scan.png")
    message = str(caught.value)
    assert message.startswith("scan.png: ") and "\n" not in message and len(message) < 220


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\0\0\0\x18ftypheic", "HEIC"), (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"), (b"\xfd7zXZ\0\0", "XZ archive"),
        (b"ObjectType = Image", "MetaImage"), (b"<!DOCTYPE html>", "web page"), (b"CDF\1", "MINC"), (b"GIF89a", "GIF"),
    ],
)  # fmt: skip
def test_what_is_no_scan_is_called_by_its_name(tmp_path, start, words):
    (tmp_path / "x.png").write_bytes(start + b"\0" * 400)
    with pytest.raises(UnsupportedScan, match=words):
        read(tmp_path / "x.png")


def test_what_a_tiff_lacks_is_told():
    deep = gray().astype(np.uint16) * 16
    for options in ({}, {"tile": (32, 32)}, {"rowsperstrip": 7, "compression": "zlib"}):
        whole = tiff(deep, photometric="minisblack", **options)
        with pytest.raises(DamagedScan, match="cut off"):
            read_image(whole[: len(whole) - 200], "x.tif")
    turned = tiff(deep, photometric="minisblack", extratags=[(274, 3, 1, 6, True)])  # a quarter to the right
    plain = read_image(tiff(deep, photometric="minisblack"), "x.tif").gray()
    assert np.array_equal(read_image(turned, "x.tif").gray(), np.rot90(plain, -1))
    with pytest.raises(ScanTooLarge, match="4000 x 5000"):
        read_image(tiff(np.zeros((5000, 4000), np.int8), photometric="minisblack", compression="zlib"), "x.tif")


def test_no_decoder_prints(tmp_path):
    """Libraries in C write to the stream past Python, chunks' and files' names with it."""
    rng = np.random.default_rng(0)
    deep = np.dstack([gray().astype(np.uint16) * 16] * 3)
    wholes = [
        cv2.imencode(".png", deep)[1].tobytes(), encode(Image.fromarray(gray()), "TIFF", compression="tiff_lzw"),
        tiff(deep[..., 0], photometric="minisblack", description="Zyxwvut"), encode(Image.fromarray(gray()), "JPEG"),
    ]  # fmt: skip
    (tmp_path / "unknown.png").write_bytes(wholes[0][:33] + chunk(b"ZYXW", b"Zyxwvut") + wholes[0][33:])
    (tmp_path / "invalid.png").write_bytes(wholes[0][:33] + chunk(b"sBIT", b"   ") + wholes[0][33:])
    for number in range(40):
        data = bytearray(wholes[number % 4])
        for at in rng.integers(8, len(data), 12):
            data[at] = rng.integers(256)
        (tmp_path / f"Zyxwvut-{number}.x").write_bytes(data)
    code = """
import sys
from pathlib import Path
from neurovision.errors import ScanError
from neurovision.scan.images import read_image
refused = 0
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_image(path.read_bytes(), "x")
    except ScanError:
        refused += 1
print(refused)
"""
    command = [sys.executable, "-W", "always", "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == "" and 0 < int(done.stdout) < 42


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_animated_pictures_are_refused():
    frames = [Image.fromarray(gray()), Image.fromarray(255 - gray())]
    data = encode(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    with pytest.raises(UnsupportedScan, match="2 frames"):
        read_image(data, "many.tif")


def test_limits_are_what_the_text_says():
    assert MAX_PIXELS == 16_000_000


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 4000), at=st.integers(0, 4000), value=st.integers(0, 255))
def test_damage_never_raises_anything_else(cut, at, value):
    data = bytearray(encode(Image.fromarray(gray()[:64, :64])))
    data[at % len(data)] = value
    try:
        study = read_image(bytes(data[: max(1, len(data) - cut)]), "x.png")
    except ScanError:
        return
    assert np.isfinite(study.pixels).all()


def test_read_names_a_missing_file(tmp_path):
    with pytest.raises(DamagedScan, match=r"gone\.png: there is no such file"):
        read(tmp_path / "gone.png")


def test_folders_are_expanded_in_order(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "sub/a.jpg"):
        (tmp_path / name).write_bytes(encode(Image.fromarray(gray()), "JPEG" if name.endswith("jpg") else "PNG"))
    (tmp_path / "notes.txt").write_text("Dear colleague")
    assert [p.name for p in find_scans([tmp_path])] == ["b.png", "a.jpg"]
