"""Pages of a run: they answer, name what is missing, and never take text of a request for HTML, a path or SQL."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from shown_runs import write_progress
from starlette.testclient import TestClient

from avpref.datasets import tables
from avpref.storage.lock import owned
from avpref.storage.run_folder import RunFolder

PAGES = (
    *("", "/table/pairs", "/table/candidates", "/table/held-out", "/table/skipped", "/table/excluded"),
    *("/table/quarantine", "/leaderboard", "/sql"),
)
ClientOf = Callable[[Path], TestClient]


def first_pair(folder: RunFolder) -> dict[str, str]:
    return folder.tables.read(tables.PAIRS).slice(0, 1).to_pylist()[0]


@pytest.mark.parametrize("path", PAGES)
def test_every_page_answers(client: TestClient, shown_run: RunFolder, path: str) -> None:
    answer = client.get(f"/run/{shown_run.run_id}{path}")
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<script>" not in answer.text and not re.search(r"\son\w+=|\sstyle=", answer.text)


def test_the_list_of_runs_links_to_each(client: TestClient, shown_run: RunFolder) -> None:
    assert f'href="/run/{shown_run.run_id}"' in client.get("/").text


def test_prompts_are_escaped(client: TestClient, shown_run: RunFolder) -> None:
    text = client.get(f"/run/{shown_run.run_id}/table/pairs").text
    assert "a &lt;red&gt; ball &amp; a bell" in text and "<red>" not in text


def test_a_pair_shows_both_sides_and_its_reasons(client: TestClient, shown_run: RunFolder) -> None:
    pair = first_pair(shown_run)
    text = client.get(f"/run/{shown_run.run_id}/pair/{pair['pair_id']}").text
    for side in ("chosen", "rejected"):
        assert (
            f"/clip/{pair[side]}/picture" in text and f'data-sound="/run/{shown_run.run_id}/clip/{pair[side]}' in text
        )
    assert "average" in text and "visual_quality" in text and "loudness_db" in text
    assert text.count("<svg") == 10, "seven metrics and three rewards"
    assert text.count('loading="lazy"') == 3, "all candidates of the prompt"
    assert "this run" in text


def test_strategies_choose_as_the_whole_run_does(shown_run: RunFolder, client: TestClient) -> None:
    """The run's settings say modality; the choice for one prompt is that of a selection over all prompts."""
    from avpref.datasets.selection.pairing import select_pairs
    from avpref.datasets.selection.score_matrix import read_matrix
    from avpref.datasets.selection.selection_source import source_of
    from avpref.domain import METRICS
    from avpref.explorer.opened_runs import OpenedRuns
    from avpref.explorer.selection_views import choices_of
    from avpref.storage.table_readers import read_norm

    opened = OpenedRuns(shown_run.runs).run(shown_run.run_id)
    read = {t.name: shown_run.tables.read(t) for t in (tables.PROMPTS, tables.CANDIDATES, tables.SCORES)}
    matrix, norm = read_matrix(source_of(read, training_only=True), METRICS), read_norm(shown_run.tables)
    settings = shown_run.settings.pairs
    for strategy in ("modality", "average", "strict"):
        wanted = settings.model_copy(update={"strategy": strategy})
        by_prompt = {row["prompt_id"]: row for row in select_pairs(matrix, wanted, norm).pairs.to_pylist()}
        for prompt in ("p000", "p003"):
            label = f"{strategy}-micro"
            choices = [choice for choice in choices_of(opened, prompt) if choice.strategy.startswith(label)]
            row = by_prompt.get(prompt)
            expected = (row["chosen"], row["rejected"]) if row else ("", "")
            assert (choices[0].chosen, choices[0].rejected) == expected


def test_held_out_prompts_lead_to_both_clips(client: TestClient, shown_run: RunFolder) -> None:
    text = client.get(f"/run/{shown_run.run_id}/table/held-out").text
    links = re.findall(r'href="(/run/[^"]*/compare[^"]*)"', text)
    assert len(links) == 4
    answer = client.get(links[0].replace("&amp;", "&"))
    assert answer.status_code == 200 and "reference" in answer.text and "policy" in answer.text
    media = re.findall(r'src="([^"]+/picture)"', answer.text)
    assert [client.get(path).status_code for path in media] == [200, 200]


@pytest.mark.parametrize(
    "path",
    [
        "/run/nothing",
        "/run/..%2f..%2fetc",
        "/run/{run}/pair/x0",
        "/run/{run}/clip/c0/media",
        "/run/{run}/clip/..%2f..%2frun.json/media",
        "/run/{run}/compare?first=c0&second=c1",
        "/static/../application.py",
        "/static/%2e%2e/application.py",
    ],
)
def test_what_does_not_exist_is_an_error_and_no_file(client: TestClient, shown_run: RunFolder, path: str) -> None:
    answer = client.get(path.format(run=shown_run.run_id))
    assert answer.status_code == 404
    assert "schema_version" not in answer.text and "Starlette(" not in answer.text


