"""Models: what is loaded, how it scored, and where it ends."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from neurovision.classes import Classes
from neurovision.classifiers import card as classifier_card
from neurovision.ensemble.manifest import Manifest
from neurovision.evaluation.held_out import EVALUATION, held_out
from neurovision.segmenters import card, cards
from neurovision.views.ui import parts
from neurovision.views.ui.room import Room, speaks

LIMITS = (
    "Trained on adult heads of few hospitals: mostly post-contrast T1 and FLAIR, T1 and T2 of few patients. Other"
    " sequences, field strengths, scanners and children are unknown ground.",
    "Slices are read one by one; a network does not see the neighbors of a slice.",
    "The weights' license follows from the training data: read it in the model card before any use.",
)


def members_html(manifest: Manifest) -> str:
    """The networks as they are loaded."""
    rows = []
    for m in manifest.members:
        known = card(m.name)
        rows.append(
            [
                f"<b>{escape(parts.title(m))}</b>", escape(known.paper), f"{m.parameters:,}",
                escape(", ".join(f"{k} {v}" for k, v in m.config.items()) or "as published"), f"{manifest.size}",
                f"<code>{m.sha256[:12]}</code>",
            ]
        )  # fmt: skip
    if manifest.classifier is not None:
        reader = manifest.classifier
        rows.append(
            [
                f"<b>{escape(classifier_card(reader.name).title)}</b>", escape(classifier_card(reader.name).paper),
                f"{reader.parameters:,}", "whole slice: verdict, type, refusal; no vote", f"{manifest.size}",
                f"<code>{reader.sha256[:12]}</code>",
            ]
        )  # fmt: skip
    head = ["Network", "Paper", "#Parameters", "Built with", "#Input (px)", "sha256"]
    return parts.table("Loaded networks: the members of the vote, and the classifier", head, rows)


def facts_html(manifest: Manifest, device: str, seconds: float) -> str:
    """Where the weights come from, and how they run."""
    training = manifest.training
    fitted = manifest.verdict.fitted
    entries = [
        ("Weights (manifest's sha256)", f"<code>{manifest.digest[:12]}</code>"),
        ("Device", escape(device)),
        ("Loaded in", f"{seconds:.1f} s"),
        ("Trained on", escape(", ".join(training.sources))),
        ("Date", escape(training.date)),
        ("License of the weights", escape(training.license)),
    ]
    if fitted is not None:
        entries.append(("Tumors found where the threshold was set", f"{100 * fitted.sensitivity:.0f} %"))
        entries.append(("False alarms there", f"{100 * fitted.false_alarms:.0f} %"))
    return parts.facts(entries) + f'<p class="nv-fine">Split: {escape(training.split)}.</p>'


def cards_html() -> str:
    """Every architecture that can be trained, with what its card says."""
    rows = [
        [
            f"<b>{escape(c.title)}</b>", "yes" if c.votes else "no", escape(c.paper), str(c.size), escape(c.claim),
            f'<span class="nv-wrap">{escape(c.changes)}</span>',
        ]
        for c in cards()
    ]  # fmt: skip
    head = ["Architecture", "Votes", "Paper", "#Published input (px)", "Published claim, not ours", "What differs here"]
    return parts.table("Architectures", head, rows)


def limits_html(classes: Classes) -> str:
    """What the product cannot do."""
    known = ", ".join(t.title if n == 0 else t.title.lower() for n, t in enumerate(classes.tumors))
    first = f"{known} only: any other lesion, a bleeding, abscess or stroke for one, is taken for a tumor or missed."
    words = "".join(f"<li>{escape(w)}</li>" for w in (first, *LIMITS))
    return f'<div class="nv-empty"><b>Limits</b><ul>{words}</ul></div>'


def evaluation(folder: Path = EVALUATION) -> tuple[str, list[tuple[str, str]]]:
    """The evaluation as ``neurovision evaluate`` wrote it.

    Returns:
        Its text as Markdown without the pictures, and the pictures as pairs of path and caption.
    """
    path = folder / "evaluation.md"
    if not path.is_file():
        return "No evaluation is written yet; `neurovision evaluate` measures the loaded weights on held-out scans.", []
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"!\[([^\]]*)\]\(([\w.-]+\.png)\)", text)
    pictures = [(str(folder / file), caption) for caption, file in found if (folder / file).is_file()]
    for caption, file in found:
        text = text.replace(f"![{caption}]({file})\n\n{caption}\n", "")
    return text.replace("## Figures\n", "").strip(), pictures


def differs(manifest: Manifest, folder: Path = EVALUATION) -> str:
    """A warning where the written evaluation is of other weights than the loaded ones."""
    path = folder / "evaluation.json"
    if not path.is_file():
        return ""
    measured = str(json.loads(path.read_text(encoding="utf-8")).get("about", {}).get("weights", ""))
    if measured and not manifest.digest.startswith(measured[:12]):
        return f'<p class="nv-warn">These figures are of other weights, {escape(measured[:12])}.</p>'
    return ""


def summary_html(manifest: Manifest) -> str:
    """One screen: what votes, on what it was trained, how it does on held-out scans, where it ends."""
    names = ", ".join(parts.title(m) for m in manifest.members)
    measured = held_out(manifest.digest, None, (manifest.folder, EVALUATION))
    entries = [("networks, whose votes trees and a weighted mean join", str(len(manifest.members)))]
    if measured is not None:
        if measured.sensitivity is not None:
            words = f"of {measured.with_tumor} held-out slices with a tumor found"
            entries.append((words, parts.percent(measured.sensitivity)))
        if measured.false_alarms is not None:
            words = f"false alarms on {measured.without_tumor} held-out slices without one"
            entries.append((words, parts.percent(measured.false_alarms)))
        if measured.type_right is not None:
            entries.append(("of found tumors of the right type", parts.percent(measured.type_right)))
    about = "" if measured else '<p class="nv-fine">There is no held-out evaluation of these weights.</p>'
    return parts.facts(entries) + f'<p class="nv-note">{escape(names)}.</p>{about}'


def build(room: Room, tab: gr.Tab) -> None:
    """Lay out the tab: one screen of summary, the tables folded."""
    summary = gr.HTML(parts.empty("The models are loading."), elem_id="models-summary")
    limits = gr.HTML()
    with gr.Accordion("Loaded networks and weights", open=False):
        facts = gr.HTML()
        members = gr.HTML()
    with gr.Accordion("Measured on held-out scans", open=False):
        note = gr.HTML()
        words, pictures = evaluation()
        gr.Markdown(words, elem_classes="nv-evaluation")
        if pictures:
            gr.Gallery(
                pictures, label="Figures of the evaluation", columns=3, height="auto", object_fit="contain",
                interactive=False, elem_classes="nv-gallery",
            )  # fmt: skip
    with gr.Accordion("Every architecture that can be trained", open=False):
        gr.HTML(cards_html())

    @speaks
    def models() -> list[Any]:
        """Tell which networks and weights are loaded, as HTML tables."""
        analyzer = room.analyzer()
        manifest = analyzer.manifest
        return [
            summary_html(manifest), facts_html(manifest, analyzer.engine.device, room.seconds), members_html(manifest),
            differs(manifest), limits_html(manifest.classes),
        ]  # fmt: skip

    tab.select(models, None, [summary, facts, members, note, limits], api_name="models", show_progress="hidden")
