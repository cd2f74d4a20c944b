"""The toy world: short simulated clips of a ball that is dropped, bounces and rings, with exact ground truth.

A prompt fixes colour, side, gravity and material; height, start, sideways speed and restitution are free, so the time of
an impact can only be inferred from the picture. Everything is derived from seeds. numpy only.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import NDArray

from avpref.config.data_settings import ToyWorldPrompts
from avpref.domain import Prompt, Split, prompt_id
from avpref.identity import derive_seed
from avpref.media.delay import delay_audio
from avpref.media.geometry import ClipShape
from avpref.media.toyscene import (
    ACCELERATION,
    BACKGROUND_RGB,
    BALL_RGB,
    FLOOR_LEVEL,
    GROUND,
    GROUND_RGB,
    RADIUS,
    RINGS,
    Attributes,
    Material,
    StartSide,
    all_attributes,
    describe,
    understand,
)

NUM_HELD_OUT = 8
NOISE_FLOOR_RMS = 0.003
LOUDEST = 0.45
"""Amplitude of the ring of the fastest impact."""
FASTEST = 2.6
"""Speed of that impact, picture heights per second."""
PARTIALS = (0.94, 1.0, 1.07)
"""Frequencies of a ring relative to its middle."""
GRAIN = 1 / 12
"""Side of a grain of video noise, in picture heights; coarse enough to survive downscaling."""

DELAY_SHARE, DELAY_S = 0.35, (0.125, 0.375)
NOISY_AUDIO_SHARE, NOISY_AUDIO_RMS = 0.4, (0.01, 0.04)
NOISY_VIDEO_SHARE, NOISY_VIDEO_STD = 0.25, (8.0, 20.0)


@dataclass(frozen=True)
class Drop:
    """The free parameters of a scene.

    The ball is held for ``hold_s``, falls ``height``, and keeps ``restitution`` of its vertical speed at each impact;
    ``x`` and ``speed`` (widths, widths per second) are counted from the edge it starts at.
    """

    height: float
    hold_s: float
    x: float
    speed: float
    restitution: float


@dataclass(frozen=True)
class Impact:
    """The ball hits the ground at ``time_s`` with ``speed`` picture heights per second."""

    time_s: float
    speed: float


@dataclass(frozen=True, eq=False)
class SimulatedClip:
    """A clean clip with its ground truth: frames uint8 [T, H, W, 3], audio float32 [S]."""

    frames: NDArray[np.uint8]
    audio: NDArray[np.float32]
    impacts: tuple[Impact, ...]
    attributes: Attributes

    @property
    def impact_times_s(self) -> tuple[float, ...]:
        """When the ball hits the ground."""
        return tuple(impact.time_s for impact in self.impacts)


@lru_cache(maxsize=1)
def held_out_texts() -> frozenset[str]:
    """The eight held-out texts: the first derived draw in which the counts of words differ by at most one."""
    scenes = all_attributes()
    for attempt in itertools.count():
        drawn = generator("toy world split", attempt).permutation(len(scenes))[:NUM_HELD_OUT]
        chosen = [scenes[index] for index in drawn]
        columns = zip(*(dataclasses.astuple(scene) for scene in chosen), strict=True)
        counts = [[column.count(word) for word in type(column[0])] for column in columns]
        if all(max(count) - min(count) <= 1 for count in counts):
            return frozenset(describe(scene) for scene in chosen)
    raise AssertionError("unreachable")


def texts(split: Split) -> list[str]:
    """The 28 training texts or the 8 held-out ones, in a fixed order."""
    known = [describe(attributes) for attributes in all_attributes()]
    return [text for text in known if (text in held_out_texts()) == (split == Split.HELD_OUT)]


def prompts(settings: ToyWorldPrompts, seed: int) -> list[Prompt]:
    """``num_prompts`` training prompts and ``num_evaluation_clips`` held-out ones.

    Texts repeat, so every prompt is an instance with its own source and therefore its own id and ground truth; which
    text an instance gets derives from ``seed``; the texts of a split are used equally often, with a difference of at most one.
    """
    sizes = {Split.TRAIN: settings.num_prompts, Split.HELD_OUT: settings.num_evaluation_clips}
    return [
        _prompt(text, split, number)
        for split, size in sizes.items()
        for number, text in enumerate(_dealt(split, size, seed))
    ]


def ground_truth(prompt: Prompt, seed: int, shape: ClipShape) -> tuple[str, NDArray[np.uint8], NDArray[np.float32]]:
    """The clean clip of a prompt: (text, frames uint8 [T, H, W, 3], audio float32 [S])."""
    clip = simulate(understand(prompt.text), derive_seed("toy world ground truth", seed, prompt.prompt_id), shape)
    return prompt.text, clip.frames, clip.audio


def sound_around(prompt: Prompt, seed: int, shape: ClipShape) -> NDArray[np.float32]:
    """The sound of :func:`ground_truth` between one clip length before it, where nothing happens yet, and one after it [3 S].

    The middle third is the sound of the clip.
    """
    twice = dataclasses.replace(shape, num_frames=2 * shape.num_frames)
    clip_seed = derive_seed("toy world ground truth", seed, prompt.prompt_id)
    clip = simulate(understand(prompt.text), clip_seed, twice)
    silence = generator("toy world before", clip_seed).standard_normal(shape.num_samples, np.float32)
    return np.concatenate([NOISE_FLOOR_RMS * silence, clip.audio]).astype(np.float32)


def sft_clip(number: int, seed: int, shape: ClipShape) -> tuple[str, NDArray[np.uint8], NDArray[np.float32]]:
    """Clip ``number`` of the SFT set: a training text, and a simulation that may be delayed, noisy or both."""
    known = texts(Split.TRAIN)
    text = known[derive_seed("toy world sft text", seed, number) % len(known)]
    clip = simulate(understand(text), derive_seed("toy world sft", seed, number), shape)
    frames, audio = with_defects(clip, generator("toy world defects", seed, number), shape)
    return text, frames, audio


def with_defects(
    clip: SimulatedClip, random: Generator, shape: ClipShape
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The clip with the defects of amateur recordings, each drawn independently."""
    frames, audio = clip.frames, clip.audio
    if random.random() < DELAY_SHARE:
        audio = delay_audio(audio, random.uniform(*DELAY_S), shape.sample_rate_hz)
    if random.random() < NOISY_AUDIO_SHARE:
        audio = add_audio_noise(audio, random.uniform(*NOISY_AUDIO_RMS), random)
    if random.random() < NOISY_VIDEO_SHARE:
        frames = add_video_noise(frames, random.uniform(*NOISY_VIDEO_STD), random)
    return frames, audio


