"""``evaluation.json`` as text that a person reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from neurovision.evaluation.measure import VERDICT, VOTE
from neurovision.evaluation.scores import FOUND
from neurovision.evaluation.summary import POOLED, POOR, SPECKS, STATED, data_title

SPREAD = "median", "lowest"  # of the patients, in the summary
CAPTIONS = {
    "dice.png": "Dice on tumor slices. Box: quartiles; cross: mean.",
    "type-confusion.png": "Annotated tumor type against the verdict's words.",
    "verdict-roc.png": "ROC of the verdict; dots: the shipped threshold.",
    "verdict-reliability.png": "Reliability of the verdict's probability; gray bars: how many scans.",
    "uncertainty.png": "Wrong pixels by uncertainty.",
    "training.png": "Tumor Dice while training, of single canvases.",
}


def figure(interval: dict[str, Any], digits: int = 3) -> str:
    """``0.812 (0.79-0.83)``; a dash where undefined."""
    if interval["value"] is None:
        return "-"
    text = f"{interval['value']:.{digits}f}"
    return text if interval["low"] is None else f"{text} ({interval['low']:.{digits}f}-{interval['high']:.{digits}f})"


def percent(interval: dict[str, Any]) -> str:
    """``4.2 % (2.9-5.6)``; a dash where undefined."""
    if interval["value"] is None:
        return "-"
    text = f"{100 * interval['value']:.1f} %"
    return text if interval["low"] is None else f"{text} ({100 * interval['low']:.1f}-{100 * interval['high']:.1f})"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rule = ["---" for _ in head]
    rows: list[Sequence[str]] = [head, rule, *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows) + "\n"


def to_markdown(result: dict[str, Any]) -> str:
    """The whole report."""
    parts = [_opening(result), _masks(result), _classes(result), _verdict(result), _against(result)]
    parts += [_sequences(result), _promises(result), _failures(result), _robustness(result)]
    parts += [_uncertainty(result), _refusal(result)]
    pictures = [f"![{CAPTIONS[f]}]({f})\n\n{CAPTIONS[f]}\n" for f in result["figures"]]
    about = result["about"]
    closing = ["## How it was counted\n", *[f"- **{k}**: {v}" for k, v in result["conventions"].items()], ""]
    versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items() if v)
    closing.append(f"Weights `{about['weights'][:12]}`, engine {about['engine']} on {about['device']}; {versions}.\n")
    return "\n".join([*(p for p in parts if p), "## Figures\n", *pictures, *closing])


def _opening(result: dict[str, Any]) -> str:
    about = result["about"]
    lines = [
        "# Evaluation",
        "",
        f"`{about['command']}`, {about['date']}. Members were trained on folds {_list(about['member_folds'])}, the vote and "
        f"the verdict fitted on {fitted_on(about['vote_folds'])}; {went_on(about['refitted'])}everything below is fold "
        f"{about['fold']}: {about['split']}. "
        "Parentheses hold 95 % intervals.",
        "",
    ]
    if about.get("left_out"):
        counts = ", ".join(f"{n} of {data_title(s)}" for s, n in about["left_out"].items())
        lines += [f"Left out, since their patient or a copy of the picture took part in fitting: {counts}.", ""]
    if about["trial"]:
        lines += ["**A trial on a few scans: not a result.**", ""]
    scans = [
        (data_title(s), str(v["n"]), str(v["with_tumor"]), str(v["patients"] or "unknown"), str(v["rejected"]))
        for s, v in result["scans"].items()
    ]
    return "\n".join(lines) + "\n" + table(("data set", "scans", "with tumor", "patients", "rejected"), scans)


def _sequences(result: dict[str, Any]) -> str:
    lines = [
        (
            data_title(source), sequence, str(t["tumors"]), figure(t["dice"]), percent(t["called_tumor"]),
            percent(t["refused"]), percent(t["called_none_unwarned"]), str(t["tumor_free"]), percent(t["free_called_tumor"]),
            percent(t["sequence_right"]),
        )
        for source, of in result["by_sequence"].items()
        for sequence, t in of.items()
    ]  # fmt: skip
    head = (
        "data set", "sequence", "tumors", "Dice", "called tumor", "refused", "called none without a warning",
        "tumor-free", "called tumor", "sequence told right",
    )  # fmt: skip
    return "## By sequence\n\n" + table(head, lines)


def _promises(result: dict[str, Any]) -> str:
    lines = []
    for source, t in result.get("promises", {}).items():
        volume = t.get("volume_inside")
        lines.append((
            data_title(source), str(t["n"]), percent(t["area_inside"]), f"x/÷ {t['area_factor_median']:.2f}",
            "; ".join(f"{g} {100 * v:.0f} %" for g, v in t["area_inside_of"].items()),
            "-" if volume is None else f"{percent(volume)}, x/÷ {t['volume_factor']:.2f}",
            f"{t['expected_dice_spearman']:.2f}",
        ))  # fmt: skip
    if not lines:
        return ""
    head = (
        "data set", "slices", "90 % interval of the area holds the truth", "median factor", "of which",
        "of a patient's volume", "expected Dice against Dice, Spearman",
    )  # fmt: skip
    return "## What a result promises\n\n" + table(head, lines)


def _robustness(result: dict[str, Any]) -> str:
    found = result.get("robustness")
    if not found:
        return ""
    clean = found["clean"]
    lines = [("unchanged", "", "", figure(clean["dice"]), "", percent(clean["sensitivity"]))]
    lines += [
        (name, strength, f"{t['level']:g}", figure(t["dice"]), f"{t['against_clean']:.2f}", percent(t["sensitivity"]))
        for name, of in found["changes"].items()
        for strength, t in of.items()
    ]
    head = ("change", "strength", "level", "Dice", "of the unchanged", "tumors called tumor")
    return f"## Robustness\n\n{found['n']} tumor slices, evenly spread over the data sets.\n\n" + table(head, lines)


def fitted_on(folds: Sequence[int]) -> str:
    """The folds that the vote is fitted on, in words; where there are several, networks left out one each."""
    if len(folds) == 1:
        return f"fold {folds[0]}"
    return f"folds {_list(folds)}, each as networks saw it that were trained without it"


def went_on(refitted: Mapping[str, Sequence[int]]) -> str:
    """Which networks were trained on the vote's fold too, once the vote was fitted: half a sentence, or nothing."""
    if not refitted:
        return ""
    folds = {_list(f) for f in refitted.values()}
    return f"after that {', '.join(refitted)} went on to train on folds {' and '.join(sorted(folds))}; "


