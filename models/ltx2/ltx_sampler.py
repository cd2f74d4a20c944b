"""Sampling of LTX-2: Euler steps on a schedule that depends on the number of video tokens, guided on the predicted clean latents.

Equal to diffusers' ``LTX2Pipeline`` for the same weights, noise and settings. Known latents (:mod:`avpref.models.conditioning`) have
time 0 and come out unchanged; with a known first frame the result is that of ``LTX2ImageToVideoPipeline``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from avpref.models.conditioning import Conditioning, LatentTimes
from avpref.models.flow import Latents
from avpref.models.ltx2.ltx_guidance import GuidanceScales, LtxGuidance, guided
from avpref.models.ltx2.ltx_times import token_shift
from avpref.models.ltx2.ltx_versions import FULL_SCHEDULE
from avpref.models.text import TextBatch


def noise_levels(steps: int, num_video_tokens: int, shift: float | None = None, scale: float = 1.0) -> Tensor:
    """The ``steps`` + 1 noise levels from 1 to 0, float32, of the full transformers' scheduler; both modalities share them.

    Levels 1 - i / steps are shifted by the ratio ``scale`` exp(mu), mu linear in the number of video tokens
    (:func:`avpref.models.ltx2.ltx_times.token_shift`), or by ``shift``; then they are stretched so that the last one before 0 is 0.1.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler.from_config(dict(FULL_SCHEDULE))
    mu = math.log(shift) if shift is not None else token_shift(num_video_tokens) + math.log(scale)
    scheduler.set_timesteps(steps, sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    levels: Tensor = scheduler.sigmas
    return levels


@dataclass(frozen=True)
class LtxSampler:
    """See :class:`avpref.models.bases.base_model.Sampler`."""

    guidance: LtxGuidance
    levels: Tensor

    @property
    def num_passes(self) -> int:
        """Rows that the network computes per clip: steps times the passes of the guidance."""
        return (len(self.levels) - 1) * self.guidance.num_passes

    def sample(
        self,
        network: Callable[..., Latents],
        noise: Latents,
        text: TextBatch,
        negative: TextBatch,
        *,
        conditioning: Conditioning | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Latents:
        """See :func:`sample_ltx`."""
        return sample_ltx(
            network, noise, text, negative, self.guidance, self.levels, progress, conditioning=conditioning
        )


@dataclass(frozen=True)
class _Step:
    """One evaluation of the network: noisy latents, their times (B rows), and the noise level."""

    x: Latents
    times: Tensor | LatentTimes
    sigma: Tensor


@torch.no_grad()
def sample_ltx(
    network: Callable[..., Latents],
    noise: Latents,
    text: TextBatch,
    negative: TextBatch | None,
    guidance: LtxGuidance,
    levels: Tensor,
    progress: Callable[[int, int], None] | None = None,
    *,
    conditioning: Conditioning | None = None,
) -> Latents:
    """Integrate from noise to data; returns latents, float32, in the shapes of ``noise``.

    Args:
        network: an :class:`avpref.models.ltx2.ltx_network.LtxNetwork` in evaluation mode.
        noise: starting point, B rows of both modalities, on the network's device; not modified.
        text: B rows of text states and masks.
        negative: negative text, B rows or one for all; needed where the guidance uses it.
        guidance: strengths of both modalities.
        levels: see :func:`noise_levels`.
        progress: called as progress(steps done, steps) after every step.
        conditioning: known latents, on the noise's device.

    Raises ValueError for guidance without a negative text, and for ``conditioning`` that does not fit the noise.
    """
    if guidance.uses_negative and negative is None:
        raise ValueError("guidance by text needs a negative text")
    other = _rows(negative, len(text.states)) if negative is not None and guidance.uses_negative else None
    x = _known(conditioning, Latents(*(None if part is None else part.float() for part in noise)))
    steps = list(pairwise(levels.to(text.states.device)))
    for index, (sigma, after) in enumerate(steps):
        t = sigma.expand(len(text.states))
        times = t if conditioning is None else conditioning.times(t, x)
        clean = _predict(network, _Step(x, times, sigma), text, other, guidance)
        x = _known(conditioning, _euler(x, clean, sigma, after))
        if progress is not None:
            progress(index + 1, len(steps))
    return x


def _predict(
    network: Callable[..., Latents], step: _Step, text: TextBatch, negative: TextBatch | None, guidance: LtxGuidance
) -> Latents:
    """The guided prediction of clean latents."""
    below: Latents | None = None
    if negative is None:
        clean = _clean(step, network(step.x, step.times, *text))
    else:
        both = TextBatch(*(torch.cat(parts) for parts in zip(negative, text, strict=True)))
        velocity = network(_twice(step.x), _twice_times(step.times), *both)
        halves = [part.chunk(2) for part in velocity if part is not None]
        below, clean = (_clean(step, Latents(*(half[side] for half in halves))) for side in (0, 1))
    perturbed = isolated = None
    if guidance.perturbs:
        velocity = network(step.x, step.times, *text, perturbed_blocks=guidance.perturbed_blocks)
        perturbed = _clean(step, velocity)
    if guidance.isolates:
        isolated = _clean(step, network(step.x, step.times, *text, isolates_modalities=True))

    def of(part: int, scales: GuidanceScales) -> Tensor:
        passes = (None if latents is None else _part(latents, part) for latents in (below, perturbed, isolated))
        return guided(_part(clean, part), scales, *passes)

    return Latents(of(0, guidance.video), of(1, guidance.audio))


def _part(latents: Latents, index: int) -> Tensor:
    part = latents[index]
    assert part is not None, "LTX-2 predicts both modalities"
    return part


def _clean(step: _Step, velocity: Latents) -> Latents:
    """Predicted clean latents x - sigma v."""
    return Latents(*(_part(step.x, part) - _part(velocity, part) * step.sigma for part in (0, 1)))


def _euler(x: Latents, clean: Latents, sigma: Tensor, after: Tensor) -> Latents:
    """x + (after - sigma) v with the velocity v = (x - clean) / sigma."""
    parts = ((_part(x, part), _part(clean, part)) for part in (0, 1))
    return Latents(*(noisy + (after - sigma) * ((noisy - data) / sigma) for noisy, data in parts))


def _known(conditioning: Conditioning | None, x: Latents) -> Latents:
    return x if conditioning is None else conditioning.apply(x)


def _rows(text: TextBatch, count: int) -> TextBatch:
    return TextBatch(*(part.expand(count, *part.shape[1:]) for part in text))


def _twice(x: Latents) -> Latents:
    return Latents(*(None if part is None else torch.cat([part, part]) for part in x))


def _twice_times(times: Tensor | LatentTimes) -> Tensor | LatentTimes:
    if isinstance(times, Tensor):
        return torch.cat([times, times])
    return LatentTimes(*(None if part is None else torch.cat([part, part]) for part in times))
