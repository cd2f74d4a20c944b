"""Settings of base model ``ltx2``, as ``base.settings`` holds them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from avpref.config.section import Section
from avpref.models.ltx2.ltx_guidance import GuidanceScales, LtxGuidance


class LtxSettings(Section):
    """Version, folder, convention, dtypes, and the guidance besides ``sampling.guidance``, which is that of the text on the video."""

    version: Literal["2.0", "2.3", "2.5"] = "2.3"
    folder: str = Field(
        default="", description="as diffusers saves it; empty: the published one in the Hugging Face cache"
    )
    convention: Literal["diffusers", "lightricks"] = Field(
        default="diffusers", description="of calling the transformer: lightricks marks the first latent frame of 2.5"
    )
    text_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    codec_dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of the video VAE; sound is always computed in float32"
    )
    tiles: bool = Field(default=False, description="decode pictures above 512 pixels in overlapping tiles")
    audio_guidance: float = Field(default=7.0, ge=0, description="of the text on the audio")
    perturbation: float = Field(default=1.0, ge=0, description="spatio-temporal guidance of the video; 0: none")
    audio_perturbation: float = Field(default=1.0, ge=0)
    modality_guidance: float = Field(default=3.0, ge=0, description="guidance of the video by the audio; 1: none")
    audio_modality_guidance: float = Field(default=3.0, ge=0)
    rescale: float = Field(
        default=0.7, ge=0, le=1, description="of the guided video to its own standard deviation; 0: none"
    )
    audio_rescale: float = Field(default=0.7, ge=0, le=1)
    perturbed_blocks: tuple[int, ...] = Field(default=(28,), description="blocks without self-attention in that pass")

    @field_validator("version", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        """A version that was written without quotes, which YAML reads as a number."""
        return str(value) if isinstance(value, float) else value

    def guidance(self, text: float) -> LtxGuidance:
        """The guidance of both modalities; ``text`` is ``sampling.guidance``. Raises ValueError for a perturbation without blocks."""
        video = GuidanceScales(text, self.perturbation, self.modality_guidance, self.rescale)
        audio = GuidanceScales(
            self.audio_guidance, self.audio_perturbation, self.audio_modality_guidance, self.audio_rescale
        )
        return LtxGuidance(video, audio, self.perturbed_blocks)
