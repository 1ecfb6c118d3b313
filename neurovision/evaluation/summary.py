"""From rows to figures with intervals: what ``evaluation.json`` holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy import stats
from sklearn import metrics

from neurovision.classes import SHIPPED, Classes
from neurovision.ensemble.manifest import IntervalModel
from neurovision.evaluation.measure import VERDICT, VOTE, Row
from neurovision.evaluation.scores import (
    FOUND,
    MASK_SCORES,
    Counts,
    Weighted,
    auc,
    bootstrap,
    error_by_decile,
    mean_interval,
    paired,
    reliability,
    share_interval,
)

POOLED = "all"  # of the verdict's table: every source but lgg_t1c, whose scans are the patients of lgg again
SPECKS = 30  # pixels: the mask of a tumor-free scan holds more than these
POOR = 0.5  # Dice: below, a reader would have to draw the tumor anew
STATED = 0.95  # sensitivity at which false alarms are read off
NO_TUMOR = "no tumor"
NO_TYPE = "none"

TITLES = {
    "figshare": "figshare",
    "lgg": "LGG, FLAIR alone",
    "lgg_t1c": "LGG, post-contrast T1 alone",
    "navoneel": "navoneel",
    "healthy": "healthy",
    "brats": "BraTS, four sequences, no skull",
    "ms": "multiple sclerosis, four sequences",
    POOLED: "all",
}

Json = dict[str, Any]


def data_title(source: str) -> str:
    """What readers call a data set; one's own goes by its name."""
    return TITLES.get(source, source)


CONVENTIONS = {
    "geometry": "Masks are compared in each file's own pixels, after the way back from the networks' grid.",
    "tumor": "Any tumor class counts as tumor; typed Dice compares the annotated type's class alone.",
    "tumor slices": "Dice and its kin are means over slices with an annotated tumor; one where nothing is found scores 0.",
    "empty": "Truth and mask both empty: left out. One of them empty: 0, and no HD95 (counted as hd95_undefined).",
    "scored slices": "dice_scored also holds tumor-free slices on which something was drawn, at 0.",
    "patients": "patient_dice pools the pixels of all slices at hand of a patient, where the data set names patients.",
    "intervals": "95 %, percentile bootstrap of 1000 draws over patients; over slices where a data set names no patients "
    "(figshare, navoneel, healthy), which is too narrow wherever one patient gave several. Clopper and Pearson's where a "
    "share is 0 or 1.",
    "verdict's mask": "The vote's mask, emptied where the verdict is no tumor.",
    "HD95": "Larger of the two directed 95th percentiles between outlines, in pixels.",
    "boundary F1": "Outline pixels within 2 pixels of the other outline.",
    "lesions": "Pixels that touch, also at a corner, are one lesion; found means a Dice of at least 0.1 with what touches "
    "it; lesion Dice divides by annotated plus false lesions of a slice.",
    "rejected": "Rejected scans keep an empty mask; the verdict's rates leave them out, and they are counted apart.",
    "best member": "The best single member is picked on these very slices, which favors it over the vote.",
    "Wilcoxon": "Two-sided, on patients' mean differences where patients are known, else on slices'.",
}


def summarize(
    rows: Sequence[Row],
    members: Sequence[str],
    threshold: float,
    intervals: IntervalModel | None = None,
    classes: Classes = SHIPPED,
) -> Json:
    """All tables of one run.

    Args:
        rows: What was measured.
        members: Names, in the vote's order.
        threshold: The verdict's.
        intervals: The manifest's, for patients' volumes.
        classes: The manifest's.
    """
    by_source: dict[str, list[Row]] = {}
    for row in rows:
        by_source.setdefault(row.source, []).append(row)
    drawn = {s: [r for r in rs if r.masks] for s, rs in by_source.items()}
    with_tumor = {s: [r for r in rs if r.tumor] for s, rs in drawn.items()}
    with_tumor = {s: rs for s, rs in with_tumor.items() if rs}
    models = [*members, VOTE, VERDICT]
    apart = {**{s: rs for s, rs in by_source.items()}, POOLED: [r for r in rows if r.source != "lgg_t1c"]}
    return {
        "scans": {s: _scans(rs) for s, rs in by_source.items()},
        "masks": {s: {m: _mask_table(drawn[s], m) for m in models} for s in with_tumor},
        "by_class": _by_class(with_tumor, models, classes),
        "tumor_free": {s: _tumor_free(rs, models) for s, rs in by_source.items() if any(not r.tumor for r in rs)},
        "by_sequence": {s: _by_sequence(rs) for s, rs in by_source.items() if any(r.sequence for r in rs)},
        "type": {s: table for s, rs in by_source.items() if (table := _type_table(rs, members, classes)) is not None},
        "verdict": {s: _verdict_table(rs, threshold) for s, rs in apart.items()},
        "vote_against_best": {s: _against_best(rs, members) for s, rs in with_tumor.items()},
        "vote_against_best_by_patient": {
            s: _against_best_by_patient(drawn[s], members) for s, rs in with_tumor.items() if any(r.patient for r in rs)
        },
        "promises": {s: t for s, rs in with_tumor.items() if (t := _promises(rs, intervals)) is not None},
        "failures": {s: _failures(rs) for s, rs in with_tumor.items()},
        "uncertainty": _uncertainty([r for r in rows if r.source != "lgg_t1c"]),
        "milliseconds_median": _number(np.median([r.milliseconds for r in rows])),
    }


