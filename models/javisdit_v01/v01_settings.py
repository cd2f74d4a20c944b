"""Settings of base model ``javisdit-v01``, as ``base.settings`` holds them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from avpref.config.section import Section
from avpref.models.dual_stream.dual_config import DualStreamConfig
from avpref.models.dual_stream.opensora_vae import OpenSoraSizes
from avpref.models.dual_stream.synchrony_prior import PriorConfig
from avpref.models.imagebind.imagebind_towers import FULL, TowerSizes

PATHS = frozenset({"prior", "text_encoder", "imagebind", "video_vae", "audio_vae", "vocoder"})
"""Settings that are paths of weights: the bytes of the weights enter fingerprints, their places do not."""


class V01Settings(Section):
    """Weights besides the generator's (``sft.network``), sizes of all networks, and how texts become states.

    Sizes have the original's names and default to the release. Paths name a file or folder; empty: the published weights in the Hugging
    Face cache.
    """

    network: DualStreamConfig = Field(default=DualStreamConfig(), description="of the generator")
    prior: str = Field(
        default="", description="prior estimator, under the released names; tensors of its training are ignored"
    )
    prior_network: PriorConfig = Field(default=PriorConfig(), description="sizes of the prior estimator")
    prior_draw: Literal["sample", "mean"] = Field(
        default="sample", description="priors of a text: drawn once from their distribution, or its mean"
    )
    prior_seed: int = Field(default=0, ge=0, description="of the priors' noise, which depends on the text besides")
    text_encoder: str = Field(default="", description="folder of T5 v1.1 with its tokeniser")
    text_dtype: Literal["float32", "bfloat16"] = Field(default="bfloat16", description="of T5 and of all states")
    prompts: Literal["released", "plain"] = Field(
        default="released", description="released: texts in lower case with an aesthetic score; plain: as they are"
    )
    imagebind: str = Field(default="", description="imagebind_huge.pth, whose text tower the estimator reads")
    imagebind_text: TowerSizes = Field(default=FULL.text, description="sizes of the text tower")
    video_vae: str = Field(default="", description="OpenSora's video VAE v1.2")
    video_vae_network: OpenSoraSizes = Field(default=OpenSoraSizes(), description="sizes of the video VAE")
    audio_vae: str = Field(default="", description="AudioLDM2's VAE")
    vocoder: str = Field(default="", description="AudioLDM2's vocoder")
    codec_dtype: Literal["float32", "bfloat16"] = "float32"
    audio_tail: Literal["corrected", "released"] = Field(
        default="corrected", description="padding of encoded sound: silence, or zeros in the log (a click)"
    )
    posterior: Literal["sample", "mean"] = Field(
        default="sample", description="latents of recordings: a sample seeded by the clip itself, or the mean"
    )

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        network, prior = self.network, self.prior_network
        if not network.has_video:
            raise ValueError("network.has_video is false: the loop needs pictures")
        if prior.encode_va:
            raise ValueError("prior_network.encode_va is true: only the training of the prior builds those networks")
        pairs = {
            "prior_network.spatial_token_num, network.spatial_prior_len": (
                prior.spatial_token_num,
                network.spatial_prior_len,
            ),
            "prior_network.temporal_token_num, network.temporal_prior_len": (
                prior.temporal_token_num,
                network.temporal_prior_len,
            ),
            "prior_network.out_dim, network.st_prior_channel": (prior.out_dim, network.st_prior_channel),
            "prior_network.text_emb_dim, imagebind_text.dim": (prior.text_emb_dim, self.imagebind_text.dim),
            "video_vae_network.temporal.latent_channels, network.in_channels": (
                self.video_vae_network.temporal.latent_channels,
                network.in_channels,
            ),
        }
        wrong = [f"{names} are {first} and {second}" for names, (first, second) in pairs.items() if first != second]
        if wrong:
            raise ValueError("; ".join(wrong) + ": they must be equal")
        return self
