"""Rooms import only rooms above them, late imports included."""

from __future__ import annotations

import ast
from pathlib import Path

import neurovision

ROOMS = (
    ("errors", "classes"),
    ("files", "logs", "machine"),
    ("scan",),
    ("segmenters",),
    ("classifiers",),
    ("ensemble",),
    ("aids",),
    ("training",),
    ("evaluation",),
    ("views",),
    ("serving",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(ROOMS) for name in names}
ROOT = Path(neurovision.__file__).parent


def imports_of(path: Path) -> set[str]:
    """Rooms that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module] + [f"{node.module}.{a.name}" for a in node.names]
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: imports are absolute"
        found |= {n.split(".")[1] for n in names if n.startswith("neurovision.")}
    return found & set(LEVEL)


def test_every_file_stands_in_a_room():
    tops = {p.relative_to(ROOT).parts[0].removesuffix(".py") for p in ROOT.rglob("*.py")}
    assert tops - {"__init__"} <= set(LEVEL)


def test_rooms_import_only_rooms_above():
    for path in ROOT.rglob("*.py"):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        below = {r for r in imports_of(path) if LEVEL[r] > LEVEL[room]}
        assert not below, f"{path.relative_to(ROOT)} imports {below}, which stand below {room}"
