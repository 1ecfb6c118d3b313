"""What objects made of a DICOM scan take over from its headers: checked text, no pixels, no library's types.

A header may break every rule of the standard. What is invalid is repaired where its meaning is plain, else left out, so
that neither the analysis nor a written object depends on it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from neurovision.errors import UnsupportedScan

# The elements of the Patient, Study and Patient Study modules that are taken over, with their value representations.
KEPT = {
    "PatientName": "PN", "PatientID": "LO", "IssuerOfPatientID": "LO", "PatientBirthDate": "DA", "PatientSex": "CS",
    "PatientIdentityRemoved": "CS", "DeidentificationMethod": "LO", "EthnicGroup": "SH", "PatientAge": "AS",
    "PatientSize": "DS", "PatientWeight": "DS", "StudyDate": "DA", "StudyTime": "TM", "StudyID": "SH",
    "StudyDescription": "LO", "AccessionNumber": "SH", "ReferringPhysicianName": "PN", "PositionReferenceIndicator": "LO",
}  # fmt: skip
_LENGTH = {"LO": 64, "SH": 16}
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_DS = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_CODE = re.compile(r"[A-Z0-9_ ]{0,16}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SEX = {
    "M": "M", "MALE": "M", "MAN": "M", "F": "F", "FEMALE": "F", "W": "F", "WOMAN": "F", "WEIBLICH": "F",
    "O": "O", "OTHER": "O", "D": "O",
}  # fmt: skip


@dataclass(frozen=True)
class Image:
    """The source image that holds one slice.

    Attributes:
        uid: Its SOP Instance UID, ``""`` where the file gives none that is valid.
        sop_class: Its SOP Class UID, or ``""``.
        frame: Number of the slice's frame in it, counted from 1; None in a file of one frame.
        position: LPS millimeters of the slice's first pixel, or None.
    """

    uid: str
    sop_class: str
    frame: int | None = None
    position: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Headers:
    """What objects made of a scan need from its DICOM headers.

    Attributes:
        study_uid: Study Instance UID; like every UID here ``""`` where the file gives none that is valid.
        series_uid: Series Instance UID.
        frame_of_reference_uid: Frame of Reference UID.
        images: The source image of each slice, in slice order.
        identity: Valid values of the elements in KEPT, by keyword; those that are missing or invalid are not in it.
        left_out: Keywords of the elements whose values were invalid and had no plain meaning.
        burned_in: ``"YES"`` or ``"NO"`` where the file says whether a name is burnt into its picture, else ``""``.
        thickness: Millimeters of a slice as the header says, or None.
        lossy: Ratio and method of a lossy compression that the pixels went through, each ``""`` where the header gives
            none that is valid; None where the header tells of no such compression.

    Raises:
        UnsupportedScan: A value that breaks these rules.
    """

    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    images: tuple[Image, ...]
    identity: Mapping[str, str] = field(default_factory=dict, repr=False)
    left_out: tuple[str, ...] = ()
    burned_in: str = ""
    thickness: float | None = None
    lossy: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        uids = [self.study_uid, self.series_uid, self.frame_of_reference_uid]
        uids += [u for i in self.images for u in (i.uid, i.sop_class)]
        sound = (
            all(valid_uid(u) == u for u in uids)
            and all(k in KEPT and v and repaired(k, v) == v for k, v in self.identity.items())
            and set(self.left_out) <= {*KEPT}
            and self.burned_in in ("YES", "NO", "")
            and (self.thickness is None or 0 < self.thickness < 1e4)
            and (self.lossy is None or valid_lossy(*self.lossy) == self.lossy)
        )
        if not sound:
            raise UnsupportedScan("What is taken over from DICOM headers is valid; received something else.")

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON, from which :meth:`from_json` makes the same Headers."""
        return {
            "uids": [self.study_uid, self.series_uid, self.frame_of_reference_uid],
            "images": [[i.uid, i.sop_class, i.frame, i.position] for i in self.images],
            "identity": dict(self.identity),
            "left_out": list(self.left_out),
            "burned_in": self.burned_in,
            "thickness": self.thickness,
            "lossy": self.lossy,
        }

    @classmethod
    def from_json(cls, values: Any) -> Headers:
        """Headers from :meth:`to_json`'s values.

        Raises:
            UnsupportedScan: Values that break the rules.
            KeyError, TypeError, ValueError: Values of another shape.
        """
        study, series, frame = (str(u) for u in values["uids"])
        images = tuple(
            Image(str(uid), str(kind), None if number is None else int(number), None if at is None else _place(at))
            for uid, kind, number, at in values["images"]
        )
        identity = {str(k): str(v) for k, v in values["identity"].items()}
        thickness, lossy = values["thickness"], values["lossy"]
        return cls(
            study, series, frame, images, identity, tuple(map(str, values["left_out"])), str(values["burned_in"]),
            None if thickness is None else float(thickness), None if lossy is None else (str(lossy[0]), str(lossy[1])),
        )  # fmt: skip


