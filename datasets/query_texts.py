"""The queries as texts: one file each under ``queries/``."""

from __future__ import annotations

from pathlib import Path

QUERIES = Path(__file__).with_name("queries")


def sql(name: str) -> str:
    """The text of ``queries/<name>.sql``."""
    return (QUERIES / f"{name}.sql").read_text(encoding="utf-8")