def _number(value: float | np.floating[Any]) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def _scans(rows: list[Row]) -> Json:
    patients = {r.patient for r in rows if r.patient}
    return {
        "n": len(rows),
        "with_tumor": sum(r.tumor for r in rows),
        "patients": len(patients) or None,
        "rejected": sum(r.rejected for r in rows),
    }


def _clusters(rows: Sequence[Row]) -> list[str]:
    return [r.cluster for r in rows]


def _mean(rows: Sequence[Row], value: Callable[[Row], float]) -> Json:
    values = [value(r) for r in rows]
    finite = [v for v in values if np.isfinite(v)]
    return {**mean_interval(values, _clusters(rows)).to_json(), "median": _number(np.median(finite)) if finite else None}


def _mask_table(drawn: list[Row], model: str) -> Json:
    tumor = [r for r in drawn if r.tumor]
    table: Json = {key: _mean(tumor, lambda r, k=key: r.masks[model].scores[k]) for key in MASK_SCORES}  # type: ignore[misc]
    table["hd95_undefined"] = sum(not np.isfinite(r.masks[model].scores["hd95"]) for r in tumor)
    table["typed_dice"] = _mean(tumor, lambda r: r.masks[model].typed_dice)
    table["dice_scored"] = _mean(drawn, lambda r: r.masks[model].scores["dice"])
    table["lesion_dice"] = _mean(tumor, lambda r: r.masks[model].lesion_dice)
    several = [r for r in tumor if r.lesions > 1]
    table["lesions"] = {
        "annotated": sum(r.lesions for r in tumor),
        "found": sum(r.masks[model].lesions_found for r in tumor),
        "false": sum(r.masks[model].false_lesions for r in drawn),
        "slices_with_several": len(several),
        "lesion_dice_on_several": _mean(several, lambda r: r.masks[model].lesion_dice),
    }
    pooled = patient_counts(drawn, model)
    if pooled:
        for key in ("dice", "iou", "precision", "recall"):
            scores = [getattr(c, key) for c in pooled.values()]
            spread = {"median": _number(np.nanmedian(scores)), "lowest": _number(np.nanmin(scores))}
            table[f"patient_{key}"] = {**mean_interval(scores).to_json(), **spread}
    return table


def patient_counts(rows: Sequence[Row], model: str) -> dict[str, Counts]:
    """Pixels of each known patient, all slices at hand pooled."""
    pooled: dict[str, Counts] = {}
    for row in rows:
        if row.patient:
            pooled[row.patient] = pooled.get(row.patient, Counts()) + Counts(*row.masks[model].counts)
    return pooled


def _by_class(with_tumor: dict[str, list[Row]], models: list[str], classes: Classes) -> Json:
    table: Json = {}
    for source, rows in with_tumor.items():
        for kind in classes.keys:
            if of_kind := [r for r in rows if r.label == kind]:
                table.setdefault(source, {})[kind] = {
                    m: {
                        "dice": _mean(of_kind, lambda r, m=m: r.masks[m].scores["dice"]),  # type: ignore[misc]
                        "typed_dice": _mean(of_kind, lambda r, m=m: r.masks[m].typed_dice),  # type: ignore[misc]
                    }
                    for m in models
                }
    return table


