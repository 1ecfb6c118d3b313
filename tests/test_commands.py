"""The commands' table of contents, the options that they share and the rules that these keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from neurovision.cli import DAILY, LABORATORY, app
from neurovision.commands.options import FoldList, parse_folds


def leaves(command: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Every command that can be run, with the words that name it."""
    if not hasattr(command, "commands"):
        return [(path, command)]
    return [found for name, each in command.commands.items() for found in leaves(each, (*path, name))]


def test_help_lists_the_daily_commands_first_and_the_laboratory_under_its_own_heading() -> None:
    text = CliRunner().invoke(app, ["--help"], terminal_width=200).output
    daily, laboratory = text.split("Every day", 1)[1].split("Laboratory", 1)
    for listed, named in ((daily, DAILY), (laboratory, LABORATORY)):
        first = [line.split()[1] for line in listed.splitlines() if line.startswith("│") and line[2] != " "]
        assert first == list(named)


@pytest.mark.parametrize(
    "words", [["diffuse", "train"], ["train", "unet"], ["fit-classifier", "custom_cnn"], ["search"]], ids=" ".join
)
@pytest.mark.parametrize("folds", ["1,2;3", "1,,2", "one", "0", "1,1", ""])
def test_folds_that_cannot_be_read_are_refused(words: list[str], folds: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*words, "--folds", folds, "--data", str(tmp_path)], terminal_width=200)
    assert result.exit_code == 2 and "such as 1,2; received" in " ".join(result.output.split())


def test_folds_are_read() -> None:
    assert parse_folds("3, 1") == FoldList((3, 1)) and str(FoldList((3, 1))) == "3,1"
    assert parse_folds(FoldList((2,))) == FoldList((2,))


def test_every_command_that_reads_weights_finds_them_by_the_same_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def provide() -> Path:
        asked.append(1)
        return Path("pinned")

    monkeypatch.setattr("neurovision.serving.hub.provide", provide)
    takers = {path: c for path, c in leaves(typer.main.get_command(app)) if any(p.name == "weights" for p in c.params)}
    assert {("predict",), ("serve",), ("bench",), ("convert",), ("diffuse", "sample"), ("pacs", "watch")} <= takers.keys()
    for path, command in takers.items():
        option = next(p for p in command.params if p.name == "weights")
        context = typer.Context(command)
        assert option.process_value(context, None) == Path("pinned"), path
        assert option.process_value(context, "given") == Path("given"), path
    assert len(asked) == len(takers)


def test_shared_options_read_alike_wherever_they_stand() -> None:
    shared = ("data", "runs", "weights", "folds", "validation_fold", "seed", "without_lgg", "insecure")
    found: dict[str, set[Any]] = {}
    for _, command in leaves(typer.main.get_command(app)):
        for p in command.params:
            if p.name in shared and not p.required:
                found.setdefault(p.name, set()).add(p.help)
    assert {name for name, helps in found.items() if len(helps) > 1} <= {"runs"}  # 'reproduce' keeps canvases there


def test_the_generator_is_looked_for_where_every_command_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neurovision.aids.sampling import FILE, load
    from neurovision.errors import WeightsTampered

    monkeypatch.delenv("NEUROVISION_WEIGHTS", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "manifest.json").write_text("{}")
    (tmp_path / "weights" / FILE).write_text("of this folder")
    with pytest.raises(WeightsTampered):
        load()


def test_a_scan_is_one_line() -> None:
    from neurovision.commands.predict import line_of

    row: dict[str, Any] = {
        "scan": "a.png", "verdict": "tumor", "tumor_probability": 0.971, "threshold": 0.42, "tumor_type": "glioma",
        "p_glioma": 0.88, "tumor_area_px": 1234, "tumor_area_mm2": None, "tumor_volume_ml": None,
    }  # fmt: skip
    said = "a.png: tumor detected, probability of a tumor 0.97 (tumor from 0.42)"
    assert line_of(row) == f"{said}, glioma 0.88, 1234 px marked"
    assert line_of({**row, "tumor_area_mm2": 512.4}).endswith("glioma 0.88, 512 mm2 marked")
    assert line_of({**row, "tumor_volume_ml": 12.34, "tumor_area_mm2": None}).endswith("12.3 ml marked")
    none = {**row, "verdict": "no tumor", "tumor_probability": 0.03, "tumor_type": None, "tumor_area_px": 0}
    assert line_of(none) == "a.png: no tumor detected, probability of a tumor 0.03 (tumor from 0.42)"
    assert line_of({**row, "verdict": "borderline"}).startswith("a.png: borderline, probability")
    assert line_of({**row, "verdict": None}) == "a.png: no verdict"
    assert "tumor > 0.99 (tumor" in line_of({**row, "tumor_probability": 0.999})
    assert "tumor < 0.01 (tumor" in line_of({**none, "tumor_probability": 0.001})


def test_a_trial_takes_no_whole_evaluations_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    from neurovision.commands.measure import place_of
    from neurovision.errors import DataError

    monkeypatch.chdir(tmp_path)
    assert place_of(None, False) == Path("docs/evaluation") and place_of(None, True) == Path("runs/trial")
    (tmp_path / "whole").mkdir()
    about = {"trial": False, "command": "neurovision evaluate --fold 4"}
    (tmp_path / "whole" / "evaluation.json").write_text(json.dumps({"about": about}))
    assert place_of(tmp_path / "whole", False) == tmp_path / "whole"
    with pytest.raises(DataError, match="holds a whole evaluation"):
        place_of(tmp_path / "whole", True)
    (tmp_path / "whole" / "evaluation.json").write_text(json.dumps({"about": {**about, "trial": True}}))
    assert place_of(tmp_path / "whole", True) == tmp_path / "whole"


def test_a_shortened_recipe_says_so() -> None:
    from neurovision.training.recipes import recipe

    whole = recipe("unet")
    assert whole.shortened() == whole and not whole.trial
    short = whole.shortened(epochs=1, size=64, batch=2, limit=10)
    assert short.trial and short.batch == 2 and short.limit == 10
    assert {(p.epochs, p.size, p.batch) for p in short.phases} == {(1, 64, None)}
    assert [p.refit for p in short.phases] == [p.refit for p in whole.phases]
