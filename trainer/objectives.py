"""Training objectives: the loss of a batch, and metrics per sample from the same predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from avpref.config.training.preference_settings import PreferenceLossSettings
from avpref.models.dual_stream.dual_flow import masked_mean
from avpref.models.flow import Latents
from avpref.trainer.adapters import Policy, reference
from avpref.trainer.data.conditions import LatentMasks
from avpref.trainer.losses import (
    LossWeights,
    ModalityErrors,
    PreferenceTerms,
    Reduction,
    flow_loss,
    implicit_accuracy,
    noise_weight,
    preference_loss,
    split_pairs,
    ties,
    velocity_error,
)
from avpref.trainer.noise import FlowBatch


class LossAndMetrics(NamedTuple):
    """Loss summed over the batch's samples, metrics [n] by name, and the samples' timesteps t [n].

    ``counted`` holds, for metrics that not every sample has, the samples that count, bool [n]. ``replay``, where it is set, computes
    the gradient of loss / divisor instead of the loss's graph.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    t: Tensor
    counted: Mapping[str, Tensor] = MappingProxyType({})
    replay: Callable[[float], None] | None = None

    def backward(self, divisor: float) -> None:
        """Add the gradient of loss / ``divisor`` to those of the trained parameters."""
        if self.replay is None:
            (self.loss / divisor).backward()
        else:
            self.replay(divisor)


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


BatchIn = TypeVar("BatchIn", contravariant=True)


class Objective(Protocol[BatchIn]):
    """A network with a loss. The trained parameters are those of ``module`` that require a gradient."""

    @property
    def module(self) -> nn.Module:
        """The network."""

    def compute(self, batch: BatchIn) -> LossAndMetrics:
        """Loss (with its graph) and metrics of a batch."""


class FlowObjective:
    """Flow matching: velocity regression, both modalities with weight 1 unless ``weights`` (video, audio) say otherwise.

    ``spans`` maps the audio latent steps of a clip to the video latent frames to which an audio-only network aligns its positions.
    """

    def __init__(
        self, network: nn.Module, spans: Mapping[int, int] | None = None, weights: tuple[float, float] = (1.0, 1.0)
    ) -> None:
        self.module, self._spans, self._weights = network, spans, weights

    def compute(self, batch: FlowBatch) -> LossAndMetrics:
        """Metrics: loss and flow_video, flow_audio, the mean squared velocity errors."""
        keywords: dict[str, object] = {} if batch.dropped is None else {"dropped": batch.dropped}
        if self._spans is not None and batch.noisy.audio is not None:
            keywords["num_video_latents"] = self._spans[batch.noisy.audio.shape[2]]
        velocity = self.module(batch.noisy, batch.times, batch.text, batch.text_mask, **keywords)
        video, audio = errors_of(velocity, batch.target, "mean", batch.masks)
        loss = flow_loss(video, audio, *self._weights)
        metrics = {"loss": loss, "flow_video": video, "flow_audio": audio}
        return LossAndMetrics(loss.sum(), _present(metrics), batch.t)


class ReferenceScores(NamedTuple):
    """Errors [2n] of the reference on each modality, and its predicted velocities (None if the errors come from a table).

    ``is_known`` is false for a loss without a reference, whose errors are 0.
    """

    video: Tensor | None
    audio: Tensor | None
    velocity: Latents | None
    is_known: bool = True


class Reference(Protocol):
    """Source of the reference's errors: a forward pass (:class:`LiveReference`), a table
    (:class:`avpref.trainer.reference_cache.CachedReference`), or none (:class:`NoReference`).
    """

    def scores(self, batch: FlowBatch) -> ReferenceScores:
        """Errors on the 2n rows of a batch of pairs."""


class LiveReference:
    """The reference of the policy: a forward pass without gradients per batch, or with ``by_side`` one for each side of the pairs.

    The policy must run on the same rows at a time, so that both are bitwise equal before the first step.
    """

    def __init__(self, policy: Policy, reduction: Reduction, by_side: bool = False) -> None:
        self._policy, self._reduction, self._by_side = policy, reduction, by_side

    def scores(self, batch: FlowBatch) -> ReferenceScores:
        """Errors and predictions on the rows of ``batch``."""
        with reference(self._policy) as model:
            velocity = predict_by_side(model, batch) if self._by_side else predict(model, batch)
        return ReferenceScores(*errors_of(velocity, batch.target, self._reduction), velocity)


