"""The list of what the documents name points at commands and modules that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from neurovision.cli import app

ROOT = Path(__file__).parents[1]
LINES = [x for x in (ROOT / "docs" / "coverage.md").read_text().splitlines() if x.startswith("- [")]
COMMANDS = sorted({name for line in LINES for name in re.findall(r"`neurovision ([a-z-]+)", line)})


def test_every_ticked_line_names_what_shows_it() -> None:
    ticked = [x for x in LINES if x.startswith("- [x]")]
    assert ticked and all(re.search(r" - `neurovision[ /]", x) for x in ticked)
    assert all(x.startswith(("- [x] ", "- [ ] ")) for x in LINES)
    assert not [x for x in LINES if x.startswith("- [ ]") and "`neurovision" in x]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_there(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0 and "Usage:" in result.output


def test_every_module_is_there() -> None:
    paths = {p for line in LINES for p in re.findall(r"`(neurovision/[a-z0-9_/]+\.py)`", line)}
    assert paths and all((ROOT / p).is_file() for p in paths)


def test_every_segmenter_and_classifier_is_listed() -> None:
    from neurovision import classifiers, segmenters

    text = "\n".join(LINES)
    for room, cards in (("segmenters", segmenters.cards()), ("classifiers", classifiers.cards())):
        assert not [c.name for c in cards if f"neurovision/{room}/{c.name}.py" not in text]
