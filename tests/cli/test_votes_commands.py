"""``avpref votes`` and ``avpref pairs open``: plans, results, addresses, and errors with a way out."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from planned_studies import votes_of
from shown_runs import ShownRun, make_shown_run

from avpref.datasets import tables
from avpref.registry.study_files import StudyFiles
from avpref.storage.run_folder import RunFolder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_shown_run(tmp_path_factory.mktemp("voted"), ShownRun(train=6, held_out=4))


def plan(call: Any, folder: RunFolder, *options: object) -> dict[str, Any]:
    answer = call("votes", "plan", "--runs", folder.runs, "--json", *options)
    assert answer.code == 0, answer.err
    return answer.document


def test_a_plan_is_stored_once_and_derived(call: Any, folder: RunFolder) -> None:
    first = plan(call, folder, "--raters", 2)
    assert (first["first"], first["second"], first["items"]) == ("reference", "policy", 4)
    assert first["is_new"] and not plan(call, folder, "--raters", 2)["is_new"]
    assert plan(call, folder, "--raters", 2, "--seed", 1)["study_id"] != first["study_id"]
    study = StudyFiles(folder.files).read(first["study_id"])
    assert {item.category for item in study.items} == {"animals", "tools", "weather"}
    gains = {name: value for name, value in study.items[0].differences.items() if name.startswith("reward")}
    assert gains == pytest.approx({"reward video": 1.0, "reward audio": 1.0, "reward av": 1.0})
    assert study.items[0].differences["desync"] == pytest.approx(1.0), "less is better, so the sign is turned"


def test_training_pairs_keep_their_margins(call: Any, folder: RunFolder) -> None:
    document = plan(call, folder, "--of", "pairs", "--items", 3, "--aspect", "overall")
    study = StudyFiles(folder.files).read(document["study_id"])
    assert len(study.items) == 3 and study.options.aspects == ("overall",)
    rows = {row["prompt_id"]: row for row in folder.tables.read(tables.PAIRS).to_pylist()}
    for item in study.items:
        row = rows[item.prompt_id]
        assert (item.first.candidate_id, item.second.candidate_id) == (row["rejected"], row["chosen"])
        assert item.differences["reward av"] == row["margin_av"]


def test_two_runs_are_compared_on_common_prompts(call: Any, folder: RunFolder) -> None:
    other = make_shown_run(
        folder.runs, ShownRun(train=6, held_out=4, overrides=("run.seed=9", "pairs.strategy=average"))
    )
    document = plan(call, folder, "--run", folder.run_id, "--against", other.run_id)
    assert document["first"] == f"policy of {other.run_id}" and document["items"] == 4
    base = plan(call, folder, "--run", folder.run_id, "--against", other.run_id, "--side", "reference")
    assert base["second"] == f"reference of {folder.run_id}"


def test_results_are_printed_drawn_and_given_as_json(call: Any, folder: RunFolder, tmp_path: Path) -> None:
    name = plan(call, folder, "--run", folder.run_id, "--raters", 2, "--seed", 5)["study_id"]
    files = StudyFiles(folder.files)
    study = files.read(name)
    where = ("--runs", folder.runs, "--run", folder.run_id)
    empty = call("votes", "result", name, *where, "--plot", tmp_path / "votes.png")
    assert empty.code == 2 and "no votes to draw" in empty.err
    for annotator in ("ada", "bo"):
        place = files.join(study, annotator)
        for vote in votes_of(study, place, lambda item, aspect: 1):
            files.commit(study, vote)
    answer = call("votes", "result", name, *where, "--json", "--plot", tmp_path / "votes.png")
    document = answer.document
    overall = next(row for row in document["table"] if (row["aspect"], row["category"]) == ("overall", "all"))
    assert overall["wins"] == 1.0 and overall["items"] == 4
    assert all(row["agree"] == 1.0 for row in document["agreement"] if row["reward"] == "reward audio")
    assert (tmp_path / "votes.png").read_bytes().startswith(b"\x89PNG")
    text = call("votes", "result", name, *where).out
    assert "policy (wins) with reference (loses)" in text and "4 of 4 items" in text
    rows = call("votes", "list", *where, "--json").document["studies"]
    assert next(row for row in rows if row["study_id"] == name)["annotators"] == "ada, bo"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--raters", 3, "--annotators", 2), 2),
        (("--side", "reference"), 2),
        (("--of", "pairs", "--against", "tiny"), 4),
        (("--raters", 0), 2),
        (("--run", "nothing"), 4),
    ],
)
def test_a_plan_that_cannot_be_is_an_error(
    call: Any, folder: RunFolder, options: tuple[object, ...], code: int
) -> None:
    answer = call("votes", "plan", "--runs", folder.runs, *options)
    assert answer.code == code and answer.err


def test_pairs_are_selected_by_votes(call: Any, folder: RunFolder, tmp_path: Path) -> None:
    name = plan(call, folder, "--run", folder.run_id, "--of", "pairs", "--items", 4, "--seed", 7)["study_id"]
    where = ("pairs", "select", "--runs", folder.runs, "--run", folder.run_id, "--from", "votes", "--study", name)
    early = call(*where)
    assert early.code == 4 and "nobody has voted" in early.err
    files = StudyFiles(folder.files)
    study = files.read(name)
    for vote in votes_of(study, files.join(study, "ada"), lambda item, aspect: -1):
        files.commit(study, vote)
    document = call(*where, "--json", "--out", tmp_path / "pairs.parquet").document
    assert document["num_pairs"] == 4 and document["votes"]["flipped"] == 4 and name in document["strategy"]
    assert all(pair["margins"]["total"] < 0 for pair in document["pairs"])
    assert call(*where, "--keep-others", "--json").document["num_pairs"] == 6
    assert (tmp_path / "pairs.parquet").exists()
    for wrong in (("--from", "votes", "--scores", "x.csv"), ("--study", "s1"), ("--keep-others",)):
        assert call("pairs", "select", "--runs", folder.runs, *wrong).code == 2


def test_an_unknown_study_names_the_known_ones(call: Any, folder: RunFolder) -> None:
    answer = call("votes", "result", "sffff", "--runs", folder.runs, "--run", folder.run_id)
    assert answer.code == 4 and "one of:" in answer.err


@pytest.mark.parametrize("command", [("pairs", "open"), ("runs", "open", "--explorer"), ("votes", "open")])
def test_a_port_in_use_is_an_error(call: Any, folder: RunFolder, command: tuple[str, ...]) -> None:
    name = plan(call, folder, "--run", folder.run_id)["study_id"]
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        first = [name, "--run", folder.run_id] if command[0] == "votes" else [folder.run_id]
        answer = call(*command, *first, "--runs", folder.runs, "--port", other.getsockname()[1])
    assert answer.code == 2 and "in use" in answer.err and "--port 0" in answer.err


def test_the_address_is_printed_before_the_first_request(
    call: Any, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import uvicorn

    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    answer = call("pairs", "open", folder.run_id, "--runs", folder.runs, "--port", 0, "--no-browser", "--json")
    document = answer.document
    assert document["url"] == f"http://127.0.0.1:{document['port']}/run/{folder.run_id}/table/pairs"
    outside = call(
        "pairs", "open", folder.run_id, "--runs", folder.runs, "--port", 0, "--host", "0.0.0.0", "--no-browser"
    )
    assert "?token=" in outside.out and "token" in outside.err
