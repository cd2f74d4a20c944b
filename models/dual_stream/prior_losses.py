"""Losses of the prior estimator: the prior of a text is near the embedding of its clip and far from those of its negatives.

Source: JavisDiT v0.1, paper §3.3 and appendix C, as the released code computes them (docs/decisions/0059-javisdit-v01-as-modules.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from avpref.models.dual_stream.synchrony_prior import Priors, SynchronyPrior, kl_divergence

KL_WEIGHT = 1e-6
SPATIAL, TEMPORAL = "spatial", "temporal"
KINDS = (SPATIAL, TEMPORAL)


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """Latents of clips and of their negatives.

    ``video`` [B, 4, T, h, w], ``audio`` [B, 8, L, M], ``size_px``: height and width of the pictures. Negatives by kind: a clip with the
    places (``spatial``) or the times (``temporal``) of one modality changed, [B, n, ...] each.
    """

    video: Tensor
    audio: Tensor
    size_px: tuple[float, float]
    negative_video: Mapping[str, Tensor] = field(default_factory=dict)
    negative_audio: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> ClipBatch:
        """The same clips on ``device``."""
        return self._moved(lambda tensor: tensor.to(device))

    def pinned(self) -> ClipBatch:
        """The same clips in pinned memory."""
        return self._moved(lambda tensor: tensor.pin_memory())

    def _moved(self, move: Callable[[Tensor], Tensor]) -> ClipBatch:
        negatives = ({kind: move(x) for kind, x in of.items()} for of in (self.negative_video, self.negative_audio))
        return ClipBatch(move(self.video), move(self.audio), self.size_px, *negatives)


@dataclass(frozen=True, eq=False)
class PriorLoss:
    """The loss, and its terms: ``KIND_token_loss``, ``KIND_disc_loss``, ``KIND_mse_loss``, ``KIND_va_loss``, ``KIND_total_loss``,
    ``kl_loss`` (weighted)."""

    total: Tensor
    terms: Mapping[str, Tensor]


def clip_embeddings(network: SynchronyPrior, clips: ClipBatch, kind: str) -> Tensor:
    """Embeddings [B, 1 + audio negatives + video negatives of ``kind``, K, c]; the clip itself is the first."""
    videos = [clips.video, *_each(clips.negative_video.get(kind))]
    audios = [clips.audio, *_each(clips.negative_audio.get(kind))]
    of_video = [_tokens(network.embed_video(video, clips.size_px), kind) for video in videos]
    of_audio = [_tokens(network.embed_audio(audio), kind) for audio in audios]
    merge = network.va_spatial_encoder if kind == SPATIAL else network.va_temporal_encoder
    combinations = [
        (of_video[0], of_audio[0]),
        *((of_video[0], audio) for audio in of_audio[1:]),
        *((video, of_audio[0]) for video in of_video[1:]),
    ]
    return torch.stack([merge(video, audio) for video, audio in combinations], dim=1)


def prior_loss(network: SynchronyPrior, priors: Priors, clips: ClipBatch) -> PriorLoss:
    """The loss of the priors of B texts against their clips. Raises ValueError for a kind without any negative."""
    rows = prior_loss_rows(network, priors, clips)
    return PriorLoss(rows.total.mean(), {name: values.mean() for name, values in rows.terms.items()})


def prior_loss_rows(network: SynchronyPrior, priors: Priors, clips: ClipBatch) -> PriorLoss:
    """As :func:`prior_loss`, for each text and clip alone: loss and terms [B]. The loss of the batch is the mean of the rows."""
    terms: dict[str, Tensor] = {}
    for kind, prior in zip(KINDS, (priors.spatial, priors.temporal), strict=True):
        embeddings = clip_embeddings(network, clips, kind)
        if embeddings.shape[1] < 2:
            raise ValueError(f"no {kind} negative; the losses compare a clip with at least one")
        of_kind = _terms_of_kind(network, prior, embeddings)
        terms |= {f"{kind}_{name}": value for name, value in of_kind.items()}
        terms[f"{kind}_total_loss"] = torch.stack(list(of_kind.values())).sum(dim=0)
    total = terms["spatial_total_loss"] + terms["temporal_total_loss"]
    if priors.log_variance is not None:
        terms["kl_loss"] = KL_WEIGHT * kl_divergence(priors)
        total = total + terms["kl_loss"]
    return PriorLoss(total, terms)


def _terms_of_kind(network: SynchronyPrior, prior: Tensor, embeddings: Tensor) -> dict[str, Tensor]:
    """Terms [B] of ``prior`` [B, K, c] and ``embeddings`` [B, X, K, c]."""
    similar = F.cosine_similarity(embeddings, prior[:, None], dim=-1)
    token = 0.5 * ((1 - similar[:, 0]).relu().mean(dim=1) + (1 + similar[:, 1:]).relu().mean(dim=(1, 2)))
    num = embeddings.shape[1]
    repeated = prior[:, None].expand(-1, num, -1, -1)
    logits = network.discriminator(repeated.flatten(0, 1), embeddings.flatten(0, 1)).unflatten(0, (-1, num))
    labels = torch.zeros_like(logits)
    labels[:, 0] = 1
    apart = F.cosine_similarity(embeddings[:, :1], embeddings[:, 1:], dim=-1)
    return {
        "token_loss": token,
        "disc_loss": F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=1),
        "mse_loss": (prior - embeddings[:, 0]).square().mean(dim=(1, 2)),
        "va_loss": (1 + apart).relu().mean(dim=(1, 2)),
    }


def _each(negatives: Tensor | None) -> Sequence[Tensor]:
    return () if negatives is None else negatives.unbind(1)


def _tokens(tokens: tuple[Tensor, Tensor], kind: str) -> Tensor:
    """Tokens of one kind by group [B, K, N, c]."""
    spatial, temporal = tokens
    return spatial.transpose(1, 2) if kind == SPATIAL else temporal
