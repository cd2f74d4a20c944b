"""Counts of items as sentences, events and sums of a stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avpref.execution.item_counts import ItemCounts, StageCounts, log_counts
from avpref.storage.event_log import EventLog


@pytest.mark.parametrize(
    ("counts", "sentence", "is_change"),
    [
        (ItemCounts("generate", "candidates", present=84), "generate: 84 of 84 candidates present", False),
        (ItemCounts("sft", "networks", present=1, because="given"), "sft: 1 of 1 network present (given)", False),
        (ItemCounts("score", "scores", 3, 4, {"b": 2, "a": 1}, 1),
         "score: 3 scores made (1 quarantined), 4 present, 1 reused from a, 2 reused from b", True),
        (ItemCounts("train", "adapters", reused={"a": 1}), "train: 0 adapters made, 1 reused from a", True),
    ],
)  # fmt: skip
def test_the_sentence_has_the_counts_or_says_that_everything_was_present(
    counts: ItemCounts, sentence: str, is_change: bool
) -> None:
    assert (counts.sentence, counts.is_change) == (sentence, is_change)


def test_counts_are_logged_and_written_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = ItemCounts("score", "scores", 2, 1, {"a": 3})
    assert log_counts(EventLog(tmp_path / "events.jsonl"), counts) is counts
    (event,) = (json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines())
    assert (event["event"], event["stage"], event["made"], event["reused"]) == ("stage_items", "score", 2, {"a": 3})
    assert capsys.readouterr().err.splitlines() == [counts.sentence]


def test_counts_of_a_stage_include_its_passes_and_no_other_stages() -> None:
    texts, own, one_pass = (ItemCounts(name, "items", 1) for name in ("texts", "score", "score-imagebind"))
    assert StageCounts(3, (texts, own, one_pass)).of("score") == (own, one_pass)
    assert StageCounts(1, (ItemCounts("scores", "items"),)).of("score") == ()
