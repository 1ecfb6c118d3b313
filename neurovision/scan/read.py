"""One door for every format: a path, files or bytes become a Study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from neurovision.errors import DamagedScan, ScanTooLarge, UnsupportedScan
from neurovision.scan import images, nifti
from neurovision.scan.study import Study

HEAD = 64 * 1024  # bytes that tell a format
MAX_FILES = 4096  # of a folder or an upload
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima", "")
# What this project writes beside the scans.
NOT_SCANS = (".seg.dcm", ".sr.dcm", ".sc.dcm", ".mask.nii.gz", ".mask.png", ".overlay.png")
DEIDENTIFIED = ".deidentified"  # ends the name of a folder of copies


@contextmanager
def memory_told(paths: Sequence[Path | str]) -> Iterator[None]:
    """Say of a scan that memory does not suffice for that it is too large, where a reader takes it for damaged.

    Readers take whatever a library raises for damage, but keep it as the cause.

    Args:
        paths: The scan's files.

    Raises:
        ScanTooLarge: In the place of a MemoryError, or of a refusal that one caused.
    """
    try:
        yield
    except (DamagedScan, UnsupportedScan, MemoryError) as e:
        if not isinstance(e, MemoryError) and not isinstance(e.__cause__, MemoryError):
            raise
        raise ScanTooLarge(f"{named(paths)}: it takes more memory than there is for it; send a smaller scan.") from e


def named(paths: Sequence[Path | str]) -> str:
    """A scan's name for messages: its file's, or how many files it has."""
    return Path(paths[0]).name if len(paths) == 1 else f"{len(paths)} files"


def read(path: Path | str) -> Study:
    """Read one scan from disk.

    Args:
        path: A picture, DICOM or NIfTI file, or a folder with one DICOM series.

    Raises:
        ScanError: Not readable as a scan; the message says why and what to do.
    """
    file = Path(path)
    with memory_told([file]):
        return _read_folder(file) if file.is_dir() else read_bytes(_load(file), file.name)


def read_bytes(data: bytes, name: str) -> Study:
    """Read one scan from memory; the content decides the format, not the name.

    Raises:
        ScanError: Not readable as a scan.
    """
    kind = sniff(data[:HEAD])
    if kind == "DICOM":
        from neurovision.scan.dicom import read_dicom

        return read_dicom(data, name)
    if kind == "NIfTI":
        return nifti.read_nifti(data, name)
    return images.read_image(data, name)


def read_files(paths: Sequence[Path | str], name: str | None = None) -> Study:
    """Read the files of one scan: a single file, or the DICOM files of one series in any order.

    Args:
        paths: The files.
        name: Of a series, for messages and for the Study; its number by default.

    Raises:
        ScanError: Not readable as one scan.
    """
    files = [Path(p) for p in paths]
    if len(files) == 1:
        return read(files[0])
    from neurovision.scan.dicom import read_dicom_series, series_number

    if len(files) > MAX_FILES:
        raise UnsupportedScan(f"A series may have {MAX_FILES} files; received {len(files)}.")
    if not files or any(kind_of(f) != "DICOM" for f in files):
        raise UnsupportedScan("Several files make one scan only where all are DICOM files of one series.")
    with memory_told(files if name is None else [name]):
        if name is None:
            number = series_number(files[0])
            name = "series" if number is None else f"series-{number}"
        return read_dicom_series(files, name)


def read_many(paths: Sequence[Path | str]) -> list[Study]:
    """Read uploaded files, sorted into scans as :func:`group_scans` sorts them.

    Raises:
        ScanError: One of them is not readable.
    """
    return [read_files(group) for group in group_scans([Path(p) for p in paths])]


def group_scans(paths: Sequence[Path]) -> list[tuple[Path, ...]]:
    """Sort files and folders into scans: DICOM files by series and geometry, every other file by itself.

    Args:
        paths: Files and folders, in any order and of any mixture of formats.

    Returns:
        For each scan its files, ready for :func:`read_files`.

    Raises:
        UnsupportedScan: More than MAX_FILES files.
    """
    files = list(dict.fromkeys(f for p in paths for f in (_scan_files(p) if p.is_dir() else [p])))
    if len(files) > MAX_FILES:
        raise UnsupportedScan(f"At most {MAX_FILES} files are read at once; received {len(files)}.")
    dicom = [f for f in files if kind_of(f) == "DICOM"]
    others = [(f,) for f in files if f not in set(dicom)]
    if not dicom:
        return list(others)
    from neurovision.scan.dicom import group_dicom

    with memory_told(dicom):
        groups, strange, damaged = group_dicom(dicom)
    given = set(paths)
    # A folder may hold reports and other modalities beside a series; a file that was named is always answered for.
    return [*others, *groups, *((f,) for f in strange if f in given or not groups), *((f,) for f in damaged)]


def find_scans(paths: Sequence[Path]) -> list[Path]:
    """Expand folders to the scans in them, in sorted order; files are kept as they are.

    A folder with several DICOM files stands for its series; files that this project wrote are left out.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        for file in _scan_files(path):
            series = _named_as_dicom(file) and _dicom_count(file.parent) > 1
            scan = file.parent if series else file
            if scan not in found:
                found.append(scan)
    return found


