"""Garbage collection after random histories and kills: live files stay whole, and files that nothing refers to go."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
from run_workshop import LATELY_S, LONG_AGO_S, Workshop, gc, live_files

from avpref.datasets import tables
from avpref.registry import garbage_collection as retention
from avpref.registry.garbage import GarbageKind, mentions
from avpref.registry.garbage_collection import HOUR_S
from avpref.storage.run_folder import RunFolder


@pytest.mark.parametrize("point", [0, 1, 3, 6])
def test_a_collection_that_is_killed_loses_nothing_live_and_the_next_goes_on(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, point: int
) -> None:
    folder = workshop.new_run()
    for _ in range(3):
        workshop.generate(folder, 3)
        workshop.pair(folder)
        workshop.train(folder)
    workshop.age(LONG_AGO_S)
    live, expected = live_files(workshop, folder.root), gc(workshop, is_dry=True).entries
    done = itertools.count()

    def die(path: Path) -> None:
        if next(done) == point:
            raise KeyboardInterrupt
        path.unlink()

    with monkeypatch.context() as patched:
        patched.setattr(retention, "remove", die)
        with pytest.raises(KeyboardInterrupt):
            gc(workshop)
    assert len(retention.unfinished(workshop.runs)) == 1
    assert sum(each.path.exists() for each in expected) == len(expected) - point
    assert live_files(workshop, folder.root) == live
    gc(workshop)
    assert not any(each.path.exists() for each in expected) and live_files(workshop, folder.root) == live
    assert not retention.unfinished(workshop.runs)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_live_references_resolve_and_the_rest_goes(workshop: Workshop, seed: int) -> None:
    """Random histories of runs, changed strategies, new clips, trainings, evaluations, promotions, time and collections."""
    draw = random.Random(seed)
    folders = [workshop.new_run()]
    workshop.generate(folders[0])
    records: list[tuple[RunFolder, Path, str]] = []
    for _ in range(draw.randint(10, 25)):
        folder = draw.choice([each for each in folders if each.root.exists()] or [workshop.new_run()])
        match draw.choice(["run", "generate", "pair", "train", "evaluate", "promote", "age", "gc"]):
            case "run":
                folders.append(workshop.new_run())
                workshop.generate(folders[-1], draw.randint(1, 3))
            case "generate":
                workshop.generate(folder, draw.randint(1, 3))
            case "pair":
                workshop.pair(folder)
            case "train":
                records.append((folder, workshop.train(folder), workshop.evaluate(folder)))
            case "evaluate":
                workshop.evaluate(folder)
            case "promote":
                for owner, record, evaluation in draw.sample(records, min(1, len(records))):
                    if record.exists():
                        workshop.promote(owner, record, evaluation)
            case "age":
                workshop.age(draw.choice([HOUR_S, LATELY_S, LONG_AGO_S]))
            case "gc":
                _check(workshop, draw.random() < 0.5)
    workshop.age(LONG_AGO_S)
    _check(workshop, runs_too=False)
    for folder in folders:
        if folder.root.exists():
            reachable = live_files(workshop, folder.root)
            clips = {path for path in folder.root.glob("clips/*/*.mp4")}
            planned = _evaluated_now(folder)
            assert clips <= reachable | planned, "clips that nothing refers to are still there"
    assert not gc(workshop).entries


def _evaluated_now(folder: RunFolder) -> set[Path]:
    """Clips of the units that the current plans name."""
    found = set()
    for stage in (folder.root / "units").iterdir():
        plan = json.loads((stage / f"plan-{stage.name}.json").read_text())["fingerprints"]
        for path in (path for fingerprint in plan for path in (stage / fingerprint).glob("*.parquet")):
            found |= {folder.root / row["path"] for row in tables.read(path, tables.CANDIDATES).to_pylist()}
    return found


def _check(workshop: Workshop, runs_too: bool) -> None:
    roots = [path.parent for path in workshop.runs.glob("*/run.json")]
    live = {root: live_files(workshop, root) for root in roots}
    registered = mentions(sorted((workshop.runs / "registry").rglob("*.json")))
    collection = gc(workshop, runs_too=runs_too)
    assert not collection.passed_by
    gone = {each.path for each in collection.entries if each.kind is GarbageKind.RUN}
    assert not {root.name for root in gone} & registered
    for root in set(roots) - gone:
        assert live_files(workshop, root) == live[root] and all(path.exists() for path in live[root])
