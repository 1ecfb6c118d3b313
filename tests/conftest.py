"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="session")
def scans() -> Path:
    """The prepared folder of real scans."""
    named = os.environ.get("NEUROVISION_DATA")
    if not named or not Path(named).is_dir():
        pytest.skip("NEUROVISION_DATA names no folder of real scans")
    return Path(named)


@pytest.fixture(scope="session")
def analyzer():
    """The shipped ensemble, loaded once."""
    from neurovision.ensemble.pipeline import Analyzer

    return Analyzer.load()
