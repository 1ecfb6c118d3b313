"""Pieces of HTML that the tabs share. Every text that may come from a file is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from neurovision.classes import FIRST_TUMOR, Classes, PixelClass
from neurovision.ensemble.manifest import Network
from neurovision.ensemble.results import Findings
from neurovision.segmenters import title_of


def percent(value: float) -> str:
    """A probability for readers: never "0 %" or "100 %", which no model may claim."""
    if value < 0.01:
        return "&lt;&nbsp;1&nbsp;%"
    return "&gt;&nbsp;99&nbsp;%" if value > 0.99 else f"{100 * value:.0f}&nbsp;%"


def hex_color(kind: PixelClass) -> str:
    """The class's color for CSS."""
    return "#{:02x}{:02x}{:02x}".format(*(kind.color or (128, 128, 128)))


def card(title: str, body: str) -> str:
    """A card with a heading and ready HTML."""
    return f'<section class="nv-card"><h2>{escape(title)}</h2>{body}</section>'


def type_bars(probabilities: Mapping[str, float], classes: Classes) -> str:
    """Probability of each type given a tumor, by its key, as labeled bars."""
    shares = [(kind, probabilities.get(kind.key, 0.0)) for kind in classes.tumors]
    rows = "".join(
        f"<li><span>{escape(kind.title)}</span><span class='nv-bar'>"
        f"<i style='width:{100 * p:.1f}%;background:{hex_color(kind)}'></i></span><span>{percent(p)}</span></li>"
        for kind, p in shares
    )
    return f'<ul class="nv-types" aria-label="Probability of each type">{rows}</ul>'


def legend(classes: Classes) -> str:
    """The tumor classes and their colors."""
    return swatches([(hex_color(kind), kind.title) for kind in classes.tumors])


def swatches(entries: Sequence[tuple[str, str]]) -> str:
    """A legend from pairs of CSS background and words."""
    return '<div class="nv-legend" role="list" aria-label="Legend">' + "".join(
        f'<span role="listitem"><i style="background:{color}"></i>{escape(words)}</span>' for color, words in entries
    ) + "</div>"  # fmt: skip


def ramp(stops: Sequence[str], low: str, high: str) -> str:
    """A legend of a continuous map."""
    return (
        f'<div class="nv-legend"><span>{escape(low)} <i class="nv-ramp" style="background:linear-gradient(90deg,'
        f'{",".join(stops)})"></i> {escape(high)}</span></div>'
    )


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], strong: int | None = None) -> str:
    """A table in a box that scrolls sideways on a small screen.

    Args:
        caption: Its heading.
        columns: Headings; one that starts with ``#`` stands over numbers and is aligned to the right.
        rows: Cells as ready HTML; escape what comes from files.
        strong: Index of a row to stress.
    """
    numeric = [c.startswith("#") for c in columns]
    head = "".join(
        f'<th scope="col"{" class=nv-n" if n else ""}>{escape(c[n:])}</th>' for c, n in zip(columns, numeric, strict=True)
    )
    body = "".join(
        f"<tr{' class=nv-vote' if i == strong else ''}>"
        + "".join(f"<td{' class=nv-n' if n else ''}>{cell}</td>" for cell, n in zip(row, numeric, strict=True))
        + "</tr>"
        for i, row in enumerate(rows)
    )
    return (
        f'<div class="nv-scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table class="nv-table">'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def empty(words: str) -> str:
    """What stands where nothing is to be shown yet."""
    return f'<div class="nv-empty">{escape(words)}</div>'


def facts(entries: Sequence[tuple[str, str]]) -> str:
    """Figures with their names, side by side."""
    cells = "".join(f"<div><b>{value}</b><span>{escape(name)}</span></div>" for name, value in entries)
    return f'<div class="nv-facts">{cells}</div>'


def type_cell(key: str | None, classes: Classes) -> str:
    """A tumor type with its color, or a dash."""
    if key is None:
        return "none"
    kind = classes.by_key[key]
    return f'<i class="nv-dot" style="background:{hex_color(kind)}"></i> {escape(kind.title)}'


def members_table(findings: Findings) -> str:
    """What each network alone says, and the vote."""
    if not findings.members:
        return ""
    vote = findings.regions[0].type if findings.regions else None
    area = int((findings.mask >= FIRST_TUMOR).sum())
    rows = [["Vote", type_cell(vote, findings.classes), str(area)]]
    rows += [[escape(m.title), type_cell(m.tumor_type, findings.classes), str(m.area_px)] for m in findings.members]
    differ = percent(findings.disagreement)
    note = f'<p class="nv-fine">Disagreement of the networks: {differ} (1 minus their mean Dice).</p>'
    return table("Each network alone", ["Network", "Type", "#Area (px)"], rows, strong=0) + note


def title(entry: Network) -> str:
    """A network's title for readers, with the encoder that it really has."""
    return title_of(entry.name, entry.config)


def line_chart(
    series: Sequence[tuple[str, str, Sequence[float]]], x_label: str, y_label: str, marker: int | None = None, first: int = 0
) -> str:
    """Lines as an inline SVG that follows the page's theme.

    Args:
        series: Name, CSS color and values of each line; all start at x = 0 and end at the right edge.
        x_label: Words under the axis.
        y_label: Words beside it.
        marker: Index at which to draw a vertical line.
        first: What the first value is called on the axis.
    """
    width, height, left, right, top, bottom = 640, 220, 52, 12, 12, 34
    high = max((max(v) for _, _, v in series if len(v)), default=0) or 1
    count = max((len(v) for _, _, v in series), default=1)

    def x(i: float) -> float:
        return left + (width - left - right) * i / max(count - 1, 1)

    def y(v: float) -> float:
        return height - bottom - (height - top - bottom) * v / high

    grid = "".join(
        f'<line x1="{left}" x2="{width - right}" y1="{y(v):.1f}" y2="{y(v):.1f}" stroke="var(--nv-line)"/>'
        f'<text x="{left - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.{0 if high >= 10 else 2}f}</text>'
        for v in (high * k / 4 for k in range(5))
    )
    lines = "".join(
        f'<polyline fill="none" stroke="{color}" stroke-width="2" points="'
        + " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(values))
        + '"/>'
        for _, color, values in series
    )
    mark = (
        ""
        if marker is None
        else f'<line x1="{x(marker):.1f}" x2="{x(marker):.1f}" y1="{top}" y2="{height - bottom}"'
        ' stroke="currentColor" stroke-dasharray="3 3"/>'
    )
    words = escape(f"{y_label} by {x_label}")
    return (
        f'<svg class="nv-chart" viewBox="0 0 {width} {height}" role="img" aria-label="{words}">{grid}{lines}{mark}'
        f'<text x="{(left + width) / 2}" y="{height - 8}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text x="{left}" y="{height - 8}" text-anchor="middle">{first}</text>'
        f'<text x="{width - right}" y="{height - 8}" text-anchor="end">{first + count - 1}</text></svg>'
        + swatches([(color, f"{name} ({y_label})" if len(series) == 1 else name) for name, color, _ in series])
    )
