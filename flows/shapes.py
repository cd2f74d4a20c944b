"""Shapes of a run with several: which shape a prompt has, and the settings of a run with that shape alone.

A prompt's shape is that of its ground truth where there is a recording (the nearest one), and otherwise drawn by the weights of
``clip.shapes`` from a hash of seed and prompt. Candidates, scores, pairs and evaluation of a prompt follow it: every stage makes one
pass per shape, under the settings of a run of that shape, so that ids, fingerprints and results are those of such a run.
"""

from __future__ import annotations

from dataclasses import dataclass

from avpref.config.schema import Settings
from avpref.domain import Candidate
from avpref.flows.workers.prompt_sources import clip_shape
from avpref.identity import derive_seed
from avpref.media.geometry import ClipShape

SEEDS = 2**63


@dataclass(frozen=True)
class PromptShape:
    """A row of table ``prompt_shapes``: the shape of a prompt's clips; ``origin`` is ``ground_truth`` or ``weights``."""

    prompt_id: str
    num_frames: int
    height_px: int
    width_px: int
    origin: str


def shapes_of(settings: Settings) -> tuple[ClipShape, ...]:
    """The shapes of a run, in the order of the configuration."""
    clip = settings.clip
    if not clip.shapes:
        return (clip_shape(settings),)
    return tuple(ClipShape(*shape.size, clip.fps_hz, clip.sample_rate_hz) for shape in clip.shapes)


def settings_of(settings: Settings, shape: ClipShape) -> Settings:
    """The settings of a run with clips of ``shape`` alone; otherwise equal."""
    if not settings.clip.shapes:
        return settings
    size = {"num_frames": shape.num_frames, "height_px": shape.height_px, "width_px": shape.width_px}
    return settings.model_copy(update={"clip": settings.clip.model_copy(update={**size, "shapes": ()})})


def shape_name(shape: ClipShape) -> str:
    """A shape in names of passes and messages: frames x height x width."""
    return f"{shape.num_frames}x{shape.height_px}x{shape.width_px}"


def shape_of_candidate(candidate: Candidate) -> ClipShape:
    """The shape of a candidate's clip."""
    size = candidate.num_frames, candidate.height_px, candidate.width_px
    return ClipShape(*size, candidate.fps_hz, candidate.sample_rate_hz)


def drawn_shape(settings: Settings, key: str) -> ClipShape:
    """The shape of the item ``key`` (a prompt, or a clip of the SFT set), drawn by weight from a hash of the run's seed and ``key``."""
    shapes = shapes_of(settings)
    weights = [shape.weight for shape in settings.clip.shapes] or [1.0]
    place = derive_seed("shape", settings.run.seed, key) / SEEDS * sum(weights)
    for shape, weight in zip(shapes, weights, strict=True):
        place -= weight
        if place < 0:
            return shape
    return shapes[-1]
