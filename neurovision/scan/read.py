"""One door for every format: a path, files or bytes become a Study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from neurovision.errors import DamagedScan, ScanTooLarge, UnsupportedScan
from neurovision.scan import images, nifti
from neurovision.scan.names import PACKED, PICTURES, VOLUMES, shown, stem_of, stems_of, told_apart
from neurovision.scan.sniff import HEAD, Kind, kind_of, other_kind, sniff
from neurovision.scan.study import Study

MAX_FILES = 4096  # of a folder or an upload
# What this project writes beside the scans.
NOT_SCANS = (".seg.dcm", ".sr.dcm", ".sc.dcm", ".mask.nii.gz", ".mask.png", ".overlay.png")
DEIDENTIFIED = ".deidentified"  # ends the name of a folder of copies
# Passed over without a word.
HIDDEN, OWN, BESIDE = "a hidden file", "written by this program beside a scan", "the voxels of a header beside it"


@dataclass(frozen=True)
class Scan:
    """What is read at once.

    Attributes:
        files: One file, or the DICOM files of one series in slice order.
        name: What it is told by: its path in the given folder; never a folder outside the given ones, unless two
            given files are called alike.
        stem: What files of its results begin with; no other scan's do.
    """

    files: tuple[Path, ...]
    name: str
    stem: str


@dataclass(frozen=True)
class Skipped:
    """A file of a given folder that is passed over.

    Attributes:
        name: Its path in the folder.
        reason: Why, a few words.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """Everything that given files and folders hold.

    Attributes:
        scans: In the order of :func:`group_scans`; no two have the same name.
        skipped: Sorted by name; hidden files and this program's own results are not among them.
    """

    scans: tuple[Scan, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class _Found:
    """A file: the given folder that holds it (or its own), what it is, why it is passed over, whether it was named."""

    file: Path
    folder: Path
    kind: Kind
    reason: str | None
    given: bool = False


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
    return shown(Path(paths[0]).name) if len(paths) == 1 else f"{len(paths)} files"


def read(path: Path | str) -> Study:
    """Read one scan from disk.

    Args:
        path: A picture, DICOM or NIfTI file, or a folder with one DICOM series.

    Raises:
        ScanError: Not readable as a scan; the message says why and what to do.
    """
    file = Path(path)
    with memory_told([file]):
        if file.is_dir():
            return _read_folder(file)
        kind = kind_of(file)
        if kind == "NIfTI pair" and (voxels := nifti.beside(file, ".img")):
            return _read_pair(file, voxels)
        if kind == "unknown" and (header := _header_of(file)):
            return _read_pair(header, file)
        return read_bytes(_load(file), shown(file.name))


def read_bytes(data: bytes, name: str) -> Study:
    """Read one scan from memory; the content decides the format, not the name.

    Raises:
        ScanError: Not readable as a scan.
    """
    kind = sniff(data[:HEAD])
    if kind == "DICOM":
        from neurovision.scan.dicom import read_dicom

        return read_dicom(data, name)
    if kind in ("NIfTI", "NIfTI pair"):
        return nifti.read_nifti(data, name)
    if kind == "unknown" and (what := other_kind(data[:HEAD])):
        raise UnsupportedScan(f"{name}: this is {what}.")
    return images.read_image(data, name)


def _read_pair(header: Path, voxels: Path) -> Study:
    return nifti.read_nifti(_load(header), shown(header.name), _load(voxels))


def _header_of(file: Path) -> Path | None:
    """The NIfTI header whose voxels a file holds, told by its name, or None."""
    if not file.name.lower().endswith((".img", *(f".img{p}" for p in PACKED))):
        return None
    header = nifti.beside(file, ".hdr")
    return header if header is not None and kind_of(header) == "NIfTI pair" else None


def read_files(paths: Sequence[Path | str], name: str | None = None) -> Study:
    """Read the files of one scan: a single file, a NIfTI header and its voxels, or the DICOM files of one series.

    Args:
        paths: The files, those of a series in any order.
        name: Of the scan, for the Study; of a series, for messages too. By default the file's name or the series' number.

    Raises:
        ScanError: Not readable as one scan.
    """
    files = [Path(p) for p in paths]
    if len(files) == 1:
        study = read(files[0])
        return study if name is None else _renamed(study, name)
    if len(files) == 2 and kind_of(files[0]) == "NIfTI pair":
        study = _read_pair(files[0], files[1])
        return study if name is None else _renamed(study, name)
    from neurovision.scan.dicom import read_dicom_series, series_number

    if len(files) > MAX_FILES:
        raise UnsupportedScan(f"A series may have {MAX_FILES} files; received {len(files)}.")
    if not files or any(kind_of(f) != "DICOM" for f in files):
        raise UnsupportedScan("Several files make one scan only where all are DICOM files of one series.")
    with memory_told(files if name is None else [name]):
        if name is None:
            number = series_number(files[0])
            name = "series" if number is None else f"series-{number}"
        return _renamed(read_dicom_series(files, name), name)


def _renamed(study: Study, name: str) -> Study:
    return replace(study, source=replace(study.source, name=shown(name)))


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
    return _grouped(_find(paths))[0]


def list_scans(paths: Sequence[Path]) -> Listing:
    """Sort files and folders into scans as :func:`group_scans` does, name them, and say what is passed over.

    Raises:
        UnsupportedScan: More than MAX_FILES files.
    """
    found = _find([p.resolve() if p.name in ("", "..") else p for p in paths])
    groups, strange = _grouped(found)
    folder = {f.file: f.folder for f in found}
    kinds = {f.file: f.kind for f in found}
    per_folder = Counter(g[0].parent for g in groups if len(g) > 1)
    # A series is called by its folder, or by its first file where the folder holds several.
    series = [len(g) > 1 and kinds[g[0]] == "DICOM" for g in groups]
    named = [g[0].parent if s and per_folder[g[0].parent] == 1 else min(g) for g, s in zip(groups, series, strict=True)]
    names = told_apart(named, [folder[g[0]] for g in groups])
    skipped = [(f.file, f.folder, f.reason) for f in found if f.reason not in (None, HIDDEN, OWN, BESIDE)]
    skipped += [(f, folder[f], "a DICOM file that is no MR image") for f in strange]
    apart = told_apart([f for f, _, _ in skipped], [d for _, d, _ in skipped])
    reasons = sorted(zip(apart, (str(r) for _, _, r in skipped), strict=True))
    scans = tuple(Scan(*each) for each in zip(groups, names, stems_of(named), strict=True))
    return Listing(scans, tuple(Skipped(n, r) for n, r in reasons))


def find_scans(paths: Sequence[Path]) -> list[Path]:
    """Expand folders to the scans in them, in sorted order; files are kept as they are.

    A folder with several DICOM files stands for its series; files that this project wrote are left out. Each file is
    looked into once.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            found[path] = None
            continue
        files = [f for f in _look(path) if f.reason is None]
        dicom = Counter(f.file.parent for f in files if f.kind == "DICOM")
        for f in files:
            found[f.file.parent if f.kind == "DICOM" and dicom[f.file.parent] > 1 else f.file] = None
    return list(found)


def look_at(file: Path, folder: Path) -> tuple[Kind, str | None]:
    """What a file under ``folder`` is, and why it is passed over, or None for a scan.

    The content decides. A name that ends like a scan's makes a file a scan too, so that a damaged one is answered for.
    """
    name = file.name.lower()
    if name.startswith("."):
        return "unknown", HIDDEN
    if name.endswith(NOT_SCANS) or any(p.endswith(DEIDENTIFIED) for p in file.relative_to(folder).parts[:-1]):
        return "unknown", OWN
    kind = kind_of(file)
    if kind == "unknown" and _is_report(file):
        return kind, OWN
    if kind == "unknown" and _header_of(file):
        return kind, BESIDE
    claims = (*PICTURES, ".nii", *(v + p for v in VOLUMES for p in PACKED), ".dcm", ".dicom", ".ima")
    return kind, None if kind != "unknown" or name.endswith(claims) else _NO_SCAN


def _is_report(file: Path) -> bool:
    """Whether ``predict`` wrote a file: its JSON, or the PDF beside it."""
    findings = file.with_suffix(".json") if file.suffix == ".pdf" else file
    if findings.suffix != ".json" or not findings.is_file():
        return False
    with findings.open("rb") as stream:
        return stream.read(12) == b'{\n "status":'


_NO_SCAN = "no picture, DICOM or NIfTI file"


def _look(folder: Path) -> Iterator[_Found]:
    """Every file under a folder, in sorted order."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield _Found(file, folder, *look_at(file, folder))


def _find(paths: Sequence[Path]) -> list[_Found]:
    """Every file that is given or lies in a given folder, once.

    Raises:
        UnsupportedScan: More than MAX_FILES of them are scans' files.
    """
    found: dict[Path, _Found] = {}
    for path in paths:
        if path.is_dir():
            for f in _look(path):
                found.setdefault(f.file, f)
        else:
            before = found.get(path)
            found[path] = _Found(path, before.folder if before else path.parent, kind_of(path), None, given=True)
    count = sum(f.reason is None for f in found.values())
    if count > MAX_FILES:
        raise UnsupportedScan(f"At most {MAX_FILES} files are read at once; received {count}.")
    return list(found.values())


def _grouped(found: Sequence[_Found]) -> tuple[list[tuple[Path, ...]], list[Path]]:
    """Scans, and DICOM files of a given folder that are no MR images beside others that are."""
    dicom = [f.file for f in found if f.kind == "DICOM" and f.reason is None]
    others = _paired([f for f in found if f.kind != "DICOM" and f.reason is None])
    if not dicom:
        return others, []
    from neurovision.scan.dicom import group_dicom

    with memory_told(dicom):
        groups, strange, damaged = group_dicom(dicom)
    # A folder may hold reports and other modalities beside a series; a file that was named is always answered for.
    given = {f.file for f in found if f.given}
    asked = [f for f in strange if f in given or not groups]
    return [*others, *groups, *((f,) for f in (*asked, *damaged))], [f for f in strange if f not in set(asked)]


def _paired(found: Sequence[_Found]) -> list[tuple[Path, ...]]:
    """Files by themselves, but a NIfTI header together with its voxels where both are given."""
    voxels = {stem_of(f.file): f.file for f in found if f.kind == "unknown" and stem_of(f.file) != f.file.name}
    pairs = {f.file: voxels[stem_of(f.file)] for f in found if f.kind == "NIfTI pair" and stem_of(f.file) in voxels}
    taken = set(pairs.values())
    return [(f.file, pairs[f.file]) if f.file in pairs else (f.file,) for f in found if f.file not in taken]


def _read_folder(folder: Path) -> Study:
    files = [f for f in _look(folder) if f.reason is None]
    if len(files) > MAX_FILES:
        raise UnsupportedScan(f"{folder.name}: a folder may hold {MAX_FILES} files; received {len(files)}.")
    dicom = [f.file for f in files if f.kind == "DICOM"]
    if not dicom:
        if len(files) == 1:
            return read(files[0].file)
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


def _load(file: Path) -> bytes:
    """Read a file, but no more than its format may have and one byte, which tells the reader that it is too large."""
    if not file.is_file():
        raise DamagedScan(f"{file.name}: there is no such file.")
    limit = images.MAX_BYTES if kind_of(file) in ("picture", "unknown") else nifti.MAX_FILE_BYTES
    try:
        with file.open("rb") as stream:
            return stream.read(limit + 1)
    except OSError as e:
        raise DamagedScan(f"{file.name}: the file cannot be opened ({e.strerror}).") from e
