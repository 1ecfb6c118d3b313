"""Batches: what is listed, what a table says, runs that are killed, and the same answers from both engines."""

from __future__ import annotations

import csv
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from dicom_builder import NAME, head, stored, write_series
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from standin import standin

from neurovision.ensemble.pipeline import Analyzer
from neurovision.errors import ArchiveAway, BatchError, PacsError
from neurovision.scan.phantom import phantom
from neurovision.scan.study import Study
from neurovision.serving.batch_sources import MEDIA_DIRECTORY, Listing, Unit, hashed, list_source
from neurovision.serving.pacs import SeriesEntry, SeriesFilter, Server, StudyEntry

pa = pytest.importorskip("pyarrow", reason="PyArrow is not installed (extra 'batch')")
pytest.importorskip("pyarrow.parquet")

from neurovision.serving.batch import KEY, RUNS, SKIPPED, Options, describe, finished, run, split  # noqa: E402
from neurovision.serving.batch_work import FINDINGS, MASKS, STARTS, VARYING, WORK, Job, Partition, Worker  # noqa: E402


def picture(path: Path, kind: str, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.rint(phantom(kind, seed, size=96)[0].gray() * 255).astype(np.uint8))
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, two DICOM series mixed in one folder, a CT, and files that are damaged or no scans."""
    root = tmp_path_factory.mktemp("archive")
    for k in range(4):
        picture(root / "pictures" / f"p{k}.png", "glioma" if k % 2 else "healthy", k)
    pixels = stored(head()[0])[3:6]
    for uid in ("a", "b"):
        for file in write_series(root / uid, pixels, head()[0].affine, uid):
            file.rename(root / "mixed" / f"{uid}{file.name}") if (root / "mixed").is_dir() else (
                (root / "mixed").mkdir() or file.rename(root / "mixed" / f"{uid}{file.name}")
            )
        (root / uid).rmdir()
    write_series(root / "ct", pixels[:1], head()[0].affine, "ct", Modality="CT")
    (root / "pictures" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"no picture")
    (root / "letter.txt").write_text("Dear colleague")
    return root


def rows(out: Path) -> list[dict[str, Any]]:
    """The whole table, as any reader of a partitioned dataset sees it."""
    import pyarrow.dataset

    return pyarrow.dataset.dataset(out / FINDINGS).to_table().sort_by("source").to_pylist()


def digests(out: Path) -> dict[str, str]:
    """Every finished file of the results."""
    found = [f for folder in (FINDINGS, MASKS) for f in (out / folder).rglob("[!.]*") if f.is_file()]
    return {f.relative_to(out).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in found}


def with_standin(**changes: Any) -> Options:
    return Options(**{"load": standin, "workers": 1, "partition": 2, **changes})


@pytest.fixture(scope="module")
def local(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the local engine with two processes."""
    out = tmp_path_factory.mktemp("local")
    totals = run(list_source(str(archive)), out, with_standin(workers=2), quiet=True)
    assert (totals.listed, totals.before, totals.scans, totals.skipped) == (7, 0, 7, 2)
    assert totals.counts == {"ok": 6, "rejected": 0, "unread": 1} and totals.slices == 10
    assert "7 scans (6 ok, 0 rejected, 1 unread), 10 slices" in describe(totals, out)
    return out


# --- sources ---------------------------------------------------------------------------------------------------------


def test_a_tree_is_sorted_into_units_and_what_is_passed_over(archive: Path):
    listing = list_source(str(archive))
    names = [u.source for u in listing.units]
    series = [u for u in listing.units if u.source.startswith("mixed#")]
    assert names == sorted(names) and len(series) == 2 and all(len(u.files) == 3 for u in series)
    assert [n for n in names if "#" not in n] == ["pictures/broken.png", *(f"pictures/p{k}.png" for k in range(4))]
    reasons = {s.source.split("/")[0]: s.reason for s in listing.skipped}
    assert reasons == {"ct": "modality CT, not MR", "letter.txt": "no picture, DICOM or NIfTI file"}
    for unit in series:
        uid = dcmread(unit.files[0]).SeriesInstanceUID
        assert {dcmread(f).SeriesInstanceUID for f in unit.files} == {uid} and uid not in unit.source


