"""Making a share of a run again: what is as it was, and what is not and by how much."""

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
LEDGER = ".avpref-hashes.json"
"""Remembered hashes of model files: any command that looks at a model may leave it there."""


def looks(root: Path) -> dict[Path, tuple[int, int, int]]:
    found = {path: path.stat() for path in root.rglob("*") if path.is_file() and path.name != LEDGER}
    return {path: (stat.st_ino, stat.st_mtime_ns, stat.st_size) for path, stat in found.items()}


def reseal(folder: RunFolder, table: tables.Table, rows: pa.Table) -> None:
    folder.tables.seal(table, "changed", tables.conform(table, rows))


def changed(rows: pa.Table, column: str, place: int, value: object) -> pa.Table:
    values = rows[column].to_pylist()
    values[place] = value
    position = rows.column_names.index(column)
    return rows.set_column(position, rows.schema.field(column), pa.array(values, rows.schema.field(column).type))


def test_a_share_comes_out_as_it_was_and_the_run_is_not_written_to(tiny_copy: Copy, tmp_path: Path) -> None:
    folder = tiny_copy()
    before = looks(folder.root)
    found = reproduce(folder, 0.3, None, seed=1, work=tmp_path)
    assert found.is_same, found
    assert 0.3 * found.candidates <= found.clips < found.candidates
    assert found.scores == 7 * found.clips
    assert found.norm is not None and found.pairs is not None
    assert looks(folder.root) == before
    assert not list(tmp_path.glob("avpref-reproduce-*"))


def test_the_policys_clips_are_made_again_with_the_adapter(tiny_copy: Copy) -> None:
    folder = tiny_copy()
    evaluated = folder.tables.read(tables.EVALUATIONS).to_pylist()
    policy = {row["candidate_id"] for row in evaluated if row["side"] == "policy"}
    found = reproduce(folder, 1.0, None, seed=0)
    assert found.is_same and found.clips == found.candidates == folder.tables.num_rows(tables.CANDIDATES) + len(policy)


def test_another_seed_takes_other_clips(tiny_copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_copy()
    taken: list[Any] = []

    def remember(folder: RunFolder, bench: RunFolder, kept: Candidate, made: object) -> tuple[()]:
        taken[-1].append(kept.candidate_id)
        return ()

    monkeypatch.setattr("avpref.flows.reproduce._compare", remember)
    for seed in (0, 1, 0):
        taken.append([])
        reproduce(folder, 0.05, 4, seed)
    assert taken[0] == taken[2] != taken[1] and len(taken[0]) >= 4


def test_a_clip_that_was_changed_on_the_disk_is_named(tiny_copy: Copy) -> None:
    folder = tiny_copy()
    clip = next(each for each in read_candidates(folder.tables) if each.origin == Origin.GENERATED)
    with open(folder.root / clip.path, "ab") as stream:
        stream.write(b"tampered")
    found = reproduce(folder, 1.0, None, seed=0)
    assert [each.candidate_id for each in found.clip_differences] == [clip.candidate_id]
    assert found.clip_differences[0].reason.endswith(f"committed was {clip.sha256}")
    assert {each.candidate_id for each in found.score_differences} == {clip.candidate_id}


def test_a_clip_that_was_made_otherwise_is_measured(tiny_copy: Copy) -> None:
    """Its record and its file agree, but neither is what the checkpoint makes of the seed."""
    folder = tiny_copy()
    rows = folder.tables.read(tables.CANDIDATES)
    place, other = _two(rows)
    source = folder.root / rows["path"][other].as_py()
    target = folder.root / rows["path"][place].as_py()
    os.unlink(target)
    target.write_bytes(source.read_bytes())
    reseal(folder, tables.CANDIDATES, changed(rows, "sha256", place, file_sha256(source)))
    found = reproduce(folder, 1.0, None, seed=0)
    (difference,) = found.clip_differences
    assert difference.candidate_id == rows["candidate_id"][place].as_py() and "made again" in difference.reason
    assert difference.max_frame is not None and difference.max_frame > 0
    assert difference.mean_frame is not None and 0 < difference.mean_frame <= difference.max_frame
    assert difference.max_audio is not None
    assert not found.is_same


def _two(rows: pa.Table) -> tuple[int, int]:
    drawn = [index for index, origin in enumerate(rows["origin"].to_pylist()) if origin == "generated"]
    return drawn[0], drawn[1]


def test_a_score_that_was_changed_changes_norm_and_pairs_too(tiny_copy: Copy) -> None:
    folder = tiny_copy()
    rows = folder.tables.read(tables.SCORES)
    chosen = folder.tables.read(tables.PAIRS)["chosen"][0].as_py()
    place = rows["candidate_id"].to_pylist().index(chosen)
    reseal(folder, tables.SCORES, changed(rows, "value", place, -7.5))
    found = reproduce(folder, 1.0, None, seed=0)
    (difference,) = found.score_differences
    assert (difference.candidate_id, difference.recorded) == (chosen, -7.5) and difference.clip == "committed"
    assert found.norm is not None and not found.norm.is_same
    assert found.pairs is not None and not found.pairs.is_same
    assert not found.clip_differences


def test_a_table_that_was_changed_on_the_disk_is_named(tiny_copy: Copy) -> None:
    folder = tiny_copy()
    manifest = folder.tables.current("rewards")
    assert manifest is not None
    (name,) = folder.tables.store.names(manifest)
    path = folder.root / "tables" / name
    path.write_bytes(path.read_bytes() + b" ")
    found = reproduce(folder, 0.05, None, seed=0)
    assert len(found.tables) == 1 and path.name in found.tables[0] and not found.is_same


def test_candidates_of_other_settings_are_not_taken_for_these(tiny_copy: Copy) -> None:
    folder = tiny_copy()
    sampling = folder.settings.sampling.model_copy(update={"steps": folder.settings.sampling.steps + 1})
    found = reproduce(
        replace(folder, settings=folder.settings.model_copy(update={"sampling": sampling})), 0.05, None, seed=0
    )
    assert found.clips == 0 and len(found.clip_differences) == folder.tables.num_rows(tables.CANDIDATES)
    assert all("another id" in each.reason for each in found.clip_differences)


def test_a_run_without_candidates_says_what_it_lacks(tiny_copy: Copy) -> None:
    with pytest.raises(InputError, match="candidates"):
        reproduce(tiny_copy("generate"), 0.05, None, seed=0)
