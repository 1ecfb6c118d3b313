"""The classifier that reads the whole slice: ImageNet weights, small canvases first."""

from neurovision.training.recipes import Phase, Recipe

RECIPE = Recipe(
    "efficientnetlite0",
    task="type",
    config={"answers": 5, "encoder_weights": "imagenet"},
    phases=(
        Phase(128, 7, 1e-3, "depthwise"),
        Phase(160, 3, 4e-4, "depthwise"),
        Phase(160, 1, 6e-4, "depthwise"),
        Phase(160, 3, 4e-4, "depthwise", refit=True),
    ),
    batch=16,
    epoch_scans=4000,
    mix={
        "figshare": 0.40,
        "lgg_tumor": 0.12,
        "lgg_tumor_t1c": 0.05,
        "lgg_free": 0.18,
        "healthy": 0.13,
        "unmarked": 0.08,
        "phantom": 0.04,
        "strange": 0.18,
    },
    schedule="cosine",
    warmup=0.1,
    weight_decay=1e-3,
)