def sniff(head: bytes) -> str:
    """Tell the format from a file's first HEAD bytes: ``"DICOM"``, ``"NIfTI"`` or ``"picture"`` for anything else."""
    if head[128:132] == b"DICM" or head[:4] in (b"\x08\x00\x00\x00", b"\x08\x00\x05\x00", b"\x08\x00\x08\x00"):
        return "DICOM"
    return "NIfTI" if nifti.is_nifti(head) else "picture"


def kind_of(file: Path) -> str:
    """What :func:`sniff` says of a file; ``"picture"`` where it cannot be opened."""
    try:
        with file.open("rb") as stream:
            return sniff(stream.read(HEAD))
    except OSError:
        return "picture"


def _read_folder(folder: Path) -> Study:
    files = _scan_files(folder)
    dicom = [f for f in files if kind_of(f) == "DICOM"]
    if len(files) > MAX_FILES:
        raise UnsupportedScan(f"{folder.name}: a folder may hold {MAX_FILES} files; received {len(files)}.")
    if not dicom:
        if len(files) == 1:
            return read(files[0])
        raise UnsupportedScan(f"{folder.name}: a folder is read as one DICOM series; it holds none, give a file instead.")
    from neurovision.scan.dicom import group_dicom, read_dicom_series

    groups, strange, damaged = group_dicom(dicom)
    if damaged or not groups:
        return read((damaged or strange)[0])  # which says what is wrong with it
    if len(groups) > 1:
        sizes = ", ".join(str(len(g)) for g in groups[:6])
        raise UnsupportedScan(
            f"{folder.name}: a folder is read as one series; received {len(groups)} ({sizes} files), give the files of one."
        )
    return read_dicom_series(groups[0], folder.name)


def _scan_files(folder: Path) -> list[Path]:
    """Files under a folder that look like scans, in sorted order."""
    return [f for f in sorted(folder.rglob("*")) if f.is_file() and why_skipped(f, folder) is None]


def why_skipped(file: Path, folder: Path) -> str | None:
    """Why a file under ``folder`` is passed over, or None for a scan.

    Names without a suffix and DICOM's are looked into; others tell by themselves.
    """
    name = file.name.lower()
    if name.startswith("."):
        return "a hidden file"
    if name.endswith(NOT_SCANS) or any(p.endswith(DEIDENTIFIED) for p in file.relative_to(folder).parts[:-1]):
        return "written by this program beside a scan"
    known = name.endswith((*images.SUFFIXES, *nifti.SUFFIXES))
    return None if known or (_named_as_dicom(file) and kind_of(file) == "DICOM") else "no picture, DICOM or NIfTI file"


def _named_as_dicom(file: Path) -> bool:
    """Whether a name may be a DICOM file's: a suffix of its own, none, or a number as in ``1.2.840.113619``."""
    suffix = file.suffix.lower()
    return suffix in DICOM_SUFFIXES or suffix[1:].isdigit()


def _dicom_count(folder: Path) -> int:
    return sum(_named_as_dicom(f) for f in _scan_files(folder) if f.parent == folder)


def _load(file: Path) -> bytes:
    """Read a file, but no more than its format may have and one byte, which tells the reader that it is too large."""
    if not file.is_file():
        raise DamagedScan(f"{file.name}: there is no such file.")
    limit = images.MAX_BYTES if kind_of(file) == "picture" else nifti.MAX_FILE_BYTES
    try:
        with file.open("rb") as stream:
            return stream.read(limit + 1)
    except OSError as e:
        raise DamagedScan(f"{file.name}: the file cannot be opened ({e.strerror}).") from e
