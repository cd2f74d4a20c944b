"""Stage ``score``: the pooling of scorers changes no score, a new scorer adds only its own work, each lost clip is counted once."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from avpref.config.executor_settings import InProcessExecutor, RayExecutor
from avpref.config.run_settings import RunSettings
from avpref.config.schema import ScoreJob
from avpref.config.scoring_settings import ScoringSettings
from avpref.datasets import tables
from avpref.domain import ScoreStatus
from avpref.errors import ConfigError, InputError
from avpref.flows.score_clips import score_clip_list
from avpref.flows.workers.canary import canary_clip
from avpref.flows.workers.committed_clips import CommittedClip
from avpref.flows.workers.score_worker import ScoreItem, ScoreWorker
from avpref.flows.workers.scorers import named, open_named, sources
from avpref.media.writing import encode_clip
from avpref.storage.local_files import LocalFiles

MODELS: tuple[str, ...] = ("audiobox", "imagebind", "synchformer", "videoalign")
NUM_CLIPS = 3


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of three clips of different sizes and rates, and a file that is not a clip."""
    folder = tmp_path_factory.mktemp("clips")
    for number, (height, width, fps_hz) in enumerate(((96, 128, 25.0), (128, 96, 16.0), (96, 96, 12.0))):
        clip = canary_clip().clip
        assert clip.frames is not None and clip.audio is not None
        frames = np.roll(np.tile(clip.frames, (2, 2, 2, 1)), 7 * number, axis=2)[:, :height, :width]
        audio = np.tile(clip.audio, 6)[: round(len(frames) / fps_hz * clip.sample_rate_hz)]
        (folder / f"{number}.mp4").write_bytes(encode_clip(frames, fps_hz, audio, clip.sample_rate_hz))
    (folder / "broken.mp4").write_bytes(b"no media at all")
    names = ["0.mp4", "broken.mp4", "1.mp4", "2.mp4"]
    with open(folder / "clips.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("file", "text"), *((name, f"what {name} shows") for name in names)])
    return folder / "clips.csv"


def job(*scorers: str, executor: InProcessExecutor | RayExecutor | None = None, unit: int = 2) -> ScoreJob:
    scoring = ScoringSettings(scorers=scorers or MODELS, preset="tiny")
    return ScoreJob(
        run=RunSettings(name="t", unit_candidates=unit), executor=executor or InProcessExecutor(), scoring=scoring
    )


def frame(root: Path, clips: Path, score_job: ScoreJob) -> pd.DataFrame:
    """Scores without the columns of times."""
    folder, _ = score_clip_list(clips, score_job, root)
    return folder.tables.read(tables.SCORES).to_pandas().drop(columns=["elapsed_ms", "gpu_s"])


@pytest.fixture(scope="module")
def together(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return frame(tmp_path_factory.mktemp("together"), clips, job())


def test_every_readable_clip_gets_every_metric_or_a_reason(together: pd.DataFrame) -> None:
    metrics = [metric.name for source in sources(job().scoring) for metric in source.metrics]
    assert together.groupby("candidate_id").metric.apply(list).map(sorted).tolist() == [sorted(metrics)] * NUM_CLIPS
    is_ok = together.status == ScoreStatus.OK
    assert is_ok.mean() > 0.9 and together[is_ok].value.notna().all()
    assert together[~is_ok].value.isna().all() and (together[~is_ok].reason != "").all()


def test_random_weights_are_marked_in_every_row(together: pd.DataFrame) -> None:
    assert not together.is_meaningful.any() and together.scorer.str.contains("tiny").all()


@pytest.mark.parametrize(
    "executor",
    [
        InProcessExecutor(scoring="waves"),
        pytest.param(RayExecutor(num_actors=2), marks=pytest.mark.slow),
        pytest.param(RayExecutor(scoring="waves"), marks=pytest.mark.slow),
        pytest.param(RayExecutor(scoring="pools"), marks=pytest.mark.slow),
    ],
    ids=lambda executor: f"{executor.kind}-{executor.scoring}",
)
def test_pooling_changes_no_row(
    executor: InProcessExecutor | RayExecutor,
    together: pd.DataFrame,
    clips: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    if isinstance(executor, RayExecutor):
        request.getfixturevalue("ray_cluster")
    pd.testing.assert_frame_equal(frame(tmp_path, clips, job(executor=executor)), together, check_exact=True)


def test_units_of_another_size_change_no_number(together: pd.DataFrame, clips: Path, tmp_path: Path) -> None:
    scores = frame(tmp_path, clips, job(unit=1))
    pd.testing.assert_frame_equal(scores, together, atol=1e-5, rtol=1e-5)


def test_a_file_that_cannot_be_opened_is_quarantined_once_with_its_reason(clips: Path, tmp_path: Path) -> None:
    folder, lost = score_clip_list(clips, job("audiobox", "synchformer"), tmp_path)
    assert len(lost) == 1 and "broken.mp4" in lost[0].candidate_id and lost[0].message
    assert folder.tables.read(tables.QUARANTINE).num_rows == 1


def test_a_clip_that_cannot_be_read_is_quarantined_once_and_the_others_are_scored(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = ScoreWorker._committed

    def poisoned(self: ScoreWorker, item: ScoreItem) -> CommittedClip:
        clip = committed(self, item)
        return CommittedClip(io.BytesIO(b"no media at all"), clip.name) if clip.name == "1.mp4" else clip

    monkeypatch.setattr(ScoreWorker, "_committed", poisoned)
    folder, lost = score_clip_list(clips, job("audiobox", "synchformer"), tmp_path)
    assert sorted(row.error for row in lost) == ["MediaError", "MediaError"]
    assert folder.tables.read(tables.SCORES).to_pandas().candidate_id.nunique() == NUM_CLIPS - 1


def test_the_same_command_again_scores_nothing(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = frame(tmp_path, clips, job())
    monkeypatch.setattr(ScoreWorker, "run", lambda *_: pytest.fail("scored again"))
    pd.testing.assert_frame_equal(frame(tmp_path, clips, job()), first)


def test_a_new_scorer_adds_its_own_work_alone(tiny_run: object, tmp_path: Path) -> None:
    """Units are named by scorer: what one scorer committed is found by a stage that has another beside it."""
    from avpref.storage.score_files import ScoreFiles
    from avpref.storage.unit_files import UnitFiles

    files = UnitFiles(LocalFiles(tmp_path), tables.SCORES)
    from avpref.storage.unit import Unit

    unit: Unit[ScoreItem] = Unit("score", 0, "plan", ())
    ScoreFiles(files, ("a",)).commit(unit, [])
    both = ScoreFiles(files, ("a", "b"))
    assert not both.exists(unit) and [files.exists(part) for part in both.parts(unit)] == [True, False]
    both.commit(unit, [])
    assert both.exists(unit)


def test_embeddings_are_kept_on_request_and_give_the_scores(clips: Path, tmp_path: Path) -> None:
    scoring = job("imagebind").scoring
    imagebind = scoring.imagebind.model_copy(update={"store_embeddings": True})
    folder, _ = score_clip_list(
        clips,
        job("imagebind").model_copy(update={"scoring": scoring.model_copy(update={"imagebind": imagebind})}),
        tmp_path,
    )
    kept = {
        name: tensor
        for path in folder.root.glob("embeddings/*/*.safetensors")
        for name, tensor in load_file(path).items()
    }
    scores = folder.tables.read(tables.SCORES).to_pandas()
    agreement = scores[scores.metric == "audio_video"]
    assert len(agreement) == NUM_CLIPS and len(kept) == 3 * NUM_CLIPS
    for row in agreement.itertuples():
        audio, video = kept[f"{row.candidate_id}.audio"], kept[f"{row.candidate_id}.video"]
        cosine = torch.nn.functional.cosine_similarity(audio.double(), video.double(), dim=0).item()
        assert cosine == pytest.approx(row.value, abs=1e-6)
    frame(tmp_path / "plain", clips, job("imagebind"))
    assert not list((tmp_path / "plain").rglob("*.safetensors"))


def test_an_actor_whose_canary_drifts_scores_nothing(clips: Path, tmp_path: Path) -> None:
    score_clip_list(clips, job("audiobox"), tmp_path)
    (canary,) = (tmp_path / "canaries").glob("*.json")
    known = json.loads(canary.read_text(encoding="utf-8"))
    assert known and all(np.isfinite(value) for value in known.values())
    name = sorted(known)[0]
    canary.write_text(json.dumps({**known, name: known[name] + 0.1}), encoding="utf-8")
    done = [path for path in tmp_path.iterdir() if (path / "units").exists()]
    for path in done:  # so that its scores are not reused
        shutil.rmtree(path)
    with pytest.raises(InputError) as caught:
        score_clip_list(clips, job("audiobox"), tmp_path)
    assert name in caught.value.found and str(canary) in caught.value.expected
    canary.write_text(json.dumps({**known, name: known[name] * (1 + 1e-6)}), encoding="utf-8")
    score_clip_list(clips, job("audiobox"), tmp_path)


def test_the_toy_scorers_are_refused_for_recordings(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="toy"):
        score_clip_list(clips, job("toy"), tmp_path)


def test_a_list_without_a_readable_clip_is_one_error(clips: Path, tmp_path: Path) -> None:
    bad = clips.with_name("bad.csv")
    bad.write_text("file,text\nbroken.mp4,x\nabsent.mp4,y\n", encoding="utf-8")
    with pytest.raises(InputError, match="no clip can be opened"):
        score_clip_list(bad, job("audiobox"), tmp_path)


def test_absent_weights_are_one_error_with_the_command(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AVPREF_WEIGHTS", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(InputError) as caught:
        score_clip_list(clips, ScoreJob(scoring=ScoringSettings(scorers=("audiobox",))), tmp_path)
    assert "avpref weights fetch audiobox" in caught.value.fix


def test_names_open_scorers() -> None:
    assert [type(scorer).__name__ for scorer in open_named(["signal"])] == ["SignalScorer"]
    assert named("tiny").preset == "tiny" and named("tiny").scorers == MODELS
    with pytest.raises(ConfigError, match="no scorer noise"):
        open_named(["signal", "noise"])
