"""Guidance of LTX-2: a sum of terms on the predicted clean latents, with separate strengths for video and audio.

With x the prediction for the text, n for the negative text, p with perturbed self-attention and m with isolated modalities, the
guided prediction is x + (text - 1)(x - n) + perturbation (x - p) + (modality - 1)(x - m), then rescaled to the standard deviation of x
(Lin et al. 2024, section 3.4). Source: the published sampler, as diffusers' ``LTX2Pipeline`` has it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from avpref.models.ltx2.ltx_grid import pack_audio, pack_video

VIDEO_AXES = 5
"""Axes of video latents; those of audio are 4."""


@dataclass(frozen=True)
class GuidanceScales:
    """Strengths of one modality: 1 means none for ``text`` and ``modality``, 0 none for ``perturbation`` and ``rescale``."""

    text: float
    perturbation: float = 1.0
    modality: float = 3.0
    rescale: float = 0.7


@dataclass(frozen=True)
class LtxGuidance:
    """Strengths of both modalities, and the blocks that are perturbed. Raises ValueError for a perturbation without blocks."""

    video: GuidanceScales
    audio: GuidanceScales
    perturbed_blocks: tuple[int, ...] = (28,)

    def __post_init__(self) -> None:
        if self.perturbs and not self.perturbed_blocks:
            raise ValueError("perturbed guidance needs at least one block")

    @property
    def uses_negative(self) -> bool:
        """Whether a pass with the negative text is needed."""
        return max(self.video.text, self.audio.text) > 1

    @property
    def perturbs(self) -> bool:
        """Whether a pass with perturbed self-attention is needed."""
        return max(self.video.perturbation, self.audio.perturbation) > 0

    @property
    def isolates(self) -> bool:
        """Whether a pass with isolated modalities is needed."""
        return max(self.video.modality, self.audio.modality) > 1

    @property
    def num_passes(self) -> int:
        """Rows of the network per sample and step."""
        return 1 + self.uses_negative + self.perturbs + self.isolates


def guided(
    clean: Tensor, scales: GuidanceScales, negative: Tensor | None, perturbed: Tensor | None, isolated: Tensor | None
) -> Tensor:
    """The guided prediction of clean latents [B, ...]; None for a pass that was not made, whose term is then left out."""
    result = clean
    if negative is not None:
        result = result + (scales.text - 1) * (clean - negative)
    if perturbed is not None:
        result = result + scales.perturbation * (clean - perturbed)
    if isolated is not None:
        result = result + (scales.modality - 1) * (clean - isolated)
    if scales.rescale > 0:
        ratio = (_spread(clean) / _spread(result)).view(-1, *[1] * (clean.ndim - 1))
        result = scales.rescale * (result * ratio) + (1 - scales.rescale) * result
    return result


def _spread(latents: Tensor) -> Tensor:
    """Standard deviation of each row, [B]. Values are summed in the order of tokens, as in the pipelines: guidance amplifies rounding."""
    tokens = pack_video(latents) if latents.ndim == VIDEO_AXES else pack_audio(latents)
    return tokens.contiguous().std(dim=(1, 2))
