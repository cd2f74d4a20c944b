"""The tests that the docs name exist, in a file that the same row names."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "training.md"


def missing_tests(text: str) -> list[str]:
    """Names ``test_…`` in rows of tables that no file of the row defines."""
    missing = []
    for row in (line for line in text.splitlines() if line.startswith("|")):
        files = re.findall(r"`(tests/[\w/]+\.py)`", row)
        content = "".join((ROOT / file).read_text(encoding="utf-8") for file in files)
        missing += [name for name in re.findall(r"`(test_\w+)`", row) if f"def {name}(" not in content]
    return missing


def test_the_table_of_the_trainers_tests_names_tests_that_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(re.findall(r"`test_\w+`", text)) > 20
    assert missing_tests(text) == []


def test_a_name_that_no_file_of_the_row_defines_is_reported() -> None:
    assert missing_tests("| a | `tests/house/test_named_tests.py` | `test_absent` |") == ["test_absent"]
