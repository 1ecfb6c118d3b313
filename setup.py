"""What the package depends on: the pins of requirements.txt, less those that pyproject.toml makes an extra.

requirements.txt is one flat list, since a Space reads only that file.
"""

import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
pins = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")]
extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

setup(install_requires=[pin for pin in pins if pin not in extras["dicom"]])
