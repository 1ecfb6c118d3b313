"""What generated pictures are worth: their distance from real ones, whether they copy any, whether training gains."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from PIL import Image

from neurovision.aids.sampling import Generator
from neurovision.classifiers import build
from neurovision.files import write
from neurovision.scan.prepare import standardize
from neurovision.training.dataset import load_index
from neurovision.training.diffusion import canvases
from neurovision.training.kid import Features, kernel_distance

STEPS = 20
NEIGHBORS = 50
QUANTILES = {"least": 0.0, "1 %": 0.01, "5 %": 0.05, "median": 0.5}
COMMAND = "neurovision diffuse"


def nearest(pictures: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How close pictures come to their nearest training picture, mirrored or not.

    Blurred pictures are closer to everything, so the distance alone says little; a copy stands out by being much closer
    to one training picture than to its other neighbors (Carlini 2023, arXiv 2301.13188).

    Args:
        pictures: float32 ``(N, size, size)`` in [0, 1].
        training: float32 ``(M, size, size)`` in [0, 1].

    Returns:
        float64 ``(N,)`` root mean square differences from the nearest, and these divided by the mean over the
        NEIGHBORS nearest: near 1 for a picture of its own, near 0 for a copy.
    """
    flat, known = (a.reshape(len(a), -1).astype(np.float64) for a in (pictures, training))
    mirrored = training[:, :, ::-1].reshape(len(training), -1).astype(np.float64)
    squares = (flat**2).sum(1)[:, None] + (known**2).sum(1)[None]
    apart = squares - 2 * np.maximum(flat @ known.T, flat @ mirrored.T)
    apart = np.sqrt(np.maximum(apart, 0) / flat.shape[1])
    close = np.sort(apart, axis=1)[:, :NEIGHBORS]
    return close[:, 0], close[:, 0] / np.maximum(close.mean(1), 1e-9)


