"""Garbage collection: the files that go, those that stay, and when a collection is refused."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable

import pytest
from run_workshop import BOUNDS, LATELY_S, LONG_AGO_S, Workshop, gc, live_files, sorts

from avpref.datasets import tables
from avpref.errors import InputError, StorageError
from avpref.flows.retrain import run_loop
from avpref.registry import garbage_collection as retention
from avpref.registry.garbage import GarbageKind
from avpref.registry.garbage_collection import Request, collect
from avpref.storage.local_files import TEMPORARY_PREFIX, commit_once
from avpref.storage.run_folder import RunFolder


def test_a_finished_run_loses_its_checkpoints_and_nothing_that_a_second_execution_needs(
    tiny_copy: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_copy()
    run_loop(folder)  # the copy was made by another process; from here on its plans and records are its own
    before = {path for path in folder.root.rglob("*") if path.is_file()}
    collection = collect(folder.runs, Request(BOUNDS), now_s=time.time() + LONG_AGO_S)
    assert sorts(collection) == {GarbageKind.CHECKPOINT}
    after = {path for path in folder.root.rglob("*") if path.is_file()}
    assert before - after == {each.path for each in collection.entries}
    monkeypatch.setattr("avpref.execution.run_units.open_pool", _refuse)
    monkeypatch.setattr("avpref.flows.stages.sft.launch_training", _refuse)
    monkeypatch.setattr("avpref.flows.stages.train.launch_training", _refuse)
    run_loop(folder)
    for table in tables.TABLES:
        if manifest := folder.tables.current(table.name):
            folder.tables.store.verify(manifest)


def _refuse(*arguments: object, **keywords: object) -> None:
    raise AssertionError("work was done again")


def test_clips_that_people_vote_on_stay(workshop: Workshop) -> None:
    folder = workshop.new_run()
    workshop.generate(folder)
    workshop.pair(folder)
    voted = workshop.evaluate(folder)
    study = folder.root / "studies" / "s0123456789abcdef" / "study.json"
    commit_once(study, json.dumps({"source": {f"{folder.run_id} evaluations": voted}}).encode())
    workshop.evaluate(folder)
    workshop.age(LATELY_S)
    gc(workshop)
    assert folder.tables.store.version("evaluations", voted).version == voted
    assert len(list((folder.root / "clips").rglob("*.mp4"))) == 6, "both evaluations and the candidates"
    study.unlink()
    gc(workshop)
    assert not (folder.root / "tables" / "evaluations" / f"{voted}.json").exists()


def test_versions_that_a_record_names_stay_and_others_go(workshop: Workshop) -> None:
    folder = workshop.new_run()
    workshop.generate(folder)
    workshop.pair(folder)
    workshop.train(folder)
    trained_on = folder.tables.current("pairs")
    workshop.pair(folder)
    forgotten = folder.tables.current("pairs")
    workshop.pair(folder)
    workshop.age(LATELY_S)
    collection = gc(workshop)
    assert {GarbageKind.TABLE, GarbageKind.CHECKPOINT} == sorts(collection)
    assert trained_on and forgotten and folder.tables.store.version("pairs", trained_on.version) == trained_on
    assert not (folder.root / "tables" / "pairs" / f"{forgotten.version}.json").exists()
    assert not any((folder.root / "tables" / "pairs" / file.name).exists() for file in forgotten.files)


def test_units_of_superseded_fingerprints_go_after_the_retention_time_and_their_clips_with_them(
    workshop: Workshop,
) -> None:
    folder = workshop.new_run()
    workshop.generate(folder)
    first = folder.tables.read(tables.CANDIDATES)["path"].to_pylist()
    workshop.generate(folder)
    second = folder.tables.read(tables.CANDIDATES)["path"].to_pylist()
    workshop.age(LATELY_S)
    assert not {GarbageKind.UNIT, GarbageKind.MEDIA} & sorts(gc(workshop))
    workshop.age(LONG_AGO_S)
    assert {GarbageKind.UNIT, GarbageKind.MEDIA} <= sorts(gc(workshop))
    assert not any((folder.root / path).exists() for path in first)
    assert all((folder.root / path).exists() for path in second)
    assert not gc(workshop).entries


def test_the_clips_of_a_decision_stay_although_the_evaluation_was_made_again(workshop: Workshop) -> None:
    folder = workshop.new_run()
    workshop.generate(folder)
    workshop.pair(folder)
    record = workshop.train(folder)
    decided = workshop.evaluate(folder)
    workshop.promote(folder, record, decided)
    workshop.evaluate(folder)
    workshop.evaluate(folder)
    workshop.age(LONG_AGO_S)
    assert {GarbageKind.UNIT, GarbageKind.MEDIA, GarbageKind.TABLE} <= sorts(gc(workshop))
    assert live_files(workshop, folder.root)
    assert (folder.root / "tables" / "evaluations" / f"{decided}.json").exists()


def test_nothing_young_is_touched(workshop: Workshop) -> None:
    folder = workshop.new_run()
    workshop.generate(folder)
    workshop.generate(folder)
    workshop.pair(folder)
    workshop.pair(folder)
    workshop.train(folder)
    commit_once(folder.root / "clips" / "cab" / "cabcabcab-00000000.mp4", b"nobody's")
    assert not gc(workshop).entries


def test_orphans_and_leftovers_of_dead_writers_go(workshop: Workshop) -> None:
    folder = workshop.new_run()
    workshop.generate(folder)
    orphan = folder.root / "clips" / "cab" / "cabcabcab-00000000.mp4"
    beside = workshop.runs / "networks" / f"{TEMPORARY_PREFIX}host-1-1-network.safetensors"
    for path in (orphan, beside):
        commit_once(path, b"left behind")
    workshop.age(LATELY_S)
    assert gc(workshop, is_dry=True).tombstone is None and orphan.exists() and beside.exists()
    gc(workshop)
    assert not orphan.exists() and not orphan.parent.exists() and not beside.exists()


def test_where_nobody_said_which_units_are_planned_all_stay(workshop: Workshop) -> None:
    folder = workshop.new_run()
    workshop.generate(folder)
    workshop.generate(folder)
    (folder.root / "units" / "generate" / "plan-generate.json").unlink()
    workshop.age(LONG_AGO_S)
    assert not {GarbageKind.UNIT, GarbageKind.MEDIA} & sorts(gc(workshop))


def test_whole_runs_go_only_when_asked_and_only_those_that_nothing_stands_on(workshop: Workshop) -> None:
    promoted, other, plain = (workshop.new_run() for _ in range(3))
    newest = workshop.new_run(f"sft={{kind: weights, network: {other.root}/models/sft-0/network.safetensors}}")
    for folder in (promoted, other, plain, newest):
        workshop.generate(folder)
        workshop.pair(folder)
    workshop.promote(promoted, workshop.train(promoted))
    workshop.age(LONG_AGO_S)
    os.utime(newest.root / "run.json")
    assert GarbageKind.RUN not in sorts(gc(workshop))
    assert [each.path for each in gc(workshop, runs_too=True).entries if each.kind is GarbageKind.RUN] == [plain.root]
    assert not plain.root.exists() and promoted.root.exists() and other.root.exists()
    assert not list((workshop.runs / "gc").glob(f"{retention.REMOVED}*"))


def test_a_run_in_use_refuses_the_collection_or_is_passed_by(workshop: Workshop) -> None:
    busy, idle = workshop.new_run(), workshop.new_run()
    orphans = [folder.root / "clips" / "cab" / "cabcabcab-00000000.mp4" for folder in (busy, idle)]
    for path in orphans:
        commit_once(path, b"left behind")
    workshop.age(LATELY_S)
    with busy.locked():
        with pytest.raises(StorageError, match="in use"):
            gc(workshop)
        assert all(path.exists() for path in orphans)
        collection = gc(workshop, leave_busy=True)
        assert list(collection.passed_by) == [busy.run_id] and not collection.unclear
    assert [path.exists() for path in orphans] == [True, False]


@pytest.mark.parametrize(
    "broken", ["adapters/torn.json", "units/generate/plan-generate.json", "tables/candidates/CURRENT"]
)
def test_a_run_of_which_nothing_can_be_told_is_passed_by(workshop: Workshop, broken: str) -> None:
    folder = workshop.new_run()
    workshop.generate(folder)
    workshop.generate(folder)
    path = folder.root / broken
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"tables": {"pairs": "0123')
    workshop.age(LONG_AGO_S)
    before = {path for path in folder.root.rglob("*")}
    collection = gc(workshop)
    assert collection.unclear == (folder.run_id,) and not collection.entries
    assert before <= {path for path in folder.root.rglob("*")}


def test_a_broken_registry_stops_the_collection(workshop: Workshop) -> None:
    folder = workshop.new_run()
    workshop.generate(folder)
    commit_once(workshop.runs / "registry" / "aliases" / "serving" / "000001.json", b"{")
    with pytest.raises(InputError, match="cannot be known"):
        gc(workshop)


def test_the_list_says_what_went_and_why(workshop: Workshop) -> None:
    folder = workshop.new_run()
    commit_once(folder.root / "clips" / "cab" / "cabcabcab-00000000.mp4", b"left behind")
    workshop.age(LATELY_S)
    tombstone = gc(workshop).tombstone
    assert tombstone is not None
    document = json.loads(tombstone.read_text())
    (entry,) = document["entries"]
    assert entry["path"] == f"{folder.run_id}/clips/cab/cabcabcab-00000000.mp4" and entry["num_bytes"] == 11
    assert (document["state"], entry["sort"]) == (retention.FINISHED, str(GarbageKind.MEDIA)) and entry["reason"]
