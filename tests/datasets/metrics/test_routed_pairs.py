"""Strategy ``routed`` against the rule written out one prompt at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_sets import metric_sets

from avpref.config.pairs_settings import PairSettings
from avpref.datasets import tables
from avpref.datasets.selection.compare import SelectionInputs, Snapshot, diff
from avpref.datasets.selection.leaderboard import leaderboard
from avpref.datasets.selection.normalise import measure
from avpref.datasets.selection.pairing import select_pairs
from avpref.datasets.selection.score_matrix import read_matrix
from avpref.datasets.selection.selection_source import source_of
from avpref.domain import METRICS, dimensions_of
from avpref.identity import digest

GRID = [0.0, 0.2, 0.4, 0.6, 1.0]
BASE = [0.0] * 6 + [0.0]
PICTURE, SOUND = [1.0, 1.0, 1.0, -0.1, -0.1, 0.0, 0.0], [-0.1, -0.1, -0.1, 1.0, 1.0, 0.0, 0.0]


@st.composite
def cases(draw: st.DrawFn):
    metrics = draw(metric_sets())
    candidate = st.lists(st.sampled_from(GRID), min_size=len(metrics), max_size=len(metrics))
    population = draw(st.lists(st.lists(candidate, min_size=1, max_size=4), min_size=2, max_size=6))
    options = PairSettings(
        strategy="routed",
        routed_tolerance=draw(st.sampled_from([0.0, 0.25, 3.0])),
        max_pairs_per_prompt=draw(st.sampled_from([1, 2])),
        min_margin=draw(st.sampled_from([0.0, 0.6])),
    )
    return metrics, population, options


def by_hand(rewards, options):
    """(chosen, rejected, dimension, margin) of one prompt; ``rewards``: candidate → reward per dimension, in order."""
    ordered = list(itertools.permutations(rewards, 2))
    margins = {(a, b): [x - y for x, y in zip(rewards[a], rewards[b], strict=True)] for a, b in ordered}
    joint = [(sum_from_left(m), pair) for pair, m in margins.items() if min(m) > 0]
    if joint:
        return [(*pair, "all", margin) for margin, pair in best(joint, options)]
    found = []
    for number in range(len(next(iter(rewards.values()), []))):
        allowed = [
            (m[number], pair)
            for pair, m in margins.items()
            if m[number] > 0 and all(x >= -options.routed_tolerance for n, x in enumerate(m) if n != number)
        ]
        found += [(*pair, number, margin) for margin, pair in best(allowed, options)]
    return found


def sum_from_left(values):
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def best(pairs, options):
    largest_first = sorted(pairs, key=lambda entry: -entry[0])
    return [entry for entry in largest_first[: options.max_pairs_per_prompt] if entry[0] >= options.min_margin]


@settings(max_examples=60)
@given(case=cases())
def test_pairs_are_those_of_the_rule(make_tables, case):
    metrics, population, options = case
    matrix = read_matrix(source_of(make_tables(population, metrics=metrics)), metrics)
    selection = select_pairs(matrix, options, measure(matrix, "all"))
    dimensions = dimensions_of(metrics)
    rewards = {row["candidate_id"]: [row[name] for name in dimensions] for row in selection.rewards.to_pylist()}
    expected = []
    for prompt, group in enumerate(population):
        of_prompt = {f"c{prompt:03d}-{index}": rewards[f"c{prompt:03d}-{index}"] for index in range(len(group))}
        for chosen, rejected, dimension, margin in by_hand(of_prompt, options):
            name = dimension if dimension == "all" else dimensions[dimension]
            expected.append((f"p{prompt:03d}", chosen, rejected, name, margin))
    columns = ("prompt_id", "chosen", "rejected", "dimension", "margin_total")
    assert [tuple(row[name] for name in columns) for row in selection.pairs.to_pylist()] == expected
    assert len(set(selection.pairs["pair_id"].to_pylist())) == selection.pairs.num_rows
    together = [*selection.pairs["prompt_id"].unique().to_pylist(), *selection.skipped["prompt_id"].to_pylist()]
    assert sorted(together) == [f"p{prompt:03d}" for prompt in range(len(population))]


@pytest.fixture
def exchange(make_tables):
    """A prompt of two clips: one has the better picture, the other the better sound."""
    return make_tables([[BASE, PICTURE, SOUND]])


def selected(found, **options):
    matrix = read_matrix(source_of(found), METRICS)
    settings_ = PairSettings(strategy="routed", normalise=False, ground_truth=False, **options)
    return select_pairs(matrix, settings_, measure(matrix, "all"))


def test_a_prompt_gives_a_pair_per_dimension_with_an_id_of_its_own(exchange):
    pairs = selected(exchange, routed_tolerance=2.0).pairs.to_pylist()
    assert [(row["chosen"], row["rejected"], row["dimension"], row["rank"]) for row in pairs] == [
        ("c000-1", "c000-2", "video", 1),
        ("c000-2", "c000-1", "audio", 2),
    ]
    assert [row["margin_total"] for row in pairs] == [row[f"margin_{row['dimension']}"] for row in pairs]
    assert pairs[0]["pair_id"] == "x" + digest("pair", "c000-1", "c000-2", "video")


def test_the_reason_of_a_prompt_without_a_pair_names_the_tolerance(exchange):
    (skipped,) = selected(exchange, routed_tolerance=1.0).skipped.to_pylist()
    assert skipped["reason"] == "no_dominance"
    assert "worse by at most 1 in the others" in skipped["detail"]
    (small,) = selected(exchange, routed_tolerance=2.0, min_margin=5.0).skipped.to_pylist()
    assert (small["reason"], small["detail"]) == ("margin", "largest margin 1.1, at least 5 asked")


def test_yield_is_in_the_leaderboard_and_differences_tell_dimensions_apart(make_tables):
    found = make_tables(np.random.default_rng(5).normal(size=(40, 4, 7)).tolist())
    matrix = read_matrix(source_of(found), METRICS)
    norm = measure(matrix, "all")
    rows = {row["strategy"]: row for row in leaderboard(matrix, norm).rows.to_pylist()}
    assert rows["routed-micro"]["prompt_yield"] > rows["modality-micro"]["prompt_yield"]
    snapshots = []
    for strategy in ("modality", "routed"):
        options = PairSettings(strategy=strategy)
        pairs = select_pairs(matrix, options, norm).pairs
        snapshots.append(Snapshot(pairs, SelectionInputs(**found, norm=norm, settings=options, metrics=METRICS)))
    differences = diff(*snapshots)
    assert set(differences["change"].to_pylist()) == {"added"}
    added = snapshots[1].pairs.filter(np.array(snapshots[1].pairs["dimension"].to_pylist()) != "all")
    key = ("chosen", "rejected", "dimension")
    assert sorted(zip(*(differences[name].to_pylist() for name in key), strict=True)) == sorted(
        zip(*(added[name].to_pylist() for name in key), strict=True)
    )


def test_row_order_and_threads_change_no_byte(make_tables):
    found = make_tables(np.random.default_rng(6).integers(0, 4, size=(300, 4, 7)).astype(float).tolist())
    options = PairSettings(strategy="routed", max_pairs_per_prompt=2)
    rng = np.random.default_rng(7)
    mixed = {name: table.take(rng.permutation(table.num_rows)) for name, table in found.items()}
    outcomes = []
    for source in (source_of(found, threads=1), source_of(mixed, threads=3)):
        matrix = read_matrix(source, METRICS)
        outcomes.append(select_pairs(matrix, options, measure(matrix, "all")))
    for name in ("pairs", "skipped", "excluded", "rewards"):
        first, second = (tables.to_bytes(getattr(outcome, name)) for outcome in outcomes)
        assert first == second, name
