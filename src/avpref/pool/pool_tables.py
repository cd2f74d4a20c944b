"""The tables of a pool: their schemas, and the rows that stages make.

``sources``, ``measures``, ``captions`` and ``written`` are sealed from committed units; the others from queries over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from avpref.datasets.metric_tables import Table, table_of
from avpref.domain import ScoreStatus

SOURCES = table_of(
    "sources",
    {
        **{"source_id": "text", "uri": "text", "member": "text", "offset": "int", "num_bytes": "int"},
        **{"sha256": "text", "recording_id": "text"},
        **{"status": "text", "reason": "text", "container": "text", "num_streams": "int", "duration_s": "float"},
        **{"video_codec": "text", "height_px": "int", "width_px": "int", "fps_hz": "float", "rotation_deg": "int"},
        **{"is_variable_rate": "bool", "num_frames": "int", "hdr": "text", "audio_codec": "text"},
        **{"sample_rate_hz": "int", "num_channels": "int", "audio_start_s": "float", "audio_end_s": "float"},
        **{"frame_times_s": "floats", "hue_changes": "floats", "saturation_changes": "floats"},
        **{"luma_changes": "floats", "histogram_matches": "floats"},
        **{"picture_hashes": "ints", "picture_slots": "ints", "sound_prints": "ints", "elapsed_s": "float"},
    },
)
LISTED = table_of(
    "listed",
    {
        **{"source_id": "text", "uri": "text", "member": "text", "offset": "int", "num_bytes": "int"},
        **{"stamp": "text", "text": "text", "taxonomy": "text", "group_name": "text"},
    },
)
SIMILAR = table_of(
    "similarities",
    {
        **{"recording_id": "text", "other_id": "text", "kind": "text", "shift_s": "float"},
        **{"picture_share": "float", "sound_error": "float?"},
    },
)
RECORDINGS = table_of(
    "recordings",
    {
        **{"source_id": "text", "recording_id": "text", "group_id": "text"},
        **{"is_used": "bool", "reason": "text", "duplicate_of": "text"},
    },
)
CUTS = table_of("transitions", {"source_id": "text", "probabilities": "floats"})
CLIPS = table_of(
    "clips",
    {
        **{"clip_id": "text", "source_id": "text", "recording_id": "text", "group_id": "text", "scene": "int"},
        **{"part": "int", "first_frame": "int", "end_frame": "int", "start_s": "float", "end_s": "float"},
        **{"text": "text", "taxonomy": "text", "status": "text", "reason": "text"},
    },
)
MEASURES = table_of(
    "measures",
    {
        **{"clip_id": "text", "measure": "text", "value": "float?", "unit": "text", "status": "text"},
        **{"reason": "text", "scorer": "text", "fingerprint": "text", "elapsed_ms": "float", "licence": "text"},
        **{"commercial_use": "bool", "is_meaningful": "bool", "vector": "floats"},
    },
)
AGREEMENTS = Table("agreements", MEASURES.schema)
CAPTIONS = table_of(
    "captions",
    {
        **{"clip_id": "text", "text": "text", "visual": "text", "auditory": "text", "category": "text"},
        **{"origin": "text", "status": "text", "reason": "text", "model": "text", "requests": "int"},
        **{"input_tokens": "int", "output_tokens": "int", "cost": "float"},
    },
)
DECISIONS = table_of(
    "decisions",
    {
        **{"clip_id": "text", "is_kept": "bool", "filter": "text", "reason": "text"},
        **{"failed_filters": "int", "category": "text"},
    },
)
FAILURES = table_of("failures", {"clip_id": "text", "filter": "text", "reason": "text"})
WRITTEN = table_of(
    "written",
    {
        **{"clip_id": "text", "path": "text", "sha256": "text", "num_frames": "int", "height_px": "int"},
        **{"width_px": "int", "fps_hz": "float", "sample_rate_hz": "int", "duration_s": "float"},
    },
)
LOST = table_of(
    "lost",
    {"stage": "text", "item": "text", "uri": "text", "member": "text", "reason": "text", "hours": "float"},
)
POOL_TABLES = (
    *(LISTED, SOURCES, SIMILAR, RECORDINGS, CUTS, CLIPS, MEASURES, AGREEMENTS, CAPTIONS),
    *(DECISIONS, FAILURES, WRITTEN, LOST),
)

OK, REFUSED = "ok", "refused"
"""Values of ``status`` of sources and clips."""


@dataclass(frozen=True)
class ListedRow:
    """A listed source, and the text, taxonomy and group that its list or a file beside it gives."""

    source_id: str
    uri: str
    member: str
    offset: int
    num_bytes: int
    stamp: str
    text: str
    taxonomy: str
    group_name: str


@dataclass(frozen=True)
class SimilarRow:
    """Two recordings that share pictures: from ``shift_s`` seconds of the first on, the second shows the same.

    ``kind`` is ``same bytes``, ``same recording`` (one is a re-encoding of the other), ``part`` (one holds a part of the other)
    or ``same picture`` (the sound differs). ``picture_share`` is the share of the shorter one that is seen in the other;
    ``sound_error`` the share of differing bits of the sound prints there, None where one of them has no sound to compare.
    """

    recording_id: str
    other_id: str
    kind: str
    shift_s: float
    picture_share: float
    sound_error: float | None


@dataclass(frozen=True)
class RecordingRow:
    """Whether a readable source is used. Sources of one ``group_id`` are never divided between training and held-out."""

    source_id: str
    recording_id: str
    group_id: str
    is_used: bool
    reason: str
    duplicate_of: str


@dataclass(frozen=True)
class ClipRow:
    """A range of a source: the frames ``first_frame`` to ``end_frame`` (exclusive), shown from ``start_s`` until ``end_s`` seconds."""

    clip_id: str
    source_id: str
    recording_id: str
    group_id: str
    scene: int
    part: int
    first_frame: int
    end_frame: int
    start_s: float
    end_s: float
    text: str
    taxonomy: str
    status: str = OK
    reason: str = ""


@dataclass(frozen=True)
class MeasureRow:
    """One measure of one clip, with its unit; without a value where ``status`` is not ok, with the reason.

    Descriptors and embeddings have a ``vector`` and no value.
    """

    clip_id: str
    measure: str
    value: float | None
    unit: str
    status: ScoreStatus
    reason: str
    scorer: str
    fingerprint: str
    elapsed_ms: float
    licence: str
    commercial_use: bool
    is_meaningful: bool
    vector: Sequence[float] = ()


@dataclass(frozen=True)
class DecisionRow:
    """Whether a clip is kept; otherwise the first filter that it fails, why, and how many it fails."""

    clip_id: str
    is_kept: bool
    filter: str
    reason: str
    failed_filters: int
    category: str


@dataclass(frozen=True)
class FailureRow:
    """A filter that a clip fails, quotas and diversity included."""

    clip_id: str
    filter: str
    reason: str


@dataclass(frozen=True)
class CaptionRow:
    """The text of a clip: ``origin`` is ``existing`` or ``made``; without a text where ``status`` is not ok, with the reason.

    ``visual`` and ``auditory`` describe picture and sound alone, ``category`` is the service's word for the subject.
    """

    clip_id: str
    text: str
    visual: str
    auditory: str
    category: str
    origin: str
    status: str
    reason: str
    model: str
    requests: int
    input_tokens: int
    output_tokens: int
    cost: float


@dataclass(frozen=True)
class WrittenRow:
    """A written clip: its file in the pool's folder, with its SHA-256 and shape."""

    clip_id: str
    path: str
    sha256: str
    num_frames: int
    height_px: int
    width_px: int
    fps_hz: float
    sample_rate_hz: int
    duration_s: float


@dataclass(frozen=True)
class LostRow:
    """A source or a clip that is not in the result: at which stage, and why."""

    stage: str
    item: str
    uri: str
    member: str
    reason: str
    hours: float


@dataclass(frozen=True)
class TransitionRow:
    """The probability of a transition after each frame of a source, by TransNetV2."""

    source_id: str
    probabilities: Sequence[float]
