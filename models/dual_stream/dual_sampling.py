"""Sampling of the dual-stream network as released: Euler steps, guidance of both modalities, prior drawn once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from avpref.models.dual_stream.dual_inputs import DualStreamInputs
from avpref.models.dual_stream.dual_network import DualStreamNetwork
from avpref.models.flow import Latents
from avpref.models.sampling import timetable

STEPS, GUIDANCE = 30, 7.0
NOMINAL_AREA_PX = 512.0 * 512.0


@dataclass(frozen=True)
class DualSampling:
    """Steps, guidance, the shift of times (1: none), and whether both texts are in one network call, where rows mix their priors."""

    steps: int = STEPS
    guidance: float = GUIDANCE
    shift_ratio: float = 1.0
    is_joint: bool = True


def duration_shift(height_px: int, width_px: int, num_frames: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The ratio √(h w / 512²) · √n of released clips, a scalar tensor rounded to ``dtype`` after every step as there.

    n is 1 for a still and otherwise (frames // 17) · 5, the number of latent frames.
    """
    sizes = (torch.tensor(float(value), dtype=dtype) for value in (height_px, width_px, num_frames))
    height, width, frames = sizes
    latents = torch.ones_like(frames) if num_frames == 1 else frames // 17 * 5
    space = (height * width / NOMINAL_AREA_PX).sqrt()
    return space * latents.sqrt()


def shifted_times(t: Tensor, ratio: Tensor) -> Tensor:
    """Times ``t`` in [0, 1000] shifted towards noise by ``ratio``, in float32; ratio − 1 keeps the ratio's dtype as released."""
    ratio = ratio.reshape(1)
    unit = t.float() / 1000
    return 1000 * (ratio * unit / (1 + (ratio - 1) * unit))


@torch.no_grad()
def sample_dual(
    network: DualStreamNetwork,
    noise: Latents,
    inputs: DualStreamInputs,
    settings: DualSampling,
    on_step: Callable[[int, Latents], None] | None = None,
) -> Latents:
    """Latents from ``noise`` [B rows], float32; ``on_step`` gets the number of finished steps and the latents after each.

    ``inputs`` are those of the prompts, without masks; the guidance compares them with the network's null text and null priors.
    """
    assert noise.video is not None and noise.audio is not None
    schedule = timetable(settings.steps, settings.shift_ratio).tolist()
    x = Latents(noise.video.float(), noise.audio.float())
    for index, (now, after) in enumerate(pairwise(schedule), start=1):
        t = torch.full((len(noise.video),), now, dtype=torch.float32, device=noise.video.device)
        v = _guided(network, x, t, inputs, settings)
        x = Latents(*(_stepped(track, change, after - now) for track, change in zip(x, v, strict=True)))
        if on_step is not None:
            on_step(index, x)
    return x


def _guided(
    network: DualStreamNetwork, x: Latents, t: Tensor, inputs: DualStreamInputs, settings: DualSampling
) -> Latents:
    if settings.guidance == 1:
        return network.velocity(x, t, inputs)
    null = _null_inputs(network, inputs)
    if not settings.is_joint:
        return _combined(network.velocity(x, t, inputs), network.velocity(x, t, null), settings.guidance)
    both = DualStreamInputs(
        text=torch.cat([inputs.text, null.text]),
        text_mask=inputs.text_mask,
        spatial_prior=torch.cat([inputs.spatial_prior, null.spatial_prior]),
        temporal_prior=torch.cat([inputs.temporal_prior, null.temporal_prior]),
        fps=inputs.fps,
        size_px=inputs.size_px,
    )
    twice = Latents(*(None if track is None else torch.cat([track, track]) for track in x))
    v = network.velocity(twice, torch.cat([t, t]), both)
    halves = [[None if track is None else track.chunk(2)[place] for track in v] for place in range(2)]
    return _combined(Latents(*halves[0]), Latents(*halves[1]), settings.guidance)


def _null_inputs(network: DualStreamNetwork, inputs: DualStreamInputs) -> DualStreamInputs:
    """``inputs`` with null text and null priors; the null text keeps the prompts' lengths."""
    text, spatial, temporal = (states.to(inputs.text) for states in network.null_inputs(len(inputs.text)))
    return replace(inputs, text=text, spatial_prior=spatial, temporal_prior=temporal)


def _combined(conditional: Latents, null: Latents, guidance: float) -> Latents:
    return Latents(*(_mix(first, second, guidance) for first, second in zip(conditional, null, strict=True)))


def _mix(conditional: Tensor | None, null: Tensor | None, guidance: float) -> Tensor | None:
    return None if conditional is None or null is None else null + guidance * (conditional - null)


def _stepped(x: Tensor | None, v: Tensor | None, dt: float) -> Tensor | None:
    return None if x is None or v is None else x + dt * v
