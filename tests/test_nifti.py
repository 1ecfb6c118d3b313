"""NIfTI: any orientation becomes the same slices, and hostile headers one clear sentence."""

from __future__ import annotations

import bz2
import gzip
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import zstandard
from dicom_builder import head, oblique, stored
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from neurovision.errors import DamagedScan, NeurovisionError, ScanError, ScanTooLarge, UnsupportedScan
from neurovision.scan.grid import RAS_TO_LPS
from neurovision.scan.prepare import prepare
from neurovision.scan.read import find_scans, group_scans, list_scans, read, read_bytes, read_files

CODES = ["".join(c) for c in itertools.permutations("RAS")] + ["LPS", "LIP", "SPL", "PIR", "ILA", "ARI"]


def volume(codes: str = "LPS", turned: bool = False) -> nib.Nifti1Image:
    """The phantom as a NIfTI image whose axes run as ``codes`` says."""
    study = head()[0]
    affine = RAS_TO_LPS @ (oblique(study.affine) if turned else study.affine)
    voxels = stored(study).astype(np.int16)
    transform = ornt_transform(io_orientation(affine), axcodes2ornt(tuple(codes)))
    moved = affine @ inv_ornt_aff(transform, voxels.shape)
    return nib.Nifti1Image(np.ascontiguousarray(apply_orientation(voxels, transform)), moved)


def header(**fields: object) -> bytes:
    """A valid file's bytes with some header fields changed."""
    data = bytearray(volume().to_bytes())
    changed = nib.Nifti1Header(bytes(data[:348]), check=False)
    for key, value in fields.items():
        changed[key] = value
    data[:348] = changed.binaryblock
    return bytes(data)


def with_header(image: nib.Nifti1Image) -> bytes:
    """An image's bytes with its header as it stands, which nibabel would put right."""
    header, data = image.header.copy(), bytearray(image.to_bytes())
    data[:348] = header.binaryblock[:348]
    told = nib.Nifti1Header(bytes(data[:348]), check=False)
    told["vox_offset"], told["magic"] = 352, b"n+1"
    data[:348] = told.binaryblock
    return bytes(data)


@pytest.mark.parametrize("codes", CODES)
def test_every_orientation_gives_the_same_slices(codes: str):
    study = read_bytes(volume(codes).to_bytes(), "x_T1w.nii")
    expected = read_bytes(volume().to_bytes(), "x_T1w.nii")
    assert np.array_equal(study.pixels, expected.pixels)
    assert np.allclose(study.affine, head()[0].affine, atol=1e-4)
    assert study.spacing == pytest.approx(head()[0].spacing, rel=1e-5)
    assert study.source.sequence == "T1"


def test_oblique_and_nifti2_and_gzip():
    image = volume("PIR", turned=True)
    second = nib.Nifti2Image(np.asanyarray(image.dataobj), image.affine)
    for data in (image.to_bytes(), gzip.compress(image.to_bytes()), second.to_bytes(), gzip.compress(second.to_bytes())):
        study = read_bytes(data, "scan")
        assert study.pixels.shape == head()[0].pixels.shape
        assert np.allclose(study.affine, oblique(head()[0].affine), atol=1e-4)
        assert np.corrcoef(study.pixels.ravel(), head()[0].pixels.ravel())[0, 1] > 0.999


def test_slope_and_scaled_units():
    image = nib.Nifti1Image(np.asarray(volume().dataobj), np.diag([1000, 1000, 1000, 1]) @ volume().affine)
    image.header.set_slope_inter(0.5, -1000)
    image.header.set_xyzt_units("micron")
    data = bytearray(image.to_bytes())
    rescaled = nib.Nifti1Header(bytes(data[:348]), check=False)
    rescaled["scl_slope"], rescaled["scl_inter"] = 0.5, -1000
    data[:348] = rescaled.binaryblock
    study = read_bytes(bytes(data), "x.nii")
    assert np.allclose(study.pixels, read_bytes(volume().to_bytes(), "x.nii").pixels, atol=1e-5)
    assert study.spacing[1] == pytest.approx(head()[0].spacing[1])


