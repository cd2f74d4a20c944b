"""The reward formula against the same formula in plain Python, and its two callers against each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avpref.config.pairs_settings import PairSettings
from avpref.datasets.evidence.evaluation import rewards_of_sides
from avpref.datasets.reward_formula import Average, MetricScale, MissingScores, compute_rewards
from avpref.datasets.rows import EvaluationSide
from avpref.datasets.selection.normalise import MetricNorm, Norm
from avpref.datasets.selection.pairing import select_pairs
from avpref.datasets.selection.score_matrix import read_matrix
from avpref.datasets.selection.selection_source import source_of
from avpref.domain import METRICS, Dimension, dimensions_of

NUMBER = st.one_of(st.sampled_from([0.0, 0.2, 1.0, -3.5]), st.floats(-1e3, 1e3))
SCORE = st.one_of(st.none(), NUMBER)
Row = tuple[str, list[float | None]]


@st.composite
def metric_lists(draw: st.DrawFn) -> list[MetricScale]:
    """Any number of metrics of any name, at least one per dimension."""
    dimensions = [*Dimension, *draw(st.lists(st.sampled_from(list(Dimension)), max_size=5))]
    return [
        MetricScale(f"metric {n}", d, draw(st.booleans()), draw(NUMBER), draw(st.sampled_from([0.0, 0.5, 1.0, 7.0])))
        for n, d in enumerate(dimensions)
    ]


@st.composite
def tables_of_scores(draw: st.DrawFn) -> tuple[list[MetricScale], list[Row]]:
    metrics = draw(metric_lists())
    scores = st.lists(SCORE, min_size=len(metrics), max_size=len(metrics))
    return metrics, draw(st.lists(st.tuples(st.sampled_from("abc"), scores), min_size=1, max_size=8))


def in_numpy(
    metrics: Sequence[MetricScale], rows: Sequence[Row], average: Average, missing: MissingScores
) -> dict[int, tuple[float | None, ...]]:
    """Rewards by row: the dimensions and overall."""
    scores = np.array([[np.nan if value is None else value for value in row[1]] for row in rows]).T
    _, prompts = np.unique([row[0] for row in rows], return_inverse=True)
    rewards = compute_rewards(scores, metrics, average, missing, prompts)
    by_row = np.vstack([rewards.by_dimension, rewards.overall]).T.tolist()
    found = {n: tuple(None if math.isnan(value) else value for value in row) for n, row in enumerate(by_row)}
    return {n: row for n, row in found.items() if missing is MissingScores.WORST or row[-1] is not None}


def in_python(
    metrics: Sequence[MetricScale], rows: Sequence[Row], average: Average, missing: MissingScores
) -> dict[int, tuple[float | None, ...]]:
    columns = [normalised(metric, [row[1][n] for row in rows]) for n, metric in enumerate(metrics)]
    if average == "macro":
        columns = [ranks(column) for column in columns]
    if missing is MissingScores.WORST:
        columns = [filled(column, [row[0] for row in rows]) for column in columns]
    means = [
        [column for m, column in zip(metrics, columns, strict=True) if m.dimension == d] for d in dimensions_of(metrics)
    ]
    result = {n: tuple(mean([column[n] for column in group]) for group in [*means, columns]) for n in range(len(rows))}
    return {n: rewards for n, rewards in result.items() if missing is MissingScores.WORST or rewards[-1] is not None}


def normalised(metric: MetricScale, scores: Sequence[float | None]) -> list[float | None]:
    sign = 1.0 if metric.higher_is_better else -1.0
    return [
        None if score is None else sign * ((score - metric.mean) / metric.std) if metric.std else 0.0
        for score in scores
    ]


def ranks(values: Sequence[float | None]) -> list[float | None]:
    present = [value for value in values if value is not None]
    return [
        None if value is None else sum(p < value for p in present) + (present.count(value) + 1) / 2 for value in values
    ]


def filled(values: Sequence[float | None], prompts: Sequence[str]) -> list[float | None]:
    scored = {prompt for prompt, value in zip(prompts, values, strict=True) if value is not None}
    worst = min((value for value in values if value is not None), default=None)
    return [
        worst if value is None and prompt in scored else value for prompt, value in zip(prompts, values, strict=True)
    ]


def mean(values: Sequence[float | None]) -> float | None:
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total / len(values)


def bits(rewards: dict[int, tuple[float | None, ...]]) -> dict[int, tuple[str, ...]]:
    """As text that tells every bit, the sign of zero included."""
    return {n: tuple(str(value) if value is None else value.hex() for value in row) for n, row in rewards.items()}


@settings(max_examples=60, deadline=None)
@given(table=tables_of_scores(), average=st.sampled_from(["micro", "macro"]), missing=st.sampled_from(MissingScores))
def test_the_formula_gives_the_bits_of_plain_python(
    table: tuple[list[MetricScale], list[Row]], average: Average, missing: MissingScores
) -> None:
    assert bits(in_numpy(*table, average, missing)) == bits(in_python(*table, average, missing))


def test_the_policies_differ_only_in_rows_that_lack_a_score() -> None:
    metrics = [MetricScale(str(dimension), dimension, True, 0.0, 1.0) for dimension in Dimension]
    rows: list[Row] = [
        ("a", [3.0, 3.0, None]),
        ("a", [1.0, 2.0, 5.0]),
        ("b", [2.0, 1.0, None]),
        ("b", [4.0, 0.0, None]),
    ]
    assert in_numpy(metrics, rows, "micro", MissingScores.EXCLUDE) == {1: (1.0, 2.0, 5.0, 8 / 3)}
    assert in_numpy(metrics, rows, "micro", MissingScores.WORST) == {
        0: (3.0, 3.0, 5.0, 11 / 3),
        1: (1.0, 2.0, 5.0, 8 / 3),
        2: (2.0, 1.0, None, None),
        3: (4.0, 0.0, None, None),
    }


def test_a_dimension_without_metric_has_no_reward_and_zero_has_no_sign() -> None:
    metrics = [MetricScale("desync", Dimension.AV, False, 0.0, 1.0)]
    ((av, overall),) = in_numpy(metrics, [("a", [0.0])], "micro", MissingScores.WORST).values()
    assert math.copysign(1, av or 0.0) == math.copysign(1, overall or 0.0) == 1


@pytest.mark.parametrize("holes", [False, True])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_pairs_and_gate_give_equal_rewards_to_equal_scores(make_tables, holes: bool, data: st.DataObject) -> None:
    """Candidate 0 of each prompt is the reference, candidate 1 the policy; rows with all scores have rewards in both.

    The exception is a dimension with a metric of which the reference has no score: the gate compares nothing in it.
    """
    values = st.lists(SCORE if holes else NUMBER, min_size=7, max_size=7)
    population = data.draw(st.lists(st.lists(values, min_size=2, max_size=2), min_size=1, max_size=5))
    statistics = [(data.draw(NUMBER), data.draw(st.sampled_from([0.0, 0.5, 3.0]))) for _ in METRICS]
    norm = Norm("test", tuple(MetricNorm(m.name, 2, *s, *[0.0] * 5) for m, s in zip(METRICS, statistics, strict=True)))
    scales = [
        MetricScale(m.name, m.dimension, m.higher_is_better, *s) for m, s in zip(METRICS, statistics, strict=True)
    ]
    matrix = read_matrix(source_of(make_tables(population)), METRICS)
    selection = select_pairs(matrix, PairSettings(), norm)
    of_pairs = {row["candidate_id"]: [row[d] for d in Dimension] for row in selection.rewards.to_pylist()}
    prompts, names = [f"p{n:03d}" for n in range(len(population))], [metric.name for metric in METRICS]
    of_gate = rewards_of_sides(
        {
            side: pd.DataFrame([group[n] for group in population], index=prompts, columns=names, dtype=float)
            for n, side in enumerate(EvaluationSide)
        },
        scales,
    )
    unscored = [m.dimension for n, m in enumerate(METRICS) if all(group[0][n] is None for group in population)]
    for prompt, group in enumerate(population):
        for n, side in enumerate(EvaluationSide):
            if None in group[n]:
                assert f"c{prompt:03d}-{n}" not in of_pairs
                continue
            gate = of_gate[side].loc[f"p{prompt:03d}"]
            expected = dict(zip(Dimension, of_pairs[f"c{prompt:03d}-{n}"], strict=True))
            assert all(math.isnan(gate[d]) if d in unscored else gate[d] == expected[d] for d in Dimension)