def grid(pictures: np.ndarray, columns: int, scale: int = 2) -> np.ndarray:
    """Pictures ``(N, size, size)`` in [0, 1] side by side, row by row, uint8 ``(h, w)``; N is a multiple of columns."""
    count, size = len(pictures), pictures.shape[1]
    levels = np.rint(np.clip(pictures, 0, 1) * 255).astype(np.uint8).reshape(count // columns, columns, size, size)
    sheet = levels.transpose(0, 2, 1, 3).reshape(count // columns * size, columns * size)
    return sheet.repeat(scale, 0).repeat(scale, 1)


def check(generator: Generator, data: Path, cache: Path, count: int = 256, seed: int = 1) -> dict[str, Any]:
    """Compare generated pictures with those that the generator was trained on and with those it never saw.

    Args:
        generator: The shipped one.
        data: The prepared folder.
        cache: Folder for canvases.
        count: Pictures to draw, kinds as often as among the held-out scans.
        seed: Of the noise.

    Returns:
        ``{"count", "seed", "kid": {...}, "near": {...}}``: what ``docs/diffusion.md`` prints.
    """
    trained_on = generator.described["training"]
    size = int(generator.described["plan"]["size"])
    training, _ = canvases(load_index(data, trained_on["sources"], trained_on["folds"]), size, cache)
    held, tumor = canvases(load_index(data, trained_on["sources"], [trained_on["validation_fold"]]), size, cache)
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(held))[:count]
    held, tumor = held[chosen], tumor[chosen]
    drawn = generator.sample(tumor, seed, STEPS)
    features = Features()
    real = features(held)
    seen = features(training[rng.permutation(len(training))[: len(held)]])
    noise = features(np.clip(rng.normal(generator.mean, generator.deviation, held.shape), 0, 1).astype(np.float32))
    near = {"generated": nearest(drawn, training), "held out": nearest(held, training)}
    closer = float(np.quantile(near["held out"][1], 0.01))
    return {
        "count": len(drawn),
        "seed": seed,
        "kid": {
            "generated": kernel_distance(real, features(drawn)),
            "training": kernel_distance(real, seen),
            "noise": kernel_distance(real, noise),
        },
        "near": {
            who: {
                "distance": {n: float(np.quantile(distance, q)) for n, q in QUANTILES.items()},
                "ratio": {n: float(np.quantile(ratio, q)) for n, q in QUANTILES.items()},
                "below": float((ratio < closer).mean()),
            }
            for who, (distance, ratio) in near.items()
        },
    }


def ablate(
    generator: Generator, data: Path, cache: Path, steps: int = 400, seeds: Sequence[int] = (1, 2, 3), batch: int = 32
) -> dict[str, Any]:
    """Train a small classifier, tumor or none, with and without generated pictures, and test it on the held-out fold.

    Both arms train on the generator's own folds for the same number of steps; in the second, half of every batch is
    generated, half of these with a tumor. A picture's source tells much of the answer (figshare has tumors only), so
    the area under the curve is also given within LGG, which has both. Neither was trained on the test fold.

    Args:
        generator: The shipped one.
        data: The prepared folder.
        cache: Folder for canvases.
        steps: Of each training.
        seeds: One training of each arm a seed.
        batch: Pictures a step.

    Returns:
        ``{"steps", "seeds", "generated", "arms": {arm: {"auc": [...], "auc_lgg": [...]}}}``.
    """
    from sklearn.metrics import roc_auc_score

    trained_on = generator.described["training"]
    size = int(generator.described["plan"]["size"])
    scans, tumor = canvases(load_index(data, trained_on["sources"], trained_on["folds"]), size, cache)
    items = load_index(data, trained_on["sources"], [trained_on["validation_fold"]])
    held, truth = canvases(items, size, cache)
    lgg = np.array([i.source == "lgg" for i in items])
    made_tumor = np.arange(min(1024, steps * batch // 2)) % 2 == 1
    made = _standardized(generator.sample(made_tumor, 7, STEPS))
    real, tests = _standardized(scans), _standardized(held)
    arms: dict[str, dict[str, list[float]]] = {}
    for arm in ("real", "real and generated"):
        arms[arm] = {"auc": [], "auc_lgg": []}
        for seed in seeds:
            keras.utils.set_random_seed(seed)
            keras.utils.clear_session()
            model = build("custom_cnn", (size, size, 1))
            model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="binary_crossentropy", jit_compile=False)
            rng = np.random.default_rng(seed)
            for _ in range(steps):
                count = batch if arm == "real" else batch // 2
                picked = rng.integers(len(real), size=count)
                x, y = real[picked], tumor[picked]
                if arm != "real":
                    extra = rng.integers(len(made), size=batch - count)
                    x, y = np.concatenate([x, made[extra]]), np.concatenate([y, made_tumor[extra]])
                flipped = np.where(rng.random((len(x), 1, 1, 1)) < 0.5, x[:, :, ::-1], x)
                model.train_on_batch(flipped, y.astype(np.float32)[:, None])
            found = np.asarray(model.predict(tests, batch_size=64, verbose=0))[:, 0]
            arms[arm]["auc"].append(float(roc_auc_score(truth, found)))
            arms[arm]["auc_lgg"].append(float(roc_auc_score(truth[lgg], found[lgg])) if lgg.any() else float("nan"))
    return {
        "steps": steps, "seeds": list(seeds), "generated": len(made), "scans": len(scans), "tests": len(held),
        "arms": arms,
    }  # fmt: skip


def _standardized(pictures: np.ndarray) -> np.ndarray:
    return np.stack([standardize(p) for p in pictures])[..., None]


def record(part: str, found: dict[str, Any], generator: Generator, options: str, page: Path) -> None:
    """Keep a result beside the page and render the page anew.

    Args:
        part: ``"check"`` or ``"ablate"``, the command.
        found: What it returned.
        generator: What was measured.
        options: Those of the command that were not its defaults.
        page: ``docs/diffusion.md``; ``diffusion.json`` stands beside it.
    """
    kept = page.with_suffix(".json")
    results: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() else {}
    machine = f"{platform.machine()}, {platform.system()}, Keras {keras.version()} on {keras.backend.backend()}"
    when = datetime.date.today().isoformat()
    command = f"{COMMAND} {part} {options}".strip()
    weights = generator.described["sha256"][:12]
    results[part] = {**found, "date": when, "machine": machine, "command": command, "weights": weights}
    results["manifest"] = {k: generator.described[k] for k in ("plan", "parameters", "training", "sha256")}
    write(kept, json.dumps(results, indent=1) + "\n")
    write(page, render(results))


def draw(generator: Generator, path: Path, seed: int = 1, columns: int = 8) -> None:
    """A picture of generated heads only: two rows without and two rows with a tumor."""
    tumor = np.arange(4 * columns) >= 2 * columns
    Image.fromarray(grid(generator.sample(tumor, seed, STEPS), columns)).save(path, optimize=True)


def render(results: dict[str, Any]) -> str:
    """``docs/diffusion.md`` from the kept results."""
    manifest, training = results["manifest"], results["manifest"]["training"]
    plan = manifest["plan"]
    lines = [
        "# Generated pictures of heads",
        "",
        "A denoising diffusion model with implicit sampling (DDIM, arXiv 2010.02502) draws canvases of heads with or",
        "without a tumor. The pictures show no patient, carry no mask and are good for no diagnosis. This page is written",
        "by `neurovision diffuse check` and `neurovision diffuse ablate`; do not edit it by hand.",
        "",
        f"- Pictures: {plan['size']} x {plan['size']}; {manifest['parameters']:,} parameters, weights"
        f" `{manifest['sha256'][:12]}`, {training['license']}.",
        f"- Trained on {training['scans']:,} scans of folds {', '.join(map(str, training['folds']))}"
        f" ({', '.join(training['sources'])}) for {training['epoch']} passes, {training['scans_seen']:,} pictures in all.",
        f"- After the last pass, mean absolute errors in deviations: noise {training['noise_loss']:.4f}, picture"
        f" {training['image_loss']:.4f}; on fold {training['validation_fold']}, not trained on, with averaged weights:"
        f" noise {training['val_noise_loss']:.4f}, picture {training['val_image_loss']:.4f}.",
        "- The source document claims, after 1000 passes over 253 pictures with its own scaling: noise 0.0601, picture"
        " 0.1161, KID 1.66 to 1.76. Its errors are of the same kind; its KID is on Inception's features and does not",
        "  compare with the one below.",
    ]
    if "check" in results:
        lines += _render_check(results["check"], training)
    if "ablate" in results:
        lines += _render_ablation(results["ablate"], training, manifest["sha256"][:12])
    return "\n".join(lines) + "\n"


def _render_check(found: dict[str, Any], training: dict[str, Any]) -> list[str]:
    kid, near = found["kid"], found["near"]
    head = [f"{kind}, {h}" for kind in ("distance", "ratio") for h in QUANTILES]
    lines = [
        "", "![Generated heads: two rows without, two rows with a tumor](images/diffusion.png)", "",
        "*Samples only: above without, below with a tumor.*", "", "## Distance from real pictures", "",
        f"Kernel distance (KID) between {found['count']} pictures and as many scans of fold {training['validation_fold']},"
        " on the features of the compact",
        "ImageNet encoder (EfficientNet-Lite0), since Inception's weights are not part of any package. Lower is closer.", "",
        "| pictures | KID |", "|---|---:|", f"| generated, {STEPS} steps | {kid['generated']:.3f} |",
        f"| real scans of the training folds | {kid['training']:.3f} |", f"| noise | {kid['noise']:.3f} |", "",
        "## Copies", "",
        "Root mean square difference from the nearest training picture, mirrored or not, and its ratio to the mean over the",
        f"{NEIGHBORS} nearest: near 1 for a picture of its own, near 0 for a copy. Held-out scans show what is usual.", "",
        f"| pictures | {' | '.join(head)} |", "|---|" + "---:|" * len(head),
    ]  # fmt: skip
    for who, values in near.items():
        cells = [f"{values[kind][h]:.3f}" for kind in ("distance", "ratio") for h in QUANTILES]
        lines.append(f"| {who} | {' | '.join(cells)} |")
    share = near["generated"]["below"]
    return [
        *lines, "",
        f"{100 * share:.1f} % of the generated pictures have a ratio below that of the closest 1 % of held-out scans:"
        + (" no sign of copies." if share <= 0.01 else " more than the 1 % that chance would give; look at these pairs."),
        "", f"`{found['command']}`, {found['date']}, {found['machine']}, weights `{found['weights']}`.",
    ]  # fmt: skip


def _render_ablation(found: dict[str, Any], training: dict[str, Any], shipped: str) -> list[str]:
    def cell(values: list[float]) -> str:
        return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"

    arms = found["arms"]
    gain = [float(np.mean(arms["real and generated"][k]) - np.mean(arms["real"][k])) for k in ("auc", "auc_lgg")]
    spread = max(max(v) - min(v) for arm in arms.values() for v in arm.values())
    shown = max(map(abs, gain)) > spread
    words = "more than the seeds differ" if shown else "within what the seeds differ: no effect is shown"
    return [
        "", "## Do they help a classifier?", "",
        f"The custom CNN of the classifiers, trained {len(found['seeds'])} times an arm for {found['steps']} steps on"
        f" {found['scans']:,} scans of the training folds,",
        f"alone or with {found['generated']} generated pictures in half of every batch; tested on {found['tests']} scans of"
        f" fold {training['validation_fold']} (whole patients).",
        "Mean area under the ROC curve, least to most in brackets.", "",
        "| trained on | all sources | within LGG |", "|---|---:|---:|",
        *(f"| {arm} | {cell(values['auc'])} | {cell(values['auc_lgg'])} |" for arm, values in arms.items()), "",
        f"Change with generated pictures: {gain[0]:+.3f} and {gain[1]:+.3f}, {words}. A small budget: a hint, no proof.", "",
        f"`{found['command']}`, {found['date']}, {found['machine']}, weights `{found['weights']}`"
        + ("." if found["weights"] == shipped else ", **not the shipped ones: run it again.**"),
    ]  # fmt: skip
