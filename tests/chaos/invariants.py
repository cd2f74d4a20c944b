"""What must hold of a run's folder after any kill: nothing torn, nothing touched again, nothing twice, the same end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open

from avpref.datasets import tables
from avpref.identity import file_sha256
from avpref.storage.local_files import TEMPORARY_PREFIX
from avpref.storage.run_folder import RunFolder

FINISHED = ("units/**/*.parquet", "clips/**/*.mp4", "models/sft-*/network.safetensors", "tables/*/*.parquet")
ONE_ROW_EACH = {
    "prompts": ("prompt_id",),
    "candidates": ("candidate_id",),
    "scores": ("candidate_id", "metric"),
    "rewards": ("candidate_id",),
    "pairs": ("pair_id",),
    "skipped": ("prompt_id",),
    "excluded": ("candidate_id",),
}
"""Columns that name a row of a table; two rows with the same are a duplicate."""
TIMES = ("elapsed_s", "elapsed_ms", "gpu_s")
"""Columns that say how long something took; all others must be equal in runs that ended alike."""
ADAPTER = "models/dpo-*/adapter/adapter_model.safetensors"


@dataclass(frozen=True)
class Mark:
    """What tells a file that was left alone from one that was written again."""

    inode: int
    mtime_ns: int
    size: int


def marks(root: Path, *patterns: str) -> dict[str, Mark]:
    """Every file under ``root`` that matches, by its relative path."""
    found = {}
    for pattern in patterns:
        for path in root.glob(pattern):
            if path.is_file() and not path.name.startswith("."):
                stat = path.stat()
                found[str(path.relative_to(root))] = Mark(stat.st_ino, stat.st_mtime_ns, stat.st_size)
    return found


def finished(root: Path) -> dict[str, Mark]:
    """Marks of everything that counts as done wherever it exists."""
    found = marks(root, *FINISHED)
    if list(root.glob("models/dpo-*/summary.json")):
        found |= marks(root, "models/dpo-*/summary.json", "models/dpo-*/adapter/*")
    return found


def visible(root: Path) -> dict[str, Mark]:
    """Marks of every file under its final name."""
    found = marks(root, "**/*")
    return {name: mark for name, mark in found.items() if not any(part.startswith(".") for part in Path(name).parts)}


def check_whole(root: Path, names: Iterable[str]) -> None:
    """Read files to their last byte. Raises what their reader raises, or AssertionError for a clip of another content."""
    for name in names:
        path = root / name
        match path.suffix:
            case ".parquet":
                pq.ParquetFile(path).read()
            case ".json":
                json.loads(path.read_text())
            case ".safetensors":
                with safe_open(path, framework="np") as stream:
                    assert list(stream.keys()), path
            case ".mp4":
                assert file_sha256(path).startswith(path.stem.rpartition("-")[2]), path
            case _ if path.name == "CURRENT":
                assert path.with_name(f"{path.read_text()}.json").exists(), path
    for folder in root.glob("models/**/checkpoints/step_*"):
        assert {path.name for path in folder.iterdir()} == {"state.json", "tensors.safetensors"}, folder


def check_tables(folder: RunFolder) -> None:
    """Every sealed table has its files with their hashes, and no row twice."""
    for table in tables.TABLES:
        manifest = folder.tables.current(table.name)
        if manifest is None:
            continue
        folder.tables.store.verify(manifest)
        key = ONE_ROW_EACH.get(table.name)
        if key:
            rows = folder.tables.read(table)
            assert rows.group_by(list(key)).aggregate([]).num_rows == rows.num_rows, f"rows twice in {table.name}"


def same_end(folder: RunFolder, reference: RunFolder) -> None:
    """Both runs are finished and hold the same results under the same files, and nothing temporary is left."""
    same_results(folder, reference)
    for pattern in ("units/**/*.parquet", "clips/**/*.mp4"):
        assert set(marks(folder.root, pattern)) == set(marks(reference.root, pattern)) != set(), pattern
    left = [path.name for path in folder.root.rglob(f"{TEMPORARY_PREFIX}*")]
    assert not left, left


def same_results(folder: RunFolder, reference: RunFolder, has_same_times: bool = True) -> None:
    """Both runs are finished, with equal tables but for times, equal clips and models to the bit, and one result document.

    ``has_same_times``: measured times come from units that both runs share. Otherwise versions of tables differ, and with them the
    record of the promotion.
    """
    for table in tables.TABLES:
        assert _timeless(folder, table) == _timeless(reference, table), table.name
        if has_same_times and not set(TIMES) & set(table.schema.names):
            assert _sealed_bytes(folder, table) == _sealed_bytes(reference, table), table.name
    promoted = ("promoted/*.json",) if has_same_times else ()
    for pattern in ("models/sft-*/network.safetensors", ADAPTER, "clips/**/*.mp4", *promoted):
        hashes = [
            {name: file_sha256(each.root / name) for name in marks(each.root, pattern)} for each in (folder, reference)
        ]
        assert hashes[0] == hashes[1], pattern
    assert len(list(folder.root.glob(ADAPTER))) == 1
    ends = [each.documents.read("result.json") for each in (folder, reference)]
    assert all(ends[0][key] == ends[1][key] for key in ("pairs", "training", "evaluation", "gate", "quarantined"))


def _timeless(folder: RunFolder, table: tables.Table) -> list[object] | None:
    """Rows of a sealed table without what they took."""
    if not folder.tables.has(table):
        return None
    rows: pa.Table = folder.tables.read(table)
    return list(rows.drop_columns([name for name in TIMES if name in rows.column_names]).to_pylist())


def _sealed_bytes(folder: RunFolder, table: tables.Table) -> list[bytes]:
    manifest = folder.tables.current(table.name)
    return (
        []
        if manifest is None
        else [folder.tables.store.files.read(name) for name in folder.tables.store.names(manifest)]
    )


def twice(names: Iterable[str]) -> list[str]:
    """Names that come more than once."""
    return sorted(name for name, count in Counter(names).items() if count > 1)
