"""Studies in a run's store: planned once, places and votes committed once, in a folder and in a bucket."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from planned_studies import draft_of, votes_of

from avpref.config.storage_settings import ObjectStorage
from avpref.datasets.votes.ballots import Vote, counting
from avpref.datasets.votes.studies import Study, StudyOptions, plan_study
from avpref.errors import InputError, TableError
from avpref.registry.study_files import StudyFiles, VoteConflict
from avpref.storage.files import Files
from avpref.storage.local_files import LocalFiles
from avpref.storage.object_files import ObjectFiles


@pytest.fixture
def study() -> Study:
    return plan_study(draft_of(6, StudyOptions(checks=0)))


def vote_on_everything(files: Files, study: Study) -> list[Vote]:
    studies = StudyFiles(files)
    votes = []
    for name in ("ada", "bo", "cy"):
        place = studies.join(study, name)
        votes += [studies.commit(study, vote) for vote in votes_of(study, place, lambda item, aspect: 1)]
    return votes


def check_store(files: Files, study: Study) -> None:
    studies = StudyFiles(files)
    assert studies.plan(study) and not studies.plan(study)
    assert studies.ids() == [study.study_id] and studies.find("") == study == studies.read(study.study_id)
    votes = vote_on_everything(files, study)
    key = {(vote.place, vote.position): vote for vote in votes}
    assert counting(studies.votes(study.study_id)) == key and len(studies.votes(study.study_id, 1)) == 6
    result = studies.result(study)
    assert result.num_complete == 6 and [annotator.name for annotator in result.annotators] == ["ada", "bo", "cy"]


def test_a_folder_keeps_studies(tmp_path: Path, study: Study) -> None:
    check_store(LocalFiles(tmp_path), study)


def test_a_bucket_keeps_studies(bucket: ObjectStorage, study: Study) -> None:
    check_store(ObjectFiles(bucket, "run"), study)


def test_votes_of_many_servers_at_once_are_each_committed_once(tmp_path: Path, study: Study) -> None:
    """Eight servers get two different votes each for the same places; at every place exactly one of the two is kept."""
    StudyFiles(LocalFiles(tmp_path)).plan(study)
    StudyFiles(LocalFiles(tmp_path)).join(study, "ada")
    votes = votes_of(study, 0, lambda item, aspect: 1)
    others = [replace(vote, answers=dict.fromkeys(vote.answers, "tie")) for vote in votes]

    def commit(vote: Vote) -> Vote | None:
        try:
            return StudyFiles(LocalFiles(tmp_path)).commit(study, vote)
        except VoteConflict:
            return None

    with ThreadPoolExecutor(8) as servers:
        confirmed = [vote for vote in servers.map(commit, [*votes, *others] * 4) if vote is not None]
    stored = counting(StudyFiles(LocalFiles(tmp_path)).votes(study.study_id))
    assert len(stored) == 6
    assert all(stored[vote.place, vote.position].is_same_as(vote) for vote in confirmed) and len(confirmed) == 24


def test_places_of_many_servers_at_once_are_each_taken_once(tmp_path: Path, study: Study) -> None:
    StudyFiles(LocalFiles(tmp_path)).plan(study)
    with ThreadPoolExecutor(8) as servers:
        names = ["ada", "bo", "cy"] * 5
        places = list(servers.map(lambda name: StudyFiles(LocalFiles(tmp_path)).join(study, name), names))
    taken = StudyFiles(LocalFiles(tmp_path)).annotators(study.study_id)
    assert sorted(taken.values()) == ["ada", "bo", "cy"]
    assert all(taken[place] == name for place, name in zip(places, names, strict=True))


def test_a_vote_without_a_place_is_refused(tmp_path: Path, study: Study) -> None:
    studies = StudyFiles(LocalFiles(tmp_path))
    studies.plan(study)
    with pytest.raises(InputError, match="nobody has taken"):
        studies.commit(study, votes_of(study, 0, lambda item, aspect: 1)[0])


def test_a_changed_study_and_a_broken_vote_are_named(tmp_path: Path, study: Study) -> None:
    studies = StudyFiles(LocalFiles(tmp_path))
    studies.plan(study)
    vote_on_everything(LocalFiles(tmp_path), study)
    path = tmp_path / "studies" / study.study_id / "votes" / "001-00002-000.json"
    path.write_text("{")
    with pytest.raises(TableError, match="001-00002-000"):
        studies.votes(study.study_id)
    plan = tmp_path / "studies" / study.study_id / "study.json"
    plan.write_text(plan.read_text().replace("animals", "plants"))
    with pytest.raises(TableError, match="has the content of"):
        studies.read(study.study_id)
    with pytest.raises(InputError, match="no study"):
        studies.find("sffff")