def simulate(attributes: Attributes, seed: int, shape: ClipShape) -> SimulatedClip:
    """Draw the free parameters from ``seed``, then picture and sound."""
    random = generator("toy world clip", seed)
    drop = Drop(
        height=random.uniform(0.40, 0.68),
        hold_s=random.uniform(0.0, 0.35),
        x=random.uniform(0.14, 0.32),
        speed=random.uniform(0.08, 0.25),
        restitution=random.uniform(0.55, 0.80),
    )
    impacts = impacts_of(drop, ACCELERATION[attributes.gravity], shape.duration_s)
    frames = render(attributes, drop, shape)
    return SimulatedClip(frames, sound(attributes.material, impacts, random, shape), impacts, attributes)


def impacts_of(drop: Drop, acceleration: float, duration_s: float) -> tuple[Impact, ...]:
    """Impacts before ``duration_s`` at audible speed."""
    fall_s = math.sqrt(2 * drop.height / acceleration)
    time_s, speed, impacts = drop.hold_s + fall_s, acceleration * fall_s, []
    while time_s < duration_s and speed > 0.05 * FASTEST:
        impacts.append(Impact(time_s, speed))
        speed *= drop.restitution
        time_s += 2 * speed / acceleration
    return tuple(impacts)


def height_at(times_s: NDArray[np.float64], drop: Drop, acceleration: float) -> NDArray[np.float64]:
    """Height [T] of the ball above its lowest level at ``times_s`` [T]; 0 once it rests."""
    fallen = np.maximum(times_s - drop.hold_s, 0.0)
    height = np.maximum(drop.height - acceleration / 2 * fallen**2, 0.0)
    end_s = math.inf
    for impact in impacts_of(drop, acceleration, float(times_s[-1]) + 1.0):
        since, speed = times_s - impact.time_s, impact.speed * drop.restitution
        end_s = impact.time_s + 2 * speed / acceleration
        flying = (since >= 0) & (times_s < end_s)
        height[flying] = speed * since[flying] - acceleration / 2 * since[flying] ** 2
    height[times_s >= end_s] = 0.0
    return height


def render(attributes: Attributes, drop: Drop, shape: ClipShape) -> NDArray[np.uint8]:
    """Frames uint8 [T, H, W, 3]: frame k shows the instant k / fps. Edges are anti-aliased."""
    times_s = np.arange(shape.num_frames) / shape.fps_hz
    across = drop.x + drop.speed * times_s
    across = across if attributes.side == StartSide.LEFT else 1.0 - across
    down = FLOOR_LEVEL - height_at(times_s, drop, ACCELERATION[attributes.gravity])
    frames = np.repeat(_scenery(shape)[None], shape.num_frames, axis=0)
    ball = np.array(BALL_RGB[attributes.colour], np.float64)
    for frame, x, y in zip(frames, across * shape.width_px, down * shape.height_px, strict=True):
        _paint(frame, x, y, RADIUS * shape.height_px, ball)
    return frames