def test_a_manifest_names_files_and_folders(archive: Path, tmp_path: Path):
    table = archive / "list.csv"
    table.write_text("id,path\n1,pictures/p0.png\n2,mixed\n3,absent.png\n4,pictures/p0.png\n")
    try:
        listing = list_source(str(table))
    finally:
        table.unlink()
    names = [u.source for u in listing.units]
    assert [n for n in names if "#" not in n] == ["absent.png", "pictures/p0.png"] and len(names) == 4
    outside = tmp_path / "list.csv"
    outside.write_text(f"image\n{archive / 'pictures' / 'p1.png'}\n")
    (unit,) = list_source(str(outside)).units
    assert unit.source.endswith("pictures/p1.png") and not Path(unit.source).is_absolute()
    outside.write_text("file\nx.png\n")
    with pytest.raises(BatchError, match="no column 'path' or 'image'"):
        list_source(str(outside))


def test_a_dicomdir_is_followed_but_not_out_of_its_folder(archive: Path):
    records = []
    for parts in (["mixed", next((archive / "mixed").iterdir()).name], ["gone", "IM1"], ["..", "x"]):
        record = Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", parts
        records.append(record)
    index = Dataset()
    index.file_meta = FileMetaDataset()
    index.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    index.file_meta.MediaStorageSOPClassUID, index.file_meta.MediaStorageSOPInstanceUID = MEDIA_DIRECTORY, "1.2.3"
    index.FileSetID, index.DirectoryRecordSequence = "X", records
    path = archive / "DICOMDIR"
    index.save_as(path, enforce_file_format=True)
    try:
        listing = list_source(str(path))
        passed_over = {s.reason for s in list_source(str(archive)).skipped}
    finally:
        path.unlink()
    assert len(listing.units) == 1 and len(listing.units[0].files) == 1
    assert [s.reason for s in listing.skipped] == [
        "lists a file outside its own folder", "listed in the DICOMDIR, but not there",
    ]  # fmt: skip
    assert "a DICOMDIR, which only lists files" in passed_over


@pytest.mark.parametrize("source", ["nowhere", "letter.txt"])
def test_what_is_no_source_is_refused(archive: Path, source: str):
    with pytest.raises(BatchError, match="reads a folder, a CSV, a DICOMDIR or an archive"):
        list_source(str(archive / source))


def test_an_empty_source_is_refused(tmp_path: Path):
    with pytest.raises(BatchError, match="holds no scan"):
        list_source(str(tmp_path))


def test_partitions_are_cut_by_units_and_by_files():
    units = [Unit(f"{k:02d}", ("f",) * (600 if k == 2 else 1)) for k in range(6)]
    parts = split(units, 3, first=7)
    assert [p.number for p in parts] == [7, 8] and [len(p.units) for p in parts] == [3, 3]
    assert [len(p.units) for p in split([Unit("a", ("f",) * 900), Unit("b", ("f",) * 900)], 64)] == [1, 1]


# --- the table -------------------------------------------------------------------------------------------------------


def test_the_table_says_what_predict_says(local: Path, archive: Path):
    found = {r["source"]: r for r in rows(local)}
    analyzer = standin()
    from neurovision.scan.read import read

    for k in range(4):
        row, said = found[f"pictures/p{k}.png"], analyzer.analyze(read(archive / "pictures" / f"p{k}.png"))
        assert (row["verdict"], row["tumor_probability"]) == (said.verdict.state, round(said.verdict.probability, 4))
        assert row["tumor_area_px"] == int((said.mask > 1).sum()) and row["sha256"] == said.source.sha256
        assert row["laterality"] == (said.regions[0].side if said.regions else None)
        assert (row["weights"], row["device"], row["engine"]) == ("5" * 12, "CPU", "local")
        assert np.array_equal(cv2.imread(str(local / row["mask"]), cv2.IMREAD_UNCHANGED), said.mask)
        assert row["milliseconds"] >= row["read_ms"] > 0
    broken = found["pictures/broken.png"]
    assert broken["status"] == "unread" and broken["mask"] is None and "broken" not in broken["reason"]
    for row in found.values():
        if "#" in row["source"]:
            assert row["slices"] == 3 and row["spacing_row_mm"] > 0 and row["mask"].endswith(".mask.nii.gz")
            assert row["tumor_volume_ml"] is not None


