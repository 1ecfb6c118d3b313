"""The list of what the documents name points at commands, claims and modules that are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from neurovision.cli import app

ROOT = Path(__file__).parents[1]
LINES = [x for x in (ROOT / "docs" / "coverage.md").read_text().splitlines() if x.startswith("- [")]
COMMANDS = sorted({words for line in LINES for words in re.findall(r"`neurovision ([a-z][^`]*)`", line)})


def test_every_ticked_line_names_what_shows_it() -> None:
    ticked = [x for x in LINES if x.startswith("- [x]")]
    assert ticked and all(re.search(r" - `neurovision[ /]", x) for x in ticked)
    assert all(x.startswith(("- [x] ", "- [ ] ")) for x in LINES)
    assert not [x for x in LINES if x.startswith("- [ ]") and "`neurovision" in x]


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_is_there(words: str) -> None:
    """Its help is asked for; options that the line names are in it, and the claims that it names are known."""
    from neurovision.training.claims import claim

    command: Any = typer.main.get_command(app)
    path, rest = [], words.split()
    while rest and rest[0] in getattr(command, "commands", {}):
        path.append(rest.pop(0))
        command = command.commands[path[-1]]
    assert path, f"there is no command {words!r}"
    result = CliRunner().invoke(app, [*path, "--help"], terminal_width=200)
    assert result.exit_code == 0 and "Usage:" in result.output
    known = {o for p in command.params for o in p.opts}
    for word in rest:
        assert word in known if word.startswith("--") else path == ["reproduce"] and claim(word).name == word


def test_every_claim_of_a_document_is_listed() -> None:
    from neurovision.training.claims import CLAIMS

    listed = {w for words in COMMANDS for w in words.split()[1:]}
    assert not [c.name for c in CLAIMS if c.document != "A" and c.name not in listed]


def test_every_module_is_there() -> None:
    paths = {p for line in LINES for p in re.findall(r"`((?:neurovision|docs)/[a-z0-9_/]+\.(?:py|md))`", line)}
    assert paths and all((ROOT / p).is_file() for p in paths)


def test_every_segmenter_and_classifier_is_listed() -> None:
    from neurovision import classifiers, segmenters

    text = "\n".join(LINES)
    for room, cards in (("segmenters", segmenters.cards()), ("classifiers", classifiers.cards())):
        named = [c for c in cards if "stands in no document" not in c.claim]
        assert not [c.name for c in named if f"neurovision/{room}/{c.name}.py" not in text]
