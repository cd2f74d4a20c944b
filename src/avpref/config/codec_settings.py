"""Sections ``codec`` and ``text``: how clips become latents and texts become hidden states."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from avpref.config.section import Section


class IdentityCodecSettings(Section):
    """Invertible patches of pixels and log band energies: a codec without weights."""

    kind: Literal["identity"] = "identity"
    video_scale: int = Field(default=8, gt=0, description="pixels per latent cell, each way")
    audio_bands: int = Field(default=8, gt=0)
    audio_rate_hz: float = Field(default=16.0, gt=0)
    video_mean: float = Field(default=0.0, description="of pixels in [-1, 1]; latents are (pixel - mean) / std")
    video_std: float = Field(default=1.0, gt=0)
    audio_mean: float = Field(default=0.0, description="of levels in [-1, 1]; latents are (level - mean) / std")
    audio_std: float = Field(default=1.0, gt=0)


class JavisCodecSettings(Section):
    """The codecs of the released generator: Wan 2.1's video VAE, AudioLDM2's audio VAE and vocoder.

    Weights are files or folders; empty: the published repository in the Hugging Face cache.
    """

    kind: Literal["javisdit"] = "javisdit"
    video_vae: str = Field(
        default="", description="folder of AutoencoderKLWan, or Wan2.1_VAE.pth; empty: Wan's, fetched"
    )
    audio_vae: str = Field(default="", description="folder of AutoencoderKL; empty: AudioLDM2's vae, fetched")
    vocoder: str = Field(default="", description="folder of SpeechT5HifiGan; empty: AudioLDM2's vocoder, fetched")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of weights and audio arithmetic; video is always computed in float32"
    )
    audio_tail: Literal["corrected", "released"] = Field(
        default="corrected",
        description="padding of the audio to a whole latent step: silence, or zeros in the log (a click)",
    )
    audio_posterior: Literal["sample", "mean"] = Field(
        default="sample", description="audio latents: a sample seeded by the audio itself, as in training, or the mean"
    )
    tile_px: int = Field(default=0, ge=0, description="side of the tiles that are decoded separately; 0: whole frames")
    tile_overlap_px: int = Field(default=64, ge=0, description="width over which neighbouring tiles are blended")
    stream_frames: bool = Field(
        default=True, description="move decoded frames to the host one by one instead of once per clip"
    )


CodecSettings = Annotated[IdentityCodecSettings | JavisCodecSettings, Field(discriminator="kind")]


class WordTextSettings(Section):
    """An encoder without weights: one vector per word, derived from its hash, with the network's text_dim and text_len."""

    kind: Literal["words"] = "words"


class Umt5TextSettings(Section):
    """umT5-xxl, 512 states per text; every text is encoded once. Empty paths: Wan's files in the Hugging Face cache."""

    kind: Literal["umt5"] = "umt5"
    encoder: str = Field(default="", description="folder of UMT5EncoderModel, or models_t5_umt5-xxl-enc-bf16.pth")
    tokenizer: str = Field(default="", description="folder with tokenizer.json, or that file")
    cache: str = Field(default="", description="folder of text states; empty: `texts` next to the runs")
    dtype: Literal["float32", "bfloat16"] = "bfloat16"


TextSettings = Annotated[WordTextSettings | Umt5TextSettings, Field(discriminator="kind")]
