"""Voting over HTTP: blind pages, votes that are stored at once, and an error for everything that is not in the study."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from avpref.datasets.rows import EvaluationSide
from avpref.datasets.votes.ballots import counting
from avpref.datasets.votes.studies import ASPECTS, Study, StudyOptions
from avpref.registry.study_files import StudyFiles
from avpref.registry.study_planning import Model, plan_models
from avpref.storage.run_folder import RunFolder

ClientOf = Callable[[Path], TestClient]


@pytest.fixture
def study(own_run: RunFolder) -> Study:
    sides = [Model(own_run, side) for side in (EvaluationSide.REFERENCE, EvaluationSide.POLICY)]
    study = plan_models(sides[0], sides[1], StudyOptions(2, 2, 1), None)
    StudyFiles(own_run.files).plan(study)
    return study


@pytest.fixture
def base(own_run: RunFolder, study: Study) -> str:
    return f"/vote/{own_run.run_id}/{study.study_id}"


@pytest.fixture
def voter(own_run: RunFolder, client_of: ClientOf, base: str) -> TestClient:
    client = client_of(own_run.runs)
    assert client.post(base, content="name=Ada", follow_redirects=False).headers["location"] == f"{base}/0"
    return client


def ballot(**changes: Any) -> bytes:
    vote = {"revision": 0, "answers": dict.fromkeys(ASPECTS, "left"), "seconds": 3.2, "heard_s": [1.0, 1.0]}
    return json.dumps(vote | changes).encode()


def test_pages_of_voters_name_no_model_and_no_clip(voter: TestClient, own_run: RunFolder, base: str) -> None:
    text = voter.get(f"{base}/0").text
    names = ("policy", "reference")
    assert not [name for name in (*names, "/clip/", "clips/", "reward", "visual_quality") if name in text]
    for side in ("left", "right"):
        assert voter.get(f"{base}/0/0/{side}/picture").status_code == 200
        assert voter.get(f"{base}/0/0/{side}/sound").headers["content-type"] == "audio/wav"


def test_a_vote_is_stored_at_once_and_twice_the_same_is_one(
    voter: TestClient, own_run: RunFolder, study: Study, base: str
) -> None:
    files = StudyFiles(own_run.files)
    for _ in range(2):
        answer = voter.post(f"{base}/0/0", content=ballot())
        assert answer.status_code == 200 and answer.json() == {"next": f"{base}/0"}
    (vote,) = files.votes(study.study_id)
    assert (vote.annotator, vote.seconds, vote.position) == ("Ada", 3.2, 0) and vote.saved_at.endswith("+00:00")
    other = voter.post(f"{base}/0/0", content=ballot(answers=dict.fromkeys(ASPECTS, "right")))
    assert other.status_code == 409 and "revision" in other.json()["found"]
    assert files.votes(study.study_id) == [vote]
    later = voter.post(f"{base}/0/0", content=ballot(answers=dict.fromkeys(ASPECTS, "right"), revision=1))
    assert later.status_code == 200
    assert set(counting(files.votes(study.study_id))[0, 0].answers.values()) == {"right"}
    assert "1 of 2" in voter.get(f"{base}/0").text
    withdrawn = voter.post(f"{base}/0/0", content=ballot(revision=2, is_withdrawn=True))
    assert withdrawn.status_code == 200 and counting(files.votes(study.study_id)) == {}


def test_two_servers_of_one_study_lose_nothing(
    voter: TestClient, own_run: RunFolder, client_of: ClientOf, study: Study, base: str
) -> None:
    other = client_of(own_run.runs)
    assert other.post(base, content="name=Bo", follow_redirects=False).headers["location"] == f"{base}/1"
    assert voter.post(f"{base}/0/0", content=ballot()).status_code == 200
    assert other.post(f"{base}/1/0", content=ballot()).status_code == 200
    late = other.post(f"{base}/0/0", content=ballot(answers=dict.fromkeys(ASPECTS, "tie")))
    assert late.status_code == 409 and "reload" in late.json()["fix"]
    assert other.post(f"{base}/0/0", content=ballot()).status_code == 200
    assert sorted(counting(StudyFiles(own_run.files).votes(study.study_id))) == [(0, 0), (1, 0)]
    assert "1 of 2" in other.get(f"{base}/0").text


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("0/99", ballot(), 400),
        ("9/0", ballot(), 400),
        ("1/0", ballot(), 400),
        ("0/0", ballot(answers={"overall": "left"}), 400),
        ("0/0", ballot(answers=dict.fromkeys(ASPECTS, "policy")), 400),
        ("0/0", ballot(heard_s=[1.0, 0.0]), 400),
        ("0/0", ballot(heard_s=[1.0]), 400),
        ("0/0", ballot(revision=-1), 400),
        ("0/0", ballot(seconds=float("nan")), 400),
        ("0/0", b"not json", 400),
        ("0/0", b"[]", 400),
        ("0/0", b"x" * 100_000, 400),
        ("0/x", ballot(), 404),
        ("-1/0", ballot(), 404),
    ],
)
def test_a_wrong_vote_is_an_error_and_stores_nothing(
    voter: TestClient, own_run: RunFolder, study: Study, base: str, path: str, body: bytes, status: int
) -> None:
    assert voter.post(f"{base}/{path}", content=body).status_code == status
    assert StudyFiles(own_run.files).votes(study.study_id) == []


@pytest.mark.parametrize("study_id", ["s0000000000000000", "nothing", "..%2f..", "s" + "0" * 200])
def test_a_study_that_does_not_exist_is_an_error(own_run: RunFolder, client_of: ClientOf, study_id: str) -> None:
    client = client_of(own_run.runs)
    for path in (f"/vote/{own_run.run_id}/{study_id}", f"/run/{own_run.run_id}/study/{study_id}"):
        assert client.get(path).status_code == 404
    assert client.post(f"/vote/{own_run.run_id}/{study_id}/0/0", content=ballot()).status_code in (400, 404)


def test_places_are_taken_once_and_kept_by_name(voter: TestClient, own_run: RunFolder, base: str) -> None:
    def join(name: str) -> Any:
        return voter.post(base, content=f"name={name}", follow_redirects=False)

    assert join("Bo").headers["location"] == f"{base}/1"
    assert join("+ada+").headers["location"] == f"{base}/0"
    full = join("Cy")
    assert full.status_code == 400 and "all 2 places" in full.text
    assert join("").status_code == 400 and join("x" * 61).status_code == 400
    assert "&lt;b&gt;" in join("<b>" * 30).text


def test_a_voter_without_a_place_is_sent_to_the_first_page(own_run: RunFolder, client_of: ClientOf, base: str) -> None:
    answer = client_of(own_run.runs).get(f"{base}/1", follow_redirects=False)
    assert answer.status_code == 303 and answer.headers["location"] == base


@pytest.mark.parametrize("path", ["0/0/left/media", "0/0/middle/sound", "0/7/left/sound", "0/0/left/thumbnail"])
def test_only_parts_of_the_study_are_served(voter: TestClient, base: str, path: str) -> None:
    assert voter.get(f"{base}/{path}").status_code == 404


def test_a_vanished_clip_is_named_without_its_name(voter: TestClient, own_run: RunFolder, base: str) -> None:
    for path in (own_run.root / "clips").rglob("*.mp4"):
        path.unlink()
    answer = voter.get(f"{base}/0/0/left/sound")
    assert answer.status_code == 404 and "clip is gone" in answer.text and "mp4" not in answer.text


def test_results_and_list_show_progress(voter: TestClient, own_run: RunFolder, study: Study, base: str) -> None:
    assert "no votes yet" in voter.get(f"/run/{own_run.run_id}/study/{study.study_id}").text
    for position in range(2):
        voter.post(f"{base}/0/{position}", content=ballot())
    text = voter.get(f"/run/{own_run.run_id}/studies").text
    assert re.search(r"2 of 4", text) and "Ada" in text
    assert "Krippendorff" in voter.get(f"/run/{own_run.run_id}/study/{study.study_id}").text
