"""Watching a run: documents of stages and passes, what was spent over all executions, worker's words in the log."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from avpref.config.loading import load_config
from avpref.config.observe_settings import ObserveSettings
from avpref.datasets import tables
from avpref.errors import CircuitOpen, InputError
from avpref.execution.fakes import FakeItem, FakeWorker
from avpref.execution.plan import Shard, StagePlan
from avpref.execution.pool import InProcessPool
from avpref.execution.run_units import run_stage
from avpref.observability.cost import spending
from avpref.observability.meters import StageMeter, Workers
from avpref.observability.run_status import UnitsDocument, publishing, publishing_stage
from avpref.observability.status_documents import Spent, pass_file, read_passes, read_stage, spent_in
from avpref.storage.event_log import read_events
from avpref.storage.run_folder import RunFolder, create
from avpref.storage.unit import Unit

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"


def plan(num_shards: int, num_units: int, size: int, stage: str = "score") -> list[Shard[FakeItem]]:
    def unit(shard: int, number: int) -> Unit[FakeItem]:
        return Unit(stage, shard, "f", tuple(FakeItem(f"i{shard}-{number}-{each}") for each in range(size)))

    return [Shard(shard, tuple(unit(shard, number) for number in range(num_units))) for shard in range(num_shards)]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return create(tmp_path, load_config(TINY).settings)


@pytest.fixture
def worker(folder: RunFolder) -> FakeWorker:
    return FakeWorker(folder.units(tables.SKIPPED))


def work(folder: RunFolder, worker: FakeWorker, shards: list[Shard], name: str = "score") -> None:
    with publishing(folder), publishing_stage(folder, "score"):
        run_stage(folder, StagePlan(name, tuple(shards), "clips"), worker.files, lambda: worker)


def document(folder: RunFolder, name: str) -> dict:
    return dict(json.loads((folder.root / "progress" / name).read_text()))


def test_a_pass_says_what_was_planned_and_what_came_of_it(folder: RunFolder, worker: FakeWorker) -> None:
    worker.quarantined = frozenset({"i1-0-2"})
    work(folder, worker, plan(3, 2, 4))
    found = document(folder, "score.units.json")
    measure = found["measure"]
    assert (found["state"], found["stage"], measure["pool"]) == ("done", "score", "main")
    assert [measure[name] for name in ("total", "done", "made", "quarantined")] == [24, 24, 24, 1]
    assert [measure[name] for name in ("units_total", "units_done", "units_in_flight")] == [6, 6, 0]
    assert (measure["shards_total"], measure["shards_done"]) == (3, 3)
    assert measure["busy_s"] > 0 and measure["p50_ms"] <= measure["p95_ms"]


def test_the_plan_is_told_before_the_first_unit_is_made(folder: RunFolder, worker: FakeWorker) -> None:
    seen: list[dict] = []
    worker.on_unit = lambda: seen.append(document(folder, "score.units.json"))
    work(folder, worker, plan(2, 2, 3))
    first = seen[0]
    assert (first["state"], first["measure"]["units_total"], first["measure"]["done"]) == ("running", 4, 0)


def test_a_pass_that_failed_says_so_and_its_stage_says_why(folder: RunFolder, worker: FakeWorker) -> None:
    shards = plan(2, 4, 4)
    worker.failing = frozenset(item.item_id for shard in shards for unit in shard.units for item in unit.items)
    with pytest.raises(CircuitOpen):
        work(folder, worker, shards)
    assert document(folder, "score.units.json")["state"] == "failed"
    stage = document(folder, "score.stage.json")
    assert stage["state"] == "failed" and stage["error"]["is_circuit_open"]
    assert "cannot make" in stage["error"]["found"] and "resume" in stage["error"]["fix"]
    names = [event["event"] for event, _ in read_events(folder.events.path)]
    assert names[-1] == "stage_failed" and "circuit_opened" in names


def test_an_interrupted_stage_is_not_a_failed_one(folder: RunFolder) -> None:
    with pytest.raises(KeyboardInterrupt), publishing(folder), publishing_stage(folder, "score"):
        raise KeyboardInterrupt
    assert document(folder, "score.stage.json")["state"] == "interrupted"


def test_what_was_there_is_counted_as_present_and_costs_nothing(folder: RunFolder, worker: FakeWorker) -> None:
    shards = plan(2, 3, 4)
    work(folder, worker, shards)
    before = document(folder, "score.units.json")["spent"]
    work(folder, worker, shards)
    again = document(folder, "score.units.json")
    assert (again["measure"]["present"], again["measure"]["made"], again["measure"]["units_done"]) == (24, 0, 6)
    assert again["spent"] == before
    assert len(worker.units) == 6


def test_executions_add_up_to_what_was_spent(folder: RunFolder, worker: FakeWorker) -> None:
    shards = plan(2, 3, 4)
    work(folder, worker, shards[:1])
    first = document(folder, "score.units.json")["spent"]
    work(folder, worker, shards)
    both = document(folder, "score.units.json")["spent"]
    assert (first["made"], both["made"]) == (12, 24)
    assert both["busy_s"] >= first["busy_s"] and both["seconds"] >= first["seconds"]


def test_losses_of_an_earlier_execution_are_shown_again(folder: RunFolder, worker: FakeWorker) -> None:
    worker.quarantined = frozenset({"i0-0-0", "i0-2-1"})
    shards = plan(1, 3, 4)
    for _ in range(2):
        work(folder, worker, shards)
        assert document(folder, "score.units.json")["measure"]["quarantined"] == 2


def test_events_say_run_stage_shard_and_unit_and_are_bounded_by_units(folder: RunFolder, worker: FakeWorker) -> None:
    shards = plan(2, 2, 50)
    work(folder, worker, shards)
    found = [event for event, _ in read_events(folder.events.path)]
    names = {unit.name: shard.ordinal for shard in shards for unit in shard.units}
    for kind in ("unit_started", "unit_done"):
        of_kind = [event for event in found if event["event"] == kind]
        assert {event["unit"]: event["shard"] for event in of_kind} == names
        assert {(event["run"], event["stage"], event["level"]) for event in of_kind} == {
            (folder.run_id, "score", "info")
        }
    assert len(found) <= 2 * len(names) + 4
    assert [event["seq"] for event in found] == list(range(1, len(found) + 1))


def test_what_a_worker_logs_comes_back_with_its_unit(folder: RunFolder, worker: FakeWorker) -> None:
    worker.on_unit = lambda: logging.getLogger("some.model").warning("memory ran out at batch %d", 8)
    work(folder, worker, plan(1, 2, 3))
    said = [event for event, _ in read_events(folder.events.path) if event["event"] == "worker_said"]
    assert [(each["unit"], each["level"], each["logger"], each["message"]) for each in said] == [
        (unit, "warning", "some.model", "memory ran out at batch 8") for unit in worker.units
    ]


def test_a_worker_that_logs_without_end_is_cut_short(folder: RunFolder, worker: FakeWorker) -> None:
    def log_without_end() -> None:
        for _ in range(1000):
            logging.getLogger("loud").warning("again")

    worker.on_unit = log_without_end
    (shard,) = plan(1, 1, 1)
    pool = InProcessPool(worker)
    pool.submit(shard.units[0])
    assert len(pool.next_done().report.notes) < 100


def test_pools_of_one_stage_are_told_apart(folder: RunFolder, worker: FakeWorker) -> None:
    work(folder, worker, plan(1, 1, 2), name="score-audiobox")
    assert document(folder, "score-audiobox.units.json")["measure"]["pool"] == "audiobox"


def test_a_document_of_another_release_is_no_document(folder: RunFolder) -> None:
    path = folder.root / "progress" / "score.units.json"
    path.parent.mkdir()
    for text in ("", "no json", "[]", json.dumps({"schema_version": -1, "spent": {"made": 5}})):
        path.write_text(text)
        assert spent_in(path) == Spent()


def test_status_documents_are_read_as_they_were_written(folder: RunFolder, worker: FakeWorker) -> None:
    work(folder, worker, plan(2, 2, 3))
    (status,) = read_passes(folder.root)
    assert status.measure.document() == document(folder, "score.units.json")["measure"]
    assert (status.name, status.stage, status.state, status.spent.made) == ("score", "score", "done", 12)
    path = pass_file(folder.root, "score")
    before = path.read_bytes()
    status.write(path)
    assert path.read_bytes() == before
    stage = read_stage(folder.root, "score")
    assert stage is not None and (stage.stage, stage.state, stage.error) == ("score", "done", None)


@pytest.mark.parametrize(("name", "key"), [("score.stage.json", "since_s"), ("score.units.json", "measure")])
def test_a_missing_key_is_an_error_that_names_the_file(
    folder: RunFolder, worker: FakeWorker, name: str, key: str
) -> None:
    work(folder, worker, plan(1, 1, 1))
    path = folder.root / "progress" / name
    path.write_text(json.dumps({kept: value for kept, value in document(folder, name).items() if kept != key}))
    with pytest.raises(InputError, match=key) as caught:
        read_stage(folder.root, "score")
        read_passes(folder.root)
    assert str(path) in caught.value.found and caught.value.expected and caught.value.fix == f"rm {path}"


def spend(folder: RunFolder, name: str, stage: str, gpu: float) -> None:
    meter = StageMeter(name, 10, workers=Workers("main", 1, gpu))
    meter.finish(10)
    meter.unit_returned(7200.0)
    UnitsDocument(pass_file(folder.root, name), stage).write("done", meter.measure())


@pytest.mark.parametrize("price", [0.0, 2.5])
def test_a_kept_pair_costs_its_candidates_and_scores(folder: RunFolder, price: float) -> None:
    spend(folder, "generate", "generate", 1.0)
    spend(folder, "score-audiobox", "score", 0.5)
    spend(folder, "train", "train", 1.0)
    found = spending(folder.root, 8, ObserveSettings(price_per_gpu_hour=price, currency="EUR")).document()
    assert found["gpu_s"] == 7200 * 2.5
    assert found["gpu_s_per_kept_pair"] == 7200 * 1.5 / 8 == found["gpu_s_before_pairs"] / found["kept_pairs"]
    assert found["busy_actor_s"] == 3 * 7200 and found["stages_before_pairs"] == ["generate", "score"]
    assert found["busy_actor_s_per_kept_pair"] == found["busy_actor_s_before_pairs"] / 8 == 2 * 7200 / 8
    assert found["cost"] == (5 * price if price else None)
    assert found["cost_per_kept_pair"] == (3 * price / 8 if price else None)


def test_without_a_gpu_seconds_of_workers_are_given_and_no_cost(folder: RunFolder) -> None:
    spend(folder, "score", "score", 0.0)
    found = spending(folder.root, 4, ObserveSettings(price_per_gpu_hour=2.5)).document()
    assert (found["gpu_s"], found["cost_per_kept_pair"], found["busy_actor_s_per_kept_pair"]) == (0.0, None, 1800.0)


def test_without_pairs_nothing_is_divided(folder: RunFolder) -> None:
    spend(folder, "score", "score", 1.0)
    found = spending(folder.root, 0, ObserveSettings(price_per_gpu_hour=2.5)).document()
    assert (found["cost"], found["cost_per_kept_pair"], found["gpu_s_per_kept_pair"]) == (5.0, None, None)
