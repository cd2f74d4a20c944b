"""The contents of a pool for ``avpref pool show``: tables, scorers, costs, and the measures with their quantiles."""

from __future__ import annotations

from typing import Any

from avpref.errors import InputError
from avpref.pool.lost_items import STAGES, read_lost
from avpref.pool.pool_folder import PoolFolder, arrow_rows
from avpref.pool.pool_tables import POOL_TABLES


def pool_state(pool: PoolFolder) -> dict[str, Any]:
    """The document of ``avpref pool show``."""
    with pool.connect() as con:
        measures = arrow_rows(con, "measure_summary").to_pylist()
        cost = arrow_rows(con, "caption_cost").to_pylist()
    return {
        "pool": pool.root.name,
        "pool_dir": str(pool.root),
        "sources": list(pool.config.scan.sources),
        "tables": [{"table": table.name, "rows": pool.tables.num_rows(table)} for table in POOL_TABLES],
        "measures": measures,
        "captions": cost,
        "failed": {stage: number for stage in STAGES if (number := len(read_lost(pool, stage)))},
    }


def clip_document(pool: PoolFolder, clip: str) -> dict[str, list[dict[str, Any]]]:
    """``clips``: origin and fate of the clips whose ids begin with ``clip``; ``rows``: their measures with units and reasons.

    Raises InputError where there is no such clip.
    """
    with pool.connect() as con:
        clips = arrow_rows(con, "clip_history", {"clip": clip}).to_pylist()
        rows = arrow_rows(con, "measures_of_clip", {"clip": clip}).to_pylist()
    if not clips:
        found = f"pool {pool.root.name} has no clip whose id begins with {clip}"
        raise InputError(found, "the id of a clip, as in clips.csv, lost.csv and pool.html", "avpref pool sample")
    return {"clips": clips, "rows": rows}


def duplicate_rows(pool: PoolFolder) -> list[dict[str, Any]]:
    """The sources that are not used because another shows the same."""
    with pool.connect() as con:
        rows: list[dict[str, Any]] = arrow_rows(con, "duplicates").to_pylist()
    return rows
