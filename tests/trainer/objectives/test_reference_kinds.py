"""References other than the frozen live one: cached, moving, none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from avpref.config.training_settings import PreferenceLossSettings
from avpref.errors import ConfigError
from avpref.trainer.adapter_files import read_adapter_weights
from avpref.trainer.job import TrainingJob
from avpref.trainer.launch import launch
from avpref.trainer.parallel import Context
from avpref.trainer.run_job import cache_reference, reference_key

MakeJob = Callable[..., TrainingJob]
SMALL = PreferenceLossSettings(beta_video=5, beta_audio=2)


def rows(job: TrainingJob) -> list[dict[str, float]]:
    return [json.loads(line) for line in (job.output / "metrics.jsonl").read_text().splitlines()]


def adapter(job: TrainingJob) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return read_adapter_weights(job.output / "adapter")


def equal(mine: TrainingJob, other: TrainingJob) -> bool:
    pairs = [(adapter(mine)[name], adapter(other)[name]) for name in adapter(mine)]
    return all(torch.equal(a, b) for first, second in pairs for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    "dpo", [{"two_pass": True}, {"timesteps": {"shift": 2.0, "independent": True, "rounded": True}}]
)
def test_cached_scores_equal_live_ones_bitwise(dpo_job: MakeJob, dpo: dict[str, object]) -> None:
    live = dpo_job("live", dpo=dpo)
    launch(live)
    job = dpo_job("cached", dpo=dpo | {"reference": "cached"})
    cache_reference(job, job.output / "scores.safetensors", Context())
    cached = replace(job, reference_scores=job.output / "scores.safetensors")
    launch(cached)
    assert equal(live, cached)
    assert rows(cached) == [{k: v for k, v in row.items() if not k.startswith("drift")} for row in rows(live)]


@pytest.mark.slow
def test_cached_scores_of_two_processes_equal_their_live_ones_bitwise(dpo_job: MakeJob) -> None:
    two = {"num_processes": 2, "launcher": "processes", "batch_size": 5}
    live, job = dpo_job("live", **two), dpo_job("cached", dpo={"reference": "cached"}, **two)
    launch(live)
    cache_reference(job, job.output / "scores.safetensors", Context())
    cached = replace(job, reference_scores=job.output / "scores.safetensors")
    launch(cached)
    assert equal(live, cached)


def test_the_key_covers_all_that_changes_a_score(dpo_job: MakeJob) -> None:
    base = reference_key(dpo_job(), 10)
    assert reference_key(dpo_job("elsewhere", dpo={"reference": "cached"}, steps=9, log_every=1), 10) == base
    changed = [
        dpo_job(dpo={"caption_dropout": 0.5}),
        dpo_job(dpo={"timesteps": {"shift": 3.0}}),
        dpo_job(dpo={"timesteps": {"shift": 2.0, "independent": True}}),
        dpo_job(dpo={"loss": {"reduction": "sum"}}),
        dpo_job(dpo={"two_pass": True}),
        dpo_job(batch_size=3),
        dpo_job(num_threads=2),
        replace(dpo_job(), seed=8),
        replace(dpo_job(), dtype="bfloat16"),
    ]
    assert len({base, *(reference_key(job, 10) for job in changed)}) == len(changed) + 1


def test_a_cached_reference_needs_its_table(dpo_job: MakeJob) -> None:
    with pytest.raises(ConfigError, match="without a table"):
        launch(dpo_job(dpo={"reference": "cached"}))


def test_a_moving_reference_follows_the_policy_and_resumes_bitwise(dpo_job: MakeJob) -> None:
    changes = {"reference": "ema", "reference_decay": 0.5, "loss": SMALL}
    frozen, whole = dpo_job("frozen", dpo={"loss": SMALL}), dpo_job("whole", dpo=changes)
    launch(frozen)
    launch(whole)
    first, last = rows(whole)[0], rows(whole)[-1]
    assert first["margin_video"] == 0.0 and first["drift_video"] == 0.0 and first["loss"] == rows(frozen)[0]["loss"]
    assert 0 < last["drift_video"] < rows(frozen)[-1]["drift_video"]
    launch(dpo_job("parts", dpo=changes, steps=3))
    parts = dpo_job("parts", dpo=changes)
    launch(parts)
    assert equal(whole, parts) and rows(whole) == rows(parts)


def test_a_reference_with_decay_zero_is_the_policy_of_the_step_before(dpo_job: MakeJob) -> None:
    """Decay 0: policy and reference are equal in every step, so margins stay exactly 0."""
    job = dpo_job(dpo={"reference": "ema", "reference_decay": 0.0})
    launch(job)
    assert {row["margin_video"] for row in rows(job)} == {0.0}


def test_without_a_reference_the_loss_compares_the_policys_own_errors(dpo_job: MakeJob) -> None:
    loss = {"beta_video": 5.0, "beta_audio": 2.0, "target_margin": 0.1, "half": False}
    job = dpo_job(dpo={"reference": "none", "loss": loss})
    summary = launch(job)
    first = rows(job)[0]
    assert first["margin_video"] != 0.0 and "chosen_shift_video" not in first and "drift_video" not in first
    assert summary.displacement.video is None and summary.drift.video is None


def test_references_that_contradict_a_job(dpo_job: MakeJob) -> None:
    job = dpo_job()
    for dpo, reason in (
        ({"reference": "ema", "adapter": {"rank": 2, "layout": "two_adapters"}}, "two_adapters"),
        ({"reference": "none"}, "reference scores"),
    ):
        with pytest.raises(ConfigError, match=reason):
            launch(replace(dpo_job(dpo=dpo), reference_scores=job.data))


def test_the_average_of_the_adapter_becomes_the_result(dpo_job: MakeJob) -> None:
    plain, averaged = dpo_job("plain"), dpo_job("averaged", dpo={"ema_decay": 0.9})
    launch(plain)
    launch(averaged)
    raw = read_adapter_weights(averaged.output / "adapter_raw")
    for name, (_, up) in adapter(plain).items():
        assert torch.equal(raw[name][1], up)
        assert adapter(averaged)[name][1].norm() < up.norm()
