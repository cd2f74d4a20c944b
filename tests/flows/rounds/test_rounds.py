"""Two rounds of the tiny loop: candidates of the policy, earlier pairs, one scale of gains, lineage, and the end of a sequence."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from avpref.cli.main import main
from avpref.config.loading import load_config
from avpref.config.storage_settings import RetentionSettings
from avpref.datasets import tables
from avpref.datasets.block_table import BlockTable
from avpref.domain import Origin, Split
from avpref.errors import AuditRefused, ConfigError, InputError
from avpref.flows.dry_run import estimate
from avpref.flows.reproduce import reproduce
from avpref.flows.retrain import retrain, run_loop
from avpref.flows.rounds import round_candidates
from avpref.flows.rounds.round_sequence import next_round, run_rounds
from avpref.flows.run import Run
from avpref.flows.run_result import GateResult, RunResult
from avpref.flows.stages import pair as pair_stage
from avpref.registry.adapter_records import adapter_records
from avpref.registry.garbage import GarbageKind
from avpref.registry.garbage_collection import Request, collect
from avpref.storage.run_folder import RunFolder, create, open_root, run_id
from avpref.storage.table_readers import read_candidates
from avpref.trainer.adapter_files import read_adapter_config

TINY = str(Path(__file__).parents[3] / "configs" / "tiny.yaml")
PASSED = "evaluation.gate.rules=[{kind: displacement, maximum: 1000}]"
CHANGES = [PASSED, "rounds.sft_share=0.4", "rounds.earlier_share=0.6", "rounds.allocation=informative"]


@pytest.fixture(scope="module")
def sequence(tiny_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The document of two rounds; the first finds the work of the tiny run."""
    runs = tmp_path_factory.mktemp("rounds")
    shutil.copytree(tiny_run.root, runs / tiny_run.run_id)
    document: dict[str, Any] = retrain.fn(TINY, str(runs), None, [*CHANGES, "rounds.count=2"])
    return document


@pytest.fixture(scope="module")
def rounds(sequence: dict[str, Any]) -> tuple[Run, Run]:
    runs = Path(sequence["run_dir"]).parent
    first, second = (Run.of(open_root(runs / row["run_id"])) for row in sequence["rounds"])
    return first, second


def test_the_first_round_is_the_run_without_rounds(sequence: dict[str, Any], rounds: tuple[Run, Run]) -> None:
    plain = load_config(TINY, [PASSED], environment={}).settings
    assert rounds[0].run_id == run_id(plain)
    assert rounds[1].run_id.endswith("-r2") and rounds[1].settings.rounds.previous == rounds[0].run_id
    assert sequence["run_id"] == rounds[1].run_id and sequence["gate"]["verdict"] == "promote"


def test_candidates_come_from_the_policy_and_a_share_from_sft_with_new_noise(rounds: tuple[Run, Run]) -> None:
    first, second = (run.tables.read(tables.CANDIDATES).to_pandas() for run in rounds)
    training = {prompt.prompt_id for prompt in rounds[1].prompts_of(Split.TRAIN)}
    new = second[~second.candidate_id.isin(first.candidate_id)]
    assert set(new.prompt_id) == training and not set(new.seed) & set(first.seed)
    policy, sft = rounds[0].policy, rounds[0].sft
    counts = new.checkpoint_hash.value_counts()
    assert set(counts.index) == {policy.hash, sft.hash} and counts[policy.hash] > counts[sft.hash]
    assert set(new[new.checkpoint_hash == policy.hash].adapter_hash) == {policy.adapter_hash}
    per_prompt = new.groupby("prompt_id").size()
    assert len(new) == 3 * len(training) and set(per_prompt) <= {2, 3, 4} and per_prompt.max() == 4


def test_held_out_clips_of_the_reference_are_the_same_in_all_rounds(rounds: tuple[Run, Run]) -> None:
    sides = []
    for run in rounds:
        rows = run.tables.read(tables.EVALUATIONS).to_pandas()
        sides.append({side: set(rows[rows.side == side].candidate_id) for side in ("reference", "policy")})
    assert sides[0]["reference"] == sides[1]["reference"] and not sides[0]["policy"] & sides[1]["policy"]
    assert rounds[0].norm.norm_id == rounds[1].norm.norm_id


def test_earlier_pairs_are_a_share_and_new_pairs_are_of_new_candidates(rounds: tuple[Run, Run]) -> None:
    before, after = (run.tables.read(tables.PAIRS).to_pandas() for run in rounds)
    taken = after[after.pair_id.isin(before.pair_id)]
    new = after[~after.pair_id.isin(before.pair_id)]
    assert 0 < len(taken) < len(before) and len(new)
    candidates = {row["candidate_id"]: row for row in rounds[1].tables.read(tables.CANDIDATES).to_pylist()}
    assert {*after.chosen, *after.rejected} <= set(candidates), "the tables of a round are complete"
    old = set(rounds[0].tables.read(tables.CANDIDATES)["candidate_id"].to_pylist())
    generated = [name for name in (*new.chosen, *new.rejected) if candidates[name]["origin"] == Origin.GENERATED]
    assert not set(generated) & old
    assert all((rounds[1].root / candidates[name]["path"]).exists() for name in (*after.chosen, *after.rejected))


