"""An explorer in a process of its own, and Chromium, driven by Playwright. Tests skip, with the reason, where either is absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from explorer_server import Server, serving
from planned_studies import votes_of
from shown_runs import ShownRun, make_shown_run

from avpref.datasets.rows import EvaluationSide
from avpref.datasets.votes.studies import StudyOptions
from avpref.registry.study_files import StudyFiles
from avpref.registry.study_planning import Model, plan_models
from avpref.storage.run_folder import RunFolder

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
PLAYED = ShownRun(train=3, held_out=2, num_frames=300, fps_hz=25.0)
"""Twelve seconds, so that drift can be measured over ten of them."""


@pytest.fixture(scope="session")
def played_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with a study in which one of two people has voted on everything."""
    folder = make_shown_run(tmp_path_factory.mktemp("played"), PLAYED)
    sides = [Model(folder, side) for side in (EvaluationSide.REFERENCE, EvaluationSide.POLICY)]
    study = plan_models(sides[0], sides[1], StudyOptions(2, 2, 1), None)
    files = StudyFiles(folder.files)
    files.plan(study)
    for name in ("Ada", "Bo"):
        place = files.join(study, name)
        votes = votes_of(study, place, lambda item, aspect: 1) if place == 0 else []
        for vote in votes:
            files.commit(study, replace(vote, heard_s=(12.0, 12.0)))
    return folder


@pytest.fixture(scope="session")
def server(played_run: RunFolder) -> Iterator[Server]:
    with serving(played_run) as running:
        yield running


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=SWITCHES)
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page of the browser, and everything that went wrong on it."""

    page: Any
    base: str
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda message: self._note(message.type in ("error", "warning"), message.text))
        self.page.on("pageerror", lambda error: self._note(True, str(error)))
        self.page.on("request", lambda request: self._note(not self._is_own(request.url), f"asks {request.url}"))
        self.page.on("response", lambda answer: self._note(answer.status >= 400, f"{answer.status} {answer.url}"))

    def _is_own(self, url: str) -> bool:
        return url.startswith((f"{self.base}/", "data:"))

    def _note(self, is_problem: bool, text: str) -> None:
        if is_problem:
            self.problems.append(text)

    def open(self, path: str) -> None:
        self.page.goto(self.base + path)
        self.page.wait_for_load_state("networkidle")


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Watched]]:
    """``open_page(base, width, scheme)`` is a new page that is watched."""
    contexts = []

    def make(base: str, width: int = 1440, scheme: str = "light", **options: Any) -> Watched:
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        contexts.append(context)
        return Watched(context.new_page(), base)

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The folder for screenshots: the one that AVPREF_SCREENSHOTS names, or one of this test."""
    return Path(os.environ.get("AVPREF_SCREENSHOTS", tmp_path))
