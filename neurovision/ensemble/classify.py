"""A trained whole-image classifier: tumor or no tumor for one file or many, without a mask."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurovision.ensemble.engine import fill
from neurovision.errors import WeightsMissing, WeightsTampered
from neurovision.scan.prepare import fullest_slice, prepare, standardize
from neurovision.scan.read import read

FILE = "classifier.json"
BATCH = 16


@dataclass(frozen=True)
class Diagnosis:
    """What a classifier says of one scan.

    Attributes:
        image: The file's name without folders.
        probability: Of a tumor, in [0, 1], not calibrated.
        threshold: The probability from which the diagnosis is a tumor.
    """

    image: str
    probability: float
    threshold: float

    @property
    def tumor(self) -> bool:
        """Whether the diagnosis is a tumor."""
        return self.probability >= self.threshold

    def text(self) -> str:
        """The diagnosis as a sentence."""
        return f"Tumor detected (confidence: {self.probability:.3f})" if self.tumor else "No tumor detected"

    def to_json(self) -> dict[str, Any]:
        """``{"image", "probability", "diagnosis"}``."""
        return {"image": self.image, "probability": round(self.probability, 4), "diagnosis": self.text()}


class TrainedClassifier:
    """A classifier with its weights, its canvas size and its threshold."""

    def __init__(self, model: Any, threshold: float) -> None:
        self.model, self.threshold = model, threshold

    @classmethod
    def load(cls, folder: Path) -> TrainedClassifier:
        """Load what ``training.fit_classifier`` wrote.

        Raises:
            WeightsMissing: The folder holds no finished classifier.
            WeightsTampered: The description cannot be read, or the weights are not the described ones.
        """
        from neurovision.classifiers import build

        if not (folder / FILE).is_file():
            raise WeightsMissing(f"There is no {FILE} in {folder.name}/; train one with 'neurovision fit-classifier'.")
        try:
            described = json.loads((folder / FILE).read_bytes())
            name, config, size = str(described["name"]), dict(described["config"]), int(described["size"])
            file, sha256, threshold = str(described["file"]), str(described["sha256"]), float(described["threshold"])
        except (ValueError, KeyError, TypeError) as e:
            raise WeightsTampered(f"{FILE} does not describe a classifier that this version reads; train it again.") from e
        path = folder / file
        if Path(file).name != file or not path.is_file():
            raise WeightsMissing(f"{FILE} names {file}, which is not beside it; train the classifier again.")
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise WeightsTampered(f"{file} is not the file that {FILE} describes; train the classifier again.")
        model = build(name, (size, size, 1), **config)
        fill(model, path, data)  # the very bytes whose digest was checked
        return cls(model, threshold)

    def probabilities(self, canvases: np.ndarray) -> np.ndarray:
        """Tumor probabilities ``(N,)`` of standardized canvases, float32 ``(N, size, size)``."""
        found = self.model.predict(canvases[..., None], batch_size=BATCH, verbose=0)
        return np.asarray(found, np.float32)[:, 0]

    def classify(self, paths: Sequence[Path]) -> list[Diagnosis]:
        """Read and classify scans, of a volume the fullest slice; answers stand in the order of ``paths``.

        Raises:
            ScanError: A file that cannot be read.
        """
        size = int(self.model.input_shape[1])
        found: list[Diagnosis] = []
        for first in range(0, len(paths), BATCH):
            part = paths[first : first + BATCH]
            studies = [read(p) for p in part]
            canvases = np.stack(
                [standardize(prepare(s.gray(fullest_slice(s)), size, s.pixel_shape).pixels) for s in studies]
            )
            values = self.probabilities(canvases)
            found += [Diagnosis(p.name, float(v), self.threshold) for p, v in zip(part, values, strict=True)]
        return found
