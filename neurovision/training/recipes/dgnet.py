"""DGNet, compact: trained from scratch, small canvases first."""

from neurovision.training.recipes import Phase, Recipe

RECIPE = Recipe(
    "dgnet",
    config={"width": 16},
    phases=(
        Phase(128, 7, 1.5e-3),
        Phase(160, 4, 8e-4),
        Phase(160, 4, 6e-4),
        Phase(160, 3, 5e-4, refit=True),
    ),
    batch=8,
    schedule="cosine",
    warmup=0.1,
    weight_decay=1e-4,
)
