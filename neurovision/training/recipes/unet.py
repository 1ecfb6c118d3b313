"""U-Net, compact: trained from scratch, small canvases first."""

from neurovision.training.recipes import Phase, Recipe

RECIPE = Recipe(
    "unet",
    config={"width": 16},
    phases=(
        Phase(128, 11, 1.5e-3),
        Phase(160, 11, 8e-4),
        Phase(160, 2, 5e-4),
        Phase(160, 6, 8e-4),
        Phase(160, 13, 8e-4),
        Phase(192, 2, 3e-4, augment=0.5, randomize=0.15),
        # Those of 64 scans a step: by the clock on a GPU, in bfloat16; so many epochs show as many scans.
        Phase(192, 38, 1.5e-3, batch=64),
        Phase(192, 15, 6e-4, batch=64, augment=0.5, randomize=0.15),
        Phase(192, 4, 5e-4, augment=0.7, randomize=0.25, closer=0.4),
        Phase(192, 18, 7.5e-4, batch=64, refit=True, start=7),
        Phase(192, 3, 3e-4, refit=True, augment=0.5, randomize=0.15),
        Phase(192, 3, 5e-4, refit=True, augment=0.7, randomize=0.25, closer=0.4),
    ),
    batch=8,
    schedule="cosine",
    warmup=0.1,
    weight_decay=1e-4,
)
