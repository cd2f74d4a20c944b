"""Encoded samples: rows of the index that say where the arrays of clips and texts are stored, and the samples of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from avpref.datasets.metric_tables import table_of
from avpref.identity import digest

STORED = np.dtype("<f2")
"""Half precision keeps eleven significant bits at half the size; codecs carry at most eight."""

STORE_VERSION = 1
"""Part of the fingerprints of stored latents; it changes with the content of shards."""

VIDEO, AUDIO, LOG_VARIANCE, DELAYED, DELAYED_LOG_VARIANCE, TEXT_STATES = (
    *("video", "audio", "audio_log_variance", "delayed_audio", "delayed_audio_log_variance", "text"),
)
"""Parts of a sample: video [C, T, h, w] and audio [C, L, M] are means of the codecs' posteriors, the log-variance of audio is stored
where the posterior is sampled; delayed versions [K, C, L, M]; hidden states of a text [n, D], n its number of tokens."""

NEGATIVE_KINDS = ("spatial", "temporal")
"""Kinds of negatives of a clip, of either track; see :func:`negative_part`."""

LATENTS = table_of(
    "latents",
    {
        "sample_id": "text",
        "part": "text",
        "text": "text",
        "latents_path": "text",
        "sha256": "text",
        "offset": "int",
        "num_bytes": "int",
        "crc32": "int",
        "dtype": "text",
        "shape": "text",
        "num_frames": "int",
        "height_px": "int",
        "width_px": "int",
        "fingerprint": "text",
    },
)
"""The index: one row per stored array."""

TRAINING_SAMPLES = table_of(
    "training_samples",
    {
        "sample_id": "text",
        "chosen": "text",
        "rejected": "text",
        "text_id": "text",
        "num_frames": "int",
        "height_px": "int",
        "width_px": "int",
        "moves_video": "bool",
        "moves_audio": "bool",
        "weight": "float",
    },
)
"""The samples of a training: pairs, or clips, which have an empty ``rejected``."""


@dataclass(frozen=True)
class LatentArray:
    """An array as it is stored: bits, name of the safetensors type, shape."""

    bits: np.ndarray
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class EncodedSample:
    """The arrays of one clip or text by part, its text, and the shape of the clip in frames and pixels (zeros for a text)."""

    sample_id: str
    text: str
    parts: Mapping[str, LatentArray]
    num_frames: int = 0
    height_px: int = 0
    width_px: int = 0


@dataclass(frozen=True)
class LatentRow:
    """A row of :data:`LATENTS`. ``offset`` and ``num_bytes`` are in the file ``latents_path`` of the run, whose hash is ``sha256``;
    ``crc32`` is that of these bytes; ``shape`` is written ``16x17x30x54``; ``fingerprint`` covers everything that the values depend on.
    """

    sample_id: str
    part: str
    text: str
    latents_path: str
    sha256: str
    offset: int
    num_bytes: int
    crc32: int
    dtype: str
    shape: str
    num_frames: int
    height_px: int
    width_px: int
    fingerprint: str


@dataclass(frozen=True)
class TrainingSample:
    """A row of :data:`TRAINING_SAMPLES`: a pair or a clip, its text, the shape of its clips, the modalities that its loss moves,
    and the weight of its loss.
    """

    sample_id: str
    chosen: str
    rejected: str
    text_id: str
    num_frames: int
    height_px: int
    width_px: int
    moves_video: bool = True
    moves_audio: bool = True
    weight: float = 1.0


def half_precision(values: np.ndarray) -> LatentArray:
    """Latents in storage format."""
    bits = np.ascontiguousarray(values, STORED)
    return LatentArray(bits, "F16", bits.shape)


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape as the index writes it."""
    return "x".join(map(str, shape))


def shape_from(text: str) -> tuple[int, ...]:
    """The shape that :func:`shape_text` wrote."""
    return tuple(int(size) for size in text.split("x"))


def text_id(text: str) -> str:
    """Identity of a text in the index."""
    return "t" + digest("text", text)


def negative_part(track: str, kind: str) -> str:
    """The part that has the negatives of ``kind`` of a clip's ``video`` or ``audio``, [n, ...]."""
    return f"negative_{track}_{kind}"


def log_variance_of(part: str) -> str:
    """The part that has the log-variance of audio ``part``, where it is stored."""
    return f"{part}_log_variance"
