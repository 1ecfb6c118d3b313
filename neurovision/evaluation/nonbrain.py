"""Pictures that are no brain MRI, to measure the refusal on: photographs from installed libraries, and drawn ones."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from neurovision.ensemble.pipeline import UNFAMILIAR, Analyzer
from neurovision.scan.prepare import prepare
from neurovision.scan.study import Source, Study
from neurovision.training.screen import drawn_ct

# Photographs and microscopy that come inside packages which the project installs anyway.
_PACKAGED = {
    "skimage": "data",
    "sklearn": "datasets/images",
    "gradio": "media_assets/images",
    "matplotlib": "mpl-data/sample_data",
}
SIDE = 224  # pixels of a redrawn scan
_LEFT_OUT = {"phantom.png"}  # Shepp and Logan's head


@dataclass(frozen=True)
class Stranger:
    """A picture that must not be read as a brain MRI.

    Attributes:
        kind: ``"photograph"``, ``"photograph, part"``, ``"face"``, ``"page"``, ``"plot"``, ``"chest"``, ``"limb"``,
            ``"noise"``, ``"texture"`` or ``"blank"``.
        name: Where it comes from.
        gray: float32 ``(H, W)`` in [0, 1].
    """

    kind: str
    name: str
    gray: np.ndarray


def strangers(seed: int = 7) -> list[Stranger]:
    """All of them, the same ones for the same seed and the same installed packages: more than 200."""
    rng = np.random.default_rng(seed)
    found = list(_photographs(rng))
    found += _faces(rng)
    for draw, count in ((_page, 24), (_plot, 20), (_chest, 30), (_limb, 16), (_noise, 16), (_texture, 24), (_blank, 8)):
        found += [Stranger(draw.__name__[1:], f"drawn {k}", draw(rng)) for k in range(count)]
    return found


def spoiled(gray: np.ndarray) -> dict[str, np.ndarray]:
    """A real scan as it should not come: kind to float32 ``(H, W)``; CTs are drawn as for the fit of the screen."""
    height, width = gray.shape
    return {
        "scan, upside down": gray[::-1, ::-1],
        "scan, lower half": gray[height // 2 :],
        "scan, a middle quarter": gray[height // 4 : -height // 4, width // 4 : -width // 4],
        "scan, negative": 1 - gray,
        "scan, redrawn as a CT": drawn_ct(prepare(gray, SIDE).pixels, np.random.default_rng(7)),
    }


def measure_refusal(analyzer: Analyzer, scans: Sequence[np.ndarray]) -> dict[str, dict[str, int]]:
    """Ask the analyzer about all strangers and about spoiled scans.

    Args:
        analyzer: The product.
        scans: Real slices, float32 ``(H, W)`` in [0, 1].

    Returns:
        Kind to how many there are (``n``), were ``refused``, read with a warning (``warned``), read without one
        (``passed``) and, among all that were read, ``called_tumor``.
    """
    pictures = [(s.kind, s.gray) for s in strangers()]
    pictures += [(kind, gray) for scan in scans for kind, gray in spoiled(scan).items()]
    table: dict[str, dict[str, int]] = {}
    for kind, gray in tqdm(pictures, desc="refusal", unit="picture", disable=None):
        pixels = np.ascontiguousarray(np.clip(gray, 0, 1)[None, ..., None], np.float32)
        found = analyzer.analyze(Study(pixels, Source("picture", "array")))
        line = table.setdefault(kind, dict.fromkeys(("n", "refused", "warned", "passed", "called_tumor"), 0))
        line["n"] += 1
        what = "refused" if found.status == "rejected" else "warned" if UNFAMILIAR in found.warnings else "passed"
        line[what] += 1
        line["called_tumor"] += found.positive
    return table


def _photographs(rng: np.random.Generator) -> Iterator[Stranger]:
    for package, folder in _PACKAGED.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        for path in sorted((Path(spec.origin).parent / folder).iterdir()):
            if path.suffix.lower() not in (".png", ".jpg", ".jpeg") or path.name in _LEFT_OUT:
                continue
            with Image.open(path) as picture:
                gray = np.asarray(picture.convert("RGB").convert("L"), np.float32) / 255
            yield Stranger("photograph", f"{package}/{path.name}", gray)
            if min(gray.shape) >= 200:
                side = min(gray.shape) // 2
                top, left = (int(rng.integers(0, n - side)) for n in gray.shape)
                yield Stranger("photograph, part", f"{package}/{path.name}", gray[top : top + side, left : left + side])


def _faces(rng: np.random.Generator) -> list[Stranger]:
    spec = importlib.util.find_spec("skimage")
    path = Path(str(spec.origin)).parent / "data/lfw_subset.npy" if spec else None
    if path is None or not path.is_file():
        return []
    faces = np.load(path, allow_pickle=False)[:100]
    chosen = faces[rng.choice(len(faces), 16, replace=False)].astype(np.float32)
    return [Stranger("face", f"skimage {k}", cv2.resize(f, (200, 200), interpolation=cv2.INTER_CUBIC).clip(0, 1))
            for k, f in enumerate(chosen)]  # fmt: skip


def _page(rng: np.random.Generator) -> np.ndarray:
    """A page or a screen: lines of text, boxes, on light or dark."""
    paper = rng.uniform(0.85, 1) if rng.random() < 0.6 else rng.uniform(0, 0.15)
    ink = 12 if paper > 0.5 else 230
    page = np.full((int(rng.integers(240, 480)), int(rng.integers(240, 640))), 255 * paper, np.uint8)
    for _ in range(int(rng.integers(0, 4))):
        x, y = (int(rng.integers(0, n)) for n in page.shape[::-1])
        corner = (x + int(rng.integers(30, 200)), y + int(rng.integers(20, 120)))
        cv2.rectangle(page, (x, y), corner, int(rng.integers(256)), -1 if rng.random() < 0.5 else 2)
    for row in range(20, page.shape[0], int(rng.integers(14, 40))):
        words = "".join(rng.choice(list("abcdefghij klmnop qrstuvw xyz"), int(rng.integers(5, 60))))
        cv2.putText(page, words, (10, row), cv2.FONT_HERSHEY_SIMPLEX, float(rng.uniform(0.3, 0.8)), ink, 1, cv2.LINE_AA)
    return page.astype(np.float32) / 255


def _plot(rng: np.random.Generator) -> np.ndarray:
    """Curves, bars or dots between two axes."""
    plot = np.ones((300, 400), np.float32)
    cv2.line(plot, (40, 20), (40, 270), 0, 2)
    cv2.line(plot, (40, 270), (380, 270), 0, 2)
    if rng.random() < 0.5:
        for k in range(int(rng.integers(4, 12))):
            top = 270 - int(rng.integers(10, 230))
            cv2.rectangle(plot, (55 + 26 * k, top), (75 + 26 * k, 270), float(rng.uniform(0.2, 0.7)), -1)
    else:
        for _ in range(int(rng.integers(1, 5))):
            heights = 145 + 100 * np.sin(np.linspace(0, rng.uniform(2, 14), 330) + rng.uniform(0, 6)) * rng.random()
            points = np.stack([np.arange(330) + 45, heights], 1).astype(np.int32)
            cv2.polylines(plot, [points], False, float(rng.uniform(0, 0.6)), 2, cv2.LINE_AA)
    return plot


def _chest(rng: np.random.Generator) -> np.ndarray:
    """A chest film: two dark lungs, ribs, spine and heart in a bright body that reaches the picture's border."""
    size = 320
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    film = 0.55 + 0.15 * rng.random() - 0.3 * np.abs(x - 0.5) + 0.1 * y
    shift = rng.normal(0, 0.015, 2)
    for side, wide in ((0.31 + shift[0], 0.13), (0.69 + shift[1], 0.12)):
        lung = ((x - side) / wide) ** 2 + ((y - 0.48) / 0.3) ** 2
        film -= 0.42 / (1 + np.exp(12 * (lung - 1)))
        for rib in np.linspace(0.2, 0.72, 8):
            arc = rib + 0.5 * (x - side) ** 2 * 6
            film += 0.09 * np.exp(-(((y - arc) / 0.012) ** 2)) * (lung < 1.3)
    film += 0.25 * np.exp(-(((x - 0.5) / 0.045) ** 2))
    film += 0.22 * np.exp(-(((x - 0.56) / 0.1) ** 2) - ((y - 0.62) / 0.13) ** 2)
    film += 0.25 * np.maximum(0, y - 0.8) * 4 * (np.abs(x - 0.5) < 0.4)
    film += rng.normal(0, 0.012, film.shape)
    return np.clip(cv2.GaussianBlur(film.astype(np.float32), (5, 5), 0), 0, 1)


