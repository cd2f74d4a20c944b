"""AV-DPO and flow-matching losses as pure functions of a few scalars per sample, without networks or randomness.

Symbols: for one modality, l_w and l_l are the policy's velocity errors on the chosen and the rejected clip, r_w and r_l the
reference's on the same noisy inputs; D_policy = l_w - l_l, D_reference = r_w - r_l. Sources: JavisDiT++ eq. (5), eq. (A1) and the
released loss of its rectified-flow scheduler; IPO: Azar et al. 2023, eq. (17); conservative (smoothed) DPO: Mitchell 2023.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from avpref.config.training_settings import PreferenceLossSettings

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


def _variant(logit: Tensor, variant: Literal["sigmoid", "ipo", "hinge"]) -> Tensor:
    match variant:
        case "sigmoid":
            return -F.logsigmoid(logit)
        case "hinge":
            return torch.relu(1 - logit)
        case "ipo":
            return (logit - 0.5).square()


def preference_loss(
    video: ModalityErrors | None, audio: ModalityErrors | None, settings: PreferenceLossSettings
) -> PreferenceTerms:
    """The AV-DPO loss of each pair from four scalars per modality.

    ``per_modality`` (released): sum over modalities of f(z_k); ``joint`` (paper, eq. 5): f(z_video + z_audio). Both add
    ``flow_weight`` * l_w of every modality, reduced as the errors were. Invariants: with policy = reference the preference part is
    f(0) per modality (log 2 each for the sigmoid) and the gradient with respect to a rejected error is minus the preference part
    of its chosen error's.
    """
    weighted = ((video, settings.beta_video), (audio, settings.beta_audio))
    present = [(errors, beta) for errors, beta in weighted if errors is not None]
    assert present, "a preference needs at least one modality"
    logits = [preference_logit(errors, beta, settings.half) for errors, beta in present]
    regulariser = settings.flow_weight * torch.stack([errors.policy.chosen for errors, _ in present]).sum(0)
    if settings.form == "joint":
        preference = preference_term(torch.stack(logits).sum(0), settings.variant, settings.label_smoothing)
        return PreferenceTerms(preference + regulariser, preference, regulariser, None, None)
    terms = [preference_term(logit, settings.variant, settings.label_smoothing) for logit in logits]
    preference = torch.stack(terms).sum(0)
    video_term = terms[0] if video is not None else None
    audio_term = terms[-1] if audio is not None else None
    return PreferenceTerms(preference + regulariser, preference, regulariser, video_term, audio_term)


def implicit_accuracy(errors: ModalityErrors) -> Tensor:
    """1.0 where D_policy < D_reference strictly, else 0.0, [B] (paper, eq. A1). Ties count as wrong; see :func:`ties`."""
    return (errors.policy.difference < errors.reference.difference).float()


def ties(errors: ModalityErrors) -> Tensor:
    """1.0 where D_policy equals D_reference exactly, else 0.0, [B]; all ones before the first step."""
    return (errors.policy.difference == errors.reference.difference).float()


def flow_loss(video: Tensor | None, audio: Tensor | None) -> Tensor:
    """Flow-matching loss of each clip: the modalities' mean squared velocity errors [B], summed with weight 1 -> [B]."""
    present = [errors for errors in (video, audio) if errors is not None]
    assert present, "a clip needs at least one modality"
    return torch.stack(present).sum(0)
