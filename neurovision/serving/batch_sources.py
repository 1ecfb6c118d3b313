"""What a batch reads: a folder tree, a manifest CSV, a DICOMDIR or a DICOMweb archive become a list of units."""

from __future__ import annotations

import csv
import hashlib
import hmac
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from neurovision.errors import BatchError
from neurovision.scan.read import look_at
from neurovision.scan.sniff import kind_of
from neurovision.serving.pacs import SeriesEntry, SeriesFilter, Server

if TYPE_CHECKING:
    from neurovision.scan.dicom.header import Header

log = logging.getLogger(__name__)

COLUMNS = ("path", "image")  # of a manifest: the first that it has names the files
MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"  # SOP class of a DICOMDIR


@dataclass(frozen=True)
class Unit:
    """What is read at once: one file, or the files of one DICOM series, which may hold several scans.

    Attributes:
        source: Its name in the table, without anything above the source's own folder: the file's path there; of a
            series its folder, ``#`` and the first digits of its UID's digest.
        files: Absolute paths of its files; none of a series that lies in an archive.
        study: UID of the study of a series in an archive, else "".
        series: UID of a series in an archive, else "".
    """

    source: str
    files: tuple[str, ...] = ()
    study: str = ""
    series: str = ""


@dataclass(frozen=True)
class Skipped:
    """A file that is no scan.

    Attributes:
        source: Its path in the source.
        reason: Why it is passed over, a few words.
    """

    source: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """Everything that a source holds.

    Attributes:
        units: Sorted by name, no two alike.
        skipped: Sorted by name.
        root: Folder of a source on disk, "" of an archive.
        server: An archive's address, or None.
    """

    units: tuple[Unit, ...]
    skipped: tuple[Skipped, ...]
    root: str = ""
    server: Server | None = None


def list_source(
    source: str,
    server: Server | None = None,
    wanted: SeriesFilter | None = None,
    days: int | None = None,
) -> Listing:
    """List a source's units. Of a DICOM file the header is read, of any other what tells its format.

    Args:
        source: A folder, a CSV with a column ``path`` or ``image``, a DICOMDIR, or an archive's http(s) address.
        server: How to talk to the archive, where the source is one.
        wanted: Which series of an archive; those with at least 8 images by default.
        days: How old an archive's studies may be; any age by default.

    Raises:
        BatchError: The source is nothing of the kind, is not there or holds no scan.
        PacsError: The archive cannot be reached or refuses.
    """
    if server is not None:
        listing = _from_archive(server, wanted or SeriesFilter(), days)
    else:
        path = Path(source).absolute()
        if path.is_dir():
            root, files = path, (f for f in sorted(path.rglob("*")) if f.is_file())
            listing = _sorted_out(root, files, [])
        elif path.suffix.lower() == ".csv" and path.is_file():
            listing = _from_manifest(path)
        elif path.is_file() and kind_of(path) == "DICOM":
            listing = _from_dicomdir(path)
        else:
            raise BatchError(
                f"A batch reads a folder, a CSV, a DICOMDIR or an archive's https address; {path.name!r} is none of them "
                "or is not there."
            )
    if not listing.units:
        raise BatchError("The source holds no scan; name a folder, list or archive that does.")
    return listing


def hashed(listing: Listing, key: bytes) -> Listing:
    """The same listing with every name replaced by 16 digits that only the key leads back from (HMAC-SHA256)."""

    def code(name: str) -> str:
        return hmac.new(key, name.encode(), hashlib.sha256).hexdigest()[:16]

    units = sorted((replace(u, source=code(u.source)) for u in listing.units), key=lambda u: u.source)
    skipped = sorted((replace(s, source=code(s.source)) for s in listing.skipped), key=lambda s: s.source)
    return replace(listing, units=tuple(units), skipped=tuple(skipped))


