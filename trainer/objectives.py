"""Training objectives: the loss of a batch, and metrics per sample from the same predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def joined(results: Sequence[LossAndMetrics]) -> LossAndMetrics:
    """The results of several passes over parts of one batch as one: losses summed, metrics of all samples.

    A metric that only some passes have counts for their samples alone.
    """
    if len(results) == 1:
        return results[0]
    names = list(dict.fromkeys(name for result in results for name in result.metrics))
    metrics, counted = {}, {}
    for name in names:
        parts = [result.metrics.get(name, torch.zeros_like(result.t)) for result in results]
        counts = [_counts(result, name) for result in results]
        metrics[name], count = torch.cat(parts), torch.cat(counts)
        if any(name in result.counted or name not in result.metrics for result in results):
            counted[name] = count
    loss = torch.stack([result.loss for result in results]).sum()
    return LossAndMetrics(loss, metrics, torch.cat([result.t for result in results]), counted)


def _counts(result: LossAndMetrics, name: str) -> Tensor:
    """Which samples of a pass have a metric, bool [n]."""
    if name not in result.metrics:
        return torch.zeros_like(result.t, dtype=torch.bool)
    return result.counted.get(name, torch.ones_like(result.t, dtype=torch.bool))


class Objective(Protocol):
    """A network with a loss. The trained parameters are those of ``module`` that require a gradient."""

    @property
    def module(self) -> nn.Module:
        """The network."""

    def compute(self, batch: FlowBatch) -> LossAndMetrics:
        """Loss (with its graph) and metrics of a batch."""


class FlowObjective:
    """Flow matching: velocity regression, both modalities with weight 1.

    ``spans`` maps the audio latent steps of a clip to the video latent frames to which an audio-only network aligns its positions.
    """

    def __init__(self, network: nn.Module, spans: Mapping[int, int] | None = None) -> None:
        self.module, self._spans = network, spans

    def compute(self, batch: FlowBatch) -> LossAndMetrics:
        """Metrics: loss and flow_video, flow_audio, the mean squared velocity errors."""
        keywords = {}
        if self._spans is not None and batch.noisy.audio is not None:
            keywords["num_video_latents"] = self._spans[batch.noisy.audio.shape[2]]
        velocity = self.module(batch.noisy, batch.t, batch.text, batch.text_mask, **keywords)
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
