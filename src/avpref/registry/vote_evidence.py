"""People's votes on a run's adapter, for the gate."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from avpref.datasets.evidence.decision import Decision, inputs_of
from avpref.datasets.evidence.people import VoteEvidence, evidence_of
from avpref.datasets.rows import EvaluationSide
from avpref.datasets.votes.studies import Study, StudyKind
from avpref.errors import InputError
from avpref.registry import decisions
from avpref.registry.decision_record import DecisionRecord
from avpref.registry.study_files import StudyFiles
from avpref.storage.lock import owned
from avpref.storage.run_folder import RunFolder


def evidence_for(folder: RunFolder, policy_clips: Collection[str]) -> VoteEvidence | None:
    """The votes on the clips ``policy_clips`` against the run's reference: those of the study with most ratings; None without votes.

    Studies of other clips, such as those of a former adapter, do not count.
    """
    files = StudyFiles(folder.files)
    known = [study for study in map(files.read, files.ids()) if _is_about(study, folder.run_id, policy_clips)]
    results = [files.result(study) for study in known]
    voted = [result for result in results if result.aspects]
    if not voted:
        return None
    best = max(voted, key=lambda result: (max(rated.num_ratings for rated in result.aspects), result.study_id))
    return evidence_of(best)


def decide_with_votes(folder: RunFolder) -> Decision:
    """Take the run's last decision again with the votes that there are now, and record it as the current one.

    Raises InputError before the evaluation, StorageError where another command uses the run, TableError for changed files.
    """
    with owned(folder.root):
        stored: DecisionRecord = decisions.read_decision(folder)
        inputs = inputs_of(stored.document())
        rows = decisions.evaluation_scores(folder, inputs)
        policy = set(rows[rows.side == str(EvaluationSide.POLICY)].candidate_id)
        votes = evidence_for(folder, policy)
        if votes is None:
            fix = f"avpref votes plan --run {folder.run_id} --runs {folder.runs}"
            raise InputError(f"run {folder.run_id} has no votes on its adapter", "a study with votes", fix)
        decision = decisions.decide_again(folder, replace(inputs, votes=votes))
        decisions.seal_decision(folder, decision)
        decisions.record_decision(folder, decision, stored.lineage, stored.files)
        decisions.write_verdict(folder, decision)
        return decision


def _is_about(study: Study, run_id: str, policy_clips: Collection[str]) -> bool:
    names = (str(EvaluationSide.REFERENCE), str(EvaluationSide.POLICY))
    is_kind = study.kind == StudyKind.MODELS and study.names == names and study.run_id == run_id
    return is_kind and all(item.second.candidate_id in policy_clips for item in study.items)
