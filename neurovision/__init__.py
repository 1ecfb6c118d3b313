"""neurovision: segment a brain MRI with five networks, let trees vote on every pixel, say what was found.

A research tool, not a medical device::

    from neurovision import Analyzer, read

    findings = Analyzer.load().analyze(read("scan.png"))
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {"Analyzer": "neurovision.ensemble.pipeline", "read": "neurovision.scan.read"}
__all__ = ["Analyzer", "__version__", "read"]  # the first and last are loaded on first use


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'neurovision' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
