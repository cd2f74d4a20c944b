"""A benchmark inside the loop: both sides, the ground truth as reference, and the gate's rules on its columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from staged_runs import Clip, stage_run

from avpref.config.loading import identity_hash, load_config
from avpref.datasets.evidence.bench_deltas import BenchDelta, bench_outcomes
from avpref.errors import ConfigError, InputError
from avpref.flows.before_first_stage import check_before_first_stage
from avpref.flows.run import Run
from avpref.flows.stages.evaluate import evaluate
from avpref.registry import decisions
from avpref.storage.run_folder import open_root

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
BENCH = ("evaluation.bench={preset: av-benchmark, columns: [FD-VGG]}", "scoring.preset=tiny")
SIGNALS = "evaluation.bench={preset: signals, columns: [audio_quality, visual_quality]}"


def noisy(frames: np.ndarray, audio: np.ndarray) -> Clip:
    """The same picture under a sound that is mostly noise."""
    random = np.random.default_rng(len(audio) + int(1e6 * abs(float(audio[-1]))))
    return frames, (0.3 * audio + 0.5 * random.standard_normal(len(audio))).astype(np.float32)


def rules(*entries: str) -> str:
    return f"evaluation.gate.rules=[{', '.join(entries)}]"


def test_a_rule_on_a_column_refuses_a_policy_that_fell_and_the_decision_repeats(tmp_path: Path) -> None:
    kept = "{kind: bench, column: visual_quality, min_gain: -0.5}"
    run = stage_run(tmp_path, noisy, (SIGNALS, rules(kept, "{kind: bench, column: audio_quality}")))
    evaluate.fn(run)
    record = decisions.read_decision(run)
    outcome = {rule["dimension"]: rule for rule in record.rules if rule["rule"] == "bench"}
    assert outcome["visual_quality"]["passed"] and not outcome["audio_quality"]["passed"]
    assert (
        record.verdict == "refuse" and "benchmark column audio_quality: lower end" in outcome["audio_quality"]["detail"]
    )
    deltas = {delta["column"]: delta for delta in record.inputs["bench"]}
    assert deltas["audio_quality"]["high"] < 0 and deltas["audio_quality"]["num_pairs"] >= 8
    assert deltas["visual_quality"]["difference"] == pytest.approx(0.0, abs=1e-9)
    assert decisions.replay_decision(run).agrees
    before = {path: path.stat().st_mtime_ns for path in (run.root / "bench").rglob("*.parquet")}
    evaluate.fn(Run.of(open_root(run.root)))
    assert decisions.read_decision(run).decision_id == record.decision_id
    assert before == {path: path.stat().st_mtime_ns for path in (run.root / "bench").rglob("*.parquet")}


def test_distances_compare_with_the_ground_truth_of_the_held_out_prompts(tmp_path: Path) -> None:
    run = stage_run(tmp_path, noisy, BENCH)
    evaluate.fn(run)
    (delta,) = decisions.read_decision(run).inputs["bench"]
    assert delta["column"] == "FD-VGG" and not delta["higher_is_better"]
    assert delta["difference"] > 0 and delta["difference"] == pytest.approx(
        delta["policy"] - delta["reference"], rel=1e-6
    )
    assert len(list((run.root / "bench" / "ground_truth").glob("*.mp4"))) == delta["num_pairs"]


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (("evaluation.bench.preset=javisbunch",), "no preset 'javisbunch'"),
        (("evaluation.bench={preset: signals, columns: [fvd]}",), "--columns fvd"),
        ((SIGNALS, rules("{kind: bench, column: sync}")), "bench of column sync"),
        ((rules("{kind: bench, column: fvd}"),), "needs evaluation.bench.preset"),
        (("evaluation.bench={preset: javisbench, changes: [fvd_frames=7]}",), "fvd_frames is one of 16, 24"),
    ],
)
def test_a_benchmark_that_cannot_be_computed_is_refused_before_any_work(overrides: tuple[str, ...], found: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_before_first_stage(load_config(TINY, overrides, environment={}).settings)
    assert found in str(caught.value)


def test_absent_weights_and_references_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVPREF_WEIGHTS", str(tmp_path))
    with pytest.raises(InputError, match=r"vggish-10086976\.pth absent"):
        check_before_first_stage(load_config(TINY, [BENCH[0]], environment={}).settings)
    with pytest.raises(InputError, match=r"evaluation\.bench\.reference: no absent"):
        changed = [*BENCH, "evaluation.bench.reference=absent"]
        check_before_first_stage(load_config(TINY, changed, environment={}).settings)


def test_runs_without_a_benchmark_keep_their_ids() -> None:
    plain = load_config(TINY, [], environment={}).settings
    assert identity_hash(plain) == identity_hash(load_config(TINY, ["evaluation.bench={}"], environment={}).settings)
    assert identity_hash(plain) != identity_hash(load_config(TINY, [SIGNALS], environment={}).settings)


def test_rules_read_the_direction_of_a_column_and_fail_without_an_interval() -> None:
    gate = load_config(
        TINY, [SIGNALS, rules("{kind: bench, column: fvd, min_gain: 1}")], environment={}
    ).settings.evaluation.gate
    lower = BenchDelta("fvd", False, 10.0, 7.0, -3.0, -4.0, -2.0, 30)
    (outcome,) = bench_outcomes([lower], gate)
    assert outcome.passed and outcome.value == 2.0
    (worse,) = bench_outcomes([BenchDelta("fvd", False, 7.0, 10.0, 3.0, 2.0, 4.0, 30)], gate)
    assert not worse.passed and worse.value == -4.0
    (absent,) = bench_outcomes([], gate)
    assert not absent.passed and "was not computed" in absent.detail
    (unknown,) = bench_outcomes([BenchDelta("fvd", False, None, None, None, None, None, 0, "no reference")], gate)
    assert not unknown.passed and "no interval: no reference" in unknown.detail
