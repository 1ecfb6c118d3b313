"""Blocks of docs/reliability.md: each is written by the command that measured it, between two marks of its own."""

from __future__ import annotations

import os
import platform
import re
from datetime import date
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"


def machine() -> str:
    """Date, processor, cores and what else kept them busy."""
    model = platform.machine()
    if (info := Path("/proc/cpuinfo")).is_file():
        found = re.search(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE)
        model = found.group(1).strip() if found else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{date.today():%Y-%m-%d}, {model}, {cores} core(s) used, load {os.getloadavg()[0]:.1f} at the end"


def record(block: str, lines: list[str], page: Path = PAGE) -> None:
    """Replace what stands between a block's marks.

    Raises:
        ValueError: The page has no such marks.
    """
    begin, end = f"<!-- {block}: begin -->", f"<!-- {block}: end -->"
    text = page.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{page.name} has no marks for {block}")
    before, after = text.split(begin)[0], text.split(end)[1]
    page.write_text("\n".join([before + begin, "", *lines, "", end]) + after, encoding="utf-8")


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table."""
    return [" | ".join(["", *r, ""]).strip() for r in [head, ["---"] * len(head), *rows]]
