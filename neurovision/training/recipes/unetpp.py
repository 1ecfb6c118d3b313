"""UNet++ over the EfficientNet-Lite0 that U-Net trained: decoder first, small canvases first, the vote's fold last."""

from neurovision.training.recipes import Phase, Recipe

RECIPE = Recipe(
    "unetpp",
    config={"width": 12, "encoder": "efficientnetlite0"},
    start="unet_efficientnet",
    phases=(
        Phase(128, 1, 2e-3, "encoder"),
        Phase(128, 3, 8e-4, "depthwise"),
        Phase(160, 2, 6e-4, "depthwise"),
        Phase(160, 3, 5e-4, "depthwise", refit=True),
    ),
    batch=8,
    schedule="cosine",
    warmup=0.1,
    weight_decay=1e-4,
)
