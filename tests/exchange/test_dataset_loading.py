"""Hugging Face's ``datasets`` loads an export unchanged. Skipped where the package is absent; it is no dependency."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from avpref.datasets import tables
from avpref.exchange.pair_export import ExportLayout, PairExport, export_pairs
from avpref.storage.run_folder import RunFolder

LOADING = """
import hashlib, json, sys
import datasets
pairs = datasets.load_dataset(sys.argv[1], split="train", cache_dir=sys.argv[2])
for side in ("chosen", "rejected"):
    if side in pairs.column_names:
        pairs = pairs.cast_column(side, datasets.Video(decode=False))
def sha(clip):
    data = clip["bytes"] if isinstance(clip, dict) else clip
    return hashlib.sha256(open(clip["path"], "rb").read() if data is None else data).hexdigest()
rows = [
    {name: sha(value) if name in ("chosen", "rejected", "mp4_0", "mp4_1") else value for name, value in row.items()}
    for row in pairs
]
print(json.dumps({"columns": pairs.column_names, "rows": rows, "decoder": "torchcodec" in sys.modules}))
"""
"""Prints the rows of an export with the hash in place of each clip."""


def load(folder: Path, cache: Path) -> dict:
    try:
        importlib.metadata.version("datasets")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package datasets is not installed (pip install datasets)")
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(cache)}
    command = [sys.executable, "-c", LOADING, str(folder), str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cache, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    document: dict = json.loads(done.stdout)
    return document


@pytest.mark.parametrize("layout", ["shards", "files"])
def test_datasets_loads_pairs_with_their_clips(tiny_run: RunFolder, tmp_path: Path, layout: ExportLayout) -> None:
    export_pairs(tiny_run, PairExport(tmp_path / "out", layout=layout))
    (tmp_path / "cache").mkdir()
    loaded = load(tmp_path / "out", tmp_path / "cache")
    pairs = tiny_run.tables.read(tables.PAIRS).to_pylist()
    by_id = {row["pair_id"]: row for row in loaded["rows"]}
    assert set(by_id) == {pair["pair_id"] for pair in pairs} and len(loaded["rows"]) == len(pairs)
    for pair in pairs:
        row = by_id[pair["pair_id"]]
        assert row["chosen"] == row["chosen_clip"]["sha256"] and row["rejected"] == row["rejected_clip"]["sha256"]
        assert row["margins"]["total"] == pair["margin_total"]
        assert row["chosen_scores"]["audio_quality"] == pair["chosen_audio_quality"]
    assert not loaded["decoder"]


def test_datasets_loads_the_columns_of_diffusion_dpo(tiny_run: RunFolder, tmp_path: Path) -> None:
    export_pairs(tiny_run, PairExport(tmp_path / "out", format="diffusion-dpo"))
    (tmp_path / "cache").mkdir()
    loaded = load(tmp_path / "out", tmp_path / "cache")
    assert {row["label_0"] + row["label_1"] for row in loaded["rows"]} == {1.0}
    assert len(loaded["rows"]) == tiny_run.tables.num_rows(tables.PAIRS)
