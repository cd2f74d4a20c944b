"""What a pool holds, for ``avpref pool show``: tables, scorers, costs, and the measures with their quantiles."""

from __future__ import annotations

from typing import Any

from avpref.pool.lost_items import STAGES, read_lost
from avpref.pool.pool_folder import PoolFolder, sql
from avpref.pool.pool_tables import POOL_TABLES


def pool_state(pool: PoolFolder) -> dict[str, Any]:
    """The document of ``avpref pool show``."""
    with pool.connect() as con:
        measures = con.execute(sql("measure_summary")).fetch_arrow_table().to_pylist()
        cost = con.execute(sql("caption_cost")).fetch_arrow_table().to_pylist()
    return {
        "pool": pool.root.name,
        "pool_dir": str(pool.root),
        "sources": list(pool.config.scan.sources),
        "tables": [{"table": table.name, "rows": pool.tables.num_rows(table)} for table in POOL_TABLES],
        "measures": measures,
        "captions": cost,
        "failed": {stage: number for stage in STAGES if (number := len(read_lost(pool, stage)))},
    }


def clip_document(pool: PoolFolder, clip: str) -> list[dict[str, Any]]:
    """The measures of the clips whose ids begin with ``clip``, with values, units and reasons."""
    with pool.connect() as con:
        rows: list[dict[str, Any]] = (
            con.execute(sql("measures_of_clip"), {"clip": clip}).fetch_arrow_table().to_pylist()
        )
    return rows


def duplicate_rows(pool: PoolFolder) -> list[dict[str, Any]]:
    """The sources that are not used because another shows the same."""
    with pool.connect() as con:
        rows: list[dict[str, Any]] = con.execute(sql("duplicates")).fetch_arrow_table().to_pylist()
    return rows
