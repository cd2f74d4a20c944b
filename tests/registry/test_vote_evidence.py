"""A decision with people's votes: recorded beside the first one, replayed without the votes, and promoted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from planned_studies import draft_of, votes_of

from avpref.datasets.votes.studies import Study, StudyOptions, item_id, plan_study
from avpref.errors import GateRefused, InputError
from avpref.registry import decisions, promotion
from avpref.registry.study_files import StudyFiles
from avpref.registry.vote_evidence import decide_with_votes, evidence_for
from avpref.storage.run_folder import RunFolder

RULES = "evaluation.gate.rules=[{kind: superiority, dimension: av}, {kind: votes}]"
DecidedRun = Callable[..., RunFolder]


def study_of(folder: RunFolder, clips_of: str = "policy", num_items: int = 12) -> Study:
    """A study of the clips of a decided run."""
    draft = draft_of(num_items, StudyOptions(2, 2, 0))
    items = []
    for number, item in enumerate(draft.items):
        second = replace(item.second, run_id=folder.run_id, candidate_id=f"c{clips_of}p{number}")
        items.append(replace(item, second=second, item_id=item_id(item.first, second)))
    return plan_study(replace(draft, run_id=folder.run_id, items=tuple(items)))


def vote(folder: RunFolder, study: Study, value: int) -> None:
    files = StudyFiles(folder.files)
    files.plan(study)
    for name in ("ada", "bo"):
        for vote_of_item in votes_of(study, files.join(study, name), lambda item, aspect: value):
            files.commit(study, vote_of_item)


@pytest.fixture
def folder(tmp_path: Path, decided_run: DecidedRun) -> RunFolder:
    return decided_run(tmp_path, given=(RULES,))


def test_votes_turn_a_refusal_into_a_promotion(folder: RunFolder) -> None:
    before = decisions.read_decision(folder)
    assert before.verdict == "refuse" and "no votes of people" in before.reasons[-1]
    with pytest.raises(InputError, match="has no votes"):
        decide_with_votes(folder)
    vote(folder, study_of(folder), 1)
    decision = decide_with_votes(folder)
    assert decision.verdict.is_promoted and decision.decision_id != before.decision_id
    assert decide_with_votes(folder).decision_id == decision.decision_id
    assert set(decisions.decision_ids(folder)) == {before.decision_id, decision.decision_id}
    assert decisions.replay_decision(folder).agrees
    assert promotion.promote(folder.runs, folder.run_id).decision == decision.decision_id
    document = folder.documents.read("evaluation.json")
    assert document["gate"]["decision_id"] == decision.decision_id


def test_votes_against_the_policy_refuse(folder: RunFolder) -> None:
    vote(folder, study_of(folder), -1)
    assert not decide_with_votes(folder).verdict.is_promoted
    with pytest.raises(GateRefused, match="win rate"):
        promotion.promote(folder.runs, folder.run_id)


def test_a_replay_needs_no_votes(folder: RunFolder) -> None:
    study = study_of(folder)
    vote(folder, study, 1)
    decide_with_votes(folder)
    for path in (folder.root / "studies").rglob("*.json"):
        path.unlink()
    assert decisions.replay_decision(folder).agrees


def test_votes_on_other_clips_do_not_count(folder: RunFolder) -> None:
    vote(folder, study_of(folder, "former"), 1)
    with pytest.raises(InputError, match="has no votes"):
        decide_with_votes(folder)


def test_of_several_studies_the_one_with_most_votes_counts(folder: RunFolder) -> None:
    vote(folder, study_of(folder, num_items=7), -1)
    vote(folder, study_of(folder, num_items=12), 1)
    votes = evidence_for(folder, {f"cpolicyp{number}" for number in range(40)})
    assert votes is not None and votes.aspects["overall"].num_items == 12


def test_a_run_without_the_rule_decides_as_before(tmp_path: Path, decided_run: DecidedRun) -> None:
    folder = decided_run(tmp_path / "other", name="plain")
    record = decisions.read_decision(folder)
    assert "votes" not in record.inputs and decisions.replay_decision(folder).agrees
