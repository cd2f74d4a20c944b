"""A whole run with reward models as scorers, in their tiny presets: random scores, so the gate refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from avpref.config.loading import load_config
from avpref.datasets import tables
from avpref.flows.retrain import run_loop
from avpref.storage.run_folder import RunFolder, create

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
MODELS = "audiobox,imagebind,synchformer,videoalign"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    overrides = [f"scoring.scorers={MODELS}", "scoring.preset=tiny", "evaluation.gate.min_audio_delta_sd=-9"]
    overrides += ["evaluation.gate.min_av_ci_low_sd=-9", "evaluation.gate.min_video_ci_low_sd=-9"]
    folder = create(tmp_path_factory.mktemp("models"), load_config(TINY, overrides, {}).settings)
    run_loop(folder)
    return folder


def test_the_seven_columns_are_filled_and_enter_rewards(run: RunFolder) -> None:
    norms = run.tables.read(tables.NORMS).to_pandas()
    assert set(norms.metric) == {
        *("visual_quality", "motion_quality", "text_video", "audio_quality", "text_audio", "audio_video", "desync")
    }
    scores = run.tables.read(tables.SCORES).to_pandas()
    assert {"audiobox_pq", "text_alignment", "desync_expected"} <= set(scores.metric)
    assert run.tables.num_rows(tables.PAIRS) > 0


def test_a_run_scored_with_random_weights_is_never_promoted(run: RunFolder) -> None:
    document = run.documents.read("result.json")
    assert document["gate"]["verdict"] == "refuse"
    assert len([reason for reason in document["gate"]["reasons"] if "mean nothing" in reason]) == len(MODELS.split(","))
    assert not (run.root / "promoted").exists()


def test_terms_are_in_the_result_and_the_report(run: RunFolder) -> None:
    scorers = run.documents.read("result.json")["scorers"]
    assert len(scorers) == 4 and not any(scorer["is_meaningful"] for scorer in scorers)
    page = (run.root / "report.html").read_text(encoding="utf-8")
    assert "their weights are random" in page
