from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from avpref.config.pairs_settings import PairSettings
from avpref.datasets import tables
from avpref.datasets.selection.compare import SelectionInputs, Snapshot, diff
from avpref.datasets.selection.normalise import measure
from avpref.datasets.selection.pairing import select_pairs
from avpref.datasets.selection.score_matrix import read_matrix
from avpref.datasets.selection.selection_source import source_of
from avpref.domain import METRICS
from avpref.errors import TableError


def snapshot(inputs: SelectionInputs) -> Snapshot:
    tables = {"prompts": inputs.prompts, "candidates": inputs.candidates, "scores": inputs.scores}
    return Snapshot(
        select_pairs(read_matrix(source_of(tables), inputs.metrics), inputs.settings, inputs.norm).pairs, inputs
    )


def inputs_of(found, norm=None, settings=None) -> SelectionInputs:
    norm = norm or measure(read_matrix(source_of(found), METRICS), "all")
    return SelectionInputs(
        found["prompts"], found["candidates"], found["scores"], norm, settings or PairSettings(), METRICS
    )


def random_population(prompts=40, candidates=4, seed=0):
    return np.random.default_rng(seed).normal(size=(prompts, candidates, 7))


def changes(table):
    return {(row["change"], row["cause"]) for row in table.to_pylist()}


def rescored(found, candidate_id, values):
    scores = found["scores"].to_pandas()
    scores.loc[scores.candidate_id == candidate_id, "value"] = values
    return {**found, "scores": tables.to_arrow(tables.SCORES, scores)}


GOOD, MIDDLE, BAD = [3.0] * 6 + [0.0], [2.0] * 6 + [0.5], [1.0] * 6 + [1.0]


def test_nothing_changed(make_tables):
    before = snapshot(inputs_of(make_tables(random_population().tolist())))
    assert before.pairs.num_rows > 5
    assert diff(before, before).num_rows == 0


def test_a_new_score_flips_its_own_pair_only(make_tables):
    found = make_tables([[GOOD, BAD], [GOOD, BAD]])
    before = inputs_of(found)
    after = replace(before, scores=rescored(found, "c000-0", [0.0] * 6 + [2.0])["scores"])
    rows = diff(snapshot(before), snapshot(after)).to_pylist()
    assert [(row["change"], row["cause"], row["chosen"], row["rejected"]) for row in rows] == [
        ("flipped", "scores", "c000-1", "c000-0")
    ]
    assert rows[0]["margin_before"] > 0 and rows[0]["margin_after"] > 0


def test_a_new_score_that_moves_the_norm_moves_other_margins_through_the_norm(make_tables):
    found = make_tables([[GOOD, BAD], [GOOD, BAD]])
    after = rescored(found, "c000-0", [9.0] * 6 + [0.0])
    rows = diff(snapshot(inputs_of(found)), snapshot(inputs_of(after))).to_pylist()
    causes = {row["prompt_id"]: row["cause"] for row in rows}
    assert {row["change"] for row in rows} == {"margin"}
    assert causes["p001"] == "norm"


def test_another_strategy(make_tables):
    found = make_tables(random_population().tolist())
    before = inputs_of(found)
    for options in (PairSettings(strategy="average"), PairSettings(ground_truth=False), PairSettings(min_margin=4)):
        found_changes = changes(diff(snapshot(before), snapshot(replace(before, settings=options))))
        assert found_changes and {cause for _, cause in found_changes} == {"strategy"}


def test_another_norm(make_tables):
    found = make_tables(random_population().tolist())
    other = measure(read_matrix(source_of(make_tables((random_population(seed=3) * 5).tolist())), METRICS), "other")
    rows = diff(snapshot(inputs_of(found)), snapshot(inputs_of(found, other)))
    assert {cause for _, cause in changes(rows)} == {"norm"}
    assert ("margin", "norm") in changes(rows)


