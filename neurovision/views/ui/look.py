"""How the page looks: theme, style sheet and the few lines of script that Gradio does not offer."""

from __future__ import annotations

import gradio as gr

SYSTEM_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
MONO_FONTS = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]


def theme() -> gr.themes.Base:
    """Slate and teal, system fonts only: nothing is fetched."""
    return gr.themes.Base(
        primary_hue="teal", secondary_hue="slate", neutral_hue="slate", font=SYSTEM_FONTS, font_mono=MONO_FONTS,
        radius_size="md", spacing_size="md",
    ).set(
        body_background_fill="#f6f8fa",
        body_background_fill_dark="#0d1117",
        body_text_color_subdued="#526173",
        body_text_color_subdued_dark="#a3b1c2",
        block_label_text_color="#526173",
        block_label_text_color_dark="#a3b1c2",
        color_accent="#0f766e",
        link_text_color="#0f766e",
        link_text_color_dark="#34c3b2",
        slider_color="#0f766e",
        slider_color_dark="#34c3b2",
        checkbox_background_color_selected="#0f766e",
        checkbox_background_color_selected_dark="#14877d",
        checkbox_border_color_selected="#0f766e",
        checkbox_border_color_selected_dark="#14877d",
        block_border_width="1px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_hover="#115e59",
        button_primary_background_fill_dark="#0f766e",
        button_primary_background_fill_hover_dark="#14877d",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
    )  # fmt: skip


