"""pairs show, select, diff, leaderboard on runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from avpref.config.loading import load_config
from avpref.datasets import tables
from avpref.datasets.selection.leaderboard import STRATEGIES
from avpref.domain import METRICS
from avpref.flows.run import Run

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = str(CONFIGS / "tiny.yaml")

AVERAGE = ("--strategy", "average")
MARGINS = {"video", "audio", "av", "total"}


def rewritten(folder, table, change):
    """Seal a changed version of a table in the run's folder."""
    rows = change(folder.tables.read(table))
    folder.tables.seal(table, "changed", tables.conform(table, rows, "changed"))


@pytest.fixture
def other_run(own_run):
    """A second run in the same folder: the same prompts, candidates and scores, another strategy."""
    from avpref.flows.stages.pair import pair
    from avpref.storage.run_folder import create

    settings = own_run.settings.model_copy(
        update={"pairs": own_run.settings.pairs.model_copy(update={"strategy": "average"})}
    )
    other = create(own_run.root.parent, settings)
    for name in ("prompts", "candidates", "scores"):
        shutil.copytree(own_run.root / "tables" / name, other.root / "tables" / name)
    pair.fn(Run.of(other))
    return other


def test_show_prints_the_whole_pair_table(call, runs, tiny_run):
    document = call("pairs", "show", "--runs", runs, "--json").document
    assert set(document) == {"schema_version", "pairs"}
    by_id = {row["pair_id"]: row for row in tiny_run.tables.read(tables.PAIRS).to_pylist()}
    assert len(document["pairs"]) == len(by_id)
    for shown in document["pairs"]:
        row = by_id[shown["pair_id"]]
        assert set(shown["margins"]) == MARGINS
        assert shown["margins"]["total"] == row["margin_total"]
        assert shown["chosen_scores"] == {metric.name: row[f"chosen_{metric.name}"] for metric in METRICS}
        assert (tiny_run.root / shown["chosen_path"]).is_file()
        assert (tiny_run.root / shown["rejected_path"]).is_file()
        assert shown["prompt"] and shown["strategy"]


def test_show_is_the_same_wherever_the_run_lies(call, runs, own_runs, tiny_run):
    there = call("pairs", "show", "--runs", runs, "--json").out
    here = call("pairs", "show", "--runs", own_runs, "--json").out
    assert there == here
    assert str(tiny_run.root) not in there


def test_show_is_in_the_order_of_the_prompts(call, runs, tiny_run):
    place = {
        prompt: ordinal for ordinal, prompt in enumerate(tiny_run.tables.read(tables.PROMPTS)["prompt_id"].to_pylist())
    }
    shown = call("pairs", "show", "--runs", runs, "--json").document["pairs"]
    keys = [(place[pair["prompt_id"]], pair["rank"]) for pair in shown]
    assert keys == sorted(keys)


def test_show_of_one_prompt_and_a_limit(call, runs):
    every = call("pairs", "show", "--runs", runs, "--json").document["pairs"]
    wanted = every[-1]["prompt_id"]
    only = call("pairs", "show", "--runs", runs, "--prompt", wanted, "--json").document["pairs"]
    assert only == [pair for pair in every if pair["prompt_id"] == wanted]
    assert call("pairs", "show", "--runs", runs, "--limit", 2, "--json").document["pairs"] == every[:2]


def test_show_of_an_unknown_prompt_suggests_others(call, runs):
    answer = call("pairs", "show", "--runs", runs, "--prompt", "nobody")
    assert answer.code == 4
    assert "expected: an id such as p" in answer.err


def test_a_changed_table_is_refused(call, own_runs, own_run):
    (name,) = own_run.tables.store.names(own_run.tables.current("pairs"))
    path = own_run.root / "tables" / name
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    answer = call("pairs", "show", "--runs", own_runs)
    assert answer.code == 4
    assert "sha-256" in answer.err


def test_select_with_the_runs_own_strategy_gives_the_runs_pairs(call, runs):
    selected = call("pairs", "select", "--runs", runs, "--json")
    assert selected.code == 0
    assert selected.document["pairs"] == call("pairs", "show", "--runs", runs, "--json").document["pairs"]
    document = selected.document
    assert document["num_pairs"] + sum(document["skipped"].values()) == document["prompts"]


def test_select_with_another_strategy_leaves_the_run_as_it_was(call, own_runs, own_run, tmp_path):
    def state():
        return {path: path.read_bytes() for path in (own_run.root / "tables").rglob("*") if path.is_file()}

    before = state()
    out = tmp_path / "pairs.parquet"
    answer = call("pairs", "select", "--runs", own_runs, "--strategy", "average", "--out", out, "--json")
    assert answer.code == 0
    assert answer.document["strategy"].startswith("average")
    assert pq.read_table(out)["pair_id"].to_pylist() and tables.read(out, tables.PAIRS).num_rows
    assert {pair["pair_id"] for pair in answer.document["pairs"]} == set(pq.read_table(out)["pair_id"].to_pylist())
    assert state() == before


