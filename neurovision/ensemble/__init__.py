"""The product: members segment, trees vote on every pixel, a calibrated model gives the verdict."""
