"""Stage ``scan``: lists the sources, scans those that are new, and finds the recordings that are the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from avpref.datasets.tables import to_arrow
from avpref.execution.item_counts import StageCounts
from avpref.execution.plan import plan_stage, with_larger_units
from avpref.execution.reuse import Reuse
from avpref.execution.run_units import run_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.identity import digest
from avpref.pool.lost_items import seal_lost
from avpref.pool.pool_folder import PoolFolder
from avpref.pool.pool_tables import LISTED, OK, RECORDINGS, SIMILAR, SOURCES, ListedRow, LostRow, SimilarRow
from avpref.pool.scan.duplicates import Fingerprints, similar
from avpref.pool.scan.pool_source import PoolSource
from avpref.pool.scan.recording_choice import ReadableSource, choose
from avpref.pool.scan.scan_worker import ScanSpec
from avpref.pool.scan.source_listing import ListedSource, list_sources

STAGE = "scan"
VERSION = 1
"""Raise it when a row of the scan changes for equal bytes."""
UNIT_BYTES = 16 << 20
"""Size of the sources of a unit up to which it may hold more of them than ``run.unit_candidates``."""
PROPERTIES = ["source_id", "uri", "member", "num_bytes", "recording_id", "status", "reason", "duration_s"]
FINGERPRINTS = ["recording_id", "status", "picture_hashes", "picture_slots", "sound_prints"]


@reporting.stage(STAGE)
def scan(pool: PoolFolder) -> StageCounts:
    """Scan the sources of the pool and seal its tables ``listed``, ``sources``, ``similar`` and ``recordings``; rows are sources."""
    listed, refused = list_sources(pool.config.scan)
    settings = pool.config.scan
    fingerprint = pool.fingerprint(STAGE, VERSION, settings.require_sound, pool.rules.audio_track, pool.rules.hdr)
    plan = plan_stage(STAGE, "sources", fingerprint, [[entry.source] for entry in listed], pool.config.run)
    plan = with_larger_units(plan, lambda source: source.num_bytes / UNIT_BYTES)
    files = pool.units(SOURCES)
    spec = ScanSpec(files, settings.bucket, pool.rules, settings.require_sound)
    reuse: Reuse[PoolSource] = Reuse(files, pool.files, pool.siblings, "source_id")
    finished = run_stage(pool, plan, files, lambda: spec, reuse, reporting.observer())
    quarantined = pool.tables.seal_units(files, finished.units)
    _seal_list(pool, listed)
    _seal_recordings(pool, listed)
    lost = [LostRow(STAGE, "", entry.uri, entry.member, entry.reason, 0.0) for entry in refused]
    by_id = {entry.source.item_id: entry for entry in listed}
    for row in quarantined:
        source = by_id[row.candidate_id].source
        lost.append(LostRow(STAGE, row.candidate_id, source.uri, source.member, f"{row.error}: {row.message}", 0.0))
    seal_lost(pool, STAGE, lost)
    return StageCounts(pool.tables.num_rows(SOURCES), (finished.counts,))


def _seal_list(pool: PoolFolder, listed: Sequence[ListedSource]) -> None:
    rows = [_listed_row(entry.source, entry) for entry in listed]
    pool.tables.seal(LISTED, digest("listed", [row.source_id for row in rows]), to_arrow(LISTED, rows))


def _listed_row(source: PoolSource, entry: ListedSource) -> ListedRow:
    place = (source.uri, source.member, source.offset, source.num_bytes, source.stamp)
    return ListedRow(source.item_id, *place, entry.text, entry.taxonomy, entry.group)


def _seal_recordings(pool: PoolFolder, listed: Sequence[ListedSource]) -> None:
    """Seal which recordings are alike, and which sources are used."""
    manifest = pool.tables.require(SOURCES)
    inputs = digest("similar", manifest.version)
    if not pool.tables.is_sealed(SIMILAR, inputs):
        pairs = similar(list(_fingerprints(pool)))
        pool.tables.seal(SIMILAR, inputs, to_arrow(SIMILAR, pairs, inputs))
    rows = pool.tables.read(SIMILAR).to_pylist()
    drops, groups = pool.config.scan.duplicates == "drop", {entry.source.item_id: entry.group for entry in listed}
    chosen = choose(list(_readable(pool, groups)), [SimilarRow(**row) for row in rows], drops)
    choice = digest("recordings", inputs, drops, sorted(groups.items()))
    pool.tables.seal(RECORDINGS, choice, to_arrow(RECORDINGS, chosen, choice))


def _batches(pool: PoolFolder, columns: Sequence[str]) -> Iterator[pa.Table]:
    for batch in pool.tables.batches(SOURCES):
        part = batch.select(list(columns))
        yield part.filter(pc.equal(part["status"], OK))


def _fingerprints(pool: PoolFolder) -> Iterator[Fingerprints]:
    """The fingerprints of each readable recording once."""
    known: set[str] = set()
    for batch in _batches(pool, FINGERPRINTS):
        for row in range(batch.num_rows):
            recording_id = batch["recording_id"][row].as_py()
            if recording_id not in known:
                known.add(recording_id)
                names = ("picture_hashes", "picture_slots", "sound_prints")
                yield Fingerprints(recording_id, *(_integers(batch[name][row]) for name in names))


def _integers(value: pa.ListScalar) -> np.ndarray:
    return value.values.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)


def _readable(pool: PoolFolder, groups: dict[str, str]) -> Iterator[ReadableSource]:
    for batch in _batches(pool, [*PROPERTIES, "height_px", "width_px"]):
        for row in batch.to_pylist():
            pixels = row["height_px"] * row["width_px"]
            identity = row["source_id"], row["recording_id"], groups.get(row["source_id"], "")
            yield ReadableSource(*identity, pixels, row["duration_s"], row["num_bytes"])
