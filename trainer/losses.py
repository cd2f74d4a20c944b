"""AV-DPO and flow-matching losses as pure functions of a few scalars per sample, without networks or randomness.

Symbols: for one modality, l_w and l_l are the policy's velocity errors on the chosen and the rejected clip, r_w and r_l the
reference's on the same noisy inputs; D_policy = l_w - l_l, D_reference = r_w - r_l. Sources: JavisDiT++ eq. (5), eq. (A1) and the
released loss of its rectified-flow scheduler; IPO: Azar et al. 2023, eq. (17); conservative (smoothed) DPO: Mitchell 2023; unpaired:
Ethayarajh et al. 2024 (KTO) and Li et al. 2024 (Diffusion-KTO); margin without a reference: Meng et al. 2024 (SimPO).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from avpref.config.training.preference_settings import PreferenceLossSettings

Reduction = Literal["mean", "sum"]


class PairErrors(NamedTuple):
    """Velocity errors of one network on one modality: chosen [B] and rejected [B], same noise and timestep within a pair."""

    chosen: Tensor
    rejected: Tensor

    @property
    def difference(self) -> Tensor:
        """D = error on the chosen minus error on the rejected clip, [B]."""
        return self.chosen - self.rejected


class ModalityErrors(NamedTuple):
    """Errors of policy and reference on one modality."""

    policy: PairErrors
    reference: PairErrors

    @property
    def margin(self) -> Tensor:
        """D_reference - D_policy, [B]: positive where the policy prefers the chosen clip more than the reference does.

        Invariants: exactly 0 where policy and reference errors are equal; swapping chosen and rejected flips the sign.
        """
        return self.reference.difference - self.policy.difference


class Moves(NamedTuple):
    """Whether the loss of each pair moves a modality, bool [B] each: a pair that was selected for its picture moves video alone."""

    video: Tensor
    audio: Tensor


class LossWeights(NamedTuple):
    """Weights of the pairs' preference parts, and of the terms of each modality, [B] each; None: all are 1."""

    pair: Tensor | None = None
    video: Tensor | None = None
    audio: Tensor | None = None


class PreferenceTerms(NamedTuple):
    """The loss of each pair and its parts, all [B]: ``total`` = ``preference`` + ``regulariser``, summed over modalities."""

    total: Tensor
    preference: Tensor
    regulariser: Tensor
    preference_video: Tensor | None
    preference_audio: Tensor | None


