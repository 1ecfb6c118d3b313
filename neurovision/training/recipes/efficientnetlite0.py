"""The classifier that reads the whole slice: ImageNet weights, small canvases first."""

from neurovision.training.recipes import Phase, Recipe

RECIPE = Recipe(
    "efficientnetlite0",
    task="type",
    config={"answers": 5, "encoder_weights": "imagenet"},
    phases=(
        Phase(128, 7, 1e-3, "depthwise"),
        Phase(160, 3, 4e-4, "depthwise"),
        Phase(160, 2, 5e-4, "depthwise"),
        Phase(160, 6, 5e-4, "depthwise"),
        Phase(192, 3, 4e-4, "depthwise", augment=0.7, randomize=0.25),
        Phase(192, 2, 3e-4, "depthwise", refit=True, augment=0.7, randomize=0.25),
        Phase(192, 6, 4e-4, "depthwise", refit=True, augment=0.7, randomize=0.25),
    ),
    batch=16,
    epoch_scans=4000,
    mix={
        "figshare": 0.33,
        "lgg_tumor": 0.10,
        "lgg_tumor_t1": 0.03,
        "lgg_tumor_t1c": 0.04,
        "lgg_free": 0.12,
        "brats_tumor": 0.10,
        "brats_free": 0.03,
        "ms": 0.07,
        "healthy": 0.11,
        "unmarked": 0.06,
        "phantom": 0.02,
        "strange": 0.14,
    },
    schedule="cosine",
    warmup=0.1,
    weight_decay=1e-3,
)
