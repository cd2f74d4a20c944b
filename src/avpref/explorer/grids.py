"""Tables of a run on pages: filter, search, sort, choice of columns and paging, all computed by DuckDB.

The address of a page says all of it, so a link shows the same rows again. Column names are compared with those of the table and values
are bound as parameters: no text of a request becomes part of a statement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

import duckdb

from avpref.errors import ConfigError
from avpref.explorer.wide_tables import quoted

PAGE_SIZES = (25, 50, 100, 200)
COMPARISONS = {"=": "=", "≠": "<>", "<": "<", "≤": "<=", ">": ">", "≥": ">="}
OPERATORS = (*COMPARISONS, "contains", "is empty", "is filled")
SEPARATOR = "~"
"""Between column, operator and value of a filter in an address."""


@dataclass(frozen=True)
class Grid:
    """A table for people: its title, the table in the database, the columns shown at first, those searched, and the key of a row."""

    name: str
    title: str
    table: str
    columns: tuple[str, ...]
    searched: tuple[str, ...]
    key: str
    sort: str = ""


GRIDS = {
    grid.name: grid
    for grid in (
        Grid(
            "pairs",
            "Pairs",
            "pair_rows",
            ("prompt", "margin_", "chosen_origin", "rejected_origin", "pair_id"),
            ("prompt", "pair_id", "prompt_id", "chosen", "rejected"),
            "pair_id",
        ),
        Grid(
            "candidates",
            "Candidates",
            "clip_rows",
            ("prompt", "side", "origin", "index", "reward_", "candidate_id"),
            ("prompt", "candidate_id", "prompt_id"),
            "candidate_id",
        ),
        Grid(
            "held-out",
            "Held-out prompts",
            "held_out_rows",
            ("prompt", "change_", "taxonomy", "prompt_id"),
            ("prompt", "prompt_id", "taxonomy"),
            "prompt_id",
        ),
        Grid(
            "skipped",
            "Prompts without a pair",
            "skipped_rows",
            ("prompt", "reason", "detail", "candidates", "prompt_id"),
            ("prompt", "prompt_id", "reason", "detail"),
            "prompt_id",
        ),
        Grid(
            "excluded",
            "Excluded candidates",
            "excluded",
            ("candidate_id", "prompt_id", "metric", "reason", "detail"),
            ("candidate_id", "prompt_id", "metric", "reason", "detail"),
            "candidate_id",
        ),
        Grid(
            "quarantine",
            "Quarantine",
            "quarantine",
            ("candidate_id", "stage", "error", "message", "attempts"),
            ("candidate_id", "stage", "error", "message"),
            "candidate_id",
        ),
    )
}


@dataclass(frozen=True)
class Filter:
    """A condition on one column."""

    column: str
    operator: str
    value: str = ""

    @property
    def text(self) -> str:
        """As an address has it."""
        return SEPARATOR.join((self.column, self.operator, self.value))

    @property
    def label(self) -> str:
        """As people read it."""
        return " ".join(part for part in (self.column, self.operator, self.value) if part)


@dataclass(frozen=True)
class View:
    """The state of a page. ``columns`` empty: the grid's own. ``sort``: a column, with ``-`` before it for descending order."""

    search: str = ""
    filters: tuple[Filter, ...] = ()
    sort: str = ""
    columns: tuple[str, ...] = ()
    page: int = 1
    size: int = PAGE_SIZES[1]

    def query(self, **changes: Any) -> str:
        """The view with ``changes`` as the query part of an address."""
        view = replace(self, **changes)
        pairs = [("q", view.search)] if view.search else []
        pairs += [("where", item.text) for item in view.filters]
        pairs += [("sort", view.sort)] if view.sort else []
        pairs += [("columns", ",".join(view.columns))] if view.columns else []
        pairs += [("page", str(view.page))] if view.page > 1 else []
        pairs += [("size", str(view.size))] if view.size != PAGE_SIZES[1] else []
        return "?" + urlencode(pairs)


@dataclass(frozen=True)
class Rows:
    """One page of a grid: names and types of all columns, the columns shown, rows (all columns), and the number of rows in all."""

    view: View
    types: Mapping[str, str]
    shown: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]] = field(repr=False)
    num_rows: int
    num_all: int

    @property
    def num_pages(self) -> int:
        """Pages of the view, at least one."""
        return max(1, math.ceil(self.num_rows / self.view.size))


def view_of(query: Sequence[tuple[str, str]]) -> View:
    """The view that the query of an address describes. Raises ConfigError for one that cannot be read."""
    values: dict[str, list[str]] = {}
    for name, value in query:
        values.setdefault(name, []).append(value)
    filters = [_filter_of(text) for text in values.get("where", []) if text]
    column = _last(values, "column")
    if column:
        filters.append(_filter_of(SEPARATOR.join((column, _last(values, "operator"), _last(values, "value")))))
    columns = values.get("show") or [name for name in _last(values, "columns").split(",") if name]
    size = _number(_last(values, "size"), PAGE_SIZES[1])
    return View(
        search=_last(values, "q").strip(),
        filters=tuple(dict.fromkeys(filters)),
        sort=_last(values, "sort"),
        columns=tuple(dict.fromkeys(columns)),
        page=max(1, _number(_last(values, "page"), 1)),
        size=size if size in PAGE_SIZES else PAGE_SIZES[1],
    )