def velocity_error(prediction: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Squared error of each sample over all its elements: prediction, target [B, ...] -> float32 [B].

    ``mean`` is the released form, ``sum`` the paper's squared norm. Invariants: 0 for equal inputs; negating both inputs changes
    nothing.
    """
    squared = (prediction.float() - target.float()).square().flatten(1)
    return squared.mean(1) if reduction == "mean" else squared.sum(1)


def split_pairs(errors: Tensor) -> PairErrors:
    """Errors [2B] of rows (all chosen, then all rejected) -> the two halves."""
    chosen, rejected = errors.chunk(2)
    return PairErrors(chosen, rejected)


def preference_logit(errors: ModalityErrors, beta: float, half: bool = True) -> Tensor:
    """z = beta * margin, times 1/2 with ``half`` (the released form), [B]."""
    return (0.5 * beta if half else beta) * errors.margin


def side_logits(errors: ModalityErrors, beta: float, half: bool = True) -> PairErrors:
    """Implicit rewards of each clip alone: h = beta (reference error - policy error), times 1/2 with ``half``, [B] per side."""
    scale = 0.5 * beta if half else beta
    policy, frozen = errors
    return PairErrors(scale * (frozen.chosen - policy.chosen), scale * (frozen.rejected - policy.rejected))


def preference_term(
    logit: Tensor, variant: Literal["sigmoid", "ipo", "hinge"] = "sigmoid", label_smoothing: float = 0.0
) -> Tensor:
    """Loss f(z) of logits [B], smoothed to (1 - e) f(z) + e f(-z) -> [B].

    sigmoid: -log sigmoid(z); hinge: max(0, 1 - z); ipo: (z - 1/2)^2, which is beta^2 times Azar's (h - 1/(2 beta))^2 for
    z = beta h and so has the same minimum. Invariants: at z = 0 the value is log 2, 1 and 1/4, with or without smoothing;
    the slope in z is not positive below the optimum.
    """
    if label_smoothing == 0.0:
        return _variant(logit, variant)
    return (1 - label_smoothing) * _variant(logit, variant) + label_smoothing * _variant(-logit, variant)


def unpaired_term(rewards: PairErrors, settings: PreferenceLossSettings) -> Tensor:
    """KTO's value function with reference point 0, one clip at a time: a (1 - sigmoid(h_w)) + b (1 - sigmoid(-h_l)) -> [B].

    a is ``chosen_weight`` and b ``rejected_weight``; smoothing mixes in the value of the opposite label. Invariants: (a + b) / 2 where
    policy = reference; the two sides do not see each other.
    """
    smoothing = settings.label_smoothing

    def term(reward: Tensor) -> Tensor:
        return (1 - smoothing) * torch.sigmoid(-reward) + smoothing * torch.sigmoid(reward)

    return settings.chosen_weight * term(rewards.chosen) + settings.rejected_weight * term(-rewards.rejected)


def _variant(logit: Tensor, variant: Literal["sigmoid", "ipo", "hinge"]) -> Tensor:
    match variant:
        case "sigmoid":
            return -F.logsigmoid(logit)
        case "hinge":
            return torch.relu(1 - logit)
        case "ipo":
            return (logit - 0.5).square()


class _Modality(NamedTuple):
    """One present modality of a batch of pairs: errors, beta, the pairs that move it, and the weights of its terms."""

    errors: ModalityErrors
    beta: float
    moved: Tensor | None
    weight: Tensor | None


def preference_loss(
    video: ModalityErrors | None,
    audio: ModalityErrors | None,
    settings: PreferenceLossSettings,
    moves: Moves | None = None,
    weights: LossWeights | None = None,
) -> PreferenceTerms:
    """The AV-DPO loss of each pair from four scalars per modality.

    ``per_modality`` (released): sum over modalities of f(z_k); ``joint`` (paper, eq. 5): f(z_video + z_audio). Both add
    ``flow_weight`` * l_w of every modality, reduced as the errors were. Invariants: with policy = reference the preference part is
    f(0) per modality (log 2 each for the sigmoid) and the gradient with respect to a rejected error is minus the preference part
    of its chosen error's.

    ``target_margin`` g makes the preference f(z - g) (SimPO's margin, for a loss without a reference). With ``unpaired`` each clip is
    judged alone (:func:`unpaired_term`). ``weights`` multiply terms: a pair's weight its preference part, a modality's weight both
    of its terms; the preference part of ``joint``, which has no modality, gets the mean of the modalities' weights.

    ``moves`` (none: every pair moves every modality) leaves the other modality's terms out of a pair's loss: f(z_k) and the flow
    term of the modality are 0, and ``joint`` adds the logits of the moved modalities alone. Their gradients are exactly 0.
    """
    moved_video, moved_audio = (None, None) if moves is None else moves
    pair_weight, weight_video, weight_audio = (None, None, None) if weights is None else weights
    present = [
        _Modality(errors, beta, moved, weight)
        for errors, beta, moved, weight in (
            (video, settings.beta_video, moved_video, weight_video),
            (audio, settings.beta_audio, moved_audio, weight_audio),
        )
        if errors is not None
    ]
    assert present, "a preference needs at least one modality"
    regulariser = settings.flow_weight * torch.stack(
        [_weighted(_kept(part.errors.policy.chosen, part.moved), part.weight) for part in present]
    ).sum(0)
    if settings.form == "joint":
        preference = _weighted(_weighted(_joint_term(present, settings), _mean_weight(present)), pair_weight)
        return PreferenceTerms(preference + regulariser, preference, regulariser, None, None)
    terms = [
        _weighted(_weighted(_kept(_modality_term(part, settings), part.moved), part.weight), pair_weight)
        for part in present
    ]
    preference = torch.stack(terms).sum(0)
    video_term = terms[0] if video is not None else None
    audio_term = terms[-1] if audio is not None else None
    return PreferenceTerms(preference + regulariser, preference, regulariser, video_term, audio_term)


def _modality_term(part: _Modality, settings: PreferenceLossSettings) -> Tensor:
    if settings.unpaired:
        return unpaired_term(_less_target(side_logits(part.errors, part.beta, settings.half), settings), settings)
    logit = preference_logit(part.errors, part.beta, settings.half)
    return preference_term(_below_target(logit, settings), settings.variant, settings.label_smoothing)


def _joint_term(present: Sequence[_Modality], settings: PreferenceLossSettings) -> Tensor:
    if settings.unpaired:
        sides = [side_logits(part.errors, part.beta, settings.half) for part in present]
        sums = (
            torch.stack([_kept(side, part.moved) for side, part in zip(of_side, present, strict=True)]).sum(0)
            for of_side in zip(*sides, strict=True)
        )
        return unpaired_term(_less_target(PairErrors(*sums), settings), settings)
    logits = [_kept(preference_logit(part.errors, part.beta, settings.half), part.moved) for part in present]
    logit = _below_target(torch.stack(logits).sum(0), settings)
    return preference_term(logit, settings.variant, settings.label_smoothing)


def _below_target(logit: Tensor, settings: PreferenceLossSettings) -> Tensor:
    return logit - settings.target_margin if settings.target_margin else logit


def _less_target(rewards: PairErrors, settings: PreferenceLossSettings) -> PairErrors:
    """Rewards that must exceed the target margin on the chosen side, and fall below minus the target on the rejected one."""
    target = settings.target_margin
    return PairErrors(rewards.chosen - target, rewards.rejected + target) if target else rewards


def _weighted(values: Tensor, weight: Tensor | None) -> Tensor:
    return values if weight is None else values * weight


def _mean_weight(present: Sequence[_Modality]) -> Tensor | None:
    weights = [part.weight for part in present if part.weight is not None]
    return torch.stack(weights).mean(0) if weights else None


def _kept(values: Tensor, moved: Tensor | None) -> Tensor:
    """``values`` [B], with 0 (and no gradient) where ``moved`` is false."""
    return values if moved is None else torch.where(moved, values, torch.zeros_like(values))


def noise_weight(t: Tensor, weights: Sequence[float]) -> Tensor:
    """The weight of each timestep t [B] in [0, 1]: ``weights`` are those of equally wide intervals of t, from data to noise."""
    table = torch.tensor(weights, device=t.device, dtype=torch.float32)
    index = (t * len(weights)).long().clamp_(0, len(weights) - 1)
    return table[index]


def implicit_accuracy(errors: ModalityErrors) -> Tensor:
    """1.0 where D_policy < D_reference strictly, else 0.0, [B] (paper, eq. A1). Ties count as wrong; see :func:`ties`."""
    return (errors.policy.difference < errors.reference.difference).float()


def ties(errors: ModalityErrors) -> Tensor:
    """1.0 where D_policy equals D_reference exactly, else 0.0, [B]; all ones before the first step."""
    return (errors.policy.difference == errors.reference.difference).float()


def flow_loss(
    video: Tensor | None, audio: Tensor | None, weight_video: float = 1.0, weight_audio: float = 1.0
) -> Tensor:
    """Flow-matching loss of each clip: the weighted sum of the modalities' mean squared velocity errors [B] -> [B]."""
    weighted = ((video, weight_video), (audio, weight_audio))
    present = [errors if weight == 1.0 else errors * weight for errors, weight in weighted if errors is not None]
    assert present, "a clip needs at least one modality"
    return torch.stack(present).sum(0)
