"""Stage ``filter``: decides which clips are kept, from kept measures alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np

from avpref.config.pool.filter_settings import FilteringSettings
from avpref.datasets.tables import to_arrow
from avpref.errors import ConfigError
from avpref.execution.item_counts import ItemCounts, StageCounts, log_counts
from avpref.flows.prefect import run_reporting as reporting
from avpref.identity import digest
from avpref.pool.filter.balance import Removal, Vectors, clusters, over_quota, too_similar
from avpref.pool.filter.thresholds import find_failures, resolve_thresholds
from avpref.pool.lost_items import seal_lost
from avpref.pool.pool_folder import PoolFolder, sql
from avpref.pool.pool_tables import (
    AGREEMENTS,
    CAPTIONS,
    CLIPS,
    DECISIONS,
    FAILURES,
    MEASURES,
    DecisionRow,
    FailureRow,
)

STAGE = "filter"
VERSION = 1
VECTORS = ("imagebind_video", "descriptor")
"""Measures with a vector, in the order in which they serve quotas and diversity."""


@reporting.stage(STAGE)
def filter_clips(pool: PoolFolder) -> StageCounts:
    """Seal the tables ``failures`` and ``decisions`` of all measured clips; rows are decisions."""
    pool.require(MEASURES, "measure")
    inputs = digest("decisions", VERSION, _versions(pool), pool.config.filter.model_dump(mode="json"))
    seal_lost(pool, STAGE, [])
    if pool.tables.is_sealed(DECISIONS, inputs) and pool.tables.is_sealed(FAILURES, inputs):
        counts = ItemCounts(STAGE, "clips", present=pool.tables.num_rows(DECISIONS))
        return StageCounts(counts.present, (log_counts(pool.events, counts),))
    with pool.connect() as con:
        failures, decisions = decide(con, pool.config.filter)
    pool.tables.seal(FAILURES, inputs, to_arrow(FAILURES, failures, inputs))
    pool.tables.seal(DECISIONS, inputs, to_arrow(DECISIONS, decisions, inputs))
    counts = ItemCounts(STAGE, "clips", made=len(decisions))
    return StageCounts(len(decisions), (log_counts(pool.events, counts),))


def _versions(pool: PoolFolder) -> list[str]:
    manifests = [pool.tables.current(table.name) for table in (CLIPS, MEASURES, AGREEMENTS, CAPTIONS)]
    return ["" if manifest is None else manifest.version for manifest in manifests]


@dataclass(frozen=True)
class _Clip:
    """A clip that the filters decide about, with its category."""

    clip_id: str
    category: str


def decide(con: duckdb.DuckDBPyConnection, settings: FilteringSettings) -> tuple[list[FailureRow], list[DecisionRow]]:
    """Every failed filter of every clip, and a decision per clip, in the order of ids.

    Raises ConfigError for a measure that no clip has.
    """
    find_failures(con, resolve_thresholds(con, settings.all_filters))
    failures = [FailureRow(*row) for row in con.execute(sql("failure_rows")).fetchall()]
    clips = [_Clip(*row) for row in con.execute(sql("decided_clips")).fetchall()]
    failed = {row.clip_id for row in failures}
    passing = [clip.clip_id for clip in clips if clip.clip_id not in failed]
    category_of = {clip.clip_id: clip.category for clip in clips}
    removals = _balance(con, settings, passing, category_of)
    failures += [FailureRow(removal.clip_id, removal.filter, removal.reason) for removal in removals]
    first: dict[str, FailureRow] = {}
    counts: dict[str, int] = {}
    for row in failures:
        first.setdefault(row.clip_id, row)
        counts[row.clip_id] = counts.get(row.clip_id, 0) + 1
    decisions = []
    for clip in clips:
        failure = first.get(clip.clip_id)
        why = ("", "") if failure is None else (failure.filter, failure.reason)
        number, category = counts.get(clip.clip_id, 0), category_of[clip.clip_id]
        decisions.append(DecisionRow(clip.clip_id, failure is None, *why, number, category))
    return failures, decisions


def _balance(
    con: duckdb.DuckDBPyConnection,
    settings: FilteringSettings,
    passing: Sequence[str],
    category_of: dict[str, str],
) -> list[Removal]:
    """The clips that quota and diversity remove; clusters replace the categories in ``category_of``."""
    quota, min_distance = settings.quota, settings.diversity.min_distance
    if not passing or (quota.by == "none" and not min_distance):
        return []
    ordered = _preferred(con, settings.prefer, passing)
    vectors = _vectors(con, ordered) if quota.by == "clusters" or min_distance else None
    removals: list[Removal] = []
    if quota.by == "clusters":
        assert vectors is not None
        category_of |= clusters(ordered, vectors, quota.num_clusters)
    if min_distance:
        assert vectors is not None
        removals += too_similar(ordered, vectors, min_distance)
    if quota.by != "none":
        removed = {removal.clip_id for removal in removals}
        removals += over_quota([clip_id for clip_id in ordered if clip_id not in removed], category_of, quota)
    return removals


def _preferred(con: duckdb.DuckDBPyConnection, measure: str, passing: Sequence[str]) -> list[str]:
    """The clips with the largest values of ``measure`` first, then by id. Raises ConfigError for an unknown measure."""
    if not measure:
        return sorted(passing)
    rows = con.execute(sql("values_of"), {"measure": measure}).fetchall()
    if not rows:
        found = f"filter.prefer: no clip has the measure {measure}"
        raise ConfigError(found, "a measure of the pool", "--set filter.prefer=MEASURE")
    values: Mapping[str, float] = dict(rows)
    return sorted(passing, key=lambda clip_id: (-values.get(clip_id, -np.inf), clip_id))


def _vectors(con: duckdb.DuckDBPyConnection, ordered: Sequence[str]) -> Vectors:
    """The vector of each clip [N, D]. Raises ConfigError where no measure gives all of them one."""
    for name in VECTORS:
        rows = dict(con.execute(sql("vectors_of"), {"measure": name}).fetchall())
        if all(clip_id in rows for clip_id in ordered):
            return np.array([rows[clip_id] for clip_id in ordered], np.float32)
    raise ConfigError(
        "clusters and diversity need a descriptor of every clip, and there is none",
        "the measurer frame_measures, or imagebind with store_embeddings",
        "--set 'measure.scorers=[frame_measures, sound_measures, flow_measures, sync_measures]'",
    )
