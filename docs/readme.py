"""Write the README's generated blocks from their one truth: ``python docs/readme.py``.

The networks' table comes from the registry and the manifest, the scores from ``docs/evaluation/evaluation.json``.
A test fails where the README has fallen behind.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from neurovision.ensemble.weights import load_manifest
from neurovision.evaluation.report import figure, percent, table
from neurovision.segmenters import cards, title_of

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
EVALUATION = ROOT / "docs" / "evaluation" / "evaluation.json"


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


def scores() -> str:
    """The headline figures of the last evaluation."""
    result = json.loads(EVALUATION.read_text())
    about, masks = result["about"], result["masks"]
    rows = []
    for name in next(iter(masks.values())):
        cells = [figure(masks[s][name]["dice"]) for s in ("figshare", "lgg")]
        rows.append((f"**{name}**" if name == "vote" else name, *cells, figure(masks["lgg"][name]["patient_dice"])))
    parts = [
        f"On fold {about['fold']}, patients that no network, vote or verdict was fitted on, each file in its own pixels; "
        f"{result['scans']['figshare']['with_tumor']} figshare and {result['scans']['lgg']['with_tumor']} LGG tumor slices "
        "(FLAIR alone). Mean Dice of tumor against the rest with 95 % intervals, written by `neurovision evaluate` into "
        "[docs/evaluation](docs/evaluation/evaluation.md), where every other figure stands too:\n",
        table(("", "figshare, slices", "LGG, slices", "LGG, per patient"), rows),
        table(
            ("verdict", "scans", "AUC", "sensitivity", "specificity"),
            [
                (source, str(v["n"]), figure(v["auc"]), percent(v["sensitivity"]), percent(v["specificity"]))
                for source, v in result["verdict"].items()
            ],
        ),
        f"Tumor type, given that there is a tumor: right on {percent(result['type']['figshare']['accuracy'])} of figshare's "
        "slices.\n",
    ]
    return "\n".join(parts)


def render(text: str) -> str:
    """The README with its blocks made anew."""
    for key, made in (("scores", scores), ("networks", networks)):
        pattern = rf"(<!-- {key} -->\n).*?(<!-- /{key} -->)"
        text, count = re.subn(pattern, lambda m, made=made: m[1] + made() + m[2], text, flags=re.S)
        if count != 1:
            raise ValueError(f"README.md holds the block {key} {count} times instead of once.")
    return text


if __name__ == "__main__":
    README.write_text(render(README.read_text()))
