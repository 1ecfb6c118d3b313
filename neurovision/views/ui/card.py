"""The verdict's card and the lesion table: what is known of the open scan, and what is not."""

from __future__ import annotations

from html import escape, unescape
from typing import Any

import gradio as gr

from neurovision.ensemble.manifest import Manifest
from neurovision.ensemble.results import Verdict
from neurovision.evaluation.held_out import HeldOut
from neurovision.views.dicom_out import obstacle
from neurovision.views.report import ONLY_TYPE, region_sizes, sequence_words, size_words, verdict_words
from neurovision.views.ui import parts
from neurovision.views.ui.case import Case

_ICONS = {
    "tumor": '<circle cx="12" cy="12" r="9"/><circle cx="12" cy="12" r="3.5" fill="currentColor"/>',
    "borderline": '<circle cx="12" cy="12" r="9"/><path d="M12 7v6"/><circle cx="12" cy="16.5" r=".8" fill="currentColor"/>',
    "none": '<circle cx="12" cy="12" r="9"/><path d="M8 12.5l2.8 2.8L16 9.6"/>',
    "void": '<circle cx="12" cy="12" r="9"/><path d="M6 18L18 6"/>',
}
_SCRIPT = """
const host = element.closest('#verdict') || element;
const card = element.querySelector('.nv-card'), said = element.querySelector('.nv-said');
const show = () => {
  const given = props.value || {};
  host.dataset.state = given.state;
  card.className = `nv-card nv-${given.state}`;
  card.innerHTML = given.html;
  said.textContent = given.said;
};
watch('value', show);
show();
"""


def component() -> gr.HTML:
    """The card; its element stays, and a live region in it announces each verdict in one sentence."""
    return gr.HTML(
        value=empty(), html_template='<section class="nv-card" aria-label="Verdict"></section>'
        '<p class="nv-said" role="status" aria-live="polite"></p>',
        js_on_load=_SCRIPT, elem_id="verdict", apply_default_css=False,
    )  # fmt: skip


def _told(state: str, title: str, body: str, said: str | None = None) -> dict[str, str]:
    icon = _ICONS.get(state, _ICONS["void"])
    svg = f'<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2" aria-hidden="true">{icon}</svg>'
    return {"state": state, "html": f"<h2>{svg}{escape(title)}</h2>{body}", "said": title if said is None else said}


def empty() -> dict[str, str]:
    """Before a scan is open."""
    return _told("empty", "No scan yet", "<p>The verdict of everything in the scan will stand here.</p>", "")


def loading(words: str) -> dict[str, str]:
    """While a scan is read and analyzed."""
    return _told("loading", "Working", f"<p>{escape(words)}</p>", words)


def refused(reason: str, title: str = "This file cannot be read") -> dict[str, str]:
    """Files of which none could be read or analyzed, and why."""
    return _told("rejected", title, f"<p>{escape(reason)}</p>", f"{title}. {reason}")


def verdict(case: Case, measured: HeldOut | None, manifest: Manifest | None = None) -> dict[str, str]:
    """What is said of the open scan.

    Args:
        case: The scan.
        measured: The rates on held-out scans like it, or None where no evaluation of these weights is here.
        manifest: Of the weights, for the rate of borderline verdicts and the level of intervals.
    """
    found, state, title = case.volume, case.state, verdict_words(case.volume)
    said = found.verdict
    if said is None:
        return _told("rejected", title, f"<p>{escape(found.reason or '')}</p>{_warnings(case)}")
    chance, threshold = parts.percent(said.probability), parts.percent(said.threshold)
    body = (
        f'<p class="nv-big"><b>{chance}</b> calibrated probability of a tumor</p>'
        f'<div class="nv-meter" role="img" aria-label="Probability {chance}, threshold {threshold}">'
        f'<i style="width:{100 * said.probability:.1f}%"></i><b style="left:{100 * said.threshold:.1f}%"></b></div>'
        f'<p class="nv-fine">The mark is the threshold, {threshold}. {_rates(measured)}</p>'
    )
    if state == "none":
        scope = "in the picture" if case.study.n_slices == 1 else f"in any of {case.study.n_slices} slices"
        body += f"<p>Nothing {scope} passes the threshold. A negative answer does not exclude a tumor.</p>"
    if state == "borderline":
        body += f"<p>The probability is near the threshold: a person has to decide. {_borderline(manifest)}</p>"
    if state in ("tumor", "borderline"):
        body += _marked(case, said, manifest)
    kind = said.likeliest_type
    if kind is not None and state != "none":
        right = measured.type_right if measured else None
        rate = f" (right in {parts.percent(right)} of held-out {measured.tumors})" if measured and right is not None else ""
        bars, title_of = parts.type_bars(said.types, found.classes), f"<b>{escape(found.classes.title(kind))}</b>"
        several = len(said.types) > 1
        body += f"<p>Likeliest type: {title_of}{rate}</p>{bars}" if several else f"<p>{title_of}, {ONLY_TYPE}.</p>"
    if sequence := sequence_words(found):
        body += f'<p class="nv-fine">Sequence: {escape(sequence)}.</p>'
    words = f", likeliest {found.classes.title(kind)}" if kind and state != "none" else ""
    return _told(state, title, body + _warnings(case), f"{title}, probability {unescape(chance)}{words}")


def _borderline(manifest: Manifest | None) -> str:
    rule = None if manifest is None else manifest.borderline
    if rule is None:
        return ""
    share, wrong, others = (parts.percent(v) for v in (rule.rate, rule.errors_inside, rule.errors_outside))
    return f"It is so for {share} of scans, of which the verdict gets {wrong} wrong; of the others {others}."


