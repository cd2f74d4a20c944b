"""Tables whose columns follow the metrics of a run: pairs, rewards, leaderboard.

The metadata key ``avpref.metrics`` of such a table lists its metrics (JSON: name, unit, direction, dimension, inputs, weight,
scorer), so that readers learn the columns from the file. A table without the key was written before metrics were open: it has
the seven metrics of the paper and, in ``pairs``, no column ``dimension``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from avpref.domain import ALL_DIMENSIONS, METRIC_BY_NAME, METRICS, Metric, MetricInput, dimensions_of
from avpref.errors import TableError

METRICS_KEY = "avpref.metrics"

TYPES = {
    **{"text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()},
    **{"floats": pa.list_(pa.float64()), "ints": pa.list_(pa.int64())},
}

SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Table:
    """A named schema. ``schema`` has no metadata; :func:`avpref.datasets.tables.to_arrow` adds it.

    ``metrics``: the metrics that the columns follow; empty for a table whose columns do not depend on metrics.
    """

    name: str
    schema: pa.Schema
    metrics: tuple[Metric, ...] = ()


def table_of(name: str, columns: Mapping[str, str], metrics: Sequence[Metric] = ()) -> Table:
    """A table from column types ``text | int | float | bool``, or ``floats | ints`` for lists; a trailing ``?`` marks a nullable column."""
    fields = [pa.field(column, TYPES[kind.rstrip("?")], kind.endswith("?")) for column, kind in columns.items()]
    return Table(name, pa.schema(fields), tuple(metrics))


def pair_columns(metrics: Sequence[Metric]) -> list[str]:
    """Names of the columns of a pair table, in order; a name occurs twice where names of metrics collide."""
    return [name for name, _ in _pair_columns(metrics)]


def reward_columns(metrics: Sequence[Metric]) -> list[str]:
    """As :func:`pair_columns`, of a reward table."""
    return [name for name, _ in _reward_columns(metrics)]


def pairs_table(metrics: Sequence[Metric]) -> Table:
    """Table ``pairs``: a margin per dimension, and four scores per metric (both sides, raw and normalised).

    The metrics of the paper have columns in every run, so that a query works over all runs.
    """
    return table_of("pairs", dict(_pair_columns(metrics)), metrics)


def rewards_table(metrics: Sequence[Metric]) -> Table:
    """Table ``rewards``: a reward per dimension."""
    return table_of("rewards", dict(_reward_columns(metrics)), metrics)


def leaderboard_table(metrics: Sequence[Metric]) -> Table:
    """Table ``leaderboard``: a mean margin per dimension."""
    columns = {
        **{"strategy": "text", "pairs": "int", "prompts": "int", "prompts_with_pair": "int", "prompt_yield": "float?"},
        **{f"margin_{dimension}": "float?" for dimension in dimensions_of(metrics)},
        "ground_truth_share": "float?",
    }
    return table_of("leaderboard", columns, metrics)


TABLE_OF_METRICS = {"pairs": pairs_table, "rewards": rewards_table, "leaderboard": leaderboard_table}
"""Name of a table → the table for a list of metrics."""


def as_written(table: Table, schema: pa.Schema) -> Table:
    """``table`` with the metrics that the metadata of a written ``schema`` lists. Raises TableError for a list that is none."""
    build = TABLE_OF_METRICS.get(table.name)
    if build is None:
        return table
    metrics = metrics_in(schema)
    return build(METRICS if metrics is None else metrics)


def is_former(table: Table, schema: pa.Schema) -> bool:
    """Whether ``schema`` is that of a pair table that was written before it had a column ``dimension``."""
    return table.name == "pairs" and metrics_in(schema) is None and "dimension" not in schema.names


def former_schema(table: Table) -> pa.Schema:
    """The schema of a pair table without the column ``dimension``."""
    return table.schema.remove(table.schema.get_field_index("dimension"))


def with_dimension(pairs: pa.Table) -> pa.Table:
    """A pair table of the former layout with the column ``dimension``: every pair speaks for all dimensions."""
    everything = pa.repeat(pa.scalar(ALL_DIMENSIONS), pairs.num_rows)
    return pairs.append_column(pa.field("dimension", pa.string(), nullable=False), everything)


def metrics_in(schema: pa.Schema) -> tuple[Metric, ...] | None:
    """The metrics that a schema's metadata lists; None where it lists none. Raises TableError for a list that cannot be read."""
    text = (schema.metadata or {}).get(METRICS_KEY.encode())
    if text is None:
        return None
    try:
        return tuple(_metric(document) for document in json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        found = f"metadata {METRICS_KEY} that cannot be read: {error!r}"
        raise TableError(found, "a list of metrics", "write the table again with the stage that made it") from error


def metrics_of_table(arrow: pa.Table) -> tuple[Metric, ...]:
    """The metrics of a table of pairs, rewards or a leaderboard. Raises as :func:`metrics_in`."""
    metrics = metrics_in(arrow.schema)
    return METRICS if metrics is None else metrics


def metrics_text(metrics: Iterable[Metric]) -> str:
    """The list of metrics as the metadata holds it: JSON; :func:`metrics_in` reads it back."""
    return json.dumps([metric_document(metric) for metric in metrics])


def metric_document(metric: Metric) -> dict[str, Any]:
    """A metric as plain values, for JSON."""
    return {
        "name": metric.name,
        "unit": metric.unit,
        "higher_is_better": metric.higher_is_better,
        "dimension": str(metric.dimension),
        "inputs": sorted(map(str, metric.inputs)),
        "weight": metric.weight,
        "scorer": metric.scorer,
    }


def _metric(document: Mapping[str, Any]) -> Metric:
    inputs = frozenset(MetricInput(name) for name in document["inputs"])
    return Metric(**{**document, "inputs": inputs})


def scored_columns(metrics: Iterable[Metric]) -> list[str]:
    """The metrics that a pair table has columns of: the paper's seven, null where they are not configured, and ``metrics``."""
    return list(dict.fromkeys([*METRIC_BY_NAME, *(metric.name for metric in metrics)]))


def _pair_columns(metrics: Sequence[Metric]) -> list[tuple[str, str]]:
    patterns = [f"{side}_{{}}{suffix}" for suffix in ("", "_normalised") for side in SIDES]
    return [
        *((name, "text") for name in ("pair_id", "prompt_id", "chosen", "rejected")),
        ("rank", "int"),
        *((f"margin_{dimension}", "float") for dimension in dimensions_of(metrics)),
        ("margin_total", "float"),
        *((f"{side}_origin", "text") for side in SIDES),
        *((pattern.format(name), "float?") for pattern in patterns for name in scored_columns(metrics)),
        *((name, "text") for name in ("strategy", "norm_id", "dimension")),
    ]


def _reward_columns(metrics: Sequence[Metric]) -> list[tuple[str, str]]:
    return [
        *((name, "text") for name in ("candidate_id", "prompt_id")),
        *((dimension, "float") for dimension in dimensions_of(metrics)),
        *((name, "text") for name in ("strategy", "norm_id")),
    ]
