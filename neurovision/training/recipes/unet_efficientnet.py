"""U-Net with the EfficientNet-Lite0 encoder: ImageNet weights, decoder first, small canvases first."""

from neurovision.training.recipes import Phase, Recipe

RECIPE = Recipe(
    "unet_efficientnet",
    config={"width": 8, "encoder": "efficientnetlite0", "encoder_weights": "imagenet"},
    phases=(
        Phase(128, 1, 2e-3, "encoder"),
        Phase(128, 12, 1e-3, "depthwise"),
        Phase(160, 3, 6e-4, "depthwise"),
        Phase(160, 3, 5e-4, "depthwise"),
        Phase(160, 6, 6e-4, "depthwise"),
        Phase(160, 13, 6e-4, "depthwise"),
        Phase(192, 2, 3e-4, "depthwise", augment=0.5, randomize=0.15),
        # Those of 64 scans a step: by the clock on a GPU, in bfloat16; so many epochs show as many scans.
        Phase(192, 22, 1e-3, "depthwise", batch=64),
        Phase(192, 9, 4e-4, "depthwise", batch=64, augment=0.5, randomize=0.15),
        Phase(192, 4, 5e-4, "depthwise", augment=0.7, randomize=0.25, closer=0.4),
        Phase(192, 11, 5e-4, "depthwise", batch=64, refit=True, start=8),
        Phase(192, 3, 3e-4, "depthwise", refit=True, augment=0.5, randomize=0.15),
        Phase(192, 3, 5e-4, "depthwise", refit=True, augment=0.7, randomize=0.25, closer=0.4),
    ),
    batch=8,
    schedule="cosine",
    warmup=0.1,
    weight_decay=1e-4,
)
