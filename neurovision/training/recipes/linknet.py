"""LinkNet over the EfficientNet-Lite0 that U-Net trained: decoder first, small canvases first, the vote's fold last."""

from neurovision.training.recipes import Phase, Recipe

RECIPE = Recipe(
    "linknet",
    config={"width": 16, "encoder": "efficientnetlite0"},
    start="unet_efficientnet",
    phases=(
        Phase(128, 1, 2e-3, "encoder"),
        Phase(128, 6, 8e-4, "depthwise"),
        Phase(160, 4, 6e-4, "depthwise"),
        Phase(160, 4, 5e-4, "depthwise", refit=True),
        Phase(160, 4, 5e-4, "depthwise", refit=True),
    ),
    average=2,
    batch=8,
    schedule="cosine",
    warmup=0.1,
    weight_decay=1e-4,
)
