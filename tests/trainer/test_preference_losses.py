"""Losses against an independent numpy implementation, and their invariants."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avpref.config.training_settings import PreferenceLossSettings
from avpref.trainer.losses import (
    ModalityErrors,
    PairErrors,
    flow_loss,
    implicit_accuracy,
    preference_loss,
    ties,
    velocity_error,
)

Form = Literal["per_modality", "joint"]
Variant = Literal["sigmoid", "ipo", "hinge"]
FORMS, VARIANTS = get_args(Form), get_args(Variant)


def draw(size: int, seed: int) -> np.ndarray:
    """Errors [modality, policy/reference, chosen/rejected, B]."""
    return np.random.default_rng(seed).uniform(0.0, 2.0, (2, 2, 2, size))


def comparison(errors: np.ndarray) -> ModalityErrors:
    policy, frozen = (PairErrors(torch.tensor(side[0]), torch.tensor(side[1])) for side in errors)
    return ModalityErrors(policy, frozen)


def by_hand(errors: np.ndarray, present: list[int], loss: PreferenceLossSettings) -> np.ndarray:
    """The formulas of the specification, one pair and one modality at a time, in plain Python floats."""

    def term(z: float) -> float:
        match loss.variant:
            case "sigmoid":
                return math.log1p(math.exp(-z)) if z > 0 else -z + math.log1p(math.exp(z))
            case "hinge":
                return max(0.0, 1 - z)
            case "ipo":
                return (z - 0.5) ** 2

    def smooth(z: float) -> float:
        return (1 - loss.label_smoothing) * term(z) + loss.label_smoothing * term(-z)

    result = []
    for pair in range(errors.shape[-1]):
        logits, flow = [], 0.0
        for modality in present:
            (lw, ll), (rw, rl) = errors[modality, :, :, pair]
            beta = (loss.beta_video, loss.beta_audio)[modality]
            logits.append(-(0.5 if loss.half else 1.0) * beta * ((lw - ll) - (rw - rl)))
            flow += loss.flow_weight * lw
        preference = smooth(sum(logits)) if loss.form == "joint" else sum(smooth(z) for z in logits)
        result.append(preference + flow)
    return np.array(result)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("present", [[0, 1], [0], [1]])
def test_every_variant_equals_the_formulas(form: Form, variant: Variant, smoothing: float, present: list[int]) -> None:
    for size in range(1, 5):
        for half in (True, False):
            loss = PreferenceLossSettings(
                form=form,
                variant=variant,
                label_smoothing=smoothing,
                beta_video=3.0,
                beta_audio=5.0,
                half=half,
                flow_weight=0.3,
            )
            errors = draw(size, size)
            video, audio = (comparison(errors[m]) if m in present else None for m in (0, 1))
            terms = preference_loss(video, audio, loss)
            np.testing.assert_allclose(terms.total.numpy(), by_hand(errors, present, loss), rtol=1e-12)
            torch.testing.assert_close(terms.total, terms.preference + terms.regulariser)


@given(st.integers(0, 10_000), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_step_zero(seed: int, size: int) -> None:
    """Policy = reference: margin exactly 0, log 2 per modality, and opposite slopes for chosen and rejected."""
    errors = draw(size, seed)
    errors[:, 0] = errors[:, 1]
    video, audio = comparison(errors[0]), comparison(errors[1])
    for side in (*video.policy, *audio.policy):
        side.requires_grad_()
    loss = PreferenceLossSettings()
    terms = preference_loss(video, audio, loss)
    assert torch.equal(video.margin, torch.zeros(size, dtype=torch.float64))
    assert torch.equal(ties(video), torch.ones(size))
    assert torch.equal(implicit_accuracy(video), torch.zeros(size))
    expected = 2 * math.log(2) + 0.1 * (video.policy.chosen + audio.policy.chosen)
    torch.testing.assert_close(terms.total, expected)
    terms.total.sum().backward()
    for modality, beta in ((video, loss.beta_video), (audio, loss.beta_audio)):
        assert modality.policy.rejected.grad is not None and modality.policy.chosen.grad is not None
        torch.testing.assert_close(modality.policy.rejected.grad, torch.full((size,), -beta / 4, dtype=torch.float64))
        torch.testing.assert_close(modality.policy.chosen.grad, loss.flow_weight - modality.policy.rejected.grad)


def test_slope_of_the_released_numbers() -> None:
    """beta 1000 and D_policy - D_reference = 0.001: slope 500 sigmoid(0.5) = 311.23."""
    policy = PairErrors(
        torch.tensor([0.501], dtype=torch.float64, requires_grad=True), torch.tensor([0.5], dtype=torch.float64)
    )
    frozen = PairErrors(torch.tensor([0.5], dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64))
    preference_loss(
        None, ModalityErrors(policy, frozen), PreferenceLossSettings(flow_weight=0.0)
    ).total.sum().backward()
    assert policy.chosen.grad is not None
    assert policy.chosen.grad.item() == pytest.approx(311.23, abs=0.005)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_swapping_chosen_and_rejected_flips_the_margin(seed: int) -> None:
    errors = draw(3, seed)
    one, other = comparison(errors[0]), comparison(errors[0][:, ::-1].copy())
    assert torch.equal(one.margin, -other.margin)


@pytest.mark.parametrize("variant", VARIANTS)
def test_value_at_a_tie_does_not_depend_on_smoothing(variant: Variant) -> None:
    errors = np.ones((2, 2, 2, 1))
    values = [
        preference_loss(
            comparison(errors[0]), None, PreferenceLossSettings(variant=variant, label_smoothing=e)
        ).preference.item()
        for e in (0.0, 0.3)
    ]
    assert values[0] == pytest.approx({"sigmoid": math.log(2), "hinge": 1.0, "ipo": 0.25}[variant], abs=1e-12)
    assert values[1] == pytest.approx(values[0], abs=1e-12)


def test_velocity_error_ignores_the_sign_convention_and_reduces_per_sample() -> None:
    prediction, target = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 3, 4)
    mean, total = velocity_error(prediction, target), velocity_error(prediction, target, "sum")
    assert torch.equal(mean, velocity_error(-prediction, -target))
    torch.testing.assert_close(total, mean * 12)
    torch.testing.assert_close(mean, prediction.square().mean((1, 2)))


def test_flow_loss_adds_modalities() -> None:
    video, audio = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.25])
    assert flow_loss(video, audio).tolist() == [1.5, 2.25]
    assert flow_loss(None, audio).tolist() == [0.5, 0.25]


def test_ties_are_not_right_answers() -> None:
    policy = PairErrors(torch.tensor([1.0, 0.5, 2.0]), torch.tensor([1.0, 1.0, 1.0]))
    frozen = PairErrors(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 1.0]))
    both = ModalityErrors(policy, frozen)
    assert implicit_accuracy(both).tolist() == [0, 1, 0]
    assert ties(both).tolist() == [1, 0, 0]