def _tumor_free(rows: list[Row], models: list[str]) -> Json:
    free = [r for r in rows if not r.tumor]
    return {
        "n": len(free),
        "called_tumor": share_interval([float(r.positive) for r in free], _clusters(free)).to_json(),
        "mask_over_30_px": {
            m: share_interval([float(r.masks[m].area > SPECKS) for r in free], _clusters(free)).to_json() for m in models
        },
    }


def _by_sequence(rows: list[Row]) -> Json:
    """What becomes of tumors and of tumor-free scans of each sequence; shares are of all scans, refused ones included."""
    table: Json = {}
    for sequence in sorted({r.sequence or "unknown" for r in rows}):
        of = [r for r in rows if (r.sequence or "unknown") == sequence]
        tumor, free = [r for r in of if r.tumor], [r for r in of if not r.tumor]

        def share(some: list[Row], holds: Callable[[Row], bool]) -> Json:
            return share_interval([float(holds(r)) for r in some], _clusters(some)).to_json()

        table[sequence] = {
            "tumors": len(tumor),
            "dice": _mean([r for r in tumor if r.masks], lambda r: r.masks[VOTE].scores["dice"]),
            "called_tumor": share(tumor, lambda r: r.positive),
            "refused": share(tumor, lambda r: r.rejected),
            "called_none_unwarned": share(tumor, lambda r: not (r.positive or r.rejected or r.warned)),
            "tumor_free": len(free),
            "free_called_tumor": share(free, lambda r: r.positive),
            "sequence_right": share([r for r in of if r.sequence_right is not None], lambda r: bool(r.sequence_right)),
        }
    return table


def called_type(row: Row) -> str:
    """The verdict's words on one scan: a type, or NO_TUMOR."""
    return max(row.types, key=lambda t: row.types[t]) if row.positive else NO_TUMOR


def _type_table(rows: list[Row], members: Sequence[str], classes: Classes) -> Json | None:
    """Of scans whose true type is known; ``accuracy`` given that there is a tumor, ``with_misses`` as the verdict said."""
    typed = [r for r in rows if r.label in classes.keys]
    if not typed:
        return None
    kinds = classes.keys
    likeliest = [max(r.types, key=lambda t, r=r: r.types[t]) if r.types else NO_TYPE for r in typed]  # type: ignore[misc]
    right = [float(a == r.label) for a, r in zip(likeliest, typed, strict=True)]
    said = [called_type(r) for r in typed]
    clusters = _clusters(typed)
    labels = [*kinds, NO_TUMOR]
    by_model = {m: [float(r.masks[m].kind == r.label) for r in typed] for m in [*members, VOTE]}
    return {
        "accuracy": share_interval(right, clusters).to_json(),
        "with_misses": share_interval([float(a == r.label) for a, r in zip(said, typed, strict=True)], clusters).to_json(),
        "labels": labels,
        "confusion": metrics.confusion_matrix([r.label for r in typed], said, labels=labels)[: len(kinds)].tolist(),
        "members": {m: share_interval(right, clusters).to_json() for m, right in by_model.items()},
    }


def decided(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Row]]:
    """Truth, probability and decision of the scans that were not rejected, and their rows."""
    kept = [r for r in rows if not r.rejected]
    return (
        np.array([r.tumor for r in kept], bool),
        np.array([r.probability for r in kept], float),
        np.array([r.positive for r in kept], bool),
        kept,
    )


def _verdict_table(rows: Sequence[Row], threshold: float) -> Json:
    truth, probability, positive, kept = decided(rows)
    clusters = _clusters(kept)
    strata = [r.source for r in kept]
    weighted = Weighted(truth, probability)

    def interval(figure: Callable[[np.ndarray], np.ndarray]) -> Json:
        return bootstrap(figure, clusters, strata).to_json()

    def share(right: np.ndarray, of: np.ndarray) -> Json:
        return share_interval(np.where(of, right, np.nan), clusters).to_json()

    binned = reliability(truth, probability)
    return {
        "n": len(kept),
        "threshold": threshold,
        "auc": interval(weighted.auc),
        "accuracy": share(positive == truth, np.ones(len(kept), bool)),
        "sensitivity": share(positive, truth),
        "specificity": share(~positive, ~truth),
        "ece": interval(weighted.ece),
        f"false_alarms_at_{STATED}_sensitivity": interval(partial(weighted.false_alarms_at, STATED)),
        "reliability": {
            "edges": [round(float(e), 3) for e in binned.edges],
            "counts": binned.counts.tolist(),
            "predicted": [_number(v) for v in binned.predicted],
            "observed": [_number(v) for v in binned.observed],
        },
    }


