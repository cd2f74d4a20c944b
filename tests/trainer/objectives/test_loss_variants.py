"""Unpaired and reference-free losses, target margins and weights, against formulas in NumPy, one pair at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from avpref.config.training_settings import PreferenceLossSettings
from avpref.trainer.losses import (
    LossWeights,
    ModalityErrors,
    Moves,
    PairErrors,
    flow_loss,
    noise_weight,
    preference_loss,
    side_logits,
)

CASES: list[dict[str, Any]] = [
    {"unpaired": True},
    {"unpaired": True, "chosen_weight": 1.3, "rejected_weight": 0.4, "label_smoothing": 0.1, "target_margin": 0.2},
    {"unpaired": True, "form": "joint"},
    {"variant": "sigmoid", "target_margin": 0.7},
    {"variant": "ipo", "target_margin": 0.3, "form": "joint", "label_smoothing": 0.2},
    {"variant": "hinge", "half": False},
]


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + float(np.exp(-x)))


def term(z: float, variant: str) -> float:
    return {"sigmoid": float(np.logaddexp(0.0, -z)), "hinge": max(0.0, 1 - z), "ipo": (z - 0.5) ** 2}[variant]


def by_hand(errors: np.ndarray, loss: PreferenceLossSettings, weights: np.ndarray, moves: np.ndarray) -> float:
    """The loss of one pair: errors [modality, policy/reference, side], weights (pair, video, audio), moves [modality]."""
    scale = np.array([loss.beta_video, loss.beta_audio]) * (0.5 if loss.half else 1.0)
    rewards = scale[:, None] * (errors[:, 1] - errors[:, 0])  # [modality, side]
    flow = sum(loss.flow_weight * errors[m, 0, 0] * weights[1 + m] for m in (0, 1) if moves[m])

    def preference(chosen: float, rejected: float) -> float:
        e, g = loss.label_smoothing, loss.target_margin
        if loss.unpaired:
            good = (1 - e) * (1 - sigmoid(chosen - g)) + e * (1 - sigmoid(g - chosen))
            bad = (1 - e) * (1 - sigmoid(-rejected - g)) + e * (1 - sigmoid(rejected + g))
            return loss.chosen_weight * good + loss.rejected_weight * bad
        z = chosen - rejected - g
        return (1 - e) * term(z, loss.variant) + e * term(-z, loss.variant)

    if loss.form == "joint":
        chosen, rejected = (sum(rewards[m, side] for m in (0, 1) if moves[m]) for side in (0, 1))
        return preference(chosen, rejected) * weights[0] * float(np.mean(weights[1:])) + flow
    terms = [preference(*rewards[m]) * weights[0] * weights[1 + m] for m in (0, 1) if moves[m]]
    return sum(terms) + flow


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_loss_equals_the_formula(case: dict[str, Any], size: int) -> None:
    loss = PreferenceLossSettings(beta_video=3.0, beta_audio=5.0, flow_weight=0.3, **case)
    random = np.random.default_rng(size)
    errors, weights = random.uniform(0, 2, (2, 2, 2, size)), random.uniform(0.2, 2, (3, size))
    moves = np.array([[True] * size, [row % 2 == 0 for row in range(size)]])
    video, audio = (
        ModalityErrors(*(PairErrors(*(torch.tensor(side) for side in network)) for network in modality))
        for modality in errors
    )
    loss_weights = LossWeights(*(torch.tensor(row) for row in weights))
    terms = preference_loss(video, audio, loss, Moves(*(torch.tensor(row) for row in moves)), loss_weights)
    expected = [by_hand(errors[..., pair], loss, weights[:, pair], moves[:, pair]) for pair in range(size)]
    np.testing.assert_allclose(terms.total.numpy(), expected, rtol=1e-12)


def test_weights_of_one_change_no_bit() -> None:
    errors = torch.rand(2, 2, 5, generator=torch.Generator().manual_seed(1))
    video = ModalityErrors(PairErrors(*errors[0]), PairErrors(*errors[1]))
    one = torch.ones(5)
    plain = preference_loss(video, video, PreferenceLossSettings())
    weighted = preference_loss(video, video, PreferenceLossSettings(), None, LossWeights(one, one, one))
    assert torch.equal(plain.total, weighted.total)


def test_unpaired_losses_do_not_see_the_other_side() -> None:
    errors = torch.rand(2, 2, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    policy = PairErrors(errors[0, 0].requires_grad_(), errors[0, 1])
    slopes = []
    for rejected in (errors[0, 1], errors[0, 1] + 5):
        part = ModalityErrors(policy._replace(rejected=rejected), PairErrors(*errors[1].detach()))
        total = preference_loss(part, None, PreferenceLossSettings(unpaired=True, beta_video=3.0)).total.sum()
        slopes.append(torch.autograd.grad(total, policy.chosen)[0])
    assert torch.equal(*slopes)


def test_side_rewards_add_up_to_the_margin_and_swap_with_the_sides() -> None:
    errors = torch.rand(2, 2, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    part = ModalityErrors(PairErrors(*errors[0]), PairErrors(*errors[1]))
    swapped = ModalityErrors(*(PairErrors(side.rejected, side.chosen) for side in part))
    rewards, others = side_logits(part, 6.0), side_logits(swapped, 6.0)
    torch.testing.assert_close(rewards.chosen - rewards.rejected, 3.0 * part.margin)
    assert torch.equal(rewards.chosen, others.rejected) and torch.equal(rewards.rejected, others.chosen)


def test_weights_by_noise_level_are_those_of_equal_intervals() -> None:
    t = torch.tensor([0.0, 0.249, 0.25, 0.5, 0.999, 1.0])
    assert noise_weight(t, [1.0, 2.0, 3.0, 4.0]).tolist() == [1.0, 1.0, 2.0, 3.0, 4.0, 4.0]


def test_the_flow_loss_weighs_modalities() -> None:
    video, audio = torch.tensor([1.0, 2.0]), torch.tensor([4.0, 8.0])
    assert flow_loss(video, audio, 0.5, 2.0).tolist() == [8.5, 17.0]
    assert flow_loss(None, audio, 0.5, 2.0).tolist() == [8.0, 16.0]


@pytest.mark.parametrize(
    "case",
    [
        {"form": "joint", "weight_video": 2.0},
        {"chosen_weight": 2.0},
        {"unpaired": True, "variant": "ipo"},
        {"noise_weights": (1.0, -1.0)},
    ],
)
def test_settings_that_contradict_each_other(case: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PreferenceLossSettings(**case)
