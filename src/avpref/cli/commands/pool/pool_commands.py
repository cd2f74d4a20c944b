"""``avpref pool``: from a pile of videos to clips with texts for ``prompts import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter, validators

from avpref.cli.options import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    AsJson,
    Config,
    Host,
    Limit,
    NoBrowser,
    Overrides,
    Port,
    Wait,
)
from avpref.cli.output import first, print_facts, print_json, print_line, print_table
from avpref.errors import PartialResult

app = App(name="pool")

DEFAULT_POOL_CONFIG = Path("configs/pool.yaml")
DEFAULT_POOLS = Path("pools")

Pools = Annotated[Path, Parameter(name="--pools", help="folder of the pools")]
Pool = Annotated[
    str,
    Parameter(
        name="--pool", help="name of a pool, or an unambiguous prefix", show_default="the pool that changed last"
    ),
]
Sources = Annotated[
    list[str] | None,
    Parameter(
        name="--source",
        help="folder, pattern, CSV or Parquet list, tar file, or s3://bucket/prefix; may be repeated; replaces scan.sources",
        negative="",
        consume_multiple=False,
    ),
]
Number = Annotated[int, Parameter(name="--number", help="number of clips", validator=validators.Number(gte=1))]
Removed = Annotated[bool, Parameter(name="--removed", help="clips that filters removed", negative="")]
FilterName = Annotated[str, Parameter(name="--filter", help="clips that fail this filter")]
Clip = Annotated[
    str, Parameter(name="--clip", help="origin, decision and measures of one clip: its id, or a prefix of it")
]
Duplicates = Annotated[bool, Parameter(name="--duplicates", help="sources that show the same as another", negative="")]
SheetSeed = Annotated[int, Parameter(name="--seed", help="seed of the selection of clips")]


@app.command
def build(
    *,
    config: Config = DEFAULT_POOL_CONFIG,
    source: Sources = None,
    pools: Pools = DEFAULT_POOLS,
    set_: Overrides = None,
    wait: Wait = False,
    json: AsJson = False,
) -> int:
    """Run all stages: scan, cut, measure, caption, filter, write. Only what is missing is computed. Exit code 5: some items failed."""
    from avpref.cli.actions.pool import start_pool

    return _present(start_pool.build(config, source, pools, set_ or [], wait), json)


def _stage(name: str, config: Path, source: list[str] | None, pools: Path, set_: list[str] | None, json: bool) -> int:
    from avpref.cli.actions.pool import build_pool

    return _present(build_pool.run_stage(name, config, source, pools, set_ or []), json)


@app.command
def scan(
    *,
    config: Config = DEFAULT_POOL_CONFIG,
    source: Sources = None,
    pools: Pools = DEFAULT_POOLS,
    set_: Overrides = None,
    json: AsJson = False,
) -> int:
    """List and probe the sources, and find recordings that are the same."""
    return _stage("scan", config, source, pools, set_, json)


@app.command
def cut(
    *, config: Config = DEFAULT_POOL_CONFIG, pools: Pools = DEFAULT_POOLS, set_: Overrides = None, json: AsJson = False
) -> int:
    """Find shot cuts and divide the recordings into clips, which are ranges of time."""
    return _stage("cut", config, None, pools, set_, json)


@app.command
def measure(
    *, config: Config = DEFAULT_POOL_CONFIG, pools: Pools = DEFAULT_POOLS, set_: Overrides = None, json: AsJson = False
) -> int:
    """Decode each clip once for all measures, and keep the numbers. Nothing is removed."""
    return _stage("measure", config, None, pools, set_, json)


@app.command
def caption(
    *, config: Config = DEFAULT_POOL_CONFIG, pools: Pools = DEFAULT_POOLS, set_: Overrides = None, json: AsJson = False
) -> int:
    """Keep existing texts, ask a service for the others, and compare texts with clips."""
    return _stage("caption", config, None, pools, set_, json)


@app.command(name="filter")
def filter_(
    *, config: Config = DEFAULT_POOL_CONFIG, pools: Pools = DEFAULT_POOLS, set_: Overrides = None, json: AsJson = False
) -> int:
    """Decide which clips are kept, from kept measures alone."""
    return _stage("filter", config, None, pools, set_, json)


@app.command
def write(
    *, config: Config = DEFAULT_POOL_CONFIG, pools: Pools = DEFAULT_POOLS, set_: Overrides = None, json: AsJson = False
) -> int:
    """Write the kept clips, clips.csv for ``prompts import``, clips.parquet, and lost.csv with every item that is missing."""
    return _stage("write", config, None, pools, set_, json)


@app.command
def show(
    *,
    pools: Pools = DEFAULT_POOLS,
    pool: Pool = "",
    clip: Clip = "",
    duplicates: Duplicates = False,
    limit: Limit = None,
    json: AsJson = False,
) -> int:
    """Show the tables and measures of a pool, the measures of a clip, or the duplicates."""
    from avpref.cli.views.pool import pool_view

    document = pool_view.shown(pools, pool, clip, duplicates)
    if json:
        print_json(document)
        return 0
    if "rows" in document:
        for clip_facts in document.get("clips", ()):
            print_facts(clip_facts)
        rows = first(document["rows"], limit)
        print_table(rows, list(rows[0]) if rows else ["(none)"])
        return 0
    print_facts({"pool": document["pool"], "folder": document["pool_dir"], "sources": ", ".join(document["sources"])})
    print_table(document["tables"], ["table", "rows"])
    columns = ["measure", "unit", "clips", "without_value", "q05", "q50", "q95", "ms"]
    print_table(first(document["measures"], limit), columns)
    if document["captions"]:
        print_table(document["captions"], ["origin", "captions", "requests", "input_tokens", "output_tokens", "cost"])
    return 0


@app.command
def funnel(*, pools: Pools = DEFAULT_POOLS, pool: Pool = "", json: AsJson = False) -> int:
    """Show what remains after each stage and filter, what each filter would remove alone, and the commonest reasons."""
    from avpref.cli.views.pool import pool_view

    document = pool_view.funnel(pools, pool)
    print_json(document) if json else _print_funnel(document)
    return 0


@app.command
def sample(
    *,
    pools: Pools = DEFAULT_POOLS,
    pool: Pool = "",
    number: Number = 12,
    removed: Removed = False,
    filter_: FilterName = "",
    seed: SheetSeed = 0,
    json: AsJson = False,
) -> int:
    """Write pool.html: the funnel, and a contact sheet of kept or removed clips with sound."""
    from avpref.cli.views.pool import pool_view

    document = pool_view.sample(pools, pool, number, removed or bool(filter_), filter_, seed)
    print_json(document) if json else print_facts(document)
    return 0


@app.command(name="open")
def open_(
    *,
    pools: Pools = DEFAULT_POOLS,
    pool: Pool = "",
    host: Host = DEFAULT_HOST,
    port: Port = DEFAULT_PORT,
    no_browser: NoBrowser = False,
    json: AsJson = False,
) -> int:
    """Open pages over a pool: the funnel, tables with filters by any measure, clips with sound. Ends with Ctrl-C.

    It changes nothing in the pool. Addresses other than this machine's own get a random token.
    """
    from avpref.cli.actions.pool import serve_pool

    return serve_pool.serve(pools, pool, (host, port), not no_browser, json)


def _present(document: dict[str, Any], as_json: bool) -> int:
    if as_json:
        print_json(document)
    else:
        print_facts({"pool": document["pool_dir"]})
        for stage in document["stages"]:
            print_line(f"{stage['stage']}: {stage['rows']} rows, {stage['seconds']:.1f} s; {'; '.join(stage['items'])}")
        _print_funnel({"steps": document["funnel"], "filters": document["filters"], "reasons": []})
        for stage, number in document["failed"].items():
            print_line(f"{stage}: {number} could not be processed; see lost.csv after stage write")
    return PartialResult.exit_code if document["failed"] else 0


def _print_funnel(document: dict[str, Any]) -> None:
    print_table(document["steps"], ["step", "items", "hours"])
    if document["filters"]:
        print_table(document["filters"], ["filter", "removed", "hours", "alone", "hours_alone", "only"])
    if document["reasons"]:
        print_table(document["reasons"], ["stage", "reason", "items"])
