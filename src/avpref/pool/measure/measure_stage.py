"""Stage ``measure``: every clip through every measurer, one committed file per unit and measurer, sealed as one long table."""

from __future__ import annotations

import contextvars
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import compress

from avpref.config.executor_settings import RayExecutor
from avpref.config.scorer_use import ScorerUse
from avpref.datasets.rows import QuarantineRow
from avpref.execution.item_counts import ItemCounts, StageCounts
from avpref.execution.plan import StagePlan, grouped, plan_stage, with_larger_units
from avpref.execution.reuse import Reuse
from avpref.execution.run_units import run_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.stages.scorer_groups import CANARIES, ScorerGroup, scorer_groups
from avpref.flows.workers.canary import Canary
from avpref.pool.cut.cut_stage import source_of
from avpref.pool.lost_items import seal_lost
from avpref.pool.measure.descriptors import VERSION as DESCRIPTOR_VERSION
from avpref.pool.measure.measure_worker import DESCRIBED_WITH, MeasureItem, MeasureSpec
from avpref.pool.measure.measurers import measurers
from avpref.pool.pool_folder import PoolFolder, arrow_rows
from avpref.pool.pool_tables import CLIPS, MEASURES, LostRow
from avpref.storage.score_files import ScoreFiles, distinct
from avpref.storage.unit import Unit

STAGE = "measure"
VERSION = 1
UNIT_S = 150.0
"""Length of the clips of a unit up to which it may hold more of them than ``run.unit_candidates``."""


@dataclass(frozen=True)
class Measured:
    """The units that hold all rows, what was quarantined, and the counts of each pass."""

    units: list[Unit]
    quarantined: list[QuarantineRow]
    counts: tuple[ItemCounts, ...]


@reporting.stage(STAGE)
def measure(pool: PoolFolder) -> StageCounts:
    """Measure the clips of the pool and seal its table ``measures``; rows are measures."""
    pool.require(CLIPS, "cut")
    items = clip_items(pool)
    measured = measure_items(pool, STAGE, items)
    files = pool.units(MEASURES)
    quarantined = distinct(pool.tables.seal_units(files, measured.units))
    seal_lost(pool, STAGE, lost_clips(STAGE, items, quarantined))
    return StageCounts(pool.tables.num_rows(MEASURES), measured.counts)


def clip_items(pool: PoolFolder) -> list[MeasureItem]:
    """The clips of the pool with their sources, in the order of the table; of clips with equal ids the first."""
    with pool.connect() as con:
        rows = arrow_rows(con, "clip_places").to_pylist()
    items: dict[str, MeasureItem] = {}
    for row in rows:
        item = MeasureItem(row["clip_id"], source_of(row), row["start_s"], row["end_s"], row["text"])
        items.setdefault(item.clip_id, item)
    return list(items.values())


def lost_clips(stage: str, items: Sequence[MeasureItem], quarantined: Sequence[QuarantineRow]) -> list[LostRow]:
    """The quarantined clips with their sources."""
    by_id = {item.clip_id: item for item in items}
    rows = []
    for row in quarantined:
        item = by_id[row.candidate_id]
        hours = (item.end_s - item.start_s) / 3600.0
        reason = f"{row.error}: {row.message.splitlines()[0] if row.message else ''}"
        rows.append(LostRow(stage, item.clip_id, item.source.uri, item.source.member, reason, hours))
    return rows


def measure_items(
    pool: PoolFolder, stage: str, items: Sequence[MeasureItem], uses: Sequence[ScorerUse] | None = None
) -> Measured:
    """Run the measurers of the pool, or those of ``uses``, on ``items`` whose rows are missing.

    Raises InputError where weights are absent or a canary drifts, ConfigError for a measurer that cannot be used.
    """
    sources = measurers(pool.config.measure, pool.executor, uses)
    view = (VERSION, pool.config.measure.max_clip_bytes, pool.rules.audio_track, pool.rules.hdr)
    fingerprints = [
        pool.fingerprint(
            stage, source.fingerprint, *view, *((DESCRIPTOR_VERSION,) if source.slug == DESCRIBED_WITH else ())
        )
        for source in sources
    ]
    groups = grouped(items, [item.source.item_id for item in items])
    plan = plan_stage(stage, "clips", pool.fingerprint(stage, fingerprints), groups, pool.config.run)
    plan = with_larger_units(plan, lambda item: (item.end_s - item.start_s) / UNIT_S)
    passes = [_Pass(pool, plan, group) for group in scorer_groups(pool.executor, sources, fingerprints)]
    is_parallel = isinstance(pool.executor, RayExecutor) and pool.executor.scoring == "pools"
    counts = _run(passes, is_parallel)
    finished = [replace(unit, fingerprint=fingerprint) for fingerprint in fingerprints for unit in plan.units]
    return Measured(finished, pool.units(MEASURES).quarantined(finished), tuple(counts))


@dataclass(frozen=True)
class _Pass:
    """One pass over the plan by one group of measurers."""

    pool: PoolFolder
    plan: StagePlan[MeasureItem]
    group: ScorerGroup

    def run(self) -> ItemCounts:
        """Finish every unit for the group's measurers."""
        group, pool = self.group, self.pool
        files = ScoreFiles(pool.units(MEASURES), group.fingerprints)

        def spec() -> MeasureSpec:
            """Only the measurers with unfinished units, so that no other weights are loaded."""
            columns = zip(*(files.parts(unit) for unit in self.plan.units), strict=True)
            is_unfinished = [not all(files.files.exists(part) for part in column) for column in columns]
            unfinished = ScoreFiles(files.files, tuple(compress(group.fingerprints, is_unfinished)))
            return MeasureSpec(
                unfinished,
                tuple(compress(group.sources, is_unfinished)),
                Canary(pool.shared.subfolder(CANARIES)),
                pool.config.scan.bucket,
                pool.rules,
                pool.config.measure.max_clip_bytes,
                group.executor.device,
            )

        plan = replace(self.plan, name=self.plan.name + group.suffix, executor=group.executor)
        reuse = Reuse(files.files, pool.files, pool.siblings, "clip_id", files.parts, item_noun="clips and measurers")
        return run_stage(pool, plan, files, spec, reuse, reporting.observer()).counts


def _run(passes: Sequence[_Pass], is_parallel: bool) -> list[ItemCounts]:
    if not is_parallel:
        return [measuring.run() for measuring in passes]
    with ThreadPoolExecutor(len(passes)) as threads:
        running = [threads.submit(contextvars.copy_context().run, measuring.run) for measuring in passes]
        return [future.result() for future in running]
