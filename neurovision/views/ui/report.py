"""Report: the open scan as PDF, JSON and CSV."""

from __future__ import annotations

from typing import Any

import gradio as gr

from neurovision.views.report import MAX_NOTES, csv_rows, verdict_words, write_csv, write_json, write_pdf
from neurovision.views.ui import parts
from neurovision.views.ui.room import Case, Room, require, speaks

NO_SCAN = "Open a scan in Diagnose first; its report is made here."


def build(room: Room, case: gr.State, tab: gr.Tab) -> None:
    """Lay out the tab on the scan that is open in Diagnose."""
    about = gr.HTML(parts.empty(NO_SCAN))
    notes = gr.Textbox(
        label="Notes (optional), printed on the report as they are", lines=6, max_lines=12, max_length=MAX_NOTES,
        placeholder="Do not write a patient's name here unless the report may carry it.", elem_id="notes",
    )  # fmt: skip
    make = gr.Button("Make the report", variant="primary", elem_id="make-report", elem_classes="nv-action")
    files = gr.File(label="PDF, JSON and CSV", file_count="multiple", interactive=False, elem_id="report-files")
    gr.HTML(
        '<p class="nv-fine">One or two pages: scan, overlay, verdict, measurements, each network, versions, time and'
        " disclaimer. JSON and CSV hold the same facts.</p>"
    )

    @speaks
    def report(case: Case | None, notes: str) -> list[str]:
        """Write the open scan's report as PDF, JSON and CSV."""
        findings = require(case).findings
        pdf = room.new_file("neurovision-report.pdf")
        write_pdf(findings, pdf, notes)
        write_json(findings, pdf.with_suffix(".json"), notes)
        write_csv(csv_rows(findings), pdf.with_suffix(".csv"))
        return [str(pdf.with_suffix(suffix)) for suffix in (".pdf", ".json", ".csv")]

    @speaks
    def enter(case: Case | None) -> list[Any]:
        """Tell which scan the report will be of, and forget an older report."""
        if case is None:
            return [parts.empty(NO_SCAN), None]
        findings = case.findings
        named = [("scan", parts.escape(findings.source.name)), ("verdict", verdict_words(findings))]
        if findings.verdict is not None:
            named.append(("calibrated probability of a tumor", parts.percent(findings.verdict.probability)))
        return [parts.facts(named), None]

    make.click(report, [case, notes], files, api_name="report")
    tab.select(enter, case, [about, files], api_name="report_open", show_progress="hidden")
