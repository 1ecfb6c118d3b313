"""What the source documents claim, as recipes that can be run again: data, split, model, schedule, budget.

Every figure under ``claimed`` is a document's own. A recipe runs at two budgets: ``full`` is what the document lists,
``small`` is cut so that one core needs a minute or so. A small budget takes about a hundredth of the steps, so its
learning rates are those of the document times SMALL_RATE.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from neurovision.classes import SHIPPED
from neurovision.errors import ModelError

SMALL_RATE = 10.0
ONE = (1.0,) * len(SHIPPED)
NONE = (0.0,) * len(SHIPPED)

# "patients": training on folds 1 and 2, validation on 3, test on 4, whole patients or groups of near-copies in one fold.
# "slices": all four folds shuffled picture by picture. "copies": a changed copy of each picture is added first, then all
# are shuffled, and the validation part is the test part, as where a document enlarges its data set before it splits.
Split = Literal["patients", "slices", "copies"]


@dataclass(frozen=True)
class Budget:
    """How much a run may cost.

    Attributes:
        size: Side of the canvas in pixels.
        config: Arguments of the builder.
        scans: Training scans at most; None takes all.
        tests: Test scans at most, and half as many for validation; None takes all.
        epochs: At most so many; None as listed.
        tuning: At most so many once a pretrained encoder trains too; None as listed.
        rate: Factor of the learning rates.
    """

    size: int
    config: dict[str, Any] = field(default_factory=dict)
    scans: int | None = None
    tests: int | None = None
    epochs: int | None = None
    tuning: int | None = None
    rate: float = 1.0


@dataclass(frozen=True)
class Schedule:
    """How a segmenter is trained; a classifier's schedule is its recipe in ``fit_classifier``.

    Attributes:
        epochs: At most.
        rate: Adam's.
        decay: The rate is multiplied by this every 1000 steps, continuously; 1 keeps it.
        weight_decay: Decoupled.
        frozen: Epochs before these in which the encoder stands still.
        patience: Of early stopping; None runs all epochs.
        plateau: Multiply the rate by 0.1 after 5 epochs without a better validation loss.
    """

    epochs: int
    rate: float = 1e-4
    decay: float = 1.0
    weight_decay: float = 0.0
    frozen: int = 0
    patience: int | None = None
    plateau: bool = False


@dataclass(frozen=True)
class Claim:
    """One claim and how to run it again.

    Attributes:
        name: The key in commands and files.
        document: "A" to "E", or "ablation".
        title: What a reader sees.
        model: A segmenter, a recipe of ``fit_classifier``, or the vote's members separated by "+".
        source: Data set.
        own: The document's own split, or the nearest to it.
        full: What the document lists.
        small: What two cores can do; None where that is the full one.
        claimed: The document's figures, in [0, 1], by score; empty where it prints none.
        schedule: Of a segmenter; None for a classifier and for the vote.
        splits: Which splits are run.
        class_weights: Of the cross-entropy; None weighs by the tumor's share in the training masks.
        dice: Weight of the Dice term.
        augment: Whether training canvases are changed at random.
        musica: Whether all canvases pass MUSICA first.
        unseen: A second data set, never trained on, that is scored too.
        against: An earlier recipe that it is compared with, scan by scan.
        note: What differs from the document.
    """

    name: str
    document: str
    title: str
    model: str
    source: str
    own: Split
    full: Budget
    small: Budget | None = None
    claimed: dict[str, float] = field(default_factory=dict)
    schedule: Schedule | None = None
    splits: tuple[Split, ...] = ()
    class_weights: tuple[float, ...] | None = ONE
    dice: float = 0.0
    augment: bool = True
    musica: bool = False
    unseen: str | None = None
    against: str | None = None
    note: str = ""

    @property
    def kind(self) -> str:
        """``"classifier"``, ``"segmenter"`` or ``"vote"``."""
        if "+" in self.model:
            return "vote"
        return "classifier" if self.schedule is None else "segmenter"

    def budget(self, name: str) -> Budget:
        """The budget called ``"small"`` or ``"full"``."""
        return self.full if name == "full" or self.small is None else self.small


_LITE = {"encoder": "efficientnetlite0", "encoder_weights": "imagenet"}
_LITE_NOTE = "small: the backbone is EfficientNet-Lite0, not {}, since its ImageNet weights come as a package"


def _classifier(
    name: str, document: str, recipe: str, title: str, claimed: dict[str, float], backbone: str,
    size: int = 224, splits: tuple[Split, ...] = (), **more: Any,
) -> Claim:  # fmt: skip
    own: Split = "slices" if document == "E" else "copies"
    return Claim(
        name, document, title, recipe, "navoneel", own,
        full=Budget(size, {"encoder_weights": "imagenet"}),
        small=Budget(64, {**_LITE, "width": 128}, epochs=8, tuning=2, rate=SMALL_RATE),
        claimed=claimed, splits=splits or (own, "patients"), note=_LITE_NOTE.format(backbone), **more,
    )  # fmt: skip


def _segmenter(
    name: str, document: str, model: str, title: str, source: str, schedule: Schedule, size: int, width: int,
    claimed: Any = (), pretrained: str | None = None, splits: tuple[Split, ...] = ("slices", "patients"), note: str = "",
    **more: Any,
) -> Claim:  # fmt: skip
    config = {**_LITE, "width": width} if pretrained else {"width": width}
    return Claim(
        name, document, title, model, source, "slices",
        full=Budget(size, {"encoder_weights": "imagenet"} if pretrained else {}),
        small=Budget(64, config, scans=300, tests=120, epochs=4, rate=SMALL_RATE),
        claimed=dict(claimed), schedule=schedule, splits=splits,
        note="; ".join(x for x in (_LITE_NOTE.format(pretrained) if pretrained else "", note) if x), **more,
    )  # fmt: skip


def _dice(dice: float, iou: float, recall: float, precision: float) -> dict[str, float]:
    return {"dice": dice, "iou": iou, "recall": recall, "precision": precision}


def _b(accuracy: float, f1: float | None, auc: float, iou: float) -> dict[str, float]:
    scores = {"accuracy": accuracy, "f1": f1, "auc": auc, "binary_iou": iou}
    return {k: v for k, v in scores.items() if v is not None}


_A1 = Schedule(160, patience=20, plateau=True)
_A2 = replace(_A1, frozen=160)
_A: dict[str, Any] = {"source": "figshare", "dice": 1.0, "augment": False}
_92 = _dice(0.92, 0.86, 0.91, 0.91)
_B_NOTE = "the document's masks came from SAM: figshare's annotated ones here, and five classes instead of two"
_D: dict[str, Any] = {"source": "lgg", "augment": False, "size": 256}
_TEN = Schedule(10)
_LGG_WEIGHTED: dict[str, Any] = {"class_weights": None}
_DICE_ONLY: dict[str, Any] = {"class_weights": NONE, "dice": 1.0}
_B_SEG: dict[str, Any] = {"source": "figshare", "size": 512, "note": _B_NOTE}
_PATIENTS: dict[str, Any] = {"splits": ("patients",)}
_Change = tuple[str, str, dict[str, Any]]
_MUSICA: _Change = ("musica", "with MUSICA", {"musica": True})
_PLAIN: _Change = ("plain", "without augmentation", {"augment": False})
_AUGMENTED: _Change = ("augmented", "with augmentation", {"augment": True})

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "e-custom-cnn", "E", "Custom CNN", "custom_cnn", "navoneel", "slices", Budget(224), Budget(64, rate=1.0),
        {"accuracy": 0.752, "precision": 0.742, "recall": 0.768, "f1": 0.755, "auc": 0.812}, splits=("slices", "patients"),
        note="small: 64 pixels instead of 224, everything else as listed",
    ),
    _classifier(
        "e-two-branch", "E", "two_branch_resnet50", "Two-branch ResNet50",
        {"accuracy": 0.786, "precision": 0.801, "recall": 0.774, "f1": 0.787, "auc": 0.845, "specificity": 0.798},
        "ResNet50", against="e-custom-cnn",
    ),
    _classifier("b-resnet50-v1", "B", "resnet50_v1", "ResNet50, first version", _b(0.96, 0.9445, 0.9858, 0.91), "ResNet50"),
    _classifier(
        "b-resnet50-v2", "B", "resnet50_v2", "ResNet50, second version", _b(0.9687, 0.9687, 0.9937, 0.84), "ResNet50", 300
    ),
    _classifier(
        "b-efficientnetv2l-v1", "B", "efficientnetv2l_v1", "EfficientNetV2-L, first version", _b(0.9843, 0.99, 0.9985, 0.99),
        "EfficientNetV2-L",
    ),
    _classifier(
        "b-efficientnetv2l-v2", "B", "efficientnetv2l_v2", "EfficientNetV2-L, second version",
        _b(0.9777, 0.9777, 0.9972, 0.96), "EfficientNetV2-L",
    ),
    _classifier(
        "b-convnextbase-v1", "B", "convnextbase_v1", "ConvNeXt-Base, first version", _b(0.968, None, 0.9963, 0.93),
        "ConvNeXt-Base",
    ),
    _classifier(
        "b-convnextbase-v2", "B", "convnextbase_v2", "ConvNeXt-Base, second version", _b(0.9997, None, 1.0, 1.0),
        "ConvNeXt-Base",
    ),
    _classifier(
        "b-convnextbase-v3", "B", "convnextbase_v3", "ConvNeXt-Base, third variant", {}, "ConvNeXt-Base",
        against="b-convnextbase-v2",
    ),
    _classifier("b-vgg16", "B", "vgg16", "VGG16", {}, "VGG16"),
    Claim(
        "b-vit", "B", "Vision Transformer", "vit", "navoneel", "copies", Budget(224),
        Budget(64, {"width": 64, "depth": 4}, rate=SMALL_RATE), splits=("copies", "patients"),
    ),
    _segmenter(
        "d-unet-weighted-ce", "D", "unet", "U-Net, weighted cross-entropy", schedule=_TEN, width=8, **_D, **_LGG_WEIGHTED
    ),
    _segmenter(
        "d-unet-dice", "D", "unet", "U-Net, Dice", schedule=_TEN, width=8, **_D, **_DICE_ONLY, against="d-unet-weighted-ce"
    ),
    _segmenter(
        "d-attention-weighted-ce", "D", "attention_unet", "Attention U-Net, weighted cross-entropy", schedule=_TEN, width=8,
        **_D, **_LGG_WEIGHTED, **_PATIENTS, against="d-unet-weighted-ce",
    ),
    _segmenter(
        "d-attention-dice", "D", "attention_unet", "Attention U-Net, Dice", schedule=_TEN, width=8, **_D, **_DICE_ONLY,
        against="d-unet-dice",
    ),
    _segmenter(
        "c-nested-unet", "C", "unetpp", "Nested U-Net", "figshare", Schedule(50, plateau=True), 224, 8, **_DICE_ONLY,
        unseen="lgg", **_PATIENTS,
        note="the document names no data set: figshare here, LGG's post-contrast slices as the unseen data",
    ),
    _segmenter(
        "c-attention-unet", "C", "attention_unet", "Attention U-Net", "figshare", Schedule(50, plateau=True), 224, 8,
        **_DICE_ONLY, unseen="lgg", **_PATIENTS, against="c-nested-unet",
    ),
    _segmenter(
        "a-unet", "A", "unet", "U-Net", schedule=_A1, size=224, width=8, claimed=_dice(0.912, 0.85, 0.9, 0.9), **_A,
        note="the document names no data set: figshare here",
    ),
    _segmenter("a-unetpp", "A", "unetpp", "UNet++", schedule=_A1, size=224, width=8, claimed=_92, **_A),
    _segmenter(
        "a-linknet", "A", "linknet", "LinkNet", schedule=_A2, size=512, width=16, claimed=_92,
        pretrained="EfficientNetB7", **_A,
    ),
    _segmenter(
        "a-unet-efficientnet", "A", "unet_efficientnet", "UNet-EfficientNetB4", schedule=_A2, size=512, width=8,
        claimed=_92, pretrained="EfficientNetB4", **_A, note="its title claims 0.928",
    ),
    _segmenter("a-dgnet", "A", "dgnet", "DGNet", schedule=_A1, size=512, width=8, claimed=_92, **_A),
    _segmenter(
        "a-r2attunet", "A", "r2attunet", "R2AttU-Net", schedule=_A1, size=224, width=4,
        claimed=_dice(0.93, 0.88, 0.92, 0.92), **_A,
    ),
    Claim(
        "a-vote", "A", "Vote of the five", "a-unet+a-unetpp+a-linknet+a-unet-efficientnet+a-dgnet", "figshare", "slices",
        Budget(512), Budget(64, scans=300, tests=120), _dice(0.93, 0.87, 0.92, 0.92), splits=("slices", "patients"),
        against="a-unet-efficientnet",
        note="random forest and XGBoost fitted on the validation part; the members are the recipes above",
    ),
    *(
        _classifier(
            f"ablation-resnet50-{key}", "ablation", "resnet50_v1", f"ResNet50, first version, {words}", {}, "ResNet50",
            against="b-resnet50-v1", **change, **_PATIENTS,
        )
        for key, words, change in (_MUSICA, _PLAIN)
    ),
    *(
        _segmenter(
            f"ablation-unet-{key}", "ablation", "unet", f"U-Net, {words}", schedule=_A1, size=224, width=8,
            **{**_A, **change}, **_PATIENTS, against="a-unet",
        )
        for key, words, change in (_MUSICA, _AUGMENTED)
    ),
    _segmenter(
        "b-deeplabv3plus-v1", "B", "deeplabv3plus", "DeepLabV3+, first schedule", schedule=_TEN, width=32,
        claimed={"accuracy": 0.9965, "dice": 0.9724, "iou": 0.9474, "auc": 0.9998}, pretrained="ResNet50", **_B_SEG,
    ),
    _segmenter(
        "b-deeplabv3plus-v2", "B", "deeplabv3plus", "DeepLabV3+, second schedule", width=32,
        schedule=Schedule(100, 1e-4, 0.9, 0.01, patience=5), pretrained="ResNet50",
        claimed={"accuracy": 0.9972, "dice": 0.9776, "iou": 0.9578, "auc": 0.9998}, **_B_SEG, against="b-deeplabv3plus-v1",
    ),
    _segmenter(
        "b-deeplabv3plus-v3", "B", "deeplabv3plus", "DeepLabV3+, third schedule", width=32,
        schedule=Schedule(100, 1e-5, 0.99, 0.001, patience=5), pretrained="ResNet50",
        claimed={"accuracy": 0.9957, "dice": 0.9662, "iou": 0.9342, "auc": 0.9997}, **_B_SEG, against="b-deeplabv3plus-v1",
    ),
    _segmenter(
        "b-custom-unet", "B", "custom_unet", "Custom U-Net", schedule=_TEN, width=8,
        claimed={"accuracy": 0.9958, "dice": 0.9667, "iou": 0.93, "auc": 0.9997}, **_B_SEG,
    ),
    _segmenter(
        "b-xception-unet", "B", "xception_unet", "Xception-style U-Net", schedule=_TEN, width=8,
        claimed={"accuracy": 0.9902, "dice": 0.9241, "iou": 0.89, "auc": 0.9982}, **_B_SEG,
    ),
    _segmenter(
        "b-segformer-cnn", "B", "segformer_cnn", "SegFormer-like CNN", schedule=_TEN, width=16, **_B_SEG, **_PATIENTS
    ),
    _segmenter("b-fcn", "B", "fcn", "FCN-8s", schedule=_TEN, width=8, **{**_B_SEG, "size": 224}, **_PATIENTS),
    _segmenter("b-basnet", "B", "basnet", "BASNet", schedule=_TEN, width=8, **{**_B_SEG, "size": 256}, **_PATIENTS),
)  # fmt: skip


def claim(name: str) -> Claim:
    """The recipe called ``name``.

    Raises:
        ModelError: No such recipe.
    """
    known = {c.name: c for c in CLAIMS}
    if name not in known:
        raise ModelError(f"No claim is called {name!r}; choose one of {', '.join(known)}.")
    return known[name]
