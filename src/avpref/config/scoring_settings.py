"""The section ``scoring`` of a configuration file: which scorers, and how reward models compute."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from avpref.config.section import Section


class ModelSettings(Section):
    """A reward model: where its files are (empty: where ``avpref weights fetch`` puts them) and how it computes."""

    folder: str = ""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_clips: int = Field(default=4, gt=0, description="clips per forward pass; halved where GPU memory runs out")


class ImageBindSettings(ModelSettings):
    """ImageBind; ``javisbench`` cuts long texts as the benchmark's copy does, which loses the end token and the text with it."""

    long_prompts: Literal["keep_end", "javisbench"] = "keep_end"
    store_embeddings: bool = False


class SynchformerSettings(ModelSettings):
    """Synchformer; which 14 segments are judged: JavisBench's windows, or av-benchmark's first and last."""

    windows: Literal["javisbench", "av_benchmark"] = "javisbench"


class VideoAlignSettings(ModelSettings):
    """VideoAlign, in bfloat16 as it was published."""

    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"


ScorerName = Literal["toy", "signal", "fake", "audiobox", "imagebind", "synchformer", "videoalign", "javis_score"]


class ScoringSettings(Section):
    """Which scorers, which of their metrics enter rewards (empty: all of the seven), and what of a clip they see."""

    scorers: tuple[ScorerName, ...] = Field(default=("toy",), min_length=1)
    metrics: tuple[str, ...] = ()
    preset: Literal["full", "tiny"] = Field(
        default="full", description="tiny: small reward models with random weights, for dry runs; numbers mean nothing"
    )
    window_s: float | None = Field(default=None, gt=0, description="what reward models see; none: the clip's length")
    canary_tolerance: float | None = Field(
        default=None, gt=0, description="relative drift of the canary's scores that is borne; none: by dtype"
    )
    audiobox: ModelSettings = ModelSettings()
    imagebind: ImageBindSettings = ImageBindSettings()
    synchformer: SynchformerSettings = SynchformerSettings()
    videoalign: VideoAlignSettings = VideoAlignSettings()
    javis_score: ModelSettings = ModelSettings()

    @field_validator("scorers", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        """One name, or several with commas between them, instead of a list."""
        return [name.strip() for name in value.split(",")] if isinstance(value, str) else value

    @field_validator("scorers")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("each scorer once")
        return value