def test_new_and_lost_candidates(make_tables):
    few, many = make_tables([[MIDDLE, BAD], [GOOD, BAD]]), make_tables([[MIDDLE, BAD, GOOD], [GOOD, BAD]])
    norm = measure(read_matrix(source_of(many), METRICS), "all")
    before, after = snapshot(inputs_of(few, norm)), snapshot(inputs_of(many, norm))
    sides = ("change", "cause", "chosen", "rejected")
    forward = [tuple(row[name] for name in sides) for row in diff(before, after).to_pylist()]
    assert forward == [
        ("removed", "candidates", "c000-0", "c000-1"),
        ("added", "candidates", "c000-2", "c000-1"),
    ]
    backward = [tuple(row[name] for name in sides) for row in diff(after, before).to_pylist()]
    assert backward == [
        ("added", "candidates", "c000-0", "c000-1"),
        ("removed", "candidates", "c000-2", "c000-1"),
    ]


def test_several_changes_at_once_are_told_apart(make_tables):
    before = make_tables([[GOOD, BAD], [MIDDLE, BAD], [MIDDLE, BAD]])
    more = make_tables([[GOOD, BAD], [MIDDLE, BAD, GOOD], [MIDDLE, BAD]])
    after = rescored(more, "c002-0", [0.0] * 6 + [2.0])
    norm = measure(read_matrix(source_of(more), METRICS), "all")
    rows = diff(snapshot(inputs_of(before, norm)), snapshot(inputs_of(after, norm))).to_pylist()
    assert [(row["prompt_id"], row["change"], row["cause"]) for row in rows] == [
        ("p001", "removed", "candidates"),
        ("p001", "added", "candidates"),
        ("p002", "flipped", "scores"),
    ]


def test_every_difference_is_there_once(make_tables):
    """Against set arithmetic on the two pair tables, with everything changed at once."""
    old, new = random_population(), random_population(candidates=5)
    new[:20, :4] = old[:20]
    before = snapshot(inputs_of(make_tables(old.tolist()), settings=PairSettings(max_pairs_per_prompt=3)))
    after = snapshot(inputs_of(make_tables(new.tolist()), settings=PairSettings(strategy="average")))
    ids = [
        set(zip(x.pairs["chosen"].to_pylist(), x.pairs["rejected"].to_pylist(), strict=True)) for x in (before, after)
    ]
    turned = {(b, a) for a, b in ids[0]} & ids[1]
    rows = diff(before, after).to_pylist()
    by_change = {
        name: {(r["chosen"], r["rejected"]) for r in rows if r["change"] == name}
        for name in ("added", "removed", "flipped", "margin")
    }
    assert by_change["flipped"] == turned
    assert by_change["added"] == ids[1] - ids[0] - turned
    assert by_change["removed"] == ids[0] - ids[1] - {(b, a) for a, b in turned}
    assert by_change["margin"] <= ids[0] & ids[1]
    assert len(rows) == sum(map(len, by_change.values()))
    assert {row["cause"] for row in rows} <= {"candidates", "scores", "norm", "strategy"}


def test_a_norm_of_fewer_metrics_is_no_obstacle(make_tables):
    found = make_tables(random_population().tolist())
    fewer = METRICS[:2] + METRICS[3:4] + METRICS[5:]
    norm = measure(read_matrix(source_of(found), fewer), "fewer")
    after = replace(inputs_of(found, norm), metrics=fewer)
    assert {cause for _, cause in changes(diff(snapshot(inputs_of(found)), snapshot(after)))} == {"strategy"}


def test_pairs_that_their_inputs_do_not_give_are_refused(make_tables):
    good = snapshot(inputs_of(make_tables(random_population().tolist())))
    with pytest.raises(TableError, match="'after'"):
        diff(good, Snapshot(good.pairs.slice(1), good.inputs))
    with pytest.raises(TableError, match="'before'"):
        diff(Snapshot(good.pairs.slice(1), good.inputs), good)
