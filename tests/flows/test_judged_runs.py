"""Judges in a run: the published failures are refused, and judges that cannot judge are refused before any work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from outside_modules import write_module
from staged_runs import Clip, stage_run

from avpref.cli.views.gate_recheck import decide
from avpref.config.loading import config_to_yaml, load_config
from avpref.datasets import tables
from avpref.datasets.evidence.judging import HACKING, JUDGE
from avpref.errors import ConfigError, GateRefused, InputError
from avpref.flows import retrain
from avpref.flows.dry_run import estimate
from avpref.flows.reproduce import reproduce
from avpref.flows.run import Run
from avpref.flows.stages.evaluate import evaluate
from avpref.flows.workers.judges import check_judges, judge_metrics
from avpref.registry import decisions, promotion
from avpref.storage.run_folder import RunFolder, create, open_root

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
RULES = (
    "evaluation.gate.rules=[{kind: superiority, dimension: video}, {kind: non_inferiority, dimension: audio, margin_sd: 0.1},"
    " {kind: displacement}]"
)
"""Rules that the selectors of a run with a hacked picture pass."""
SHARPNESS = ("scoring.scorers=signal", "scoring.metrics=[visual_quality, audio_quality, audio_video]")


STEADY = """
from avpref.domain import PICTURE, Dimension, Metric, Terms
from avpref.rewards.protocol import measured


class Steady:
    metrics = (Metric("darkness", "grey levels", True, Dimension.VIDEO, PICTURE),)
    terms = Terms("MIT", commercial_use=True)

    def score(self, clips):
        metric = self.metrics[0]
        return [[measured(clip.candidate_id, metric, 255.0 - float(clip.clip.frames.mean()))] for clip in clips]
