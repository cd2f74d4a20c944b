"""The shared nouns: prompt, candidate, metric, score, unit. See docs/glossary.md; one meaning each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from avpref.identity import derive_seed, digest

SCHEMA_VERSION = 2


class Dimension(StrEnum):
    """The three dimensions in which one candidate can be better than another."""

    VIDEO = "video"
    AUDIO = "audio"
    AV = "av"


PUBLIC_NAME = {Dimension.VIDEO: "video", Dimension.AUDIO: "audio", Dimension.AV: "sync"}
"""Names of the dimensions in documents for people and scripts."""


class Origin(StrEnum):
    """Where a candidate came from."""

    GENERATED = "generated"
    GROUND_TRUTH = "ground_truth"


class ScoreStatus(StrEnum):
    """Whether a score row carries a number: ``ok``; ``skipped`` (clip not valid for the metric); ``quarantined`` (failed)."""

    OK = "ok"
    SKIPPED = "skipped"
    QUARANTINED = "quarantined"


class Split(StrEnum):
    """Use of a prompt. Neither held-out prompts nor their ground-truth clips are ever trained on."""

    TRAIN = "train"
    HELD_OUT = "held_out"


class MetricInput(StrEnum):
    """A part of a scored clip that a metric depends on."""

    PROMPT = "prompt"
    PICTURE = "picture"
    SOUND = "sound"


@dataclass(frozen=True)
class Metric:
    """A number that a scorer computes: its unit, the better direction, the dimension that it measures, and its inputs.

    A metric without the prompt among its inputs is *prompt-blind*: a clip of something else can score as well.
    """

    name: str
    unit: str
    higher_is_better: bool
    dimension: Dimension
    inputs: frozenset[MetricInput]


@dataclass(frozen=True)
class Terms:
    """Terms of use of a scorer's numbers: the licence of its weights, and whether the numbers are meaningful.

    ``is_meaningful`` is false for networks with random weights, which exist for tests and dry runs.
    """

    licence: str
    commercial_use: bool
    is_meaningful: bool = True


OWN_TERMS = Terms("Apache-2.0", commercial_use=True)
"""Terms of scorers that use no third-party weights."""

PICTURE = frozenset({MetricInput.PICTURE})
SOUND = frozenset({MetricInput.SOUND})
PICTURE_AND_SOUND = PICTURE | SOUND
PROMPT_AND_PICTURE = PICTURE | {MetricInput.PROMPT}
PROMPT_AND_SOUND = SOUND | {MetricInput.PROMPT}
"""Inputs of metrics."""

METRICS: tuple[Metric, ...] = (
    Metric("visual_quality", "scorer units", True, Dimension.VIDEO, PICTURE),
    Metric("motion_quality", "scorer units", True, Dimension.VIDEO, PICTURE),
    Metric("text_video", "cosine", True, Dimension.VIDEO, PROMPT_AND_PICTURE),
    Metric("audio_quality", "scorer units", True, Dimension.AUDIO, SOUND),
    Metric("text_audio", "cosine", True, Dimension.AUDIO, PROMPT_AND_SOUND),
    Metric("audio_video", "cosine", True, Dimension.AV, PICTURE_AND_SOUND),
    Metric("desync", "s", False, Dimension.AV, PICTURE_AND_SOUND),
)
"""The seven metric columns of the paper; every set of scorers fills these names (or leaves some out by configuration)."""

METRIC_BY_NAME = {metric.name: metric for metric in METRICS}


@dataclass(frozen=True)
class Prompt:
    """A text that clips are generated for. ``source`` groups prompts that must not be split over train and held-out."""

    prompt_id: str
    text: str
    split: Split
    source: str = ""
    taxonomy: str = ""
    ground_truth_path: str = ""
    ground_truth_start_s: float = 0.0
    ground_truth_sha256: str = ""


@dataclass(frozen=True)
class Candidate:
    """One clip for a prompt: generated from a derived seed, or ground truth re-encoded to the model's shape.

    ``path`` is relative to the run folder and carries the id and a piece of the file's sha-256. ``sampler`` is the JSON of what
    ``sampler_hash`` is the hash of; ``latents_path`` is empty where latents are not kept; ``elapsed_s`` is this clip's share of its batch.
    """

    candidate_id: str
    prompt_id: str
    index: int
    origin: Origin
    seed: int
    checkpoint_hash: str
    sampler_hash: str
    path: str
    sha256: str
    num_frames: int
    height_px: int
    width_px: int
    fps_hz: float
    sample_rate_hz: int
    duration_s: float
    adapter_hash: str = ""
    sampler: str = ""
    latents_path: str = ""
    elapsed_s: float = 0.0


@dataclass(frozen=True)
class Score:
    """One raw number of one metric for one candidate, or the reason why there is none."""

    candidate_id: str
    metric: str
    value: float | None
    status: ScoreStatus
    reason: str = ""


def prompt_id(text: str, source: str = "", split: str = Split.TRAIN) -> str:
    """Identity of a prompt: its text, its source clip and its split."""
    return "p" + digest("prompt", text, source, split)


def candidate_seed(run_seed: int, prompt: str, index: int) -> int:
    """The seed from which a generated candidate's noise is drawn: H(run seed, prompt id, index)."""
    return derive_seed("candidate", run_seed, prompt, index)


def candidate_id(prompt: str, index: int, seed: int, checkpoint_hash: str, sampler_hash: str) -> str:
    """Identity of a candidate: everything that its content depends on. Change any input and the id changes."""
    return "c" + digest("candidate", prompt, index, seed, checkpoint_hash, sampler_hash)
