"""``avpref lineage``: from an adapter down to its clips, and from a clip up to the adapters that it touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from cyclopts import App, Parameter, validators

from avpref.cli.options import DEFAULT_RUNS, AsJson, Runs
from avpref.cli.output import print_json, print_line
from avpref.console import say

app = App(name="lineage", help="Where adapters, pairs and clips come from, and where they went.")

Id = Annotated[
    str,
    Parameter(
        help="an adapter (policy hash, run, record or alias), candidate, clip's SHA-256, pair, prompt, checkpoint, norm"
        " or decision; an unambiguous beginning will do"
    ),
]
Rows = Annotated[int, Parameter(name="--pairs", help="rows of each list", validator=validators.Number(gte=0))]
All = Annotated[bool, Parameter(name="--all", help="every row of every list", negative="")]

Branch = tuple[str, list[Any]]
"""A line of the tree and what hangs from it."""


@app.command
def show(id_: Id, *, runs: Runs = DEFAULT_RUNS, pairs: Rows = 3, all_: All = False, json: AsJson = False) -> int:
    """Show the lineage of an id over all runs of the folder.

    Of an adapter: its pairs, both clips of each, their scores, norm, seeds, checkpoint, prompts, code version, configuration,
    table versions and hashes. Of anything else: what it is, and which adapters, decisions and aliases it led to.
    """
    from avpref.registry.catalog import open_catalog
    from avpref.registry.lineage_view import document

    found = document(open_catalog(runs), id_, None if all_ else pairs)
    if json:
        print_json(found)
        return 0
    for line in _lines(_branch(f"{found['kind']} {found['id']}", _without(found, ("kind", "id")))):
        print_line(line)
    if found["missing"]:
        say(f"tables that are gone: {', '.join(found['missing'])}")
    return 0


def _without(document: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names and value not in (None, "", [], {})}


def _branch(name: str, value: Any) -> Branch:
    """A value as a tree: mappings and lists hang below their name, short ones stand beside it."""
    if isinstance(value, Mapping):
        if all(not isinstance(each, (Mapping, list)) for each in value.values()) and len(value) <= _SHORT:
            return f"{name}: " + ", ".join(f"{key} {_text(each)}" for key, each in value.items()), []
        return name, [_branch(key, each) for key, each in _without(value, ()).items()]
    if isinstance(value, list):
        if all(not isinstance(each, (Mapping, list)) for each in value):
            return f"{name}: {', '.join(_text(each) for each in value)}", []
        return f"{name} ({len(value)} shown)", [_branch(_title(each), _rest(each)) for each in value]
    return f"{name}: {_text(value)}", []


_SHORT = 10
_TITLES = (
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


def _title(row: Mapping[str, Any]) -> str:
    name = next((name for name in (*_TITLES, *row) if name in row), "")
    return f"{name.removesuffix('_id')} {_text(row.get(name))}"


def _rest(row: Mapping[str, Any]) -> dict[str, Any]:
    name = next((name for name in (*_TITLES, *row) if name in row), "")
    return _without(row, (name,))


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())


def _lines(branch: Branch, indent: str = "", mark: str = "", below: str = "") -> Iterator[str]:
    text, children = branch
    yield indent + mark + text
    for place, child in enumerate(children):
        is_last = place == len(children) - 1
        yield from _lines(child, indent + below, "└─ " if is_last else "├─ ", "   " if is_last else "│  ")
