"""The queries as texts, one file each under ``queries/``, and the lists of metric columns that are put into them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

QUERIES = Path(__file__).with_name("queries")


def sql(name: str) -> str:
    """The text of ``queries/<name>.sql``."""
    return (QUERIES / f"{name}.sql").read_text(encoding="utf-8")


def metric_list(pattern: str, metrics: Iterable[str], separator: str = ", ") -> str:
    """``pattern`` once per metric name, with ``{metric}`` (a quoted identifier) and ``{number}`` (from 1) filled in."""
    quoted = ('"' + name.replace('"', '""') + '"' for name in metrics)
    return separator.join(pattern.format(metric=name, number=number) for number, name in enumerate(quoted, 1))


def dimension_list(pattern: str, dimensions: Iterable[str], separator: str = ", ") -> str:
    """``pattern`` once per dimension, with ``{dimension}`` filled in: names of dimensions are plain identifiers."""
    return separator.join(pattern.format(dimension=name) for name in dimensions)
