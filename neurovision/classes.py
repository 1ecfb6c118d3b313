"""The classes of a label map: air and head, which are fixed, and the tumors that a set of weights tells apart.

SHIPPED is the set of the shipped weights, and of every manifest, run and data set that names none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

RGB = tuple[int, int, int]

MAX_TUMORS = 8
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")  # air and head included
# A title is shown on pages and written into DICOM, where a backslash parts values.
SHORT, WORDS = r"[A-Za-z0-9._-]{1,16}", r"[^\W_][^\\<>&\x00-\x1f\x7f]{0,63}"
KEY = r"[a-z][a-z0-9_]{0,39}"
ORANGE, SKY, PINK, GREEN = (230, 159, 0), (86, 180, 233), (204, 121, 167), (0, 158, 115)
# Okabe and Ito's, which stay apart for readers with any common color blindness, and gray; with their names for print.
PALETTE: dict[RGB, str] = {
    (240, 228, 66): "yellow", (213, 94, 0): "red", (0, 114, 178): "dark blue", (153, 153, 153): "gray", GREEN: "green",
    PINK: "pink", SKY: "blue", ORANGE: "orange",
}  # fmt: skip


def _matches(value: Any, pattern: str) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


@dataclass(frozen=True)
class Code:
    """What a class is called in DICOM objects.

    Attributes:
        value: The code, at most 16 characters.
        meaning: Its words, at most 64 characters.
        scheme: The designator of its coding scheme; SCT is SNOMED CT.

    Raises:
        ValueError: A value that breaks these rules.
    """

    value: str
    meaning: str
    scheme: str = "SCT"

    def __post_init__(self) -> None:
        if not (_matches(self.value, SHORT) and _matches(self.scheme, SHORT) and _matches(self.meaning, WORDS)):
            raise ValueError("a code has a value and a scheme of at most 16 letters and digits, and a meaning of at most 64")


@dataclass(frozen=True)
class PixelClass:
    """One class of a label map.

    Attributes:
        index: The value in a ``uint8`` label map.
        key: The word used in files and code.
        title: The words shown to a reader, at most 64 characters.
        color: RGB in 0..255, or None for classes that are not painted.
        code: In DICOM objects, or None for classes that are not written there.
    """

    index: int
    key: str
    title: str
    color: RGB | None = None
    code: Code | None = None

    @property
    def color_name(self) -> str:
        """The nearest color of PALETTE, in words."""
        own = self.color or (128, 128, 128)
        return PALETTE[min(PALETTE, key=lambda c: sum((a - b) ** 2 for a, b in zip(c, own, strict=True)))]


BACKGROUND = PixelClass(0, "background", "Air")
HEAD = PixelClass(1, "head", "Healthy head")
FIRST_TUMOR = 2  # every class from here on is a tumor
NO_TUMOR = "none"  # the label of a scan without a tumor
ANY_TUMOR = "tumor"  # the label of a tumor of any type; a class where it is the only one
NEOPLASM = Code("108369006", "Neoplasm")
KNOWN = {  # what needs no description; any other class is a neoplasm called by its key
    "glioma": ("Glioma", ORANGE, Code("393564001", "Glioma")),
    "meningioma": ("Meningioma", SKY, Code("302820008", "Intracranial meningioma")),
    "pituitary": ("Pituitary tumor", PINK, Code("127024001", "Neoplasm of pituitary gland")),
    "metastasis": ("Metastasis", GREEN, Code("128462008", "Metastasis")),
    ANY_TUMOR: ("Tumor", ORANGE, NEOPLASM),
}


@dataclass(frozen=True)
class Classes:
    """A set of classes: air, head and tumors.

    Attributes:
        tumors: In the order of their indices, which run on from FIRST_TUMOR.

    Raises:
        ValueError: No tumor or more than MAX_TUMORS, a key that breaks KEY or stands twice, a title of other than 1 to 64
            plain characters, a color that is none, or ``tumor`` beside a type.
    """

    tumors: tuple[PixelClass, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.tumors) <= MAX_TUMORS:
            raise ValueError(f"a set has 1 to {MAX_TUMORS} classes; received {len(self.tumors)}")
        for index, tumor in enumerate(self.tumors, FIRST_TUMOR):
            if not _matches(tumor.key, KEY) or tumor.key in (BACKGROUND.key, HEAD.key, NO_TUMOR):
                raise ValueError(
                    "a class's key is up to 40 lower-case letters, digits and _, starts with a letter, and is none of"
                    f" {BACKGROUND.key}, {HEAD.key} and {NO_TUMOR}; received {str(tumor.key)[:60]!r}"
                )
            if not _matches(tumor.title, WORDS):
                raise ValueError(f"a title has 1 to 64 plain characters; that of {tumor.key} has not")
            if not _is_color(tumor.color):
                raise ValueError(f"a color is three numbers from 0 to 255; that of {tumor.key} is not")
            if tumor.index != index or tumor.code is None:
                raise ValueError(f"{tumor.key} has the index {tumor.index} in place of {index}, or no code")
        if len(set(self.keys)) < len(self.keys):
            raise ValueError("a class stands once in a set")
        if ANY_TUMOR in self.keys and len(self.tumors) > 1:
            raise ValueError(f"the class {ANY_TUMOR!r} is any type and stands alone, or not at all")

    @classmethod
    def of(cls, keys: Iterable[str]) -> Classes:
        """The set of these keys, described by KNOWN."""
        return cls.from_json([{"key": key} for key in keys])

    @classmethod
    def from_json(cls, raw: Any) -> Classes:
        """Read a list of ``{"key", "title", "color", "code": {"value", "meaning", "scheme"}}``; only the key is needed.

        Raises:
            ValueError: It is no such list, or breaks a rule of a set.
        """
        if not isinstance(raw, list | tuple) or not all(isinstance(entry, dict) for entry in raw):
            raise ValueError("classes are a list of objects")
        colors = [tuple(e["color"]) for e in raw if isinstance(e.get("color"), list)]
        colors += [KNOWN[e["key"]][1] for e in raw if isinstance(e.get("key"), str) and e["key"] in KNOWN]
        free = (c for c in PALETTE if c not in colors)
        return cls(tuple(_read(entry, index, free) for index, entry in enumerate(raw, FIRST_TUMOR)))

    def to_json(self) -> list[dict[str, Any]]:
        """The reverse of :meth:`from_json`; everything is said."""
        return [
            {"key": t.key, "title": t.title, "color": list(t.color or ()), "code": asdict(t.code or NEOPLASM)}
            for t in self.tumors
        ]

    def __iter__(self) -> Iterator[PixelClass]:
        return iter((BACKGROUND, HEAD, *self.tumors))

    def __len__(self) -> int:
        return FIRST_TUMOR + len(self.tumors)

    @cached_property
    def by_key(self) -> dict[str, PixelClass]:
        """The tumors by key."""
        return {t.key: t for t in self.tumors}

    @property
    def keys(self) -> tuple[str, ...]:
        """Of the tumors."""
        return tuple(t.key for t in self.tumors)

    @property
    def labels(self) -> tuple[str, ...]:
        """What a scan may be labeled."""
        return tuple(dict.fromkeys((NO_TUMOR, ANY_TUMOR, *self.keys)))

    @property
    def untyped(self) -> int:
        """In label maps for training: a tumor of no class of the set, or whose type nobody noted."""
        return len(self)

    def index_of(self, label: str) -> int:
        """Index of a tumor by its label, or ``untyped``."""
        return self.by_key[label].index if label in self.by_key else self.untyped

    def commonest(self, counts: Sequence[int] | np.ndarray) -> str:
        """Key of the tumor with most pixels, by how many each index has; the first of several."""
        return max(self.tumors, key=lambda t: counts[t.index]).key

    def title(self, key: str) -> str:
        """Title of a tumor."""
        return self.by_key[key].title

    def joined(self, other: Classes) -> Classes:
        """This set and what another has besides, in order; ``tumor`` gives way to types, a color that is taken to another.

        Raises:
            ValueError: A class has another title or code in each, or there are too many.
        """
        found: dict[str, PixelClass] = {}
        for tumor in (*self.tumors, *other.tumors):
            first = found.setdefault(tumor.key, tumor)
            if (first.title, first.code) != (tumor.title, tumor.code):
                raise ValueError(f"the class {tumor.key} has another title or code in each")
        if len(found) > 1:
            found.pop(ANY_TUMOR, None)
        colors: list[RGB | None] = []
        for tumor in found.values():
            free = (c for c in PALETTE if c not in colors and c not in {t.color for t in found.values()})
            colors.append(next(free, tumor.color) if tumor.color in colors else tumor.color)
        each = enumerate(zip(found.values(), colors, strict=True), FIRST_TUMOR)
        return Classes(tuple(replace(t, index=index, color=color) for index, (t, color) in each))


def _read(entry: dict[str, Any], index: int, free: Iterator[RGB]) -> PixelClass:
    key = str(entry.get("key", ""))
    if unknown := set(entry) - {"key", "title", "color", "code"}:
        raise ValueError(f"a class has a key, a title, a color and a code; received {sorted(unknown)[0][:40]!r}")
    known = KNOWN.get(key)
    title = entry.get("title", known[0] if known else key.replace("_", " ").capitalize())
    color = entry["color"] if "color" in entry else known[1] if known else next(free, (128, 128, 128))
    code = entry.get("code", asdict(known[2] if known else NEOPLASM))
    if not isinstance(code, dict) or not {"value", "meaning"} <= set(code) <= {"value", "meaning", "scheme"}:
        raise ValueError(f"a code has a value, a meaning and, where it is not SNOMED CT's, a scheme; that of {key} has not")
    return PixelClass(index, key, title, tuple(color) if isinstance(color, list) else color, Code(**code))


def _is_color(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value)


SHIPPED = Classes.of(("glioma", "meningioma", "pituitary"))
