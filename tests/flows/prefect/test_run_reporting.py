"""Reporting to Prefect: without a server, with one that does not answer, and the messages to a recording reporter."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec
from uuid import uuid4

import pytest
from prefect import flow
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from avpref.config.loading import load_config
from avpref.errors import AvprefError
from avpref.execution.item_counts import StageCounts
from avpref.execution.stage_observer import ShardDone
from avpref.flows.prefect import prefect_server
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.prefect.prefect_client import PrefectReporter
from avpref.flows.prefect.run_links import name_flow_run, show_links
from avpref.observability.meters import StageMeasure, StageMeter
from avpref.storage.run_folder import RunFolder

SETTINGS = load_config(Path(__file__).parents[3] / "configs" / "tiny.yaml", environment={}).settings
RUN = RunFolder(Path("run"), SETTINGS)


def measured(stage: str, done: int, total: int) -> StageMeasure:
    meter = StageMeter(stage, total)
    meter.add_present(done, 0)
    return meter.measure()


def shard_done(shard: int) -> ShardDone:
    return ShardDone(shard, 4, 4, 2, 4, 0, 1.0, 1.0, 0.0, 1.0, 2.0)


@reporting.stage("double")
def double(run: RunFolder) -> StageCounts:
    observer = reporting.observer()
    with observer.shards_running("double", 0, 0):
        if observer.listener is not None:
            observer.listener(measured("double", 1, 1))
    observer.stage_finished("double", [shard_done(number) for number in range(reporting.TABLE_ROWS + 5)])
    return StageCounts(2 * len(str(run.root)))


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


class Calls:
    """The calls of a reporter's methods by messages, in order: name and arguments."""

    def __init__(self) -> None:
        self.reporter = create_autospec(PrefectReporter, instance=True)
        self.reporter.deliver.side_effect = lambda message: message(self.reporter)
        self.adopted: Any = None

    def open(self, adopted: Any) -> PrefectReporter:
        """Stands in for the class of the reporter."""
        self.adopted = adopted
        reporter: PrefectReporter = self.reporter
        return reporter

    @property
    def all(self) -> list[tuple[str, tuple[Any, ...]]]:
        """Every call."""
        return [(name, args) for name, args, _ in self.reporter.method_calls if name not in ("deliver", "close")]

    def of(self, method: str) -> list[tuple[Any, ...]]:
        """The arguments of the calls of one method."""
        return [args for name, args in self.all if name == method]


