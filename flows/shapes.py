"""Shapes of a run with several: which shape a prompt has, and the settings of a run with that shape alone.

A prompt's shape is that of its ground truth where there is a recording (the nearest one), and otherwise drawn by the weights of
``clip.shapes`` from a hash of seed and prompt. Candidates, scores, pairs and evaluation of a prompt follow it: every stage makes one
pass per shape, under the settings of a run of that shape, so that ids, fingerprints and results are those of such a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from avpref.config.schema import Settings
from avpref.datasets.lists.listed_files import ListedRecording
from avpref.domain import Candidate, Prompt
from avpref.flows.workers.prompt_sources import reading_rules, shapes_of
from avpref.identity import derive_seed
from avpref.media.geometry import ClipShape, nearest_shape
from avpref.media.reading import probe

SEEDS = 2**63


@dataclass(frozen=True)
class PromptShape:
    """A row of table ``prompt_shapes``: the shape of a prompt's clips; ``origin`` is ``ground_truth`` or ``weights``."""

    prompt_id: str
    num_frames: int
    height_px: int
    width_px: int
    origin: str


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


def prompt_shapes(settings: Settings, prompts: Iterable[Prompt]) -> Iterator[PromptShape]:
    """The shape of every prompt of a run with several shapes. Raises InputError for ground truth that cannot be read any more."""
    recordings: dict[str, ListedRecording] = {}
    for prompt in prompts:
        path = prompt.ground_truth_path
        if not path:
            shape, origin = drawn_shape(settings, prompt.prompt_id), "weights"
        else:
            if path not in recordings:
                recordings[path] = ListedRecording(Path(path), probe(path, reading_rules(settings.clip)), "")
            listed = recordings[path]
            shape = nearest_shape(shapes_of(settings), listed.height_px, listed.width_px, listed.duration_s)
            origin = "ground_truth"
        yield PromptShape(prompt.prompt_id, shape.num_frames, shape.height_px, shape.width_px, origin)
