"""Masks from a person's hints: the Segment Anything Model (Kirillov 2023, arXiv 2304.02643) with points and boxes.

SAM was trained on photographs and knows nothing of tumors. What it draws is a proposal to a person, never a finding and
never ground truth.

The model is Hugging Face's ``SamModel`` on PyTorch, an optional extra. keras-hub has SAM too, but needs
``tensorflow-text``, which installs TensorFlow a second time beside ``tensorflow-cpu``.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from neurovision.errors import ModelError, WeightsMissing, WeightsTampered
from neurovision.files import write
from neurovision.scan.study import Source

if TYPE_CHECKING:
    from transformers import SamModel

REPOSITORY = "facebook/sam-vit-base"  # Apache 2.0, 375 MB
REVISION = "70c1a07f894ebb5b307fd9eaaee97b9dfc16068f"
SUFFIX = ".proposals.json"
FILES = ("config.json", "model.safetensors")
NAME = f"{REPOSITORY}@{REVISION[:12]}"
# Of ImageNet in 255ths, red first, as SAM's weights expect.
_MEAN, _DEVIATION = np.array([123.675, 116.28, 103.53], np.float32), np.array([58.395, 57.12, 57.375], np.float32)

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Hint:
    """A point that a person set.

    Attributes:
        x: Column in the slice's own pixels, counted from 0.
        y: Row.
        inside: Whether the point lies in what is to be marked, or outside of it.
    """

    x: float
    y: float
    inside: bool = True


@dataclass(frozen=True)
class Proposal:
    """One mask that the model proposes.

    Attributes:
        mask: bool ``(H, W)`` in the slice's own pixels.
        score: The model's own estimate of the mask's intersection over union with what was meant; not measured.
    """

    mask: np.ndarray
    score: float


class Prompter:
    """SAM, ready to be asked.

    Args:
        model: The network.
        name: Which weights it has, as it is written beside accepted masks.
    """

    def __init__(self, model: SamModel, name: str = NAME) -> None:
        self._model, self.name = model.eval(), name

    def propose(self, gray: np.ndarray, hints: Sequence[Hint] = (), box: Box | None = None) -> tuple[Proposal, ...]:
        """Ask for masks of one object.

        Args:
            gray: float32 ``(H, W)`` in [0, 1].
            hints: Points in and around the object.
            box: ``(x0, y0, x1, y1)`` around the object in the slice's own pixels.

        Returns:
            Three proposals, the one with the highest score first.

        Raises:
            ModelError: No hint and no box, a point or a box outside the slice, or a box without area.
        """
        import torch

        height, width = gray.shape
        _check(hints, box, height, width)
        size = int(self._model.config.vision_config.image_size)
        scale = size / max(height, width)
        small = (max(1, round(height * scale)), max(1, round(width * scale)))
        shrink = np.array([small[1] / width, small[0] / height], np.float32)
        asked: dict[str, Any] = {"pixel_values": torch.from_numpy(_pixels(gray, small, size))}
        if hints:
            points = np.array([[h.x, h.y] for h in hints], np.float32) * shrink
            asked["input_points"] = torch.from_numpy(points[None, None])
            asked["input_labels"] = torch.tensor([[[int(h.inside) for h in hints]]])
        if box is not None:
            asked["input_boxes"] = torch.from_numpy((np.array(box, np.float32).reshape(2, 2) * shrink).reshape(1, 1, 4))
        with torch.no_grad():
            answer = self._model(**asked, multimask_output=True)
        logits, scores = answer.pred_masks[0, 0].float().numpy(), answer.iou_scores[0, 0].float().numpy()
        found = []
        for plane, score in zip(logits, scores, strict=True):
            whole = cv2.resize(plane, (size, size), interpolation=cv2.INTER_LINEAR)[: small[0], : small[1]]
            mask = cv2.resize(whole, (width, height), interpolation=cv2.INTER_LINEAR) > 0
            found.append(Proposal(mask, float(np.clip(score, 0, 1))))
        return tuple(sorted(found, key=lambda p: -p.score))


def load_prompter(folder: Path | None = None, fetch: bool = False) -> Prompter:
    """Load SAM.

    Args:
        folder: A folder with other weights of the same architecture (``config.json``, ``model.safetensors``), such as a
            larger SAM; by default what NEUROVISION_SAM names, else REPOSITORY at REVISION from the local cache.
        fetch: Fetch the weights where they are not in the cache yet.

    Raises:
        ModelError: The optional packages are not installed.
        WeightsMissing: The weights are not here and could not be, or were not to be, fetched.
        WeightsTampered: The files are not SAM's.
    """
    chosen, name = locate(folder, fetch)
    from transformers import SamModel

    try:
        model = SamModel.from_pretrained(chosen, local_files_only=True, use_safetensors=True)
    except (MemoryError, ImportError):  # of this machine, not of the files
        raise
    except Exception as e:  # the library raises anything on files that are not its own
        raise WeightsTampered(f"{FILES[1]} and {FILES[0]} are not a SAM that can be read; fetch them again.") from e
    return Prompter(model, name)


def locate(folder: Path | None = None, fetch: bool = False) -> tuple[Path, str]:
    """Where the weights are and what they are called, without loading them; see :func:`load_prompter`."""
    if not importlib.util.find_spec("transformers") or not importlib.util.find_spec("torch"):
        raise ModelError("SAM needs two more packages; install them with: pip install 'neurovision[sam]'.")
    named = os.environ.get("NEUROVISION_SAM")
    folder = folder or (Path(named) if named else None)
    if folder is None:
        return cached(fetch), NAME
    for file in FILES:
        if not (folder / file).is_file():
            raise WeightsMissing(f"SAM's weights are {' and '.join(FILES)}; the folder {folder.name} has no {file}.")
    return folder, f"folder {folder.name}"


def cached(fetch: bool = False, endpoint: str | None = None) -> Path:
    """The folder of the pinned weights in the local cache.

    Args:
        fetch: Fetch what is missing; nothing is sent but the request for the files.
        endpoint: Another server than Hugging Face's own, such as a mirror.

    Raises:
        WeightsMissing: They are not there and could not be, or were not to be, fetched.
    """
    from huggingface_hub import hf_hub_download

    try:
        paths = [
            Path(hf_hub_download(REPOSITORY, file, revision=REVISION, local_files_only=not fetch, endpoint=endpoint))
            for file in FILES
        ]
    except (OSError, ValueError) as e:  # LocalEntryNotFoundError, HfHubHTTPError and refused connections among them
        reason = "they could not be fetched; connect to the network" if fetch else "nothing was fetched"
        raise WeightsMissing(
            f"SAM's weights ({REPOSITORY}, 375 MB) are not on this computer and {reason}"
            f"{' and try again' if fetch else ': run neurovision sam fetch once'}."
        ) from e
    return paths[0].parent


def _check(hints: Sequence[Hint], box: Box | None, height: int, width: int) -> None:
    if not hints and box is None:
        raise ModelError("SAM needs at least one point inside the object, or a box around it.")
    if hints and box is None and not any(h.inside for h in hints):
        raise ModelError("Points outside the object alone say nothing; add a point inside it, or a box around it.")
    for hint in hints:
        if not (0 <= hint.x < width and 0 <= hint.y < height):
            raise ModelError(f"The point {hint.x:g},{hint.y:g} lies outside the slice, which is {width} x {height}.")
    if box is not None:
        x0, y0, x1, y1 = box
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise ModelError(
                f"A box is x0,y0,x1,y1 with x0 < x1 and y0 < y1 inside the slice, which is {width} x {height};"
                f" received {x0:g},{y0:g},{x1:g},{y1:g}."
            )


def _pixels(gray: np.ndarray, small: tuple[int, int], size: int) -> np.ndarray:
    """The slice as SAM reads it: float32 ``(1, 3, size, size)``, longer side ``size``, zeros to the right and below."""
    shrinks = small[0] < gray.shape[0]
    resized = cv2.resize(
        gray.astype(np.float32), small[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    out = np.zeros((1, 3, size, size), np.float32)
    colors = (np.clip(resized, 0, 1)[..., None] * 255 - _MEAN) / _DEVIATION
    out[0, :, : small[0], : small[1]] = colors.transpose(2, 0, 1)
    return out


def write_proposals(
    found: Sequence[Proposal],
    asked: Prompter,
    hints: Sequence[Hint],
    box: Box | None,
    source: Source,
    index: int,
    listed: Path,
) -> list[Path]:
    """Write the masks as PNGs (0 or 255) and a list of them that says what they were made from and by.

    Args:
        found: The proposals.
        asked: Who made them.
        hints: From these points.
        box: And this box.
        source: The scan's.
        index: Its slice, from 0.
        listed: Path of the list, ``NAME.proposals.json``; the masks become ``NAME.proposal1.png`` and so on.

    Returns:
        The masks, then the list.
    """
    stem = listed.name.removesuffix(SUFFIX)
    paths = [listed.with_name(f"{stem}.proposal{number}.png") for number in range(1, len(found) + 1)]
    for path, proposal in zip(paths, found, strict=True):
        Image.fromarray(proposal.mask.astype(np.uint8) * 255).save(path)
    described = {
        "scan": {"name": source.name, "sha256": source.sha256, "slice": index + 1},
        "model": asked.name,
        "hints": [asdict(h) for h in hints],
        "box": box,
        "proposals": [
            {"file": path.name, "score": round(p.score, 4), "pixels": int(p.mask.sum())}
            for path, p in zip(paths, found, strict=True)
        ],
    }
    write(listed, json.dumps(described, indent=1) + "\n")
    return [*paths, listed]


def read_hints(texts: Sequence[str], inside: bool) -> list[Hint]:
    """Points as a person writes them, ``"x,y"`` each.

    Raises:
        ModelError: Something else.
    """
    pairs = [_numbers(t, 2, "A point is x,y") for t in texts]
    return [Hint(x, y, inside) for x, y in pairs]


def read_box(text: str) -> Box:
    """A box as a person writes it, ``"x0,y0,x1,y1"``.

    Raises:
        ModelError: Something else.
    """
    x0, y0, x1, y1 = _numbers(text, 4, "A box is x0,y0,x1,y1")
    return x0, y0, x1, y1


def _numbers(text: str, count: int, rule: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count or not np.isfinite(values).all():
        raise ModelError(f"{rule} in pixels of the slice, with commas between; received {text!r}.")
    return values
