"""Sections ``clip`` and ``prompts``: the shape of every clip and the source of the prompts."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from avpref.config.section import ExtendedSection, Section


class RecordingSettings(ExtendedSection):
    """How recordings are read.

    ``audio_track`` is the number of an audio track from 0, its language or its title; empty: the default track. ``hdr`` says
    whether recordings of high dynamic range are converted to the standard range or refused.
    """

    ADDED: ClassVar[frozenset[str]] = frozenset({"audio_track"})

    audio_track: Annotated[int, Field(ge=0)] | str = ""
    hdr: Literal["tone_map", "refuse"] = "tone_map"


class ShapeSettings(Section):
    """One shape of clips, and its weight where shapes are drawn."""

    num_frames: int = Field(gt=0)
    height_px: int = Field(gt=0)
    width_px: int = Field(gt=0)
    weight: float = Field(default=1.0, gt=0)

    @property
    def size(self) -> tuple[int, int, int]:
        """Frames, height and width."""
        return self.num_frames, self.height_px, self.width_px


class ClipSettings(RecordingSettings):
    """The shape of the clips of the run, and how its recordings are read. ``shapes``: all shapes, where there are several."""

    ADDED: ClassVar[frozenset[str]] = frozenset({"audio_track", "shapes"})

    num_frames: int = Field(gt=0)
    height_px: int = Field(gt=0)
    width_px: int = Field(gt=0)
    fps_hz: float = Field(gt=0)
    sample_rate_hz: int = Field(default=16000, gt=0)
    shapes: tuple[ShapeSettings, ...] = ()

    @model_validator(mode="after")
    def _lists_its_own_shape(self) -> Self:
        sizes = [shape.size for shape in self.shapes]
        if len(set(sizes)) < len(sizes):
            raise ValueError("clip.shapes lists one shape twice")
        if sizes and (self.num_frames, self.height_px, self.width_px) not in sizes:
            raise ValueError("clip.shapes lists every shape: also the one of clip.num_frames, height_px and width_px")
        return self


class ToyWorldPrompts(Section):
    """Prompts of the built-in toy world, and the number of simulated clips for SFT."""

    kind: Literal["toyworld"] = "toyworld"
    num_prompts: int = Field(default=384, gt=0)
    num_evaluation_clips: int = Field(default=256, gt=0)
    num_sft_clips: int = Field(default=4096, gt=0)


class ClipPrompts(Section):
    """Your recordings: a CSV with columns ``file,text`` and optionally ``taxonomy``; paths are relative to the CSV."""

    kind: Literal["clips"] = "clips"
    clips: str = ""
    held_out_share: float = Field(default=0.25, gt=0, lt=1)
    num_evaluation_clips: int = Field(default=32, gt=0)


class TextPrompts(Section):
    """Texts from a CSV with a column ``text``, and optionally ``file`` (ground truth, relative to the CSV) and ``taxonomy``."""

    kind: Literal["texts"] = "texts"
    prompts: str = ""
    held_out_share: float = Field(default=0.1, ge=0, lt=1)


class PairPrompts(Section):
    """Pairs of other programs: a folder that ``avpref pairs export`` or Hugging Face's ``datasets`` wrote, or a CSV of pairs.

    The pairs are trained on as they are; the run's scorers measure them and do not select them.
    """

    kind: Literal["pairs"] = "pairs"
    pairs: str = ""
    held_out_share: float = Field(default=0.1, ge=0, lt=1)
    num_evaluation_clips: int = Field(default=256, gt=0)


PromptSettings = Annotated[ToyWorldPrompts | ClipPrompts | TextPrompts | PairPrompts, Field(discriminator="kind")]
