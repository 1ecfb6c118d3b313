"""Which MR sequence a scan is, told from what its headers or its name say."""

from __future__ import annotations

import re

TRAINED = ("T1", "T1 post-contrast", "T2", "FLAIR")
_WORDS = (  # the first that matches wins
    ("localizer", r"locali[sz]er|scout|survey|3[ -]?plane"),
    ("ADC", r"\badc\b|apparent diffusion"),
    ("DWI", r"\bdwi\b|diffusion|\btracew?\b|\bdti\b|b1000"),
    ("SWI", r"\bswi\b|\bswan\b|suscept"),
    ("MRA", r"\bmra\b|\btof\b|angio"),
    ("perfusion", r"perf|\bdsc\b|\bdce\b|\basl\b"),
    ("FLAIR", r"flair|dark[ -]?fluid|\bt2f\b|\btirm\b"),
    ("T2*", r"t2\*|t2[ -]?star|t2starw?|\bt2gre\b|hemo|\bffe ?t2\b"),
    ("T1 post-contrast", r"\bt1 ?(w|wi)? ?(c|ce|gd|gad|km|post|\+c|c\+)\b|\bt1ce\b|\bt1c\b|\bt1gd\b"),
    ("T1", r"\bt1(w|wi|n)?\b|mp ?rage|bravo|\bspgr\b|\btfl\b|\btfe\b"),
    ("PD", r"\bpdw?\b|proton"),
    ("T2", r"\bt2(w|wi)?\b"),
)
_CONTRAST = re.compile(r"\+ ?c\b|\bc ?\+|\bgd\b|gado|\bgad\b|\bpost\b|\bce\b|\bkm\b|contrast")
_WITHOUT = re.compile(r"\b(without|w ?o|no|non|pre|sans|ohne)\b")


def sequence_from_text(text: str) -> str | None:
    """Name the sequence from a description such as ``"AX T1 MPRAGE +C"`` or a file name such as ``"sub-1_FLAIR"``.

    Returns:
        One of ``localizer, ADC, DWI, SWI, MRA, perfusion, FLAIR, T2*, T1 post-contrast, T1, PD, T2``, or None.
    """
    words = re.sub(r"[_\-./,;:()\[\]]+", " ", text.lower())
    for name, pattern in _WORDS:
        if re.search(pattern, words):
            if name == "T1" and _CONTRAST.search(words) and not _WITHOUT.search(words):
                return "T1 post-contrast"
            return name
    return None


def sequence_from_times(echo: float | None, repetition: float | None, inversion: float | None) -> str | None:
    """Name a spin-echo sequence from its times in milliseconds, where they leave no doubt.

    Returns:
        ``"FLAIR"``, ``"T1"``, ``"T2"``, ``"PD"`` or None.
    """
    if echo is None or repetition is None:
        return None
    if inversion is not None and 1500 <= inversion <= 3200 and echo >= 70:
        return "FLAIR"
    if inversion:
        return None
    if echo <= 30 and 300 <= repetition <= 1000:
        return "T1"
    if repetition >= 1800:
        return "T2" if echo >= 70 else "PD" if echo <= 30 else None
    return None


def sequence_warning(sequence: str | None) -> str | None:
    """The sentence for a sequence that the networks were not trained on, or None."""
    if sequence is None or sequence in TRAINED:
        return None
    return f"The file says that this is {sequence}; the networks were trained on T1, T2 and FLAIR, so doubt the result."
