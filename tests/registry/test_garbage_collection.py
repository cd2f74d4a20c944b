"""Garbage collection: whatever happened to a folder of runs, what is live stays whole, and what nothing refers to goes."""

from __future__ import annotations

import itertools
import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from avpref.config import loading as config
from avpref.config.retention_settings import RetentionSettings
from avpref.datasets import tables
from avpref.datasets.rows import EvaluationRow, Kind, Side
from avpref.domain import Candidate, Origin, Prompt, ScoreStatus, Split
from avpref.errors import InputError, StorageError
from avpref.flows.retrain import run_loop
from avpref.identity import bytes_sha256, digest
from avpref.registry import garbage_collection as retention
from avpref.registry.garbage import GarbageKind, live_versions, mentions, records_in
from avpref.registry.garbage_collection import DAY_S, HOUR_S, Collection, Request, collect
from avpref.storage.local_files import TEMPORARY_PREFIX, LocalFiles, commit_once
from avpref.storage.run_folder import RunFolder, create
from avpref.storage.sealed_tables import Manifest, TableStore
from avpref.storage.unit import Unit
from avpref.storage.unit_files import record_plan

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
NOW = time.time()
BOUNDS = RetentionSettings(keep_days=10, keep_runs=1, grace_hours=24)
LONG_AGO_S, LATELY_S = 30 * DAY_S, 2 * DAY_S


@dataclass(frozen=True)
class Item:
    item_id: str


@dataclass
class Workshop:
    """Makes runs whose files refer to each other as those of real ones do, without making any clip."""

    runs: Path
    serial: itertools.count = field(default_factory=itertools.count)

    def new_run(self, *overrides: str) -> RunFolder:
        settings = config.load(TINY, [f"run.seed={next(self.serial)}", *overrides], environment={}).settings
        return create(self.runs, settings)

    def clips(self, folder: RunFolder, stage: str, count: int) -> list[Candidate]:
        """Make a stage's candidates under a fingerprint of their own, which becomes its plan; returns them."""
        fingerprint = digest(stage, next(self.serial))
        made = [self._clip(folder, number) for number in range(count)]
        files = folder.units(tables.CANDIDATES)
        units = [Unit(stage, 0, fingerprint, (Item(each.candidate_id),)) for each in made]
        for unit, each in zip(units, made, strict=True):
            files.commit(unit, [each])
        record_plan(files.files, stage, stage, {fingerprint})
        return made

    def _clip(self, folder: RunFolder, number: int) -> Candidate:
        data = f"clip {next(self.serial)}".encode()
        name, sha256 = "c" + digest(next(self.serial)), bytes_sha256(data)
        path = f"clips/{name[:3]}/{name}-{sha256[:8]}.mp4"
        commit_once(folder.root / path, data)
        shape = {"num_frames": 16, "height_px": 96, "width_px": 96, "fps_hz": 8.0, "sample_rate_hz": 16000}
        identity = {"candidate_id": name, "prompt_id": f"p{number}", "index": 1, "origin": Origin.GENERATED, "seed": 1}
        hashes = {"checkpoint_hash": "a", "sampler_hash": "b", "path": path, "sha256": sha256}
        return Candidate(**identity, **hashes, **shape, duration_s=2.0)

    def generate(self, folder: RunFolder, count: int = 2) -> None:
        made = self.clips(folder, "generate", count)
        prompts = [Prompt(each.prompt_id, each.prompt_id, Split.TRAIN) for each in made]
        folder.tables.seal(tables.PROMPTS, digest(next(self.serial)), tables.to_arrow(tables.PROMPTS, prompts))
        folder.tables.seal(tables.CANDIDATES, digest(next(self.serial)), tables.to_arrow(tables.CANDIDATES, made))

    def pair(self, folder: RunFolder) -> None:
        for table in (tables.NORMS, tables.PAIRS):
            folder.tables.seal(table, digest(next(self.serial)), tables.to_arrow(table, []))

    def train(self, folder: RunFolder) -> Path:
        """An adapter with its record, and a checkpoint that nobody needs any more."""
        model = folder.model_folder("dpo", digest(next(self.serial)))
        commit_once(model / "checkpoints" / "step_00000004" / "tensors.safetensors", b"state")
        commit_once(model / "adapter" / "adapter_model.safetensors", str(next(self.serial)).encode())
        commit_once(model / "summary.json", b"{}")
        current = {table.name: folder.tables.current(table.name) for table in tables.TABLES}
        versions = {name: manifest.version for name, manifest in current.items() if manifest}
        adapter = str((model / "adapter").relative_to(folder.root))
        record = {"run_id": folder.run_id, "policy_hash": digest(adapter), "adapter": adapter, "tables": versions}
        path = folder.root / "adapters" / f"{digest(record)}.json"
        commit_once(path, json.dumps(record).encode())
        return path

    def evaluate(self, folder: RunFolder) -> str:
        """The policy's clips, compared; returns the version of the evaluation."""
        rows = [
            EvaluationRow(
                "e", each.prompt_id, 1, Side.POLICY, each.candidate_id, 1, Kind.REWARD, "av", 0.5, OK, "", "n"
            )
            for each in self.clips(folder, "evaluate", 2)
        ]
        sealed = tables.to_arrow(tables.EVALUATIONS, rows)
        return folder.tables.seal(tables.EVALUATIONS, digest(next(self.serial)), sealed).version

    def promote(self, folder: RunFolder, record: Path, evaluation: str = "") -> None:
        """The registry names the run, the adapter's record and the tables of a decision, in a layout of its own."""
        document = json.loads(record.read_text()) | {"decision": {"inputs": {"evaluations": evaluation}}}
        path = self.runs / "registry" / "adapters" / f"{digest(document)}.json"
        commit_once(path, json.dumps(document).encode())

    def age(self, seconds: float, folder: Path | None = None) -> None:
        """Let everything that is there be so much older."""
        for path in (folder or self.runs).rglob("*"):
            if path.is_file():
                stat = path.stat()
                os.utime(path, (stat.st_atime, stat.st_mtime - seconds))