def test_thick_slices_are_cut_across_their_axis():
    rng = np.random.default_rng(1)
    voxels = rng.integers(0, 900, (40, 12, 50)).astype(np.int16)
    study = read_bytes(nib.Nifti1Image(voxels, np.diag([1, 5, 1, 1.0])).to_bytes(), "coronal.nii")
    assert study.pixels.shape == (12, 50, 40, 1)
    assert study.spacing == pytest.approx((5, 1, 1))
    assert study.affine[2, 1] == pytest.approx(-1)  # rows go from head to feet


def test_a_label_map_goes_back_to_the_files_own_voxels(tmp_path: Path):
    image = volume("ILA", turned=True)
    image.to_filename(tmp_path / "x.nii.gz")
    grid = read(tmp_path / "x.nii.gz").grid
    voxels = np.asanyarray(image.dataobj)
    assert np.array_equal(grid.to_file(grid.to_slices(voxels)), voxels)
    assert np.allclose(grid.file_affine, image.affine)


def test_a_file_without_orientation_says_so():
    study = read_bytes(header(qform_code=0, sform_code=0), "x.nii")
    assert study.affine is None
    assert any("left and right" in w for w in study.warnings)


def test_without_codes_and_units_no_millimeter_is_assumed():
    unknown = read_bytes(header(qform_code=0, sform_code=0, xyzt_units=0), "x.nii")
    assert unknown.spacing is None and any("measured in pixels" in w for w in unknown.warnings)
    assert read_bytes(header(qform_code=0, sform_code=0, xyzt_units=2), "x.nii").spacing is not None
    assert read_bytes(header(xyzt_units=0), "x.nii").spacing is not None  # a code says millimeters


def test_qfac_zero_is_one_and_a_quaternion_may_be_a_little_over_length():
    image = volume("PIR", turned=True)
    image.set_sform(None, code=0)
    image.set_qform(image.get_qform(), code=1)
    data = bytearray(image.to_bytes())
    told = nib.Nifti1Header(bytes(data[:348]), check=False)
    expected = read_bytes(bytes(data), "x.nii")
    if told["pixdim"][0] > 0:
        told["pixdim"][0] = 0
    quaternion = np.array([0.7, 0.5, 0.51], np.float64)
    data[:348] = told.binaryblock
    assert np.allclose(read_bytes(bytes(data), "x.nii").affine, expected.affine, atol=1e-4)
    for length in (1 + 7e-7, 1 + 1e-4):
        told["quatern_b"], told["quatern_c"], told["quatern_d"] = quaternion / np.linalg.norm(quaternion) * length
        data[:348] = told.binaryblock
        study = read_bytes(bytes(data), "x.nii")
        assert np.allclose(sorted(np.linalg.norm(study.affine[:3, :3], axis=0)), sorted(expected.spacing), rtol=1e-4)


def test_a_unit_sform_beside_a_true_qform_is_not_believed():
    """What an unset sform looks like: the volume would be a fifth of the true one."""
    true = read_bytes(volume().to_bytes(), "x.nii")
    for code in (1, 0):  # without the qform pixdim still tells
        image = volume()
        image.set_qform(image.affine, code=1)
        unit = image.affine.copy()
        unit[:3, :3] /= np.linalg.norm(unit[:3, :3], axis=0)
        image.header.set_sform(unit, code=1)
        image.header["qform_code"] = code
        study = read_bytes(with_header(image), "x.nii")
        assert study.spacing == pytest.approx(true.spacing, rel=1e-4) and np.array_equal(study.pixels, true.pixels)
        assert any("sform gives voxels of 1 x 1 x 1" in w and "second are used" in w for w in study.warnings)
    assert not true.warnings


def test_pixdim_of_ones_gives_way_to_the_sform():
    study = read_bytes(header(pixdim=[1, 1, 1, 1, 0, 0, 0, 0], qform_code=0), "x.nii")
    assert study.spacing == pytest.approx(head()[0].spacing, rel=1e-4)
    assert any("first are used" in w for w in study.warnings)


@pytest.mark.parametrize("size", [1e30, 1e-3])
def test_sizes_that_no_scan_has_are_not_believed(size: float):
    study = read_bytes(nib.Nifti1Image(np.asarray(volume().dataobj), np.diag([size, size, size, 1])).to_bytes(), "x.nii")
    assert study.spacing is None and any("which a head's scan has not" in w for w in study.warnings)