def test_no_person_is_in_any_result(local: Path):
    text = b"".join(f.read_bytes() for f in local.rglob("*") if f.is_file()) + str(rows(local)).encode()
    for secret in (NAME, "PID-4711", "19700102", str(Path.home())):
        assert secret.encode() not in text


def test_what_was_passed_over_is_listed(local: Path):
    with (local / SKIPPED).open(newline="") as stream:
        listed = {r["source"].split("/")[-1]: r["status"] for r in csv.DictReader(stream)}
    assert listed.pop("broken.png") == "unread" and listed.pop("letter.txt") == "skipped"
    assert list(listed.values()) == ["skipped"]
    line = json.loads((local / RUNS).read_text())
    assert (line["scans"], line["workers"], line["engine"]) == (7, 2, "local") and line["peak_mb"] > 0


def test_a_rerun_does_only_what_is_new(archive: Path, tmp_path: Path):
    listing = list_source(str(archive / "pictures"))
    half = Listing(listing.units[:2], (), listing.root)
    assert run(half, tmp_path, with_standin(), quiet=True).scans == 2
    before = digests(tmp_path)
    totals = run(listing, tmp_path, with_standin(), quiet=True)
    assert (totals.before, totals.scans) == (2, 3)
    assert before.items() <= digests(tmp_path).items()
    assert run(listing, tmp_path, with_standin(), quiet=True).scans == 0
    assert [r["source"] for r in rows(tmp_path)] == [u.source for u in listing.units]


def test_names_can_be_digests(archive: Path, tmp_path: Path):
    listing = list_source(str(archive / "pictures"))
    run(Listing(listing.units[:2], (), listing.root), tmp_path, with_standin(anonymize=True), quiet=True)
    found = rows(tmp_path)
    assert all(len(r["source"]) == 16 and r["sha256"] is None for r in found)
    assert "p0" not in str(found) and not [p for p in tmp_path.rglob("*") if p.name.startswith(("p0", "broken"))]
    assert (tmp_path / KEY).stat().st_mode & 0o077 == 0
    again = hashed(listing, (tmp_path / KEY).read_bytes())
    assert {r["source"] for r in found} <= {u.source for u in again.units}
    totals = run(listing, tmp_path, with_standin(anonymize=True), quiet=True)
    assert (totals.before, totals.scans) == (2, 3)


# --- what goes wrong -------------------------------------------------------------------------------------------------


def worker(out: Path, load: Any = standin, **changes: Any) -> Worker:
    """A worker in this process, over a folder as a run prepares it."""
    for folder in (out / FINDINGS, out / MASKS, out / WORK / "begun"):
        folder.mkdir(parents=True, exist_ok=True)
    (out / WORK / "run").write_text("now")
    return Worker(Job(str(out), "local", "now", load, **changes))


def one(path: Path) -> Partition:
    return Partition(0, (Unit(path.name, (str(path),)),))


@pytest.mark.parametrize(
    ("error", "said"),
    [(MemoryError(), "more memory than this"), (ValueError("secret"), "failed on it (ValueError)"),
     (OSError(5, "secret"), "failed on it (OSError)"), (RecursionError("secret"), "failed on it (RecursionError)")],
)  # fmt: skip
@pytest.mark.parametrize("step", ["analyze", "group_scans", "read_files", "write_mask"])
def test_one_bad_scan_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException, said: str
):
    """Whatever fails on it, wherever: the next scan is analyzed."""
    made = worker(tmp_path / "out")
    paths = [picture(tmp_path / f"{n}.png", "glioma", 1) for n in "ab"]
    with monkeypatch.context() as patch:
        module = "neurovision.serving.batch_work." if step == "write_mask" else "neurovision.scan.read."
        target, name = (made.analyzer, step) if step == "analyze" else (None, module + step)
        real = getattr(made.analyzer, step) if target else getattr(importlib.import_module(module.rstrip(".")), step)
        calls = []

        def once(*args: Any) -> Any:
            calls.append(args)
            if len(calls) == 1:
                raise error
            return real(*args)

        patch.setattr(target, step, once) if target else patch.setattr(name, once)
        twice = (str(paths[0]),) * (2 if step == "group_scans" else 1)
        units = (Unit("a.png", twice), Unit("b.png", (str(paths[1]),)))
        done = made.run(Partition(0, units))
    assert dict(done.counts) == {"ok": 1, "rejected": 0, "unread": 1} and calls
    first, second = rows(tmp_path / "out")
    assert said in first["reason"] and "secret" not in first["reason"]
    assert second["status"] == "ok" and not list((tmp_path / "out" / WORK / "begun").iterdir())


