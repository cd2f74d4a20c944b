"""The scorers of benchmarks are validated like any other: they separate good clips from negatives by some measured amount."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench_clips import write_clip

from avpref.config.scorer_use import ScorerUse
from avpref.config.scoring_settings import ScoringSettings
from avpref.flows.workers.scorers import resolve
from avpref.validation.validate import ValidationSettings, score_windows, validate_metrics
from avpref.validation.validation_report import document
from avpref.validation.windows import find_windows

NAMES = ("clip_score", "cavp_score", "imagebind_sliding")


def test_auroc_accuracy_and_monotonicity_of_the_new_metrics(tmp_path: Path) -> None:
    for seed in range(3):
        write_clip(tmp_path / f"clip{seed}.mp4", seed)
    (tmp_path / "clips.csv").write_text("file,text\n" + "".join(f"clip{n}.mp4,square {n}\n" for n in range(3)))
    uses = [ScorerUse(use=name, settings={"preset": "tiny"}) for name in NAMES]
    scorers: list[Any] = [source.open("cpu") for source in resolve(uses, ScoringSettings())]
    settings = ValidationSettings(window_s=4.0, steps_s=(0.2, 1.0), bootstrap_samples=50)
    clips = find_windows(tmp_path / "clips.csv", 4.0)
    scored = score_windows(clips.windows, scorers, settings)
    validations = validate_metrics(scored, scorers, settings)
    assert [validation.metric.name for validation in validations] == list(NAMES)
    by_name = {validation.metric.name: validation for validation in validations}
    for name in ("cavp_score", "imagebind_sliding"):
        overall = by_name[name].overall
        assert overall.auroc is not None and 0.0 <= overall.auroc.value <= 1.0
        assert overall.accuracy_strict is not None and overall.num_positives == 3 and overall.num_negatives >= 9
        assert [step.step_s for step in by_name[name].steps] == [0.2, 1.0]
    assert not by_name["clip_score"].terms.is_meaningful
    rows = document(clips, scorers, scored, validations, settings)["metrics"]
    assert {row["metric"] for row in rows} == set(NAMES)
