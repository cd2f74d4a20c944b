"""Section ``prior``: training of the synchrony prior of JavisDiT v0.1."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from avpref.config.section import Section
from avpref.config.training_settings import LoopSettings, OptimiserSettings


class PriorNetworkSettings(Section):
    """Sizes of the estimator; the defaults are those of the release."""

    spatial_tokens: int = Field(default=32, gt=0)
    temporal_tokens: int = Field(default=32, gt=0)
    token_dim: int = Field(default=128, gt=0)
    hidden_dim: int = Field(default=512, gt=0)
    num_heads: int = Field(default=4, gt=0)
    num_encoder_layers: int = Field(default=4, gt=0)
    num_decoder_layers: int = Field(default=4, gt=0)
    video_patch: tuple[int, int, int] = (1, 2, 2)
    audio_patch: tuple[int, int] = (2, 2)
    sampled: bool = True

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        for name, size in (("hidden_dim", self.hidden_dim), ("token_dim", self.token_dim)):
            if size % self.num_heads:
                raise ValueError(f"{name} {size} is no multiple of num_heads {self.num_heads}")
        if self.token_dim % 4:
            raise ValueError(f"token_dim {self.token_dim} is no multiple of 4, which positions of pictures need")
        return self


class ImageBindStates(Section):
    """Text states of ImageBind: ``full`` has the published weights, ``tiny`` small towers with random ones."""

    kind: Literal["imagebind"] = "imagebind"
    preset: Literal["full", "tiny"] = "full"
    folder: str = ""


class WordStates(Section):
    """Text states without weights: a vector per word, derived from its hash."""

    kind: Literal["words"] = "words"
    dim: int = Field(default=48, gt=0)
    length: int = Field(default=16, gt=0)


PriorTextSettings = Annotated[ImageBindStates | WordStates, Field(discriminator="kind")]

UNUSED = ("sharding", "compile_blocks", "activation_checkpointing", "checkpointing_by_tokens", "max_tokens", "previews")
"""Keys of a loop that the training of the prior does not have."""


class PriorTrainingSettings(Section):
    """Training of the synchrony prior on clean clips and negatives made from them."""

    loop: LoopSettings
    optimiser: OptimiserSettings = OptimiserSettings(lr=1e-5, warmup_steps=0, eps=1e-8)
    text: PriorTextSettings = ImageBindStates()
    network: PriorNetworkSettings = PriorNetworkSettings()
    num_negatives: int = Field(default=1, gt=0)
    num_windows: int = Field(default=1, gt=0)

    @model_validator(mode="after")
    def _uses_every_key(self) -> Self:
        fields = type(self.loop).model_fields
        surplus = [name for name in UNUSED if getattr(self.loop, name) != fields[name].default]
        if surplus:
            raise ValueError(f"prior.loop has {', '.join(surplus)}, which the training of the prior does not use")
        return self
