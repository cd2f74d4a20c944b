"""Reading of candidates and scores from files: any split into files and row groups, any order, any ids, and mistakes."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avpref.config.pairs_settings import PairSettings
from avpref.datasets import tables
from avpref.datasets.selection.id_lookup import IdLookup
from avpref.datasets.selection.normalise import measure
from avpref.datasets.selection.pairing import select_pairs
from avpref.datasets.selection.score_matrix import read_matrix
from avpref.datasets.selection.selection_source import source_of
from avpref.datasets.selection.text_hashes import hashes_of
from avpref.domain import METRICS
from avpref.errors import TableError

TEXTS = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=20)
HOLE = st.sampled_from([0.0, 0.4, 1.0, None, math.nan, math.inf])


def outcome(source):
    matrix = read_matrix(source, METRICS)
    selection = select_pairs(matrix, PairSettings(max_pairs_per_prompt=2), measure(matrix, "all"))
    return [tables.to_bytes(getattr(selection, name)) for name in ("pairs", "skipped", "excluded", "rewards")]


@settings(max_examples=25)
@given(
    population=st.lists(st.lists(st.lists(HOLE, min_size=7, max_size=7), max_size=4), min_size=1, max_size=5),
    group_rows=st.sampled_from([1, 3, 7, 100]),
    num_files=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_files_row_groups_and_order_change_no_byte(
    make_tables, tmp_path_factory, population, group_rows, num_files, seed
):
    found = make_tables(population)
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("files")
    files: dict[str, list[Path]] = {}
    for name, table in found.items():
        mixed = table.take(rng.permutation(table.num_rows))
        cuts = np.linspace(0, table.num_rows, num_files + 1).astype(int)
        files[name] = []
        for number, (start, end) in enumerate(itertools.pairwise(cuts)):
            files[name].append(folder / f"{name}-{number}.parquet")
            pq.write_table(mixed.slice(start, end - start), files[name][-1], row_group_size=group_rows)
    assert outcome(source_of(files, threads=3)) == outcome(source_of(found, threads=1))


@settings(max_examples=60)
@given(
    ids=st.lists(TEXTS, min_size=1, max_size=30, unique=True),
    others=st.lists(TEXTS, max_size=10),
    hint=st.integers(0, 40),
)
def test_ids_are_found_wherever_they_are(ids, others, hint):
    asked = [*others, *ids[::2]]
    found = IdLookup(pa.array(ids), hashes_of(pa.array(ids))).find(pa.array(asked, pa.string()), hint).tolist()
    assert found == [ids.index(text) if text in ids else -1 for text in asked]
    assert len(set(hashes_of(pa.array(ids)).tolist())) == len(ids)


def test_a_lookup_counts_doubled_ids():
    ids = pa.array(["a", "b", "a", "a"])
    assert IdLookup(ids, hashes_of(ids)).num_doubled == 2


def held_out(found, name):
    rows = found["prompts"].to_pandas()
    rows.loc[rows.prompt_id == name, "split"] = "held_out"
    return {**found, "prompts": tables.to_arrow(tables.PROMPTS, rows)}


def test_training_only_leaves_held_out_prompts_out_of_everything(make_tables):
    values = np.random.default_rng(8).normal(size=(6, 3, 7)).tolist()
    found = held_out(make_tables(values), "p002")
    without = {
        "prompts": found["prompts"].filter(
            pa.array([name != "p002" for name in found["prompts"]["prompt_id"].to_pylist()])
        ),
        "candidates": found["candidates"].slice(0, 6).take([0, 1, 2, 3, 4, 5]),
    }
    training = read_matrix(source_of(found, training_only=True), METRICS)
    assert len(training.index) == 15
    names = [name for name in found["candidates"]["candidate_id"].to_pylist() if not name.startswith("c002")]
    kept = {
        "prompts": without["prompts"],
        "candidates": found["candidates"].filter(
            pa.array([not c.startswith("c002") for c in found["candidates"]["candidate_id"].to_pylist()])
        ),
        "scores": found["scores"].filter(
            pa.array([not c.startswith("c002") for c in found["scores"]["candidate_id"].to_pylist()])
        ),
    }
    assert training.index.ids(np.arange(15)).to_pylist() == sorted(names)
    assert outcome(source_of(found, training_only=True)) == outcome(source_of(kept))


@pytest.mark.parametrize("second", [None, math.nan, 2.0])
def test_a_score_beside_another_is_a_doubled_score(make_tables, make_score, second):
    found = make_tables([[[1.0] * 7, [2.0] * 7]])
    more = tables.to_arrow(tables.SCORES, [make_score("c000-1", "desync", second)])
    with pytest.raises(TableError, match="1 doubled scores"):
        read_matrix(source_of({**found, "scores": pa.concat_tables([found["scores"], more])}), METRICS)


def test_scores_of_other_metrics_are_ignored_even_of_unknown_candidates(make_tables, make_score):
    found = make_tables([[[1.0] * 7, [2.0] * 7]])
    more = tables.to_arrow(tables.SCORES, [make_score("stranger", "loudness", 1.0)])
    assert outcome(source_of({**found, "scores": pa.concat_tables([found["scores"], more])})) == outcome(
        source_of(found)
    )
    stranger = tables.to_arrow(tables.SCORES, [make_score("stranger", "desync", 1.0)])
    with pytest.raises(TableError, match="1 orphan scores"):
        read_matrix(source_of({**found, "scores": pa.concat_tables([found["scores"], stranger])}), METRICS)


def test_candidates_of_one_prompt_and_index_are_ordered_by_id(make_tables):
    found = make_tables([[[1.0] * 6 + [0.0]] * 4])
    rows = found["candidates"].to_pandas()
    rows["index"] = 0
    equal = {**found, "candidates": tables.to_arrow(tables.CANDIDATES, rows.iloc[::-1])}
    matrix = read_matrix(source_of(equal), METRICS)
    assert matrix.index.ids(np.arange(4)).to_pylist() == sorted(rows["candidate_id"])
