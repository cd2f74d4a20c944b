"""Euler sampling of the probability flow from noise (t = 1) to data (t = 0), with classifier-free guidance.

Parts of the latents may be fixed (:mod:`avpref.models.conditioning`); the rest is sampled conditioned on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from avpref.models.conditioning import Conditioning, LatentTimes
from avpref.models.embeddings import TIMESTEP_SCALE
from avpref.models.flow import Latents, LatentShapes, shift_timesteps
from avpref.models.text import TextBatch


@dataclass(frozen=True)
class SamplerSettings:
    """Euler steps, guidance scale (1 = none, of both modalities) and timestep shift ratio (1 = none).

    Raises ValueError for ``steps`` < 1, ``guidance`` < 0 or ``shift_ratio`` <= 0.
    """

    steps: int
    guidance: float
    shift_ratio: float

    def __post_init__(self) -> None:
        if self.steps < 1 or self.guidance < 0 or self.shift_ratio <= 0:
            raise ValueError(f"sampling needs steps >= 1, guidance >= 0 and a shift ratio > 0, found {self}")


@dataclass(frozen=True)
class EulerSampler:
    """Euler steps with classifier-free guidance; see :func:`sample` and :class:`avpref.models.bases.base_model.Sampler`."""

    settings: SamplerSettings

    @property
    def num_passes(self) -> int:
        """Rows that the network computes per clip: one per step, and another for the guidance."""
        return self.settings.steps * (1 if self.settings.guidance == 1 else 2)

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
        """Latents, float32, in the shapes of ``noise``. Raises as :func:`sample`."""
        velocity = self.velocity(network)
        return sample(velocity, noise, text, negative, self.settings, progress, conditioning=conditioning)

    def velocity(self, network: Callable[..., Latents]) -> Callable[..., Latents]:
        """The function that a step calls, with rows and, in guidance, their negative partners as :func:`sample` gives them."""
        return network


def timetable(steps: int, shift_ratio: float) -> Tensor:
    """The ``steps`` + 1 times from 1 down to 0, float64: 1 - i / steps, shifted towards noise by ``shift_ratio``.

    The original computes them in float32 on a scale of 0 to 1000. Its rounding is reproduced, because guidance amplifies it.
    """
    linear = torch.tensor([(1 - index / steps) * TIMESTEP_SCALE for index in range(steps + 1)], dtype=torch.float32)
    shifted = shift_timesteps(linear / TIMESTEP_SCALE, shift_ratio) * TIMESTEP_SCALE
    return shifted.double() / TIMESTEP_SCALE


def draw_noise(shapes: LatentShapes, seeds: Sequence[int]) -> Latents:
    """Initial noise N(0, 1), float32 CPU, one row per seed: video drawn first, then audio.

    Invariant: row i depends only on ``seeds[i]`` and ``shapes``.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return Latents(*(None if shape is None else _draw(shape, generators) for shape in shapes))


def _draw(shape: tuple[int, ...], generators: Sequence[torch.Generator]) -> Tensor:
    rows = torch.empty(len(generators), *shape)
    for row, generator in zip(rows, generators, strict=True):
        row.normal_(generator=generator)
    return rows


@torch.no_grad()
def sample(
    network: Callable[..., Latents],
    noise: Latents,
    text: TextBatch,
    negative: TextBatch | None,
    settings: SamplerSettings,
    progress: Callable[[int, int], None] | None = None,
    *,
    num_video_latents: int | None = None,
    conditioning: Conditioning | None = None,
) -> Latents:
    """Integrate dx/dt = v from noise to data; returns latents, float32, in the shapes of ``noise``.

    Args:
        network: a :class:`avpref.models.bases.velocity_network.VelocityNetwork` or any callable with its signature.
        noise: starting point, B rows of each modality of the network, on its device; not modified.
        text: B rows of text states and masks.
        negative: negative prompt of the guidance, B rows or one row for all. None, or a guidance of exactly 1, disables guidance,
            which halves the rows per network call.
        settings: steps, guidance and shift.
        progress: called as progress(steps done, steps) after every step.
        num_video_latents: for audio-only networks, see JavisDiT.forward.
        conditioning: known latents, on the noise's device; they have timestep 0 and come out unchanged. Networks trained without
            masks, such as the released v1.0, may not follow them in the sampled parts.

    Raises ValueError for ``conditioning`` that does not fit the noise or cuts through a patch.
    """
    keywords = {} if num_video_latents is None else {"num_video_latents": num_video_latents}
    if settings.guidance == 1:
        negative = None
    texts = text if negative is None else _stack(text, negative)
    schedule = timetable(settings.steps, settings.shift_ratio).tolist()
    x = _apply(conditioning, _map_latents(Tensor.float, noise))
    for index, (now, after) in enumerate(pairwise(schedule)):
        t = torch.full(text.mask.shape[:1], now, dtype=torch.float64, device=text.mask.device)
        times = t if conditioning is None else conditioning.times(t, x)
        inputs = x if negative is None else _map_latents(_twice, x)
        rows = times if negative is None else _twice_times(times)
        v = network(inputs, rows, texts.states, texts.mask, **keywords)
        if negative is not None:
            v = _map_latents(partial(_guide, guidance=settings.guidance), v)
        x = _apply(conditioning, _map_latents(partial(torch.add, alpha=after - now), x, v))
        if progress is not None:
            progress(index + 1, settings.steps)
    return x


def _stack(text: TextBatch, negative: TextBatch) -> TextBatch:
    """Rows [text, negative]; a single negative row is repeated."""
    rows = len(text.states)
    pairs = zip(text, negative, strict=True)
    return TextBatch(*(torch.cat([positive, other.expand(rows, *other.shape[1:])]) for positive, other in pairs))


def _twice(x: Tensor) -> Tensor:
    return torch.cat([x, x])


def _twice_times(times: Tensor | LatentTimes) -> Tensor | LatentTimes:
    if isinstance(times, Tensor):
        return _twice(times)
    return LatentTimes(*(None if time is None else _twice(time) for time in times))


def _apply(conditioning: Conditioning | None, x: Latents) -> Latents:
    return x if conditioning is None else conditioning.apply(x)


def _guide(rows: Tensor, guidance: float) -> Tensor:
    """v = v_neg + guidance (v_text - v_neg) from rows [text, negative]."""
    conditional, negative = rows.float().chunk(2)
    return negative + guidance * (conditional - negative)


def _map_latents(function: Callable[..., Tensor], *latents: Latents) -> Latents:
    """Apply ``function`` to each modality that is present."""
    return Latents(*(None if parts[0] is None else function(*parts) for parts in zip(*latents, strict=True)))
