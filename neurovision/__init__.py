"""neurovision: segment a brain MRI with five networks, let trees vote on every pixel, say what was found.

A research tool, not a medical device.
"""

__version__ = "0.1.0"
