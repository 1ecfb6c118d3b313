"""A DICOM header's values by kind. pydicom decodes a value when it is asked for, and a damaged one breaks it in any way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom import Dataset, Sequence
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.valuerep import TEXT_VR_DELIMS, PersonName

from neurovision.errors import DamagedScan
from neurovision.scan.quiet import quiet

_LATIN_9 = ("ISO_IR 203", "ISO 2022 IR 203")  # which pydicom does not know
_CHINESE = "\x1b$)A"  # the escape to ISO 2022 IR 58, which pydicom leaves in the text


@contextmanager
def refusing(sentence: str) -> Iterator[None]:
    """Whatever is raised inside becomes DamagedScan, and nothing of it is shown; see ``scan.quiet``.

    For calls of pydicom and its decoders only: an error of our own must not read as a damaged file. The cause is kept,
    by which ``read.memory_told`` knows too little memory from damage.
    """
    try:
        with quiet():
            yield
    except Exception as e:  # pydicom and its decoders raise anything on damaged files
        raise DamagedScan(sentence) from e


@dataclass(frozen=True)
class Header:
    """A dataset whose values are asked for by kind.

    Every method but ``holds`` and those that say so raises DamagedScan where the value is of no such kind.

    Attributes:
        dataset: pydicom's.
        name: The file's name, for messages.
    """

    dataset: Dataset
    name: str

    def holds(self, key: str) -> bool:
        """Whether the header has the element, be it empty."""
        return key in self.dataset

    def value(self, key: str) -> Any:
        """The value as pydicom gives it, or None."""
        with refusing(self._sentence):
            return self.dataset.get(key)

    def text(self, key: str) -> str:
        """The value as text without spaces around it, ``""`` where there is none."""
        value = self.value(key)
        with refusing(self._sentence):  # names are decoded only now
            return "" if value is None else str(value).strip()

    def decoded(self, key: str) -> str:
        """The text of an element in any character set that the standard names, ``""`` where it cannot be decoded.

        The values of a list stay joined by backslashes. Bytes that are not of the character set that the file names are
        tried as UTF-8, which is what they mostly are.
        """
        with quiet():
            try:
                element = self.dataset.get_item(key)
            except Exception:  # noqa: BLE001 - pydicom raises anything on damaged files
                return ""
            if not isinstance(element, RawDataElement) or not isinstance(element.value, bytes):
                return self._plain(key)
            raw = element.value.rstrip(b" \0")
            try:
                terms = self.dataset.get("SpecificCharacterSet") or ""
                terms = [terms] if isinstance(terms, str) else [str(t) for t in terms]
                if terms[0].strip() in _LATIN_9:
                    return raw.decode("iso8859_15")
                encodings = convert_encodings(terms)
                if dictionary_VR(key) == "PN":
                    text = str(PersonName(raw, encodings))
                else:
                    text = str(decode_bytes(raw, encodings, TEXT_VR_DELIMS))
            except Exception:  # noqa: BLE001 - as above
                text = "\ufffd"
            if "\ufffd" not in text:
                return text.replace(_CHINESE, "")
            try:
                return raw.decode("utf-8")
            except UnicodeDecodeError:
                return ""

    def _plain(self, key: str) -> str:
        try:
            value = self.dataset.get(key)
            many = isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue"
            return "" if value is None else "\\".join(map(str, value)) if many else str(value)
        except Exception:  # noqa: BLE001 - pydicom raises anything on damaged files
            return ""

    def whole(self, key: str, default: int) -> int:
        """The value as a whole number, ``default`` where there is none."""
        value = self.value(key)
        if value is None or value == "":
            return default
        try:
            return int(value)
        except (TypeError, ValueError, OverflowError) as e:
            raise self.unreadable() from e

    def numbers(self, key: str, count: int) -> tuple[float, ...] | None:
        """``count`` finite numbers, or None where the header gives none."""
        value = self.value(key)
        if value is None or value == "":
            return None
        try:
            listed = value if hasattr(value, "__len__") and not isinstance(value, str) else [value]
            values = tuple(float(v) for v in listed)
        except (TypeError, ValueError, OverflowError) as e:
            raise self.unreadable() from e
        return values[:count] if len(values) >= count and np.isfinite(values[:count]).all() else None

    def numbers_if_readable(self, key: str, count: int) -> tuple[float, ...] | None:
        """As :meth:`numbers`, for what a scan can be read without: None where the value is of no such kind."""
        try:
            return self.numbers(key, count)
        except DamagedScan:
            return None

    def items(self, key: str) -> list[Header]:
        """The items of a sequence, none where there is no such sequence."""
        value = self.value(key)
        if value is None:
            return []
        if not isinstance(value, Sequence):
            raise self.unreadable()
        return [Header(item, self.name) for item in value]

    def unreadable(self) -> DamagedScan:
        """What to raise where a value is not what it should be."""
        return DamagedScan(self._sentence)

    @property
    def _sentence(self) -> str:
        return f"{self.name}: the DICOM header holds values that cannot be read; export it again."
