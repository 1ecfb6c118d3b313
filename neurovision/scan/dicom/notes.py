"""What a DICOM header gives a reader to know: the sequence, and what is unusual or names a patient."""

from __future__ import annotations

import re

from pydicom.uid import SecondaryCaptureImageStorage

from neurovision.scan.dicom.header import Header
from neurovision.scan.sequence import sequence_from_text, sequence_from_times, sequence_warning

# Terms of the standard that messages may show; anything else in a header may be a name.
MODALITIES = (
    "AR", "AU", "BI", "BMD", "CR", "CT", "DG", "DMS", "DOC", "DX", "ECG", "EPS", "ES", "FID", "GM", "HC", "HD", "IO",
    "IVOCT", "IVUS", "KO", "LEN", "LS", "M3D", "MG", "NM", "OAM", "OCT", "OP", "OPM", "OPT", "OT", "PLAN", "PR", "PT",
    "PX", "REG", "RESP", "RF", "RG", "RTDOSE", "RTIMAGE", "RTPLAN", "RTRECORD", "RTSTRUCT", "RWV", "SEG", "SM", "SMR",
    "SR", "SRF", "STAIN", "TG", "US", "VA", "XA", "XC",
)  # fmt: skip
OTHER_PARTS = (
    "ABDOMEN", "ANKLE", "AORTA", "ARM", "BREAST", "CALF", "CAROTID", "CHEST", "CSPINE", "ELBOW", "EXTREMITY", "FEMUR",
    "FINGER", "FOOT", "HAND", "HEART", "HIP", "HUMERUS", "KIDNEY", "KNEE", "LEG", "LIVER", "LSPINE", "LUNG", "NECK",
    "PELVIS", "PROSTATE", "SHOULDER", "SPINE", "THIGH", "THORAX", "TSPINE", "WRIST",
)  # fmt: skip
HEAD_PARTS = ("HEAD", "BRAIN", "SKULL", "HEADNECK", "NEURO", "PITUITARY", "SELLA", "WHOLEBODY")


def modality_named(modality: str) -> str:
    """A modality for messages: a term of the standard, or ``"another kind"``."""
    return modality if modality in MODALITIES else "another kind"


def identifier_warnings(header: Header) -> tuple[str, ...]:
    """Sentences about what in a DICOM file may name a patient; they never quote it.

    Raises:
        DamagedScan: A value that cannot be read.
    """
    notes = []
    burned = header.text("BurnedInAnnotation").upper()
    captured = header.text("SOPClassUID") == SecondaryCaptureImageStorage or header.holds("ConversionType")
    if burned == "YES":
        notes.append("The file says that annotations are burnt into its picture: it may show a name or a number.")
    elif captured and burned != "NO":
        notes.append("This is a captured screen: its picture may show a burnt-in name or number.")
    removed = header.text("PatientIdentityRemoved").upper() == "YES"
    if not removed and any(header.text(k) for k in ("PatientName", "PatientID", "PatientBirthDate")):
        notes.append("The file's headers name a patient; de-identify it before it leaves your hands.")
    return tuple(notes)


def notes_on(header: Header) -> list[str]:
    """Warnings that a header gives rise to.

    Raises:
        DamagedScan: A value that cannot be read.
    """
    notes = list(identifier_warnings(header))
    part = re.sub(r"[^A-Z]", "", header.text("BodyPartExamined").upper())[:16]
    if part and not any(p in part for p in HEAD_PARTS):
        shown = f"the {part.lower()}" if part in OTHER_PARTS else "another part of the body"
        notes.append(f"The file says that it shows {shown}; the networks read brains only.")
    strange = sequence_warning(sequence_of(header))
    return [*notes, strange] if strange else notes


def sequence_of(header: Header) -> str | None:
    """Name the MR sequence from a header: its descriptions first, then its times, or None.

    Raises:
        DamagedScan: A value that cannot be read.
    """
    texts = (header.text(k) for k in ("SeriesDescription", "ProtocolName", "SequenceName"))
    found = next((s for s in map(sequence_from_text, texts) if s), None)
    if found is None:
        contrast = {"T1": "T1", "T2": "T2", "T2_STAR": "T2*", "PROTON_DENSITY": "PD", "DIFFUSION": "DWI", "FLAIR": "FLAIR"}
        found = contrast.get(header.text("AcquisitionContrast"))
    if found is None and "SE" in header.text("ScanningSequence"):
        times = (header.numbers(k, 1) for k in ("EchoTime", "RepetitionTime", "InversionTime"))
        found = sequence_from_times(*(None if t is None else t[0] for t in times))
    agent = header.text("ContrastBolusAgent").lower()
    if found == "T1" and agent and agent not in ("none", "no", "n"):
        return "T1 post-contrast"
    return found
