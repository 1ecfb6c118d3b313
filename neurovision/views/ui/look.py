"""How the page looks: theme, style sheet and the few lines of script that Gradio does not offer."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

HERE = Path(__file__).parent
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


CSS = (HERE / "page.css").read_text(encoding="utf-8")

HEAD = '<meta name="referrer" content="no-referrer"><meta name="robots" content="noindex">'
SCRIPT = (HERE / "page.js").read_text(encoding="utf-8")
