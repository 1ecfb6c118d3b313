"""Write the documents' generated blocks and the model card from their one truth: ``python docs/readme.py``.

The scores come from ``docs/evaluation/evaluation.json``, the networks from the registry and the weights' manifest, the hours
of training from the manifest. A test fails where a document has fallen behind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neurovision.ensemble.manifest import Manifest
from neurovision.ensemble.weights import load_manifest
from neurovision.evaluation.card import write_card
from neurovision.evaluation.report import figure, percent, table
from neurovision.evaluation.scores import FOUND
from neurovision.evaluation.summary import POOLED, TITLES
from neurovision.segmenters import cards, title_of

ROOT = Path(__file__).parents[1]
EVALUATION = ROOT / "docs" / "evaluation" / "evaluation.json"
SIGNIFICANT = 0.05


def networks() -> str:
    """One row an architecture."""
    shipped = {m.name: m for m in load_manifest().members}
    rows = []
    for c in cards():
        made = "-"
        if c.name in shipped:
            m = shipped[c.name]
            variant = [f"{k} {v}" for k, v in m.config.items() if k != "encoder"]  # the title tells the encoder
            made = ", ".join([title_of(c.name, m.config), *variant, f"{m.parameters / 1e6:.2f} M parameters"])
        rows.append((f"`{c.name}`", c.title, c.paper, str(c.size), c.claim, "yes" if c.votes else "no", made))
    head = ("name", "published as", "paper", "input", "claimed by the documents", "votes", "ships as")
    return table(head, rows)


def scores(result: dict[str, Any] | None = None) -> str:
    """The one table of the README: the vote against its best member, and where it fails.

    Args:
        result: What ``evaluation.json`` holds, which is read where this is None.
    """
    result = json.loads(EVALUATION.read_text()) if result is None else result
    against, failures, free = result["vote_against_best"], result["failures"], result["tumor_free"]
    rows, shown, not_shown = [], [], []
    for source, scans in result["scans"].items():
        cells = ["-"] * 6
        if source in against:
            a = against[source]
            p = a["wilcoxon_p"]
            cells[:4] = [
                f"{a['best_dice']:.3f} ({a['best_member']})", f"{a['vote_dice']:.3f}", figure(a["difference"]), f"{p:.2g}",
            ]  # fmt: skip
            better = p < SIGNIFICANT and a["difference"]["low"] > 0
            (shown if better else not_shown).append(TITLES[source])
        if source in failures:
            cells[4] = percent(failures[source]["missed"])
        if source in free:
            cells[5] = f"{percent(free[source]['called_tumor'])} of {free[source]['n']}"
        rows.append((TITLES[source], str(scans["with_tumor"]), *cells))
    about = result["about"]
    opening = (
        f"Fold {about['fold']}: no network, tree or threshold was fitted on its patients; other versions of the weights "
        "were evaluated on it before. Masks are compared in each file's own pixels. Parentheses hold 95 % intervals, p is "
        "Wilcoxon's. The best member is picked on these very scans."
    )
    head = (
        "data set", "tumor slices", "best member, Dice", "vote, Dice", "difference", "p", f"missed (Dice < {FOUND})",
        "tumor-free called tumor",
    )  # fmt: skip
    rule = f"p < {SIGNIFICANT}, the interval above 0"
    words = [f"The vote is better than its best member ({rule}) on {_and(shown)}." if shown else ""]
    words += [f"It is **not shown to be better** on {_and(not_shown)}." if not_shown else ""]
    found = result["verdict"].get(POOLED)
    if found and found["auc"]["value"] is not None:
        words.append(f"The verdict's AUC over all {found['n']} scans, a mixture of sources, is {figure(found['auc'])}.")
    more = "by network, type, size of the tumor" + (", sequence" if result.get("by_sequence") else "")
    more += " and change of the picture" if result.get("robustness") else ""
    words.append(f"Every other figure, {more}: [docs/evaluation](docs/evaluation/evaluation.md).")
    return f"{opening}\n\n{table(head, rows)}\n{' '.join(w for w in words if w)}\n"


def _and(names: list[str]) -> str:
    """``a``, ``a and b``, or ``a; b and c``: the names hold commas of their own."""
    return " and ".join(["; ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def hours(manifest: Manifest | None = None) -> str:
    """What the shipped weights' training took, as far as the manifest has it."""
    manifest = load_manifest() if manifest is None else manifest
    parts = [(network.name, network.provenance) for network in manifest.networks]
    parts.append(("vote and verdict", manifest.vote.provenance))
    if manifest.generator is not None:
        parts.append(("generator of pictures", manifest.generator.provenance))
    rows, known = [], [p.seconds for _, p in parts if p is not None and p.seconds is not None]
    for name, p in parts:
        if p is not None:
            took = "-" if p.seconds is None else f"{p.seconds / 3600:.1f}"
            counts = ["-" if n is None else f"{n:,}" for n in (p.scans, p.scans_seen)]
            rows.append((name, *counts, took, p.hardware or "-", p.date or "-"))
    if not rows:
        return "The manifest of the present weights does not record what their training took.\n"
    head = ("fitted", "scans", "scans shown, every epoch counted", "hours", "processor", "date")
    missing = len(rows) - len(known)
    left_out = f", without the {missing} part{'s' * (missing > 1)} whose time was not recorded" if missing else ""
    return table(head, rows) + (f"\n{sum(known) / 3600:.1f} hours in all{left_out}.\n" if known else "")


BLOCKS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"scores": scores},
    "docs/networks.md": {"networks": networks},
    "docs/training.md": {"hours": hours},
}


def render(name: str, text: str) -> str:
    """A document with its blocks made anew.

    Args:
        name: A key of BLOCKS.
        text: The document.

    Raises:
        ValueError: A block's marks are not there exactly once.
    """
    for key, made in BLOCKS[name].items():
        pattern = rf"(<!-- {key} -->\n).*?(<!-- /{key} -->)"
        text, count = re.subn(pattern, lambda m, made=made: m[1] + made() + m[2], text, flags=re.S)
        if count != 1:
            raise ValueError(f"{name} holds the block {key} {count} times instead of once.")
    return text


if __name__ == "__main__":
    for name in BLOCKS:
        path = ROOT / name
        path.write_text(render(name, path.read_text()))
    write_card(None, EVALUATION, ROOT / "docs" / "MODEL_CARD.md")
