"""Stage ``pair`` with people's votes: named in the configuration with their hash, so a run's pairs follow from it alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from planned_studies import votes_of
from pydantic import ValidationError
from shown_runs import TINY, ShownRun, make_shown_run

from avpref.config.loading import identity_hash, load_config
from avpref.config.pairs_settings import PairSettings
from avpref.datasets.votes.studies import Study, StudyOptions
from avpref.errors import ConfigError, InputError
from avpref.flows.stages.pair import select
from avpref.registry.study_files import StudyFiles, opinions_in
from avpref.registry.study_planning import plan_pairs
from avpref.storage.run_folder import RunFolder


@pytest.fixture
def voted(tmp_path: Path) -> tuple[RunFolder, Study]:
    """A run with four pairs, all of which people prefer the other way round."""
    folder = make_shown_run(tmp_path, ShownRun(train=4, held_out=0))
    study = plan_pairs(folder, StudyOptions(1, 1, 0, ("overall",)), None)
    StudyFiles(folder.files).plan(study)
    place = StudyFiles(folder.files).join(study, "ada")
    for vote in votes_of(study, place, lambda item, aspect: -1):
        StudyFiles(folder.files).commit(study, vote)
    return folder, study


def with_votes(folder: RunFolder, votes: str) -> RunFolder:
    pairs = PairSettings.model_validate({**folder.settings.pairs.model_dump(), "votes": votes})
    return replace(folder, settings=folder.settings.model_copy(update={"pairs": pairs}))


def test_the_stage_turns_pairs(voted: tuple[RunFolder, Study]) -> None:
    folder, study = voted
    plain = {row["prompt_id"]: row for row in select(folder).pairs.to_pylist()}
    name = f"{folder.run_id}/{study.study_id}@{opinions_in(folder).votes_hash}"
    turned = select(with_votes(folder, name)).pairs.to_pylist()
    assert len(turned) == len(plain) == 4
    assert all(row["chosen"] == plain[row["prompt_id"]]["rejected"] for row in turned)
    assert all(study.study_id in row["strategy"] for row in turned)


def test_other_votes_than_those_named_are_an_error(voted: tuple[RunFolder, Study]) -> None:
    folder, study = voted
    current = opinions_in(folder).votes_hash
    with pytest.raises(InputError, match=current) as error:
        select(with_votes(folder, f"{folder.run_id}/{study.study_id}@{'0' * 16}"))
    assert f"{study.study_id}@{current}" in error.value.fix
    with pytest.raises(InputError, match="no run"):
        select(with_votes(folder, f"nothing/{study.study_id}@{current}"))


def test_ids_of_runs_without_votes_stay() -> None:
    settings = load_config(TINY, [], {}).settings
    assert "votes" not in settings.model_dump(mode="json")["pairs"]
    other = load_config(TINY, [f"pairs.votes=a/s{'0' * 16}@{'1' * 16}"], {}).settings
    assert identity_hash(other) != identity_hash(settings)


@pytest.mark.parametrize(
    "votes", ["study", "run/study", "run/s0000000000000000", "/s0000000000000000@0000000000000000"]
)
def test_a_name_without_its_hash_is_refused(votes: str) -> None:
    with pytest.raises(ValidationError):
        PairSettings(votes=votes)
    with pytest.raises(ConfigError):
        load_config(TINY, [f"pairs.votes={votes}"], {})
