"""Output of commands: one JSON document, or plain tables that people and ``cut`` can read."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from avpref.domain import SCHEMA_VERSION

Row = TypeVar("Row")


def first(rows: Sequence[Row], limit: int | None) -> Sequence[Row]:
    """The first ``limit`` rows; all of them without a limit."""
    return rows if limit is None else rows[:limit]


def print_json(document: Mapping[str, Any]) -> None:
    """Print one document with its ``schema_version``; NaN and infinities become null, as JSON requires."""
    versioned = {"schema_version": SCHEMA_VERSION, **document}
    sys.stdout.write(json.dumps(_plain(versioned), indent=1, ensure_ascii=False) + "\n")


def print_line(text: str = "") -> None:
    """Print one line of data."""
    sys.stdout.write(text + "\n")


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print one name and value per line, aligned."""
    width = max((len(name) for name in facts), default=0)
    for name, value in facts.items():
        print_line(f"{name.ljust(width)}  {_cell(value)}")


def print_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print rows under a header, columns aligned."""
    cells = [list(columns), *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    for line in cells:
        print_line("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_verdict(document: Mapping[str, Any]) -> None:
    """Print the ``evaluation`` and the ``gate`` of a document: deltas per dimension, verdict, reasons.

    Where there are judges, the metrics that selected pairs and those of judges follow side by side; then the columns of a benchmark.
    """
    rows = [{"dimension": name, **comparison} for name, comparison in document["evaluation"].items()]
    numbers = ["delta_sd", "ci_low", "ci_high", "win_rate", "num_pairs"]
    print_table(rows, ["dimension", *numbers])
    metrics = document.get("metrics") or ()
    if any(metric["role"] == "judge" for metric in metrics):
        print_line()
        print_table(metrics, ["role", "name", *numbers])
    if document.get("bench"):
        print_line()
        print_table(
            document["bench"], ["column", "reference", "policy", "difference", "low", "high", "num_pairs", "reason"]
        )
    print_line(f"gate: {document['gate']['verdict']}")
    for reason in document["gate"]["reasons"]:
        print_line(f"  {reason}")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return " ".join(str(value).split())


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
