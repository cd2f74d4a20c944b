"""Reporting to Prefect: without a server, with one that does not answer, and the messages to a fake transport."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from avpref.errors import AvprefError
from avpref.execution.stage_observer import ShardDone
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.prefect.messages import (
    FlowEnded,
    FlowStarted,
    Logged,
    Message,
    Progressed,
    RunEvent,
    TableMade,
    TaskEnded,
    TaskStarted,
)
from avpref.observability.meters import StageMeasure, StageMeter


def measured(stage: str, done: int, total: int) -> StageMeasure:
    meter = StageMeter(stage, total)
    meter.add_present(done, 0)
    return meter.measure()


def shard_done(shard: int) -> ShardDone:
    return ShardDone(shard, 4, 4, 2, 4, 0, 1.0, 1.0, 0.0, 1.0, 2.0)


@dataclass(frozen=True)
class Folder:
    """Stands in for a run."""

    root: Path


RUN = Folder(Path("run"))


@reporting.stage("double")
def double(run: reporting.HasRoot) -> int:
    observer = reporting.observer()
    with observer.shards_running("double", 0, 0):
        if observer.listener is not None:
            observer.listener(measured("double", 1, 1))
    observer.stage_finished("double", [shard_done(number) for number in range(reporting.TABLE_ROWS + 5)])
    return 2 * len(str(run.root))


@pytest.fixture
def no_server() -> Iterator[None]:
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        yield


@pytest.fixture
def dead_url() -> Iterator[str]:
    """A port that nothing listens on for as long as the test holds it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/api"
        with temporary_settings({PREFECT_API_URL: url}):
            yield url


class FakeTransport:
    """Takes everything."""

    delivered: list[Message]

    def __init__(self, adopted: object = None) -> None:
        self.adopted = adopted

    def deliver(self, message: Message) -> None:
        self.delivered.append(message)

    def close(self) -> None:
        pass

    def heartbeat(self) -> None:
        pass


@pytest.fixture
def told(dead_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Message]]:
    """What a server is told."""
    FakeTransport.delivered = []
    monkeypatch.setattr(reporting, "PrefectReporter", FakeTransport)
    monkeypatch.setattr(reporting, "_require_answer", lambda: None)
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield FakeTransport.delivered


def test_without_a_server_nothing_is_reported(no_server: None) -> None:
    assert not reporting.has_server()
    assert double(Folder(Path("four"))) == 8
    assert reporting.observer().listener is None


def test_a_deployable_flow_is_called_as_the_function_that_it_is(no_server: None) -> None:
    @flow
    def doubled(number: int) -> int:
        return 2 * number

    assert reporting.call(doubled, 21) == 42
    assert double(RUN) == 6


def test_outside_an_execution_tables_and_events_are_nothing(dead_url: str) -> None:
    reporting.table("quarantine", [{"reason": "any"}], "nobody asks the server")
    reporting.emit_event("avpref.gate.refused", "run", "/runs/run", {})
    with reporting.observer().shards_running("score", 1, 1):
        pass


def test_a_server_that_does_not_answer_is_named_with_what_to_do(dead_url: str) -> None:
    with pytest.raises(AvprefError) as caught:
        double(RUN)
    assert dead_url in caught.value.found
    assert "prefect server start" in caught.value.fix and "unset PREFECT_API_URL" in caught.value.fix
    assert caught.value.exit_code == 1


def test_an_execution_its_stages_and_shards_are_told_in_order(told: list[Message]) -> None:
    with reporting.execution("retrain", {"runs": "here"}):
        reporting.note("at work")
        double(RUN)
        reporting.emit_event("avpref.gate.refused", "run", "/runs/run", {"reasons": "no"})
    parent, line, stage, task, shown, task_end, table, stage_end, happened, parent_end = told
    assert isinstance(parent, FlowStarted) and isinstance(stage, FlowStarted)
    assert (parent.name, parent.parent, parent.tags) == ("retrain", "", (reporting.TAG,))
    assert (stage.name, stage.parent, stage.tags) == ("double", parent.run, (reporting.STAGE_TAG,))
    assert stage.parameters == {"run_dir": "run"}
    assert isinstance(line, Logged) and (line.run, line.text) == (parent.run, "at work")
    assert isinstance(task, TaskStarted) and (task.run, task.task_name, task.name) == (
        stage.run,
        "run_shard",
        "double-0",
    )
    assert isinstance(task_end, TaskEnded) and task_end.task == task.task
    assert isinstance(shown, Progressed)
    assert (shown.run, shown.key, shown.percent) == (stage.run, "avpref-double", 100.0)
    assert isinstance(table, TableMade) and (table.run, len(table.rows)) == (stage.run, reporting.TABLE_ROWS)
    assert isinstance(happened, RunEvent) and happened.run == parent.run
    assert happened.resource["prefect.resource.id"] == "avpref.run.run"
    assert happened.resource["avpref.runs-dir"] == "/runs"
    for end, run in ((stage_end, stage.run), (parent_end, parent.run)):
        assert isinstance(end, FlowEnded) and (end.run, end.state) == (run, StateType.COMPLETED)


def test_groups_of_shards_are_named_by_their_first_and_last(told: list[Message]) -> None:
    with reporting.execution("retrain", {}):
        for first, last in ((0, 0), (6, 7)):
            with reporting.observer().shards_running("generate", first, last):
                pass
    assert [message.name for message in told if isinstance(message, TaskStarted)] == ["generate-0", "generate-6-7"]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ValueError("bad"), StateType.FAILED),
        (KeyboardInterrupt(), StateType.CANCELLED),
        (SystemExit(1), StateType.CRASHED),
    ],
)
def test_how_it_ended_is_told_of_every_run_around(told: list[Message], error: BaseException, state: StateType) -> None:
    @reporting.stage("broken")
    def broken(run: reporting.HasRoot) -> int:
        raise error

    with pytest.raises(type(error)), reporting.execution("retrain", {}):
        broken(RUN)
    assert [message.state for message in told if isinstance(message, FlowEnded)] == [state, state]


def test_a_stage_by_itself_is_an_execution(told: list[Message]) -> None:
    double(RUN)
    (started,) = [message for message in told if isinstance(message, FlowStarted)]
    assert (started.name, started.parent, started.tags) == ("double", "", (reporting.TAG,))


def test_progress_is_told_at_most_every_ten_seconds_and_at_the_end(told: list[Message]) -> None:
    with reporting.execution("retrain", {}):
        listener = reporting.observer().listener
        assert listener is not None
        for done in range(101):
            listener(measured("sft", done, 100))
    percents = [message.percent for message in told if isinstance(message, Progressed)]
    assert percents in ([0.0, 100.0], [100.0]), "the first, unless it was replaced while it waited, and the last"