def test_a_header_that_pydicom_cannot_convert_ends_no_listing(archive: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(header: Dataset) -> str | None:
        raise TypeError("secret")

    monkeypatch.setattr("neurovision.serving.batch_sources._not_mr", broken)
    names = {u.source.split("/")[0] for u in list_source(str(archive)).units}
    assert names == {"ct", "mixed", "pictures"}  # file by file; the row in the table says why one cannot be read


@pytest.mark.slow
def test_a_scan_that_ends_its_worker_again_and_again_is_given_up(tmp_path: Path):
    """The process ends as a crashing decoder would end it; a fresh one is hired each time, and the others go on."""
    for k in range(3):
        picture(tmp_path / "in" / f"{k}.png", "healthy", k)
    totals = run(list_source(str(tmp_path / "in")), tmp_path / "out", with_standin(load=deadly), quiet=True)
    assert totals.counts == {"ok": 2, "rejected": 0, "unread": 1}
    reasons = {r["source"]: r["reason"] for r in rows(tmp_path / "out")}
    assert reasons == {"0.png": None, "1.png": f"the worker ended {STARTS} times while it was at work on it", "2.png": None}


def deadly() -> Analyzer:
    """Kills its own process over the file that is called 1."""
    analyzer = standin()
    plain = analyzer.analyze

    def analyze(study: Study, slice_index: int = 0) -> Any:
        if study.source.name == "1.png":
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(study, slice_index)

    analyzer.analyze = analyze  # type: ignore[method-assign]
    return analyzer


def test_a_full_disk_ends_the_run_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = picture(tmp_path / "a.png", "glioma", 1)
    made = worker(tmp_path / "out")

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("neurovision.serving.batch_work.write_mask", full)
    with pytest.raises(BatchError, match=r"cannot be written \(No space left on device\).*resumes this run"):
        made.run(one(path))
    assert digests(tmp_path / "out") == {} and not list((tmp_path / "out" / WORK).glob("part-*"))


def test_an_unwritable_folder_is_a_sentence(archive: Path, tmp_path: Path):
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(BatchError, match=r"^The folder of results cannot be written \(.*\)"):
        run(list_source(str(archive / "pictures")), tmp_path / "out", with_standin(), quiet=True)


def test_scans_that_go_away_end_the_run_instead_of_filling_the_table(tmp_path: Path):
    made = worker(tmp_path / "out", root=str(tmp_path / "unmounted"))
    with pytest.raises(BatchError, match="folder has gone away"):
        made.run(one(tmp_path / "unmounted" / "a.png"))


def test_a_run_that_was_overtaken_writes_nothing(tmp_path: Path):
    path = picture(tmp_path / "a.png", "glioma", 1)
    made = worker(tmp_path / "out")
    (tmp_path / "out" / WORK / "run").write_text("later")
    with pytest.raises(BatchError, match="Another run has taken"):
        made.run(one(path))
    assert digests(tmp_path / "out") == {}


def test_other_settings_and_a_second_run_are_refused(local: Path, archive: Path):
    listing = list_source(str(archive))
    with pytest.raises(BatchError, match="other weights or settings"):
        run(listing, local, with_standin(masks=False), quiet=True)
    from filelock import FileLock

    with FileLock(local / WORK / "lock"), pytest.raises(BatchError, match="Another run works on this folder"):
        run(listing, local, with_standin(), quiet=True)


def test_a_damaged_partition_is_named(tmp_path: Path):
    (tmp_path / FINDINGS).mkdir()
    (tmp_path / FINDINGS / "part-00003.parquet").write_bytes(b"half")
    with pytest.raises(BatchError, match=r"part-00003.parquet is damaged; delete it"):
        finished(tmp_path)


@pytest.mark.parametrize("changes", [{"engine": "dask"}, {"workers": 0}, {"address": "auto"}])
def test_options_are_checked(changes: dict[str, Any]):
    with pytest.raises(BatchError):
        Options(**changes)


# --- an archive over DICOMweb ----------------------------------------------------------------------------------------


class Shelf:
    """Answers as an archive does, from memory; one series is broken there."""

    away = False
    refusal = "The archive answered with HTTP 404; check the address and the UIDs."

    def __init__(self, server: Server) -> None:
        self.server = server

    def studies(self, since: object = None) -> list[StudyEntry]:
        return [StudyEntry("1.2", "20240203", 3, 21)]

    def series(self, study: str) -> list[SeriesEntry]:
        if self.away:
            raise ArchiveAway("The archive cannot be reached after 6 attempts; is it running?")
        return [SeriesEntry(study, f"1.2.{k}", k, "AX T1", n) for k, n in enumerate((10, 10, 3))]

    def fetch(self, study: str, series: str, folder: Path) -> list[Path]:
        if self.away:
            self.series(study)
        if series != "1.2.0":
            raise PacsError(self.refusal)
        return write_series(folder, stored(head()[0])[3:6], head()[0].affine, series)


def test_an_archive_is_listed_and_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("neurovision.serving.pacs.Pacs", Shelf)
    monkeypatch.setattr("neurovision.serving.batch_work.Pacs", Shelf)
    server = Server("https://pacs.example.org/dicom-web")
    listing = list_source(server.url, server, SeriesFilter())
    assert len(listing.units) == 2 and [s.reason for s in listing.skipped] == ["fewer than 8 images"]
    assert not any("1.2" in u.source for u in listing.units)
    made = worker(tmp_path, archive=(server.url, None, None, False))
    done = made.run(Partition(0, listing.units))
    assert dict(done.counts) == {"ok": 1, "rejected": 0, "unread": 1} and done.slices == 3
    assert [r["reason"] for r in rows(tmp_path) if r["status"] == "unread"] == [Shelf.refusal]
    assert not list((tmp_path / WORK).rglob("*.dcm"))
    monkeypatch.setattr(Shelf, "away", True)
    with pytest.raises(BatchError, match=r"cannot be reached.*resumes where this one stopped"):
        made.run(Partition(1, listing.units))


# --- killed half-way -------------------------------------------------------------------------------------------------

SLOW = """
import sys, time
from pathlib import Path
from test_batch import slow, with_standin
from neurovision.serving.batch import run
from neurovision.serving.batch_sources import list_source

if __name__ == "__main__":
    run(list_source(sys.argv[1]), Path(sys.argv[2]), with_standin(load=slow), quiet=True)
"""


def slow() -> Analyzer:
    """Takes a while over each scan, so that there is something to interrupt."""
    analyzer = standin()
    plain = analyzer.analyze

    def analyze(study: Study, slice_index: int = 0) -> Any:
        time.sleep(0.5)
        return plain(study, slice_index)

    analyzer.analyze = analyze  # type: ignore[method-assign]
    return analyzer


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture()
def started(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path, Path]]:
    """A run in a process of its own over ten pictures, two a partition, one partition done."""
    if not Path("/proc/self/task").is_dir():
        pytest.skip("needs /proc to find the processes to kill")
    for k in range(10):
        picture(tmp_path / "in" / f"{k}.png", "glioma", k)
    (tmp_path / "main.py").write_text(SLOW)
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    command = [sys.executable, str(tmp_path / "main.py"), str(tmp_path / "in"), str(tmp_path / "out")]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE)
    until(lambda: list((tmp_path / "out" / FINDINGS).glob("part-*")) or process.poll() is not None)
    assert process.poll() is None, process.stderr and process.stderr.read()
    yield process, tmp_path / "in", tmp_path / "out"
    process.kill()
    process.wait()