class NoReference:
    """Errors of 0 in the place of a reference's: the margin is then that of the policy's own errors."""

    def scores(self, batch: FlowBatch) -> ReferenceScores:
        """Zeros on the rows of ``batch``."""
        video, audio = (None if latents is None else torch.zeros_like(batch.t) for latents in batch.target)
        return ReferenceScores(video, audio, None, is_known=False)


def predict(network: Callable[..., Latents], batch: FlowBatch) -> Latents:
    """Velocities of all rows of ``batch``."""
    return network(batch.noisy, batch.times, batch.text, batch.text_mask)


def predict_by_side(network: Callable[..., Latents], batch: FlowBatch) -> Latents:
    """Velocities of the chosen rows, then of the rejected ones: two passes over half of the rows."""
    parts = [predict(network, batch.rows(side)) for side in sides_of(batch)]
    video, audio = (
        torch.cat([part for part in of_modality if part is not None]) if of_modality[0] is not None else None
        for of_modality in zip(*parts, strict=True)
    )
    return Latents(video, audio)


def sides_of(batch: FlowBatch) -> tuple[slice, slice]:
    """The rows of the chosen clips and those of the rejected ones."""
    count = len(batch.t) // 2
    return slice(0, count), slice(count, 2 * count)


class PreferenceObjective:
    """AV-DPO on pairs: four errors per modality and pair, from a policy pass over 2n rows and the reference's errors.

    With ``by_side`` each side of the pairs has a forward pass of its own. Together with checkpointing, half of a block's activations
    exist at a time. With ``two_pass`` the policy first scores each side without gradients. The loss then depends on the sides through
    their errors alone: each side is predicted again with gradients, and its errors are weighted by the slope of the loss. The gradient
    is the same, and the activations of only one side exist at a time.
    """

    def __init__(
        self,
        policy: Policy,
        settings: PreferenceLossSettings,
        scores: Reference,
        two_pass: bool = False,
        by_side: bool = False,
    ) -> None:
        self.module: nn.Module = policy.model
        self._settings, self._scores, self._two_pass = settings, scores, two_pass
        self._predict = predict_by_side if by_side or two_pass else predict

    def compute(self, batch: FlowBatch) -> LossAndMetrics:
        """Metrics per pair: loss, preference, those of :func:`modality_metrics`, and drift if the reference's velocities are known.

        Where the batch says which modalities a pair moves, only the pairs that move a modality count in its metrics; drift counts all.
        """
        scores = self._scores.scores(batch)
        if not self._two_pass:
            velocity = self._predict(self.module, batch)
            errors = errors_of(velocity, batch.target, self._settings.reduction)
            return self._result(batch, scores, velocity, errors)
        with torch.no_grad():
            velocity = self._predict(self.module, batch)
        video, audio = (
            None if error is None else error.detach().requires_grad_()
            for error in errors_of(velocity, batch.target, self._settings.reduction)
        )
        result = self._result(batch, scores, velocity, (video, audio))
        leaves = [leaf for leaf in (video, audio) if leaf is not None]
        slopes = torch.autograd.grad(result.loss, leaves, retain_graph=True)
        return result._replace(replay=lambda divisor: self._replay(batch, slopes, divisor))

    def _replay(self, batch: FlowBatch, slopes: tuple[Tensor, ...], divisor: float) -> None:
        """Add the gradient of each side's errors, weighted by ``slopes`` [2n] of the present modalities."""
        for side in sides_of(batch):
            rows = batch.rows(side)
            errors = errors_of(predict(self.module, rows), rows.target, self._settings.reduction)
            present = [error for error in errors if error is not None]
            total = torch.stack([slope[side] * error for slope, error in zip(slopes, present, strict=True)]).sum()
            (total / divisor).backward()

    def _result(
        self,
        batch: FlowBatch,
        scores: ReferenceScores,
        velocity: Latents,
        policy_errors: tuple[Tensor | None, Tensor | None],
    ) -> LossAndMetrics:
        video, audio = (
            None if policy is None or frozen is None else ModalityErrors(split_pairs(policy), split_pairs(frozen))
            for policy, frozen in zip(policy_errors, scores[:2], strict=True)
        )
        terms = preference_loss(video, audio, self._settings, batch.moves, loss_weights(batch, self._settings))
        metrics, counted = _preference_metrics(batch, terms, (video, audio), scores.is_known)
        if scores.velocity is not None:
            drift = errors_of(velocity, scores.velocity, "mean")
            metrics |= {"drift_video": _pair_mean(drift[0]), "drift_audio": _pair_mean(drift[1])}
        return LossAndMetrics(terms.total.sum(), _present(metrics), batch.t.chunk(2)[0], counted)


