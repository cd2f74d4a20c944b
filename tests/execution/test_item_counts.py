"""What stages say of their work."""

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
         "score: 3 scores made (1 given up), 4 were here, 1 taken over from a, 2 taken over from b", True),
        (ItemCounts("train", "adapters", reused={"a": 1}), "train: 0 adapters made, 1 taken over from a", True),
    ],
)  # fmt: skip
def test_a_sentence_says_what_was_done_or_that_there_was_nothing_to_do(
    counts: ItemCounts, sentence: str, is_change: bool
) -> None:
    assert (counts.sentence, counts.is_change) == (sentence, is_change)


def test_counts_are_logged_and_told_to_the_person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = ItemCounts("score", "scores", 2, 1, {"a": 3})
    assert log_counts(EventLog(tmp_path / "events.jsonl"), counts) is counts
    (event,) = (json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines())
    assert (event["event"], event["stage"], event["made"], event["reused"]) == ("stage_items", "score", 2, {"a": 3})
    assert capsys.readouterr().err.splitlines() == [counts.sentence]


def test_a_stage_owns_the_counts_of_its_passes_and_not_those_of_other_work() -> None:
    texts, own, one_pass = (ItemCounts(name, "items", 1) for name in ("texts", "score", "score-imagebind"))
    assert StageCounts(3, (texts, own, one_pass)).of("score") == (own, one_pass)
    assert StageCounts(1, (ItemCounts("scores", "items"),)).of("score") == ()