def _against_best(rows: list[Row], members: Sequence[str]) -> Json:
    return _best_and_vote({m: [r.masks[m].scores["dice"] for r in rows] for m in [*members, VOTE]}, _clusters(rows))


def _against_best_by_patient(rows: list[Row], members: Sequence[str]) -> Json:
    return _best_and_vote({m: [c.dice for c in patient_counts(rows, m).values()] for m in [*members, VOTE]})


def _best_and_vote(dice: dict[str, list[float]], clusters: Sequence[object] | None = None) -> Json:
    best = max((m for m in dice if m != VOTE), key=lambda m: float(np.nanmean(dice[m])))
    return {
        "best_member": best,
        "best_dice": _number(np.nanmean(dice[best])),
        "vote_dice": _number(np.nanmean(dice[VOTE])),
        **paired(dice[VOTE], dice[best], clusters).to_json(),
    }


def _promises(rows: list[Row], intervals: IntervalModel | None) -> Json | None:
    """How often the interval holds the true size, how wide it is, and how the expected Dice goes with the real one."""
    kept = [r for r in rows if r.interval is not None and r.expected_dice is not None]
    if not kept:
        return None
    clusters = _clusters(kept)
    true = np.array([r.masks[VOTE].counts[0] + r.masks[VOTE].counts[2] for r in kept], float)
    low, high = np.array([r.interval for r in kept], float).T
    held = ((low <= true) & (true <= high)).astype(float)
    dice = [r.masks[VOTE].scores["dice"] for r in kept]
    larger = true > np.median(true)
    of_label = {label: np.array([r.label == label for r in kept]) for label in sorted({r.label for r in kept})}
    groups = {**of_label, "smaller half": ~larger, "larger half": larger}
    table: Json = {
        "n": len(kept),
        "area_inside": share_interval(held, clusters).to_json(),
        "area_factor_median": _number(np.median(np.sqrt(high / np.maximum(low, 1e-9)))),
        "area_inside_of": {g: _number(held[inside].mean()) for g, inside in groups.items() if inside.any()},
        "expected_dice_spearman": _number(stats.spearmanr([r.expected_dice for r in kept], dice).statistic),
    }
    if intervals is not None and intervals.volume is not None and (pooled := patient_counts(kept, VOTE)):
        ratios = [abs(np.log((c.tp + c.fn) / (c.tp + c.fp))) for c in pooled.values() if c.tp + c.fp and c.tp + c.fn]
        table["volume_inside"] = share_interval([float(r <= intervals.volume) for r in ratios]).to_json()
        table["volume_factor"] = _number(np.exp(intervals.volume))
    return table


def _failures(rows: list[Row]) -> Json:
    """Where the vote fails: how often a slice's tumor is missed or poorly drawn, and Dice by quarters of tumor area."""
    dice = np.array([r.masks[VOTE].scores["dice"] for r in rows])
    clusters = _clusters(rows)
    areas = np.array([r.masks[VOTE].counts[0] + r.masks[VOTE].counts[2] for r in rows])
    quarters = [q for q in np.array_split(np.argsort(areas, kind="stable"), 4) if len(q)]
    return {
        "missed": share_interval((dice < FOUND).astype(float), clusters).to_json(),
        "poor": share_interval((dice < POOR).astype(float), clusters).to_json(),
        "by_area": [
            {
                "from_px": int(areas[q].min()),
                "to_px": int(areas[q].max()),
                "dice": mean_interval(dice[q], [clusters[k] for k in q]).to_json(),
            }
            for q in quarters
        ],
    }


def _uncertainty(rows: Sequence[Row]) -> Json | None:
    value = np.array([u for r in rows for u in r.uncertainty])
    wrong = np.array([w for r in rows for w in r.wrong], bool)
    if len(value) < 10:
        return None
    edges, errors = error_by_decile(value, wrong)
    return {
        "pixels": len(value),
        "highest_of_decile": [_number(e) for e in edges],
        "error_rate": [_number(e) for e in errors],
        "auc_of_finding_errors": _number(auc(wrong, value)),
        "share_of_errors_in_top_decile": _number(errors[-1] * (len(value) // 10) / max(wrong.sum(), 1)),
    }
