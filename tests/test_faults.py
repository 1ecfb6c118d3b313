"""Kill -9, a full disk, read-only folders: what was complete stays as it was, and nothing half-written is ever read."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_training import folder as prepared  # noqa: F401 - a fixture

from neurovision.ensemble import cache
from neurovision.errors import OutputError
from neurovision.files import PART, replacing, write

ROOT = Path(__file__).parents[1]
kills = pytest.mark.skipif(os.name == "nt", reason="needs signals")


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own."""
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here (needs Linux and root)")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_file_is_replaced_whole(tmp_path: Path):
    path = tmp_path / "x.json"
    write(path, "old")
    path.chmod(0o640)
    write(path, "nëw")
    assert path.read_text(encoding="utf-8") == "nëw" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="half"), replacing(path) as part:
        part.write_text("ha")
        raise ValueError("half")
    assert path.read_text(encoding="utf-8") == "nëw" and list(tmp_path.iterdir()) == [path]
    with replacing(tmp_path / "y.weights.h5") as part:
        assert part.name.endswith(".weights.h5") and part.name.startswith(PART)
        part.write_bytes(b"y")


@kills
@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_kill_9_in_the_middle_of_a_write_leaves_the_old_file(tmp_path: Path, moment: str):
    path = tmp_path / "result.json"
    path.write_text("complete")
    die = "lambda *a, **k: os.kill(os.getpid(), 9)"
    where = {
        "write": f"import pathlib; pathlib.Path.write_bytes = lambda s, d: (open(s, 'wb').write(d[:5000]), ({die})())",
        "fsync": f"os.fsync = {die}", "replace": f"import pathlib; pathlib.Path.replace = {die}",
    }[moment]  # fmt: skip
    done = run(f"import os\nfrom pathlib import Path\nfrom neurovision.files import write\n{where}\n"
               f"write(Path({str(path)!r}), b'x' * 10000)")  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "complete"
    left = [p for p in tmp_path.iterdir() if p != path]
    assert all(p.name.startswith(PART) for p in left)
    from neurovision.scan.read import find_scans

    (tmp_path / f"{PART}1-a.png").write_bytes(b"half")
    assert find_scans([tmp_path]) == []  # what a killed process left is no scan
    write(path, "again")
    assert path.read_text() == "again"


def test_a_full_disk_is_one_sentence_and_keeps_the_old_file(small_disk: Path):
    path = small_disk / "result.json"
    write(path, b"o" * 1000)
    with pytest.raises(OutputError, match=r"result\.json cannot be written: the disk is full") as caught:
        write(path, b"n" * 2_000_000)
    assert "\n" not in str(caught.value) and str(small_disk) not in str(caught.value)
    assert path.read_bytes() == b"o" * 1000 and list(small_disk.iterdir()) == [path]
    write(path, b"n" * 2000)
    assert len(path.read_bytes()) == 2000