def sound(material: Material, impacts: Sequence[Impact], random: Generator, shape: ClipShape) -> NDArray[np.float32]:
    """Waveform float32 [S]: one ring per impact, with amplitude proportional to its speed, on a noise floor."""
    audio = NOISE_FLOOR_RMS * random.standard_normal(shape.num_samples, np.float32)
    ring = _ring(material, shape.sample_rate_hz)
    for impact in impacts:
        start = round(impact.time_s * shape.sample_rate_hz)
        stop = min(start + len(ring), len(audio))
        audio[start:stop] += np.float32(LOUDEST * impact.speed / FASTEST) * ring[: stop - start]
    return audio


def add_audio_noise(audio: NDArray[np.float32], rms: float, random: Generator) -> NDArray[np.float32]:
    """Audio plus white noise of the given root mean square."""
    return audio + np.float32(rms) * random.standard_normal(len(audio), np.float32)


def add_video_noise(frames: NDArray[np.uint8], std: float, random: Generator) -> NDArray[np.uint8]:
    """Frames plus coarse-grained noise of ``std`` grey levels; see ``GRAIN``."""
    num_frames, height, width, _ = frames.shape
    side = max(1, round(GRAIN * height))
    rows, columns = -(-height // side), -(-width // side)
    grains = std * random.standard_normal((num_frames, rows, columns, 3), np.float32)
    noise = grains.repeat(side, axis=1).repeat(side, axis=2)[:, :height, :width]
    return np.clip(np.rint(frames + noise), 0, 255).astype(np.uint8)


def generator(*parts: object) -> Generator:
    """A stream of random numbers derived from ``parts``."""
    return Generator(Philox(derive_seed(*parts)))


def _prompt(text: str, split: Split, number: int) -> Prompt:
    source, scene = f"toyworld/{split}/{number}", understand(text)
    taxonomy = f"{scene.colour}/{scene.side}/{scene.gravity}/{scene.material}"
    return Prompt(prompt_id(text, source, split), text, split, source, taxonomy)


def _dealt(split: Split, size: int, seed: int) -> list[str]:
    """``size`` texts: shuffled permutations of all texts, one after another."""
    known = texts(split)
    num_decks = -(-size // len(known))
    orders = [generator("toy world deck", seed, split, deck).permutation(len(known)) for deck in range(num_decks)]
    return [known[index] for order in orders for index in order][:size]


@lru_cache(maxsize=4)
def _scenery(shape: ClipShape) -> NDArray[np.uint8]:
    rows = np.arange(shape.height_px)
    share = np.clip(rows + 1.0 - GROUND * shape.height_px, 0.0, 1.0)[:, None]
    colours = (1 - share) * np.array(BACKGROUND_RGB) + share * np.array(GROUND_RGB)
    return np.repeat(np.rint(colours).astype(np.uint8)[:, None], shape.width_px, axis=1)


def _paint(frame: NDArray[np.uint8], x: float, y: float, radius: float, colour: NDArray[np.float64]) -> None:
    """Draw a disc in place; a pixel's share is taken from its centre's distance to the edge."""
    top, bottom = max(0, math.floor(y - radius - 1)), min(frame.shape[0], math.ceil(y + radius + 1))
    left, right = max(0, math.floor(x - radius - 1)), min(frame.shape[1], math.ceil(x + radius + 1))
    if top >= bottom or left >= right:
        return
    distance = np.hypot(np.arange(top, bottom)[:, None] + 0.5 - y, np.arange(left, right) + 0.5 - x)
    share = np.clip(radius + 0.5 - distance, 0.0, 1.0)[..., None]
    patch = frame[top:bottom, left:right]
    patch[:] = np.rint((1 - share) * patch + share * colour).astype(np.uint8)


@lru_cache(maxsize=16)
def _ring(material: Material, sample_rate_hz: int) -> NDArray[np.float32]:
    """One ring of amplitude 1: decaying partials in the material's band."""
    ring = RINGS[material]
    seconds = np.arange(round(6 * ring.decay_s * sample_rate_hz)) / sample_rate_hz
    tone = sum(np.sin(2 * np.pi * ring.centre_hz * partial * seconds) for partial in PARTIALS) / len(PARTIALS)
    return (tone * np.exp(-seconds / ring.decay_s)).astype(np.float32)
