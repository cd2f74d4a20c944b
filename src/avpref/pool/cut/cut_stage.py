"""Stage ``cut``: the used recordings become clips, which are ranges of time. Only ``transnetv2`` decodes anything."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from avpref.config.pool.pool_settings import CutSettings
from avpref.datasets.tables import to_arrow
from avpref.execution.item_counts import ItemCounts, StageCounts, log_counts
from avpref.execution.plan import plan_stage
from avpref.execution.reuse import Reuse
from avpref.execution.run_units import run_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.identity import digest
from avpref.pool.cut.clip_ranges import FrameRange, Timeline, clip_ranges
from avpref.pool.cut.scene_cuts import Changes, cuts_after, cuts_of
from avpref.pool.lost_items import seal_lost
from avpref.pool.pool_folder import PoolFolder
from avpref.pool.pool_tables import CLIPS, CUTS, LISTED, OK, RECORDINGS, REFUSED, SOURCES, ClipRow, LostRow
from avpref.pool.scan.pool_source import PoolSource

STAGE = "cut"
VERSION = 1
BATCH_ROWS = 256


@dataclass(frozen=True)
class _Used:
    """The properties of a used source that its clips inherit."""

    group_id: str
    text: str
    taxonomy: str


@reporting.stage(STAGE)
def cut(pool: PoolFolder) -> StageCounts:
    """Seal the table ``clips``: the clips of every used recording, and the ranges that are none; rows are both."""
    pool.require(RECORDINGS, "scan")
    settings = pool.config.cut
    counts: tuple[ItemCounts, ...] = ()
    if settings.detector == "transnetv2":
        counts = (_judge_transitions(pool),)
    else:
        seal_lost(pool, STAGE, [])
    versions = [pool.tables.require(table).version for table in (SOURCES, RECORDINGS, LISTED)]
    versions += [pool.tables.require(CUTS).version] if settings.detector == "transnetv2" else []
    inputs = digest("clips", VERSION, versions, settings.model_dump(mode="json"))
    if not pool.tables.is_sealed(CLIPS, inputs):
        rows = list(_clips(pool, settings))
        pool.tables.seal(CLIPS, inputs, to_arrow(CLIPS, rows, inputs))
        made = ItemCounts(STAGE, "clips", made=len(rows))
    else:
        made = ItemCounts(STAGE, "clips", present=pool.tables.num_rows(CLIPS))
    return StageCounts(pool.tables.num_rows(CLIPS), (*counts, log_counts(pool.events, made)))


def _used(pool: PoolFolder) -> dict[str, _Used]:
    listed = {row["source_id"]: row for row in pool.tables.read(LISTED).to_pylist()}
    used = {}
    for row in pool.tables.read(RECORDINGS).to_pylist():
        if row["is_used"] and row["source_id"] in listed:
            entry = listed[row["source_id"]]
            used[row["source_id"]] = _Used(row["group_id"], entry["text"], entry["taxonomy"])
    return used


def _judge_transitions(pool: PoolFolder) -> ItemCounts:
    """Seal the probabilities of transitions of the used sources."""
    from avpref.pool.cut.transition_worker import TransitionSpec
    from avpref.rewards.learned.shot_cuts import shot_cuts_fingerprint

    used = _used(pool)
    sources = [source for source in listed_sources(pool) if source.item_id in used]
    fingerprint = pool.fingerprint("transitions", VERSION, shot_cuts_fingerprint(), pool.rules.hdr)
    plan = plan_stage("transitions", "sources", fingerprint, [[source] for source in sources], pool.config.run)
    files = pool.units(CUTS)
    spec = TransitionSpec(files, pool.config.scan.bucket, pool.rules)
    reuse: Reuse[PoolSource] = Reuse(files, pool.files, pool.siblings, "source_id")
    finished = run_stage(pool, plan, files, lambda: spec, reuse, reporting.observer())
    lost = pool.tables.seal_units(files, finished.units)
    by_id = {source.item_id: source for source in sources}
    rows = [
        LostRow(STAGE, row.candidate_id, by_id[row.candidate_id].uri, by_id[row.candidate_id].member, row.message, 0.0)
        for row in lost
    ]
    seal_lost(pool, STAGE, rows)
    return finished.counts


def listed_sources(pool: PoolFolder) -> Iterator[PoolSource]:
    """The sources that were listed, with the ids that they were scanned under."""
    for row in pool.tables.read(LISTED).to_pylist():
        yield source_of(row)


def source_of(row: Mapping[str, Any]) -> PoolSource:
    """The source of a row of the table ``listed``."""
    return PoolSource(row["uri"], row["num_bytes"], row["stamp"], row["member"], row["offset"])


def _clips(pool: PoolFolder, settings: CutSettings) -> Iterator[ClipRow]:
    used = _used(pool)
    transitions = _transitions(pool) if settings.detector == "transnetv2" else {}
    for batch in pool.tables.batches(SOURCES):
        for start in range(0, batch.num_rows, BATCH_ROWS):
            part = batch.slice(start, BATCH_ROWS)
            for index in range(part.num_rows):
                source_id = part["source_id"][index].as_py()
                if source_id not in used or part["status"][index].as_py() != OK:
                    continue
                if settings.detector == "transnetv2" and source_id not in transitions:
                    continue
                cuts = _cuts(part, index, settings, transitions)
                ranges = clip_ranges(_timeline(part, index), cuts, settings)
                yield from _rows(part, index, ranges, used[source_id])


def _transitions(pool: PoolFolder) -> dict[str, NDArray[np.float64]]:
    table = pool.tables.read(CUTS)
    return {table["source_id"][row].as_py(): _floats(table, "probabilities", row) for row in range(table.num_rows)}


def _cuts(
    part: pa.Table, index: int, settings: CutSettings, transitions: Mapping[str, NDArray[np.float64]]
) -> list[int]:
    if settings.detector == "transnetv2":
        values = transitions[part["source_id"][index].as_py()]
        return cuts_after(values, settings.cut_threshold, settings.min_scene_frames)
    names = ("hue_changes", "saturation_changes", "luma_changes", "histogram_matches")
    changes = Changes(*(_floats(part, name, index) for name in names))
    return cuts_of(settings.detector, changes, settings.cut_threshold, settings.min_scene_frames)


def _floats(table: pa.Table, name: str, row: int) -> NDArray[np.float64]:
    return table[name][row].values.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)


def _timeline(part: pa.Table, index: int) -> Timeline:
    has_sound = bool(part["audio_codec"][index].as_py())
    sound = (part["audio_start_s"][index].as_py(), part["audio_end_s"][index].as_py()) if has_sound else (0.0, math.inf)
    return Timeline(_floats(part, "frame_times_s", index), part["duration_s"][index].as_py(), *sound)


def _rows(part: pa.Table, index: int, ranges: list[FrameRange], used: _Used) -> Iterator[ClipRow]:
    source_id, recording_id = part["source_id"][index].as_py(), part["recording_id"][index].as_py()
    for entry in ranges:
        yield ClipRow(
            clip_id=clip_id(recording_id, entry),
            source_id=source_id,
            recording_id=recording_id,
            group_id=used.group_id,
            scene=entry.scene,
            part=entry.part,
            first_frame=entry.first,
            end_frame=entry.end,
            start_s=entry.start_s,
            end_s=entry.end_s,
            text=used.text,
            taxonomy=used.taxonomy,
            status=REFUSED if entry.reason else OK,
            reason=entry.reason,
        )


def clip_id(recording_id: str, entry: FrameRange) -> str:
    """Identity of a clip: the recording's bytes and the range of frames, whichever detector found it."""
    return "k" + digest(
        "pool clip", recording_id, entry.first, entry.end, round(entry.start_s, 6), round(entry.end_s, 6)
    )
