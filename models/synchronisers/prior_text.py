"""Prior tokens as states of a text: a trained estimator reads the states of the text encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from avpref.config.network_settings import PriorSettings
from avpref.errors import InputError
from avpref.identity import digest
from avpref.models.dual_stream.synchrony_prior import PriorConfig, SynchronyPrior
from avpref.models.text import TextBatch, TextEncoder
from avpref.storage.file_hashes import sha256_of
from avpref.storage.weight_files import fit, on_meta, read_weights

VERSION = 1
UNUSED = ("text_encoder.", "video_embedder.", "audio_embedder.", "va_", "discriminator.")
"""Beginnings of the names of tensors that a file of an estimator may hold and that prior tokens do not depend on."""
FIX = "set network.prior to the estimator's numbers, or prior.weights to another file"


class PriorText:
    """A text encoder whose rows begin with prior tokens: [priors, states] of length K + L, in the width of the states.

    A prior token is the mean of the estimator's distribution in the first channels and zeros in the others. Priors come first, so that
    the real positions of a row are its first ones.
    """

    def __init__(self, encoder: TextEncoder, settings: PriorSettings, device: str = "cpu") -> None:
        self._encoder, self._settings, self._device = encoder, settings, device

    @property
    def fingerprint(self) -> str:
        """Hash of the text encoder's fingerprint and of the estimator's file and heads. Raises InputError where the file is absent."""
        sha256 = sha256_of(_present(self._settings))
        return digest("prior text", VERSION, self._encoder.fingerprint, sha256, self._settings.num_heads)

    def encode(self, texts: Sequence[str]) -> TextBatch:
        """States [B, K + L, D] and masks [B, K + L]. Raises InputError for an estimator of other sizes."""
        states, mask = self._encoder.encode(texts)
        real = states.masked_fill((mask == 0).unsqueeze(-1), 0)
        priors = torch.cat([self._priors(real[row : row + 1]) for row in range(len(real))])
        padded = F.pad(priors, (0, states.shape[2] - priors.shape[2]))
        return TextBatch(torch.cat([padded, states], dim=1), torch.cat([mask.new_ones(padded.shape[:2]), mask], dim=1))

    @torch.no_grad()
    def _priors(self, states: Tensor) -> Tensor:
        """Prior tokens float32 [1, K, c] of one text, so that they do not depend on other texts."""
        estimator = self._estimator
        if states.shape[2] != estimator.config.text_emb_dim:
            found = f"{self._settings.weights} reads states of width {estimator.config.text_emb_dim}"
            raise InputError(found, f"{states.shape[2]}, the width of the text encoder", FIX)
        priors = estimator(states.to(self._device))
        return torch.cat([priors.spatial, priors.temporal], dim=1).cpu()

    @cached_property
    def _estimator(self) -> SynchronyPrior:
        return read_estimator(self._settings).float().to(self._device).eval()


def read_estimator(settings: PriorSettings) -> SynchronyPrior:
    """The estimator in the file that ``settings`` name, without what only training needs; its sizes are those of the tensors.

    The number of heads, which no tensor shows, is that of ``settings``. Raises InputError for a file that is absent or no estimator, or
    whose numbers of tokens or channels are not those of ``settings``.
    """
    path = _present(settings)
    tensors = read_weights(path)
    config = _config_of(tensors, settings)
    network = on_meta(lambda: SynchronyPrior(config))
    fit(network, tensors, path, ignored=UNUSED)
    return network


def _present(settings: PriorSettings) -> Path:
    path = Path(settings.weights)
    if not path.is_file():
        found = f"network.prior.weights: {path} is absent"
        raise InputError(
            found, "a file of a prior estimator", "avpref train prior --config FILE --save prior.safetensors"
        )
    return path


def _config_of(tensors: Mapping[str, Tensor], settings: PriorSettings) -> PriorConfig:
    try:
        hidden, width = tensors["in_proj.weight"].shape
        tokens = tensors["spatial_query_emb"].shape[1], tensors["temporal_query_emb"].shape[1]
        rows = tensors["out_proj.weight"].shape[0]
        inner = tensors["prior_extractor.encoder.layers.0.linear1.weight"].shape[0]
    except (KeyError, ValueError) as error:
        found = f"{settings.weights} is no prior estimator: {error}"
        raise InputError(found, "a file with the released names", FIX) from error
    if hidden % settings.num_heads:
        raise InputError(f"{settings.weights} has width {hidden}", f"a multiple of num_heads {settings.num_heads}", FIX)
    expected = settings.spatial_tokens, settings.temporal_tokens
    if tokens != expected or rows not in (settings.channels, 2 * settings.channels):
        found = f"{settings.weights} has {tokens[0]} spatial and {tokens[1]} temporal tokens, {rows} outputs"
        wanted = f"{expected[0]} and {expected[1]} tokens, {settings.channels} or {2 * settings.channels} outputs"
        raise InputError(found, wanted, FIX)
    return PriorConfig(
        text_emb_dim=width,
        spatial_token_num=tokens[0],
        temporal_token_num=tokens[1],
        hidden_size=hidden,
        out_dim=settings.channels,
        nhead=settings.num_heads,
        num_encoder_layers=_num_layers(tensors, "encoder"),
        num_decoder_layers=_num_layers(tensors, "decoder"),
        feedforward_scale=inner // hidden,
        apply_sampling=rows == 2 * settings.channels,
    )


def _num_layers(tensors: Mapping[str, Tensor], part: str) -> int:
    name = re.compile(rf"prior_extractor\.{part}\.layers\.(\d+)\.")
    return 1 + max((int(match[1]) for match in map(name.match, tensors) if match), default=-1)
