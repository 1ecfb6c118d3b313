"""De-identification of DICOM files (PS3.15 Annex E, basic profile)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from io import BytesIO
from pathlib import Path

from pydicom import Dataset

from neurovision.errors import DamagedScan, UnsupportedScan
from neurovision.files import write
from neurovision.scan.dicom.header import Header
from neurovision.scan.dicom.parse import load, parse_bytes
from neurovision.scan.quiet import quiet

METHOD = "PS3.15 basic profile, neurovision"
TABLE = "dicomfields_2026c"  # PS3.15 table E.1-1 as of 2026c


def deidentify(paths: Sequence[Path], folder: Path, keep_burned_in: bool = False) -> list[Path]:
    """Write de-identified copies: basic profile of PS3.15 table E.1-1, UIDs replaced consistently over all files.

    Identifiers in nested sequences, private elements, overlays, curves and the preamble go too. The pixels are kept,
    so files with burnt-in annotations are refused.

    Args:
        paths: The DICOM files of one patient.
        folder: Where ``0001.dcm``, ``0002.dcm``, ... are written, in the order of ``paths``; made where absent.
        keep_burned_in: Take files that say that annotations are burnt in all the same.

    Returns:
        The written files.

    Raises:
        ScanError: A file is no readable DICOM, or burnt-in annotations would stay.
    """
    from dicomanonymizer import simpledicomanonymizer as basic_profile

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    try:
        for number, path in enumerate(paths, 1):
            dataset = parse_bytes(load(path), path.name)
            if not keep_burned_in and Header(dataset, path.name).decoded("BurnedInAnnotation").strip().upper() == "YES":
                raise UnsupportedScan(
                    f"{path.name}: de-identification keeps the pixels, and this file says that annotations are burnt "
                    "into them; blank them first."
                )
            try:
                with quiet():
                    _clean(dataset)
                    cleaned = BytesIO()
                    dataset.save_as(cleaned, enforce_file_format=True)
            except MemoryError:
                raise
            except Exception as e:  # a damaged header breaks the library in any way; the message must not quote it
                raise DamagedScan(f"{path.name}: its headers cannot be de-identified; export the file again.") from e
            target = folder / f"{number:04d}.dcm"
            write(target, cleaned.getvalue())  # outside: a full disk is no damaged header
            written.append(target)
    finally:
        basic_profile.dictionary.clear()  # the library's map from old to new UIDs must not outlive the job
    return written


def _clean(dataset: Dataset) -> None:
    from dicomanonymizer import simpledicomanonymizer as basic_profile
    from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector

    rules = partial(basic_profile.initialize_actions, TABLE)
    references = {tag: _keep_cleaned for tag in dicom_anonymization_database_selector(TABLE)["X_Z_U_STAR_TAGS"]}
    meta, syntax = dataset.file_meta, dataset.file_meta.TransferSyntaxUID
    for nested in _nested(dataset):
        basic_profile.anonymize_dataset(nested, references, base_rules_gen=rules)
    basic_profile.anonymize_dataset(dataset, references, base_rules_gen=rules)
    dataset.preamble = b"\0" * 128
    dataset.file_meta = type(meta)()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = METHOD
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "113100", "DCM"
    code.CodeMeaning = "Basic Application Confidentiality Profile"
    dataset.DeidentificationMethodCodeSequence = [code]
    dataset.LongitudinalTemporalInformationModified = "REMOVED"


def _keep_cleaned(dataset: Dataset, tag: tuple[int, int]) -> None:
    """Action X/Z/U*: a sequence of references stays, since the UIDs in it are replaced already; else it goes."""
    element = dataset.get(tag)
    if element is not None and element.VR != "SQ":
        del dataset[tag]


def _nested(dataset: Dataset) -> list[Dataset]:
    """Every dataset inside the sequences of ``dataset``, the deepest first."""
    found: list[Dataset] = []
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                found += [*_nested(item), item]
    return found
