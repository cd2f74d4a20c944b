"""Networks as the flows name them: files and the hash that their clips' identities depend on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from avpref.config.codec_settings import JavisCodecSettings
from avpref.config.schema import Settings
from avpref.errors import ConfigError
from avpref.media.resolutions import nominal_size
from avpref.models.checkpoints.network_loading import load_network
from avpref.models.dit import JavisDiT, ModelType, NetworkConfig
from avpref.models.flow import shift_ratio
from avpref.models.sampling import SamplerSettings
from avpref.models.text import TextBatch, TextEncoder


@dataclass(frozen=True)
class NetworkFiles:
    """A checkpoint and, optionally, an adapter folder in peft format; ``hash`` covers the content of both."""

    checkpoint: Path
    hash: str
    adapter: Path | None = None
    adapter_hash: str = ""


def load_for_sampling(files: NetworkFiles, settings: Settings) -> JavisDiT:
    """The network in evaluation mode, the adapter folded into its weights. Raises InputError as the loaders do."""
    network = load_network(files.checkpoint, NetworkConfig.from_settings(settings.network), ModelType.T2AV)
    if files.adapter is not None:
        from avpref.trainer.adapter_files import fold_adapter  # PEFT takes seconds to import

        fold_adapter(network, files.adapter)
    return network.eval()


def sampler_settings(settings: Settings) -> SamplerSettings:
    """Steps, guidance and shift of the configuration. Raises ConfigError where the length rule gives no shift."""
    sampling, clip = settings.sampling, settings.clip
    if sampling.shift is not None:
        return SamplerSettings(sampling.steps, sampling.guidance, sampling.shift)
    try:
        ratio = shift_ratio(*_nominal(settings), clip.num_frames, sampling.shift_scale)
    except ValueError as error:
        raise ConfigError(str(error), "a fixed shift for short clips", "--set sampling.shift=3.0") from error
    return SamplerSettings(sampling.steps, sampling.guidance, ratio)


def _nominal(settings: Settings) -> tuple[int, int]:
    """The size that the shift is taken of: of the released generator the published one, before it is rounded up."""
    height, width = settings.clip.height_px, settings.clip.width_px
    return nominal_size(height, width) if isinstance(settings.codec, JavisCodecSettings) else (height, width)


def negative_text(encoder: TextEncoder, settings: Settings) -> TextBatch:
    """The negative prompt, one row: what guidance points away from and what caption dropout puts in a text's place."""
    return encoder.encode([settings.sampling.negative_prompt])