def test_an_unfinished_run_says_what_is_missing(own_run: RunFolder, client_of: ClientOf) -> None:
    for table in (tables.PAIRS, tables.NORMS, tables.EVALUATIONS, tables.CLIP_FACTS):
        (own_run.root / "tables" / table.name / "CURRENT").unlink()
    write_progress(own_run, "pair", "running")
    client, base = client_of(own_run.runs), f"/run/{own_run.run_id}"
    text = client.get(base).text
    assert "not finished" in text and "stopped" in text and "avpref runs resume" in text
    assert re.search(r"pairs</th><td>not made yet", text)
    assert "has not finished" in client.get(f"{base}/table/pairs").text
    assert client.get(f"{base}/leaderboard").status_code == 200
    candidate = own_run.tables.read(tables.CANDIDATES)["candidate_id"][0].as_py()
    assert client.get(f"{base}/clip/{candidate}").status_code == 200


def test_a_running_run_shows_tables_as_they_are_sealed(
    own_run: RunFolder, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avpref.explorer.opened_runs.LOOK_S", 0.0)
    current = own_run.root / "tables" / "pairs" / "CURRENT"
    version = current.read_text()
    current.unlink()
    client, path = client_of(own_run.runs), f"/run/{own_run.run_id}/table/pairs"
    with owned(own_run.root):
        assert "in use" in client.get(f"/run/{own_run.run_id}").text
        assert "has not finished" in client.get(path).text
        current.write_text(version)
        assert "margin_total" in client.get(path).text
    assert len(list((own_run.runs / ".explorer" / own_run.run_id).glob("tables-*"))) == 1


def test_rounds_lead_to_their_runs(own_run: RunFolder, client_of: ClientOf) -> None:
    numbers = {"update_norm": 0.1, "candidates": 8, "from_sft": 0, "pairs": 2, "earlier_pairs": 0, "pair_yield": 1.0}
    row = {"round": 2, "run_id": "tiny-s0-r2", "verdict": "promote", "gains": {"sync": 0.25}, "drift": None, **numbers}
    own_run.documents.write("result.json", {"rounds": [row | {"diversity": None}]})
    text = client_of(own_run.runs).get(f"/run/{own_run.run_id}").text
    assert 'href="/run/tiny-s0-r2"' in text and "sync +0.25" in text


def test_a_changed_table_is_not_shown_and_named(own_run: RunFolder, client_of: ClientOf) -> None:
    manifest = own_run.tables.current("scores")
    assert manifest is not None
    path = own_run.root / "tables" / own_run.tables.store.names(manifest)[0]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    text = client_of(own_run.runs).get(f"/run/{own_run.run_id}/table/pairs").text
    assert "Table <code>scores</code> cannot be shown" in text and "sha-256" in text


def test_a_database_that_cannot_be_written_is_an_error_with_a_way_out(
    own_run: RunFolder, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(con: object) -> list[str]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("avpref.explorer.run_database.wide_tables", full)
    answer = client_of(own_run.runs).get(f"/run/{own_run.run_id}")
    assert answer.status_code == 500 and "No space left" in answer.text and "Fix:" in answer.text
    assert not list((own_run.runs / ".explorer" / own_run.run_id).iterdir())


def test_a_vanished_clip_is_an_error_of_its_own(own_run: RunFolder, client_of: ClientOf) -> None:
    candidate = own_run.tables.read(tables.CANDIDATES).slice(0, 1).to_pylist()[0]
    (own_run.root / candidate["path"]).unlink()
    client, base = client_of(own_run.runs), f"/run/{own_run.run_id}/clip/{candidate['candidate_id']}"
    assert client.get(base).status_code == 200
    for name in ("media", "thumbnail", "sound", "curves"):
        answer = client.get(f"{base}/{name}")
        assert answer.status_code == 404 and "is missing" in answer.text


def test_the_explorer_changes_nothing_in_the_run(own_run: RunFolder, client_of: ClientOf) -> None:
    before = {path: path.stat().st_mtime_ns for path in own_run.root.rglob("*")}
    client = client_of(own_run.runs)
    for path in PAGES:
        client.get(f"/run/{own_run.run_id}{path}")
    pair = first_pair(own_run)
    for name in ("thumbnail", "spectrogram", "sound", "curves"):
        assert client.get(f"/run/{own_run.run_id}/clip/{pair['chosen']}/{name}").status_code == 200
    assert {path: path.stat().st_mtime_ns for path in own_run.root.rglob("*")} == before