def test_a_full_disk_refuses_an_upload_in_a_sentence(small_disk: Path):
    import asyncio

    import neurovision.views.ui  # noqa: F401 - before Gradio: it switches the calls home off
    from neurovision.views.ui.guard import Guard, Limits

    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    guard = Guard(None, small_disk, Limits())  # type: ignore[arg-type]
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "client": ("127.0.0.1", 1)}
    scope["headers"] = [(b"host", b"localhost")]
    asyncio.run(guard(scope, None, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 507 and b"no room" in bytes(sent[1]["body"])  # type: ignore[call-overload]


def test_predict_on_a_full_disk_ends_with_a_sentence(small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    from standin import standin

    from neurovision import cli
    from neurovision.ensemble.pipeline import Analyzer
    from neurovision.views.examples import FOLDER

    (small_disk / "ballast").write_bytes(b"\0" * 1_030_000)
    monkeypatch.setattr(Analyzer, "load", classmethod(lambda cls, *a, **k: standin()))
    command = ["neurovision", "predict", str(FOLDER / "glioma.png"), "--out", str(small_disk / "out")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "the disk is full" in said and "Traceback" not in said
    for left in (small_disk / "out").iterdir():  # what fitted is whole
        assert not left.name.startswith(PART) and Image.open(left).load() is not None


@pytest.mark.parametrize("short", ["reading", "analyzing"])
def test_predict_without_the_memory_for_one_scan_says_so_and_goes_on(
    short: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    from standin import standin

    from neurovision import cli
    from neurovision.ensemble.pipeline import Analyzer
    from neurovision.scan import images
    from neurovision.views.examples import FOLDER

    def fails_once(plain: Callable[..., Any]) -> Callable[..., Any]:
        errors = iter([MemoryError()])

        def called(*given: Any, **named: Any) -> Any:
            for error in errors:
                raise error
            return plain(*given, **named)

        return called

    analyzer = standin()
    if short == "reading":  # inside what a reader takes for damage
        monkeypatch.setattr(images, "_to_array", fails_once(images._to_array))
    else:
        monkeypatch.setattr(analyzer, "analyze", fails_once(analyzer.analyze), raising=False)
    monkeypatch.setattr(Analyzer, "load", classmethod(lambda cls, *a, **k: analyzer))
    scans = [str(FOLDER / name) for name in ("glioma.png", "no-tumor.png")]
    monkeypatch.setattr(sys, "argv", ["neurovision", "predict", *scans, "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "glioma.png: it takes more memory than there is for it; send a smaller scan." in capsys.readouterr().err
    assert json.loads((tmp_path / "glioma.json").read_text())["status"] == "unread"
    assert json.loads((tmp_path / "no-tumor.json").read_text())["status"] == "ok"


# --- the cache of converted weights ----------------------------------------------------------------------------------


def made(folder: Path) -> None:
    (folder / "a").write_bytes(b"right")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    (tmp_path / "weights").mkdir()
    return tmp_path


def kept_file(places: Path) -> Path:
    return next((places / "weights" / "cache").glob("*/a"))


@pytest.mark.parametrize("spoil", ["cut", "changed", "digests cut", "gone"])
def test_a_spoiled_cache_is_made_anew(places: Path, spoil: str):
    assert cache.kept(places / "weights", ["f"], ["a"], made) == {"a": b"right"}
    path = kept_file(places)
    assert cache.kept(places / "weights", ["f"], ["a"], lambda folder: None) == {"a": b"right"}  # from the cache
    if spoil == "cut":
        path.write_bytes(b"rig")
    elif spoil == "changed":
        path.write_bytes(b"wrong")
    elif spoil == "digests cut":
        path.with_name(cache.DIGESTS).write_text('{"a": "')
    else:
        path.unlink()
    assert cache.kept(places / "weights", ["f"], ["a"], made) == {"a": b"right"}
    assert kept_file(places).read_bytes() == b"right"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs owners")
def test_a_cache_that_others_may_write_is_not_read(places: Path):
    cache.kept(places / "weights", ["f"], ["a"], made)
    folder = kept_file(places).parent
    (folder / "a").write_bytes(b"evil!")
    (folder / cache.DIGESTS).write_text(json.dumps({"a": hashlib.sha256(b"evil!").hexdigest()}))
    folder.chmod(0o777)
    assert cache.kept(places / "weights", ["f"], ["a"], made) == {"a": b"right"}


def test_read_only_weights_use_the_users_own_cache_or_none(places: Path, monkeypatch: pytest.MonkeyPatch):
    real = Path.mkdir

    def read_only(self: Path, *args: object, **kwargs: object) -> None:
        if any(str(self).startswith(str(p)) for p in forbidden):
            raise OSError(30, "Read-only file system")
        real(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", read_only)
    forbidden = [places / "weights"]
    assert cache.kept(places / "weights", ["f"], ["a"], made) == {"a": b"right"}
    assert list((places / "user").rglob("a")) and not (places / "weights" / "cache").exists()
    forbidden.append(places / "user")
    assert cache.kept(places / "weights", ["g"], ["a"], made) == {"a": b"right"}


def test_a_full_disk_beside_the_weights_is_no_trouble(small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    large = np.random.default_rng(0).bytes(2_000_000)
    found = cache.kept(small_disk, ["f"], ["a"], lambda folder: (folder / "a").write_bytes(large))
    assert found == {"a": large} and not list(small_disk.rglob("a")) and list((tmp_path / "user").rglob("a"))


# --- training --------------------------------------------------------------------------------------------------------

_KILLED = """
import hashlib, os
from pathlib import Path
from neurovision.training import fit, trainer
from neurovision.training.recipes import Phase, Recipe
fit.PHANTOMS = 8
save = trainer.save_weights
count = 0
def killed(model, path):
    global count
    count += path.name == "latest.weights.h5"
    if count == 2:
        with trainer.replacing(path) as part:
            part.write_bytes(b"half")
            print(hashlib.sha256(path.read_bytes()).hexdigest(), flush=True)
            os.kill(os.getpid(), 9)
    save(model, path)
trainer.save_weights = killed
recipe = Recipe("unet", {{"width": 2}}, (Phase(32, 3),), batch=4, epoch_scans=8)
fit.train(recipe, Path({data!r}), (1, 2), 3, Path({out!r}), verbose=0)
"""


@pytest.mark.slow
@kills
def test_training_goes_on_after_kill_9_in_the_middle_of_its_backup(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
):
    from neurovision.training import fit, trainer
    from neurovision.training.recipes import Phase, Recipe

    out = tmp_path / "runs" / "unet"
    done = run(_KILLED.format(data=str(prepared), out=str(out)))
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    backup = out / "phase0" / "backup" / "latest.weights.h5"
    assert hashlib.sha256(backup.read_bytes()).hexdigest() == done.stdout.split()[-1]  # the first epoch's, bit for bit
    assert not (out / "final.weights.h5").exists()
    monkeypatch.setattr(fit, "PHANTOMS", 8)
    epochs = []
    ends = trainer._Keeper.on_epoch_end

    def noted(self, epoch, logs=None):
        epochs.append(epoch)
        ends(self, epoch, logs)

    monkeypatch.setattr(trainer._Keeper, "on_epoch_end", noted)
    recipe = Recipe("unet", {"width": 2}, (Phase(32, 3),), batch=4, epoch_scans=8)
    final = fit.train(recipe, prepared, (1, 2), 3, out, verbose=0)
    assert final.is_file() and epochs == [1, 2]  # the epoch that was complete is not trained again
