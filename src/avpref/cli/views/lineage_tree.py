"""The lineage of an id, as a document and as a tree for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from avpref.pool.show.pool_origin import with_pool_origins
from avpref.registry.catalog import open_catalog
from avpref.registry.lineage_view import document

LONGEST_LINE = 10
"""Fields that a mapping may have to be printed on one line."""
TITLES = (
    "pair_id",
    "candidate_id",
    "policy_hash",
    "gate_id",
    "evaluation_id",
    "prompt_id",
    "metric",
    "rule",
    "run_id",
)
"""Fields that name a row, the most telling first."""

Branch = tuple[str, list[Any]]
"""A line of the tree and its children."""


def document_of(runs: Path, id_: str, limit: int | None) -> dict[str, Any]:
    """The lineage of ``id_`` in the runs of a folder, with at most ``limit`` rows per list. Raises InputError.

    Prompts whose clip a pool wrote lead on to the source of that clip.
    """
    lineage: dict[str, Any] = with_pool_origins(document(open_catalog(runs), id_, limit))
    return lineage


def lines(lineage: Mapping[str, Any]) -> Iterator[str]:
    """The document as an indented tree."""
    return _lines(_branch(f"{lineage['kind']} {lineage['id']}", _without(lineage, ("kind", "id"))))


def _without(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names and value not in (None, "", [], {})}


def _branch(name: str, value: Any) -> Branch:
    """A value as a tree: short values follow their name, mappings and lists become children."""
    if isinstance(value, Mapping):
        if all(not isinstance(item, (Mapping, list)) for item in value.values()) and len(value) <= LONGEST_LINE:
            return f"{name}: " + ", ".join(f"{key} {_text(item)}" for key, item in value.items()), []
        return name, [_branch(key, item) for key, item in _without(value, ()).items()]
    if isinstance(value, list):
        if all(not isinstance(item, (Mapping, list)) for item in value):
            return f"{name}: {', '.join(_text(item) for item in value)}", []
        return f"{name} ({len(value)} shown)", [_branch(_title(item), _rest(item)) for item in value]
    return f"{name}: {_text(value)}", []


def _title_field(row: Mapping[str, Any]) -> str:
    return next((name for name in (*TITLES, *row) if name in row), "")


def _title(row: Mapping[str, Any]) -> str:
    name = _title_field(row)
    return f"{name.removesuffix('_id')} {_text(row.get(name))}"


def _rest(row: Mapping[str, Any]) -> dict[str, Any]:
    return _without(row, (_title_field(row),))


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())


def _lines(branch: Branch, indent: str = "", mark: str = "", below: str = "") -> Iterator[str]:
    text, children = branch
    yield indent + mark + text
    for index, child in enumerate(children):
        is_last = index == len(children) - 1
        yield from _lines(child, indent + below, "└─ " if is_last else "├─ ", "   " if is_last else "│  ")
