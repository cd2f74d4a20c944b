"""Scorers from outside in the stage ``score``: the one of the guide works, and each way of failing harms nothing else."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from outside_modules import FAULTY, guide_scorer, write_module

from avpref.config.executor_settings import InProcessExecutor, RayExecutor
from avpref.config.run_settings import RunSettings
from avpref.config.schema import ScoreJob
from avpref.config.scoring_settings import ScoringSettings
from avpref.datasets import tables
from avpref.datasets.rows import QuarantineRow
from avpref.errors import ConfigError, InputError
from avpref.flows.score_clips import score_clip_list
from avpref.flows.workers.scorers import sources
from avpref.media.writing import encode_clip

TEXTS = ("a cat", "a dog", "two horses", "an owl at night")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of four short clips of noise of different strength."""
    folder, random = tmp_path_factory.mktemp("clips"), np.random.default_rng(5)
    for index in range(len(TEXTS)):
        frames = random.integers(100 - 20 * index, 110 + 20 * index, (10, 48, 64, 3)).astype(np.uint8)
        audio = (0.1 * random.standard_normal(16000)).astype(np.float32)
        (folder / f"{index}.mp4").write_bytes(encode_clip(frames, 10.0, audio, 16000))
    rows = [("file", "text"), *((f"{index}.mp4", text) for index, text in enumerate(TEXTS))]
    with open(folder / "clips.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)
    return folder / "clips.csv"


def job(*scorers: Any, executor: InProcessExecutor | RayExecutor | None = None) -> ScoreJob:
    run, scoring = RunSettings(name="t", unit_candidates=3), ScoringSettings(scorers=scorers)
    return ScoreJob(run=run, scoring=scoring, executor=executor or InProcessExecutor())


def scored(clips: Path, root: Path, score_job: ScoreJob) -> tuple[pd.DataFrame, list[QuarantineRow]]:
    """Scores by clip and metric, and what was lost."""
    folder, lost = score_clip_list(clips, score_job, root)
    rows = folder.tables.read(tables.SCORES).to_pandas()
    texts = folder.tables.read(tables.PROMPTS).to_pandas().set_index("prompt_id").text
    prompt = folder.tables.read(tables.CANDIDATES).to_pandas().set_index("candidate_id").prompt_id
    rows["text"] = rows.candidate_id.map(prompt).map(texts)
    return rows.pivot(index="text", columns="metric", values="value"), lost


def faulty(fault: str, **settings: str) -> dict[str, Any]:
    return {"use": "faulty:Faulty", "settings": {"fault": fault, **settings}}


def test_the_scorer_of_the_guide_scores_clips_beside_built_in_ones(clips: Path, workplace: Path) -> None:
    write_module(workplace, "sharpness", guide_scorer())
    both, lost = scored(clips, workplace / "runs", job("signal", "sharpness:Sharpness"))
    assert not lost and both.notna().sharpness.all() and both.visual_quality.notna().all()
    assert both.sharpness[list(TEXTS)].is_monotonic_increasing
    coarse, _ = scored(clips, workplace / "runs", job({"use": "sharpness:Sharpness", "settings": {"num_frames": 1}}))
    assert (coarse.sharpness != both.sharpness).all()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raises", "RuntimeError: the sound card is on fire"),
        ("too few lists", "returned 0 lists of scores for 1 clip"),
        ("too few scores", "returned 0 scores (none), expected 1 (volume)"),
        ("nan", "volume = nan, expected a finite number"),
        ("text", "volume = 'loud', expected a number"),
        ("numbers", "returned float, not avpref.domain.Score"),
        ("other clip", "volume: the score is of clip somebody"),
        ("reason", "volume: no answer in 3 s"),
    ],
)
def test_a_wrong_answer_loses_one_clip_of_one_scorer(clips: Path, workplace: Path, fault: str, reason: str) -> None:
    write_module(workplace, "faulty", FAULTY)
    scores, lost = scored(clips, workplace / "runs", job("signal", faulty(fault)))
    assert [(row.stage, row.attempts) for row in lost] == [("score", 1)]
    assert lost[0].message.startswith("faulty: ") and reason in lost[0].message
    assert scores.visual_quality.notna().all()
    assert scores.volume.dropna().to_dict() == {text: len(text) for text in TEXTS if text != "a dog"}


def test_a_scorer_that_always_fails_gives_a_row_per_clip(clips: Path, workplace: Path) -> None:
    write_module(workplace, "faulty", FAULTY.replace("class Faulty:", "class Faulty:\n    has_canary = False"))
    scores, lost = scored(clips, workplace / "runs", job("signal", faulty("raises", text="")))
    assert len(lost) == len(TEXTS) and scores.visual_quality.notna().all()


def test_a_scorer_that_fails_on_the_canary_clip_is_one_error(clips: Path, workplace: Path) -> None:
    write_module(workplace, "faulty", FAULTY)
    with pytest.raises(InputError, match="faulty fails on the canary clip: BadScores: returned 0 lists"):
        scored(clips, workplace / "runs", job(faulty("too few lists", text="")))


def test_two_scorers_of_one_metric_are_one_error(workplace: Path) -> None:
    write_module(workplace, "faulty", FAULTY)
    with pytest.raises(ConfigError, match="scorers signalscorer and faulty both give the metric audio_quality"):
        sources(job("signal", faulty("", metric="audio_quality")).scoring)


def test_scores_are_reused_until_the_source_changes(
    clips: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from avpref.flows.workers.class_scoring import ClassScoring

    write_module(workplace, "sharpness", guide_scorer())
    entry = {"use": "sharpness:Sharpness", "settings": {"step_px": 2}}
    first, _ = scored(clips, workplace / "runs", job(entry))
    with monkeypatch.context() as patch:
        patch.setattr(ClassScoring, "add", lambda *_: pytest.fail("scored again"))
        again, _ = scored(clips, workplace / "runs", job("fake", entry))
        pd.testing.assert_series_equal(again.sharpness, first.sharpness)
    before = sources(job(entry).scoring)[0].fingerprint
    write_module(workplace, "doubled", guide_scorer().replace("/ 2", "/ 1"))
    later = sources(job({**entry, "use": "doubled:Sharpness"}).scoring)[0].fingerprint
    assert later != before


@pytest.mark.parametrize("scoring", ["together", pytest.param("pools", marks=pytest.mark.slow)])
def test_ray_gives_the_same_and_survives_scorers_that_hang_or_crash(
    clips: Path, workplace: Path, ray_cluster: int, scoring: Any
) -> None:
    write_module(workplace, "sharpness", guide_scorer())
    write_module(workplace, "faulty", FAULTY.replace("class Faulty:", "class Faulty:\n    has_canary = False"))
    entries = ("fake", "sharpness:Sharpness")
    expected, _ = scored(clips, workplace / "here", job(*entries))
    executor = RayExecutor(num_actors=1, scoring=scoring, unit_timeout_s=4.0)
    crash = {**faulty("crashes", metric="crash"), "name": "crashing"}
    scores, lost = scored(clips, workplace / "there", job(*entries, faulty("hangs"), crash, executor=executor))
    pd.testing.assert_frame_equal(scores[expected.columns], expected)
    assert sorted(row.error for row in lost) == ["ActorDied", "TimedOut"]
    for metric in ("volume", "crash"):
        assert scores[metric].dropna().to_dict() == {text: len(text) for text in TEXTS if text != "a dog"}
