"""Exports of pairs: every layout holds the pairs of the run, whole or not at all, and the same ones each time."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from avpref.datasets import tables
from avpref.datasets.metric_tables import SIDES
from avpref.errors import ConfigError, InputError, TableError
from avpref.exchange.pair_export import DPO_COLUMNS, ExportLayout, PairExport, export_pairs
from avpref.exchange.shard_writer import ShardLimits
from avpref.identity import bytes_sha256, file_sha256
from avpref.storage.run_folder import RunFolder, open_root

SMALL = ShardLimits(group_bytes=30_000, group_rows=3, shard_bytes=40_000)


@pytest.fixture(scope="module")
def pairs(tiny_run: RunFolder) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = tiny_run.tables.read(tables.PAIRS).to_pylist()
    return rows


def clips_of(run: RunFolder) -> dict[str, dict[str, object]]:
    return {row["candidate_id"]: row for row in run.tables.read(tables.CANDIDATES).to_pylist()}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_shards_hold_every_pair_with_its_clips(tiny_run: RunFolder, pairs: list, tmp_path: Path) -> None:
    manifest = export_pairs(tiny_run, PairExport(tmp_path / "out", layout="shards", limits=SMALL))
    shards = sorted((tmp_path / "out" / "data").iterdir())
    assert [f"data/{path.name}" for path in shards] == [file["name"] for file in manifest["files"]]
    assert len(shards) > 1 and shards[0].name == f"train-00000-of-{len(shards):05d}.parquet"
    for path, file in zip(shards, manifest["files"], strict=True):
        assert (file_sha256(path), path.stat().st_size) == (file["sha256"], file["num_bytes"])
    rows = pa.concat_tables([pq.read_table(path) for path in shards]).to_pylist()
    assert [row["pair_id"] for row in rows] == [pair["pair_id"] for pair in pairs]
    candidates, texts = clips_of(tiny_run), tiny_run.tables.read(tables.PROMPTS).to_pylist()
    text = {row["prompt_id"]: row["text"] for row in texts}
    for row, pair in zip(rows, pairs, strict=True):
        assert (row["prompt"], row["label"], row["dimension"]) == (text[pair["prompt_id"]], 1, "all")
        assert row["margins"]["total"] == pair["margin_total"]
        for side in SIDES:
            candidate = candidates[str(pair[side])]
            assert bytes_sha256(row[side]["bytes"]) == candidate["sha256"] == row[f"{side}_clip"]["sha256"]
            assert {name: candidate[name] for name in row[f"{side}_clip"]} == row[f"{side}_clip"]
            assert row[f"{side}_scores"]["desync"] == pair[f"{side}_desync"]
    assert max(pq.ParquetFile(path).metadata.row_group(0).num_rows for path in shards) <= SMALL.group_rows


def test_files_hold_every_pair_and_each_clip_once(tiny_run: RunFolder, pairs: list, tmp_path: Path) -> None:
    export_pairs(tiny_run, PairExport(tmp_path / "out"))
    folder = tmp_path / "out" / "train"
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert [row["pair_id"] for row in rows] == [pair["pair_id"] for pair in pairs]
    for row in rows:
        for side in SIDES:
            data = (folder / row[f"{side}_file_name"]).read_bytes()
            assert bytes_sha256(data) == row[f"{side}_clip"]["sha256"]
    distinct = {
        row["sha256"] for name, row in clips_of(tiny_run).items() if any(name in pair.values() for pair in pairs)
    }
    assert len(list(folder.rglob("*.mp4"))) == len(distinct)


def test_diffusion_dpo_columns_prefer_either_side(tiny_run: RunFolder, pairs: list, tmp_path: Path) -> None:
    export_pairs(tiny_run, PairExport(tmp_path / "out", format="diffusion-dpo"))
    (shard,) = (tmp_path / "out" / "data").iterdir()
    rows = pq.read_table(shard).to_pylist()
    assert tuple(rows[0]) == DPO_COLUMNS
    candidates = clips_of(tiny_run)
    for row, pair in zip(rows, pairs, strict=True):
        preferred = 0 if row["label_0"] == 1.0 else 1
        assert {row["label_0"], row["label_1"]} == {0.0, 1.0}
        assert row[f"clip_{preferred}_uid"] == pair["chosen"] and row[f"clip_{1 - preferred}_uid"] == pair["rejected"]
        assert bytes_sha256(row[f"mp4_{preferred}"]) == candidates[str(pair["chosen"])]["sha256"]
    assert {row["label_0"] for row in rows} == {0.0, 1.0}, "neither place alone holds the preferred clips"


def test_a_csv_names_both_clips(tiny_run: RunFolder, pairs: list, tmp_path: Path) -> None:
    export_pairs(tiny_run, PairExport(tmp_path / "out", format="csv"))
    with (tmp_path / "out" / "pairs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["pair_id"] for row in rows] == [pair["pair_id"] for pair in pairs]
    assert all((tmp_path / "out" / row[side]).is_file() for row in rows for side in SIDES)


def test_equal_runs_give_equal_files_wherever_they_are(tiny_run: RunFolder, tmp_path: Path) -> None:
    root = tmp_path / "elsewhere" / tiny_run.run_id
    shutil.copytree(tiny_run.root, root)
    layouts: tuple[ExportLayout, ...] = ("shards", "files")
    for layout in layouts:
        export_pairs(tiny_run, PairExport(tmp_path / f"one-{layout}", layout=layout))
        export_pairs(open_root(root), PairExport(tmp_path / f"two-{layout}", layout=layout))
        assert files_of(tmp_path / f"one-{layout}") == files_of(tmp_path / f"two-{layout}")


def test_the_card_says_what_there_is(tiny_run: RunFolder, tmp_path: Path) -> None:
    manifest = export_pairs(tiny_run, PairExport(tmp_path / "out", layout="shards"))
    card = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert front["size_categories"] == ["n<1K"]
    for value in (manifest["pairs_hash"], manifest["run_id"], manifest["strategy"], manifest["norm_id"]):
        assert f"`{value}`" in card
    assert all(row["name"] in card for row in manifest["metrics"])
    assert manifest == json.loads((tmp_path / "out" / "avpref.json").read_text())


def test_an_existing_folder_is_not_written_to(tiny_run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(InputError, match="exists already"):
        export_pairs(tiny_run, PairExport(tmp_path / "out"))
    assert files_of(tmp_path) == {"out/mine": b"kept"}


@pytest.mark.parametrize("layout", ["shards", "files"])
def test_a_clip_that_is_gone_or_changed_leaves_nothing(
    tiny_run: RunFolder, pairs: list, tmp_path: Path, layout: ExportLayout
) -> None:
    root = tmp_path / "runs" / tiny_run.run_id
    shutil.copytree(tiny_run.root, root)
    run = open_root(root)
    clip = root / str(clips_of(run)[str(pairs[-1]["rejected"])]["path"])
    clip.write_bytes(clip.read_bytes() + b"more")
    request = PairExport(tmp_path / "out", layout=layout)
    with pytest.raises(TableError, match="was changed"):
        export_pairs(run, request)
    clip.unlink()
    with pytest.raises(InputError, match="is gone"):
        export_pairs(run, request)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_layout_belongs_to_one_format(tiny_run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--layout files with --format csv"):
        export_pairs(tiny_run, PairExport(tmp_path / "out", format="csv", layout="files"))
