"""Rewards and pairs of any metrics, weights and dimensions, against the formula written out in NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_sets import metric_sets

from avpref.config.pairs_settings import PairSettings
from avpref.datasets import tables
from avpref.datasets.metric_tables import metrics_of_table
from avpref.datasets.selection.compare import SelectionInputs, Snapshot, diff
from avpref.datasets.selection.leaderboard import STRATEGIES, leaderboard
from avpref.datasets.selection.normalise import measure
from avpref.datasets.selection.pairing import select_pairs
from avpref.datasets.selection.score_matrix import read_matrix
from avpref.datasets.selection.selection_source import source_of
from avpref.domain import METRICS, SOUND, Metric, dimensions_of

GRID = [0.0, 0.2, 0.4, 0.6, 1.0]


@st.composite
def populations(draw: st.DrawFn):
    metrics = draw(metric_sets())
    candidate = st.lists(st.sampled_from(GRID), min_size=len(metrics), max_size=len(metrics))
    return metrics, draw(st.lists(st.lists(candidate, min_size=1, max_size=4), min_size=2, max_size=6))


def rewards_in_numpy(metrics, population):
    """Rewards [candidates, dimensions] and the weighted mean over all metrics [candidates]."""
    raw = np.array([values for group in population for values in group])
    std = raw.std(axis=0, ddof=1) if len(raw) > 1 else np.zeros(raw.shape[1])
    constant = (raw == raw[0]).all(axis=0)
    sign = np.array([1.0 if metric.higher_is_better else -1.0 for metric in metrics])
    z = np.where(constant, 0.0, sign * (raw - raw.mean(axis=0)) / np.where(constant, 1.0, std))
    weights = np.array([metric.weight for metric in metrics])
    masks = [[metric.dimension == dimension for metric in metrics] for dimension in dimensions_of(metrics)]
    return np.stack([np.average(z[:, mask], axis=1, weights=weights[mask]) for mask in masks], axis=1)


@settings(max_examples=40)
@given(case=populations())
def test_rewards_and_pairs_are_those_of_the_formula(make_tables, case):
    metrics, population = case
    matrix = read_matrix(source_of(make_tables(population, metrics=metrics)), metrics)
    selection = select_pairs(matrix, PairSettings(), measure(matrix, "all"))
    dimensions = dimensions_of(metrics)
    expected = rewards_in_numpy(metrics, population)
    found = np.array([[row[dimension] for dimension in dimensions] for row in selection.rewards.to_pylist()])
    np.testing.assert_allclose(found, expected, atol=1e-12)
    reward_of = {
        row["candidate_id"]: np.array([row[name] for name in dimensions]) for row in selection.rewards.to_pylist()
    }
    for row in selection.pairs.to_pylist():
        margins = reward_of[row["chosen"]] - reward_of[row["rejected"]]
        assert (margins > 0).all()
        assert [row[f"margin_{name}"] for name in dimensions] == margins.tolist()
        assert row["dimension"] == "all"
    paired = set(selection.pairs["prompt_id"].to_pylist())
    for prompt, group in enumerate(population):
        names = [f"c{prompt:03d}-{index}" for index in range(len(group))]
        better = [np.min(reward_of[a] - reward_of[b]) > 0 for a in names for b in names]
        assert (f"p{prompt:03d}" in paired) == any(better)


@settings(max_examples=10)
@given(case=populations())
def test_tables_say_what_their_columns_are(make_tables, case, tmp_path_factory):
    metrics, population = case
    matrix = read_matrix(source_of(make_tables(population, metrics=metrics)), metrics)
    norm = measure(matrix, "all")
    selection = select_pairs(matrix, PairSettings(), norm)
    board = leaderboard(matrix, norm)
    assert board.rows.num_rows == len(STRATEGIES)
    assert {f"margin_{name}" for name in dimensions_of(metrics)} < set(board.rows.column_names)
    folder = tmp_path_factory.mktemp("tables")
    for table, rows in (
        (tables.PAIRS, selection.pairs),
        (tables.REWARDS, selection.rewards),
        (tables.LEADERBOARD, board.rows),
    ):
        path = folder / f"{table.name}.parquet"
        path.write_bytes(tables.to_bytes(rows))
        back = tables.read(path, table)
        assert back.equals(rows)
        assert metrics_of_table(back) == tuple(metrics)


@settings(max_examples=8)
@given(case=populations())
def test_differences_work_for_any_metrics(make_tables, case):
    metrics, population = case
    found = make_tables(population, metrics=metrics)
    matrix = read_matrix(source_of(found), metrics)
    norm = measure(matrix, "all")
    snapshots = []
    for options in (PairSettings(), PairSettings(strategy="average")):
        inputs = SelectionInputs(**found, norm=norm, settings=options, metrics=tuple(metrics))
        snapshots.append(Snapshot(select_pairs(matrix, options, norm).pairs, inputs))
    before, after = (
        dict.fromkeys(zip(s.pairs["chosen"].to_pylist(), s.pairs["rejected"].to_pylist(), strict=True))
        for s in snapshots
    )
    rows = diff(*snapshots).to_pylist()
    assert {row["cause"] for row in rows} <= {"strategy"}
    added = {(row["chosen"], row["rejected"]) for row in rows if row["change"] == "added"}
    assert added == {pair for pair in after if pair not in before and pair[::-1] not in before}


def test_a_weight_moves_a_reward_and_weight_zero_does_not(make_tables):
    source = source_of(make_tables(np.random.default_rng(3).normal(size=(30, 4, 7)).tolist()))

    def av_rewards(metrics):
        matrix = read_matrix(source, metrics)
        return select_pairs(matrix, PairSettings(), measure(matrix, "all")).rewards["av"]

    def weighted(weight):
        return [replace(metric, weight=weight) if metric.name == "desync" else metric for metric in METRICS]

    assert av_rewards(weighted(2.0)) != av_rewards(METRICS)
    assert av_rewards(weighted(0.0)) == av_rewards([metric for metric in METRICS if metric.name != "desync"])


@pytest.mark.parametrize("strategy", ["modality", "average", "strict"])
def test_a_further_dimension_takes_part_in_every_strategy(make_tables, strategy):
    metrics = (*METRICS, Metric("voice", "points", True, "speech", SOUND))
    better, worse = [1.0] * 6 + [0.0], [0.0] * 6 + [1.0]
    options = PairSettings(strategy=strategy, normalise=False)
    for voice, num_pairs in ((1.0, 1), (-1.0, int(strategy == "average"))):
        matrix = read_matrix(source_of(make_tables([[[*better, voice], [*worse, 0.0]]], metrics=metrics)), metrics)
        pairs = select_pairs(matrix, options, measure(matrix, "all")).pairs
        assert pairs.num_rows == num_pairs
        assert pairs["margin_speech"].to_pylist() == [voice] * num_pairs
