"""Stage ``caption``: texts that clips bring along are kept, others are asked for, and texts are compared with their clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from avpref.datasets.rows import QuarantineRow
from avpref.datasets.tables import conform, to_arrow
from avpref.domain import MetricInput
from avpref.execution.item_counts import ItemCounts, StageCounts
from avpref.execution.plan import plan_stage
from avpref.execution.reuse import Reuse
from avpref.execution.run_units import run_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.identity import digest
from avpref.pool.caption.caption_request import VERSION
from avpref.pool.caption.caption_worker import CaptionSpec
from avpref.pool.filter.thresholds import find_failures, resolve_thresholds
from avpref.pool.lost_items import seal_lost
from avpref.pool.measure.measure_stage import clip_items, lost_clips, measure_items
from avpref.pool.measure.measure_worker import MeasureItem
from avpref.pool.measure.measurers import measurers
from avpref.pool.pool_folder import PoolFolder
from avpref.pool.pool_tables import AGREEMENTS, CAPTIONS, MEASURES, OK, CaptionRow

STAGE, CHECK = "caption", "agreement"
EXISTING = "existing"
MARK = "~"
"""Between a clip's id and the hash of its text, in the ids of comparisons."""


@reporting.stage(STAGE)
def caption(pool: PoolFolder) -> StageCounts:
    """Seal the tables ``captions`` and ``agreements``; rows are captions.

    Only clips that fail no threshold are sent. A clip that the service did not describe is tried again by the next execution.
    """
    pool.require(MEASURES, "measure")
    items = _passing(pool)
    existing = [_existing(item) for item in items if item.text and pool.config.caption.keep_existing]
    kept = {row.clip_id for row in existing}
    asked = [item for item in items if item.clip_id not in kept]
    made, lost, counts = _ask(pool, asked) if pool.config.caption.url else (None, [], ())
    rows = to_arrow(CAPTIONS, existing)
    table = rows if made is None else pa.concat_tables([part.replace_schema_metadata(None) for part in (rows, made)])
    table = table.sort_by("clip_id")
    inputs = digest("captions", table.to_pylist())
    pool.tables.seal(CAPTIONS, inputs, conform(CAPTIONS, table, inputs))
    seal_lost(pool, STAGE, lost_clips(STAGE, asked, lost))
    counts = (*counts, *_compare(pool, items))
    return StageCounts(table.num_rows, counts)


def _existing(item: MeasureItem) -> CaptionRow:
    return CaptionRow(item.clip_id, item.text, "", "", "", EXISTING, OK, "", "", 0, 0, 0, 0.0)


def _passing(pool: PoolFolder) -> list[MeasureItem]:
    """The clips that fail no threshold on a measure that does not depend on a text."""
    with pool.connect() as con:
        known = {row[0] for row in con.execute("SELECT DISTINCT measure FROM measures").fetchall()}
        of_text = _text_measures(pool)
        usable = [entry for entry in pool.config.filter.all_filters if entry.measure in known - of_text]
        find_failures(con, resolve_thresholds(con, usable))
        failed = {row[0] for row in con.execute("SELECT DISTINCT clip_id FROM found_failures").fetchall()}
        measured = {row[0] for row in con.execute("SELECT DISTINCT clip_id FROM measures").fetchall()}
    return [item for item in clip_items(pool) if item.clip_id in measured - failed]


def _text_measures(pool: PoolFolder) -> set[str]:
    if not pool.config.caption.uses:
        return set()
    sources = measurers(pool.config.measure, pool.executor, pool.config.caption.uses)
    return {metric.name for source in sources for metric in source.metrics if MetricInput.PROMPT in metric.inputs}


def _ask(
    pool: PoolFolder, items: Sequence[MeasureItem]
) -> tuple[pa.Table, list[QuarantineRow], tuple[ItemCounts, ...]]:
    """Captions of ``items``, the clips without one, and the counts.

    Clips that failed in an earlier execution form another round, so every execution tries them once more.
    """
    settings, files = pool.config.caption, pool.units(CAPTIONS)
    names = ("url", "key_variable", "concurrency", "timeout_s", "attempts", "backoff_s", "requests_per_s", "checks")
    identity = settings.model_dump(mode="json", exclude={*names, "keep_existing"})
    tables, counts, remaining = [to_arrow(CAPTIONS, [])], [], list(items)
    lost: list[QuarantineRow] = []
    has_asked, number = False, 0
    while remaining:
        fingerprint = pool.fingerprint(STAGE, VERSION, identity, pool.rules.audio_track, number)
        if has_asked and not pool.unit_files.children(f"{STAGE}/{fingerprint}"):
            break
        plan = plan_stage(STAGE, "clips", fingerprint, [[item] for item in remaining], pool.config.run)
        spec = CaptionSpec(files, settings, pool.config.scan.bucket, pool.rules)
        reuse: Reuse[MeasureItem] = Reuse(files, pool.files, pool.siblings, "clip_id")
        finished = run_stage(pool, plan, files, lambda spec=spec: spec, reuse, reporting.observer())  # type: ignore[misc]
        rows, lost = files.read(finished.units)
        tables.append(rows)
        counts.append(finished.counts)
        has_asked |= finished.counts.made > 0
        failed = {row.candidate_id for row in lost}
        remaining, number = [item for item in remaining if item.clip_id in failed], number + 1
    return pa.concat_tables([table.replace_schema_metadata(None) for table in tables]), lost, tuple(counts)


def _compare(pool: PoolFolder, items: Sequence[MeasureItem]) -> tuple[ItemCounts, ...]:
    """Seal how well texts fit their clips, by the measures of ``caption.checks`` that depend on the text."""
    uses = pool.config.caption.uses
    text_of = {row["clip_id"]: row["text"] for row in pool.tables.read(CAPTIONS).to_pylist()}
    pairs = [_with_text(item, text_of[item.clip_id]) for item in items if uses and item.clip_id in text_of]
    if not pairs:
        pool.tables.seal(AGREEMENTS, "", to_arrow(AGREEMENTS, []))
        return ()
    measured = measure_items(pool, CHECK, pairs, uses)
    rows, _ = pool.units(MEASURES).read(measured.units)
    kept = [row for row in rows.to_pylist() if row["measure"] in _text_measures(pool)]
    for row in kept:
        row["clip_id"] = row["clip_id"].partition(MARK)[0]
    inputs = digest("agreements", [[unit.fingerprint, unit.name] for unit in measured.units])
    table = pa.Table.from_pylist(kept, schema=AGREEMENTS.schema)
    pool.tables.seal(AGREEMENTS, inputs, conform(AGREEMENTS, table, inputs))
    return measured.counts


def _with_text(item: MeasureItem, text: str) -> MeasureItem:
    return replace(item, clip_id=f"{item.clip_id}{MARK}{digest(text, size=8)}", text=text)