OK = ScoreStatus.OK


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    (tmp_path / "runs").mkdir()
    return Workshop(tmp_path / "runs")


def gc(workshop: Workshop, **asked: object) -> Collection:
    return collect(workshop.runs, replace(Request(BOUNDS), **asked))


def sorts(collection: Collection) -> set[GarbageKind]:
    return {each.kind for each in collection.entries}


def named(workshop: Workshop, root: Path) -> set[str]:
    registry = sorted((workshop.runs / "registry").rglob("*.json"))
    return mentions(registry) | mentions(records_in(root))


def live_files(workshop: Workshop, root: Path) -> set[Path]:
    """Files that something refers to, worked out from the references alone; every one must exist and hash as recorded."""
    store, found = TableStore(LocalFiles(root / "tables")), set()
    for record in (root / "adapters").glob("*.json"):
        document = json.loads(record.read_text())
        found.add(root / document["adapter"] / "adapter_model.safetensors")
        for table, version in document["tables"].items():
            store.verify(store.version(table, version))
    for manifest in live_versions(root, named(workshop, root)):
        store.verify(manifest)
        found |= {*_paths(root, manifest), root / "tables" / manifest.table / f"{manifest.version}.json"}
        if manifest.table == "candidates":
            rows = tables.read_all(_paths(root, manifest), tables.CANDIDATES).to_pylist()
            assert all(bytes_sha256((root / row["path"]).read_bytes()) == row["sha256"] for row in rows)
            found |= {root / row["path"] for row in rows}
        if manifest.table == "evaluations":
            found |= _evaluated(root, tables.read_all(_paths(root, manifest), tables.EVALUATIONS).to_pylist())
    return found


def _paths(root: Path, manifest: Manifest) -> list[Path]:
    return [root / "tables" / manifest.table / file.name for file in manifest.files]


def _evaluated(root: Path, rows: list[dict[str, object]]) -> set[Path]:
    wanted, found = {row["candidate_id"] for row in rows}, set()
    for path in root.glob("units/evaluate/*/*.parquet"):
        for row in tables.read(path, tables.CANDIDATES).to_pylist():
            if row["candidate_id"] in wanted:
                wanted.discard(row["candidate_id"])
                found |= {path, root / str(row["path"])}
    assert not wanted, "clips of an evaluation that something refers to are gone"
    return found


def test_a_finished_run_loses_its_checkpoints_and_nothing_that_a_second_execution_needs(
    tiny_copy: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_copy()
    run_loop(folder)  # the copy was made by another process; from here on its plans and records are its own
    before = {path for path in folder.root.rglob("*") if path.is_file()}
    collection = collect(folder.root.parent, Request(BOUNDS), now_s=time.time() + LONG_AGO_S)
    assert sorts(collection) == {GarbageKind.CHECKPOINT}
    after = {path for path in folder.root.rglob("*") if path.is_file()}
    assert before - after == {each.path for each in collection.entries}
    monkeypatch.setattr("avpref.execution.run_units.open_pool", _refuse)
    monkeypatch.setattr("avpref.flows.stages.sft.launch", _refuse)
    monkeypatch.setattr("avpref.flows.stages.train.launch", _refuse)
    run_loop(folder)
    for table in tables.TABLES:
        if manifest := folder.tables.current(table.name):
            folder.tables.store.verify(manifest)


def _refuse(*arguments: object, **keywords: object) -> None:
    raise AssertionError("work was done again")


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
