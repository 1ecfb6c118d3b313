"""LinkNet with the EfficientNet-Lite0 encoder: ImageNet weights, decoder first, then all of it, small canvases first."""

from neurovision.training.recipes import Phase, Recipe

RECIPE = Recipe(
    "linknet",
    config={"width": 16, "encoder": "efficientnetlite0", "encoder_weights": "imagenet"},
    phases=(
        Phase(128, 1, 2e-3, "encoder"),
        Phase(128, 5, 1e-3),
        Phase(160, 2, 6e-4),
        Phase(160, 3, 5e-4, batch=4),
    ),
    batch=8,
    schedule="cosine",
    warmup=0.1,
    weight_decay=1e-4,
)
