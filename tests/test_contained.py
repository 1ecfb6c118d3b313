"""Contained reading: the same scans, and a reader that grows, hangs or crashes is one sentence."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_builder import head, oblique, stored, write_series
from PIL import Image

from neurovision.errors import DamagedScan, ScanError, ScanTooLarge, UnsupportedScan
from neurovision.scan import contained, masks, read
from neurovision.views.examples import FOLDER

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
GLIOMA = FOLDER / "glioma.png"


@pytest.fixture
def fresh():
    """A first process of its own, which knows this test's environment."""
    contained.readers.close()
    yield contained.readers
    contained.readers.close()


def child_that(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """Make every child run some code in place of the readers, by a module that Python imports at its start."""
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "if any('neurovision.scan.contained' in a for a in sys.orig_argv):\n"
        "    import neurovision.scan.read as read, os, time, ctypes\n"
        f"    def broken(paths, name=None):\n        {code}\n"
        "    read.read_files = broken\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_a_picture_a_series_and_a_mask_are_the_same_as_read_directly(tmp_path: Path):
    paths = write_series(tmp_path / "s", stored(head()[0]), oblique(head()[0].affine))
    for files, name in (([GLIOMA], None), (paths, "series")):
        ours, direct = contained.study(files, name), read.read_files(files, name)
        assert np.array_equal(ours.pixels, direct.pixels) and ours.source == direct.source
        assert ours.spacing == direct.spacing and ours.warnings == direct.warnings
        assert (ours.affine is None) == (direct.affine is None)
        assert ours.affine is None or np.array_equal(ours.affine, direct.affine)
    assert contained.group_scans([GLIOMA, *paths]) == read.group_scans([GLIOMA, *paths])
    Image.fromarray(np.eye(40, dtype=np.uint8) * 255).save(tmp_path / "m.png")
    ours, direct = contained.mask(tmp_path / "m.png", (40, 40)), masks.read_mask(tmp_path / "m.png", (40, 40))
    assert np.array_equal(ours.tumor, direct.tumor) and ours.meaning == direct.meaning


def test_refusals_come_through_word_for_word(tmp_path: Path):
    (tmp_path / "letter.png").write_text("Dear colleague")
    with pytest.raises(UnsupportedScan) as direct:
        read.read(tmp_path / "letter.png")
    with pytest.raises(UnsupportedScan) as ours:
        contained.study([tmp_path / "letter.png"])
    assert str(ours.value) == str(direct.value)
    with pytest.raises(DamagedScan, match="no such file"):
        contained.study([tmp_path / "gone.png"])


@pytest.mark.parametrize("code", ["ctypes.string_at(0)", "os.abort()", "os.kill(os.getpid(), 9)", "os._exit(0)"])
def test_a_crash_is_a_sentence_and_the_next_scan_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh: contained.Readers, code: str
):
    with monkeypatch.context() as patch:
        child_that(patch, tmp_path, code)
        with pytest.raises(DamagedScan, match=r"glioma\.png: reading it broke the reader"):
            contained.study([GLIOMA])
        first = fresh.pid
        with pytest.raises(DamagedScan):
            contained.study([GLIOMA])
        assert fresh.pid == first  # a crash costs the child only
    fresh.close()
    assert contained.study([GLIOMA]).n_slices == 1


@pytest.mark.parametrize("code", ["time.sleep(60)", "\n        while True: pass"])
def test_a_hang_ends_at_the_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh: contained.Readers, code: str
):
    child_that(monkeypatch, tmp_path, code)
    monkeypatch.setenv(contained.SECONDS_VARIABLE, "2")
    with pytest.raises(ScanTooLarge, match="took more than 2 seconds"):
        contained.study([GLIOMA])


