"""Reproduction of a share of a run: equal results, and the differences of damaged runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from avpref.datasets import tables
from avpref.domain import Candidate, Origin
from avpref.errors import InputError
from avpref.flows.reproduce import reproduce
from avpref.identity import file_sha256
from avpref.storage.run_folder import RunFolder
from avpref.storage.table_readers import read_candidates

Copy = Callable[..., RunFolder]
HASH_CACHE = ".avpref-hashes.json"
"""Cache of hashes of model files, which any command that reads a model may write."""


def file_states(root: Path) -> dict[Path, tuple[int, int, int]]:
    stats = {path: path.stat() for path in root.rglob("*") if path.is_file() and path.name != HASH_CACHE}
    return {path: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for path, stat in stats.items()}


def reseal(folder: RunFolder, table: tables.Table, rows: pa.Table) -> None:
    folder.tables.seal(table, "changed", tables.conform(table, rows))


def changed(rows: pa.Table, column: str, row: int, value: object) -> pa.Table:
    values = rows[column].to_pylist()
    values[row] = value
    position = rows.column_names.index(column)
    return rows.set_column(position, rows.schema.field(column), pa.array(values, rows.schema.field(column).type))


def test_a_share_of_a_run_is_reproduced_and_the_run_is_not_changed(tiny_copy: Copy, tmp_path: Path) -> None:
    folder = tiny_copy()
    before = file_states(folder.root)
    reproduction = reproduce(folder, 0.3, None, seed=1, work=tmp_path)
    assert reproduction.is_same, reproduction
    assert 0.3 * reproduction.candidates <= reproduction.clips < reproduction.candidates
    assert reproduction.scores == 7 * reproduction.clips
    assert reproduction.norm is not None and reproduction.pairs is not None
    assert file_states(folder.root) == before
    assert not list(tmp_path.glob("avpref-reproduce-*"))


def test_the_policys_clips_are_made_again_with_the_adapter(tiny_copy: Copy) -> None:
    folder = tiny_copy()
    evaluated = folder.tables.read(tables.EVALUATIONS).to_pylist()
    policy = {row["candidate_id"] for row in evaluated if row["side"] == "policy"}
    reproduction = reproduce(folder, 1.0, None, seed=0)
    assert reproduction.is_same and reproduction.clips == reproduction.candidates == folder.tables.num_rows(
        tables.CANDIDATES
    ) + len(policy)


def test_the_seed_determines_the_chosen_clips(tiny_copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_copy()
    taken: list[Any] = []

    def remember(folder: RunFolder, sandbox: RunFolder, committed: Candidate, made: object) -> tuple[()]:
        taken[-1].append(committed.candidate_id)
        return ()

    monkeypatch.setattr("avpref.flows.reproduce._compare", remember)
    for seed in (0, 1, 0):
        taken.append([])
        reproduce(folder, 0.05, 4, seed)
    assert taken[0] == taken[2] != taken[1] and len(taken[0]) >= 4


def test_a_clip_that_was_changed_on_the_disk_is_named(tiny_copy: Copy) -> None:
    folder = tiny_copy()
    clip = next(clip for clip in read_candidates(folder.tables) if clip.origin == Origin.GENERATED)
    with open(folder.root / clip.path, "ab") as stream:
        stream.write(b"tampered")
    reproduction = reproduce(folder, 1.0, None, seed=0)
    assert [difference.candidate_id for difference in reproduction.clip_differences] == [clip.candidate_id]
    assert reproduction.clip_differences[0].reason.endswith(f"committed was {clip.sha256}")
    assert {difference.candidate_id for difference in reproduction.score_differences} == {clip.candidate_id}


def test_the_differences_of_a_clip_with_other_content_are_measured(tiny_copy: Copy) -> None:
    """Row and file of the clip agree, but checkpoint and seed give another clip."""
    folder = tiny_copy()
    rows = folder.tables.read(tables.CANDIDATES)
    row, other = _two_generated(rows)
    source = folder.root / rows["path"][other].as_py()
    target = folder.root / rows["path"][row].as_py()
    os.unlink(target)
    target.write_bytes(source.read_bytes())
    reseal(folder, tables.CANDIDATES, changed(rows, "sha256", row, file_sha256(source)))
    reproduction = reproduce(folder, 1.0, None, seed=0)
    (difference,) = reproduction.clip_differences
    assert difference.candidate_id == rows["candidate_id"][row].as_py() and "made again" in difference.reason
    assert difference.max_frame is not None and difference.max_frame > 0
    assert difference.mean_frame is not None and 0 < difference.mean_frame <= difference.max_frame
    assert difference.max_audio is not None
    assert not reproduction.is_same


def _two_generated(rows: pa.Table) -> tuple[int, int]:
    generated = [index for index, origin in enumerate(rows["origin"].to_pylist()) if origin == "generated"]
    return generated[0], generated[1]


def test_a_score_that_was_changed_changes_norm_and_pairs_too(tiny_copy: Copy) -> None:
    folder = tiny_copy()
    rows = folder.tables.read(tables.SCORES)
    chosen = folder.tables.read(tables.PAIRS)["chosen"][0].as_py()
    row = rows["candidate_id"].to_pylist().index(chosen)
    reseal(folder, tables.SCORES, changed(rows, "value", row, -7.5))
    reproduction = reproduce(folder, 1.0, None, seed=0)
    (difference,) = reproduction.score_differences
    assert (difference.candidate_id, difference.recorded) == (chosen, -7.5) and difference.clip == "committed"
    assert reproduction.norm is not None and not reproduction.norm.is_same
    assert reproduction.pairs is not None and not reproduction.pairs.is_same
    assert not reproduction.clip_differences


def test_a_table_that_was_changed_on_the_disk_is_named(tiny_copy: Copy) -> None:
    folder = tiny_copy()
    manifest = folder.tables.current("rewards")
    assert manifest is not None
    (name,) = folder.tables.store.names(manifest)
    path = folder.root / "tables" / name
    path.write_bytes(path.read_bytes() + b" ")
    reproduction = reproduce(folder, 0.05, None, seed=0)
    assert len(reproduction.tables) == 1 and path.name in reproduction.tables[0] and not reproduction.is_same


def test_candidates_of_other_settings_are_reported_with_the_reason(tiny_copy: Copy) -> None:
    folder = tiny_copy()
    sampling = folder.settings.sampling.model_copy(update={"steps": folder.settings.sampling.steps + 1})
    reproduction = reproduce(
        replace(folder, settings=folder.settings.model_copy(update={"sampling": sampling})), 0.05, None, seed=0
    )
    assert reproduction.clips == 0 and len(reproduction.clip_differences) == folder.tables.num_rows(tables.CANDIDATES)
    assert all("another id" in difference.reason for difference in reproduction.clip_differences)


def test_a_run_without_candidates_says_what_it_lacks(tiny_copy: Copy) -> None:
    with pytest.raises(InputError, match="candidates"):
        reproduce(tiny_copy("generate"), 0.05, None, seed=0)
