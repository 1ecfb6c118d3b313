"""Reader for NIfTI-1 and NIfTI-2, plain or gzipped, in any orientation."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neurovision.errors import DamagedScan, ScanTooLarge, UnsupportedScan
from neurovision.scan.grid import RAS_TO_LPS, Grid
from neurovision.scan.images import MIN_SIDE
from neurovision.scan.intensity import replace_non_numbers, scale_robust
from neurovision.scan.names import stem_of
from neurovision.scan.sequence import sequence_from_text, sequence_warning
from neurovision.scan.study import Source, Study

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

MAX_FILE_BYTES = 512_000_000
MAX_VOXELS = 100_000_000  # 400 MB as float32
HEADER_BYTES = 540  # of NIfTI-2; NIfTI-1 has 348
_UNITS = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # of xyzt_units to millimeters
# The axes of (slice, row, column) for each plane that slices may lie in, as a reader looks at them.
_PLANES = {"axial": ("S", "P", "L"), "coronal": ("P", "I", "L"), "sagittal": ("L", "I", "P")}


def is_nifti(head: bytes) -> bool:
    """Whether a file's first bytes (540, or 64 KB of a gzipped one) are a NIfTI header."""
    head = _head(head)
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


def is_pair(head: bytes) -> bool:
    """Whether a NIfTI header says that its voxels lie in a file of their own."""
    head = _head(head)
    return head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0"


def header_beside(image: Path) -> Path | None:
    """The file ``X.hdr`` beside ``X.img`` that holds its header, or None."""
    for name in (f"{stem_of(image)}{end}" for end in (".hdr", ".hdr.gz", ".HDR")):
        file = image.with_name(name)
        if file.is_file():
            return file
    return None


def read_nifti(data: bytes, name: str) -> Study:
    """Decode a NIfTI volume into a Study.

    Slices are cut across the axis with the thickest voxels, axially where voxels are about cubes.

    Args:
        data: The file's bytes.
        name: The file's name, for messages.

    Raises:
        DamagedScan: Cut off or corrupt.
        UnsupportedScan: More than one volume, colors, a header and image in two files, or no contrast.
        ScanTooLarge: More than MAX_FILE_BYTES or MAX_VOXELS, also when only the header claims so.
    """
    if len(data) > MAX_FILE_BYTES:
        raise ScanTooLarge(f"{name}: a NIfTI file may have {MAX_FILE_BYTES // 10**6} MB; this has more.")
    header = _header(_head(data), name)
    grid = _grid(header, name)
    start, kind = _voxel_start(header, name), header.get_data_dtype()
    end = start + int(np.prod(grid.shape)) * kind.itemsize
    digest = hashlib.sha256(data).hexdigest()
    if data[:2] == b"\x1f\x8b":
        data = _inflate(data, end, name)
    if len(data) < end:
        raise DamagedScan(f"{name}: the header claims {end} bytes and the file holds {len(data)}; send it again.")
    raw = np.frombuffer(data, kind, int(np.prod(grid.shape)), start).reshape(grid.shape, order="F")
    slope, intercept = _scale(header, name)
    with np.errstate(all="ignore"):  # what overflows float32 is no number, which is dealt with below
        volume = np.ascontiguousarray(grid.to_slices(raw), np.float32)
        volume = volume if volume.base is None and volume.flags.writeable else volume.copy()
        if slope is not None:
            volume *= np.float32(slope)
            volume += np.float32(intercept)
    notes = []
    bad = replace_non_numbers(volume)
    if bad == volume.size or float(np.ptp(volume)) == 0.0:
        raise UnsupportedScan(f"{name}: every voxel has the same value; there is nothing to read.")
    if bad:
        notes.append(f"{bad} voxels hold no number (NaN or infinity); they are taken for the darkest value.")
    if not grid.known:
        notes.append("The file does not say how it lies in the patient; left and right are those of the picture.")
    sequence = sequence_from_text(name)
    strange = sequence_warning(sequence)
    if strange:
        notes.append(strange)
    rows, columns = (float(np.linalg.norm(grid.affine[:3, k])) for k in (1, 2))
    across = abs(float(np.linalg.det(grid.affine[:3, :3]))) / (rows * columns)  # along the normal
    source = Source(Path(name).name, "NIfTI", digest, sequence)
    affine = grid.affine if grid.known else None
    return Study(scale_robust(volume)[..., None], source, (across, rows, columns), affine, tuple(notes), grid=grid)


def _head(data: bytes) -> bytes:
    """The first HEADER_BYTES, unzipped; fewer where there are fewer."""
    if data[:2] != b"\x1f\x8b":
        return data[:HEADER_BYTES]
    try:
        return zlib.decompressobj(31).decompress(data[: 64 * 1024], HEADER_BYTES)
    except zlib.error:
        return b""


