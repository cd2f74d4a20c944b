"""Stage ``write``: the kept clips as files, lists of them for training and for ``prompts import``, and the list of what is missing."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from avpref.config.pool.pool_settings import BucketAccess, WriteSettings
from avpref.datasets.rows import QuarantineRow
from avpref.errors import MediaError
from avpref.execution.contract import Receipt
from avpref.execution.item_counts import StageCounts
from avpref.execution.plan import plan_stage
from avpref.execution.reuse import Reuse
from avpref.execution.run_units import run_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.identity import bytes_sha256
from avpref.media.reading_rules import ReadingRules
from avpref.pool.lost_items import seal_ledger, seal_lost
from avpref.pool.measure.clip_window import ClipWindow
from avpref.pool.measure.measure_stage import clip_items, lost_clips
from avpref.pool.measure.measure_worker import MeasureItem
from avpref.pool.pool_folder import PoolFolder, arrow_rows
from avpref.pool.pool_tables import DECISIONS, WRITTEN, LostRow, WrittenRow
from avpref.pool.scan.pool_source import opened_source
from avpref.pool.write.clip_writing import encode_window, written_size
from avpref.storage.files import Files
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles

STAGE = "write"
VERSION = 1
CLIPS_CSV, CLIPS_PARQUET, LOST_CSV = "clips.csv", "clips.parquet", "lost.csv"
HASH_CHARS = 12


@dataclass(frozen=True)
class WriteSpec:
    """Builds workers that write clips to ``store`` and their rows to ``files``."""

    files: UnitFiles
    store: Files
    settings: WriteSettings
    bucket: BucketAccess
    rules: ReadingRules

    def build(self) -> WriteWorker:
        """A worker; there is nothing to load."""
        return WriteWorker(self)


@dataclass(frozen=True)
class WriteWorker:
    """Writes units of clips; media are committed before the rows that refer to them."""

    spec: WriteSpec

    def run(self, unit: Unit[MeasureItem]) -> Receipt:
        """Commit a file and a row per clip of ``unit``; a clip that cannot be decoded is quarantined."""
        started = time.perf_counter()
        rows: list[WrittenRow] = []
        lost: list[QuarantineRow] = []
        for item in unit.items:
            try:
                rows.append(self._write(item))
            except MediaError as error:
                lost.append(QuarantineRow(item.item_id, unit.stage, "MediaError", error.found, 1))
        self.spec.files.commit(unit, rows, lost)
        return Receipt(len(rows), len(lost), time.perf_counter() - started)

    def _write(self, item: MeasureItem) -> WrittenRow:
        window = ClipWindow(item.start_s, item.end_s, written_size(self.spec.settings), self.spec.rules, 0)
        with opened_source(item.source, self.spec.bucket) as media:
            encoded = encode_window(media, window, self.spec.settings)
        sha256, layout = bytes_sha256(encoded.data), encoded.layout
        path = f"clips/{item.clip_id}-{sha256[:HASH_CHARS]}.mp4"
        self.spec.store.commit_once(path, encoded.data)
        shape = (layout.num_frames, layout.height_px, layout.width_px, layout.fps_hz, layout.sample_rate_hz)
        return WrittenRow(item.clip_id, path, sha256, *shape, layout.num_frames / layout.fps_hz)


@reporting.stage(STAGE)
def write(pool: PoolFolder) -> StageCounts:
    """Write the kept clips, seal the tables ``written`` and ``lost``, and write the lists; rows are clips."""
    pool.require(DECISIONS, "filter")
    kept = {row["clip_id"] for row in pool.tables.read(DECISIONS).to_pylist() if row["is_kept"]}
    items = [item for item in clip_items(pool) if item.clip_id in kept]
    settings, files = pool.config.write, pool.units(WRITTEN)
    shape = settings.model_dump(mode="json", exclude={"text"})
    fingerprint = pool.fingerprint(STAGE, VERSION, shape, pool.rules.audio_track, pool.rules.hdr)
    plan = plan_stage(STAGE, "clips", fingerprint, [[item] for item in items], pool.config.run)
    spec = WriteSpec(files, pool.files, settings, pool.config.scan.bucket, pool.rules)
    reuse: Reuse[MeasureItem] = Reuse(files, pool.files, lambda: (), "clip_id")
    finished = run_stage(pool, plan, files, lambda: spec, reuse, reporting.observer())
    quarantined = pool.tables.seal_units(files, finished.units)
    seal_lost(pool, STAGE, lost_clips(STAGE, items, quarantined))
    unlisted = _write_lists(pool)
    _write_lost(pool, seal_ledger(pool), unlisted)
    return StageCounts(pool.tables.num_rows(WRITTEN), (finished.counts,))


def _write_lists(pool: PoolFolder) -> list[LostRow]:
    """Write ``clips.parquet`` (all written clips with captions and measures) and ``clips.csv`` (those with a text, for import).

    Returns a row per clip that has no text and is therefore not in the CSV.
    """
    with pool.connect() as con:
        table = arrow_rows(con, "written_clips")
        rows = table.to_pylist()
        values = arrow_rows(con, "values_of_written").to_pylist()
    measures: dict[str, dict[str, float]] = {}
    for value in values:
        measures.setdefault(value["clip_id"], {})[value["measure"]] = value["value"]
    names = sorted({value["measure"] for value in values})
    columns = {name: [row[name] for row in rows] for name in table.schema.names}
    columns |= {
        name: [measures.get(row["clip_id"], {}).get(name) for row in rows] for name in names if name not in columns
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    pool.files.replace(CLIPS_PARQUET, sink.getvalue())
    fallback = pool.config.write.text
    listed = [row for row in rows if row["text"] or fallback]
    pool.files.replace(
        CLIPS_CSV, _csv(("file", "text", "taxonomy", "group"), [_listed(row, fallback) for row in listed])
    )
    return [
        LostRow(
            STAGE,
            row["clip_id"],
            row["uri"],
            row["member"],
            f"no text, so not in {CLIPS_CSV}; written as {row['file']}",
            0.0,
        )
        for row in rows
        if not (row["text"] or fallback)
    ]


def _listed(row: Mapping[str, Any], fallback: str) -> tuple[str, str, str, str]:
    return row["file"], row["text"] or fallback, row["taxonomy"], row["group_id"]


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def _write_lost(pool: PoolFolder, rows: Sequence[LostRow], unlisted: Sequence[LostRow]) -> None:
    header = ("stage", "item", "uri", "member", "reason", "hours")
    everything = [tuple(vars(row)[name] for name in header) for row in [*rows, *unlisted]]
    pool.files.replace(LOST_CSV, _csv(header, everything))
