"""Metrics for Prometheus: the newest measure of every stage of this process's runs, at ``http://HOST:PORT/metrics``.

Counters of a finished stage stay for as long as the command runs. The endpoint never fails a run: where the port cannot be
opened, one line on stderr says so and the run goes on without an endpoint.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from avpref.config.observe_settings import ObserveSettings
from avpref.console import say
from avpref.observability.meters import StageMeasure

if TYPE_CHECKING:
    from prometheus_client.core import Metric

LABELS = ("run", "stage", "pool")


@dataclass(frozen=True)
class Series:
    """A metric with one number per stage: name, help, and its value in a measure (None: no value yet, nothing is shown)."""

    name: str
    text: str
    value: Callable[[StageMeasure], float | None]


COUNTERS = (
    Series("avpref_units_finished", "units finished", lambda m: m.units_done),
    Series("avpref_busy_seconds", "seconds in which workers worked", lambda m: m.busy_s),
    Series("avpref_gpu_seconds", "seconds of work times the GPUs that a worker holds", lambda m: m.gpu_s),
)
GAUGES = (
    Series("avpref_items_planned", "items of the stage", lambda m: m.total),
    Series("avpref_units_planned", "units of the stage", lambda m: m.units_total),
    Series("avpref_units_in_flight", "units that workers have", lambda m: m.units_in_flight),
    Series("avpref_units_waiting", "depth of the queue: units that no worker has yet", lambda m: m.units_waiting),
    Series("avpref_workers", "workers of the pool", lambda m: m.workers.num_actors),
    Series("avpref_busy_share", "share of the workers' time in which they worked", lambda m: m.busy_share),
    Series("avpref_items_per_second", "rate of this execution", lambda m: m.rate_hz),
    Series("avpref_eta_seconds", "seconds left at this rate", lambda m: m.eta_s),
    Series("avpref_elapsed_seconds", "seconds since the stage began", lambda m: m.elapsed_s),
)


@dataclass(eq=False)
class Collector:
    """Holds the measures that the endpoint shows. Stages publish from their threads; the server's thread collects."""

    _measures: dict[tuple[str, str, str], StageMeasure] = field(default_factory=dict)
    _costs: dict[tuple[str, str], tuple[int, float | None]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def publish(self, run: str, measure: StageMeasure) -> None:
        """Show ``measure`` in place of the stage's last one."""
        with self._lock:
            self._measures[run, measure.stage, measure.workers.pool] = measure

    def publish_pairs(self, run: str, currency: str, kept: int, cost_per_pair: float | None) -> None:
        """Show how many pairs a run kept, and the cost of each (None: no price, or no GPU was held)."""
        with self._lock:
            self._costs[run, currency] = kept, cost_per_pair

    def collect(self) -> Iterable[Metric]:
        """See ``prometheus_client.registry.Collector``."""
        with self._lock:
            measures, costs = dict(self._measures), dict(self._costs)
        yield from _of_stages(measures)
        yield from _of_runs(costs)


def _of_stages(measures: dict[tuple[str, str, str], StageMeasure]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    items = CounterMetricFamily("avpref_items", "items finished, by how", labels=[*LABELS, "outcome"])
    times = GaugeMetricFamily("avpref_item_milliseconds", "time per item", labels=[*LABELS, "quantile"])
    for labels, measure in measures.items():
        kept = measure.made - measure.quarantined
        for outcome, count in (("made", kept), ("present", measure.present), ("quarantined", measure.quarantined)):
            items.add_metric([*labels, outcome], count)
        for share, item_ms in (("0.5", measure.p50_ms), ("0.95", measure.p95_ms)):
            if item_ms is not None:
                times.add_metric([*labels, share], item_ms)
    yield items
    yield times
    for kind, all_series in ((CounterMetricFamily, COUNTERS), (GaugeMetricFamily, GAUGES)):
        for series in all_series:
            family = kind(series.name, series.text, labels=LABELS)
            for labels, measure in measures.items():
                value = series.value(measure)
                if value is not None:
                    family.add_metric(list(labels), value)
            yield family


def _of_runs(costs: dict[tuple[str, str], tuple[int, float | None]]) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    pairs = GaugeMetricFamily("avpref_kept_pairs", "pairs that the run kept", labels=["run"])
    cost = GaugeMetricFamily("avpref_cost_per_kept_pair", "at the configured price", labels=["run", "currency"])
    for (run, currency), (kept, cost_per_pair) in costs.items():
        pairs.add_metric([run], kept)
        if cost_per_pair is not None:
            cost.add_metric([run, currency], cost_per_pair)
    yield pairs
    yield cost


@contextmanager
def endpoint(settings: ObserveSettings) -> Iterator[Collector]:
    """Give a collector for the length of the block; where a port is configured, serve it over HTTP."""
    collector = Collector()
    if not settings.prometheus_port:
        yield collector
        return
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(settings.prometheus_port, settings.prometheus_host, registry)
    except OSError as error:
        where = f"{settings.prometheus_host}:{settings.prometheus_port}"
        say(f"no Prometheus endpoint at {where} ({error.strerror or error}); choose another observe.prometheus_port")
        yield collector
        return
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