def test_the_policy_starts_from_the_one_before(rounds: tuple[Run, Run]) -> None:
    assert rounds[1].start.hash == rounds[0].policy.hash
    line = (rounds[1].training_job.output / "metrics.jsonl").read_text().splitlines()[0]
    assert json.loads(line)["margin_audio"] != 0, "policy and SFT network differ before the first step"
    assert read_adapter_config(rounds[1].policy.adapter or Path()).rank == rounds[1].settings.dpo.adapter.rank


def test_rows_records_and_report_know_the_round(sequence: dict[str, Any], rounds: tuple[Run, Run]) -> None:
    row = sequence["rounds"][1]
    assert (row["round"], row["verdict"]) == (2, "promote") and row["earlier_pairs"] > 0 and row["from_sft"] > 0
    assert set(row["gains"]) == {"video", "audio", "sync"} and row["update_norm"] > 0 and row["diversity"] > 0
    (record,) = (
        item
        for item in adapter_records(rounds[1].runs)
        if item.policy_hash == rounds[1].policy.hash and not item.is_promoted
    )
    assert record.document["previous_run"] == rounds[0].run_id
    assert record.document["start_policy_hash"] == rounds[0].policy.hash
    page = (rounds[1].root / "report.html").read_text()
    assert "round 1" in page and "round 2" in page


def test_the_same_command_again_computes_nothing(sequence: dict[str, Any]) -> None:
    again = retrain.fn(TINY, str(Path(sequence["run_dir"]).parent), None, [*CHANGES, "rounds.count=2"])
    assert not again["changed"] and again["rounds"] == sequence["rounds"]


def test_a_run_is_kept_as_long_as_a_later_round_names_it(rounds: tuple[Run, Run], tmp_path: Path) -> None:
    for run in rounds:
        shutil.copytree(run.root, tmp_path / run.run_id, ignore=shutil.ignore_patterns("promoted"))
    retention = RetentionSettings(keep_days=0, keep_runs=1, grace_hours=0)
    collection = collect(tmp_path, Request(retention, runs_too=True, is_dry=True), now_s=time.time() + 1e6)
    assert [entry.path for entry in collection.entries if entry.kind is GarbageKind.RUN] == []
    shutil.rmtree(tmp_path / rounds[1].run_id)
    create(tmp_path, load_config(TINY, environment={}).settings)
    collection = collect(tmp_path, Request(retention, runs_too=True, is_dry=True), now_s=time.time() + 1e6)
    removed = [entry.path.name for entry in collection.entries if entry.kind is GarbageKind.RUN]
    assert removed == [rounds[0].run_id]


def command(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    """The document that a command prints with --json."""
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*map(str, words), "--json"])
    return json.loads(capsys.readouterr().out)


def test_commands_that_list_runs_know_rounds(rounds: tuple[Run, Run], capsys: pytest.CaptureFixture[str]) -> None:
    runs, (first, second) = rounds[0].runs, rounds
    listed = {row["run_id"]: row["round"] for row in command(capsys, "runs", "list", "--runs", runs)["runs"]}
    assert (listed[first.run_id], listed[second.run_id]) == (1, 2)
    shown = command(capsys, "runs", "show", second.run_id, "--runs", runs)["lineage"]
    assert (shown["round"], shown["previous_run"]) == (2, first.run_id)
    adapter = command(capsys, "lineage", "show", second.run_id, "--runs", runs)
    assert (adapter["round"], adapter["previous_run"]) == (2, first.run_id)
    assert adapter["start_policy_hash"] == first.policy.hash
    taken = set(second.tables.read(tables.PAIRS)["pair_id"].to_pylist())
    earlier = sorted(taken & set(first.tables.read(tables.PAIRS)["pair_id"].to_pylist()))
    pair = command(capsys, "lineage", "show", earlier[0], "--runs", runs)
    assert {row["run_id"] for row in pair["runs"]} >= {first.run_id, second.run_id}
    assert {row["run_id"] for row in pair["adapters"]} >= {first.run_id, second.run_id}


