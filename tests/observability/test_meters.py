"""Meters: what is counted, what follows from it, and what enters no rate."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from avpref.observability import meters
from avpref.observability.meters import StageMeasure, StageMeter, Workers, quantile


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set by hand."""
    now = [100.0]
    monkeypatch.setattr(meters.time, "monotonic", lambda: now[0])
    return now


def run_units(meter: StageMeter, num: int, items: int, seconds: float) -> None:
    for _ in range(num):
        meter.unit_sent()
        meter.unit_returned(seconds)
        meter.time_unit(items, seconds)
        meter.finish(items)
        meter.commit()


def test_rate_and_what_is_left_come_from_this_execution_alone(clock: list[float]) -> None:
    meter = StageMeter("score", 100, num_units=10)
    meter.add_present(50, 5)
    clock[0] += 10
    run_units(meter, 2, 10, 1.0)
    said = meter.measure()
    assert (said.done, said.present, said.made, said.units_done, said.units_waiting) == (70, 50, 20, 7, 3)
    assert (said.rate_hz, said.eta_s) == (2.0, 15.0)


def test_before_the_first_unit_there_is_no_rate_and_no_promise(clock: list[float]) -> None:
    said = StageMeter("score", 10).measure()
    assert (said.rate_hz, said.eta_s, said.busy_share, said.p50_ms, said.p95_ms) == (0.0, None, 0.0, None, None)
    assert said.left == "…"


@pytest.mark.parametrize(("num_actors", "gpus"), [(1, 0.0), (4, 0.0), (4, 0.25), (2, 1.0)])
def test_busy_share_and_gpu_seconds(clock: list[float], num_actors: int, gpus: float) -> None:
    meter = StageMeter("score", 100, workers=Workers("main", num_actors, gpus))
    clock[0] += 8
    run_units(meter, 4, 5, 2.0)
    said = meter.measure()
    assert said.busy_share == 8 / (num_actors * 8)
    assert said.gpu_s == 8 * gpus


def test_what_failed_was_work_too_but_is_no_time_per_item(clock: list[float]) -> None:
    meter = StageMeter("score", 10)
    meter.unit_sent()
    meter.unit_returned(3.0)
    assert (meter.measure().busy_s, meter.measure().p95_ms) == (3.0, None)


def test_units_in_flight_and_waiting_add_up(clock: list[float]) -> None:
    meter = StageMeter("score", 100, num_units=10)
    for _ in range(4):
        meter.unit_sent()
    said = meter.measure()
    assert (said.units_in_flight, said.units_waiting) == (4, 6)


@pytest.mark.parametrize("seed", range(3))
def test_quantiles_are_of_the_units_whatever_their_order(clock: list[float], seed: int) -> None:
    times_s = np.random.Generator(np.random.PCG64(seed)).permutation(np.arange(1, 101)) / 100
    meter = StageMeter("score", 1000)
    for time_s in times_s:
        meter.time_unit(10, float(time_s))
    said = meter.measure()
    assert (said.p50_ms, said.p95_ms) == pytest.approx((50.0, 95.0))


@pytest.mark.parametrize(
    ("ordered", "share", "expected"), [([], 0.5, None), ([3.0], 0.95, 3.0), ([1.0, 2.0], 0.5, 1.0)]
)
def test_quantiles_of_few(ordered: list[float], share: float, expected: float | None) -> None:
    assert quantile(ordered, share) == expected


def test_a_span_is_what_happened_since_its_mark(clock: list[float]) -> None:
    meter = StageMeter("score", 100, workers=Workers("main", 2, 0.5))
    run_units(meter, 3, 10, 9.0)
    mark = meter.snapshot()
    clock[0] += 5
    run_units(meter, 2, 10, 1.0)
    span = meter.since(mark)
    assert (span.seconds, span.busy_s, span.gpu_s, span.p50_ms, span.p95_ms) == (5.0, 2.0, 1.0, 100.0, 100.0)


def test_the_document_is_json_and_has_what_follows_from_the_counts(clock: list[float]) -> None:
    meter = StageMeter("score", 10, unit="clips", workers=Workers("audiobox", 2, 1.0))
    clock[0] += 1
    run_units(meter, 1, 5, 0.5)
    meter.add_quarantined(1)
    document = json.loads(json.dumps(meter.measure().document()))
    assert (document["pool"], document["num_actors"], document["quarantine_share"], document["eta_s"]) == (
        *("audiobox", 2),
        *(0.2, 1.0),
    )


def test_the_line_for_people_leaves_out_what_there_is_none_of(clock: list[float]) -> None:
    meter = StageMeter("score", 10, unit="clips")
    clock[0] += 2
    meter.finish(4)
    quiet: StageMeasure = meter.measure()
    assert quiet.text == "4/10 clips, 2.0/s, 3 s left"
    assert replace(quiet, quarantined=1, busy_s=1.0).text == "4/10 clips, 2.0/s, busy 50 %, 1 quarantined, 3 s left"
