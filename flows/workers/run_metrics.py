"""The metrics of a run, checked before anything is computed."""

from __future__ import annotations

from avpref.config.schema import Settings
from avpref.datasets.evidence.gate import check_dimensions
from avpref.datasets.metric_selection import check_metrics
from avpref.domain import Metric, dimensions_of
from avpref.flows.workers.scorers import metrics_of


def checked_metrics(settings: Settings) -> tuple[Metric, ...]:
    """The metrics that enter the rewards of a run with ``settings``.

    Raises ConfigError for a list of metrics or weights that cannot be used, and for a gate rule of a dimension that no metric
    measures.
    """
    metrics = metrics_of(settings.scoring, settings.executor)
    check_metrics(metrics)
    check_dimensions(settings.evaluation.gate, dimensions_of(metrics))
    return metrics