def test_the_dry_run_describes_every_round(
    sequence: dict[str, Any], rounds: tuple[Run, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for change in CHANGES for word in ("--set", change)]
    document = command(capsys, "retrain", "--config", TINY, "--rounds", 3, "--dry-run", *words)
    plans = document["rounds"]
    assert [plan["round"] for plan in plans] == [1, 2, 3]
    for plan, row, run in zip(plans, sequence["rounds"], rounds, strict=False):
        assert plan["candidates"] == row["candidates"] and plan["pairs"] >= row["pairs"]
        assert plan["steps"] == run.training_summary.steps
        assert plan["rank"] == read_adapter_config(run.policy.adapter or Path()).rank
        assert plan["training_hours"] > 0 and plan["sampling_hours"] > 0
    assert plans[0]["earlier_pairs"] == 0 and plans[2]["earlier_pairs"] >= plans[1]["earlier_pairs"] > 0
    assert document["total_bytes"] == sum(plan["num_bytes"] for plan in plans)
    with pytest.raises(SystemExit):
        main(["retrain", "--config", TINY, "--rounds", "3", "--dry-run", *words])
    printed = capsys.readouterr()
    assert "sampling_GPU_hours" in printed.out
    assert f"all 3 rounds: {sum(plan['candidates'] for plan in plans)} candidates" in printed.err
    changes = [*CHANGES, "rounds.count=3", "rounds.reference=previous"]
    previous = estimate(load_config(TINY, changes, environment={}).settings)
    assert [plan.rank for plan in previous.rounds] == [4, 8, 12]
    assert not estimate(load_config(TINY, environment={}).settings).rounds


def test_a_later_round_can_be_made_again(rounds: tuple[Run, Run]) -> None:
    answer = reproduce(rounds[1], 0.1, None, 1)
    assert answer.is_same and answer.clips > 0


def test_with_the_previous_policy_as_reference_ranks_add_up(rounds: tuple[Run, Run], tmp_path: Path) -> None:
    for run in rounds:
        shutil.copytree(run.root, tmp_path / run.run_id)
    changes = [PASSED, "rounds.sft_share=0.4", "rounds.reference=previous", "rounds.count=2"]
    document = retrain.fn(TINY, str(tmp_path), None, changes)
    run = Run.of(open_root(Path(document["run_dir"])))
    assert run.settings.rounds.round == 2 and read_adapter_config(run.policy.adapter or Path()).rank == 8
    line = (run.training_job.output / "metrics.jsonl").read_text().splitlines()[0]
    assert json.loads(line)["margin_audio"] == 0 and document["rounds"][1]["earlier_pairs"] == 0


def stand_in(promoted: int, base: RunResult, audited: bool = False) -> Callable[[RunFolder], RunResult]:
    """A loop that refuses after ``promoted`` rounds."""

    def loop(folder: RunFolder) -> RunResult:
        number = folder.settings.rounds.round
        if number <= promoted:
            return replace(base, run_id=folder.run_id, gate=GateResult("promote", ()))
        if audited:
            raise AuditRefused("loudness tells chosen apart", "pairs that it does not", "look at the pairs")
        return replace(base, run_id=folder.run_id, gate=GateResult("refuse", ("audio fell",)))

    return loop


@pytest.mark.parametrize("audited", [False, True])
@pytest.mark.parametrize("promoted", [1, 2])
def test_a_refused_round_ends_the_sequence_and_the_last_good_adapter_stands(
    rounds: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, promoted: int, audited: bool
) -> None:
    monkeypatch.setattr("avpref.flows.rounds.round_sequence.round_rows", lambda run: [])
    settings = load_config(TINY, [PASSED, "rounds.count=4"], environment={}).settings
    result = run_rounds(create(tmp_path, settings), stand_in(promoted, run_loop(rounds[0]), audited))
    assert f"round {promoted + 1} was refused" in result.ended_by
    assert result.last_good.gate.is_promoted and result.last_good is result.rounds[promoted - 1]
    assert result.document()["gate"]["verdict"] == "promote"


def test_a_round_without_a_pair_names_the_round_and_the_adapter_that_stands(
    rounds: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in rounds:
        shutil.copytree(run.root, tmp_path / run.run_id)
    select = pair_stage.select
    nothing = BlockTable.of(select(rounds[0]).pairs.slice(0, 0))
    monkeypatch.setattr(pair_stage, "select", lambda run: replace(select(run), pair_blocks=nothing))
    with pytest.raises(InputError, match="round 2: no prompt gave a pair") as caught:
        retrain.fn(TINY, str(tmp_path), None, [PASSED, "rounds.count=2", "rounds.sft_share=0.4"])
    assert f"{rounds[0].run_id} stands" in caught.value.found and "--rounds 1" in caught.value.fix


def test_clips_that_were_imported_cannot_be_taken_over(
    rounds: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = replace(read_candidates(rounds[0].tables)[0], origin=Origin.IMPORTED, checkpoint_hash="")
    monkeypatch.setattr(round_candidates, "earlier_candidates", lambda run: [imported])
    with pytest.raises(InputError, match=imported.candidate_id):
        round_candidates.generation_plans(rounds[1], "generate")


def test_contradicting_or_absent_rounds_are_one_error_each(rounds: tuple[Run, Run], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rounds\.round 2"):
        load_config(TINY, ["rounds.round=2"], environment={})
    alone = create(tmp_path, next_round(rounds[0].settings, rounds[0].run_id))
    with pytest.raises(InputError, match="is not in"):
        run_loop(alone)