def _limb(rng: np.random.Generator) -> np.ndarray:
    """A long bone or two in soft tissue on air, as on a film of an arm or a leg."""
    size = 320
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    middle = 0.5 + rng.normal(0, 0.04) + rng.normal(0, 0.1) * (y - 0.5)
    film = 0.3 / (1 + np.exp(60 * (np.abs(x - middle) - rng.uniform(0.14, 0.22))))
    for offset in ((-0.06, 0.06) if rng.random() < 0.5 else (0.0,)):
        wide = rng.uniform(0.03, 0.05)
        across = np.abs(x - middle - offset) / (wide * (1 + 1.2 * np.abs(y - 0.5) ** 2 * 4))
        film += 0.45 * (across < 1) * (0.55 + 0.45 * across**2)
    film += rng.normal(0, 0.01, film.shape)
    return np.clip(cv2.GaussianBlur(film.astype(np.float32), (3, 3), 0), 0, 1)


def _noise(rng: np.random.Generator) -> np.ndarray:
    """Noise, from fine to blotchy."""
    blur = int(rng.integers(0, 8)) * 2 + 1
    noise = cv2.GaussianBlur(rng.random((256, 256)).astype(np.float32), (blur, blur), 0)
    return (noise - noise.min()) / (noise.max() - noise.min())


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Stripes, checks, rings or a heap of discs."""
    y, x = np.mgrid[:256, :256].astype(np.float32) / 256 - rng.uniform(0.3, 0.7)
    waves = rng.uniform(4, 40)
    which = int(rng.integers(4))
    if which == 0:
        picture = np.sin(waves * (x * rng.normal() + y * rng.normal()))
    elif which == 1:
        picture = np.sign(np.sin(waves * x) * np.sin(waves * y))
    elif which == 2:
        picture = np.sin(waves * np.hypot(x, y) * 2)
    else:
        picture = np.zeros((256, 256), np.float32)
        for _ in range(int(rng.integers(10, 60))):
            center = (int(rng.integers(256)), int(rng.integers(256)))
            cv2.circle(picture, center, int(rng.integers(5, 40)), float(rng.uniform(-1, 1)), -1, cv2.LINE_AA)
    return (0.5 + 0.5 * picture).astype(np.float32)


def _blank(rng: np.random.Generator) -> np.ndarray:
    """One gray, or a slow slope of it."""
    y, _ = np.mgrid[:200, :200].astype(np.float32) / 200
    return np.clip(rng.random() + (0.4 * y if rng.random() < 0.5 else 0) + 0 * y, 0, 1).astype(np.float32)