def test_select_takes_overrides_of_pairs(call, runs):
    everything = call("pairs", "select", "--runs", runs, "--json").document
    margins = sorted(pair["margins"]["total"] for pair in everything["pairs"])
    bound = margins[len(margins) // 2]
    some = call("pairs", "select", "--runs", runs, "--set", f"pairs.min_margin={bound!r}", "--json").document
    assert sorted(pair["margins"]["total"] for pair in some["pairs"]) == [each for each in margins if each >= bound]
    assert some["skipped"]["margin"] == sum(each < bound for each in margins)


def test_select_without_any_pair_says_so(call, runs):
    answer = call("pairs", "select", "--runs", runs, "--set", "pairs.min_margin=1e6", "--json")
    assert (answer.code, answer.document["num_pairs"]) == (0, 0)
    assert "no prompt gives a pair" in answer.err


@pytest.mark.parametrize("given", ["dpo.loop.steps=3", "run.seed=4", "nonsense"])
def test_select_refuses_overrides_of_anything_else(call, runs, given):
    answer = call("pairs", "select", "--runs", runs, "--set", given)
    assert answer.code == 2
    assert "pairs.KEY=VALUE" in answer.err


def test_select_names_the_nearest_key(call, runs):
    answer = call("pairs", "select", "--runs", runs, "--set", "pairs.min_margn=1")
    assert answer.code == 2
    assert "did you mean pairs.min_margin" in answer.err


def test_select_leaves_out_candidates_without_a_number(call, own_runs, own_run):
    victim = own_run.tables.read(tables.PAIRS)["chosen"][0].as_py()

    def lose(rows):
        found = rows.to_pylist()
        for row in found:
            if row["candidate_id"] == victim and row["metric"] == "desync":
                row.update(value=None, status="skipped", reason="silent")
        return type(rows).from_pylist(found, rows.schema)

    rewritten(own_run, tables.SCORES, lose)
    answer = call("pairs", "select", "--runs", own_runs, "--json")
    assert answer.code == 5
    (row,) = answer.document["excluded"]
    assert (row["candidate_id"], row["metric"], row["reason"], row["detail"]) == (victim, "desync", "skipped", "silent")
    assert all(victim not in (pair["chosen"], pair["rejected"]) for pair in answer.document["pairs"])


def test_out_of_an_unknown_format_is_refused_before_any_work(call, runs, tmp_path):
    answer = call("pairs", "select", "--runs", runs, "--out", tmp_path / "pairs.xlsx")
    assert answer.code == 2
    assert ".parquet" in answer.err


def test_diff_of_a_run_with_itself_is_empty(call, runs, tiny_run):
    answer = call("pairs", "diff", tiny_run.run_id, tiny_run.run_id, "--runs", runs, "--json")
    assert (answer.code, answer.document["differences"], answer.document["summary"]) == (0, [], [])
    assert "the same pairs" in call("pairs", "diff", tiny_run.run_id, tiny_run.run_id, "--runs", runs).out


def test_diff_names_the_strategy_as_the_cause(call, own_runs, own_run, other_run):
    document = call("pairs", "diff", own_run.run_id, other_run.run_id, "--runs", own_runs, "--json").document
    assert {row["cause"] for row in document["differences"]} == {"strategy"}
    assert sum(row["pairs"] for row in document["summary"]) == len(document["differences"]) > 0
    assert "strategy" in call("pairs", "diff", own_run.run_id, other_run.run_id, "--runs", own_runs).out


def test_diff_needs_two_runs_that_exist(call, runs, tiny_run):
    answer = call("pairs", "diff", tiny_run.run_id, "other", "--runs", runs)
    assert answer.code == 4


def test_the_leaderboard_has_every_strategy_and_their_agreement(call, runs, tiny_run):
    document = call("pairs", "leaderboard", "--runs", runs, "--json").document
    assert len(document["leaderboard"]) == len(STRATEGIES)
    assert len(document["overlaps"]) == len(STRATEGIES) ** 2
    own = tiny_run.tables.read(tables.PAIRS)["strategy"][0].as_py()
    (row,) = [row for row in document["leaderboard"] if row["strategy"] == own]
    assert row["pairs"] == tiny_run.tables.num_rows(tables.PAIRS)


def test_environment_does_not_change_a_runs_own_settings(call, runs, monkeypatch):
    before = call("pairs", "select", "--runs", runs, "--json").document
    monkeypatch.setenv("AVPREF_PAIRS__STRATEGY", "average")
    assert call("pairs", "select", "--runs", runs, "--json").document == before
    assert load_config(TINY).settings.pairs.strategy == "average"


def test_audit_shows_every_fact_of_the_run_s_pairs(call, runs, tiny_run):
    document = call("pairs", "audit", "--runs", runs, "--json").document
    sealed = tiny_run.tables.read(tables.AUDITS).to_pylist()
    assert document["audit"] == sealed
    assert (document["run_id"], document["action"]) == (tiny_run.run_id, "flag")
    text = call("pairs", "audit", "--runs", runs).out
    assert "loudness_db" in text and "flagged:" in text


def test_audit_of_another_strategy_is_over_its_own_pairs(call, runs):
    mine, other = (call("pairs", "audit", "--runs", runs, *given, "--json").document for given in ((), AVERAGE))
    pairs = call("pairs", "select", "--runs", runs, *AVERAGE, "--json").document
    assert other["strategy"] == pairs["strategy"] != mine["strategy"]
    motion = {row["fact"]: row for row in other["audit"] if row["kind"] == "pairs"}["motion"]
    assert motion["num"] == pairs["num_pairs"]


def test_audit_of_a_run_without_facts_says_what_to_do(call, own_run, own_runs):
    shutil.rmtree(own_run.root / "tables" / "clip_facts")
    failed = call("pairs", "audit", "--runs", own_runs)
    assert failed.code == 4
    assert "clip_facts" in failed.err and "audit.action=flag" in failed.err