def test_a_zero_behind_the_third_dimension_is_none():
    data = bytearray(volume().to_bytes())
    data[40:42], data[48:50] = b"\4\0", b"\0\0"
    assert np.array_equal(read_bytes(bytes(data), "x.nii").pixels, read_bytes(volume().to_bytes(), "x.nii").pixels)


def test_sizes_that_nothing_tells_apart_are_not_used():
    study = read_bytes(header(pixdim=[1, 7, 7, 2, 0, 0, 0, 0], qform_code=0), "x.nii")
    assert study.spacing is None and any("nothing tells which" in w for w in study.warnings)


def test_sform_and_qform_that_contradict_about_the_side_name_none():
    image = volume()
    flipped = image.affine.copy()
    flipped[0] *= -1
    image.header.set_qform(flipped, code=1)
    study = read_bytes(with_header(image), "x.nii")
    assert study.affine is None and any("left and right are those of the picture" in w for w in study.warnings)
    assert study.spacing == pytest.approx(head()[0].spacing, rel=1e-4)


def test_whatever_compresses_a_file_validly_is_read(tmp_path: Path):
    plain = volume().to_bytes()
    blocks = [plain[k : k + 3000] for k in range(0, len(plain), 3000)]
    noise = np.random.default_rng(1).integers(0, 30000, (96, 96, 64)).astype(np.int16)
    large = nib.Nifti1Image(noise, np.eye(4)).to_bytes()  # hardly compresses: its first block is a whole one
    packers = {"gz": gzip.compress, "bz2": bz2.compress, "zst": zstandard.ZstdCompressor().compress}
    for end, pack in packers.items():
        for what, whole in (("one", plain), ("large", large)):
            (tmp_path / f"{what}.nii.{end}").write_bytes(pack(whole))
            expected = read_bytes(whole, "x.nii").pixels
            assert np.array_equal(read(tmp_path / f"{what}.nii.{end}").pixels, expected), (end, what)
        many = b"".join(pack(b) for b in blocks)  # as bgzip, pbzip2 and pzstd write
        assert np.array_equal(read_bytes(many, "x").pixels, read_bytes(plain, "x").pixels), end
        with pytest.raises(DamagedScan, match="compressed stream"):
            read_bytes(pack(large)[:-2000], "x.nii")
        with pytest.raises(ScanError, match="compressed"):
            read_bytes(pack(plain)[:2000], "x.nii")


@pytest.mark.parametrize("packed", [False, True])
def test_header_and_voxels_in_two_files_are_read(tmp_path: Path, packed: bool):
    image = volume("PIR", turned=True)
    nib.Nifti1Pair(np.asanyarray(image.dataobj), image.affine).to_filename(tmp_path / "a.img")
    if packed:
        (tmp_path / "a.img.gz").write_bytes(gzip.compress((tmp_path / "a.img").read_bytes()))
        (tmp_path / "a.img").unlink()
    voxels = next(tmp_path.glob("a.img*"))
    expected = read_bytes(image.to_bytes(), "a.nii")
    for study in (read(tmp_path / "a.hdr"), read(voxels), read_files([tmp_path / "a.hdr", voxels], "case")):
        assert np.array_equal(study.pixels, expected.pixels) and np.allclose(study.affine, expected.affine)
    listing = list_scans([tmp_path])
    assert [s.name for s in listing.scans] == ["a.hdr"] and not listing.skipped
    assert group_scans([voxels, tmp_path / "a.hdr"]) == [(tmp_path / "a.hdr", voxels)]
    voxels.unlink()
    with pytest.raises(UnsupportedScan, match="give both"):
        read(tmp_path / "a.hdr")


def test_analyze_is_told_for_what_it_is(tmp_path: Path):
    nib.AnalyzeImage(np.asanyarray(volume().dataobj), np.eye(4)).to_filename(tmp_path / "a.img")
    with pytest.raises(UnsupportedScan, match="Analyze"):
        read(tmp_path / "a.hdr")


def test_scaling_inside_the_brain_leaves_the_same_slices():
    """z-scores with 0 outside: the air is 0 amid the tissue's values, and is the darkest again."""
    voxels = np.asanyarray(volume().dataobj).astype(np.float32)
    inside = np.where(np.moveaxis(head()[1], 0, 2) > 0, voxels, 0)
    brain = inside != 0
    scaled = np.where(brain, (inside - inside[brain].mean()) / inside[brain].std(), 0).astype(np.float32)
    plain = read_bytes(nib.Nifti1Image(inside, volume().affine).to_bytes(), "x.nii")
    study = read_bytes(nib.Nifti1Image(scaled, volume().affine).to_bytes(), "x.nii")
    assert any("taken for air" in w for w in study.warnings) and not any("air" in w for w in plain.warnings)
    for k in range(study.n_slices):
        assert np.abs(prepare(study.gray(k), 64).pixels - prepare(plain.gray(k), 64).pixels).mean() < 0.03


