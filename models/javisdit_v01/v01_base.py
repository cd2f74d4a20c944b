"""JavisDiT v0.1 as a base model: see :class:`avpref.models.bases.base_model.Base` and docs/javisdit-v01.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from pydantic import JsonValue, TypeAdapter
from torch import Tensor

from avpref.config.network_settings import SamplingSettings
from avpref.config.training_settings import TimestepSettings
from avpref.domain import Terms
from avpref.errors import ConfigError
from avpref.media.geometry import ClipShape
from avpref.models.bases.base_model import (
    PEFT_LAYOUT,
    Base,
    GivenWeights,
    Precisions,
    TimestepLaw,
    Work,
    require_layout,
)
from avpref.models.bases.velocity_network import VelocityNetwork
from avpref.models.checkpoints.exporting import SHARD_BYTES, write_shards
from avpref.models.checkpoints.lora_files import read_factors
from avpref.models.checkpoints.weight_folders import CONFIG, Published, weights_hash
from avpref.models.dual_stream.dual_config import DualStreamConfig
from avpref.models.dual_stream.dual_initialisation import initialise_dual
from avpref.models.dual_stream.dual_inputs import CELL_PX, TextLayout, picture_size_px
from avpref.models.dual_stream.dual_loading import read_dual_stream
from avpref.models.dual_stream.dual_network import DualStreamNetwork
from avpref.models.dual_stream.dual_sampling import duration_shift
from avpref.models.flow import Latents, LatentShapes
from avpref.models.javisdit_v01.v01_codec import V01Codec, require_grid
from avpref.models.javisdit_v01.v01_estimate import attention_flop, forward_flop, stream_sizes
from avpref.models.javisdit_v01.v01_settings import PATHS, V01Settings
from avpref.models.javisdit_v01.v01_text import V01TextFiles
from avpref.models.javisdit_v01.v01_training import (
    audio_network,
    freeze_for_joint,
    is_video_network,
    redrawn_priors,
    start_from_video,
)
from avpref.models.sampling import EulerSampler, SamplerSettings
from avpref.models.text import TextEncoder
from avpref.storage.local_files import replace as replace_file

PUBLISHED = "published"
"""Value of ``sft.network`` for the published generator."""
PUBLISHED_GENERATOR = Published("JavisVerse/JavisDiT-v0.1-jav-240p4s", "", "sft.network")
RELEASED_LAYOUT = "released"
LICENCE = Terms(
    "JavisDiT v0.1: code Apache-2.0, licence of the weights not seen; ImageBind and AudioLDM2 CC-BY-NC-SA-4.0; OpenSora VAE and "
    "T5 v1.1 Apache-2.0; licence of PixArt-Sigma's copy of SDXL's VAE not seen",
    commercial_use=False,
)


class V01Base(Base):
    """JavisDiT v0.1 at the sizes of its settings, which default to the release."""

    Settings = V01Settings
    terms = LICENCE
    adapter_layouts = (PEFT_LAYOUT,)
    network_layouts = (RELEASED_LAYOUT,)
    not_of_results = PATHS
    num_conditions = 3

    def __init__(self, settings: V01Settings) -> None:
        self.settings = settings
        self.precisions = Precisions(settings.text_dtype, settings.codec_dtype)

    @property
    def config(self) -> DualStreamConfig:
        """Constructor values of the network."""
        return self.settings.network

    @property
    def identity(self) -> Mapping[str, JsonValue]:
        """The sizes of the network."""
        values: JsonValue = TypeAdapter(DualStreamConfig).dump_python(self.config, mode="json")
        return {"model": "javisdit-v01", "network": values}

    def build_network(self) -> DualStreamNetwork:
        """See :class:`Base`."""
        return DualStreamNetwork(self.config)

    def create(self, seed: int) -> DualStreamNetwork:
        """See :class:`Base` and :func:`avpref.models.dual_stream.dual_initialisation.initialise_dual`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self.build_network()
            initialise_dual(network)
        return network

    def load(self, path: Path, device: torch.device | str = "cpu") -> VelocityNetwork:
        """See :class:`Base`. The frequencies of the rotation are never trained."""
        network = super().load(path, device)
        _own(network).rope.requires_grad_(False)
        return network

    def convert(self, weights: GivenWeights) -> DualStreamNetwork:
        """See :class:`Base`: a folder or file under the released names, or ``published``. ``sft.lora`` is in PEFT's format."""
        network = read_dual_stream(_locate(weights.network), self.config).to(weights.dtype)
        if weights.lora is not None:
            read_factors(weights.lora).fold_into(network)
        return network

    def start(self, weights: GivenWeights, seed: int) -> DualStreamNetwork:
        """See :class:`Base`. The sound of a video network is started from it, as in the released stage 1."""
        path = _locate(weights.network)
        if weights.lora is not None or not is_video_network(path):
            return self.convert(weights)
        network = self.create(seed)
        start_from_video(network, path)
        return network.to(weights.dtype)

    def audio_branch(self, network: VelocityNetwork) -> DualStreamNetwork:
        """See :class:`Base`."""
        return audio_network(_own(network))

    def freeze_for_joint(self, network: VelocityNetwork) -> None:
        """See :class:`Base`: priors and bridges are trained."""
        freeze_for_joint(_own(network))

    def redrawn_texts(self, states: Tensor, seeds: Sequence[int]) -> Tensor:
        """See :class:`Base`: priors are drawn anew, unless they are means."""
        if self.settings.prior_draw == "mean":
            return states
        return redrawn_priors(TextLayout.of(self.config), states, seeds)

    def given_hash(self, network: str) -> str:
        """See :class:`Base`."""
        return weights_hash(_locate(network))

    def codec(self, shape: ClipShape, device: str = "cpu") -> V01Codec:
        """See :class:`Base`."""
        return V01Codec(self.settings, shape, device)

    def text_encoder(self, cache: Path, device: str = "cpu") -> TextEncoder:
        """See :class:`Base`: states of T5 and priors, of which an empty text has none."""
        from avpref.models.umt5 import CachedText

        return CachedText(V01TextFiles(self.settings, device), cache)

    def timestep_law(self, timesteps: TimestepSettings, shape: ClipShape) -> TimestepLaw:
        """See :class:`Base`: the fixed shift, or ``scale`` times the ratio of the clip's size and length. Both modalities share a time."""
        if timesteps.independent:
            found = "timesteps.independent is true, and JavisDiT v0.1 embeds one time for both modalities"
            raise ConfigError(found, "one time", "--set dpo.timesteps.independent=false")
        ratio = timesteps.shift
        if ratio is None:
            ratio = self._ratio(shape, "set timesteps.shift, for example 1.0") * timesteps.scale
        return TimestepLaw(ratio, timesteps.loc, timesteps.spread)

    def sampler(self, settings: SamplingSettings, shape: ClipShape) -> V01Sampler:
        """See :class:`Base`: as :meth:`timestep_law`."""
        require_grid(shape, self.config.fps_hz)
        ratio = settings.shift
        if ratio is None:
            ratio = self._ratio(shape, "--set sampling.shift=1.0") * settings.shift_scale
        return V01Sampler(SamplerSettings(settings.steps, settings.guidance, ratio))

    def latent_work(self, shapes: LatentShapes) -> Work:
        """See :class:`Base`."""
        video, audio = stream_sizes(shapes, self.config)
        flop, attention = (count(video, audio, self.config) for count in (forward_flop, attention_flop))
        return Work(video.tokens + audio.tokens, flop, attention)

    def text_shape(self) -> tuple[int, int]:
        """See :class:`Base`."""
        layout = TextLayout.of(self.config)
        return layout.num_rows, layout.channels

    @property
    def num_blocks(self) -> int:
        """See :class:`Base`."""
        return self.config.depth

    def shallow(self, num_blocks: int) -> DualStreamNetwork:
        """See :class:`Base`."""
        return DualStreamNetwork(replace(self.config, depth=num_blocks))

    def export_network(self, network: VelocityNetwork, output: Path, layout: str) -> None:
        """See :class:`Base`: ``model.safetensors`` or its shards under the released names, and ``config.json``."""
        require_layout(layout, self.network_layouts)
        write_shards(_own(network).state_dict(), output, "model", SHARD_BYTES, {"format": "pt"})
        replace_file(output / CONFIG, json.dumps(_constructor_values(self.config), indent=1, sort_keys=True).encode())

    def _ratio(self, shape: ClipShape, fix: str) -> float:
        """The released shift ratio of a clip, rounded to bfloat16 as there. Raises ConfigError for 2 to 16 frames, which have none."""
        height, width = picture_size_px(shape.height_px // CELL_PX, shape.width_px // CELL_PX)
        ratio = duration_shift(round(height), round(width), shape.num_frames, torch.bfloat16).item()
        if not ratio:
            found = f"a clip of {shape.num_frames} frames: the released shift counts whole windows of 17 frames"
            raise ConfigError(found, "a fixed shift for short clips", fix)
        return ratio


class V01Sampler(EulerSampler):
    """Euler steps, with guidance of both modalities in one call of the network: an empty negative text is its null text and null prior."""

    def velocity(self, network: Callable[..., Latents]) -> Callable[..., Latents]:
        """See :class:`EulerSampler`: with guidance the network knows which rows are partners."""
        return network if self.settings.guidance == 1 else partial(network, is_paired=True)


def _locate(network: str) -> Path:
    return PUBLISHED_GENERATOR.locate("" if network == PUBLISHED else network)


def _constructor_values(config: DualStreamConfig) -> dict[str, object]:
    """Values under the original's names; those of the product alone are left out."""
    own = ("has_video", "injection", "prior_context", "fps_hz")
    return {name: value for name, value in asdict(config).items() if name not in own}


def _own(network: VelocityNetwork) -> DualStreamNetwork:
    assert isinstance(network, DualStreamNetwork), "a network of another base model"
    return network