"""
"""The module of a user: a scorer that likes dark pictures."""


def checkerboard(frames: np.ndarray, audio: np.ndarray) -> Clip:
    """A picture of hard edges in place of the scene, with a bar that moves: sharper than any scene, and nothing to see."""
    height, width = frames.shape[1:3]
    squares = ((np.arange(height)[:, None] // 8 + np.arange(width) // 8) % 2 * 255).astype(np.uint8)
    board = np.repeat(squares[None, :, :, None], len(frames), axis=0).repeat(3, axis=3)
    for number, frame in enumerate(board):
        frame[:, (4 * number) % width] = 255
    return board, audio


def silent(frames: np.ndarray, audio: np.ndarray) -> Clip:
    return frames, np.zeros_like(audio)


def unchanged(frames: np.ndarray, audio: np.ndarray) -> Clip:
    return frames, audio


def rule_names(run: Run, passed: bool) -> set[str]:
    return {rule["rule"] for rule in decisions.read_decision(run).rules if rule["passed"] == passed}


def test_a_metric_that_rises_because_the_picture_is_broken_is_refused_by_a_judge_alone(tmp_path: Path) -> None:
    """``signal`` measures sharpness, and a checkerboard is sharp; only a scorer that looks for the scene sees that it is gone."""
    believed = stage_run(tmp_path / "believed", checkerboard, (*SHARPNESS, RULES))
    evaluate.fn(believed)
    assert decisions.read_decision(believed).verdict == "promote"
    judged = stage_run(tmp_path / "judged", checkerboard, (*SHARPNESS, RULES, "evaluation.judges=toy"))
    evaluate.fn(judged)
    record = decisions.read_decision(judged)
    assert record.verdict == "refuse" and rule_names(judged, passed=False) == {JUDGE, HACKING}
    (suspicion,) = [reason for reason in record.reasons if reason.startswith("suspected reward hacking")]
    assert "video +" in suspicion and "toy/visual_quality -" in suspicion and "toy/text_video -" in suspicion
    fallen = {rule["dimension"] for rule in record.rules if rule["rule"] == JUDGE and not rule["passed"]}
    assert {"toy/visual_quality", "toy/text_video"} <= fallen and "toy/audio_quality" not in fallen
    with pytest.raises(GateRefused):
        promotion.promote(judged.runs, judged.run_id)
    assert decisions.replay_decision(judged).agrees
    lenient = decide(
        judged, ["evaluation.gate.rules=[{kind: superiority, dimension: video}, {kind: judge, margin_sd: 1e9}]"]
    )
    assert lenient["verdict"] == "promote"


def test_a_policy_without_sound_is_refused_by_rules_and_judges(tmp_path: Path) -> None:
    run = stage_run(
        tmp_path, silent, (RULES, "evaluation.judges=signal", "evaluation.judge_metrics=[signal/audio_quality]")
    )
    evaluate.fn(run)
    record = decisions.read_decision(run)
    assert record.verdict == "refuse" and {"non_inferiority", JUDGE} <= rule_names(run, passed=False)
    judged = run.tables.read(tables.EVALUATIONS).to_pandas().query("kind == 'judge' and side == 'policy'")
    assert set(judged.status) >= {"skipped"} and set(judged[judged.name == "signal/audio_quality"].reason) == {"silent"}


def test_equal_clips_leave_judges_unmoved_and_an_evaluation_resumes(
    tmp_path: Path, finished_marks: Callable[[Path], dict[str, object]]
) -> None:
    run = stage_run(
        tmp_path, unchanged, ("evaluation.judges=signal", "evaluation.judge_metrics=[signal/visual_quality]")
    )
    evaluate.fn(run)
    record = decisions.read_decision(run)
    assert JUDGE in rule_names(run, passed=True) and HACKING not in rule_names(run, passed=False)
    (judge,) = [metric for metric in record.metrics if metric["role"] == "judge"]
    assert judge["delta_sd"] == judge["ci_low"] == judge["ci_high"] == 0.0 and judge["num_pairs"] == 12
    assert len([metric for metric in record.metrics if metric["role"] == "selector"]) == 7
    before = finished_marks(run.root)
    scores = next(iter(sorted((run.root / "units" / "evaluate_judge-signal").rglob("*.parquet"))))
    data = scores.read_bytes()
    scores.unlink()
    shutil.rmtree(run.root / "decisions")
    evaluate.fn(Run.of(open_root(run.root)))
    assert scores.exists() and len(scores.read_bytes()) == len(data)
    untouched = {
        path: mark
        for path, mark in before.items()
        if "evaluate_judge" not in str(path) and "decisions" not in str(path)
    }
    assert untouched.items() <= finished_marks(run.root).items()
    assert decisions.read_decision(run).decision_id == record.decision_id
    assert decisions.read_decision(run).inputs["judges"][0]["name"] == "signal/visual_quality"


def test_two_judges_and_looks(tmp_path: Path) -> None:
    """A toy judge and a fake one give metrics of the same names; the evaluation stops at the look that shows the fall."""
    overrides = ("evaluation.judges=[toy, fake]", "evaluation.judge_metrics=[toy/visual_quality, fake/visual_quality]")
    looks = "evaluation.procedure={kind: sequential, look_prompts: 8}"
    run = stage_run(tmp_path, checkerboard, (*SHARPNESS, RULES, looks, "prompts.num_evaluation_clips=24", *overrides))
    evaluate.fn(run)
    record = decisions.read_decision(run)
    assert record.verdict == "refuse" and len(record.inputs["prompts"]) < 24
    assert [metric["name"] for metric in record.metrics[-2:]] == ["toy/visual_quality", "fake/visual_quality"]
    assert decisions.replay_decision(run).agrees
    kinds = run.tables.read(tables.EVALUATIONS).to_pandas().query("kind == 'judge'").groupby("name").size()
    assert kinds["toy/visual_quality"] == kinds["fake/visual_quality"] == 2 * len(record.inputs["prompts"])


def test_a_decision_of_an_earlier_release_is_read_and_replayed(tiny_copy: Callable[..., RunFolder]) -> None:
    folder = tiny_copy()
    (path,) = (folder.root / "decisions").iterdir()
    document = json.loads(path.read_bytes())
    del document["metrics"]
    path.write_text(json.dumps(document))
    assert decisions.read_decision(folder).metrics == ()
    assert decisions.replay_decision(folder).agrees


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["evaluation.judges=fake"], "fake in scoring.scorers and in evaluation.judges"),
        (["scoring.scorers=[toy, signal]", "evaluation.judges=[signal]"], "signal in scoring.scorers"),
        (["scoring.scorers=[toy]", "evaluation.judges={use: toy, name: critic}"], "critic in scoring.scorers"),
        (["evaluation.judges=[toy, toy]"], "each scorer once"),
        (["evaluation.judges=[two words]"], "evaluation.judges"),
    ],
)
def test_a_judge_that_selects_pairs_is_refused_when_the_file_is_loaded(overrides: list[str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load_config(TINY, overrides, environment={})


def test_a_judge_with_the_weights_of_a_scorer_is_refused() -> None:
    models = "scoring.scorers=[audiobox, imagebind, synchformer, videoalign]"
    shared = load_config(TINY, [models, "evaluation.judges=javis_score"], environment={}).settings
    with pytest.raises(ConfigError, match=r"judge javis_score .*the same weights"):
        check_judges(shared)
    check_judges(
        load_config(TINY, ["scoring.scorers=audiobox", "evaluation.judges=javis_score"], environment={}).settings
    )


def test_a_judge_of_the_class_of_a_scorer_is_refused_and_an_unknown_one_is_named(workplace: Path) -> None:
    write_module(workplace, "steady", STEADY)

    def check(scorers: str, judges: str) -> None:
        overrides = [f"scoring.scorers={scorers}", f"evaluation.judges={judges}"]
        check_judges(load_config(TINY, overrides, environment={}).settings)

    with pytest.raises(ConfigError, match=r"judge toy_scorer .*the same class"):
        check("toy", "avpref.rewards.toy.toy:ToyScorer")
    steady = "[toy, {use: 'steady:Steady', name: first}]"
    with pytest.raises(ConfigError, match=r"second in scoring\.scorers"):
        check(steady, "{use: 'steady:Steady', name: second}")
    with pytest.raises(ConfigError, match="no scorer critic"):
        check("toy", "critic")
    check("toy", "steady:Steady")


def test_a_judge_from_outside_judges(workplace: Path) -> None:
    write_module(workplace, "steady", STEADY)
    overrides = (*SHARPNESS, RULES, "evaluation.judges=[{use: 'steady:Steady', name: calm}]")
    run = stage_run(workplace / "runs", checkerboard, overrides)
    evaluate.fn(run)
    record = decisions.read_decision(run)
    assert record.verdict == "refuse" and [metric["name"] for metric in record.metrics][-1] == "calm/darkness"
    assert rule_names(run, passed=False) == {JUDGE, HACKING}
    assert decisions.replay_decision(run).agrees


def test_metrics_that_no_judge_gives_are_refused() -> None:
    named = "evaluation.judge_metrics=[signal/visual_quality, visual_quality]"
    settings = load_config(TINY, ["evaluation.judges=signal", named], environment={}).settings
    with pytest.raises(ConfigError, match="lists visual_quality\n"):
        judge_metrics(settings)
    with pytest.raises(ConfigError, match="no judges"):
        check_judges(load_config(TINY, [named], environment={}).settings)


def test_a_judge_without_weights_is_refused_before_the_first_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    overrides = ["evaluation.judges=audiobox", f"scoring.audiobox.folder={tmp_path / 'empty'}"]
    (tmp_path / "empty").mkdir()
    settings = load_config(TINY, overrides, environment={}).settings
    folder = create(tmp_path / "runs", settings)
    with pytest.raises(InputError, match="judge audiobox: "):
        retrain.run_loop(folder)
    with pytest.raises(InputError, match="judge audiobox: "):
        estimate(settings)
    assert not (folder.root / "tables").exists() or not folder.tables.has(tables.PROMPTS)


def test_a_judge_with_random_weights_promotes_nothing(tmp_path: Path) -> None:
    overrides = (
        "evaluation.judges=audiobox",
        "scoring.preset=tiny",
        "evaluation.judge_metrics=[audiobox/audio_quality]",
    )
    run = stage_run(tmp_path, unchanged, overrides)
    evaluate.fn(run)
    reasons = decisions.read_decision(run).reasons
    assert any(reason.startswith("the scores of audiobox (tiny") for reason in reasons)


def test_scores_of_judges_are_reproduced(tiny_copy: Callable[..., RunFolder]) -> None:
    copy = tiny_copy("evaluate")
    overrides = ["evaluation.judges=signal", "evaluation.judge_metrics=[signal/visual_quality]"]
    settings = load_config(copy.root / "config.yaml", overrides, environment={}).settings
    (copy.root / "config.yaml").write_text(config_to_yaml(settings))
    folder = open_root(copy.root)
    evaluate.fn(Run.of(folder))
    rows = folder.tables.read(tables.EVALUATIONS).to_pylist()
    judged = [row for row in rows if row["kind"] == "judge"]
    assert judged
    reproduction = reproduce(folder, share=1.0, num=None, seed=0)
    assert reproduction.is_same
    assert reproduction.scores >= folder.tables.num_rows(tables.SCORES) + len(judged)
