"""The list of what is not in the result, collected stage by stage: one document per stage, one table and one CSV at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from avpref.datasets.tables import to_arrow
from avpref.identity import digest
from avpref.pool.pool_folder import PoolFolder, sql
from avpref.pool.pool_tables import LOST, LostRow

STAGES = ("scan", "cut", "measure", "caption", "filter", "write")
"""The stages in their order."""


def lost_file(stage: str) -> str:
    """Name of the document of what ``stage`` could not process, beside the rows of its tables."""
    return f"lost-{stage}.json"


def seal_lost(pool: PoolFolder, stage: str, rows: Sequence[LostRow]) -> None:
    """Record what ``stage`` lost and no table of it says: names that are no video, quarantined items."""
    pool.documents.write(lost_file(stage), [asdict(row) for row in rows])


def read_lost(pool: PoolFolder, stage: str) -> list[LostRow]:
    """The rows that :func:`seal_lost` recorded."""
    return [LostRow(**row) for row in pool.documents.read(lost_file(stage)) or []]


def all_lost(pool: PoolFolder) -> list[LostRow]:
    """Everything that is not in the result: refused names and sources, duplicates, short scenes, removed and failed clips."""
    recorded = [row for stage in STAGES for row in read_lost(pool, stage)]
    with pool.connect() as con:
        rows = con.execute(sql("lost")).fetchall()
    order = {stage: number for number, stage in enumerate(STAGES)}
    return sorted(
        [*recorded, *(LostRow(*row) for row in rows)], key=lambda row: (order[row.stage], row.uri, row.member, row.item)
    )


def seal_ledger(pool: PoolFolder) -> list[LostRow]:
    """Seal the table of everything that is not in the result; returns its rows."""
    rows = all_lost(pool)
    inputs = digest("lost", [asdict(row) for row in rows])
    pool.tables.seal(LOST, inputs, to_arrow(LOST, rows, inputs))
    return rows
