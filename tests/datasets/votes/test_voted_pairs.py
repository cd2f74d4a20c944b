"""Pairs by votes: confirmed, turned with signs and ids, or dropped with a reason; provenance in every row."""

from __future__ import annotations

from pathlib import Path

import pytest
from planned_studies import votes_of
from shown_runs import ShownRun, make_shown_run

from avpref.datasets import tables
from avpref.datasets.votes.studies import StudyOptions
from avpref.datasets.votes.voted_pairs import NOT_VOTED, UNDECIDED, Opinions, apply_votes
from avpref.identity import digest
from avpref.registry.study_files import StudyFiles, opinions_in
from avpref.registry.study_planning import plan_pairs
from avpref.storage.run_folder import RunFolder


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Opinions]:
    """Six pairs; of five items people confirm the first, turn the second, are split on the third, and turn the others."""
    folder = make_shown_run(tmp_path_factory.mktemp("voted"), ShownRun(train=6, held_out=0))
    study = plan_pairs(folder, StudyOptions(3, 3, 0, ("overall",)), 5)
    files = StudyFiles(folder.files)
    files.plan(study)
    wanted = {item.item_id: value for item, value in zip(study.items, (1, -1, 0, -1, -1), strict=True)}
    for name in ("ada", "bo", "cy"):
        for vote in votes_of(study, files.join(study, name), lambda item, aspect: wanted[item]):
            files.commit(study, vote)
    return folder, opinions_in(folder)


def test_votes_turn_confirm_and_drop(voted: tuple[RunFolder, Opinions]) -> None:
    folder, opinions = voted
    before = folder.tables.read(tables.PAIRS)
    result = apply_votes(before, opinions, keep_others=True)
    counts = (result.num_confirmed, result.num_flipped, result.num_undecided, result.num_not_voted)
    assert counts == (1, 3, 1, 1) and result.pairs.num_rows == 5
    by_prompt = {row["prompt_id"]: row for row in before.to_pylist()}
    for row in result.pairs.to_pylist():
        old = by_prompt[row["prompt_id"]]
        if row["chosen"] == old["rejected"]:
            assert row["rejected"] == old["chosen"] and row["margin_total"] == -old["margin_total"]
            assert row["chosen_desync"] == old["rejected_desync"] and row["margin_av"] == -old["margin_av"]
            assert row["chosen_desync_normalised"] == old["rejected_desync_normalised"]
            assert row["pair_id"] == "x" + digest("pair", row["chosen"], row["rejected"])
            assert row["strategy"].endswith(f"votes={opinions.study_id}@{opinions.votes_hash}")
        else:
            assert {**row, "strategy": ""} == {**old, "strategy": ""}
    (skipped,) = result.skipped.to_pylist()
    assert skipped["reason"] == UNDECIDED and opinions.study_id in skipped["detail"]


def test_without_the_others_only_votes_count(voted: tuple[RunFolder, Opinions]) -> None:
    folder, opinions = voted
    result = apply_votes(folder.tables.read(tables.PAIRS), opinions, keep_others=False)
    assert result.pairs.num_rows == 4
    assert sorted(result.skipped["reason"].to_pylist()) == [NOT_VOTED, UNDECIDED]


def test_ids_are_those_of_a_selection(voted: tuple[RunFolder, Opinions]) -> None:
    for row in voted[0].tables.read(tables.PAIRS).to_pylist():
        assert row["pair_id"] == "x" + digest("pair", row["chosen"], row["rejected"])


def test_votes_on_nothing_change_nothing(voted: tuple[RunFolder, Opinions], tmp_path: Path) -> None:
    pairs = voted[0].tables.read(tables.PAIRS)
    result = apply_votes(pairs, Opinions("s", "h", {}), keep_others=True)
    assert result.pairs.to_pylist() == pairs.to_pylist() and not result.skipped.num_rows
