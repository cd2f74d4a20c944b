"""Known spans anywhere in a clip, as the released sampler places them: beside the modes of :mod:`avpref.models.conditioning`.

A span is counted in video latents. Its starts are aligned to windows of 5 latents; the span of the sound follows from that of the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from avpref.models.conditioning import Conditioning, ConditioningFrames
from avpref.models.dual_stream.opensora_vae import WINDOW_FRAMES
from avpref.models.flow import Latents, LatentShapes

WINDOW_LATENTS = 5
AUDIO_LATENT_S = 0.04
"""Four mel frames of 10 ms."""


@dataclass(frozen=True)
class KnownSpan:
    """``length`` video latents from ``reference_start`` of a reference clip, which are known from ``target_start`` of the clip on.

    ``has_video`` and ``has_audio`` say which modalities are known there.
    """

    reference_start: int
    target_start: int
    length: int
    has_video: bool = True
    has_audio: bool = True


def audio_index(video_index: int, fps_hz: float) -> int:
    """The audio latent at which the video latent ``video_index`` begins."""
    return int(video_index * WINDOW_FRAMES / WINDOW_LATENTS / fps_hz / AUDIO_LATENT_S)


def known_spans(reference: Latents, shapes: LatentShapes, spans: Sequence[KnownSpan], fps_hz: float) -> Conditioning:
    """Conditioning of clips of ``shapes`` on ``spans`` of ``reference``, latents of one clip or one per row; later spans win.

    Raises ValueError for a span beyond the reference or the clip, and for a modality that the reference lacks.
    """
    of_video = [_aligned(span) for span in spans if span.has_video]
    of_audio = [_of_sound(_aligned(span), fps_hz) for span in spans if span.has_audio]
    return Conditioning(
        video=_frames("video", reference.video, shapes.video, of_video),
        audio=_frames("audio", reference.audio, shapes.audio, of_audio),
    )


def _aligned(span: KnownSpan) -> tuple[int, int, int]:
    """Starts in reference and clip, and the length, in video latents."""
    start, target = (index // WINDOW_LATENTS * WINDOW_LATENTS for index in (span.reference_start, span.target_start))
    return start, target, span.length


def _of_sound(span: tuple[int, int, int], fps_hz: float) -> tuple[int, int, int]:
    """The same in audio latents."""
    start, target, length = span
    begin, place, end = (audio_index(index, fps_hz) for index in (start, target, start + length))
    return begin, place, end - begin


def _frames(
    name: str, reference: Tensor | None, shape: tuple[int, ...] | None, spans: Sequence[tuple[int, int, int]]
) -> ConditioningFrames | None:
    if not spans:
        return None
    if reference is None or shape is None:
        raise ValueError(f"a span of {name} that the reference or the clip does not have")
    latents = reference.new_zeros(len(reference), *shape)
    mask = torch.zeros(shape[1], dtype=torch.bool, device=reference.device)
    for start, target, length in spans:
        if min(start, target) < 0 or length < 1 or start + length > reference.shape[2] or target + length > shape[1]:
            raise ValueError(
                f"{length} {name} latents from {start} of {reference.shape[2]} cannot be known from {target} of {shape[1]}"
            )
        latents[:, :, target : target + length] = reference[:, :, start : start + length]
        mask[target : target + length] = True
    return ConditioningFrames(latents, mask)
