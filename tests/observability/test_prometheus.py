"""The Prometheus endpoint: what it shows, for how long, and that it never fails a run."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from avpref.config.observe_settings import ObserveSettings
from avpref.observability.meters import StageMeter, Workers
from avpref.observability.prometheus import endpoint


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def scrape(port: int) -> dict[tuple[str, str, str], float]:
    """Samples by name, stage and what else tells them apart."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    extra = ("outcome", "quantile", "currency")
    return {
        (each.name, each.labels.get("stage", ""), "".join(each.labels.get(name, "") for name in extra)): each.value
        for each in samples
    }


def meter(stage: str, done: int) -> StageMeter:
    found = StageMeter(stage, 100, num_units=10, workers=Workers("main", 2, 0.5))
    found.add_present(10, 1)
    found.unit_sent()
    found.unit_returned(4.0)
    found.time_unit(done, 4.0)
    found.finish(done)
    found.add_quarantined(1)
    return found


def test_it_shows_every_stage_of_the_run_and_keeps_those_that_ended(port: int) -> None:
    with endpoint(ObserveSettings(prometheus_port=port)) as collector:
        collector.publish("r1", meter("generate", 40).measure())
        collector.publish("r1", meter("score", 20).measure())
        collector.publish("r1", meter("score", 30).measure())
        found = scrape(port)
    assert found["avpref_items_total", "generate", "made"] == 39
    assert found["avpref_items_total", "generate", "present"] == 10
    assert found["avpref_items_total", "score", "made"] == 29
    assert found["avpref_items_total", "score", "quarantined"] == 1
    assert found["avpref_gpu_seconds_total", "score", ""] == 2.0
    assert found["avpref_units_waiting", "score", ""] == 9
    assert found["avpref_item_milliseconds", "score", "0.95"] == pytest.approx(4000 / 30)
    assert ("avpref_eta_seconds", "score", "") in found


def test_pairs_and_their_cost_are_shown_once_there_are_any(port: int) -> None:
    with endpoint(ObserveSettings(prometheus_port=port)) as collector:
        assert not [name for name, _, _ in scrape(port) if "pair" in name]
        collector.publish_pairs("r1", "EUR", 12, None)
        assert "avpref_cost_per_kept_pair" not in {name for name, _, _ in scrape(port)}
        collector.publish_pairs("r1", "EUR", 12, 0.25)
        found = scrape(port)
    assert found["avpref_kept_pairs", "", ""] == 12
    assert found["avpref_cost_per_kept_pair", "", "EUR"] == 0.25


def test_nothing_but_this_product_is_shown(port: int) -> None:
    with endpoint(ObserveSettings(prometheus_port=port)) as collector:
        collector.publish("r1", meter("score", 1).measure())
        assert {name.split("_")[0] for name, _, _ in scrape(port)} == {"avpref"}


def test_a_second_run_in_one_process_finds_its_port_free(port: int) -> None:
    for _ in range(2):
        with endpoint(ObserveSettings(prometheus_port=port)):
            scrape(port)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        yield held.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_port_that_cannot_be_had_is_one_line_and_no_failure(
    taken: int, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with endpoint(ObserveSettings(prometheus_port=taken, prometheus_host=host)) as collector:
        collector.publish("r1", meter("score", 1).measure())
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{host}:{taken}" in line and "observe.prometheus_port" in line


def test_without_a_port_nothing_listens_and_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with endpoint(ObserveSettings()) as collector:
        collector.publish("r1", meter("score", 1).measure())
        assert list(collector.collect())
    assert capsys.readouterr().err == ""
