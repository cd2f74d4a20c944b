"""Docstrings say what a thing is or does, and names come from the field; see docs/glossary.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("flows", "rewards", "trainer", "datasets", "models", "src/avpref", "notebooks", "benchmarks")
RETIRED = (
    *("ladder", "outbox", "desk", "tally", "roster", "standing", "entrants", "yardstick", "doomed", "shelf"),
    *("neighbour", "climb", "nursery", "siege"),
)
"""Words of a former private vocabulary; the glossary has the terms that replaced them."""
FILLER = ("given", "told", "said")
"""Names that say nothing about a value."""


def product_files() -> list[Path]:
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in paths if not any((ROOT / parent).is_symlink() for parent in _parents(path)))


def _parents(path: Path) -> list[Path]:
    relative = path.relative_to(ROOT)
    return [Path(*relative.parts[:count]) for count in range(1, len(relative.parts))]


def names(tree: ast.AST) -> Iterator[str]:
    """Every name that a module defines: functions, classes, parameters, variables, attributes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def words(name: str) -> set[str]:
    """The words of a name: ``UnitRunner`` and ``unit_runner`` have two each."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


FILES = product_files()


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 250
    assert words("UnitRunner") == words("unit_runner") == {"unit", "runner"}
    assert set(names(ast.parse("def f(given): self.told = each = 1"))) == {"f", "given", "told", "each"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docstrings_and_names_are_plain(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            docstring = ast.get_docstring(node) or ""
            assert not docstring.startswith("What "), f"{path.name}: {docstring.splitlines()[0]}"
    retired = {name for name in names(tree) if words(name) & set(RETIRED)}
    filler = {name for name in names(tree) if name in FILLER}
    assert (retired, filler) == (set(), set()), path.name
