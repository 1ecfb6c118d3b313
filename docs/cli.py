"""Write the commands' reference from their own ``--help``: ``python docs/cli.py``. A test fails where it is behind."""

from __future__ import annotations

from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from neurovision.cli import app

PATH = Path(__file__).with_name("cli.md")


def render() -> str:
    """The reference as Markdown, as ``--help`` says it."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="neurovision")
    text = get_docs_for_click(obj=command, ctx=context, name="neurovision", title="Commands")
    note = "Written from the commands' own `--help` by `python docs/cli.py`.\n"
    return text.replace("# Commands\n", f"# Commands\n\n{note}", 1).rstrip() + "\n"


if __name__ == "__main__":
    PATH.write_text(render(), encoding="utf-8")