def until(condition: Any, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def workers_of(pid: int) -> list[int]:
    """Its worker processes, without multiprocessing's own helper."""
    return [c for c in children(pid) if "spawn_main" in Path(f"/proc/{c}/cmdline").read_text()]


@pytest.mark.slow
def test_a_killed_worker_is_replaced(started: tuple[subprocess.Popen[bytes], Path, Path]):
    process, _, out = started
    before = {k: v for k, v in digests(out).items() if k.startswith(FINDINGS)}  # masks come before their partition
    for pid in workers_of(process.pid):
        os.kill(pid, signal.SIGKILL)
    assert process.wait(240) == 0
    assert before.items() <= digests(out).items()
    assert [r["source"] for r in rows(out)] == [f"{k}.png" for k in range(10)]
    assert {r["status"] for r in rows(out)} == {"ok"}


@pytest.mark.slow
def test_a_killed_driver_is_gone_on_with(started: tuple[subprocess.Popen[bytes], Path, Path]):
    process, source, out = started
    workers = workers_of(process.pid)
    process.kill()
    process.wait()
    until(lambda: not any(alive(p) for p in workers))  # they end with it, and write nothing behind a later run's back
    before, (names, _) = digests(out), finished(out)
    assert 0 < len(names) < 10
    totals = run(list_source(str(source)), out, with_standin(), quiet=True)
    assert (totals.before, totals.scans) == (len(names), 10 - len(names))
    assert {k: v for k, v in before.items() if k.startswith(FINDINGS)}.items() <= digests(out).items()
    assert [r["source"] for r in rows(out)] == [f"{k}.png" for k in range(10)]
    masks = {m.relative_to(out).as_posix() for m in (out / MASKS).rglob("*.png")}
    assert masks == {r["mask"] for r in rows(out)}


# --- Ray -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Ray with room for two small workers."""
    pytest.importorskip("ray", reason="Ray is not installed (extra 'ray')")
    from neurovision.serving.ray_batch import start

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where its workers find the stand-in
        ray = start(cpus=2)
        yield ray
        ray.shutdown()


@pytest.mark.slow
def test_both_engines_say_the_same(cluster: Any, archive: Path, local: Path, tmp_path: Path):
    """Two actors, one of which is killed on the way."""
    options = with_standin(engine="ray", workers=2, cpus=0.5, load=partial(killed_once, str(tmp_path / "killed")))
    totals = run(list_source(str(archive)), tmp_path / "out", options, quiet=True)
    assert (totals.scans, totals.workers) == (7, 2) and (tmp_path / "killed").is_file()
    here, there = rows(local), rows(tmp_path / "out")
    for a, b in zip(here, there, strict=True):
        assert {k: v for k, v in a.items() if k not in VARYING} == {k: v for k, v in b.items() if k not in VARYING}
    assert {r["engine"] for r in there} == {"ray"}
    masks = [{k: v for k, v in digests(o).items() if k.startswith(MASKS)} for o in (local, tmp_path / "out")]
    assert masks[0] == masks[1] and len(masks[0]) == 6
    assert run(list_source(str(archive)), tmp_path / "out", options, quiet=True).scans == 0


def killed_once(mark: str) -> Analyzer:
    """Kills its process at the first scan of all."""
    analyzer = standin()
    plain = analyzer.analyze

    def analyze(study: Study, slice_index: int = 0) -> Any:
        if not Path(mark).is_file():
            Path(mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(study, slice_index)

    analyzer.analyze = analyze  # type: ignore[method-assign]
    return analyzer


@pytest.mark.slow
def test_ray_says_what_is_wrong(cluster: Any, archive: Path, tmp_path: Path):
    listing = list_source(str(archive / "pictures"))
    with pytest.raises(BatchError, match="has room for 2 such workers"):
        run(listing, tmp_path / "many", with_standin(engine="ray", workers=9), quiet=True)


def test_without_ray_a_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    from neurovision.serving.ray_batch import start

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BatchError, match=r"pip install 'neurovision\[ray\]'"):
        start()


def test_the_module_lists_without_keras_or_arrow():
    heavy = "('keras', 'pyarrow', 'ray', 'cv2')"
    code = f"import sys, neurovision.commands.batch; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