def test_too_much_memory_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh: contained.Readers):
    noise = np.random.default_rng(0).integers(0, 256, (3900, 4000), np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png", compress_level=0)
    assert contained.study([tmp_path / "large.png"]).pixels.shape == (1, 3900, 4000, 1)
    fresh.close()
    monkeypatch.setenv(contained.MEMORY_VARIABLE, str(200 * 1024**2))
    with pytest.raises(ScanTooLarge, match=r"large\.png: it takes more memory than there is"):
        contained.study([tmp_path / "large.png"])


def test_a_child_can_write_no_file_and_leaves_no_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh: contained.Readers
):
    out = tmp_path / "out"
    child_that(monkeypatch, tmp_path, f"open({str(out)!r}, 'w').write('x' * 100)")
    with pytest.raises(ScanError):
        contained.study([GLIOMA])
    assert not out.exists() or out.stat().st_size == 0
    children = Path(f"/proc/{fresh.pid}/task/{fresh.pid}/children")
    for _ in range(100):
        if not children.read_text().split():
            break
        time.sleep(0.1)
    assert children.read_text().split() == []


def test_a_child_knows_none_of_the_secrets_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh: contained.Readers
):
    """Neither through Python nor in what the kernel keeps of the environment of it and of its server."""
    monkeypatch.setenv("NEUROVISION_PASSWORD", "correct-horse")
    monkeypatch.setenv("NEUROVISION_PACS_TOKEN", "battery-staple")
    child_that(
        monkeypatch, tmp_path,
        "from neurovision.errors import DamagedScan; e = [open(f'/proc/{p}/environ').read() for p in "
        "(os.getpid(), os.getppid())] if os.path.isdir('/proc/self') else []; "
        "raise DamagedScan(' '.join([*e, *os.environ]).replace(chr(0), ' '))",
    )  # fmt: skip
    with pytest.raises(DamagedScan, match="PATH") as caught:
        contained.study([GLIOMA])
    assert "NEUROVISION" not in str(caught.value) and "correct-horse" not in str(caught.value)


def test_the_first_process_is_started_again_when_it_was_killed(fresh: contained.Readers):
    contained.study([GLIOMA])
    first = fresh.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    assert contained.study([GLIOMA]).n_slices == 1
    assert fresh.pid != first


SOURCE = {"name": "x", "format": "PNG", "sha256": "", "sequence": None}
SOUND = {"shape": [1, 2, 2, 1], "source": SOURCE, "spacing": None, "affine": None, "warnings": []}


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (SOUND, "finite"),  # the pixels are not
        ({**SOUND, "shape": [1, 40_000, 40_000, 1]}, "broke the reader"), ({**SOUND, "shape": "x"}, "broke the reader"),
        ({**SOUND, "shape": [-1, 2, 2, 1]}, "broke the reader"), ({}, "broke the reader"), ([], "broke the reader"),
        ({"refused": "SystemExit", "words": "two\nlines"}, "two lines"), (7, "broke the reader"),
        ({**SOUND, "source": {}}, "makes no sense"), ({**SOUND, "spacing": "x"}, "makes no sense"),
        ({**SOUND, "source": {**SOURCE, "format": "<script>"}}, "makes no sense"),
        ({**SOUND, "source": {**SOURCE, "sha256": "../.."}}, "makes no sense"),
        ({**SOUND, "affine": [[10**400]]}, "makes no sense"), ({**SOUND, "shape": [1, 2, 2, 2]}, "broke the reader"),
        (b"[" * 100_000, "broke the reader"), (b"no JSON", "broke the reader"), (b"", "broke the reader"),
        ({**SOUND, "affine": "x"}, "makes no sense"), ({**SOUND, "warnings": 7}, "makes no sense"),
    ],
)  # fmt: skip
def test_a_forged_answer_is_refused(monkeypatch: pytest.MonkeyPatch, told: Any, words: str):
    """As if a decoder's bug had let a file take over its child."""
    kept = []

    def forge(self: contained.Readers, theirs: socket.socket) -> None:
        kept.append(theirs.dup())
        body = told if isinstance(told, bytes) else json.dumps(told).encode()
        theirs.send(body + b"\n" + np.full(4, np.nan, np.float32).tobytes())
        theirs.shutdown(socket.SHUT_WR)

    monkeypatch.setattr(contained.Readers, "_send", forge)
    with pytest.raises(ScanError, match=words) as caught:
        contained.study([GLIOMA])
    assert "\n" not in str(caught.value)
    kept[0].close()
