from __future__ import annotations

import numpy as np
import pytest

from avpref.config.pairs_settings import PairSettings
from avpref.datasets import tables
from avpref.datasets.selection.candidate_rewards import strategy_label
from avpref.datasets.selection.leaderboard import STRATEGIES, leaderboard
from avpref.datasets.selection.normalise import measure
from avpref.datasets.selection.pairing import select_pairs
from avpref.datasets.selection.score_matrix import read_matrix
from avpref.datasets.selection.selection_source import source_of
from avpref.domain import METRICS


@pytest.fixture(scope="module")
def found(make_tables):
    return make_tables(np.random.default_rng(1).normal(size=(60, 4, 7)).round(1).tolist())


@pytest.fixture(scope="module")
def matrix(found):
    return read_matrix(source_of(found), METRICS)


@pytest.fixture(scope="module")
def norm(matrix):
    return measure(matrix, "all")


@pytest.fixture(scope="module")
def table_4(matrix, norm):
    return leaderboard(matrix, norm)


@pytest.fixture(scope="module")
def selections(matrix, norm):
    return {strategy_label(settings): select_pairs(matrix, settings, norm).pairs.to_pylist() for settings in STRATEGIES}


def test_strategies_are_those_of_table_4_strict_and_routed():
    labels = [strategy_label(settings) for settings in STRATEGIES]
    assert len(set(labels)) == 20
    assert {"modality-micro", "modality-macro", "average-micro", "average-macro"} <= set(labels)
    assert {"modality-micro no-norm", "modality-micro no-gt", "strict-micro", "routed-micro no-gt"} <= set(labels)


def test_rows_are_what_the_selections_give(table_4, selections, matrix, norm):
    scale = {row["candidate_id"]: row for row in select_pairs(matrix, PairSettings(), norm).rewards.to_pylist()}
    for row in table_4.rows.to_pylist():
        pairs = selections[row["strategy"]]
        assert (row["pairs"], row["prompts"]) == (len(pairs), 60)
        assert row["prompts_with_pair"] == len({pair["prompt_id"] for pair in pairs})
        assert row["prompt_yield"] == row["prompts_with_pair"] / 60
        share = np.mean([pair["chosen_origin"] == "ground_truth" for pair in pairs])
        assert row["ground_truth_share"] == pytest.approx(share)
        for dimension in ("video", "audio", "av"):
            margins = [scale[pair["chosen"]][dimension] - scale[pair["rejected"]][dimension] for pair in pairs]
            assert row[f"margin_{dimension}"] == pytest.approx(np.mean(margins))


def test_overlaps_are_shares_of_common_pairs(table_4, selections):
    ids = {name: {pair["pair_id"] for pair in pairs} for name, pairs in selections.items()}
    rows = table_4.overlaps.to_pylist()
    assert len(rows) == len(STRATEGIES) ** 2
    for row in rows:
        one, other = ids[row["strategy"]], ids[row["other"]]
        assert row["common"] == len(one & other)
        assert row["share"] == len(one & other) / len(one | other)


def test_no_pairs_at_all_is_an_answer(make_tables):
    matrix = read_matrix(source_of(make_tables([[[1.0] * 7]])), METRICS)
    found = leaderboard(matrix, measure(matrix, "all"))
    assert found.rows["pairs"].to_pylist() == [0] * len(STRATEGIES)
    assert found.rows["margin_av"].null_count == found.rows["ground_truth_share"].null_count == len(STRATEGIES)
    assert found.overlaps["share"].null_count == len(STRATEGIES) ** 2


def test_threads_change_no_byte(found, norm, table_4):
    again = leaderboard(read_matrix(source_of(found, threads=1), METRICS), norm)
    assert tables.to_bytes(again.rows) == tables.to_bytes(table_4.rows)
    assert tables.to_bytes(again.overlaps) == tables.to_bytes(table_4.overlaps)
