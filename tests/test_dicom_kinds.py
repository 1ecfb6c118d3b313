"""DICOM as other people write it: order, copies, mosaics, padding and display settings, each with its right value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_builder import geometry, head, header, saved, stored
from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.uid import generate_uid

from neurovision.errors import UnsupportedScan
from neurovision.scan.prepare import prepare
from neurovision.scan.read import group_scans, read, read_bytes
from neurovision.scan.study import Study


def one(k: int = 5, pixels: np.ndarray | None = None, **changes: Any) -> Dataset:
    """Slice ``k`` of the head; None removes an element."""
    plane = stored(head()[0])[k] if pixels is None else pixels
    dataset = header("kinds", plane)
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=["kinds", str(k)])
    dataset.InstanceNumber = k + 1
    for key, value in {**geometry(head()[0].affine, k), **changes}.items():
        if value is None:
            dataset.pop(key, None)
        else:
            setattr(dataset, key, value)
    dataset.PixelData = plane.tobytes()
    return dataset


def pixels_of(dataset: Dataset) -> np.ndarray:
    return read_bytes(saved(dataset), "x.dcm").pixels


@pytest.fixture(scope="module")
def plain() -> np.ndarray:
    return pixels_of(one())


def in_slice_order(study: Study) -> bool:
    """Whether the study's slices are the head's, from feet to head."""
    flat = [(p - p.mean()) / p.std() for p in (*study.pixels[..., 0], *head()[0].pixels[..., 0])]
    same = np.array([[float((a * b).mean()) for b in flat[10:]] for a in flat[:10]])
    return list(same.argmax(1)) == list(range(10))


FLAT = {"ImagePositionPatient": None, "ImageOrientationPatient": None, "InstanceNumber": None}


def write(folder: Path, names: list[str], **changes: Any) -> Path:
    folder.mkdir()
    for k, name in enumerate(names):
        given = {key: value(k) if callable(value) else value for key, value in changes.items()}
        (folder / name).write_bytes(saved(one(k, **given)))
    return folder


def test_slices_are_ordered_by_location(tmp_path: Path):
    names = [f"img{(k * 7) % 10}.dcm" for k in range(10)]
    study = read(write(tmp_path / "s", names, **FLAT, SliceLocation=lambda k: f"{-20 + 4.5 * k}", SliceThickness="4"))
    assert in_slice_order(study)
    assert study.spacing[0] == pytest.approx(4.5)  # from place to place, not a slice's thickness
    assert not any("names" in w for w in study.warnings)


def test_uneven_locations_are_told(tmp_path: Path):
    places = [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
    study = read(write(tmp_path / "s", [f"{k}.dcm" for k in range(10)], **FLAT, SliceLocation=lambda k: str(places[k])))
    assert any("not evenly spaced" in w for w in study.warnings)


def test_then_by_number_and_then_by_name_in_natural_order(tmp_path: Path):
    names = [f"img{k + 2}.dcm" for k in range(10)]  # img10 comes before img2 in the alphabet
    flat = {**FLAT, "SliceLocation": None}
    assert in_slice_order(read(write(tmp_path / "numbers", names[::-1], **{**flat, "InstanceNumber": lambda k: k + 1})))
    for folder, extra in (("names", {}), ("same", {"InstanceNumber": lambda k: 1})):
        study = read(write(tmp_path / folder, names, **{**flat, **extra}))
        assert in_slice_order(study)
        assert any("the files' names" in w for w in study.warnings)


def test_echoes_without_positions_are_told_apart(tmp_path: Path):
    folder = tmp_path / "s"
    folder.mkdir()
    for k in range(8):
        changes = {**FLAT, "SliceLocation": str(k // 2 * 5), "EchoTime": 12 + 80 * (k % 2)}
        (folder / f"{k}.dcm").write_bytes(saved(one(k, **changes)))
    assert [len(g) for g in group_scans([folder])] == [4, 4]


def test_slices_that_share_a_uid_are_all_read(tmp_path: Path):
    study = read(write(tmp_path / "s", [f"{k}.dcm" for k in range(10)], SOPInstanceUID="1.2.3"))
    assert study.n_slices == 10
    assert in_slice_order(study)
    assert not any("cop" in w for w in study.warnings)


@pytest.mark.parametrize("flat", [{}, FLAT], ids=["geometry", "none"])
def test_copies_are_left_out_and_counted(tmp_path: Path, flat: dict[str, Any]):
    given = {**flat, "InstanceNumber": lambda k: k + 1}
    folder = write(tmp_path / "s", [f"{k}.dcm" for k in range(10)], **given)
    for k in (2, 7, 7):
        (folder / f"copy-{k}-{len(list(folder.iterdir()))}.dcm").write_bytes((folder / f"{k}.dcm").read_bytes())
    (group,) = group_scans([folder])
    assert len(group) == 13
    study = read(folder)
    assert study.n_slices == 10
    assert any("3 files are copies" in w for w in study.warnings)


def test_one_uid_at_one_place_with_other_pixels_is_no_copy(tmp_path: Path):
    folder = write(tmp_path / "s", [f"{k}.dcm" for k in range(10)])
    (folder / "other.dcm").write_bytes(saved(one(3, stored(head()[0])[4])))
    with pytest.raises(UnsupportedScan, match="lie at the same place"):
        read(folder)


def test_a_mosaic_is_refused_with_a_sentence(tmp_path: Path):
    for kind in (["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"], ["DERIVED", "PRIMARY", "DIFFUSION", "MOSAIC", "NORM"]):
        with pytest.raises(UnsupportedScan, match="mosaic"):
            read_bytes(saved(one(ImageType=kind)), "x.dcm")
    folder = write(tmp_path / "s", [f"{k}.dcm" for k in range(10)])
    (folder / "m.dcm").write_bytes(saved(one(3, ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"], SeriesInstanceUID="1.9")))
    assert (folder / "m.dcm",) in group_scans([folder])  # it is answered for, beside the series


# --- the same pixels, the same answer --------------------------------------------------------------------------------


def padded(value: int, kind: type) -> tuple[np.ndarray, np.ndarray]:
    """The slice with its border replaced by padding; and where that is."""
    plane = stored(head()[0])[5].astype(kind)
    air = np.zeros(plane.shape, bool)
    air[:6] = air[-6:] = air[:, :6] = air[:, -6:] = True
    plane[air] = value
    return plane, air


@pytest.mark.parametrize(
    ("value", "kind", "elements"),
    [
        (-2000, np.int16, [("PixelPaddingValue", "SS", -2000)]),
        (-2000, np.int16, [("PixelPaddingValue", "US", 63536)]),
        (63536, np.uint16, [("PixelPaddingValue", "SS", -2000)]),
        (63536, np.uint16, [("PixelPaddingValue", "US", 63536)]),
        (-1500, np.int16, [("PixelPaddingValue", "SS", -2000), ("PixelPaddingRangeLimit", "SS", -1000)]),
        (-1500, np.int16, [("PixelPaddingValue", "US", 64536), ("PixelPaddingRangeLimit", "US", 63536)]),
        (4095, np.uint16, [("PixelPaddingValue", "US", 4095)]),
        (30000, np.int16, [("PixelPaddingValue", "SS", 29000), ("PixelPaddingRangeLimit", "SS", 32000)]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_padding_becomes_air(
    value: int, kind: type, elements: list[tuple[str, str, int]], photometric: str
):
    plane, air = padded(value, kind)
    if photometric == "MONOCHROME1":
        plane = np.where(air, plane, 4000 - plane).astype(kind)
    dataset = one(5, plane, PhotometricInterpretation=photometric)
    for key, vr, number in elements:
        dataset[key] = DataElement(key, vr, number)
    found, wanted = pixels_of(dataset)[0, ..., 0], pixels_of(one(5, padded(0, np.uint16)[0]))[0, ..., 0]
    assert found[air].max() == 0
    assert np.abs(found - wanted).max() < 0.02
    assert np.abs(prepare(found, 96).pixels - prepare(wanted, 96).pixels).mean() < 0.01


@pytest.mark.parametrize("negative", [False, True], ids=["plain pixels", "pixels stored as a negative"])
def test_an_inverting_lookup_table_changes_nothing(plain: np.ndarray, negative: bool):
    plane = stored(head()[0])[5]
    dataset = one(5, (4000 - plane).astype(np.uint16) if negative else plane)
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [256, 0, 16])
    table.add_new("LUTData", "US", list(range(65280, -1, -256)))
    dataset.VOILUTSequence = [table]
    assert np.allclose(pixels_of(dataset), plain, atol=1e-5)


def test_a_dark_narrow_window_changes_no_canvas(plain: np.ndarray):
    found = pixels_of(one(WindowCenter="500", WindowWidth="1000"))
    assert np.array_equal(found, plain)


def test_a_falling_rescale_is_followed(plain: np.ndarray):
    negative = (4000 - stored(head()[0])[5]).astype(np.uint16)
    assert np.allclose(pixels_of(one(5, negative, RescaleSlope="-1", RescaleIntercept="4000")), plain, atol=1e-5)


@pytest.mark.parametrize("keyword", ["PixelAspectRatio", "ImagerPixelSpacing"])
def test_pixels_of_a_known_shape_make_a_square_canvas_without_a_spacing(keyword: str):
    dataset = one()
    tall = np.repeat(dataset.pixel_array, 2, 1)  # pixels twice as tall as wide
    dataset.Columns, dataset.PixelData = tall.shape[1], tall.tobytes()
    del dataset.PixelSpacing
    for value, shape in (([2, 1], (2.0, 1.0)), ([0, 0], None)):
        setattr(dataset, keyword, value)
        study = read_bytes(saved(dataset), "x.dcm")
        assert study.spacing is None and study.pixel_shape == shape
    setattr(dataset, keyword, [2, 1])
    study = read_bytes(saved(dataset), "x.dcm")
    expected = prepare(read_bytes(saved(one()), "x.dcm").gray(), 96)
    square, squeezed = (prepare(study.gray(), 96, shape).pixels for shape in (study.pixel_shape, None))
    assert np.abs(square - expected.pixels).mean() < np.abs(squeezed - expected.pixels).mean() / 2