CSS = """
:root { --nv-tumor: #b45309; --nv-clear: #0f766e; --nv-void: #64748b; --nv-soft: #eef2f6; --nv-line: #d5dde6; }
.dark { --nv-tumor: #f0a33f; --nv-clear: #34c3b2; --nv-void: #94a3b8; --nv-soft: #1a212b; --nv-line: #2f3a48; }
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; padding: 0 16px !important; }
.gradio-container > .main { padding: 4px 0 20px !important; max-width: 100%; min-width: 0; }
.gradio-container .prose { max-width: none; }
.gradio-container .html-container { padding: 0 !important; }
.gradio-container button[role=tab].selected { color: #0f766e; font-weight: 600; }
.dark.gradio-container button[role=tab].selected, .dark button[role=tab].selected { color: #34c3b2; }
#scan .wrap { font-size: .92rem; line-height: 1.35; padding-top: 14px; min-height: 0; }
#scan .wrap svg { width: 20px; height: 20px; }

.nv-header { display: flex; flex-wrap: wrap; gap: 4px 24px; align-items: baseline; justify-content: space-between;
  padding: 18px 0 6px; }
.nv-header h1 { font-size: 1.45rem; line-height: 1.25; font-weight: 650; letter-spacing: -.01em; margin: 0;
  color: var(--body-text-color); }
.nv-header p { margin: 2px 0 0; color: var(--body-text-color-subdued); font-size: .92rem; }
.nv-disclaimer { border-left: 3px solid var(--nv-tumor); background: var(--nv-soft); padding: 8px 12px; margin: 2px 0 0;
  font-size: .86rem; line-height: 1.45; border-radius: 0 6px 6px 0; color: var(--body-text-color); }
.nv-status { min-height: 22px; font-size: .82rem; color: var(--body-text-color-subdued); display: flex; gap: 6px 14px;
  flex-wrap: wrap; align-items: center; font-variant-numeric: tabular-nums; }
.nv-status i { width: 8px; height: 8px; border-radius: 50%; background: var(--nv-clear); display: inline-block;
  margin-right: 6px; }
.nv-status.nv-wait i { background: var(--nv-void); } .nv-status.nv-bad i { background: var(--nv-tumor); }

.nv-card { border: 1px solid var(--nv-line); border-left: 5px solid var(--nv-void); border-radius: 8px;
  background: var(--block-background-fill); padding: 16px 18px; min-height: 120px; box-sizing: border-box; }
.nv-card.nv-tumor { border-left-color: var(--nv-tumor); } .nv-card.nv-clear { border-left-color: var(--nv-clear); }
#verdict .nv-card { min-height: 318px; }
.nv-card h2 { font-size: 1.5rem; line-height: 1.2; font-weight: 650; margin: 0; display: flex; gap: 10px;
  align-items: center; color: var(--body-text-color); }
.nv-card h2 svg { flex: none; width: 26px; height: 26px; }
.nv-tumor h2 svg { color: var(--nv-tumor); } .nv-clear h2 svg { color: var(--nv-clear); }
.nv-void h2 svg { color: var(--nv-void); }
.nv-card p { margin: 8px 0 0; line-height: 1.45; }
.nv-big { font-size: 1.05rem; } .nv-big b { font-size: 1.5rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.nv-fine { font-size: .84rem; color: var(--body-text-color-subdued); }
.nv-meter { position: relative; height: 10px; border-radius: 5px; background: var(--nv-soft); margin: 6px 0 2px;
  border: 1px solid var(--nv-line); }
.nv-meter i { position: absolute; inset: 0 auto 0 0; border-radius: 5px; background: var(--nv-void); }
.nv-tumor .nv-meter > i { background: var(--nv-tumor); } .nv-clear .nv-meter > i { background: var(--nv-clear); }
.nv-meter b { position: absolute; top: -4px; bottom: -4px; width: 2px; background: var(--body-text-color); }
.nv-types { list-style: none; padding: 0; margin: 10px 0 0; display: grid; gap: 5px; font-size: .92rem; }
.nv-types li { display: grid; grid-template-columns: 8.6em 1fr 3.4em; gap: 10px; align-items: center; margin: 0; }
.nv-types span:last-child { text-align: right; font-variant-numeric: tabular-nums; }
.nv-bar { height: 8px; border-radius: 4px; background: var(--nv-soft); overflow: hidden; }
.nv-bar i { display: block; height: 100%; }
.nv-warn { border-left: 3px solid var(--nv-tumor); padding: 6px 10px; margin: 10px 0 0; background: var(--nv-soft);
  border-radius: 0 6px 6px 0; font-size: .88rem; }

.nv-legend { display: flex; flex-wrap: wrap; gap: 4px 16px; font-size: .86rem; min-height: 22px; align-items: center; }
.nv-legend span { display: inline-flex; align-items: center; gap: 6px; }
.nv-legend i, .nv-dot { width: 12px; height: 12px; border-radius: 3px; display: inline-block; flex: none; }
.nv-ramp { width: 110px !important; }

.nv-scroll { overflow-x: auto; contain: inline-size; border: 1px solid var(--nv-line); border-radius: 8px;
  background: var(--block-background-fill); }
.nv-scroll:focus-visible { outline: 2px solid #0f766e; }
table.nv-table { border-collapse: collapse; width: 100%; font-size: .88rem; margin: 0;
  font-variant-numeric: tabular-nums; }
table.nv-table caption { text-align: left; font-weight: 600; padding: 10px 12px 6px; font-size: .95rem;
  color: var(--body-text-color); }
table.nv-table, table.nv-table tr, table.nv-table thead, table.nv-table tbody { border: 0 !important; }
table.nv-table th, table.nv-table td { padding: 6px 12px; text-align: left;
  border: 0 !important; border-top: 1px solid var(--nv-line) !important;
  white-space: nowrap; color: var(--body-text-color); background: transparent; }
table.nv-table th { font-weight: 600; font-size: .8rem; color: var(--body-text-color-subdued); }
table.nv-table td.nv-n, table.nv-table th.nv-n { text-align: right; }
table.nv-table tr.nv-vote td { font-weight: 600; }
table.nv-table .nv-wrap { display: block; white-space: normal; min-width: 18em; }
.nv-empty { color: var(--body-text-color-subdued); font-size: .92rem; border: 1px dashed var(--nv-line); border-radius: 8px;
  padding: 16px 18px; }
.nv-chart { width: 100%; height: auto; display: block; }
.nv-chart text { fill: var(--body-text-color-subdued); font-size: 11px; }
.nv-facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 10px; }
.nv-facts div { border: 1px solid var(--nv-line); border-radius: 8px; padding: 10px 12px;
  background: var(--block-background-fill); }
.nv-facts b { display: block; font-size: 1.2rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.nv-facts span { font-size: .82rem; color: var(--body-text-color-subdued); }

.nv-examples { display: grid !important; grid-template-columns: repeat(5, minmax(0, 1fr)); gap: 6px !important; }
.nv-examples button { flex-direction: column !important; padding: 6px 4px !important; min-width: 0 !important;
  font-size: .78rem !important; line-height: 1.2; font-weight: 500; gap: 4px !important; white-space: normal; }
.nv-examples button img { width: 100% !important; max-width: 72px !important; height: auto !important; aspect-ratio: 1;
  object-fit: cover; border-radius: 4px; margin: 0 !important; background: #000; }
.nv-view { background: #0b0f14 !important; }
.nv-view label[data-testid=block-label], .nv-view .empty { color: #cbd5e1 !important; }
.nv-gallery .grid-wrap { max-height: none !important; padding-top: 30px; }
.nv-gallery .caption-label { font-size: .78rem; max-width: 100%; }
.nv-action { max-width: 340px; }
.nv-files .file-preview td { padding-top: 6px !important; padding-bottom: 6px !important; }
.tabs, .tab-wrapper { min-width: 0; max-width: 100%; }
.tab-wrapper { contain: inline-size; }
.nv-evaluation { overflow-x: auto; contain: inline-size; }
button:focus-visible, input:focus-visible, [tabindex]:focus-visible { outline: 2px solid #0f766e !important;
  outline-offset: 2px; }
.nv-note { font-size: .88rem; color: var(--body-text-color-subdued); line-height: 1.5; }

@media (max-width: 640px) {
  .nv-examples button { font-size: .66rem !important; padding: 4px 1px !important; }
  .nv-header h1 { font-size: 1.2rem; }
  .nv-card { padding: 14px; } #verdict .nv-card { min-height: 290px; }
  .nv-types li { grid-template-columns: 7.6em 1fr 3em; }
  table.nv-table th, table.nv-table td { padding: 6px 8px; }
  .nv-gallery .grid-container { grid-template-columns: repeat(2, 1fr) !important; }
  .nv-facts { grid-template-columns: repeat(2, 1fr); }
  .nv-action { max-width: none; }
  .tab-container button[role=tab] { padding: 0 7px !important; font-size: .84rem; }
}
@media (prefers-reduced-motion: reduce) { * { transition: none !important; animation: none !important; } }
"""

HEAD = '<meta name="referrer" content="no-referrer"><meta name="robots" content="noindex">'
