"""The base of the scorers with a network: memory that runs out, reasons, and measurements that scorers share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pytest
import torch

from avpref.domain import METRIC_BY_NAME, OWN_TERMS, Metric, ScoreStatus, Terms
from avpref.media.reading import DecodedClip
from avpref.rewards import model_scorer
from avpref.rewards.model_scorer import ModelScorer, NotScorable, Placement
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.validity import Flag, ValidityRules


class Loudness(ModelScorer[float]):
    """Scores are the mean level; more than ``room`` clips at once are too many for its memory."""

    def __init__(self, room: int, batch_clips: int = 8) -> None:
        self.room, self.batch_clips = room, batch_clips
        self.batches: list[int] = []

    metrics: tuple[Metric, ...] = (METRIC_BY_NAME["audio_quality"], METRIC_BY_NAME["text_audio"])
    text_metrics = frozenset({"text_audio"})
    fingerprint = "loudness"
    terms: Terms = OWN_TERMS

    @property
    def placement(self) -> Placement:
        return Placement(batch_clips=self.batch_clips)

    def inputs(self, clip: ScorableClip, metrics: Collection[str]) -> float:
        assert clip.clip.audio is not None
        level = float(np.abs(clip.clip.audio).mean())
        if level > 0.5:
            raise NotScorable("too loud for this network")
        return level

    def measure(self, batch: Sequence[float]) -> list[Mapping[str, float]]:
        self.batches.append(len(batch))
        if len(batch) > self.room:
            raise torch.OutOfMemoryError("no room")
        return [{"audio_quality": level, "text_audio": -level} for level in batch]


def clip(name: str, level: float, text: str = "a tone") -> ScorableClip:
    frames = np.random.default_rng(0).integers(0, 255, (8, 8, 8, 3)).astype(np.uint8)
    audio = np.full(16000, level, np.float32)
    return ScorableClip(name, text, DecodedClip(frames, 8.0, audio, 16000, 1.0))


LEVELS = [0.01 * (index + 1) for index in range(11)]


@pytest.mark.parametrize("room", [1, 2, 3, 5, 8])
def test_batches_halve_where_memory_runs_out_and_every_clip_is_measured_once(room: int) -> None:
    scorer = Loudness(room)
    rows = scorer.score([clip(f"c{index}", level) for index, level in enumerate(LEVELS)])
    assert [row[0].value for row in rows] == pytest.approx(LEVELS, rel=1e-6)
    done = [size for size in scorer.batches if size <= room]
    assert sum(done) == len(LEVELS) and max(done) <= room
    assert len(scorer.batches) - len(done) <= 3  # 8, 4, 2: what did not fit is not tried again


def test_one_clip_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        Loudness(room=0).score([clip("c", 0.1)])


def test_reasons_of_rules_text_and_network() -> None:
    rows = Loudness(8).score([clip("a", 0.0), clip("b", 0.1, text="  "), clip("c", 0.9), clip("d", 0.2)])
    reasons = [[score.reason for score in row] for row in rows]
    assert reasons == [["silent"] * 2, ["", "empty text"], ["too loud for this network"] * 2, ["", ""]]
    assert [[score.status == ScoreStatus.OK for score in row] for row in rows] == [
        [False, False],
        [True, False],
        [False, False],
        [True, True],
    ]


def test_picture_flags_are_computed_once_for_all_scorers(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = model_scorer.picture_flags

    def counted(read: DecodedClip, rules: ValidityRules) -> frozenset[Flag]:
        calls.append(1)
        return real(read, rules)

    monkeypatch.setattr(model_scorer, "picture_flags", counted)
    shared = clip("c", 0.1)
    for scorer in (Loudness(8), Loudness(8), Loudness(8)):
        scorer.prepare(shared)
    assert len(calls) == 1
    Loudness(8).prepare(clip("d", 0.1))
    assert len(calls) == 2