def test_not_a_number():
    voxels = np.asanyarray(volume().dataobj).astype(np.float32)
    voxels[3:5, 0, 0] = np.nan, np.inf
    study = read_bytes(nib.Nifti1Image(voxels, volume().affine).to_bytes(), "x.nii")
    assert any("2 voxels hold no number" in w for w in study.warnings)
    voxels[:] = np.nan
    with pytest.raises(UnsupportedScan, match="same value"):
        read_bytes(nib.Nifti1Image(voxels, volume().affine).to_bytes(), "x.nii")


@pytest.mark.parametrize(
    ("data", "error", "sentence"),
    [
        (lambda: header(dim=[3, 12000, 12000, 12000, 1, 1, 1, 1])[:352], ScanTooLarge, "claims 12000 x 12000 x 12000"),
        (lambda: gzip.compress(header(dim=[3, 12000, 12000, 12000, 1, 1, 1, 1])), ScanTooLarge, "claims 12000"),
        (lambda: header(dim=[3, 64, 64, 20, 1, 1, 1, 1]), DamagedScan, "claims 164192 bytes"),
        (lambda: header(dim=[3, 64, -64, 10, 1, 1, 1, 1]), DamagedScan, "claims 3 dimensions"),
        (lambda: header(dim=[4, 32, 32, 10, 4, 1, 1, 1]), UnsupportedScan, "received 4, save one"),
        (lambda: header(datatype=128, bitpix=24), UnsupportedScan, "gray values"),
        (lambda: header(datatype=999), DamagedScan, "header is damaged"),
        (lambda: header(vox_offset=-5), DamagedScan, "voxels at byte -5"),
        (lambda: header(srow_x=[0, 0, 0, 0], srow_y=[0, 0, 0, 0]), DamagedScan, "no usable orientation"),
        (lambda: header(magic=b"ni1"), UnsupportedScan, "in two files"),
        (lambda: gzip.compress(volume().to_bytes())[:-3000], DamagedScan, "compressed stream ends"),
        (lambda: nib.Nifti1Image(np.ones((40, 40, 4), np.int16), np.eye(4)).to_bytes(), UnsupportedScan, "same value"),
        (lambda: nib.Nifti1Image(np.ones((40, 4, 4), np.int16), np.eye(4)).to_bytes(), UnsupportedScan, "at least 32"),
    ],
)  # fmt: skip
def test_refusals(data, error: type, sentence: str):
    with pytest.raises(error, match=sentence) as caught:
        read_bytes(data(), "x.nii.gz")
    assert str(caught.value).startswith("x.nii.gz: ")


def test_a_gzip_bomb_is_inflated_only_as_far_as_its_header_says():
    data = gzip.compress(volume().to_bytes() + b"\0" * 300_000_000, 1)
    assert read_bytes(data, "x.nii.gz").n_slices == 10


def test_a_corrupt_gzip_is_named():
    data = bytearray(gzip.compress(volume().to_bytes()))
    data[-8:-4] = b"\1\2\3\4"  # its checksum
    with pytest.raises(DamagedScan, match="corrupt"):
        read_bytes(bytes(data), "x.nii.gz")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 347), patch=st.binary(min_size=1, max_size=8))
def test_spoiled_headers_give_a_study_or_a_named_error(at: int, patch: bytes):
    data = bytearray(volume().to_bytes())
    data[at : at + len(patch)] = patch
    try:
        assert read_bytes(bytes(data), "x.nii").pixels.max() <= 1
    except NeurovisionError as e:
        assert str(e).startswith("x.nii: ")


def test_found_in_folders(tmp_path: Path):
    volume().to_filename(tmp_path / "a.nii.gz")
    (tmp_path / "a.mask.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes())
    assert find_scans([tmp_path]) == [tmp_path / "a.nii.gz"]
    assert read(tmp_path).source.name == "a.nii.gz"