def _marked(case: Case, said: Verdict, manifest: Manifest | None) -> str:
    size = size_words(case.volume)
    if not size:
        return ""
    words = f"<p>Marked: <b>{escape(size)}</b>{_place(case)}"
    if said.interval is not None:
        unit = {"px": "px", "mm2": "mm²", "ml": "ml"}[said.interval.unit]
        digits = 1 if said.interval.unit == "ml" else 0
        level = manifest.intervals.level if manifest is not None and manifest.intervals is not None else None
        chance = f" with {100 * level:.0f}&nbsp;% chance" if level is not None else ""
        low, high = (f"{v:.{digits}f}" for v in (said.interval.low, said.interval.high))
        words += f"; the true size lies between {low} and {high} {unit}{chance}"
    if said.expected_dice is not None:
        words += f". Expected overlap of the outline (Dice): {said.expected_dice:.2f}"
    return f"{words}.</p>"


def _rates(measured: HeldOut | None) -> str:
    if measured is None:
        return "There is no held-out evaluation of these weights."
    rates = []
    if measured.sensitivity is not None:
        rates.append(f"found {parts.percent(measured.sensitivity)} of {measured.with_tumor} slices with a tumor")
    if measured.false_alarms is not None:
        rate = parts.percent(measured.false_alarms)
        rates.append(f"raised a false alarm on {rate} of {measured.without_tumor} without one")
    return f"On held-out {measured.scans} the verdict {' and '.join(rates)}."


def _place(case: Case) -> str:
    largest = case.volume.largest_slice
    return f", largest in slice {largest + 1}" if largest is not None and case.study.n_slices > 1 else ""


def _warnings(case: Case) -> str:
    warnings = dict.fromkeys([*case.volume.warnings, *(case.findings.warnings if case.study.n_slices == 1 else ())])
    return "".join(f'<p class="nv-warn">{escape(w)}</p>' for w in warnings)


def alternative(case: Case) -> str:
    """The finding in words, for who does not see the picture."""
    found = case.volume
    several = case.study.n_slices > 1
    words = case.study.source.name + (f", {case.study.n_slices} slices. " if several else ". ")
    drawn = case.state in ("tumor", "borderline")
    size = size_words(found) if drawn else ""
    likeliest = found.verdict.likeliest_type if found.verdict is not None and drawn else None
    kind = f" {found.classes.title(likeliest)}" if likeliest else ""
    return f"{words}{verdict_words(found)}.{kind}{f', {size}{_place(case)}' if size else ''}."


def lesions(case: Case) -> str:
    """Every lesion with its measures; a row's button takes the viewer there."""
    found = case.volume
    if case.state in ("none", "rejected"):
        return parts.empty("No lesion is listed" + (": no finding passes the threshold." if case.state == "none" else "."))
    single = case.study.n_slices == 1
    rows: list[list[str]] = []
    metric = found.spacing is not None
    unit = "mm" if metric else "px"
    if single:
        for i, r in enumerate(case.findings.regions, 1):
            area, longest, across = region_sizes(r)
            at = [round(r.centroid[1]), round(r.centroid[0]), 0]
            kind = parts.type_cell(r.type, found.classes)
            rows.append([_go(i, at), kind, f"{area:.0f}", f"{longest:.1f}", f"{across:.1f}", r.side])
        head = ["##", "Type", f"#Area ({unit}{'²' if metric else ''})", f"#Longest ({unit})", f"#Across ({unit})", "Side"]
    else:
        volumes = found.lesions and found.lesions[0].volume_ml is not None
        for i, x in enumerate(found.lesions, 1):
            at = [round(x.centroid[2]), round(x.centroid[1]), x.largest_slice]
            size = f"{x.volume_ml:.2f}" if x.volume_ml is not None else f"{x.voxels}"
            far = x.longest_diameter_mm if x.longest_diameter_mm is not None else x.longest_diameter_px
            wide = x.perpendicular_diameter_mm if x.perpendicular_diameter_mm is not None else x.perpendicular_diameter_px
            through = f"{x.first_slice + 1} to {x.last_slice + 1}"
            kind = parts.type_cell(x.type, found.classes)
            rows.append([_go(i, at), kind, size, f"{far:.1f}", f"{wide:.1f}", x.side, through])
        head = ["##", "Type", "#Volume (ml)" if volumes else "#Voxels", f"#Longest ({unit})", f"#Across ({unit})", "Side",
                "Slices"]  # fmt: skip
    if not rows:
        return parts.empty("The verdict is tumor, but no marked region is large enough to measure.")
    note = "" if metric else '<p class="nv-fine">This file gives no pixel spacing, so sizes are in pixels.</p>'
    return parts.table("Lesions, largest first", head, rows) + note


def _go(number: int, voxel: list[int]) -> str:
    return f'<button type="button" class="nv-go" data-voxel="{voxel}" aria-label="Show lesion {number}">{number}</button>'


def facts(case: Case) -> str:
    """How it was computed, in one line; and why no Segmentation and report can be made of a DICOM scan."""
    total = case.volume.timing_ms.get("total", sum(case.volume.timing_ms.values()))
    count = f"{case.study.n_slices} slices" if case.study.n_slices > 1 else "1 slice"
    words = f'<p class="nv-fine">{total / 1000:.1f} s for {count}; weights {case.volume.weights}.</p>'
    reason = obstacle(case.study) if case.study.headers is not None and case.volume.status == "ok" else None
    return words if reason is None else f'{words}<p class="nv-warn">No DICOM SEG, SR. {escape(reason)}</p>'


def nothing() -> list[Any]:
    """Lesion table and facts without a scan."""
    return [parts.empty("Lesions, their size and side will be listed here."), ""]
