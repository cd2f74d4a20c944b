"""Differences between two pair tables, each with the input that caused it.

The cause is determined by exchanging one input after the other (candidates, scores, norm, strategy) and selecting again,
so an input that changed without effect is not blamed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from avpref.config.pairs_settings import PairSettings
from avpref.datasets.query_texts import metric_list
from avpref.datasets.selection.normalise import Norm
from avpref.datasets.selection.pairing import select_pairs
from avpref.datasets.selection.score_matrix import read_matrix
from avpref.datasets.selection.selection_source import source_of
from avpref.datasets.tables import DIFFERENCES, conform
from avpref.datasets.views import connect_tables, sql
from avpref.domain import Metric, dimensions_of
from avpref.errors import TableError


@dataclass(frozen=True)
class SelectionInputs:
    """All inputs of a selection. ``prompts`` may be empty."""

    prompts: pa.Table
    candidates: pa.Table
    scores: pa.Table
    norm: Norm
    settings: PairSettings
    metrics: tuple[Metric, ...]


@dataclass(frozen=True)
class Snapshot:
    """A pair table and the inputs that it was selected from."""

    pairs: pa.Table
    inputs: SelectionInputs


def diff(before: Snapshot, after: Snapshot) -> pa.Table:
    """Table ``differences``: pairs added, removed, flipped (sides exchanged) or with another margin, each with its cause.

    ``chosen`` and ``rejected`` are those of ``after``, of ``before`` where the pair was removed. Raises TableError where a
    pair table is not the selection from its inputs.
    """
    stages = _stages(before.inputs, after.inputs)
    selected: list[pa.Table] = []
    for step, inputs in enumerate(stages):
        same = step > 0 and _is_same(inputs, stages[step - 1])
        selected.append(selected[-1] if same else _select(inputs))
    _check(before, selected[0], "before")
    _check(after, selected[-1], "after")
    dimensions = dimensions_of([*before.inputs.metrics, *after.inputs.metrics])
    margins = [*(f"margin_{dimension}" for dimension in dimensions), "margin_total"]
    con = connect_tables({})
    con.register("stages", pa.concat_tables([_stage(number, table, margins) for number, table in enumerate(selected)]))
    query = sql("differences").format(margins=metric_list("{metric}", margins), zeros=", ".join(["0.0"] * len(margins)))
    return conform(DIFFERENCES, con.sql(query).to_arrow_table())


def _stages(before: SelectionInputs, after: SelectionInputs) -> tuple[SelectionInputs, ...]:
    """The five inputs from ``before`` to ``after``: candidates, scores, norm and strategy are exchanged in turn.

    Between the first and the second, candidates of both keep their old scores. A metric that only one norm has is taken
    from that norm.
    """
    start = replace(before, norm=_completed(before.norm, after.norm))
    candidates = replace(start, prompts=after.prompts, candidates=after.candidates, scores=_old_scores(before, after))
    scores = replace(candidates, scores=after.scores)
    norm = replace(scores, norm=_completed(after.norm, before.norm))
    strategy = replace(norm, settings=after.settings, metrics=after.metrics)
    return start, candidates, scores, norm, strategy


def _completed(norm: Norm, other: Norm) -> Norm:
    absent = tuple(metric for metric in other.metrics if norm.find(metric.metric) is None)
    return Norm(norm.population, (*norm.metrics, *absent))


def _old_scores(before: SelectionInputs, after: SelectionInputs) -> pa.Table:
    """Scores of the new candidates: those of ``before`` for the candidates that it had, those of ``after`` for the others."""
    old, new = before.candidates["candidate_id"], after.candidates["candidate_id"]
    kept = before.scores.filter(pc.is_in(before.scores["candidate_id"], new.combine_chunks()))
    fresh = after.scores.filter(pc.invert(pc.is_in(after.scores["candidate_id"], old.combine_chunks())))
    return pa.concat_tables([kept.replace_schema_metadata(None), fresh.replace_schema_metadata(None)])


def _is_same(first: SelectionInputs, second: SelectionInputs) -> bool:
    tables = ("prompts", "candidates", "scores")
    rest = (first.norm, first.settings, first.metrics) == (second.norm, second.settings, second.metrics)
    return rest and all(getattr(first, name).equals(getattr(second, name)) for name in tables)


def _select(inputs: SelectionInputs) -> pa.Table:
    tables = {"prompts": inputs.prompts, "candidates": inputs.candidates, "scores": inputs.scores}
    settings = inputs.settings.model_copy(update={"norm": ""})
    return select_pairs(read_matrix(source_of(tables), inputs.metrics), settings, inputs.norm).pairs


def _check(snapshot: Snapshot, selected: pa.Table, name: str) -> None:
    """Raises TableError unless the recomputed pairs equal the snapshot's; norm ids may differ where norms were completed."""
    pairs = snapshot.pairs
    columns = [column for column in pairs.column_names if column != "norm_id" and column in selected.column_names]
    if not pairs.select(columns).equals(selected.select(columns)):
        raise TableError(
            f"the pair table '{name}' ({pairs.num_rows} rows) is not what its inputs give ({selected.num_rows} rows)",
            "the candidates, scores, norm and settings that the pairs were selected from",
            "select the pairs again: avpref pairs select",
        )


def _stage(number: int, pairs: pa.Table, margins: Sequence[str]) -> pa.Table:
    """Sides and margins of one stage's pairs; 0 for a dimension that the stage does not measure."""
    columns = {name: pairs[name] for name in ("prompt_id", "chosen", "rejected", "dimension")}
    nothing = pa.repeat(pa.scalar(0.0), pairs.num_rows)
    columns |= {name: pairs[name] if name in pairs.column_names else nothing for name in margins}
    return pa.table(columns).append_column("stage", pa.repeat(pa.scalar(number), pairs.num_rows))
