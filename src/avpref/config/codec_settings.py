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
    """The released generator's codecs: the video VAE of Wan 2.1, the sound VAE and the vocoder of AudioLDM2.

    Weights are files or folders; empty: the folder of the published repository in the Hugging Face cache.
    """

    kind: Literal["javisdit"] = "javisdit"
    video_vae: str = Field(
        default="", description="folder of AutoencoderKLWan, or Wan2.1_VAE.pth; empty: Wan's, fetched"
    )
    audio_vae: str = Field(default="", description="folder of AutoencoderKL; empty: AudioLDM2's vae, fetched")
    vocoder: str = Field(default="", description="folder of SpeechT5HifiGan; empty: AudioLDM2's vocoder, fetched")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of weights and of the sound's arithmetic; the picture's is float32 always"
    )
    audio_tail: Literal["corrected", "released"] = Field(
        default="corrected", description="what follows the sound up to a whole latent step: silence, or the click"
    )
    audio_posterior: Literal["sample", "mean"] = Field(
        default="sample", description="audio latents: a draw that the sound itself seeds, as in training, or the mean"
    )
    tile_px: int = Field(default=0, ge=0, description="side of the tiles that are decoded one by one; 0: whole frames")
    tile_overlap_px: int = Field(default=64, ge=0, description="pixels over which neighbouring tiles are blended")
    stream_frames: bool = Field(
        default=True, description="decoded frames go to the host as they are made, not when the clip is whole"
    )


CodecSettings = Annotated[IdentityCodecSettings | JavisCodecSettings, Field(discriminator="kind")]


class WordTextSettings(Section):
    """A vector per word, derived from the word: an encoder without weights, of the network's text_dim and text_len."""

    kind: Literal["words"] = "words"


class Umt5TextSettings(Section):
    """umT5-xxl, 512 states per text, each text encoded once. Files and folders; empty: Wan's, in the Hugging Face cache."""

    kind: Literal["umt5"] = "umt5"
    encoder: str = Field(default="", description="folder of UMT5EncoderModel, or models_t5_umt5-xxl-enc-bf16.pth")
    tokenizer: str = Field(default="", description="folder with tokenizer.json, or that file")
    cache: str = Field(default="", description="folder of text states; empty: `texts` beside the runs")
    dtype: Literal["float32", "bfloat16"] = "bfloat16"


TextSettings = Annotated[WordTextSettings | Umt5TextSettings, Field(discriminator="kind")]
