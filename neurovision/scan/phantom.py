"""A procedural head with exact truth: the examples and the tests' fixtures, free of any patient.

It imitates what a post-contrast T1 or a FLAIR slice shows: scalp, skull, cortex folded by smooth noise, white
matter, ventricles, bias field and Rician noise. The anatomy is a caricature; the truth is exact.
"""

from __future__ import annotations

import numpy as np

from neurovision.classes import BACKGROUND, HEAD, SHIPPED
from neurovision.errors import ModelError
from neurovision.scan.study import Source, Study

KINDS = ("healthy", "glioma", "meningioma", "pituitary")


def phantom(kind: str, seed: int = 0, size: int = 256, sequence: str = "T1") -> tuple[Study, np.ndarray]:
    """Draw one axial slice through the tumor (or through the ventricles of a healthy head).

    Args:
        kind: One of KINDS.
        seed: Same seed, same head.
        size: Side in pixels.
        sequence: ``"T1"`` (post-contrast: tumor bright, fluid dark) or ``"FLAIR"`` (flatter, fluid dark).

    Returns:
        The Study ``(1, size, size, 1)`` with spacing None, and its truth, uint8 ``(size, size)`` of class indices.

    Raises:
        ModelError: An unknown kind.
    """
    head = _Head(kind, seed, sequence)
    pixels, truth = head.slice(head.tumor_center[2] if kind != "healthy" else 0.1, size)
    source = Source(f"phantom-{kind}-{seed}", "phantom", sequence=sequence)
    return Study(pixels[None, ..., None], source), truth


def phantom_volume(
    kind: str, seed: int = 0, size: int = 128, slices: int = 24, sequence: str = "T1"
) -> tuple[Study, np.ndarray]:
    """Draw a stack of axial slices of one head, feet to head, 220 mm wide and 160 mm high.

    Returns:
        The Study ``(slices, size, size, 1)`` with spacing and an LPS affine, and its truth,
        uint8 ``(slices, size, size)``.

    Raises:
        ModelError: An unknown kind.
    """
    head = _Head(kind, seed, sequence)
    heights = np.linspace(-0.75, 0.9, slices)
    drawn = [head.slice(float(z), size) for z in heights]
    dz, dxy = 160.0 * 1.65 / 2 / max(slices - 1, 1), 220.0 / size
    affine = np.array(
        [[0, 0, dxy, -110], [0, dxy, 0, -110], [dz, 0, 0, -60], [0, 0, 0, 1]], np.float64
    )  # columns: slice, row, column
    source = Source(f"phantom-{kind}-{seed}", "phantom", sequence=sequence)
    study = Study(np.stack([p for p, _ in drawn])[..., None], source, (dz, dxy, dxy), affine)
    return study, np.stack([t for _, t in drawn])


class _Waves:
    """Smooth noise in three dimensions: a sum of sines with random directions, about unit deviation."""

    def __init__(self, rng: np.random.Generator, frequency: float, count: int = 12) -> None:
        self.k = rng.normal(size=(count, 3)) * frequency
        self.phase = rng.uniform(0, 2 * np.pi, count)

    def __call__(self, x: np.ndarray, y: np.ndarray, z: float) -> np.ndarray:
        total = np.zeros(np.broadcast(x, y).shape)
        for (kx, ky, kz), phase in zip(self.k, self.phase, strict=True):
            total += np.sin(kx * x + ky * y + kz * z + phase)
        return total / np.sqrt(len(self.phase) / 2)


