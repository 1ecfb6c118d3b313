"""U-Net, compact: trained from scratch, small canvases first."""

from neurovision.training.recipes import Phase, Recipe

RECIPE = Recipe(
    "unet",
    config={"width": 16},
    phases=(Phase(128, 2, 1.5e-3), Phase(160, 1, 8e-4)),
    batch=4,
    epoch_scans=1400,
    schedule="cosine",
    warmup=0.1,
    weight_decay=1e-4,
)
