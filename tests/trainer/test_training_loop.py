"""The loop: resume is bitwise, curves and steps are what they should be, and it learns."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from plain_order import indices_of_step
from torch import nn

from avpref.config.training_settings import AdapterSettings, LoopSettings, OptimiserSettings, PreferenceLossSettings
from avpref.errors import AvprefError, ConfigError, InputError
from avpref.models.dit import JavisDiT
from avpref.trainer.adapters import make_policy
from avpref.trainer.batches import ClipSet, PairSet
from avpref.trainer.checkpoint import CheckpointFolder
from avpref.trainer.loop import LoopPlan, TrainingResult, make_state, train
from avpref.trainer.noise import ClipSource, NoiseConfig, PairSource, SampleIndex
from avpref.trainer.objectives import FlowObjective, LiveReference, LossAndMetrics, Objective, PreferenceObjective
from avpref.trainer.parallel import Context

NOISE = NoiseConfig(seed=5, shift=2.0, caption_dropout=0.2)
MakeNetwork = Callable[..., JavisDiT]
MakeClips = Callable[..., ClipSet]
MakePairs = Callable[..., PairSet]
Build = Callable[[], tuple[Objective, ClipSource | PairSource]]


def plan(folder: Path, *, lr: float = 1e-3, ema: float = 0.0, alarm: float = math.inf, **loop: object) -> LoopPlan:
    values: dict[str, object] = {
        "steps": 6,
        "batch_size": 4,
        "checkpoint_every": 3,
        "keep_checkpoints": 2,
        "log_every": 2,
        "num_threads": 1,
    }
    optimiser = OptimiserSettings(lr=lr, warmup_steps=2)
    return LoopPlan(LoopSettings.model_validate(values | loop), optimiser, 1, folder, {"lr": str(lr)}, ema, alarm)


@pytest.fixture(params=["flow", "preference"])
def build(
    request: pytest.FixtureRequest,
    make_network: MakeNetwork,
    make_clips: MakeClips,
    make_pairs: MakePairs,
) -> Build:
    def flow() -> tuple[Objective, ClipSource]:
        return FlowObjective(make_network()), ClipSource(make_clips(), NOISE)

    def preference() -> tuple[Objective, PairSource]:
        policy = make_policy(make_network(), AdapterSettings(rank=2, alpha=4), seed=1)
        objective = PreferenceObjective(policy, PreferenceLossSettings(), LiveReference(policy, "mean"))
        return objective, PairSource(make_pairs(num_delays=2), replace(NOISE, desync_share=0.5))

    return flow if request.param == "flow" else preference


def run(build: Build, plan: LoopPlan) -> tuple[TrainingResult, dict[str, torch.Tensor], str]:
    objective, source = build()
    trained = train(objective, source, plan, Context())
    values = {name: value.clone() for name, value in objective.module.state_dict().items()}
    return trained, values, (plan.output / "metrics.jsonl").read_text()


@pytest.mark.parametrize("interruption", [3, 5])
def test_resuming_equals_never_stopping_bitwise(build: Build, tmp_path: Path, interruption: int) -> None:
    whole = run(build, plan(tmp_path / "whole", steps=8, ema=0.9))
    run(build, plan(tmp_path / "parts", steps=interruption, ema=0.9))
    with open(tmp_path / "parts" / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 99, "lo')
    parts = run(build, plan(tmp_path / "parts", steps=8, ema=0.9))
    assert parts[0].summary == whole[0].summary
    assert parts[2] == whole[2]
    for mine, theirs in ((parts[1], whole[1]), (parts[0].average, whole[0].average)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_step_that_was_written_but_not_saved_is_done_again(build: Build, tmp_path: Path) -> None:
    """Killed between the metrics and the checkpoint: rows beyond the checkpoint are dropped."""
    whole = run(build, plan(tmp_path / "whole"))
    first = plan(tmp_path / "parts")
    run(build, first)
    CheckpointFolder(tmp_path / "parts" / "checkpoints", {"lr": "0.001"}, 2)
    newest = tmp_path / "parts" / "checkpoints" / "step_00000006"
    newest.rename(newest.with_name(".partial-step_00000006"))
    again = run(build, first)
    assert again[2] == whole[2]
    assert all(torch.equal(again[1][name], whole[1][name]) for name in whole[1])


def test_a_finished_run_runs_no_more(build: Build, tmp_path: Path) -> None:
    first = run(build, plan(tmp_path))
    again = run(build, plan(tmp_path))
    assert again[0].summary == first[0].summary
    assert again[2] == first[2]


def test_step_zero_of_a_preference_run(make_network: MakeNetwork, make_pairs: MakePairs, tmp_path: Path) -> None:
    policy = make_policy(make_network(), AdapterSettings(rank=2, alpha=4), seed=1)
    objective = PreferenceObjective(policy, PreferenceLossSettings(), LiveReference(policy, "mean"))
    train(objective, PairSource(make_pairs(), NOISE), plan(tmp_path), Context())
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    for modality in ("video", "audio"):
        for name in ("margin", "drift", "chosen_shift", "rejected_shift", "implicit_accuracy", "displacement"):
            assert first[f"{name}_{modality}"] == 0.0, name
        assert first[f"ties_{modality}"] == 1.0
    assert first["preference"] == pytest.approx(2 * math.log(2), abs=1e-6)
    expected = 2 * math.log(2) + 0.1 * (first["flow_video"] + first["flow_audio"])
    assert first["loss"] == pytest.approx(expected, abs=1e-5)


def test_one_step_is_adam_with_warm_up_and_clipping(
    make_network: MakeNetwork, make_clips: MakeClips, tmp_path: Path
) -> None:
    source = ClipSource(make_clips(), NOISE)
    mine, theirs = make_network(), make_network()
    train(FlowObjective(mine), source, plan(tmp_path, steps=3), Context())
    optimiser = torch.optim.AdamW(theirs.parameters(), lr=1.0, eps=1e-15, weight_decay=0.0)
    for step, lr in enumerate((1e-3 / 3, 2e-3 / 3, 1e-3)):
        result = FlowObjective(theirs).compute(source.batch(indices_of_step(1, step, 4, 10)))
        (result.loss / 4).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimiser.param_groups[0]["lr"] = lr
        optimiser.step()
        optimiser.zero_grad()
    for (name, one), other in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=name)


def test_moving_average(build: Build, tmp_path: Path) -> None:
    objective, source = build()
    start = {name: value.clone() for name, value in make_state(objective.module, plan(tmp_path)).parameters.items()}
    trained = train(objective, source, plan(tmp_path, steps=1, ema=0.75), Context())
    for name, parameter in objective.module.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(trained.average[name], start[name].lerp(parameter, 0.25))


def test_activation_checkpointing_gives_the_same_gradients(make_network: MakeNetwork, make_pairs: MakePairs) -> None:
    gradients = []
    for is_on in (False, True):
        network = make_network()
        network.activation_checkpointing = is_on
        policy = make_policy(network, AdapterSettings(rank=2, alpha=4), seed=1)
        objective = PreferenceObjective(policy, PreferenceLossSettings(), LiveReference(policy, "mean"))
        objective.compute(PairSource(make_pairs(), NOISE).batch([SampleIndex(0, 0), SampleIndex(1, 0)])).loss.backward()
        gradients.append({n: p.grad for n, p in policy.model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])


def test_it_learns_four_pairs(make_network: MakeNetwork, make_pairs: MakePairs, tmp_path: Path) -> None:
    """Implicit accuracy reaches 0.95 and the rejected side rises less than three times as much as the gap opens."""
    policy = make_policy(make_network(), AdapterSettings(rank=8, alpha=16), seed=1)
    objective = PreferenceObjective(policy, PreferenceLossSettings(), LiveReference(policy, "mean"))
    source = PairSource(make_pairs(4), replace(NOISE, caption_dropout=0.0))
    trained = train(objective, source, plan(tmp_path, steps=60, lr=5e-3, checkpoint_every=60), Context())
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()][-15:]
    for modality in ("video", "audio"):
        accuracy = getattr(trained.summary.implicit_accuracy, modality)
        gap, rise = (sum(row[f"{name}_{modality}"] for row in rows) for name in ("margin", "rejected_shift"))
        assert accuracy >= 0.95
        assert gap > 0
        assert rise < 3 * gap


def test_flow_loss_goes_down(make_network: MakeNetwork, make_clips: MakeClips, tmp_path: Path) -> None:
    trained = train(
        FlowObjective(make_network()),
        ClipSource(make_clips(4), NOISE),
        plan(tmp_path, steps=40, lr=5e-3, checkpoint_every=40),
        Context(),
    )
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert trained.summary.loss < 0.8 * first["loss"]


def test_displacement_alarm(
    make_network: MakeNetwork,
    make_pairs: MakePairs,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A learning rate that wrecks the network makes the chosen clips worse: one warning, a field, and a count."""
    policy = make_policy(make_network(), AdapterSettings(rank=2, alpha=4), seed=1)
    objective = PreferenceObjective(policy, PreferenceLossSettings(), LiveReference(policy, "mean"))
    trained = train(objective, PairSource(make_pairs(), NOISE), plan(tmp_path, lr=1.0, alarm=0.01), Context())
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    flags = [row["displacement_alarm"] for row in rows]
    assert flags[0] is False and flags[-1] is True
    assert trained.summary.alarms == sum(flags)
    assert max(trained.summary.displacement.video or 0, trained.summary.displacement.audio or 0) > 0.01
    assert sum("displacement alarm" in record.message for record in caplog.records) == 1