class _Head:
    """One head: everything random is drawn once, so that its slices fit together."""

    def __init__(self, kind: str, seed: int, sequence: str) -> None:
        if kind not in KINDS:
            raise ModelError(f"A phantom's kind is one of {', '.join(KINDS)}; received {kind!r}.")
        self.kind, self.seed, self.sequence = kind, seed, sequence
        self.rng = rng = np.random.default_rng([seed, KINDS.index(kind)])
        self.half_width, self.half_length = rng.uniform(0.62, 0.7), rng.uniform(0.78, 0.88)
        self.shift = rng.uniform(-0.05, 0.05, 2)
        self.turn = rng.uniform(-0.12, 0.12)
        self.fold, self.warp = _Waves(rng, 14.0), _Waves(rng, 3.0)
        self.bias, self.texture = _Waves(rng, 1.2, 4), _Waves(rng, 18.0)
        self.boundary = _Waves(rng, 9.0)
        self.gain = rng.uniform(0.85, 1.15)
        side = rng.choice([-1, 1])
        brain = 0.86  # of the head's half axes
        if kind == "glioma":
            self.radius = rng.uniform(0.13, 0.25)
            self.tumor_center = np.array([side * rng.uniform(0.2, 0.32), rng.uniform(-0.35, 0.35), rng.uniform(0, 0.3)])
        elif kind == "meningioma":
            self.radius = rng.uniform(0.11, 0.19)
            angle = rng.uniform(-1.1, 1.1) + (0 if side > 0 else np.pi)
            rim = 0.93 * brain - 0.75 * self.radius
            self.tumor_center = np.array(
                [np.cos(angle) * (rim * self.half_width), np.sin(angle) * (rim * self.half_length), rng.uniform(0, 0.25)]
            )
        else:
            self.radius = rng.uniform(0.08, 0.13)
            self.tumor_center = np.array([rng.uniform(-0.03, 0.03), -0.18 + rng.uniform(-0.05, 0.05), -0.45])

    def slice(self, z: float, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw the slice at height ``z`` in [-1, 1]: float32 ``(size, size)`` in [0, 1] and its uint8 truth."""
        rng = np.random.default_rng([self.seed, round((z + 2) * 1e4), 7])
        grid = (np.arange(size) + 0.5) / size * 2 - 1
        gy, gx = np.meshgrid(grid, grid, indexing="ij")
        gx, gy = gx - self.shift[0], gy - self.shift[1]
        x = np.cos(self.turn) * gx + np.sin(self.turn) * gy
        y = -np.sin(self.turn) * gx + np.cos(self.turn) * gy
        scale = np.sqrt(max(1 - z * z, 0.02))
        radius = np.hypot(x / (self.half_width * scale), y / (self.half_length * scale)) * (
            1 + 0.015 * self.warp(x, y, z)
        )
        head, skull, brain = radius < 1.0, (radius < 0.95) & (radius > 0.88), radius < 0.86
        flair = self.sequence == "FLAIR"
        depth = radius + 0.06 * self.fold(x, y, z) + 0.03 * self.warp(x, y, z)
        gray_matter, white_matter, fluid = (0.52, 0.42, 0.12) if flair else (0.42, 0.55, 0.14)
        image = np.where(head, 0.62 if not flair else 0.55, 0.0)
        image = np.where(skull, 0.08, image)
        image = np.where((radius <= 0.88) & head, fluid, image)
        tissue = np.where(depth < 0.68, white_matter, gray_matter)
        midline = (np.abs(x + 0.01 * self.fold(x, y, z)) < 0.012) & (radius > 0.35)
        tissue = np.where(midline, fluid + 0.06, tissue)
        tissue = np.where(self._ventricles(x, y, z), fluid, tissue)
        image = np.where(brain, tissue + 0.015 * self.texture(x, y, z), image)
        truth = np.where(head, HEAD.index, BACKGROUND.index).astype(np.uint8)
        if self.kind != "healthy":
            image, truth = self._add_tumor(image, truth, (x, y, z), radius < 0.88, flair)
        image = image * self.gain * (1 + 0.12 * self.bias(x, y, z))
        noise = rng.normal(0, 0.018, (2, size, size))
        image = np.hypot(_blur(image) + noise[0], noise[1])
        return np.clip(image, 0, 1).astype(np.float32), truth

    def _ventricles(self, x: np.ndarray, y: np.ndarray, z: float) -> np.ndarray:
        height = 1 - ((z - 0.1) / 0.38) ** 2
        if height <= 0:
            return np.zeros(x.shape, bool)
        wx, wy = 0.055 * np.sqrt(height), 0.26 * np.sqrt(height)
        bend = np.abs(x) - 0.075 - 0.25 * np.abs(y) ** 1.5
        return (bend / wx) ** 2 + (y / wy) ** 2 < 1

    def _add_tumor(
        self, image: np.ndarray, truth: np.ndarray, at: tuple[np.ndarray, np.ndarray, float], inside: np.ndarray, flair: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        x, y, z = at
        cx, cy, cz = self.tumor_center
        distance = np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + (0.8 * (z - cz)) ** 2)
        rough = {"glioma": 0.16, "meningioma": 0.05, "pituitary": 0.05}[self.kind]
        edge = distance / (self.radius * (1 + rough * self.boundary(x, y, z)))
        tumor = (edge < 1) & inside
        texture = self.texture(x, y, z)
        if self.kind == "glioma" and not flair:
            edema = (edge < 1.45) & inside & (image > 0.3)
            image = np.where(edema, image - 0.12, image)
            image = np.where(tumor, 0.82 + 0.05 * texture, image)
            image = np.where((edge < 0.6) & tumor, 0.3 + 0.06 * texture, image)  # necrosis inside an enhancing rim
        else:
            image = np.where(tumor, (0.8 if flair else 0.86) + 0.02 * texture, image)
        return image, np.where(tumor, SHIPPED.by_key[self.kind].index, truth).astype(np.uint8)


def _blur(image: np.ndarray) -> np.ndarray:
    """Mean of a pixel and its four neighbors, twice: the point spread of a scanner."""
    for _ in range(2):
        p = np.pad(image, 1, mode="edge")
        image = (2 * image + p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:]) / 6
    return image
