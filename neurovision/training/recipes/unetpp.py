"""UNet++ with the EfficientNet-Lite0 encoder: ImageNet weights, decoder first, small canvases first."""

from neurovision.training.recipes import Phase, Recipe

RECIPE = Recipe(
    "unetpp",
    config={"width": 12, "encoder": "efficientnetlite0", "encoder_weights": "imagenet"},
    phases=(
        Phase(128, 1, 2e-3, "encoder"),
        Phase(128, 4, 1e-3, "depthwise"),
        Phase(160, 1, 6e-4, "depthwise"),
        Phase(160, 3, 6e-4, "depthwise"),
        Phase(160, 5, 6e-4, "depthwise"),
        Phase(160, 10, 6e-4, "depthwise"),
        Phase(192, 2, 3e-4, "depthwise"),
        # Those of 64 scans a step: by the clock on a GPU, in bfloat16; so many epochs show as many scans.
        Phase(192, 29, 1e-3, "depthwise", batch=64),
        Phase(192, 4, 5e-4, "depthwise", augment=0.7, randomize=0.25, closer=0.4),
        Phase(192, 12, 5e-4, "depthwise", batch=64, refit=True, start=7),
        Phase(192, 4, 3e-4, "depthwise", refit=True),
        Phase(192, 3, 5e-4, "depthwise", refit=True, augment=0.7, randomize=0.25, closer=0.4),
    ),
    batch=8,
    schedule="cosine",
    warmup=0.1,
    weight_decay=1e-4,
)
