"""The figures beside ``evaluation.json``: sums over many scans, never a scan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn import metrics

from neurovision.ensemble.results import Findings
from neurovision.evaluation.measure import VOTE, Row
from neurovision.evaluation.scores import auc
from neurovision.evaluation.summary import POOLED, data_title, decided
from neurovision.scan.paint import paint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe-Ito, as in classes.py: apart for readers with any common color blindness.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")


def _axes(columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, columns, figsize=(width * columns, height), layout="constrained", squeeze=False)
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes[0])


def _save(figure: Figure, path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)
    return path


def draw_all(rows: Sequence[Row], summary: dict[str, Any], members: Sequence[str], out: Path) -> list[Path]:
    """Draw every figure that the rows allow.

    Args:
        rows: What was measured.
        summary: Of :func:`~neurovision.evaluation.summary.summarize`.
        members: Names, in the vote's order.
        out: Folder.

    Returns:
        The files, in the order in which they are read.
    """
    drawn = []
    if summary["masks"]:
        drawn.append(dice_boxes(rows, summary, [*members, VOTE], out / "dice.png"))
    if summary["type"]:
        drawn.append(confusion(summary["type"], out / "type-confusion.png"))
    if any(v["auc"]["value"] is not None for v in summary["verdict"].values()):
        drawn.append(roc(rows, summary["verdict"], out / "verdict-roc.png"))
    drawn.append(reliability_curve(summary["verdict"][POOLED], out / "verdict-reliability.png"))
    if summary["uncertainty"]:
        drawn.append(uncertainty_deciles(summary["uncertainty"], out / "uncertainty.png"))
    return drawn


def dice_boxes(rows: Sequence[Row], summary: dict[str, Any], models: Sequence[str], path: Path) -> Path:
    """Dice on tumor slices, a panel a source, a box a model; the cross is the mean."""
    figure, axes = _axes(len(summary["masks"]), 4.6, 3.6)
    for axis, source in zip(axes, summary["masks"], strict=True):
        tumor = [r for r in rows if r.source == source and r.tumor and r.masks]
        values = [[r.masks[m].scores["dice"] for r in tumor] for m in models]
        boxes = axis.boxplot(
            values, patch_artist=True, showmeans=True, widths=0.6, flierprops={"marker": ".", "markersize": 2, "alpha": 0.3},
            meanprops={"marker": "x", "markeredgecolor": "black"}, medianprops={"color": "black"},
        )  # fmt: skip
        for box, model in zip(boxes["boxes"], models, strict=True):
            box.set(facecolor=PALETTE[1] if model == VOTE else "#c9d9e8")
        axis.set_xticklabels(models, rotation=35, ha="right")
        axis.set(title=f"{data_title(source)}: {len(tumor)} tumor slices", ylabel="Dice", ylim=(-0.02, 1.02))
    return _save(figure, path)


def confusion(tables: dict[str, Any], path: Path) -> Path:
    """Annotated type against the verdict's words, a panel a source; numbers are scans, shades shares of a row."""
    figure, axes = _axes(len(tables), 4.4, 3.4)
    for axis, (source, table) in zip(axes, tables.items(), strict=True):
        annotated = [k for k, row in enumerate(table["confusion"]) if sum(row)]
        counts = np.asarray(table["confusion"])[annotated]
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        labels = table["labels"]
        axis.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
        axis.set_yticks(range(len(counts)), [labels[k] for k in annotated])
        for (i, j), n in np.ndenumerate(counts):
            axis.text(j, i, str(n), ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black")
        axis.set(title=data_title(source), xlabel="said", ylabel="annotated")
    return _save(figure, path)


def roc(rows: Sequence[Row], tables: dict[str, Any], path: Path) -> Path:
    """The verdict's ROC of each source that has both kinds of scans, and of all; the dot is the shipped threshold."""
    figure, (axis,) = _axes(1, 4.6, 4.2)
    shown = [s for s, t in tables.items() if t["auc"]["value"] is not None]
    for color, source in zip(PALETTE, shown, strict=False):
        of = [r for r in rows if (r.source == source if source != POOLED else r.source != "lgg_t1c")]
        truth, probability, positive, _ = decided(of)
        false, true, _ = metrics.roc_curve(truth, probability)
        label = f"{data_title(source)}: AUC {auc(truth, probability):.3f}, n = {len(truth)}"
        axis.plot(false, true, label=label, color=color, lw=2 if source == POOLED else 1.3)
        axis.plot(positive[~truth].mean(), positive[truth].mean(), "o", color=color, ms=5)
    axis.plot([0, 1], [0, 1], color="#bbbbbb", lw=0.8)
    axis.set(xlabel="tumor-free scans called tumor", ylabel="tumor scans called tumor", xlim=(-0.01, 1), ylim=(0, 1.01))
    axis.legend(loc="lower right", fontsize=8)
    return _save(figure, path)


def reliability_curve(table: dict[str, Any], path: Path) -> Path:
    """What the verdict's probability promises against what came true; the bars are scans."""
    binned = table["reliability"]
    figure, (axis,) = _axes(1, 4.6, 4.2)
    edges, counts = np.asarray(binned["edges"]), np.asarray(binned["counts"])
    kept = [k for k, n in enumerate(counts) if n]
    axis.bar(edges[:-1], counts / max(counts.max(), 1) * 0.3, np.diff(edges), align="edge", color="#dddddd")
    axis.plot([0, 1], [0, 1], color="#bbbbbb", lw=0.8)
    predicted, observed = ([binned[side][k] for k in kept] for side in ("predicted", "observed"))
    axis.plot(predicted, observed, "o-", color=PALETTE[0])
    ece = table["ece"]["value"]
    axis.set(title=f"all sources, ECE {ece:.3f}, n = {table['n']}" if ece is not None else "all sources")
    axis.set(xlabel="probability of tumor", ylabel="share with a tumor", xlim=(0, 1), ylim=(0, 1.01))
    return _save(figure, path)


def uncertainty_deciles(table: dict[str, Any], path: Path) -> Path:
    """Share of wrong pixels in each tenth of rising uncertainty."""
    figure, (axis,) = _axes(1, 4.8, 3.4)
    axis.bar(range(1, 11), [100 * e for e in table["error_rate"]], color=PALETTE[0])
    axis.set_xticks(range(1, 11))
    axis.set(xlabel="tenth of the head's pixels, by rising uncertainty", ylabel="wrong pixels, %")
    return _save(figure, path)


def training_curves(runs: Path, members: Sequence[str], path: Path) -> Path | None:
    """Tumor Dice over the epochs of every member that has a ``history.csv``; None where none has."""
    import pandas as pd

    found = {m: pd.read_csv(runs / m / "history.csv") for m in members if (runs / m / "history.csv").is_file()}
    if not found:
        return None
    figure, (axis,) = _axes(1, 5.4, 3.6)
    for color, (member, history) in zip(PALETTE, found.items(), strict=False):
        epochs = range(1, len(history) + 1)
        axis.plot(epochs, history["tumor_dice"], color=color, lw=0.9, ls=":")
        axis.plot(epochs, history["val_tumor_dice"], color=color, label=member)
    axis.set(xlabel="epoch", ylabel="tumor Dice (dotted: training)", ylim=(0, 1))
    axis.legend(fontsize=8)
    return _save(figure, path)


def draw_case(findings: Findings, truth: np.ndarray, title: str, path: Path) -> Path:
    """One scan beside truth, mask and uncertainty: a patient's picture, never to be published.

    Args:
        findings: What was said of it.
        truth: uint8 ``(H, W)`` of class indices, the annotated tumor.
        title: Over the panels.
        path: File to write.
    """
    figure, axes = _axes(4, 2.6, 3.0)
    named = (("scan", np.zeros_like(truth)), ("annotated", truth))
    panels = {name: paint(findings.picture, mask, findings.classes) for name, mask in named}
    panels |= {"vote": findings.overlay(), "uncertainty": np.rint(findings.uncertainty * 255).astype(np.uint8)}
    for axis, (name, image) in zip(axes, panels.items(), strict=True):
        axis.imshow(image, cmap="magma", vmin=0, vmax=255)
        axis.set(title=name, xticks=[], yticks=[])
    figure.suptitle(title)
    return _save(figure, path)
