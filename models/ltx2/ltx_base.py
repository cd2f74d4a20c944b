"""LTX-2 as a base model: see :class:`avpref.models.bases.base_model.Base` and docs/ltx2.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from pydantic import JsonValue

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
from avpref.models.bases.own_files import copy_adapter
from avpref.models.bases.velocity_network import VelocityNetwork
from avpref.models.checkpoints.lora_files import Lora
from avpref.models.checkpoints.weight_folders import weights_hash
from avpref.models.flow import LatentShapes
from avpref.models.ltx2.ltx_codec import LtxCodec, LtxCodecFiles
from avpref.models.ltx2.ltx_components import load_network, load_tokenizer, new_network
from avpref.models.ltx2.ltx_estimate import TokenCounts, attention_operations, forward_operations
from avpref.models.ltx2.ltx_folder import LtxSource, transformer_folder
from avpref.models.ltx2.ltx_grid import latent_shapes, require_grid, token_counts
from avpref.models.ltx2.ltx_lora import WRAPPED, LoraLayout, read_ltx_lora, save_ltx_lora
from avpref.models.ltx2.ltx_network import LtxConvention, LtxNetwork
from avpref.models.ltx2.ltx_sampler import LtxSampler, noise_levels
from avpref.models.ltx2.ltx_settings import LtxSettings
from avpref.models.ltx2.ltx_text import LENGTH, LtxTextFiles, require_length
from avpref.models.ltx2.ltx_times import token_shift
from avpref.models.ltx2.ltx_versions import LtxVersion
from avpref.models.text import TextEncoder
from avpref.storage.local_files import storage_errors
from avpref.storage.weight_files import on_meta

NUM_BLOCKS = 48
DIFFUSERS_LAYOUT = "diffusers"
PUBLISHED = "published"
"""Value of ``sft.network`` for the transformer in the base model's own folder."""
LICENCE = Terms(
    "LTX-2 Community License: free below USD 10 million of revenue a year; adapters are under the same terms; "
    "commercial use may not train other models or compete with Lightricks",
    commercial_use=False,
)


