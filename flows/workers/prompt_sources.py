"""Sources of prompts, SFT clips and ground truth: the toy world, recordings, or a list of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

import avpref.datasets.prompts.clips as recordings
import avpref.datasets.prompts.text_prompts as text_list
import avpref.datasets.prompts.toyworld as toyworld
from avpref.config.base_settings import JAVISDIT
from avpref.config.data_settings import (
    ClipPrompts,
    ClipSettings,
    PairPrompts,
    RecordingSettings,
    TextPrompts,
    ToyWorldPrompts,
)
from avpref.config.schema import Settings
from avpref.datasets.foreign_pairs.pair_list import ImportedPair, read_pairs
from avpref.domain import Prompt, Split
from avpref.errors import ConfigError
from avpref.media.geometry import ClipShape
from avpref.media.reading_rules import DEFAULT_READING, HdrHandling, ReadingRules

STEREO = 2


@dataclass(frozen=True, eq=False)
class UnencodedClip:
    """A clip before it is written to a file: text, frames uint8 [T, H, W, 3], audio float32 [S] or [2, S], at the run's rates."""

    text: str
    frames: np.ndarray
    audio: np.ndarray


@dataclass(frozen=True)
class SftItem:
    """One clip of the SFT set. ``ordinal`` is its index; ``prompt`` is set where the clip is a window of a recording."""

    item_id: str
    ordinal: int
    prompt: Prompt | None = None


@dataclass(frozen=True)
class PromptList:
    """The prompts of a run, the rows of the list that were refused, with reasons, and the pairs of a list of pairs."""

    prompts: list[Prompt]
    refused: list[recordings.RefusedRow]
    pairs: tuple[ImportedPair, ...] = ()


class PromptSource(Protocol):
    """A source of prompts and clips. Implementations are picklable and derive everything from settings and the run's seed."""

    def prompts(self) -> PromptList:
        """All prompts of both splits, in a fixed order. Raises InputError or ConfigError for an unusable list."""
        ...

    def sft_items(self, prompts: list[Prompt]) -> list[SftItem]:
        """The SFT set. Raises ConfigError where the source has none."""
        ...

    def sft_clip(self, item: SftItem) -> UnencodedClip:
        """One clip of the SFT set. Raises MediaError."""
        ...

    def ground_truth(self, prompt: Prompt) -> UnencodedClip:
        """The prompt's ground-truth clip. Raises MediaError."""
        ...


@dataclass(frozen=True)
class ToyWorldSource:
    """The built-in world of bouncing balls."""

    settings: ToyWorldPrompts
    shape: ClipShape
    seed: int

    def prompts(self) -> PromptList:
        """Prompts of the toy world; its eight held-out texts are the held-out prompts."""
        return PromptList(toyworld.prompts(self.settings, self.seed), [])

    def sft_items(self, prompts: list[Prompt]) -> list[SftItem]:
        """Simulated clips, some with defects; they do not depend on ``prompts``."""
        return [SftItem(f"sft{ordinal:06d}", ordinal) for ordinal in range(self.settings.num_sft_clips)]

    def sft_clip(self, item: SftItem) -> UnencodedClip:
        """Simulate clip number ``item.ordinal``."""
        return UnencodedClip(*toyworld.sft_clip(item.ordinal, self.seed, self.shape))

    def ground_truth(self, prompt: Prompt) -> UnencodedClip:
        """A clean simulation of the prompt."""
        return UnencodedClip(*toyworld.ground_truth(prompt, self.seed, self.shape))


@dataclass(frozen=True)
class RecordingSource:
    """The user's recordings, cut into windows of the clip's length: that of the nearest of ``shapes``, where there are several."""

    settings: ClipPrompts
    shape: ClipShape
    seed: int
    rules: ReadingRules = DEFAULT_READING
    is_stereo: bool = False
    shapes: tuple[ClipShape, ...] = ()

    def prompts(self) -> PromptList:
        """One prompt per window; held-out windows come from held-out recordings."""
        return PromptList(*recordings.prompts(self.settings, self.shapes or (self.shape,), self.seed, self.rules))

    def sft_items(self, prompts: list[Prompt]) -> list[SftItem]:
        """The windows of the training split."""
        train = [prompt for prompt in prompts if prompt.split == Split.TRAIN]
        return [SftItem(f"sft-{prompt.prompt_id}", ordinal, prompt) for ordinal, prompt in enumerate(train)]

    def sft_clip(self, item: SftItem) -> UnencodedClip:
        """Read the item's window."""
        assert item.prompt is not None
        return self.ground_truth(item.prompt)

    def ground_truth(self, prompt: Prompt) -> UnencodedClip:
        """Read the prompt's window at the run's size and rates. Raises MediaError."""
        clip = recordings.ground_truth_clip(prompt, self.shape, self.rules)
        assert (
            clip.frames is not None and clip.audio is not None
        )  # recordings without picture or sound are refused on import
        if self.is_stereo and clip.channels is not None and len(clip.channels) == STEREO:
            return UnencodedClip(prompt.text, clip.frames, clip.channels)
        return UnencodedClip(prompt.text, clip.frames, clip.audio)


