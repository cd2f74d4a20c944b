"""The shared nouns: prompt, candidate, metric, score, unit. See docs/glossary.md; one meaning each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from avpref.identity import derive_seed, digest

SCHEMA_VERSION = 2


class Dimension(StrEnum):
    """The built-in dimensions in which one candidate can be better than another; every run has a metric for each of them.

    Dimensions are open names: a scorer may declare metrics of any other, such as ``speech``.
    """

    VIDEO = "video"
    AUDIO = "audio"
    AV = "av"


ALL_DIMENSIONS = "all"
"""Value of the pair table's column ``dimension`` where a pair speaks for every dimension."""


MODALITIES = ("video", "audio")
"""The two parts of a clip that the generator makes, each with a loss of its own."""


def modalities_of(dimension: str, other_dimensions: Mapping[str, str]) -> frozenset[str]:
    """The modalities whose loss may move for a pair of ``dimension``: video for video, audio for audio, both for the others.

    ``other_dimensions`` is ``scoring.modalities``: dimension → ``video``, ``audio`` or ``both``.
    """
    built_in = {"video": "video", "audio": "audio", "av": "both"}
    modality = built_in.get(dimension) or other_dimensions.get(dimension, "both")
    return frozenset(MODALITIES) if modality == "both" else frozenset({modality})


def public_name(dimension: str) -> str:
    """Name of a dimension in documents for people and scripts: ``sync`` for ``av``, otherwise its own."""
    return "sync" if dimension == Dimension.AV else str(dimension)


class Origin(StrEnum):
    """Where a candidate came from."""

    GENERATED = "generated"
    GROUND_TRUTH = "ground_truth"
    IMPORTED = "imported"


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

    A metric without the prompt among its inputs is *prompt-blind*: a clip of something else can score as well. A scorer
    declares the first five fields. A run adds ``weight``, the weight in the mean of the dimension (``scoring.weights``), and
    ``scorer``, the name of the scorer that computes the metric there.
    """

    name: str
    unit: str
    higher_is_better: bool
    dimension: str
    inputs: frozenset[MetricInput]
    weight: float = 1.0
    scorer: str = ""


@dataclass(frozen=True)
class Terms:
    """Terms of use of a scorer's numbers: the licence of its weights, and whether the numbers are meaningful.

    ``is_meaningful`` is false for networks with random weights, which exist for tests and dry runs. ``sound`` says which mix of a
    clip's channels the scorer hears.
    """

    licence: str
    commercial_use: bool
    is_meaningful: bool = True
    sound: str = field(default="mono mix of ITU-R BS.775", compare=False)


CHANNEL_MEAN, FIRST_CHANNEL, NO_SOUND = "mean of all channels", "first channel", "none"
"""Values of ``Terms.sound`` of published scorers."""


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
"""The seven metrics of the paper. They enter rewards unless ``scoring.metrics`` lists others."""

METRIC_BY_NAME = {metric.name: metric for metric in METRICS}


class OfDimension(Protocol):
    """Something that belongs to a dimension, such as a metric."""

    @property
    def dimension(self) -> str:
        """The dimension."""
        ...


def dimensions_of(metrics: Iterable[OfDimension]) -> tuple[str, ...]:
    """The dimensions of ``metrics``: the built-in ones in their order, then the others in order of appearance."""
    present = dict.fromkeys(str(metric.dimension) for metric in metrics)
    built_in = [str(dimension) for dimension in Dimension if dimension in present]
    return (*built_in, *(name for name in present if name not in built_in))


def in_canonical_order(metrics: Iterable[Metric]) -> tuple[Metric, ...]:
    """The seven metrics of the paper first, in their order, then the others as they are: the order of columns and of sums."""
    by_name = {metric.name: metric for metric in metrics}
    published = [by_name[metric.name] for metric in METRICS if metric.name in by_name]
    return (*published, *(metric for metric in by_name.values() if metric.name not in METRIC_BY_NAME))


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
