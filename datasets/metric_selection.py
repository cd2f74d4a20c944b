"""The metrics of a run: those of the computed metrics that ``scoring.metrics`` selects, with the weights of ``scoring.weights``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from avpref.datasets.metric_tables import pair_columns, reward_columns
from avpref.domain import ALL_DIMENSIONS, METRIC_BY_NAME, Dimension, Metric, dimensions_of, in_canonical_order
from avpref.errors import ConfigError

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
RESERVED = (ALL_DIMENSIONS, "total", "overall")
"""Names that a dimension cannot have: columns and values of tables use them."""
EDIT = "edit scoring.metrics in the configuration file"


def select_metrics(
    computed: Iterable[Metric], names: Sequence[str], weights: Mapping[str, float]
) -> tuple[Metric, ...]:
    """The metrics called ``names``, or the computed ones of the paper's seven where ``names`` is empty, with their weights.

    The order is :func:`avpref.domain.in_canonical_order`, whatever the order of ``names``. Raises ConfigError for a metric that
    two scorers compute, a listed metric that none computes, and a weight of a metric that is not selected.
    """
    by_name: dict[str, Metric] = {}
    for metric in computed:
        if (other := by_name.setdefault(metric.name, metric)) is not metric:
            found = f"metric '{metric.name}' of two scorers: {other.scorer or '?'} and {metric.scorer or '?'}"
            raise ConfigError(found, "each metric from one scorer", "edit scoring.scorers in the configuration file")
    _refuse_unknown("metrics", names, by_name)
    chosen = set(names) or set(METRIC_BY_NAME)
    selected = {name: metric for name, metric in by_name.items() if name in chosen}
    _refuse_unknown("weights", list(weights), selected)
    return in_canonical_order(replace(metric, weight=weights.get(name, 1.0)) for name, metric in selected.items())


def check_metrics(metrics: Sequence[Metric]) -> None:
    """Raises ConfigError for a repeated metric, a name that cannot be a column, a metric of the paper under another dimension,
    a dimension of the built-in three without metric, and a dimension without a metric that has weight."""
    names = [metric.name for metric in metrics]
    if len(set(names)) < len(names):
        raise ConfigError(f"metrics listed twice: {', '.join(names)}", "each metric once", EDIT)
    for metric in metrics:
        _check_names(metric)
    for dimension in dict.fromkeys([*Dimension, *dimensions_of(metrics)]):
        weights = [metric.weight for metric in metrics if metric.dimension == dimension]
        if not weights:
            raise ConfigError(f"no metric for dimension '{dimension}'", "at least one metric per dimension", EDIT)
        if not sum(weights) > 0:
            fix = "edit scoring.weights in the configuration file"
            raise ConfigError(f"every metric of dimension '{dimension}' has weight 0", "a weight above 0", fix)
    for columns in (pair_columns(metrics), reward_columns(metrics)):
        doubled = [name for name, count in Counter(columns).items() if count > 1]
        if doubled:
            found = f"names of metrics or dimensions that give the column {doubled[0]} twice: {', '.join(names)}"
            raise ConfigError(found, "names whose columns differ", EDIT)


def _check_names(metric: Metric) -> None:
    known = METRIC_BY_NAME.get(metric.name)
    if known is not None and known.dimension != metric.dimension:
        found = f"metric '{metric.name}' for dimension '{metric.dimension}'"
        raise ConfigError(
            found, f"dimension '{known.dimension}', as in the paper", "name the scorer's metric otherwise"
        )
    for kind, name in (("metric", metric.name), ("dimension", str(metric.dimension))):
        if not NAME.fullmatch(name) or (kind == "dimension" and name in RESERVED):
            found = f"{kind} name {name!r} of scorer {metric.scorer or '?'}"
            expected = f"letters, digits and _, first a letter; for a dimension none of {', '.join(RESERVED)}"
            raise ConfigError(found, expected, f"rename the {kind} in the scorer")


def _refuse_unknown(key: str, names: Sequence[str], known: Mapping[str, Metric]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        scorers = dict.fromkeys(metric.scorer for metric in known.values() if metric.scorer)
        expected = f"metrics of the scorers {', '.join(scorers)}: {', '.join(known)}"
        empty = "[]" if key == "metrics" else "{}"
        raise ConfigError(f"scoring.{key} lists {', '.join(unknown)}", expected, f"--set scoring.{key}={empty}")
