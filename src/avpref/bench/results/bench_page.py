"""The page of a benchmark in one HTML file: settings, table with intervals, categories, clips that play, lost clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avpref.bench.results.loaded_results import LoadedResult
from avpref.bench.results.page_clips import PreviewBudget, column_clips
from avpref.reports.templates import STYLE_SHEET, content_policy, environment

TEMPLATE = Path(__file__).with_name("bench_page.html.j2")
MAX_LOST = 200


def render_page(result: LoadedResult) -> bytes:
    """The page in UTF-8. Equal results and clips give equal bytes."""
    style = STYLE_SHEET.read_text(encoding="utf-8")
    page = (
        environment()
        .from_string(TEMPLATE.read_text(encoding="utf-8"))
        .render(
            document=result.document,
            title=f"{result.document['preset']}: {result.name}",
            columns=[_column_row(name, value) for name, value in result.document["columns"].items()],
            clips=column_clips(result, PreviewBudget()),
            categories=_category_tables(result.document),
            lost=[{"set": name, **row} for name, rows in result.document["lost"].items() for row in rows][:MAX_LOST],
            number=number,
            style=style,
            policy=content_policy(style),
        )
    )
    return page.encode()


def number(value: float | None) -> str:
    """A value for readers, with four significant digits; a dash where there is none."""
    return "–" if value is None else f"{value:.4g}"


def _column_row(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    interval = "–" if value["low"] is None else f"{number(value['low'])} to {number(value['high'])}"
    return {**value, "name": name, "interval": interval, "arrow": "↑" if value["higher_is_better"] else "↓"}


def _category_tables(document: Mapping[str, Any]) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Rows of categories by aspect."""
    tables: dict[str, list[Mapping[str, Any]]] = {}
    for row in document["categories"]:
        tables.setdefault(row["aspect"], []).append(row)
    return tables
