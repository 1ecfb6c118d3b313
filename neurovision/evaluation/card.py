"""The model card and data statement, drawn from the weights' manifest and ``evaluation.json``: no figure is typed here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurovision.classes import COUNTS, Classes
from neurovision.ensemble.looks import CLOSER
from neurovision.ensemble.manifest import Manifest
from neurovision.ensemble.weights import load_manifest
from neurovision.errors import DataError
from neurovision.evaluation.measure import VOTE
from neurovision.evaluation.report import figure, fitted_on, percent, table, went_on
from neurovision.evaluation.summary import POOLED, data_title
from neurovision.segmenters import title_of

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

NAME = "neurovision"
ABLATION = "ablation.md"  # of evaluation.ablation
LGG = "lgg"


@dataclass(frozen=True)
class DataSource:
    """One training set's statement.

    Attributes:
        title: Its name.
        origin: Who made it, where it is.
        license: Its terms.
        holds: What is in it.
        used: What it teaches.
    """

    title: str
    origin: str
    license: str
    holds: str
    used: str


DATA = {
    "figshare": DataSource(
        "Brain tumor dataset",
        "Cheng 2017, doi 10.6084/m9.figshare.1512427; two hospitals in China, 2005 to 2010",
        "CC BY 4.0",
        "3,064 contrast-enhanced T1 slices in three views of 233 patients, each with a meningioma, glioma or pituitary "
        "tumor drawn; no healthy slice, no age or sex",
        "members, vote, verdict; whole folds of the authors' patient-wise split",
    ),
    LGG: DataSource(
        "LGG segmentation dataset",
        "Buda 2019, from The Cancer Imaging Archive's TCGA-LGG; five institutions in the USA",
        "CC BY-NC-SA 4.0",
        "axial FLAIR slices, and T1 before and after contrast, of 110 patients with a low-grade glioma; the FLAIR "
        "abnormality drawn",
        "members, vote, verdict; one sequence at a time",
    ),
    "navoneel": DataSource(
        "Brain MRI images for brain tumor detection",
        "Chakrabarty 2019, Kaggle",
        "none stated",
        "253 pictures of mixed origin, view and sequence with a yes or no for the whole picture; some are wrong",
        "verdict; tumor-free pictures also as negatives for the members and the vote",
    ),
    "healthy": DataSource(
        "'notumor' of the brain tumor MRI dataset",
        "Nickparvar 2021, Kaggle",
        "CC0",
        "pictures without a tumor, many sequences and views; a few labels are wrong",
        "negatives for members, vote and verdict",
    ),
    "brats": DataSource(
        "BraTS 2021",
        "RSNA-ASNR-MICCAI, The Cancer Imaging Archive",
        "CC BY 4.0",
        "axial slices of 8 LGG patients in T1, T1c, T2 and FLAIR, without skull; the whole tumor drawn, on T1c its core",
        "members, vote, verdict; in the folds of LGG's patients",
    ),
    "ms": DataSource(
        "open_ms_data",
        "Lesjak 2017 and others, University of Ljubljana",
        "CC BY 4.0",
        "slices of 10 patients with multiple sclerosis, several sequences, with and without skull; lesions, no tumor",
        "negatives for members, vote and verdict",
    ),
}

OWN = DataSource("a data set of its own", "who trained these weights", "see the manifest", "see its report.json", "as above")

NON_COMMERCIAL = """LGG's scans and masks come under CC BY-NC-SA 4.0. Whether weights learned from them are an adaptation in
the sense of that license is not settled; this project reads it the careful way. **These weights are therefore offered
under CC BY-NC-SA 4.0**: name the sources, use them for no commercial purpose, pass on what you derive from them under the
same terms. The code stays MIT. `neurovision train NAME --without-lgg` for every member and `neurovision stack` make a set of
weights that LGG never touched."""

COMMERCIAL = """These weights were not trained on LGG, so its non-commercial terms do not reach them; figshare's CC BY 4.0
asks to name the source."""


def write_card(weights: Path | None, evaluation: Path, out: Path) -> Path:
    """Write the card.

    Args:
        weights: Weights folder; the shipped one by default.
        evaluation: ``evaluation.json`` of these very weights.
        out: The file to write, ``docs/MODEL_CARD.md``.

    Raises:
        DataError: There is no such file, or it measured other weights or a trial's few.
        WeightsError: The manifest cannot be read.
    """
    if not evaluation.is_file():
        raise DataError(f"The card takes its figures from {evaluation.name}; run 'neurovision evaluate' first.")
    manifest = load_manifest(weights)
    result = json.loads(evaluation.read_text())
    about = result["about"]
    if about["weights"] != manifest.digest:
        raise DataError(
            f"{evaluation.name} measured the weights {about['weights'][:12]}, not these ({manifest.digest[:12]}); "
            "run 'neurovision evaluate' again."
        )
    if about["trial"]:
        raise DataError("A card needs a whole fold; run 'neurovision evaluate' without a limit.")
    out.write_text(card(manifest, result, (evaluation.parent / ABLATION).is_file()))
    return out


def card(manifest: Manifest, result: dict[str, Any], ablation: bool = False) -> str:
    """The card's text: YAML head of the Hugging Face Hub, then Markdown.

    Args:
        manifest: The weights'.
        result: What ``evaluation.json`` holds.
        ablation: Whether ABLATION is beside it.
    """
    sources = manifest.training.sources
    parts = [
        f"---\n{_head(manifest, result)}\n---\n",
        f"# {NAME}\n",
        "Five compact Keras segmenters read one slice of a brain MRI; a random forest, gradient-boosted trees and the "
        "segmenters' weighted mean vote on every pixel, and a calibrated model gives the verdict: tumor or none, where, "
        "how large, and of which type. A classifier of the whole slice has its part in verdict and type, and refuses "
        "pictures that are no brain MRI. "
        "**A research tool, not a medical device.**\n",
        _members(manifest),
        _use(manifest.classes),
        "## Training data\n",
        table(
            ("data set", "origin", "license", "holds", "used for"),
            [
                (f"{s}: {d.title}", d.origin, d.license, d.holds, d.used)
                for s, d in ((s, DATA.get(s, OWN)) for s in sorted(sources, key=lambda s: (s not in DATA, s)))
            ],
        ),
        f"Split: {manifest.training.split}. Members: folds {', '.join(map(str, manifest.training.member_folds))}; "
        f"vote and verdict: {fitted_on(manifest.training.vote_folds)}; refusal: fold {manifest.training.vote_fold}; "
        f"{went_on(manifest.training.refitted)}phantoms, drawn by the project, are mixed in.\n",
        "### Terms of the weights\n",
        (NON_COMMERCIAL if LGG in sources else COMMERCIAL) + "\n",
        _figures(result, ablation),
        _limits(result),
    ]
    return "\n".join(parts)


def _head(manifest: Manifest, result: dict[str, Any]) -> str:
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        language="en",
        license=manifest.training.license.lower().replace(" ", "-"),
        library_name="keras",
        pipeline_tag="image-segmentation",
        tags=["medical-imaging", "mri", "brain-tumor", "image-segmentation", "ensemble", "research-only"],
        metrics=["dice", "roc_auc", "accuracy"],
        model_name=NAME,
        eval_results=_eval_results(result),
    )
    return str(data.to_yaml())


def _eval_results(result: dict[str, Any]) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    split = f"fold {result['about']['fold']}, patients unseen"

    def one(task: str, source: str, metric: str, name: str, interval: dict[str, Any]) -> EvalResult:
        return EvalResult(
            task_type=task, dataset_type=source, dataset_name=data_title(source), dataset_split=split, metric_type=metric,
            metric_name=name, metric_value=interval["value"],
        )  # fmt: skip

    found = []
    for source, models in result["masks"].items():
        found.append(one("image-segmentation", source, "dice", "Dice, tumor slices", models[VOTE]["dice"]))
        if "patient_dice" in models[VOTE]:
            name = "Dice per patient, slices pooled"
            found.append(one("image-segmentation", source, "dice", name, models[VOTE]["patient_dice"]))
    for source, scores in result["verdict"].items():
        if scores["auc"]["value"] is not None and source != POOLED:
            found.append(one("image-classification", source, "roc_auc", "AUC of the verdict", scores["auc"]))
    for source, types in result["type"].items():
        found.append(one("image-classification", source, "accuracy", "Tumor type", types["accuracy"]))
    return found


def _members(manifest: Manifest) -> str:
    rows = [
        (
            m.name, title_of(m.name, m.config), f"{m.parameters:,}",
            ", ".join(f"{k} {v}" for k, v in m.config.items()) or "published size", m.sha256[:12],
        )
        for m in manifest.members
    ]
    if manifest.classifier is not None:
        m = manifest.classifier
        rows.append((m.name, "classifier of the whole slice", f"{m.parameters:,}", "does not vote", m.sha256[:12]))
    size, classes = manifest.size, manifest.classes
    head = ("network", "architecture", "parameters", "variant", "sha256")
    return (
        "## Networks\n\n" + table(head, rows) + "\nEach member looks twice at one gray slice: at the head, "
        f"cropped onto {size} x {size} pixels, then {CLOSER:g} times closer at the mirror image of what all of them "
        f"suspect most. It gives {COUNTS[len(classes)]} classes: {', '.join(c.title.lower() for c in classes)}. "
        f"Manifest `{manifest.digest[:12]}`, trained {manifest.training.date}.\n"
    )


def _use(classes: Classes) -> str:
    count = len(classes.tumors)
    others = f"beside the {COUNTS[count]} types" if count > 1 else f"other than {classes.tumors[0].title.lower()}"
    lesions = f"any lesion {others}" if "metastasis" in classes.keys else f"metastases or any lesion {others}"
    return f"""## Intended use

