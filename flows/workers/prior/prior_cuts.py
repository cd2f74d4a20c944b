"""Clean clips of prompts with the sound around them, of which negatives for the synchrony prior are made."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from numpy.random import PCG64, Generator

import avpref.datasets.prompts.toyworld as toyworld
from avpref.config.data_settings import ToyWorldPrompts
from avpref.config.schema import Settings
from avpref.datasets.prompts.clips import ground_truth_clip
from avpref.domain import Prompt
from avpref.errors import MediaError
from avpref.flows.workers.prompt_sources import clip_shape, reading_rules
from avpref.identity import derive_seed
from avpref.media.geometry import ClipShape
from avpref.media.reading import DecodedClip, probe, read_clip
from avpref.media.reading_rules import ReadingRules
from avpref.rewards.negatives.cuts import Cut, Donor

ONE_FRAME_PX = 16
"""Side of the single frame that is decoded where only the sound is needed."""


def read_prompt_cut(prompt: Prompt, settings: Settings, window: int = 0) -> Cut:
    """The ground truth of ``prompt``, mono, with the sound of one more clip length on each side, as far as there is any.

    Of a recording, ``window`` 0 is the prompt's; others begin up to half a clip earlier or later, as far as the recording reaches, at a
    drawn time. Before a clip of the toy world nothing happens: its sound is there the noise floor, and it has one window. Raises
    MediaError for a recording that cannot be read or has no sound.
    """
    shape, seed = clip_shape(settings), settings.run.seed
    if isinstance(settings.prompts, ToyWorldPrompts):
        _, frames, _ = toyworld.ground_truth(prompt, seed, shape)
        sound = toyworld.sound_around(prompt, seed, shape)
        clip = DecodedClip(
            frames,
            shape.fps_hz,
            sound[shape.num_samples : 2 * shape.num_samples],
            shape.sample_rate_hz,
            shape.duration_s,
        )
        return Cut(prompt.prompt_id, clip, sound[None], shape.num_samples)
    rules = reading_rules(settings.clip)
    if window:
        prompt = replace(
            prompt, ground_truth_start_s=_drawn_start_s(prompt, shape, rules, derive_seed("window", seed, window))
        )
    clip = _recorded(prompt, shape, rules)
    first_s = max(0.0, prompt.ground_truth_start_s - shape.duration_s)
    end_s = min(_duration_s(prompt.ground_truth_path, rules), prompt.ground_truth_start_s + 2 * shape.duration_s)
    before = round((prompt.ground_truth_start_s - first_s) * shape.sample_rate_hz)
    length_s = max(end_s - first_s, (before + shape.num_samples) / shape.sample_rate_hz)
    one_frame = ClipShape(1, ONE_FRAME_PX, ONE_FRAME_PX, 1.0 / length_s, shape.sample_rate_hz)
    around = read_clip(Path(prompt.ground_truth_path), one_frame, start_s=first_s, rules=rules).audio
    assert around is not None
    own = around[before : before + shape.num_samples]
    return Cut(prompt.prompt_id, replace(clip, audio=own, channels=None, weights=()), around[None], before)


def read_prompt_donor(prompt: Prompt, settings: Settings) -> Donor:
    """The ground truth of another prompt. Raises MediaError as :func:`read_prompt_cut`."""
    shape, seed = clip_shape(settings), settings.run.seed
    if isinstance(settings.prompts, ToyWorldPrompts):
        _, frames, audio = toyworld.ground_truth(prompt, seed, shape)
        return Donor(prompt.prompt_id, DecodedClip(frames, shape.fps_hz, audio, shape.sample_rate_hz, shape.duration_s))
    clip = _recorded(prompt, shape, reading_rules(settings.clip))
    return Donor(prompt.prompt_id, replace(clip, channels=None, weights=()))


def _recorded(prompt: Prompt, shape: ClipShape, rules: ReadingRules) -> DecodedClip:
    """The window of a recording. Raises MediaError where it lacks a track."""
    clip = ground_truth_clip(prompt, shape, rules)
    if clip.frames is None or clip.audio is None:
        missing = "picture" if clip.frames is None else "sound"
        raise MediaError(f"{prompt.ground_truth_path} has no {missing}", "both tracks", "remove its row from the list")
    return clip


def _drawn_start_s(prompt: Prompt, shape: ClipShape, rules: ReadingRules, seed: int) -> float:
    """A start within half a clip of the prompt's, in whole milliseconds."""
    drawn = PCG64(derive_seed("start", seed, prompt.prompt_id))
    shift_s = shape.duration_s * (float(Generator(drawn).random()) - 0.5)
    last_s = max(0.0, _duration_s(prompt.ground_truth_path, rules) - shape.duration_s)
    own_s = prompt.ground_truth_start_s
    return round(min(max(own_s + shift_s, 0.0), max(last_s, own_s)), 3)


@lru_cache(maxsize=256)
def _duration_s(path: str, rules: ReadingRules) -> float:
    return probe(Path(path), rules).duration_s
