"""A study in a real browser: two annotators at once, a server that is killed between, and no vote lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from explorer_server import serving
from shown_runs import ShownRun, make_shown_run

from avpref.datasets.rows import EvaluationSide
from avpref.datasets.votes.ballots import counting
from avpref.datasets.votes.studies import StudyOptions
from avpref.registry.study_files import StudyFiles
from avpref.registry.study_planning import Model, plan_models
from avpref.storage.run_folder import RunFolder

pytestmark = pytest.mark.browser

PLAYER = "document.querySelector('[data-player]').player"


@pytest.fixture
def study_run(tmp_path: Path) -> tuple[RunFolder, str]:
    """A run with short clips and a study of its models for two annotators."""
    folder = make_shown_run(tmp_path, ShownRun(train=1, held_out=3, num_frames=12, fps_hz=12.0))
    sides = [Model(folder, side) for side in (EvaluationSide.REFERENCE, EvaluationSide.POLICY)]
    study = plan_models(sides[0], sides[1], StudyOptions(2, 2, 1), None)
    StudyFiles(folder.files).plan(study)
    return folder, study.study_id


def join(watched: Any, path: str, name: str) -> None:
    watched.open(path)
    watched.page.keyboard.type(name)
    watched.page.keyboard.press("Enter")
    watched.page.wait_for_url(f"**{path}/*")
    watched.page.wait_for_load_state("networkidle")


def fill(page: Any, answers: str) -> None:
    """Play both sides and answer, by keys alone."""
    assert page.locator("#send").is_disabled()
    for side in ("a", "b"):
        page.keyboard.press(side)
        page.keyboard.press(" ")
        page.get_by_role("button", name="Pause").wait_for()
        page.get_by_role("button", name="Play").wait_for()
    for key in answers:
        page.keyboard.press(key)
    page.locator("#send:enabled").wait_for()


def vote(page: Any, answers: str) -> None:
    fill(page, answers)
    before = page.locator("header progress").get_attribute("value")
    page.keyboard.press("Enter")
    page.locator(f"header progress:not([value='{before}']), h1:has-text('Thank you')").first.wait_for()
    page.wait_for_load_state("networkidle")


def test_two_people_vote_and_a_kill_loses_nothing(
    open_page: Callable[..., Any], study_run: tuple[RunFolder, str], images: Path
) -> None:
    folder, study_id = study_run
    files, path = StudyFiles(folder.files), f"/vote/{folder.run_id}/{study_id}"
    with serving(folder) as server:
        ada, bo = open_page(server.base), open_page(server.base, 380, "dark", has_touch=True)
        join(ada, path, "Ada")
        join(bo, path, "Bo")
        ada.page.screenshot(path=images / "explorer-vote-1440-light.png")
        bo.page.screenshot(path=images / "explorer-vote-380-dark.png")
        assert bo.page.evaluate("document.documentElement.scrollWidth") <= 380
        text = ada.page.content()
        assert "policy" not in text and "reference" not in text and "/clip/" not in text
        vote(ada.page, "33123")
        vote(bo.page, "11111")
        fill(ada.page, "22222")
        server.kill()
        ada.page.keyboard.press("Enter")
        ada.page.get_by_text("Not saved").wait_for()
        assert len(counting(files.votes(study_id))) == 2
        server.start()
        ada.page.keyboard.press("Enter")
        ada.page.locator("header progress[value='2']").wait_for()
        bo.open(f"{path}/1")
        vote(bo.page, "22222")
        votes = counting(files.votes(study_id))
        assert sorted(votes) == [(0, 0), (0, 1), (1, 0), (1, 1)]
        assert list(votes[0, 0].answers.values()) == ["right", "right", "left", "tie", "right"]
        ada.page.keyboard.press("u")
        ada.page.wait_for_url("**position=1**")
        ada.page.wait_for_load_state("networkidle")
        assert ada.page.locator("input:checked").count() == 5, "the answers of before are shown"
        for _aspect in range(5):
            ada.page.keyboard.press("ArrowUp")
        fill(ada.page, "11111")
        ada.page.keyboard.press("Enter")
        ada.page.wait_for_url(f"**{path}/0")
        changed = counting(files.votes(study_id))[0, 1]
        assert set(changed.answers.values()) == {"left"} and changed.revision == 1
        assert len(files.votes(study_id)) == 5, "the former vote is kept"
        own = [text for text in (*ada.problems, *bo.problems) if "ERR_CONNECTION_REFUSED" not in text]
        assert own == []


def test_the_end_of_a_queue_says_thanks(open_page: Callable[..., Any], study_run: tuple[RunFolder, str]) -> None:
    folder, study_id = study_run
    with serving(folder) as server:
        watched = open_page(server.base)
        join(watched, f"/vote/{folder.run_id}/{study_id}", "Cy")
        num = int(watched.page.locator("header progress").get_attribute("max"))
        for _ in range(num):
            vote(watched.page, "22222")
        assert "Thank you" in watched.page.locator("h1").inner_text()
        watched.open(f"/run/{folder.run_id}/study/{study_id}")
        assert "Cy" in watched.page.content() and watched.problems == []
