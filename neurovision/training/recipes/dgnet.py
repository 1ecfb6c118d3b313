"""DGNet, compact: trained from scratch, small canvases first."""

from neurovision.training.recipes import Phase, Recipe

RECIPE = Recipe(
    "dgnet",
    config={"width": 16},
    phases=(Phase(128, 5, 2e-3), Phase(160, 2, 8e-4)),
    batch=8,
    schedule="cosine",
    warmup=0.1,
    weight_decay=1e-4,
)
