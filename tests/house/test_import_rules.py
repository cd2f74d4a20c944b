"""Imports point downwards: flows → trainer, rewards → models, datasets → floor; see docs/architecture.md."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOOR = ROOT / "src" / "avpref"
ROOMS = ("models", "datasets", "rewards", "trainer", "flows")

MAY_IMPORT = {
    "floor": set(),
    "models": set(),
    "datasets": set(),
    "rewards": set(),
    "trainer": {"models", "datasets"},
    "flows": {"models", "datasets", "rewards", "trainer"},
    "commands": {"models", "datasets", "rewards", "trainer", "flows"},
}
OUTSIDERS = {
    "torch": {"models", "rewards", "trainer", "flows", "floor"},
    "prefect": {"flows"},
    "duckdb": {"datasets", "flows", "commands"},
    "ray": {"floor", "trainer"},
    "peft": {"trainer"},
}
TORCH_FILES = {"weight_files.py", "spectra.py"}
"""The files of the floor that may import torch: only rooms that need it import them."""
RAY_FILES = {"cluster.py", "ray_pool.py", "launch.py"}
HEAVY = ("torch", "prefect", "ray", "duckdb", "pandas", "pyarrow", "numpy", "av")


def sources() -> list[tuple[str, Path]]:
    found = [("floor", path) for path in FLOOR.glob("*.py")]
    found += [("commands", path) for path in (FLOOR / "commands").glob("*.py")]
    return found + [(room, path) for room in ROOMS for path in (ROOT / room).rglob("*.py")]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_there_is_something_to_check() -> None:
    rooms = {room for room, _ in sources()}
    assert rooms == set(MAY_IMPORT)


@pytest.mark.parametrize(("room", "path"), sources(), ids=lambda value: getattr(value, "name", value))
def test_rooms_import_downwards(room: str, path: Path) -> None:
    allowed = MAY_IMPORT[room] | {room}
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "avpref" and len(parts) > 1 and parts[1] in (*ROOMS, "commands") and path.name != "cli.py":
            assert parts[1] in allowed, f"{room}/{path.name} imports {name}"
        if parts[0] in OUTSIDERS:
            assert room in OUTSIDERS[parts[0]], f"{room}/{path.name} imports {name}"
        if parts[0] == "torch" and room == "floor":
            assert path.name in TORCH_FILES, f"{path.name} imports torch"
        if parts[0] == "ray":
            assert path.name in RAY_FILES, f"{path.name} imports ray"


@pytest.mark.parametrize("path", [path for _, path in sources()], ids=lambda path: path.name)
def test_every_module_imports(path: Path) -> None:
    folder = path.relative_to(FLOOR if FLOOR in path.parents else ROOT)
    importlib.import_module("avpref." + ".".join(folder.with_suffix("").parts))


def test_no_room_is_a_package_that_shadows_another() -> None:
    assert not (ROOT / "datasets" / "__init__.py").exists()
    for room in ROOMS:
        assert (FLOOR / room).is_symlink() and (FLOOR / room).resolve() == ROOT / room


def test_the_command_line_imports_nothing_heavy() -> None:
    code = f"import sys, avpref.cli.main; print([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


def test_names_say_something() -> None:
    empty = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    standard = {
        f"{name}.py" for name in ("select", "queue", "types", "profile", "copy", "statistics", "signal", "token")
    }
    assert not {path.name for _, path in sources()} & (empty | standard)


@pytest.mark.parametrize("path", [path for _, path in sources()], ids=lambda path: path.name)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 70, f"{path.name}:{node.name}"