def _place(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z


def valid_lossy(ratio: str, method: str) -> tuple[str, str]:
    """Ratio and method of a lossy compression, each ``""`` where it is invalid; of several the first."""
    ratio, method = (text.split("\\")[0].strip(" \0") for text in (ratio, method))
    return (
        ratio if len(ratio) <= 16 and _DS.fullmatch(ratio) else "",
        method.upper() if _CODE.fullmatch(method.upper()) else "",
    )


def valid_uid(text: str) -> str:
    """The UID without what pads it, or ``""`` where it is none."""
    text = text.strip(" \0")
    return text if len(text) <= 64 and _UID.fullmatch(text) else ""


def repaired(keyword: str, text: str) -> str:
    """A header's text as the standard wants it, or ``""`` where it is empty, invalid or without a plain meaning.

    Args:
        keyword: One of KEPT.
        text: The element's decoded value; values of a list are joined by a backslash.
    """
    kind, text = KEPT[keyword], text.strip(" \0")
    if kind == "PN":
        return _name(text)
    if kind == "DA":
        return _date(text)
    if kind == "TM":
        return _time(text)
    if keyword == "PatientSex":
        return _SEX.get(text.upper(), "")
    if kind == "CS":
        return text.upper() if text.upper() in ("YES", "NO") else ""
    if kind == "AS":
        return text.upper() if re.fullmatch(r"\d{3}[DWMY]", text.upper()) else ""
    if kind == "DS":
        return text if len(text) <= 16 and _DS.fullmatch(text) and math.isfinite(float(text)) else ""
    text = _CONTROL.sub(" ", text).strip()
    # A cut or merged text would be another patient's number: it is kept whole or not at all.
    return text if len(text) <= _LENGTH[kind] and "\\" not in text and "\ufffd" not in text else ""


def _name(text: str) -> str:
    """A person's name of at most three groups (alphabetic, ideographic, phonetic) of five parts and 64 characters."""
    text = _CONTROL.sub(" ", text).strip()
    if "\ufffd" in text or "\\" in text:
        return ""
    groups = ["^".join(g.split("^")[:5]).rstrip("^ ")[:64] for g in text.split("=")[:3]]
    return "=".join(groups).rstrip("=").strip()


def _date(text: str) -> str:
    found = re.fullmatch(r"(\d{4})([-./]?)(\d\d)\2(\d\d)", text)
    if not found:
        return ""
    year, month, day = (int(found[k]) for k in (1, 3, 4))
    try:
        date(year, month, day)
    except ValueError:
        return ""
    return f"{year:04}{month:02}{day:02}"


def _time(text: str) -> str:
    found = re.fullmatch(r"(\d\d)(?:(:?)(\d\d)(?:\2(\d\d)(?:[.,](\d{1,}))?)?)?", text)
    if not found:
        return ""
    parts = [found[1], found[3], found[4]]
    if any(p is not None and int(p) > limit for p, limit in zip(parts, (23, 59, 60), strict=True)):
        return ""
    return "".join(p for p in parts if p) + (f".{found[5][:6]}" if found[5] else "")
