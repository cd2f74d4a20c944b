"""A few short clips for checks of scorers: a square that jumps with clicks, a drifting pattern with a tone, noise; and broken ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from avpref.media.reading import DecodedClip
from avpref.rewards.protocol import ScorableClip

FPS_HZ, RATE_HZ, LENGTH_S, HEIGHT_PX, WIDTH_PX = 12.0, 16000, 2.0, 96, 128
NUM_FRAMES = round(FPS_HZ * LENGTH_S)
TEXTS = (
    "A bright square jumps to the right with every click.",
    "Stripes drift over the picture to a humming tone.",
    "A noisy screen and a rising hiss.",
)


def sample_clips() -> list[ScorableClip]:
    """Three valid clips of 2 s, equal on every machine."""
    makers: list[Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]] = [_square, _stripes, _noise]
    clips = []
    for index, (make, text) in enumerate(zip(makers, TEXTS, strict=True)):
        frames, audio = make(np.random.Generator(np.random.PCG64(index)))
        sound = audio.astype(np.float32)
        clip = DecodedClip(frames.astype(np.uint8), FPS_HZ, sound, RATE_HZ, LENGTH_S, channels=sound[None])
        clips.append(ScorableClip(f"sample {index}", text, clip))
    return clips


def broken_clips() -> list[ScorableClip]:
    """The first sample without sound track, silent, without picture, black, and without a text."""
    sample = sample_clips()[0]
    clip, quiet = sample.clip, np.zeros(round(LENGTH_S * RATE_HZ), np.float32)
    assert clip.frames is not None
    variants = {
        "no sound track": replace(clip, audio=None, sample_rate_hz=0, channels=None),
        "silent": replace(clip, audio=quiet, channels=quiet[None]),
        "no picture": replace(clip, frames=None, fps_hz=0.0),
        "black picture": replace(clip, frames=np.zeros_like(clip.frames)),
    }
    broken = [ScorableClip(name, sample.text, variant) for name, variant in variants.items()]
    return [*broken, ScorableClip("no text", "", clip)]


def _square(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    frames = np.repeat(generator.integers(60, 90, (1, HEIGHT_PX, WIDTH_PX, 3)), NUM_FRAMES, axis=0)
    audio = 0.002 * generator.standard_normal(round(LENGTH_S * RATE_HZ))
    for index in range(NUM_FRAMES):
        x_px = 8 + 16 * (index // 4)
        frames[index, 30:62, x_px : x_px + 28] = (230, 200, 40)
        if index % 4 == 0:
            start = round(index / FPS_HZ * RATE_HZ)
            audio[start : start + 800] += 0.5 * np.exp(-np.arange(800) / 200) * np.sin(0.35 * np.arange(800))
    return frames, audio


def _stripes(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX]
    phases = np.arange(NUM_FRAMES)[:, None, None, None] * np.array([0.4, 0.5, 0.6])
    frames = 127 + 100 * np.sin((0.2 * columns + 0.1 * rows)[None, :, :, None] + phases)
    return frames, 0.3 * np.sin(2 * np.pi * 220 * np.arange(round(LENGTH_S * RATE_HZ)) / RATE_HZ)


def _noise(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    frames = generator.integers(0, 256, (NUM_FRAMES, HEIGHT_PX, WIDTH_PX, 3))
    samples = round(LENGTH_S * RATE_HZ)
    return frames, np.linspace(0.01, 0.2, samples) * generator.standard_normal(samples)
