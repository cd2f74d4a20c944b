"""What stages say of their work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avpref.execution.item_counts import Tally, collected, record
from avpref.storage.event_log import EventLog


@pytest.mark.parametrize(
    ("tally", "sentence", "is_change"),
    [
        (Tally("generate", "candidates", present=84), "generate: 84 of 84 candidates present", False),
        (Tally("sft", "networks", present=1, because="given"), "sft: 1 of 1 network present (given)", False),
        (Tally("score", "scores", 3, 4, {"b": 2, "a": 1}, 1),
         "score: 3 scores made (1 given up), 4 were here, 1 taken over from a, 2 taken over from b", True),
        (Tally("train", "adapters", reused={"a": 1}), "train: 0 adapters made, 1 taken over from a", True),
    ],
)  # fmt: skip
def test_a_sentence_says_what_was_done_or_that_there_was_nothing_to_do(
    tally: Tally, sentence: str, is_change: bool
) -> None:
    assert (tally.sentence, tally.is_change) == (sentence, is_change)


def test_what_is_recorded_is_said_logged_and_collected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events, tally = EventLog(tmp_path / "events.jsonl"), Tally("score", "scores", 2, 1, {"a": 3})
    with collected() as outer:
        with collected() as inner:
            record(events, tally)
        assert (outer, inner) == ([], [tally])
    record(events, tally)
    (event, _) = (json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines())
    assert (event["event"], event["stage"], event["made"], event["reused"]) == ("stage_items", "score", 2, {"a": 3})
    assert capsys.readouterr().err.splitlines() == [tally.sentence] * 2
