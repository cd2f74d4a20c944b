"""Export of a run's pairs for other programs: the layout of Hugging Face's ``datasets``, Diffusion-DPO's columns, or a CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, assert_never

import pyarrow as pa

from avpref.datasets.foreign_pairs.csv_pairs import REQUIRED
from avpref.datasets.foreign_pairs.pair_layout import (
    CARD_FILE,
    FILE_NAME,
    MANIFEST_FILE,
    MEDIA,
    METADATA_FILE,
    pair_schema,
    with_features,
)
from avpref.datasets.metric_tables import SIDES
from avpref.errors import ConfigError
from avpref.exchange.dataset_card import dataset_card
from avpref.exchange.pair_rows import PairRows, pair_rows
from avpref.exchange.shard_writer import DEFAULT_LIMITS, ExportedFile, ShardLimits, ShardWriter
from avpref.exchange.staged_folder import staged_folder
from avpref.identity import digest, file_sha256
from avpref.storage.run_folder import RunFolder

ExportFormat = Literal["hf", "diffusion-dpo", "csv"]
ExportLayout = Literal["auto", "shards", "files"]
MAX_PAIRS_AS_FILES = 5000
"""Pairs above which ``auto`` writes shards: a hub takes few large files better than many small ones."""
ROWS_AT_ONCE = 64
DPO_COLUMNS = ("caption", "mp4_0", "mp4_1", "label_0", "label_1", "pair_id", "clip_0_uid", "clip_1_uid", "dimension")
CSV_FILE = "pairs.csv"
CSV_COLUMNS = (*REQUIRED, "pair_id", "dimension", "taxonomy")


@dataclass(frozen=True)
class PairExport:
    """An export of pairs: the new folder ``out``, the format, and how clips are stored."""

    out: Path
    format: ExportFormat = "hf"
    layout: ExportLayout = "auto"
    limits: ShardLimits = DEFAULT_LIMITS


def export_pairs(folder: RunFolder, request: PairExport) -> dict[str, Any]:
    """Write the pairs of a run into a new folder, which appears when it is complete; returns its manifest.

    Equal pairs give equal files. Raises ConfigError for a layout that the format does not have, InputError where the run has no
    pairs, a clip is gone or ``out`` is not empty, TableError where a table or clip was changed, StorageError.
    """
    if request.format != "hf" and request.layout != "auto":
        found = f"--layout {request.layout} with --format {request.format}"
        raise ConfigError(found, "a layout for --format hf alone", "leave --layout out, or --format hf")
    rows = pair_rows(folder)
    with staged_folder(request.out) as staging:
        match request.format:
            case "hf":
                files = _export_hf(rows, request, staging)
            case "diffusion-dpo":
                files = _export_diffusion_dpo(rows, request, staging)
            case "csv":
                files = _export_csv(rows, staging)
            case _:
                assert_never(request.format)
        manifest = {**rows.facts, "export": request.format, "files": [asdict(file) for file in files]}
        (staging / CARD_FILE).write_text(dataset_card(manifest, rows), encoding="utf-8")
        (staging / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
    return manifest


def _export_hf(rows: PairRows, request: PairExport, out: Path) -> list[ExportedFile]:
    is_large = rows.num_rows > MAX_PAIRS_AS_FILES
    if request.layout == "shards" or (request.layout == "auto" and is_large):
        return _export_shards(rows, request.limits, out)
    return _export_files(rows, out)


def _export_shards(rows: PairRows, limits: ShardLimits, out: Path) -> list[ExportedFile]:
    schema = with_features(pair_schema(rows.metrics, has_bytes=True))
    writer = ShardWriter(out, schema, SIDES, limits)
    for group, clips in _groups(rows, limits):
        for side, data in zip(SIDES, zip(*clips, strict=True), strict=True):
            names = [f"{row['candidate_id']}.mp4" for row in group[f"{side}_clip"].to_pylist()]
            media = pa.StructArray.from_arrays([pa.array(data, pa.binary()), pa.array(names)], fields=list(MEDIA))
            group = group.append_column(side, media)
        writer.write(group.select(schema.names), _num_bytes(clips))
    return writer.close()


def _export_diffusion_dpo(rows: PairRows, request: PairExport, out: Path) -> list[ExportedFile]:
    """Columns of Diffusion-DPO's image pairs with mp4 in place of jpg: ``label_0`` is 1 where clip 0 is preferred.

    A hash of the pair's id decides which clip comes first.
    """
    kinds = {"mp4_0": pa.binary(), "mp4_1": pa.binary(), "label_0": pa.float64(), "label_1": pa.float64()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in DPO_COLUMNS])
    writer = ShardWriter(out, schema, ("mp4_0", "mp4_1"), request.limits)
    for group, clips in _groups(rows, request.limits):
        lines = zip(group.to_pylist(), clips, strict=True)
        writer.write(pa.Table.from_pylist([_dpo_row(row, pair) for row, pair in lines], schema), _num_bytes(clips))
    return writer.close()


def _dpo_row(row: dict[str, Any], clips: tuple[bytes, bytes]) -> dict[str, Any]:
    is_swapped = int(digest("side", row["pair_id"]), 16) % 2 == 1
    order = (1, 0) if is_swapped else (0, 1)
    uids = [row[f"{side}_clip"]["candidate_id"] for side in SIDES]
    preferred = order.index(0)
    return {
        "caption": row["prompt"],
        "pair_id": row["pair_id"],
        "dimension": row["dimension"],
        **{f"mp4_{place}": clips[side] for place, side in enumerate(order)},
        **{f"clip_{place}_uid": uids[side] for place, side in enumerate(order)},
        **{f"label_{place}": float(place == preferred) for place in range(2)},
    }


def _export_files(rows: PairRows, out: Path) -> list[ExportedFile]:
    """``train/metadata.jsonl``, one pair in every line, and each distinct clip as a file beside it."""
    path = out / METADATA_FILE
    path.parent.mkdir(parents=True)
    order = pair_schema(rows.metrics, has_bytes=False).names
    with path.open("w", encoding="utf-8") as lines:
        for row, names in _with_clip_files(rows, path.parent):
            document = {**row, **{f"{side}{FILE_NAME}": name for side, name in zip(SIDES, names, strict=True)}}
            lines.write(json.dumps({name: document[name] for name in order}, ensure_ascii=False) + "\n")
    return [ExportedFile(METADATA_FILE, rows.num_rows, path.stat().st_size, file_sha256(path))]


def _export_csv(rows: PairRows, out: Path) -> list[ExportedFile]:
    """``pairs.csv`` and each distinct clip as a file; ``avpref pairs import`` reads it back."""
    path = out / CSV_FILE
    with path.open("w", encoding="utf-8", newline="") as stream:
        lines = csv.writer(stream)
        lines.writerow(CSV_COLUMNS)
        for row, names in _with_clip_files(rows, out):
            lines.writerow([*names, row["prompt"], row["pair_id"], row["dimension"], row["taxonomy"]])
    return [ExportedFile(CSV_FILE, rows.num_rows, path.stat().st_size, file_sha256(path))]


def _with_clip_files(rows: PairRows, folder: Path) -> Iterator[tuple[dict[str, Any], tuple[str, str]]]:
    """Every pair as a document, and the names of its clips, which are written into ``folder`` under their hashes."""
    written: set[str] = set()
    for start in range(0, rows.num_rows, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, rows.num_rows)
        documents = rows.table.slice(start, stop - start).to_pylist()
        for row, clips in zip(documents, rows.clips(start, stop), strict=True):
            names = []
            for side, data in zip(SIDES, clips, strict=True):
                sha256 = row[f"{side}_clip"]["sha256"]
                name = f"clips/{sha256[:2]}/{sha256[:32]}.mp4"
                if sha256 not in written:
                    path = folder / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
                    written.add(sha256)
                names.append(name)
            yield row, (names[0], names[1])


Clips = list[tuple[bytes, bytes]]


def _groups(rows: PairRows, limits: ShardLimits) -> Iterator[tuple[pa.Table, Clips]]:
    """Consecutive pairs with their clips, a row group each."""
    first, num_bytes = 0, 0
    clips: Clips = []
    for start in range(0, rows.num_rows, ROWS_AT_ONCE):
        for pair in rows.clips(start, min(start + ROWS_AT_ONCE, rows.num_rows)):
            clips.append(pair)
            num_bytes += sum(map(len, pair))
            if len(clips) >= limits.group_rows or num_bytes >= limits.group_bytes:
                yield rows.table.slice(first, len(clips)), clips
                first, num_bytes, clips = first + len(clips), 0, []
    if clips:
        yield rows.table.slice(first, len(clips)), clips


def _num_bytes(clips: Clips) -> int:
    return sum(len(chosen) + len(rejected) for chosen, rejected in clips)