def _list(values: Sequence[int] | None) -> str:
    return ", ".join(map(str, values)) if values else "unknown"


def _masks(result: dict[str, Any]) -> str:
    parts = ["## Masks\n"]
    if share := result["about"]["mask_share"]:
        parts.append(
            "Vote and members alike mark a pixel from a probability of tumor of 0.5 on, or, where the verdict is tumor, "
            f"from {share:.2f} of the slice's own peak on, if that is less; the share was fitted with the vote.\n"
        )
    for source, models in result["masks"].items():
        vote = models[VOTE]
        patients = "patient_dice" in vote
        overlap = [
            [
                _bold(name),
                *(figure(m["dice"]), _plain(m["dice"], SPREAD[0]), figure(m["iou"])),
                *((figure(m["patient_dice"]), *(_plain(m["patient_dice"], k) for k in SPREAD)) if patients else ()),
            ]
            for name, m in models.items()
        ]
        rest = [
            [
                _bold(name),
                *(figure(m[k]) for k in ("precision", "recall", "f1", "boundary_f1")),
                f"{figure(m['hd95'], 1)}; {m['hd95_undefined']}",
                figure(m["pixel_accuracy"], 4),
            ]
            for name, m in models.items()
        ]
        clusters = vote["dice"]["clusters"]
        unit = f"of {clusters} patients" if patients else "patients unknown, so intervals are over slices and too narrow"
        parts.append(f"### {data_title(source)}\n\n{vote['dice']['n']} tumor slices, {unit}.\n")
        parts.append(table(("", "Dice", "median", "IoU", *(("Dice per patient", *SPREAD) if patients else ())), overlap))
        parts.append(table(("", "precision", "recall", "F1", "boundary F1", "HD95 px; undefined", "pixel accuracy"), rest))
        lesions = vote["lesions"]
        parts.append(
            f"Of the vote: typed Dice {figure(vote['typed_dice'])}; Dice {figure(vote['dice_scored'])} where tumor-free "
            f"slices with anything drawn count as 0. Lesions apart: {lesions['found']} of {lesions['annotated']} found, "
            f"{lesions['false']} false, lesion Dice {figure(vote['lesion_dice'])}; "
            f"slices with several: {lesions['slices_with_several']}, lesion Dice there "
            f"{figure(lesions['lesion_dice_on_several'])}.\n"
        )
    return "\n".join(parts) if result["masks"] else ""


def _bold(name: str) -> str:
    return f"**{name}**" if name in (VOTE, VERDICT) else name


def _plain(interval: dict[str, Any], key: str) -> str:
    return "-" if interval[key] is None else f"{interval[key]:.3f}"


