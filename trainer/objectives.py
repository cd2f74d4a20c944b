"""Training objectives: the loss of a batch, and metrics per sample from the same predictions."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from avpref.config.training_settings import PreferenceLossSettings
from avpref.models.flow import Latents
from avpref.trainer.adapters import Policy, reference
from avpref.trainer.losses import (
    ModalityErrors,
    Reduction,
    flow_loss,
    implicit_accuracy,
    preference_loss,
    split_pairs,
    ties,
    velocity_error,
)
from avpref.trainer.noise import FlowBatch


class LossAndMetrics(NamedTuple):
    """Loss summed over the batch's samples, metrics [n] by name, and the samples' timesteps t [n].

    ``counted`` holds, for metrics that not every sample has, the samples that count, bool [n].
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    t: Tensor
    counted: Mapping[str, Tensor] = MappingProxyType({})


class Objective(Protocol):
    """A network with a loss. The trained parameters are those of ``module`` that require a gradient."""

    @property
    def module(self) -> nn.Module:
        """The network."""

    def compute(self, batch: FlowBatch) -> LossAndMetrics:
        """Loss (with its graph) and metrics of a batch."""


class FlowObjective:
    """Flow matching: velocity regression, both modalities with weight 1.

    ``num_video_latents`` is the number of video latent frames to which an audio-only network aligns its positions.
    """

    def __init__(self, network: nn.Module, num_video_latents: int | None = None) -> None:
        self.module = network
        self._keywords = {} if num_video_latents is None else {"num_video_latents": num_video_latents}

    def compute(self, batch: FlowBatch) -> LossAndMetrics:
        """Metrics: loss and flow_video, flow_audio, the mean squared velocity errors."""
        velocity = self.module(batch.noisy, batch.t, batch.text, batch.text_mask, **self._keywords)
        video, audio = errors_of(velocity, batch.target, "mean")
        loss = flow_loss(video, audio)
        metrics = {"loss": loss, "flow_video": video, "flow_audio": audio}
        return LossAndMetrics(loss.sum(), _present(metrics), batch.t)


class ReferenceScores(NamedTuple):
    """Errors [2n] of the reference on each modality, and its predicted velocities (None if the errors come from a table)."""

    video: Tensor | None
    audio: Tensor | None
    velocity: Latents | None


class Reference(Protocol):
    """Source of the reference's errors: a forward pass (:class:`LiveReference`) or a table
    (:class:`avpref.trainer.reference_cache.CachedReference`).
    """

    def scores(self, batch: FlowBatch) -> ReferenceScores:
        """Errors on the 2n rows of a batch of pairs."""


class LiveReference:
    """The frozen reference of the policy: one forward pass without gradients per batch."""

    def __init__(self, policy: Policy, reduction: Reduction) -> None:
        self._policy, self._reduction = policy, reduction

    def scores(self, batch: FlowBatch) -> ReferenceScores:
        """Errors and predictions on the rows of ``batch``."""
        with reference(self._policy) as model:
            velocity = model(batch.noisy, batch.t, batch.text, batch.text_mask)
        return ReferenceScores(*errors_of(velocity, batch.target, self._reduction), velocity)


class PreferenceObjective:
    """AV-DPO on pairs: four errors per modality and pair, from one policy pass over 2n rows and the reference's errors."""

    def __init__(self, policy: Policy, settings: PreferenceLossSettings, scores: Reference) -> None:
        self.module: nn.Module = policy.model
        self._settings, self._scores = settings, scores

    def compute(self, batch: FlowBatch) -> LossAndMetrics:
        """Metrics per pair: loss, preference, those of :func:`modality_metrics`, and drift if the reference's velocities are known.

        Where the batch says which modalities a pair moves, only the pairs that move a modality count in its metrics; drift counts all.
        """
        scores = self._scores.scores(batch)
        velocity = self.module(batch.noisy, batch.t, batch.text, batch.text_mask)
        video, audio = (
            None if policy is None or frozen is None else ModalityErrors(split_pairs(policy), split_pairs(frozen))
            for policy, frozen in zip(
                errors_of(velocity, batch.target, self._settings.reduction), scores[:2], strict=True
            )
        )
        terms = preference_loss(video, audio, self._settings, batch.moves)
        metrics: dict[str, Tensor | None] = {"loss": terms.total, "preference": terms.preference}
        counted: dict[str, Tensor] = {}
        moved = (None, None) if batch.moves is None else batch.moves
        of_modality = {"video": (video, terms.preference_video), "audio": (audio, terms.preference_audio)}
        for (name, (errors, preference)), moves in zip(of_modality.items(), moved, strict=True):
            own = {f"preference_{name}": preference} | ({} if errors is None else modality_metrics(name, errors))
            metrics |= own
            counted |= {} if moves is None else dict.fromkeys(own, moves)
        if scores.velocity is not None:
            drift = errors_of(velocity, scores.velocity, "mean")
            metrics |= {"drift_video": _pair_mean(drift[0]), "drift_audio": _pair_mean(drift[1])}
        return LossAndMetrics(terms.total.sum(), _present(metrics), batch.t.chunk(2)[0], counted)


def modality_metrics(name: str, errors: ModalityErrors) -> dict[str, Tensor | None]:
    """Metrics per pair [n]: implicit accuracy, ties, margin, chosen error, and both errors relative to the reference."""
    policy, frozen = errors
    return {
        f"implicit_accuracy_{name}": implicit_accuracy(errors),
        f"ties_{name}": ties(errors),
        f"margin_{name}": errors.margin,
        f"flow_{name}": policy.chosen,
        f"chosen_shift_{name}": policy.chosen - frozen.chosen,
        f"rejected_shift_{name}": policy.rejected - frozen.rejected,
    }


def errors_of(prediction: Latents, target: Latents, reduction: Reduction) -> tuple[Tensor | None, Tensor | None]:
    """Velocity errors [rows] of video and audio; None for an absent modality."""
    video, audio = (
        None if predicted is None or wanted is None else velocity_error(predicted, wanted, reduction)
        for predicted, wanted in zip(prediction, target, strict=True)
    )
    return video, audio


def _pair_mean(errors: Tensor | None) -> Tensor | None:
    return None if errors is None else torch.stack(errors.chunk(2)).mean(0)


def _present(metrics: dict[str, Tensor | None]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in metrics.items() if value is not None}