def _inflate(data: bytes, expected: int, name: str) -> bytes:
    """Unzip at most ``expected`` bytes; the checksum is checked where the stream ends there."""
    decompressor = zlib.decompressobj(31)
    try:
        inflated = decompressor.decompress(data, expected)
        if len(inflated) == expected and not decompressor.eof:
            decompressor.decompress(decompressor.unconsumed_tail, 1)
    except zlib.error as e:
        raise DamagedScan(f"{name}: the gzip stream is corrupt; send the file again.") from e
    if len(inflated) < expected:
        raise DamagedScan(f"{name}: the gzip stream ends at byte {len(inflated)} of {expected}; send the file again.")
    return inflated


def _header(head: bytes, name: str) -> Nifti1Header:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    if head[344:348] == b"ni1\0" or head[4:8] == b"ni2\0":
        raise UnsupportedScan(f"{name}: header and image are in two files (.hdr, .img); save the scan as one .nii file.")
    kind, length = (Nifti1Header, 348) if head[344:348] == b"n+1\0" else (Nifti2Header, 540)
    try:
        header = kind(head[:length], check=False)
        header.get_data_dtype()
        return header
    except Exception as e:  # nibabel and NumPy raise anything on a damaged header
        raise DamagedScan(f"{name}: the NIfTI header is damaged; send the file again.") from e


def _scale(header: Nifti1Header, name: str) -> tuple[float | None, float | None]:
    """Slope and intercept of the voxels' values, or None where they are to be taken as they are."""
    from nibabel.spatialimages import HeaderDataError

    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError as e:
        raise DamagedScan(f"{name}: the NIfTI header scales its voxels by no number; save the scan again.") from e
    return slope, intercept


def _voxel_start(header: Nifti1Header, name: str) -> int:
    offset = float(header["vox_offset"])
    smallest = header.structarr.dtype.itemsize
    if not smallest <= offset <= smallest + 16_000_000:
        raise DamagedScan(f"{name}: the NIfTI header puts the voxels at byte {offset:.0f}; send the file again.")
    return int(offset)


def _grid(header: Nifti1Header, name: str) -> Grid:
    """Work out the slices' geometry after checking what the header claims."""
    from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

    count = int(header["dim"][0])
    dims = [int(v) for v in header["dim"][1 : count + 1]] if 1 <= count <= 7 else []
    if len(dims) < 2 or min(dims) < 1:
        raise DamagedScan(f"{name}: the NIfTI header claims {count} dimensions {tuple(dims)}; send the file again.")
    if any(d > 1 for d in dims[3:]):
        raise UnsupportedScan(f"{name}: a scan is one volume; received {int(np.prod(dims[3:]))}, save one of them.")
    shape = (dims[0], dims[1], dims[2] if len(dims) > 2 else 1)
    voxels = shape[0] * shape[1] * shape[2]
    if voxels > MAX_VOXELS:
        raise ScanTooLarge(
            f"{name}: a volume may have {MAX_VOXELS // 10**6} million voxels; the header claims "
            f"{shape[0]} x {shape[1]} x {shape[2]}."
        )
    if header.get_data_dtype().kind not in "iuf":
        raise UnsupportedScan(f"{name}: voxels are gray values; received type {header.get_data_dtype()}, save it as gray.")
    known = int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0
    try:
        affine = np.asarray(header.get_best_affine(), np.float64)
        scale = _UNITS[int(header["xyzt_units"]) & 7]
        affine[:3] *= scale
        orientation = io_orientation(affine)
        volume = abs(np.linalg.det(affine[:3, :3]))
    except Exception as e:  # nibabel and NumPy raise anything on a damaged header
        raise DamagedScan(f"{name}: the NIfTI header gives no usable orientation; save the scan again.") from e
    if not np.isfinite(affine).all() or volume < 1e-9 or np.isnan(orientation).any():
        raise DamagedScan(f"{name}: the NIfTI header gives no usable orientation; save the scan again.")
    transform = ornt_transform(orientation, axcodes2ornt(_PLANES[_plane(shape, affine, orientation)]))
    sliced = [0, 0, 0]
    for axis in range(3):
        sliced[int(transform[axis, 0])] = shape[axis]
    if min(sliced[1:]) < MIN_SIDE:
        raise UnsupportedScan(f"{name}: a slice has at least {MIN_SIDE} pixels a side; received {sliced[2]} x {sliced[1]}.")
    to_lps = RAS_TO_LPS @ affine @ inv_ornt_aff(transform, shape)
    return Grid(shape, transform, affine, to_lps, known)


def _plane(shape: tuple[int, int, int], affine: np.ndarray, orientation: np.ndarray) -> str:
    """Which plane the slices lie in: across a single-slice axis, else across much thicker voxels, else axial."""
    names = ("sagittal", "coronal", "axial")
    if min(shape) == 1:
        return names[int(orientation[shape.index(1), 0])]
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    thickest = int(sizes.argmax())
    return names[int(orientation[thickest, 0])] if sizes[thickest] > 1.5 * np.median(sizes) else "axial"