class LtxBase(Base):
    """LTX-2.0, 2.3 or 2.5, from a folder as diffusers saves it."""

    Settings = LtxSettings
    terms = LICENCE
    adapter_layouts = (PEFT_LAYOUT, *LoraLayout)
    network_layouts = (DIFFUSERS_LAYOUT,)
    not_of_results = frozenset({"folder"})
    is_stereo = True

    def __init__(self, settings: LtxSettings) -> None:
        self.settings = settings
        self.source = LtxSource(LtxVersion(settings.version), settings.folder)
        self.convention = LtxConvention.of(self.source.version, settings.convention)
        self.precisions = Precisions(settings.text_dtype, settings.codec_dtype)

    @property
    def identity(self) -> Mapping[str, JsonValue]:
        """The version of LTX-2."""
        return {"model": "ltx2", "version": str(self.source.version)}

    def build_network(self) -> LtxNetwork:
        """See :class:`Base`: as the folder's configuration says, or, where no folder is named, as published."""
        return new_network(self._structure, self.convention)

    def convert(self, weights: GivenWeights) -> LtxNetwork:
        """See :class:`Base`: the transformer of the folder (``published``), or of another one of the same version."""
        network = load_network(self._transformer(weights.network), self.convention, weights.dtype)
        if weights.lora is not None:
            read_ltx_lora(weights.lora).fold_into(network.transformer)
        return network

    def read_adapter(self, path: Path) -> Lora:
        """See :class:`Base` and :func:`avpref.models.ltx2.ltx_lora.read_ltx_lora`."""
        lora = read_ltx_lora(path)
        return replace(lora, factors={f"{WRAPPED}{name}": pair for name, pair in lora.factors.items()})

    def given_hash(self, network: str) -> str:
        """See :class:`Base`."""
        return weights_hash(self._transformer(network))

    def codec(self, shape: ClipShape, device: str = "cpu") -> LtxCodec:
        """See :class:`Base`."""
        dtype = getattr(torch, self.settings.codec_dtype)
        return LtxCodec(LtxCodecFiles(self.source, dtype, device, self.settings.tiles), shape)

    def text_encoder(self, cache: Path, device: str = "cpu") -> TextEncoder:
        """See :class:`Base`."""
        from avpref.models.umt5 import CachedText

        return CachedText(LtxTextFiles(self.source, getattr(torch, self.settings.text_dtype), device), cache)

    def check_texts(self, texts: Sequence[str]) -> None:
        """See :class:`Base`: at most 1,024 tokens."""
        tokenizer = load_tokenizer(self.source.folder)
        for text in texts:
            require_length(tokenizer, text)

    def timestep_law(self, timesteps: TimestepSettings, shape: ClipShape) -> TimestepLaw:
        """See :class:`Base`: the fixed shift, or ``scale`` times exp(mu), mu from the tokens of the video or of the audio alone."""
        self._require_grid(shape)
        ratios = [timesteps.scale * math.exp(token_shift(tokens)) for tokens in token_counts(latent_shapes(shape))]
        shift, audio_shift = ratios if timesteps.shift is None else (timesteps.shift, None)
        return TimestepLaw(shift, timesteps.loc, timesteps.spread, audio_shift, stretched=True)

    def sampler(self, settings: SamplingSettings, shape: ClipShape) -> LtxSampler:
        """See :class:`Base`."""
        self._require_grid(shape)
        try:
            guidance = self.settings.guidance(settings.guidance)
        except ValueError as error:
            raise ConfigError(
                f"base.settings.perturbed_blocks is empty: {error}",
                "the blocks to perturb",
                "--set base.settings.perturbed_blocks=[28]",
            ) from error
        tokens, _ = token_counts(latent_shapes(shape))
        return LtxSampler(guidance, noise_levels(settings.steps, tokens, settings.shift, settings.shift_scale))

    def work(self, shape: ClipShape) -> Work:
        """See :class:`Base`."""
        self._require_grid(shape)
        return super().work(shape)

    def latent_work(self, shapes: LatentShapes) -> Work:
        """See :class:`Base`."""
        (video, audio), block = token_counts(shapes), self._one_block
        tokens = TokenCounts(video, audio, LENGTH)
        flop, attention = forward_operations(block, tokens), attention_operations(block, tokens)
        return Work(video + audio, self.num_blocks * flop, self.num_blocks * attention)

    def text_shape(self) -> tuple[int, int]:
        """See :class:`Base`: states of both streams, side by side."""
        config = self._one_block.transformer.config
        widths = (config.cross_attention_dim, config.audio_cross_attention_dim)
        return LENGTH, 2 * config.caption_channels if config.use_prompt_embeddings else sum(widths)

    @property
    def num_blocks(self) -> int:
        """See :class:`Base`."""
        return int(str(self._structure.get("num_layers", NUM_BLOCKS)))

    def shallow(self, num_blocks: int) -> LtxNetwork:
        """See :class:`Base`."""
        return new_network({**self._structure, "num_layers": num_blocks}, self.convention)

    @cached_property
    def _one_block(self) -> LtxNetwork:
        return on_meta(lambda: self.shallow(1))

    @property
    def _structure(self) -> Mapping[str, object]:
        """Constructor values of the transformer: of the folder, or, where none is named, of the published one."""
        traits = self.source.version.traits
        return self.source.folder.config(traits.transformer) if self.settings.folder else traits.structure

    def export_adapter(self, adapter: Path, output: Path, layout: str) -> None:
        """See :class:`Base`: PEFT's folder, or one file for ComfyUI or diffusers."""
        require_layout(layout, self.adapter_layouts)
        lora = read_ltx_lora(adapter)
        if layout == PEFT_LAYOUT:
            copy_adapter(adapter, output)
        else:
            save_ltx_lora(lora, output, LoraLayout(layout))

    def export_network(self, network: VelocityNetwork, output: Path, layout: str) -> None:
        """See :class:`Base`: the transformer as diffusers saves it; ``sft.network`` reads it too."""
        require_layout(layout, self.network_layouts)
        assert isinstance(network, LtxNetwork), "a network of another base model"
        with storage_errors(output):
            network.transformer.save_pretrained(output)

    def _transformer(self, network: str) -> Path:
        """Folder of the transformer that ``sft.network`` names. Raises InputError for one of another version."""
        if network == PUBLISHED:
            return self.source.folder.transformer
        return transformer_folder(self.source.version, Path(network))

    def _require_grid(self, shape: ClipShape) -> None:
        """Raises ConfigError for clips that this version does not make; before, where a folder is named, as :func:`open_folder`."""
        if self.settings.folder:
            assert self.source.folder.version is self.source.version
        require_grid(shape, self.source.version.traits.sample_rate_hz)