def _classes(result: dict[str, Any]) -> str:
    lines = [
        (data_title(s), kind, str(m[VOTE]["dice"]["n"]), figure(m[VOTE]["dice"]), figure(m[VOTE]["typed_dice"]))
        for s, kinds in result["by_class"].items()
        for kind, m in kinds.items()
    ]
    if not lines:
        return ""
    types = [
        (data_title(s), str(t["accuracy"]["n"]), *map(percent, (t["accuracy"], t["with_misses"], *t["members"].values())))
        for s, t in result["type"].items()
    ]
    members = next(iter(result["type"].values()))["members"]
    head = ("data set", "scans", "type right", "a missed tumor counted as wrong", *(f"{m}'s mask" for m in members))
    return "\n".join(
        [
            "## Types\n",
            table(("data set", "type", "slices", "Dice of the vote", "typed Dice of the vote"), lines),
            table(head, types),
        ]
    )


def _verdict(result: dict[str, Any]) -> str:
    alarms = f"false_alarms_at_{STATED}_sensitivity"
    lines = [
        [
            data_title(s),
            str(v["n"]),
            figure(v["auc"]),
            *(percent(v[k]) for k in ("accuracy", "sensitivity", "specificity")),
            figure(v["ece"]),
            percent(v[alarms]),
        ]
        for s, v in result["verdict"].items()
    ]
    rates = ("accuracy", "sensitivity", "specificity")
    head = ("data set", "scans", "AUC", *rates, "ECE", f"false alarms at {STATED:.0%} sensitivity")
    parts = ["## Verdict\n", f"Threshold {result['verdict'][POOLED]['threshold']:.3f}.\n", table(head, lines)]
    if free := result["tumor_free"]:
        rows = [
            (
                data_title(s),
                str(v["n"]),
                percent(v["called_tumor"]),
                *(percent(v["mask_over_30_px"][m]) for m in v["mask_over_30_px"] if m != VERDICT),
            )
            for s, v in free.items()
        ]
        models = [m for m in next(iter(free.values()))["mask_over_30_px"] if m != VERDICT]
        parts += [
            f"Tumor-free scans: called tumor by the verdict, and with more than {SPECKS} pixels of tumor in a mask.\n",
            table(("data set", "scans", "verdict", *models), rows),
        ]
    return "\n".join(parts)


def _against(result: dict[str, Any]) -> str:
    slices, patients = result["vote_against_best"], result.get("vote_against_best_by_patient", {})
    lines = [
        (
            f"{data_title(s)}{unit}",
            f"{v['best_member']}, {v['best_dice']:.3f}",
            f"{v['vote_dice']:.3f}",
            figure(v["difference"]),
            f"{v['wilcoxon_p']:.2g}",
        )
        for unit, of in (("", slices), ("; patients", patients))
        for s, v in of.items()
    ]
    if not lines:
        return ""
    head = ("data set", "best single member, Dice", "vote, Dice", "difference", "Wilcoxon p")
    return "## The vote against its best single member\n\n" + table(head, lines)


def _failures(result: dict[str, Any]) -> str:
    lines = []
    for source, failed in result["failures"].items():
        quarters = [f"{figure(q['dice'])}; {q['from_px']}-{q['to_px']} px" for q in failed["by_area"]]
        shares = (percent(failed["missed"]), percent(failed["poor"]))
        lines.append([data_title(source), *shares, *quarters, *[""] * (4 - len(quarters))])
    if not lines:
        return ""
    sizes = ("smallest quarter", "second", "third", "largest")
    head = ("data set", f"missed (Dice < {FOUND})", f"poor (Dice < {POOR})", *(f"Dice, {q}" for q in sizes))
    return "## Where the vote fails\n\n" + table(head, lines)


def _refusal(result: dict[str, Any]) -> str:
    columns = ("n", "refused", "warned", "passed", "called_tumor")
    alien = [line for kind, line in result["refusal"].items() if not kind.startswith("scan")]
    total = {c: sum(line[c] for line in alien) for c in columns}
    lines = [(kind, *(str(line[c]) for c in columns)) for kind, line in {**result["refusal"], "**no scan**": total}.items()]
    real = ", ".join(f"{data_title(s)} {v['rejected']} of {v['n']}" for s, v in result["scans"].items())
    return (
        "## Refusal\n\nPictures that are no brain MRI (photographs out of installed packages, and drawn ones), and real "
        f"scans turned, cut or inverted. Real scans as they are, refused: {real}.\n\n"
        + table(("picture", "n", "refused", "read with a warning", "read without", "called tumor"), lines)
    )


def _uncertainty(result: dict[str, Any]) -> str:
    u = result["uncertainty"]
    if not u:
        return ""
    cells = [f"{100 * e:.2f} %" for e in u["error_rate"]]
    auc = "-" if u["auc_of_finding_errors"] is None else f"{u['auc_of_finding_errors']:.3f}"
    return (
        f"## Uncertainty\n\nShare of wrong pixels in tenths of rising uncertainty, {u['pixels']} pixels of the head; as a "
        f"detector of wrong pixels its AUC is {auc}.\n\n" + table([str(k) for k in range(1, 11)], [cells])
    )
