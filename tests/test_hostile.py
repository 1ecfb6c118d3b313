"""Hostile files: every one becomes a Study or one clean sentence, through the very door that the page uses."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import hostile
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neurovision.errors import ScanError
from neurovision.scan import contained
from neurovision.scan.masks import read_mask
from neurovision.scan.read import read_bytes

SEEDS = {
    "png": hostile.encoded("PNG"), "jpeg": hostile.encoded("JPEG"), "tiff": hostile.encoded("TIFF"),
    "webp": hostile.encoded("WEBP"), "bmp": hostile.encoded("BMP"), "dicom": hostile.dicom(), "nifti": hostile.nifti(),
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus() -> list[hostile.Hostile]:
    return hostile.corpus()


def test_the_corpus_is_large_and_always_the_same(corpus: list[hostile.Hostile]):
    assert len(corpus) >= 800 and len({(h.reader, h.name) for h in corpus}) == len(corpus)
    assert {h.reader for h in corpus} == set(hostile.READERS)
    again = {(h.reader, h.name): h.data for h in hostile._nifti()}
    assert all(h.data == again[h.reader, h.name] for h in corpus if (h.reader, h.name) in again and "gz" not in h.name)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("reader", hostile.READERS)
def test_every_file_is_read_or_refused_in_a_sentence(corpus: list[hostile.Hostile], reader: str, tmp_path: Path):
    folder, faults, broken = tmp_path / "private", [], []
    folder.mkdir()
    for file in (h for h in corpus if h.reader == reader):
        path = folder / file.name
        path.write_bytes(file.data)
        said = hostile.ask(path, reader)
        faults += [f"{file.name}: {what}" for what in hostile.sentence_faults(said, tmp_path)]
        if "broke the reader" in said or "took more than" in said:
            broken.append(file.name)
        path.unlink()
    assert not faults
    assert not broken  # containment is the second line: no known file may need it
    assert list(folder.iterdir()) == [] and not Path("/tmp/neurovision-was-unpickled").exists()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(SEEDS)),
    cut=st.integers(0, 10_000),
    patches=st.lists(st.tuples(st.integers(0, 3000), st.binary(min_size=1, max_size=8)), max_size=4),
    tail=st.binary(max_size=40),
)
def test_any_damage_gives_a_valid_study_or_a_sentence(
    kind: str, cut: int, patches: list[tuple[int, bytes]], tail: bytes, tmp_path: Path
):
    data = bytearray(SEEDS[kind])
    for at, patch in patches:
        data[at % len(data) : at % len(data) + len(patch)] = patch
    spoiled = bytes(data[: len(data) - cut if cut < len(data) and cut % 3 == 0 else len(data)]) + tail
    try:
        study = read_bytes(spoiled, "x")
        assert study.pixels.dtype == np.float32 and np.isfinite(study.pixels).all()
    except ScanError as e:
        assert hostile.sentence_faults(str(e), tmp_path) == []
    (tmp_path / "m").write_bytes(spoiled)
    try:
        assert read_mask(tmp_path / "m", (64, 64)).tumor.shape == (64, 64)
    except ScanError as e:
        assert hostile.sentence_faults(str(e), tmp_path) == []


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=600))
def test_any_bytes_are_refused(data: bytes):
    with pytest.raises(ScanError):
        read_bytes(data, "x")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed (Linux only)")
def test_a_short_fuzzing_run_finds_nothing():
    from tests.fuzz import fuzz

    told = fuzz("dicom", 3)
    assert int(told["executions"]) > 50, told["log"]
    assert told["crashes"] == "0", told["log"]


def test_limits_are_what_the_text_says():
    assert (contained.MEMORY, contained.SECONDS, contained.AT_ONCE) == (4 * 1024**3, 30, 2)
