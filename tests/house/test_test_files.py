"""Test files stay small, are found by pytest, and look for modules that exist."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
MAX_LINES = 400
MAX_FUNCTION_LINES = 70
FILES = sorted(TESTS.rglob("*.py"))
HELPERS = ("chaos", "fixtures")
"""Folders of modules that tests import; they hold no tests."""


def functions(path: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(TESTS).as_posix())
def test_files_and_functions_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
    for function in functions(path):
        num_lines = (function.end_lineno or function.lineno) - function.lineno + 1
        assert num_lines <= MAX_FUNCTION_LINES, f"{function.name} has {num_lines} lines"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(TESTS).as_posix())
def test_tests_are_in_files_that_pytest_collects(path: Path) -> None:
    has_tests = any(function.name.startswith("test_") for function in functions(path))
    assert has_tests == path.name.startswith("test_")
    assert not (has_tests and path.parent.name in HELPERS)


def test_names_of_helpers_are_those_of_no_other_module() -> None:
    """Helpers are imported by their bare names, so two of one name would hide each other."""
    names = [path.stem for path in FILES if path.parent.name in HELPERS]
    assert names and len(set(names)) == len(names)


def test_no_test_defines_an_item_of_its_own() -> None:
    """Items, rows and workers of stages are in :mod:`avpref.execution.fakes`."""
    own = [
        path.name
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and ast.unparse(node).endswith("class Item:\n    item_id: str")
    ]
    assert not own