@pytest.fixture
def calls(dead_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    """What a server is sent."""
    calls = Calls()
    monkeypatch.setattr(prefect_server, "PrefectReporter", calls.open)
    monkeypatch.setattr(prefect_server, "require_server", lambda: None)
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield calls


def test_without_a_server_nothing_is_reported(no_server: None) -> None:
    assert not reporting.has_server()
    assert double(RunFolder(Path("four"), SETTINGS)).rows == 8
    assert reporting.observer().listener is None


def test_a_deployable_flow_is_called_as_the_function_that_it_is(no_server: None) -> None:
    @flow
    def doubled(number: int) -> int:
        return 2 * number

    assert reporting.call(doubled, 21) == 42
    assert double(RUN).rows == 6


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


def test_an_execution_its_stages_and_shards_are_told_in_order(calls: Calls) -> None:
    with reporting.execution("retrain", {"runs": "here"}):
        reporting.note("at work")
        double(RUN)
        reporting.emit_event("avpref.gate.refused", "run", "/runs/run", {"reasons": "no"})
    names, arguments = zip(*calls.all, strict=True)
    assert names == (
        *("start_flow", "log", "start_flow", "start_task", "show_progress", "end_task"),
        *("add_artifact", "end_flow", "emit", "end_flow"),
    )
    parent, line, stage, task, shown, task_end, table, stage_end, emitted, parent_end = arguments
    assert parent[1:] == ("retrain", None, {"runs": "here"}, (reporting.TAG,))
    assert stage[1:] == ("double", parent[0], {"run_dir": "run"}, (reporting.STAGE_TAG,))
    assert line[:2] == (parent[0], "at work")
    assert task[1:] == (stage[0], "run_shard", "double-0") and task_end[0] == task[0]
    assert shown[:3] == (stage[0], "avpref-double", 100.0)
    assert table[:3] == (stage[0], "avpref-double-shards", "table")
    assert len(json.loads(table[3])) == reporting.TABLE_ROWS
    run, event = emitted
    assert (run, event.event, event.payload) == (parent[0], "avpref.gate.refused", {"reasons": "no"})
    assert event.resource.id == "avpref.run.run" and event.resource["avpref.runs-dir"] == "/runs"
    assert [(run, end.type) for run, end in (task_end, stage_end, parent_end)] == [
        (key, StateType.COMPLETED) for key in (task[0], stage[0], parent[0])
    ]


def test_a_flow_run_is_named_after_its_run_and_links_to_its_report(calls: Calls, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "toy-s0-1234", SETTINGS)
    with reporting.execution("retrain", {}):
        name_flow_run(run)
        show_links(run, "promote")
        run.root.mkdir()
        (run.root / "report.html").write_text("")
        show_links(run, "promote")
    ((_, name),) = calls.of("rename_flow")
    assert name == "toy-s0-1234"
    (_, key, kind, before, _), (*_, after, _) = calls.of("add_artifact")
    assert (key, kind) == ("avpref-links", "markdown")
    assert "not written yet" in before and "**promote**" in before
    assert f"({(run.root / 'report.html').as_uri()})" in after
    assert f"`avpref runs open toy-s0-1234 --runs {tmp_path}`" in after


def test_the_run_of_prefects_engine_is_adopted(calls: Calls) -> None:
    run = FlowRun(id=uuid4(), flow_id=uuid4(), name="brave-otter")
    with FlowRunContext.model_construct(flow_run=run, flow=None), reporting.execution("retrain", {}):
        double(RUN)
    ((key, adopted),) = calls.adopted.items()
    assert adopted is run
    (stage,) = calls.of("start_flow")
    assert stage[2] == key, "the stage is a subflow of the engine's run"
    assert [end[0] for end in calls.of("end_flow")] == [stage[0]], "the engine ends its run itself"


def test_groups_of_shards_are_named_by_their_first_and_last(calls: Calls) -> None:
    with reporting.execution("retrain", {}):
        for first, last in ((0, 0), (6, 7)):
            with reporting.observer().shards_running("generate", first, last):
                pass
    assert [name for *_, name in calls.of("start_task")] == ["generate-0", "generate-6-7"]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ValueError("bad"), StateType.FAILED),
        (KeyboardInterrupt(), StateType.CANCELLED),
        (SystemExit(1), StateType.CRASHED),
    ],
)
def test_how_it_ended_is_told_of_every_run_around(calls: Calls, error: BaseException, state: StateType) -> None:
    @reporting.stage("broken")
    def broken(run: RunFolder) -> StageCounts:
        raise error

    with pytest.raises(type(error)), reporting.execution("retrain", {}):
        broken(RUN)
    assert [end.type for _, end in calls.of("end_flow")] == [state, state]


def test_a_stage_by_itself_is_an_execution(calls: Calls) -> None:
    double(RUN)
    (started,) = calls.of("start_flow")
    assert started[1:] == ("double", None, {"run_dir": "run"}, (reporting.TAG,))


def test_progress_is_told_at_most_every_ten_seconds_and_at_the_end(calls: Calls) -> None:
    with reporting.execution("retrain", {}):
        listener = reporting.observer().listener
        assert listener is not None
        for done in range(101):
            listener(measured("sft", done, 100))
    percents = [percent for _, _, percent, _ in calls.of("show_progress")]
    assert percents in ([0.0, 100.0], [100.0]), "the first, unless it was replaced while it waited, and the last"