def read_rows(con: duckdb.DuckDBPyConnection, grid: Grid, view: View) -> Rows:
    """One page of ``grid``. Raises ConfigError for a column that the table lacks, or a value that its column cannot have."""
    types = {str(row[0]): str(row[1]) for row in con.execute(f"DESCRIBE {grid.table}").fetchall()}
    condition, parameters = _condition(grid, view, types)
    (num_all,) = con.execute(f"SELECT count(*) FROM {grid.table}").fetchone() or (0,)
    num_rows = num_all
    if parameters or view.filters:
        query = f"SELECT count(*) FROM {grid.table} WHERE {condition}"
        (num_rows,) = con.execute(query, parameters).fetchone() or (0,)
    last_page = max(1, math.ceil(num_rows / view.size))
    view = replace(view, page=min(view.page, last_page))
    query = (
        f"SELECT * FROM {grid.table} WHERE {condition} ORDER BY {_order(grid, view, types)}"
        f" LIMIT {view.size} OFFSET {(view.page - 1) * view.size}"
    )
    result = con.execute(query, parameters)
    names = [column[0] for column in result.description or ()]
    rows = [dict(zip(names, values, strict=True)) for values in result.fetchall()]
    return Rows(view, types, _shown(grid, view, types), rows, num_rows, num_all)


def rows_beside(con: duckdb.DuckDBPyConnection, grid: Grid, view: View, key: str) -> tuple[str, str, int, int]:
    """Keys of the rows before and after the row ``key`` in a view (empty at the ends), its number from 1, and the number of rows."""
    types = {str(row[0]): str(row[1]) for row in con.execute(f"DESCRIBE {grid.table}").fetchall()}
    condition, parameters = _condition(grid, view, types)
    name = quoted(grid.key)
    window = f"OVER (ORDER BY {_order(grid, view, types)})"
    query = (
        f"SELECT * FROM (SELECT {name} AS key, lag({name}) {window} AS before, lead({name}) {window} AS after,"
        f" row_number() {window} AS place, count(*) OVER () AS total FROM {grid.table} WHERE {condition})"
        " WHERE key = $key"
    )
    row = con.execute(query, {**parameters, "key": key}).fetchone()
    return ("", "", 0, 0) if row is None else (row[1] or "", row[2] or "", row[3], row[4])


def is_number(kind: str) -> bool:
    """Whether a DuckDB type is a number."""
    return kind in ("BIGINT", "INTEGER", "DOUBLE", "HUGEINT", "UBIGINT", "FLOAT")


def _shown(grid: Grid, view: View, types: Mapping[str, str]) -> tuple[str, ...]:
    """The columns of the view; a name that ends with an underscore stands for all columns that begin with it."""
    if view.columns:
        return tuple(name for name in view.columns if name in types)
    names: list[str] = []
    for column in grid.columns:
        names += [name for name in types if name.startswith(column)] if column.endswith("_") else [column]
    return tuple(name for name in dict.fromkeys(names) if name in types)


def _condition(grid: Grid, view: View, types: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    parts: list[str] = []
    parameters: dict[str, Any] = {}
    if view.search:
        names = [quoted(name) for name in grid.searched if name in types]
        parts.append("(" + " OR ".join(f"contains(lower({name}), lower($search))" for name in names) + ")")
        parameters["search"] = view.search
    for number, item in enumerate(view.filters):
        _require_column(item.column, types)
        name, value = quoted(item.column), f"value{number}"
        if item.operator in ("is empty", "is filled"):
            text = f"coalesce(CAST({name} AS VARCHAR), '') {'=' if item.operator == 'is empty' else '<>'} ''"
            parts.append(text)
        elif item.operator == "contains":
            parts.append(f"contains(lower(CAST({name} AS VARCHAR)), lower(${value}))")
            parameters[value] = item.value
        else:
            parts.append(f"{name} {COMPARISONS[item.operator]} ${value}")
            parameters[value] = _value(item, types[item.column])
    return " AND ".join(parts) or "true", parameters


def _value(item: Filter, kind: str) -> Any:
    if kind == "BOOLEAN":
        return item.value.lower() in ("true", "1", "yes")
    if not is_number(kind):
        return item.value
    try:
        return float(item.value)
    except ValueError:
        raise ConfigError(f"filter {item.label}", f"a number, which column {item.column} holds", "correct it") from None


def _order(grid: Grid, view: View, types: Mapping[str, str]) -> str:
    sort = view.sort or grid.sort
    if not sort:
        return "rowid"
    name = sort.removeprefix("-")
    _require_column(name, types)
    return f"{quoted(name)} {'DESC' if sort.startswith('-') else 'ASC'} NULLS LAST, rowid"


def _require_column(name: str, types: Mapping[str, str]) -> None:
    if name not in types:
        raise ConfigError(f"no column {name!r}", f"one of {', '.join(types)}", "choose a column from the list")


def _filter_of(text: str) -> Filter:
    parts = text.split(SEPARATOR, 2)
    if len(parts) < 2 or parts[1] not in OPERATORS:
        expected = f"COLUMN~OPERATOR~VALUE with an operator of {', '.join(OPERATORS)}"
        raise ConfigError(f"filter {text!r}", expected, "choose column and operator from the lists")
    return Filter(parts[0], parts[1], parts[2] if len(parts) > 2 else "")


def _last(values: Mapping[str, Sequence[str]], name: str) -> str:
    return values.get(name, [""])[-1]


def _number(text: str, default: int) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else default
