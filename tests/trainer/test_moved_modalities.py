"""A pair whose loss moves one modality: the loss against an independent formula, gradients, metrics, files and training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from avpref.config.training_settings import AdapterSettings, PreferenceLossSettings
from avpref.errors import InputError
from avpref.models.dit import JavisDiT
from avpref.trainer.adapters import make_policy
from avpref.trainer.batches import PairSet, load_pair_set, save_pair_set
from avpref.trainer.job import TrainingJob
from avpref.trainer.launch import launch
from avpref.trainer.losses import ModalityErrors, Moves, PairErrors, preference_loss
from avpref.trainer.noise import NoiseConfig, PairSource, SampleIndex
from avpref.trainer.objectives import LiveReference, PreferenceObjective
from avpref.trainer.parallel import Context
from avpref.trainer.run_job import cache_reference

VARIANTS = get_args(PreferenceLossSettings.model_fields["variant"].annotation)
MakePairs = Callable[..., PairSet]
MakeNetwork = Callable[..., JavisDiT]
MakeJob = Callable[..., TrainingJob]
VIDEO_ONLY, AUDIO_ONLY, BOTH = (True, False), (False, True), (True, True)


def moves_of(*pairs: tuple[bool, bool]) -> Moves:
    return Moves(*(torch.tensor(modality) for modality in zip(*pairs, strict=True)))


def with_moves(pairs: PairSet, moves: Moves) -> PairSet:
    return replace(pairs, moves_video=moves.video, moves_audio=moves.audio)


def errors_of(numbers: np.ndarray) -> ModalityErrors:
    """Errors [policy/reference, chosen/rejected, B]; those of the policy require a gradient."""
    policy, frozen = (PairErrors(*(torch.tensor(side) for side in network)) for network in numbers)
    for side in policy:
        side.requires_grad_()
    return ModalityErrors(policy, frozen)


def by_formula(numbers: np.ndarray, moves: np.ndarray, loss: PreferenceLossSettings) -> np.ndarray:
    """Loss [B] of errors [modality, policy/reference, chosen/rejected, B] and moves [modality, B], in NumPy."""
    variants = {
        "sigmoid": lambda z: np.logaddexp(0.0, -z),
        "hinge": lambda z: np.maximum(0.0, 1.0 - z),
        "ipo": lambda z: (z - 0.5) ** 2,
    }
    term = variants[loss.variant]

    def smoothed(z: np.ndarray) -> np.ndarray:
        return (1 - loss.label_smoothing) * term(z) + loss.label_smoothing * term(-z)

    chosen, rejected = numbers[:, :, 0], numbers[:, :, 1]
    margin = (chosen[:, 1] - rejected[:, 1]) - (chosen[:, 0] - rejected[:, 0])
    logits = np.array([[loss.beta_video], [loss.beta_audio]]) * (0.5 if loss.half else 1.0) * margin
    flow = loss.flow_weight * (moves * chosen[:, 0]).sum(0)
    if loss.form == "joint":
        return smoothed((moves * logits).sum(0)) + flow
    return (moves * smoothed(logits)).sum(0) + flow


@pytest.mark.parametrize("form", ["per_modality", "joint"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_equals_the_formula_and_the_other_modality_gets_no_gradient(
    form: str, variant: str, smoothing: float
) -> None:
    for seed, pairs in enumerate([(VIDEO_ONLY, AUDIO_ONLY, BOTH), (AUDIO_ONLY,), (VIDEO_ONLY, VIDEO_ONLY)]):
        moves = moves_of(*pairs)
        numbers = np.random.default_rng(seed).uniform(0.0, 2.0, (2, 2, 2, len(pairs)))
        loss = PreferenceLossSettings.model_validate(
            {
                "form": form,
                "variant": variant,
                "label_smoothing": smoothing,
                "beta_video": 3.0,
                "beta_audio": 5.0,
                "flow_weight": 0.3,
                "half": seed % 2 == 0,
            }
        )
        video, audio = errors_of(numbers[0]), errors_of(numbers[1])
        terms = preference_loss(video, audio, loss, moves)
        expected = by_formula(numbers, np.stack([moves.video.numpy(), moves.audio.numpy()]), loss)
        np.testing.assert_allclose(terms.total.detach().numpy(), expected, rtol=1e-12)
        terms.total.sum().backward()
        for errors, moved in ((video, moves.video), (audio, moves.audio)):
            for side in errors.policy:
                assert side.grad is not None
                assert torch.equal(side.grad[~moved], torch.zeros(int((~moved).sum()), dtype=torch.float64))
            assert errors.policy.chosen.grad is not None and (errors.policy.chosen.grad[moved] != 0).all()


@pytest.mark.parametrize("form", ["per_modality", "joint"])
def test_a_pair_that_moves_both_has_the_loss_of_a_pair_without_moves(form: str) -> None:
    numbers = np.random.default_rng(4).uniform(0.0, 2.0, (2, 2, 2, 3))
    loss = PreferenceLossSettings.model_validate({"form": form})
    plain = preference_loss(errors_of(numbers[0]), errors_of(numbers[1]), loss)
    moved = preference_loss(errors_of(numbers[0]), errors_of(numbers[1]), loss, moves_of(BOTH, BOTH, BOTH))
    assert torch.equal(plain.total, moved.total) and torch.equal(plain.regulariser, moved.regulariser)


def objective(make_network: MakeNetwork) -> PreferenceObjective:
    policy = make_policy(make_network(), AdapterSettings(rank=2, alpha=4), seed=1)
    return PreferenceObjective(policy, PreferenceLossSettings(), LiveReference(policy, "mean"))


def gradients(preference: PreferenceObjective, source: PairSource, rows: list[int]) -> list[torch.Tensor]:
    parameters = [parameter for parameter in preference.module.parameters() if parameter.requires_grad]
    loss = preference.compute(source.batch([SampleIndex(row, 0) for row in rows])).loss
    return [g.clone() for g in torch.autograd.grad(loss, parameters)]


def test_the_gradient_does_not_depend_on_the_other_modalitys_target(
    make_network: MakeNetwork, make_pairs: MakePairs
) -> None:
    """The rejected sound of a pair that moves video enters the network, but its own error enters nothing."""
    pairs, config = make_pairs(4), NoiseConfig(seed=5, shift=2.0)
    preference = objective(make_network)
    moves = moves_of(*[VIDEO_ONLY] * 4)
    source = PairSource(with_moves(pairs, moves), config)
    batch = source.batch([SampleIndex(row, 0) for row in range(4)])
    assert batch.moves is not None and batch.target.audio is not None
    other_target = batch._replace(target=batch.target._replace(audio=batch.target.audio + 1.0))
    parameters = [parameter for parameter in preference.module.parameters() if parameter.requires_grad]
    plain, other = (
        torch.autograd.grad(preference.compute(version).loss, parameters) for version in (batch, other_target)
    )
    assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))
    assert any(gradient.abs().max() > 0 for gradient in plain)
    unrouted = torch.autograd.grad(preference.compute(other_target._replace(moves=None)).loss, parameters)
    assert not all(torch.equal(a, b) for a, b in zip(plain, unrouted, strict=True))


def test_gradients_of_routed_pairs_add_up_to_that_of_a_joint_pair(
    make_network: MakeNetwork, make_pairs: MakePairs
) -> None:
    pairs, config = make_pairs(3), NoiseConfig(seed=5, shift=2.0)
    preference, rows = objective(make_network), [0, 1, 2]
    parts = [
        gradients(preference, PairSource(with_moves(pairs, moves_of(*[moved] * 3)), config), rows)
        for moved in (VIDEO_ONLY, AUDIO_ONLY)
    ]
    joint = gradients(preference, PairSource(pairs, config), rows)
    video, audio, both = (torch.cat([part.double().flatten() for part in whole]) for whole in (*parts, joint))
    assert (video + audio - both).norm() < 1e-4 * both.norm()
    assert video.norm() > 1e-2 * both.norm() and audio.norm() > 1e-2 * both.norm()


def test_a_batch_carries_the_moves_of_its_rows_and_a_rule_made_negative_moves_both(make_pairs: MakePairs) -> None:
    moves = moves_of(*[VIDEO_ONLY, AUDIO_ONLY] * 10)
    pairs = with_moves(make_pairs(20, num_delays=2), moves)
    source = PairSource(pairs, NoiseConfig(seed=5, shift=2.0, desync_share=0.5))
    rows = list(range(19, -1, -1))
    batch = source.batch([SampleIndex(row, 0) for row in rows])
    assert batch.moves is not None and pairs.chosen_video is not None
    assert batch.noisy.video is not None
    chosen, rejected = batch.noisy.video.chunk(2)
    is_rule_made = (chosen == rejected).flatten(1).all(1)
    assert 0 < is_rule_made.sum() < 20
    assert torch.equal(batch.moves.video, moves.video[rows] | is_rule_made)
    assert torch.equal(batch.moves.audio, moves.audio[rows] | is_rule_made)
    assert PairSource(make_pairs(2), NoiseConfig(seed=5, shift=2.0)).batch([SampleIndex(0, 0)]).moves is None


def test_metrics_of_a_modality_count_the_pairs_that_move_it(dpo_job: MakeJob, make_pairs: MakePairs) -> None:
    template = dpo_job("plain", dpo={"desync_share": 0.0}, steps=4, log_every=4)
    moves = moves_of(VIDEO_ONLY, VIDEO_ONLY, AUDIO_ONLY, VIDEO_ONLY, BOTH, *[VIDEO_ONLY] * 5)
    job = replace(template, data=template.data.with_name("routed.safetensors"), output=template.output / "routed")
    save_pair_set(job.data, with_moves(make_pairs(num_delays=2), moves))
    launch(job)
    launch(template)
    routed, plain = rows(job)[0], rows(template)[0]
    assert routed["loss"] < plain["loss"]
    assert routed["drift_audio"] == plain["drift_audio"] == 0.0
    only_video = replace(job, data=job.data.with_name("video.safetensors"), output=template.output / "video")
    save_pair_set(only_video.data, with_moves(make_pairs(num_delays=2), moves_of(*[VIDEO_ONLY] * 10)))
    summary = launch(only_video)
    assert summary.displacement.audio is None and summary.implicit_accuracy.audio is None
    assert summary.displacement.video is not None and summary.drift.audio is not None
    assert not [name for name in rows(only_video)[0] if name.endswith("_audio") and not name.startswith("drift")]


def test_the_mean_of_a_step_is_over_the_moved_pairs(
    make_network: MakeNetwork, make_pairs: MakePairs, tmp_path: Path
) -> None:
    from plain_order import indices_of_step

    from avpref.config.training_settings import LoopSettings, OptimiserSettings
    from avpref.trainer.loop import LoopPlan, train

    moves = moves_of(VIDEO_ONLY, AUDIO_ONLY, BOTH, VIDEO_ONLY, AUDIO_ONLY)
    source = PairSource(with_moves(make_pairs(5), moves), NoiseConfig(seed=5, shift=2.0))
    by_hand = objective(make_network).compute(source.batch(indices_of_step(7, 0, 5, 5)))
    loop = LoopSettings(steps=1, batch_size=5, num_threads=1)
    train(
        objective(make_network), source, LoopPlan(loop, OptimiserSettings(), 7, tmp_path, {}, 0.0, math.inf), Context()
    )
    (row,) = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    order = [index.row for index in indices_of_step(7, 0, 5, 5)]
    for name, moved in (("video", moves.video[order]), ("audio", moves.audio[order])):
        expected = by_hand.metrics[f"flow_{name}"][moved].double().mean().item()
        assert row[f"flow_{name}"] == pytest.approx(expected, rel=1e-9)
    assert row["loss"] == pytest.approx(by_hand.metrics["loss"].double().mean().item(), rel=1e-9)


def rows(job: TrainingJob) -> list[dict[str, float]]:
    return [json.loads(line) for line in (job.output / "metrics.jsonl").read_text().splitlines()]


def test_cached_reference_scores_of_routed_pairs_equal_live_ones(dpo_job: MakeJob, make_pairs: MakePairs) -> None:
    template = dpo_job("live")
    data = template.data.with_name("routed.safetensors")
    save_pair_set(data, with_moves(make_pairs(num_delays=2), moves_of(*[VIDEO_ONLY, AUDIO_ONLY] * 5)))
    live = replace(template, data=data)
    launch(live)
    path = template.output / "scores.safetensors"
    cached = replace(live, output=template.output / "cached")
    cache_reference(cached, path, Context())
    launch(replace(cached, reference_scores=path))
    without_drift = [{name: x for name, x in row.items() if not name.startswith("drift")} for row in rows(live)]
    assert rows(cached) == without_drift
    with pytest.raises(InputError, match="computed for"):
        launch(replace(template, output=template.output / "joint", reference_scores=path))


def test_files_keep_moves_and_a_file_without_them_has_the_bytes_of_before(
    tmp_path: Path, make_pairs: MakePairs
) -> None:
    pairs = with_moves(make_pairs(4), moves_of(VIDEO_ONLY, AUDIO_ONLY, BOTH, BOTH))
    save_pair_set(tmp_path / "routed", pairs)
    read = load_pair_set(tmp_path / "routed")
    assert read.moves_video is not None and read.moves_audio is not None
    assert read.moves_video.tolist() == [True, False, True, True]
    assert read.moves_audio.tolist() == [False, True, True, True]
    save_pair_set(tmp_path / "plain", make_pairs(4))
    assert b"moves" not in (tmp_path / "plain").read_bytes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"moves_video": torch.ones(4, dtype=torch.bool)}, "both or none"),
        ({"moves_video": torch.ones(4), "moves_audio": torch.ones(4, dtype=torch.bool)}, "bool"),
        ({"moves_video": torch.ones(3, dtype=torch.bool), "moves_audio": torch.ones(4, dtype=torch.bool)}, "bool"),
        ({"moves_video": torch.tensor([1, 1, 0, 1]) > 0, "moves_audio": torch.zeros(4) > 0}, "pair pair2 moves no"),
    ],
)
def test_moves_that_do_not_fit(make_pairs: MakePairs, change: dict[str, torch.Tensor], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        replace(make_pairs(4), **change)  # type: ignore[arg-type]


def test_a_pair_that_moves_only_an_absent_modality_is_refused(make_pairs: MakePairs) -> None:
    silent = replace(make_pairs(2), chosen_audio=None, rejected_audio=None)
    with pytest.raises(InputError, match="moves no modality"):
        with_moves(silent, moves_of(BOTH, AUDIO_ONLY))