For research, teaching and demonstrations on brain MRI that is already in hand and de-identified: to look at what an
ensemble of segmenters agrees and disagrees on, and as a baseline measured on patients it has never seen.

**Not for** diagnosis, triage, treatment or any decision about a person; not for children, for CT or other organs, for
postoperative scans, {lesions}, none of which it was trained or measured on. It has no
regulatory clearance.
"""


def _figures(result: dict[str, Any], ablation: bool) -> str:
    about = result["about"]
    more = f"; what each part of the vote adds is in `{ABLATION}` beside it" if ablation else ""
    masks = [
        (
            data_title(s),
            str(m[VOTE]["dice"]["n"]),
            figure(m[VOTE]["dice"]),
            figure(m[VOTE]["patient_dice"]) if "patient_dice" in m[VOTE] else "patients unknown",
            figure(m[VOTE]["hd95"], 1),
            percent(result["type"][s]["accuracy"]) if s in result["type"] else "-",
        )
        for s, m in result["masks"].items()
    ]
    verdict = [
        (
            data_title(s),
            str(v["n"]),
            figure(v["auc"]),
            *(percent(v[k]) for k in ("accuracy", "sensitivity", "specificity")),
            figure(v["ece"]),
        )
        for s, v in result["verdict"].items()
    ]
    best = [
        (data_title(s), v["best_member"], f"{v['best_dice']:.3f}", f"{v['vote_dice']:.3f}", figure(v["difference"]))
        for s, v in result["vote_against_best"].items()
    ]
    parts = [
        "## Figures\n",
        f"Fold {about['fold']}: no member, vote, verdict or threshold was fitted on it; other versions of the weights were "
        f"evaluated on it before. `{about['command']}`, "
        f"{about['date']}. Parentheses hold 95 % bootstrap intervals, over patients where "
        "they are known and else over slices, which is too narrow. Every other figure, and how each is counted, is in the "
        f"evaluation's own report{more}.\n",
        "The vote's mask, in the file's own pixels; where the verdict is tumor, it reaches down to a fitted share of the "
        "slice's own peak:\n",
        table(("data set", "tumor slices", "Dice", "Dice per patient", "HD95 px", "type right"), masks),
        "The verdict:\n",
        table(("data set", "scans", "AUC", "accuracy", "sensitivity", "specificity", "ECE"), verdict),
        "The vote against the best single member, Dice:\n",
        table(("data set", "member", "member's", "vote's", "difference"), best),
    ]
    return "\n".join(parts)


def _limits(result: dict[str, Any]) -> str:
    lines = [
        "## Limits\n",
        "- Two dimensions: every slice is read by itself, nothing is smoothed over a volume.",
        "- One fold of the training sets' own hospitals and scanners; no outside hospital has been measured.",
        "- figshare holds no tumor-free slice, so what is known of false alarms comes from the other sources. The pooled "
        "row of the verdict mixes sources that differ in more than the tumor: read the rows of single sources.",
        "- Age, sex, origin and scanner of most patients are unknown, so no figure by group can be given.",
    ]
    for source, failed in result["failures"].items():
        small, large = failed["by_area"][0], failed["by_area"][-1]
        lines.append(
            f"- {data_title(source)}: {percent(failed['missed'])} of the tumor slices are missed and "
            f"{percent(failed['poor'])} drawn with a Dice under one half. "
            f"Dice is {figure(small['dice'])} in the quarter with the smallest tumors "
            f"({small['from_px']}-{small['to_px']} px) and {figure(large['dice'])} in that with the largest."
        )
    for source, free in result["tumor_free"].items():
        called = percent(free["called_tumor"])
        lines.append(f"- {data_title(source)}: {called} of {free['n']} tumor-free scans are called tumor.")
    for source, scans in result["scans"].items():
        if scans["rejected"]:
            refused = f"{scans['rejected']} of {scans['n']} real scans are refused as unreadable"
            lines.append(f"- {data_title(source)}: {refused}.")
    return "\n".join(lines) + "\n"
