"""The parts of the generator that a configuration describes: network files, codec, text encoder and sampler settings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from avpref.config.codec_settings import (
    CodecSettings,
    IdentityCodecSettings,
    JavisCodecSettings,
    TextSettings,
    Umt5TextSettings,
    WordTextSettings,
)
from avpref.config.data_settings import ClipSettings
from avpref.config.schema import Settings
from avpref.devices import resolved
from avpref.errors import ConfigError
from avpref.flows.workers.prompt_sources import clip_shape, shape_of
from avpref.identity import digest
from avpref.media.resolutions import nominal_size
from avpref.models.checkpoints.network_loading import load_network
from avpref.models.codecs.codec import Codec
from avpref.models.codecs.codec_choice import codec_of
from avpref.models.dit import JavisDiT, ModelType, NetworkConfig
from avpref.models.flow import shift_ratio
from avpref.models.sampling import SamplerSettings
from avpref.models.text import TextBatch, TextEncoder, WordText

if TYPE_CHECKING:
    from avpref.models.umt5 import Umt5Files

TEXTS = "texts"
"""Folder in the folder of runs where text states are kept."""


def open_codec(settings: Settings, device: str = "cpu") -> Codec:
    """The configuration's codec for the run's clips.

    Raises ConfigError where it cannot make clips of their shape, InputError where weights are absent.
    """
    return codec_of(settings.codec, clip_shape(settings), device)


def open_text_encoder(settings: Settings, runs: Path, device: str = "cpu") -> TextEncoder:
    """The configuration's text encoder; states are kept in ``runs`` unless the configuration names another folder.

    Weights are loaded with the first text whose states are not stored yet. Raises InputError where they are absent.
    """
    match settings.text:
        case WordTextSettings():
            return WordText(settings.network.text_dim, settings.network.text_len)
        case Umt5TextSettings() as config:
            from avpref.models.umt5 import CachedText

            folder = Path(config.cache) if config.cache else runs / TEXTS
            return CachedText(_encoder_files(config, settings.network.text_len, device), folder)


def codec_identity(settings: Settings) -> str:
    """Hash of everything that the codec's output depends on, weights included. Raises as :func:`open_codec`."""
    return _codec_identity(settings.codec, settings.clip)


def text_identity(settings: Settings) -> str:
    """Hash of everything that the text encoder's output depends on, weights included. Raises as :func:`open_text_encoder`."""
    return _text_identity(settings.text, settings.network.text_dim, settings.network.text_len)


@lru_cache
def _codec_identity(codec: CodecSettings, clip: ClipSettings) -> str:
    match codec:
        case IdentityCodecSettings() as config:
            return digest("identity", config.model_dump(mode="json"))
        case JavisCodecSettings() as config:
            from avpref.models.codecs.javis_codec import JavisCodec

            return JavisCodec(config, shape_of(clip)).fingerprint


@lru_cache
def _text_identity(text: TextSettings, dim: int, length: int) -> str:
    match text:
        case WordTextSettings():
            return WordText(dim, length).fingerprint
        case Umt5TextSettings() as config:
            return _encoder_files(config, length, "cpu").fingerprint


def _encoder_files(config: Umt5TextSettings, length: int, device: str) -> Umt5Files:
    from avpref.models import umt5

    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]
    weights, tokenizer = umt5.PUBLISHED.locate(config.encoder), umt5.PUBLISHED_TOKENIZER.locate(config.tokenizer)
    return umt5.Umt5Files(weights, tokenizer, dtype, device, length)


def device_of(settings: Settings) -> str:
    """The device that the executor names; ``auto`` is CUDA where a GPU is available."""
    return resolved(settings.executor.device)


@dataclass(frozen=True)
class NetworkFiles:
    """A checkpoint file and, optionally, an adapter folder in PEFT format; ``hash`` covers the content of both."""

    checkpoint: Path
    hash: str
    adapter: Path | None = None
    adapter_hash: str = ""


def load_for_sampling(files: NetworkFiles, settings: Settings) -> JavisDiT:
    """The network in evaluation mode, the adapter merged into its weights. Raises InputError for unreadable or unsuitable files."""
    network = load_network(files.checkpoint, NetworkConfig.from_settings(settings.network), ModelType.T2AV)
    if files.adapter is not None:
        from avpref.trainer.adapter_files import fold_adapter  # importing PEFT takes seconds

        fold_adapter(network, files.adapter)
    return network.eval()


def sampler_settings(settings: Settings) -> SamplerSettings:
    """Steps, guidance and shift of the configuration. Raises ConfigError where no shift can be derived from the clip's length."""
    sampling, clip = settings.sampling, settings.clip
    if sampling.shift is not None:
        return SamplerSettings(sampling.steps, sampling.guidance, sampling.shift)
    try:
        ratio = shift_ratio(*_nominal(settings), clip.num_frames, sampling.shift_scale)
    except ValueError as error:
        raise ConfigError(str(error), "a fixed shift for short clips", "--set sampling.shift=3.0") from error
    return SamplerSettings(sampling.steps, sampling.guidance, ratio)


def _nominal(settings: Settings) -> tuple[int, int]:
    """Height and width that the shift is derived from: with the released codec, the published size before it is rounded up."""
    height, width = settings.clip.height_px, settings.clip.width_px
    return nominal_size(height, width) if isinstance(settings.codec, JavisCodecSettings) else (height, width)


def negative_text(encoder: TextEncoder, settings: Settings) -> TextBatch:
    """The encoded negative prompt, one row. Guidance points away from it, and caption dropout replaces texts by it."""
    return encoder.encode([settings.sampling.negative_prompt])
