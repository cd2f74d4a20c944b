"""JavisDiT++ as a base model, and the toy network: its structure at any size, with the codec and text encoder of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import JsonValue

from avpref.config.base_settings import BaseSections
from avpref.config.codec_settings import (
    IdentityCodecSettings,
    JavisCodecSettings,
    Umt5TextSettings,
    WordTextSettings,
)
from avpref.config.network_settings import SamplingSettings
from avpref.config.training_settings import TimestepSettings
from avpref.domain import OWN_TERMS, Terms
from avpref.errors import ConfigError
from avpref.identity import digest
from avpref.media.geometry import ClipShape
from avpref.media.resolutions import nominal_size
from avpref.models.audio_branch import audio_only_network
from avpref.models.bases.base_model import (
    PEFT_LAYOUT,
    Base,
    GivenWeights,
    Precisions,
    Sampler,
    TimestepLaw,
    Work,
    require_layout,
)
from avpref.models.bases.velocity_network import VelocityNetwork
from avpref.models.checkpoints.checkpoint_files import find_checkpoint
from avpref.models.checkpoints.diffusers_lora import save_diffusers_adapter
from avpref.models.checkpoints.exporting import (
    save_comfyui_adapter,
    save_diffusers,
    save_peft_adapter,
    save_sharded,
)
from avpref.models.checkpoints.lora_files import Lora, read_lora
from avpref.models.checkpoints.network_loading import (
    has_synchroniser,
    is_video_only,
    load_generator,
    load_network,
    save_network,
    with_audio_from_video,
)
from avpref.models.checkpoints.shipped_networks import locate_network, network_hash
from avpref.models.codecs.codec import Codec, IdentityCodec
from avpref.models.dit import JavisDiT, ModelType, NetworkConfig
from avpref.models.dit_work import attention_flop, forward_flop, num_tokens
from avpref.models.flow import LatentShapes, shift_ratio
from avpref.models.initialisation import create_network, with_synchroniser
from avpref.models.sampling import EulerSampler, SamplerSettings
from avpref.models.text import TextEncoder, WordText

if TYPE_CHECKING:
    from avpref.models.umt5 import Umt5Files

COMFYUI_LAYOUT = "comfyui"
ORIGINAL_LAYOUT, DIFFUSERS_LAYOUT = "original", "diffusers"
RELEASED_TERMS = Terms(
    "network Apache-2.0 (JavisDiT++, Wan 2.1); AudioLDM2's audio VAE and vocoder CC-BY-NC-SA-4.0", commercial_use=False
)


class JavisBase(Base):
    """The base model of the sections ``network``, ``codec`` and ``text``. Raises ConfigError without section ``network``."""

    adapter_layouts = (PEFT_LAYOUT, DIFFUSERS_LAYOUT, COMFYUI_LAYOUT)
    network_layouts = (ORIGINAL_LAYOUT, DIFFUSERS_LAYOUT)
    aligns_sound = True

    def __init__(self, sections: BaseSections) -> None:
        sections.check()
        assert sections.network is not None
        self._network, self._codec, self._text = sections.network, sections.codec, sections.text
        self.terms = RELEASED_TERMS if isinstance(self._codec, JavisCodecSettings) else OWN_TERMS
        self.precisions = Precisions(getattr(self._text, "dtype", ""), getattr(self._codec, "dtype", ""))

    @property
    def config(self) -> NetworkConfig:
        """Constructor values of the network. Raises ValueError for sizes that contradict each other."""
        return NetworkConfig.from_settings(self._network)

    @property
    def identity(self) -> Mapping[str, JsonValue]:
        """The section ``network``, without the path of a prior estimator: its bytes are part of the text encoder's fingerprint."""
        values: dict[str, JsonValue] = self._network.model_dump(mode="json")
        if self._network.prior is not None:
            values["prior"] = self._network.prior.model_dump(mode="json", exclude={"weights"})
        return values

    def build_network(self) -> JavisDiT:
        """See :class:`Base`."""
        return JavisDiT(self.config)

    def create(self, seed: int) -> JavisDiT:
        """See :class:`Base` and :func:`avpref.models.initialisation.initialise`."""
        return create_network(self.config, ModelType.T2AV, torch.Generator().manual_seed(seed))

    def load(self, path: Path, device: torch.device | str = "cpu") -> JavisDiT:
        """See :class:`Base` and :func:`avpref.models.checkpoints.network_loading.load_network`."""
        return load_network(path, self.config, ModelType.T2AV, device)

    def save(self, path: Path, network: VelocityNetwork, metadata: Mapping[str, str] | None = None) -> None:
        """See :class:`Base`."""
        save_network(path, _own(network), metadata)

    def convert(self, weights: GivenWeights) -> JavisDiT:
        """See :class:`Base` and :func:`avpref.models.checkpoints.network_loading.load_generator`, which lists the layouts."""
        path = locate_network(weights.network)
        return load_generator(path, self.config, ModelType.T2AV, lora=weights.lora, dtype=weights.dtype)

    def convert_under(self, weights: GivenWeights) -> JavisDiT:
        """See :class:`Base`: of a release folder, the network in ``model/``."""
        path = locate_network(weights.network)
        checkpoint = find_checkpoint(path)
        path = path if checkpoint.adapter is None else checkpoint.folder
        return load_generator(path, self.config, ModelType.T2AV, dtype=weights.dtype)

    def given_adapter(self, weights: GivenWeights) -> Path | None:
        """See :class:`Base`: without a named one, the adapter in ``lora/`` of the network's folder."""
        return weights.lora or find_checkpoint(locate_network(weights.network)).adapter

    def read_adapter(self, path: Path) -> Lora:
        """See :class:`Base` and :func:`avpref.models.checkpoints.lora_files.read_lora`."""
        return read_lora(path)

    def start(self, weights: GivenWeights, seed: int) -> JavisDiT:
        """See :class:`Base`. The audio branch of a video network is started from it, as in the paper's stage 1.

        Layers of a synchroniser that the weights lack are started so that the function stays the same.
        """
        path, config = locate_network(weights.network), self.config
        generator = torch.Generator().manual_seed(seed)
        lacks_layers = config.synchroniser.adds_layers and not has_synchroniser(path)
        start = replace(config, synchroniser=config.synchroniser.without_layers, prior=None) if lacks_layers else config
        if is_video_only(path):
            network = with_audio_from_video(path, start, ModelType.T2AV, generator, dtype=weights.dtype)
        else:
            network = load_generator(path, start, ModelType.T2AV, lora=weights.lora, dtype=weights.dtype)
        return with_synchroniser(network, config, generator) if lacks_layers else network

    def given_hash(self, network: str) -> str:
        """See :class:`Base`: also of a network that ships with the package (``shipped:NAME``)."""
        return network_hash(network)

    def audio_branch(self, network: VelocityNetwork) -> JavisDiT:
        """See :class:`Base`."""
        return audio_only_network(_own(network))

    def codec(self, shape: ClipShape, device: str = "cpu") -> Codec:
        """See :class:`Base`."""
        match self._codec:
            case IdentityCodecSettings() as config:
                return IdentityCodec(config, shape)
            case JavisCodecSettings() as config:
                from avpref.models.codecs.javis_codec import JavisCodec

                return JavisCodec(config, shape, device)

    def codec_fingerprint(self, shape: ClipShape) -> str:
        """See :class:`Base`; that of the identity codec does not cover the shape."""
        match self._codec:
            case IdentityCodecSettings() as config:
                return digest("identity", config.model_dump(mode="json"))
            case JavisCodecSettings():
                return self.codec(shape).fingerprint

    def text_encoder(self, cache: Path, device: str = "cpu") -> TextEncoder:
        """See :class:`Base`: with the prior tokens of the synchroniser, if it has any."""
        encoder = self._plain_text_encoder(cache, device)
        if self._network.prior is None:
            return encoder
        from avpref.models.synchronisers.prior_text import PriorText

        return PriorText(encoder, self._network.prior, device)

    def _plain_text_encoder(self, cache: Path, device: str) -> TextEncoder:
        match self._text:
            case WordTextSettings():
                return WordText(self._network.text_dim, self._network.text_len)
            case Umt5TextSettings() as config:
                from avpref.models.umt5 import CachedText

                folder = Path(config.cache) if config.cache else cache
                return CachedText(_encoder_files(config, self._network.text_len, device), folder)

    def timestep_law(self, timesteps: TimestepSettings, shape: ClipShape) -> TimestepLaw:
        """See :class:`Base`: the fixed shift, or the ratio from the clip's size and length times ``scale``."""
        ratio = timesteps.shift
        if ratio is None:
            size = shape.height_px, shape.width_px
            ratio = _ratio(size, shape.num_frames, timesteps.scale, "set timesteps.shift, for example 3.0")
        return TimestepLaw(ratio, timesteps.loc, timesteps.spread)

    def sampler(self, settings: SamplingSettings, shape: ClipShape) -> Sampler:
        """See :class:`Base`: as :meth:`timestep_law`, with the released codec from the published size before it is rounded up."""
        ratio, size = settings.shift, (shape.height_px, shape.width_px)
        if ratio is None:
            nominal = nominal_size(*size) if isinstance(self._codec, JavisCodecSettings) else size
            ratio = _ratio(nominal, shape.num_frames, settings.shift_scale, "--set sampling.shift=3.0")
        return EulerSampler(SamplerSettings(settings.steps, settings.guidance, ratio))

    def latent_work(self, shapes: LatentShapes) -> Work:
        """See :class:`Base`."""
        tokens = num_tokens(shapes, self._network)
        return Work(tokens, forward_flop(tokens, self._network), attention_flop(tokens, self._network))

    def text_shape(self) -> tuple[int, int]:
        """See :class:`Base`."""
        return self.config.num_states, self._network.text_dim

    @property
    def num_blocks(self) -> int:
        """See :class:`Base`."""
        return self._network.num_layers

    def shallow(self, num_blocks: int) -> JavisDiT:
        """See :class:`Base`."""
        return JavisDiT(NetworkConfig.from_settings(self._network.model_copy(update={"num_layers": num_blocks})))

    def export_adapter(self, adapter: Path, output: Path, layout: str) -> None:
        """See :class:`Base`: a folder in PEFT's format or for diffusers, or one file under the names that ComfyUI reads."""
        require_layout(layout, self.adapter_layouts)
        if layout == COMFYUI_LAYOUT:
            save_comfyui_adapter(read_lora(adapter), output)
        elif layout == DIFFUSERS_LAYOUT:
            save_diffusers_adapter(read_lora(adapter), output)
        else:
            save_peft_adapter(read_lora(adapter), output)

    def export_network(self, network: VelocityNetwork, output: Path, layout: str) -> None:
        """See :class:`Base`: shards under the original's names, or the video part as diffusers reads it."""
        require_layout(layout, self.network_layouts)
        export = save_diffusers if layout == DIFFUSERS_LAYOUT else save_sharded
        export(_own(network), output)


def _own(network: VelocityNetwork) -> JavisDiT:
    assert isinstance(network, JavisDiT), "a network of another base model"
    return network


def _ratio(size_px: tuple[int, int], num_frames: int, scale: float, fix: str) -> float:
    try:
        return shift_ratio(*size_px, num_frames, scale)
    except ValueError as error:
        raise ConfigError(str(error), "a fixed shift for short clips", fix) from error


def _encoder_files(config: Umt5TextSettings, length: int, device: str) -> Umt5Files:
    from avpref.models import umt5

    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.dtype]
    weights, tokenizer = umt5.PUBLISHED.locate(config.encoder), umt5.PUBLISHED_TOKENIZER.locate(config.tokenizer)
    return umt5.Umt5Files(weights, tokenizer, dtype, device, length)
