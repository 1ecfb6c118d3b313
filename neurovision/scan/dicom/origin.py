"""What a file's header hands on to the objects that are made of a scan."""

from __future__ import annotations

from collections.abc import Sequence

from neurovision.scan.dicom.geometry import Frame
from neurovision.scan.dicom.header import Header
from neurovision.scan.headers import KEPT, Headers, repaired, valid_lossy, valid_uid


def headers_of(header: Header, frames: Sequence[Frame]) -> Headers:
    """What objects need of a scan; it never fails, since no header may keep a scan from being analyzed.

    Args:
        header: Of the first slice's file.
        frames: In slice order.
    """
    texts = {key: header.decoded(key).strip(" \0") for key in KEPT if header.holds(key)}
    identity = {key: value for key, text in texts.items() if (value := repaired(key, text))}
    unknown = {"PatientSex": ("U", "UNKNOWN"), "PatientIdentityRemoved": ("",)}  # say nothing, and break no rule of ours
    left_out = tuple(
        k
        for k, text in texts.items()
        if text.strip(" ^=") and k not in identity and text.upper() not in unknown.get(k, ())
    )
    if identity.get("PatientIdentityRemoved") == "YES":  # which needs a method beside it
        identity.setdefault("DeidentificationMethod", "not stated")
    lossy = None
    if header.decoded("LossyImageCompression").strip(" \0") == "01":
        lossy = valid_lossy(*(header.decoded(f"LossyImageCompression{k}") for k in ("Ratio", "Method")))
    burned = header.decoded("BurnedInAnnotation").strip(" \0").upper()
    return Headers(
        study_uid=valid_uid(header.decoded("StudyInstanceUID")),
        series_uid=valid_uid(header.decoded("SeriesInstanceUID")),
        frame_of_reference_uid=valid_uid(header.decoded("FrameOfReferenceUID")),
        images=tuple(f.source for f in frames),
        identity=identity,
        left_out=left_out,
        burned_in=burned if burned in ("YES", "NO") else "",
        thickness=frames[0].thickness,
        lossy=lossy,
    )