class Broken:
    """An objective whose loss stops being a number."""

    def __init__(self) -> None:
        self.module: nn.Module = nn.Linear(1, 1)
        self.calls = 0

    def compute(self, batch: object) -> LossAndMetrics:
        self.calls += 1
        values = self.module(torch.ones(4, 1))[:, 0] * (math.nan if self.calls > 4 else 1.0)
        return LossAndMetrics(values.sum(), {"loss": values.detach()}, torch.full((4,), 0.5))


def test_numbers_that_are_not_finite_stop_the_run_and_leave_the_last_checkpoint(
    make_clips: MakeClips, tmp_path: Path
) -> None:
    with pytest.raises(AvprefError, match="step 5: grad_norm, loss not finite"):
        train(Broken(), ClipSource(make_clips(), NOISE), plan(tmp_path), Context())
    assert CheckpointFolder(tmp_path / "checkpoints", {}, 1).steps() == [3]


def test_nothing_to_train_and_too_many_ranks(make_network: MakeNetwork, make_clips: MakeClips, tmp_path: Path) -> None:
    network = make_network().requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter"):
        train(FlowObjective(network), ClipSource(make_clips(), NOISE), plan(tmp_path), Context())
    with pytest.raises(ConfigError, match="bfloat16"):
        train(FlowObjective(make_network().bfloat16()), ClipSource(make_clips(), NOISE), plan(tmp_path), Context())
    with pytest.raises(ConfigError, match="5 processes"):
        train(FlowObjective(make_network()), ClipSource(make_clips(), NOISE), plan(tmp_path), Context(rank=0, world=5))


def test_lost_metrics_are_noticed(build: Build, tmp_path: Path) -> None:
    run(build, plan(tmp_path))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(InputError, match="steps 1 to 6"):
        run(build, plan(tmp_path, steps=8))
