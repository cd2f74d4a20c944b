"""candidates list and show, scores list, show and export, prompts list."""

from __future__ import annotations

import pytest

from avpref.datasets import tables
from avpref.domain import METRICS


def test_prompts_in_their_order(call, runs, tiny_run):
    document = call("prompts", "list", "--runs", runs, "--json").document
    assert document["prompts"] == tiny_run.tables.read(tables.PROMPTS).to_pylist()
    assert (
        call("prompts", "list", "--runs", runs, "--limit", 2, "--json").document["prompts"] == document["prompts"][:2]
    )


def test_candidates_in_their_order_and_of_one_prompt(call, runs, tiny_run):
    every = call("candidates", "list", "--runs", runs, "--json").document["candidates"]
    assert every == tiny_run.tables.read(tables.CANDIDATES).to_pylist()
    prompt = every[0]["prompt_id"]
    some = call("candidates", "list", "--runs", runs, "--prompt", prompt, "--json").document["candidates"]
    assert some == [row for row in every if row["prompt_id"] == prompt]


def test_a_candidate_with_its_prompt_scores_and_file(call, runs, tiny_run):
    row = tiny_run.tables.read(tables.CANDIDATES).to_pylist()[3]
    document = call("candidates", "show", row["candidate_id"], "--runs", runs, "--json").document["candidate"]
    assert {key: document[key] for key in row} == row
    assert {score["metric"] for score in document["scores"]} == {metric.name for metric in METRICS}
    assert (tiny_run.root / document["path"]).is_file()
    text = call("candidates", "show", row["candidate_id"], "--runs", runs).out
    assert document["prompt"] in text and "desync" in text


@pytest.mark.parametrize("noun", ["candidates", "scores"])
@pytest.mark.parametrize("given", ["nobody", "c", ""])
def test_an_id_that_means_no_single_candidate_is_refused(call, runs, noun, given):
    answer = call(noun, "show", given, "--runs", runs)
    assert answer.code == 4
    assert "expected: an id such as c" in answer.err and "avpref candidates list" in answer.err


def test_scores_side_by_side(call, runs, tiny_run):
    rows = call("scores", "list", "--runs", runs, "--json").document["scores"]
    values = {
        (row["candidate_id"], row["metric"]): row["value"] for row in tiny_run.tables.read(tables.SCORES).to_pylist()
    }
    assert len(rows) == tiny_run.tables.num_rows(tables.CANDIDATES)
    for row in rows:
        for metric in METRICS:
            assert row[metric.name] == values[row["candidate_id"], metric.name]


def test_a_score_that_is_not_there_says_why(call, own_runs, own_run):
    rows = own_run.tables.read(tables.SCORES).to_pylist()
    rows[0].update(value=None, status="skipped", reason="silent")
    own_run.tables.seal(
        tables.SCORES, "x", tables.conform(tables.SCORES, type(own_run.tables.read(tables.SCORES)).from_pylist(rows))
    )
    found = call("scores", "list", "--runs", own_runs, "--json").document["scores"]
    (row,) = [row for row in found if row["candidate_id"] == rows[0]["candidate_id"]]
    assert row[rows[0]["metric"]] is None
    assert row["reasons"] == {rows[0]["metric"]: "skipped: silent"}


def test_one_candidates_scores(call, runs, tiny_run):
    row = tiny_run.tables.read(tables.CANDIDATES).to_pylist()[0]
    document = call("scores", "show", row["candidate_id"], "--runs", runs, "--json").document
    assert document["candidate_id"] == row["candidate_id"]
    assert len(document["scores"]) == len(METRICS)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".CSV"])
def test_exported_scores_select_the_runs_pairs(call, runs, tiny_run, tmp_path, suffix):
    path = tmp_path / f"scores{suffix}"
    answer = call("scores", "export", path, "--runs", runs, "--json")
    assert (answer.code, answer.document["rows"]) == (0, tiny_run.tables.num_rows(tables.CANDIDATES))
    # A file has no splits: the held-out prompts, one candidate each, are in its population but give no pair.
    selected = call("pairs", "select", "--scores", path, "--set", "pairs.normalise=false", "--json").document
    own = call("pairs", "select", "--runs", runs, "--set", "pairs.normalise=false", "--json").document
    ids = [pair["pair_id"] for pair in selected["pairs"]]
    assert sorted(ids) == sorted(pair["pair_id"] for pair in own["pairs"])
    margins = {pair["pair_id"]: pair["margins"] for pair in own["pairs"]}
    assert all(pair["margins"] == margins[pair["pair_id"]] for pair in selected["pairs"])


def test_export_to_an_unknown_format_is_a_usage_error(call, runs, tmp_path):
    answer = call("scores", "export", tmp_path / "scores.json", "--runs", runs)
    assert answer.code == 2
    assert not list(tmp_path.iterdir())