def loss_weights(batch: FlowBatch, settings: PreferenceLossSettings) -> LossWeights | None:
    """Weights of a batch's pairs, and of its modalities at their timesteps; None where all are 1."""
    is_plain = (settings.weight_video, settings.weight_audio) == (1.0, 1.0) and not settings.noise_weights
    if is_plain:
        return None if batch.weights is None else LossWeights(batch.weights)

    def of_modality(weight: float, t: Tensor) -> Tensor:
        chosen = t.chunk(2)[0]
        by_noise = noise_weight(chosen, settings.noise_weights) if settings.noise_weights else torch.ones_like(chosen)
        return weight * by_noise

    return LossWeights(
        batch.weights,
        of_modality(settings.weight_video, batch.t),
        of_modality(settings.weight_audio, batch.audio_times),
    )


def _preference_metrics(
    batch: FlowBatch,
    terms: PreferenceTerms,
    errors: tuple[ModalityErrors | None, ModalityErrors | None],
    has_reference: bool,
) -> tuple[dict[str, Tensor | None], dict[str, Tensor]]:
    """Metrics of the pairs by name, and the pairs that count in those of a modality that not every pair moves."""
    metrics: dict[str, Tensor | None] = {"loss": terms.total, "preference": terms.preference}
    counted: dict[str, Tensor] = {}
    moved = (None, None) if batch.moves is None else batch.moves
    of_modality = {"video": (errors[0], terms.preference_video), "audio": (errors[1], terms.preference_audio)}
    for (name, (pair_errors, preference)), moves in zip(of_modality.items(), moved, strict=True):
        own = {f"preference_{name}": preference}
        own |= {} if pair_errors is None else modality_metrics(name, pair_errors, has_reference)
        metrics |= own
        counted |= {} if moves is None else dict.fromkeys(own, moves)
    return metrics, counted


def modality_metrics(name: str, errors: ModalityErrors, has_reference: bool = True) -> dict[str, Tensor | None]:
    """Metrics per pair [n]: implicit accuracy, ties, margin, chosen error, and both errors relative to the reference if there is one."""
    policy, frozen = errors
    own: dict[str, Tensor | None] = {
        f"implicit_accuracy_{name}": implicit_accuracy(errors),
        f"ties_{name}": ties(errors),
        f"margin_{name}": errors.margin,
        f"flow_{name}": policy.chosen,
    }
    if not has_reference:
        return own
    return own | {
        f"chosen_shift_{name}": policy.chosen - frozen.chosen,
        f"rejected_shift_{name}": policy.rejected - frozen.rejected,
    }


def errors_of(
    prediction: Latents, target: Latents, reduction: Reduction, masks: LatentMasks | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """Velocity errors [rows] of video and audio; None for an absent modality.

    With ``masks`` the mean over the latents that are to be generated, 1 where there are none
    (:func:`avpref.models.dual_stream.dual_flow.masked_mean`).
    """
    errors: list[Tensor | None] = []
    for predicted, wanted, mask in zip(prediction, target, masks or (None, None), strict=True):
        if predicted is None or wanted is None:
            errors.append(None)
        elif mask is None:
            errors.append(velocity_error(predicted, wanted, reduction))
        else:
            errors.append(masked_mean((predicted.float() - wanted.float()).square(), mask))
    return errors[0], errors[1]


def _pair_mean(errors: Tensor | None) -> Tensor | None:
    return None if errors is None else torch.stack(errors.chunk(2)).mean(0)


def _present(metrics: dict[str, Tensor | None]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in metrics.items() if value is not None}