def _sorted_out(root: Path, files: Iterable[Path], missing: list[Skipped]) -> Listing:
    """Tell scans from other files, and bring the DICOM files of one series together wherever they lie."""
    units: list[Unit] = []
    skipped = list(missing)
    series: dict[str, list[Path]] = {}
    for file in files:
        name = _relative(file, root)
        kind, reason = look_at(file, file.parent if ".." in name else root)
        if reason is None and kind == "DICOM":
            uid = ""
            try:
                reason = _not_mr(header := _header(file))
                uid = header.text("SeriesInstanceUID")
            except Exception as e:  # noqa: BLE001 - one header, whatever is in it, must not end the listing
                log.debug("a header cannot be read: %s", type(e).__name__)  # the file's row in the table will say why
            if reason is None and uid:
                series.setdefault(uid, []).append(file)
                continue
        if reason is None:
            units.append(Unit(name, (str(file),)))
        else:
            skipped.append(Skipped(name, reason))
    for uid, paths in series.items():
        folder = _relative(Path(os.path.commonpath([p.parent for p in paths])), root)
        single = len(paths) == 1
        label = SeriesEntry("", uid, None, "", 0).label
        name = _relative(paths[0], root) if single else f"{'' if folder == '.' else folder}#{label}"
        units.append(Unit(name, tuple(str(p) for p in paths)))
    return Listing(
        tuple(sorted(units, key=lambda u: u.source)), tuple(sorted(skipped, key=lambda s: s.source)), root=str(root)
    )


def _relative(path: Path, root: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _header(file: Path) -> Header:
    """The header of a DICOM file, without its pixels.

    Raises:
        ScanError: It cannot be read.
    """
    from neurovision.scan.dicom.header import Header
    from neurovision.scan.dicom.parse import parse_header

    return Header(parse_header(file), file.name)


def _not_mr(header: Header) -> str | None:
    """Why a DICOM file is no MR image, or None.

    Raises:
        DamagedScan: A value that cannot be read.
    """
    from neurovision.scan.dicom.notes import modality_named

    kind = header.text("SOPClassUID")
    if not kind and (meta := getattr(header.dataset, "file_meta", None)) is not None:
        kind = str(meta.get("MediaStorageSOPClassUID", ""))
    if kind == MEDIA_DIRECTORY:
        return "a DICOMDIR, which only lists files"
    modality = header.text("Modality") or "MR"
    if modality != "MR":
        return f"modality {modality_named(modality)}, not MR"
    return None if header.holds("Rows") else "a DICOM file without an image"


def _from_manifest(path: Path) -> Listing:
    """Read a CSV: one row a file, or a folder; paths start from the CSV's folder."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            column = next((c for c in COLUMNS if c in (rows.fieldnames or ())), None)
            named = [] if column is None else [row[column] for row in rows if row[column]]
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise BatchError(f"{path.name} cannot be read as a CSV in UTF-8; export the list again.") from e
    if column is None:
        raise BatchError(f"{path.name} has no column 'path' or 'image'; name the column of the files so.")
    root = path.parent
    files = (f for text in dict.fromkeys(named) for f in _expanded(root / text))
    return _sorted_out(root, dict.fromkeys(files), [])


def _expanded(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (f for f in sorted(path.rglob("*")) if f.is_file())
    else:
        yield path


def _from_dicomdir(path: Path) -> Listing:
    """Follow the file references of a DICOMDIR, none of which may lead out of its folder."""
    records = _header(path).items("DirectoryRecordSequence")
    if not records:
        raise BatchError(f"{path.name} is no DICOMDIR; name the folder that holds the DICOM files.")
    root, files, missing = path.parent, [], []
    for record in records:
        parts = record.value("ReferencedFileID")
        if not parts:
            continue
        names = [parts] if isinstance(parts, str) else [str(p) for p in parts]
        file = root.joinpath(*names)
        if not file.resolve().is_relative_to(root.resolve()):
            missing.append(Skipped(path.name, "lists a file outside its own folder"))
        elif not file.is_file():
            missing.append(Skipped("/".join(names), "listed in the DICOMDIR, but not there"))
        else:
            files.append(file)
    return _sorted_out(root, dict.fromkeys(files), missing)


def _from_archive(server: Server, wanted: SeriesFilter, days: int | None) -> Listing:
    """Ask an archive for its MR series (QIDO-RS); names are digests of their UIDs."""
    from neurovision.serving.pacs import Pacs

    pacs = Pacs(server)
    units, skipped = [], []
    for study in pacs.studies(None if days is None else date.today() - timedelta(days=days)):
        for series in pacs.series(study.uid):
            if wanted.takes(series):
                units.append(Unit(series.label, study=study.uid, series=series.uid))
            else:
                few = series.images < wanted.least_images
                reason = f"fewer than {wanted.least_images} images" if few else "its description is not asked for"
                skipped.append(Skipped(series.label, reason))
    return Listing(
        tuple(sorted(units, key=lambda u: u.source)), tuple(sorted(skipped, key=lambda s: s.source)), server=server
    )
