"""Section ``scoring``: the scorers of a run and how their reward models compute."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from avpref.config.learned_names import LearnedName
from avpref.config.scorer_use import ScorerEntry, ScorerUse, as_use, listed, shortened
from avpref.config.section import Section
from avpref.domain import Dimension, modalities_of


class ModelSettings(Section):
    """A reward model: the folder of its files (empty: that of ``avpref weights fetch``), dtype and batch size."""

    folder: str = ""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_clips: int = Field(default=4, gt=0, description="clips per forward pass; halved when GPU memory runs out")


class ImageBindSettings(ModelSettings):
    """ImageBind. ``javisbench`` truncates long texts as the benchmark's copy does, which drops the end token."""

    long_prompts: Literal["keep_end", "javisbench"] = "keep_end"
    store_embeddings: bool = False


class SynchformerSettings(ModelSettings):
    """Synchformer, over 14 segments of a clip: the windows of JavisBench, or the first and last of av-benchmark."""

    windows: Literal["javisbench", "av_benchmark"] = "javisbench"


class VideoAlignSettings(ModelSettings):
    """VideoAlign, by default in bfloat16 as published."""

    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"


ModalityName = Literal["video", "audio", "both"]


class ClapSettings(ModelSettings):
    """CLAP. ``zeros`` fills sound of less than 10 s as the published numbers do, ``repeat`` as transformers 5 does."""

    short_clips: Literal["zeros", "repeat"] = "zeros"


class ScorerListSection(Section):
    """A section that lists scorers by name, ``package.module:Class`` or long form, each once."""

    scorers: tuple[ScorerEntry, ...] = ("toy",)
    optional: tuple[LearnedName, ...] = Field(
        default=(), description="learned scorers that are added to scorers where their packages are installed"
    )

    @field_validator("scorers", "optional", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return listed(value)

    @field_validator("scorers")
    @classmethod
    def _distinct(cls, value: tuple[str | ScorerUse, ...]) -> tuple[str | ScorerUse, ...]:
        return shortened(value)

    @property
    def uses(self) -> tuple[ScorerUse, ...]:
        """The scorers in the long form."""
        return tuple(as_use(entry) for entry in self.scorers)


class ScoringSettings(ScorerListSection):
    """The scorers, the metrics that enter rewards (empty: all seven) with their weights, and the part of a clip that is scored."""

    metrics: tuple[str, ...] = ()
    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default={}, description="weight of a metric in the mean of its dimension; 1 where it is not listed"
    )
    modalities: dict[str, ModalityName] = Field(
        default={}, description="what the loss of a pair of a dimension may move; both where it is not listed"
    )
    preset: Literal["full", "tiny"] = Field(
        default="full",
        description="tiny: small reward models with random weights, for dry runs; the scores have no meaning",
    )
    window_s: float | None = Field(
        default=None, gt=0, description="length that reward models see; none: the whole clip"
    )
    canary_tolerance: float | None = Field(
        default=None, gt=0, description="largest accepted relative drift of the canary's scores; none: by dtype"
    )
    audiobox: ModelSettings = ModelSettings()
    imagebind: ImageBindSettings = ImageBindSettings()
    synchformer: SynchformerSettings = SynchformerSettings()
    videoalign: VideoAlignSettings = VideoAlignSettings()
    javis_score: ModelSettings = ModelSettings()
    clap: ClapSettings = ClapSettings()

    @field_validator("modalities")
    @classmethod
    def _of_other_dimensions(cls, value: dict[str, ModalityName]) -> dict[str, ModalityName]:
        fixed = [str(dimension) for dimension in Dimension if dimension in value]
        if fixed:
            raise ValueError(f"{fixed[0]} always moves {', '.join(sorted(modalities_of(fixed[0], {})))}: leave it out")
        return value
