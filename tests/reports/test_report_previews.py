"""Previews on the report's page: before and now of every prompt, as far as the page has room."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

from avpref.flows.run import Run
from avpref.flows.stages.alignment.collected_previews import collect_previews
from avpref.flows.stages.collect_report import collect
from avpref.reports.figures import figures
from avpref.reports.report_clips import MAX_MEDIA_BYTES, MediaBudget, preview_cards
from avpref.reports.report_data import PreviewPair
from avpref.reports.report_page import render
from avpref.storage.run_folder import RunFolder


def test_the_first_and_the_last_preview_of_a_prompt_are_collected(tmp_path: Path) -> None:
    assert list(collect_previews(tmp_path, ["a"])) == []
    for step, names in ((0, "ab"), (50, "ab"), (120, "a")):
        folder = tmp_path / "previews" / f"step_{step:08d}"
        folder.mkdir(parents=True)
        for name in names:
            (folder / f"{name}.mp4").write_bytes(f"{name}{step}".encode())
    assert list(collect_previews(tmp_path, ["b", "a"])) == [PreviewPair("a", 0, 120, b"a0", b"a120")]


def test_the_page_plays_previews(tiny_run: RunFolder) -> None:
    data = collect(Run.of(tiny_run))
    assert data.previews == () and b"Previews" not in render(data, figures(data))
    prompt = next(iter(data.texts))
    shown = replace(data, previews=(PreviewPair(prompt, 0, 6, b"before", b"now"),))
    page = render(shown, figures(shown)).decode()
    assert "<h3>Previews</h3>" in page and "Before the first step" in page and "After step 6" in page
    for clip in (b"before", b"now"):
        assert base64.b64encode(clip).decode() in page
    large = replace(data, previews=(PreviewPair(prompt, 0, 6, bytes(MAX_MEDIA_BYTES), b"x"),))
    assert preview_cards(large, MediaBudget(data.media)) == []
