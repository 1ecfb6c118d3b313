"""Ask for every link of the documents that leads to another site: ``python -m docs.links``, or ``make links``.

Links within the documents are followed by ``tests/test_docs.py``, which needs no network.
"""

from __future__ import annotations

import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECONDS = 30
# What a site answers to a program and not to a browser; the page is there.
CLOSED = (401, 403, 405, 429)


def pages() -> list[Path]:
    """Every Markdown document."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")])


def links(page: Path) -> list[str]:
    """Where a document's links and pictures lead, in its order; code is left out."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text))


def outside() -> dict[str, list[str]]:
    """Address to the documents that lead there."""
    found: dict[str, list[str]] = {}
    for page in pages():
        for link in links(page):
            if re.match(r"\w+:", link):
                found.setdefault(link, []).append(str(page.relative_to(ROOT)))
    return found


def fault(address: str) -> str:
    """Why an address leads nowhere; empty where it leads somewhere."""
    asked = urllib.request.Request(address, headers={"User-Agent": "Mozilla/5.0 (link check)"})
    try:
        with urllib.request.urlopen(asked, timeout=SECONDS):
            return ""
    except urllib.error.HTTPError as e:
        return "" if e.code in CLOSED else f"status {e.code}"
    except OSError as e:
        return f"no answer ({type(e).__name__})"


def main() -> None:
    """Ask for each address; the exit code is 1 where one leads nowhere."""
    faults = {address: words for address in outside() if (words := fault(address))}
    for address, words in faults.items():
        print(f"{address}: {words}; in {', '.join(outside()[address])}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