@dataclass(frozen=True)
class TextListSource:
    """A list of texts, some with a recording as ground truth; it has no SFT set."""

    settings: TextPrompts
    shape: ClipShape
    seed: int
    rules: ReadingRules = DEFAULT_READING
    is_stereo: bool = False

    def prompts(self) -> PromptList:
        """One prompt per text."""
        return PromptList(*text_list.text_prompts(self.settings, self.seed, self.rules))

    def sft_items(self, prompts: list[Prompt]) -> list[SftItem]:
        """Raises ConfigError: a list of texts needs a network that is already trained."""
        expected = "recordings or the toy world to train on, or sft.kind weights"
        raise ConfigError(
            "prompts.kind texts with sft.kind train", expected, "--set 'sft={kind: weights, network: DIR}'"
        )

    def sft_clip(self, item: SftItem) -> UnencodedClip:
        """Not called, because there is no SFT set."""
        raise AssertionError("a list of texts has no SFT set")

    def ground_truth(self, prompt: Prompt) -> UnencodedClip:
        """The beginning of the prompt's recording at the run's size and rates. Raises MediaError."""
        return RecordingSource(ClipPrompts(), self.shape, self.seed, self.rules, self.is_stereo).ground_truth(prompt)


@dataclass(frozen=True)
class ForeignPairSource:
    """The texts of foreign pairs; their clips are candidates already, so there is neither an SFT set nor ground truth."""

    settings: PairPrompts
    seed: int

    def prompts(self) -> PromptList:
        """One prompt per distinct text, and the pairs."""
        listed = read_pairs(self.settings, self.seed)
        return PromptList(listed.prompts, listed.refused, tuple(listed.pairs))

    def sft_items(self, prompts: list[Prompt]) -> list[SftItem]:
        """Raises ConfigError: pairs need a network that is already trained."""
        expected = "a trained network: sft.kind weights"
        raise ConfigError(
            "prompts.kind pairs with sft.kind train", expected, "--set 'sft={kind: weights, network: DIR}'"
        )

    def sft_clip(self, item: SftItem) -> UnencodedClip:
        """Not called, because there is no SFT set."""
        raise AssertionError("foreign pairs have no SFT set")

    def ground_truth(self, prompt: Prompt) -> UnencodedClip:
        """Not called, because there is no ground truth."""
        raise AssertionError("foreign pairs have no ground truth")


def imports_pairs(settings: Settings) -> bool:
    """Whether the run trains on imported pairs: with such a list, in the first round; later ones generate candidates for its texts."""
    return isinstance(settings.prompts, PairPrompts) and settings.rounds.round == 1


def has_ground_truth(prompt: Prompt, settings: Settings) -> bool:
    """Whether ``prompt`` has a ground-truth clip: with toy world and recordings always, with other sources where it names a file."""
    return isinstance(settings.prompts, ToyWorldPrompts | ClipPrompts) or bool(prompt.ground_truth_path)


def clip_shape(settings: Settings) -> ClipShape:
    """The shape of section ``clip``: that of every clip, unless the section lists several (:mod:`avpref.flows.shapes`)."""
    return shape_of(settings.clip)


def shape_of(clip: ClipSettings) -> ClipShape:
    """The shape that section ``clip`` describes."""
    return ClipShape(clip.num_frames, clip.height_px, clip.width_px, clip.fps_hz, clip.sample_rate_hz)


def shapes_of(settings: Settings) -> tuple[ClipShape, ...]:
    """The shapes of a run, in the order of the configuration."""
    clip = settings.clip
    if not clip.shapes:
        return (clip_shape(settings),)
    return tuple(ClipShape(*shape.size, clip.fps_hz, clip.sample_rate_hz) for shape in clip.shapes)


def makes_stereo(settings: Settings) -> bool:
    """Whether the base model makes clips with two channels."""
    if settings.base.model == JAVISDIT:
        return False
    from avpref.models.bases.base_opening import open_base  # importing torch takes seconds

    return open_base(settings.base_sections).is_stereo


def reading_rules(clip: RecordingSettings) -> ReadingRules:
    """How the recordings of a run or of a list are read."""
    return ReadingRules(clip.audio_track, HdrHandling(clip.hdr))


def open_prompt_source(settings: Settings) -> PromptSource:
    """The prompt source that the configuration names."""
    shape, seed, rules = clip_shape(settings), settings.run.seed, reading_rules(settings.clip)
    is_stereo = makes_stereo(settings)
    match settings.prompts:
        case ToyWorldPrompts() as prompts:
            return ToyWorldSource(prompts, shape, seed)
        case ClipPrompts() as prompts:
            of_run = shapes_of(settings) if settings.clip.shapes else ()
            return RecordingSource(prompts, shape, seed, rules, is_stereo, of_run)
        case TextPrompts() as prompts:
            return TextListSource(prompts, shape, seed, rules, is_stereo)
        case PairPrompts() as prompts:
            return ForeignPairSource(prompts, seed)
