"""What one batch says: the loss to go down, and numbers per sample that come from the same predictions."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from avpref.config.training_settings import PreferenceLossSettings
from avpref.models.flow import Latents
from avpref.trainer.adapters import Policy, reference
from avpref.trainer.losses import (
    Comparison,
    Reduction,
    flow_loss,
    implicit_accuracy,
    preference_loss,
    split_pairs,
    ties,
    velocity_error,
)
from avpref.trainer.noise import FlowBatch


class Outcome(NamedTuple):
    """Loss summed over the batch's samples, metrics [n] by name, and the samples' timesteps t [n]."""

    loss: Tensor
    metrics: dict[str, Tensor]
    t: Tensor


class Objective(Protocol):
    """A network with a loss. ``module`` holds the parameters that are trained: those that require a gradient."""

    @property
    def module(self) -> nn.Module:
        """The network."""

    def outcome(self, batch: FlowBatch) -> Outcome:
        """Loss and metrics of a batch, with the loss's graph."""


class FlowObjective:
    """Flow matching: regress the velocity, both modalities with weight 1.

    ``num_video_latents`` is the number of video latent frames that an audio-only network aligns its positions with.
    """

    def __init__(self, network: nn.Module, num_video_latents: int | None = None) -> None:
        self.module = network
        self._extra = {} if num_video_latents is None else {"num_video_latents": num_video_latents}

    def outcome(self, batch: FlowBatch) -> Outcome:
        """Metrics: loss and flow_video, flow_audio, the mean squared velocity errors."""
        velocity = self.module(batch.noisy, batch.t, batch.text, batch.text_mask, **self._extra)
        video, audio = errors_of(velocity, batch.target, "mean")
        loss = flow_loss(video, audio)
        metrics = {"loss": loss, "flow_video": video, "flow_audio": audio}
        return Outcome(loss.sum(), _present(metrics), batch.t)


class ReferenceScores(NamedTuple):
    """Errors [2n] of the reference on each modality, and its predictions where they were computed now."""

    video: Tensor | None
    audio: Tensor | None
    velocity: Latents | None


class Reference(Protocol):
    """Where the reference's errors come from: a forward pass (:class:`LiveReference`) or a table of scores."""

    def scores(self, batch: FlowBatch) -> ReferenceScores:
        """Errors on the rows of a batch of pairs."""


class LiveReference:
    """The policy's own frozen reference, one forward pass without gradients per batch."""

    def __init__(self, policy: Policy, reduction: Reduction) -> None:
        self._policy, self._reduction = policy, reduction

    def scores(self, batch: FlowBatch) -> ReferenceScores:
        """Errors and predictions on the rows of ``batch``."""
        with reference(self._policy) as model:
            velocity = model(batch.noisy, batch.t, batch.text, batch.text_mask)
        return ReferenceScores(*errors_of(velocity, batch.target, self._reduction), velocity)


class PreferenceObjective:
    """AV-DPO on pairs: four errors per modality and pair, from one policy pass over 2n rows and the reference's scores."""

    def __init__(self, policy: Policy, settings: PreferenceLossSettings, scores: Reference) -> None:
        self.module: nn.Module = policy.model
        self._settings, self._scores = settings, scores

    def outcome(self, batch: FlowBatch) -> Outcome:
        """Metrics per pair: loss, preference, and per modality those of :func:`comparison_metrics`, and drift if it is known."""
        scores = self._scores.scores(batch)
        velocity = self.module(batch.noisy, batch.t, batch.text, batch.text_mask)
        video, audio = (
            None if mine is None or theirs is None else Comparison(split_pairs(mine), split_pairs(theirs))
            for mine, theirs in zip(
                errors_of(velocity, batch.target, self._settings.reduction), scores[:2], strict=True
            )
        )
        terms = preference_loss(video, audio, self._settings)
        metrics: dict[str, Tensor | None] = {"loss": terms.total, "preference": terms.preference}
        metrics |= {"preference_video": terms.preference_video, "preference_audio": terms.preference_audio}
        for name, comparison in (("video", video), ("audio", audio)):
            if comparison is not None:
                metrics |= comparison_metrics(name, comparison)
        if scores.velocity is not None:
            drift = errors_of(velocity, scores.velocity, "mean")
            metrics |= {"drift_video": _pair_mean(drift[0]), "drift_audio": _pair_mean(drift[1])}
        return Outcome(terms.total.sum(), _present(metrics), batch.t.chunk(2)[0])


def comparison_metrics(name: str, comparison: Comparison) -> dict[str, Tensor | None]:
    """Per pair [n]: implicit accuracy, ties, margin, the chosen side's error, and both sides' errors relative to the reference."""
    policy, frozen = comparison
    return {
        f"implicit_accuracy_{name}": implicit_accuracy(comparison),
        f"ties_{name}": ties(comparison),
        f"margin_{name}": comparison.margin,
        f"flow_{name}": policy.chosen,
        f"chosen_shift_{name}": policy.chosen - frozen.chosen,
        f"rejected_shift_{name}": policy.rejected - frozen.rejected,
    }


def errors_of(prediction: Latents, target: Latents, reduction: Reduction) -> tuple[Tensor | None, Tensor | None]:
    """Velocity errors [rows] of video and audio; None for an absent modality."""
    video, audio = (
        None if one is None or other is None else velocity_error(one, other, reduction)
        for one, other in zip(prediction, target, strict=True)
    )
    return video, audio


def _pair_mean(errors: Tensor | None) -> Tensor | None:
    return None if errors is None else torch.stack(errors.chunk(2)).mean(0)


def _present(metrics: dict[str, Tensor | None]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in metrics.items() if value is not None}
