"""Sections ``network`` and ``sampling``: sizes of the generator and how candidates are sampled from it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from avpref.config.section import ExtendedSection, Section


class PriorSettings(Section):
    """Prior tokens of the synchroniser ``st_prior``: a trained estimator and its numbers of tokens."""

    weights: str = Field(min_length=1, description="file of a prior estimator; it reads the states of the text encoder")
    spatial_tokens: int = Field(default=32, gt=0)
    temporal_tokens: int = Field(default=32, gt=0)
    channels: int = Field(default=128, gt=0, description="of a prior token; at most text_dim")
    num_heads: int = Field(default=4, gt=0, description="attention heads of the estimator")


class NetworkSettings(ExtendedSection):
    """Constructor values of the JavisDiT++ network, under the original's names, and its synchroniser."""

    ADDED: ClassVar[frozenset[str]] = frozenset({"synchroniser", "prior"})

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
    synchroniser: Literal[
        "none", "ta_rope", "st_prior", "frame_attention", "ta_rope_st_prior", "ta_rope_frame_attention"
    ] = Field(default="ta_rope", description="how audio and video tokens learn of each other's time (table 3)")
    prior: PriorSettings | None = Field(default=None, description="required by synchronisers with priors")

    @model_validator(mode="after")
    def _prior_belongs_to_priors(self) -> NetworkSettings:
        """Section ``prior`` is given with a synchroniser that has priors, and with no other."""
        if self.synchroniser.endswith("st_prior") != (self.prior is not None):
            state = "missing" if self.prior is None else "set"
            fix = "set prior.weights to a trained estimator" if self.prior is None else "remove prior"
            raise ValueError(f"prior is {state} with synchroniser {self.synchroniser}; {fix}")
        if self.prior is not None and self.prior.channels > self.text_dim:
            raise ValueError(f"prior.channels {self.prior.channels} exceed text_dim {self.text_dim}")
        return self


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
