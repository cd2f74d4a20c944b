"""Sections ``network`` and ``sampling``: sizes of the generator and how candidates are sampled from it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from avpref.config.section import Section


class NetworkSettings(Section):
    """Constructor values of the JavisDiT++ network, under the original's names."""

    dim: int = Field(gt=0)
    ffn_dim: int = Field(gt=0)
    freq_dim: int = Field(default=256, gt=0)
    text_dim: int = Field(gt=0)
    text_len: int = Field(gt=0)
    num_heads: int = Field(gt=0)
    num_layers: int = Field(gt=0)
    in_dim: int = Field(gt=0, description="video latent channels")
    audio_in_dim: int = Field(gt=0, description="audio latent channels")
    patch_size: tuple[int, int, int] = (1, 2, 2)
    audio_patch_size: tuple[int, int] = (2, 2)
    audio_pe_type: Literal["vanilla", "interpolate", "interleave", "interleave_offset", "interleave_offset_rounded"] = (
        "interleave_offset"
    )
    dual_ffn: bool = True


class SamplingSettings(Section):
    """Number of candidates per prompt and the settings of the Euler sampler."""

    num_candidates: int = Field(default=3, gt=0)
    steps: int = Field(default=50, gt=0)
    guidance: float = Field(default=5.0, ge=0)
    shift: float | None = Field(
        default=None, description="fixed timestep shift ratio; none: from the clip's size and length"
    )
    shift_scale: float = Field(default=1.0, gt=0)
    negative_prompt: str = ""
    ground_truth: bool = True
    ground_truth_through_codec: bool = Field(
        default=True, description="encode and decode ground truth too, so that codec artefacts do not reveal it"
    )
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch_candidates: int = Field(default=32, gt=0, description="candidates per batch of the network")
    store_latents: bool = False
