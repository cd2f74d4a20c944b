"""Validity rules: which clips can be scored, and the reason why each of the others is skipped.

Reward models return a plausible number for silence or a black picture, so these rules are applied before them. A still
picture is a defect that most scores should punish, so it is a reason to skip only if the rules ask for it: models
that estimate the offset of the sound would return an arbitrary one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from avpref.domain import PICTURE, SOUND, Dimension, Metric, MetricInput, Score
from avpref.media.reading import DecodedClip
from avpref.rewards.protocol import ScorableClip, measured, skipped


class Flag(StrEnum):
    """A reason why a clip cannot be scored; the value is the text in the score row."""

    NO_VIDEO = "no video track"
    NO_AUDIO = "no audio track"
    TOO_SHORT = "too short"
    BLANK = "blank picture"
    STILL = "the picture does not move"
    SILENT = "silent"
    NO_SOUND = "the recording has no sound in this window"


@dataclass(frozen=True)
class ValidityRules:
    """Limits below which a clip is skipped.

    ``min_rms`` is the root mean square of the sound (full scale 1). ``min_contrast`` is the difference between the brightest
    and the darkest byte of all frames. ``min_moving_share`` is the largest share over time of values that differ from the first
    frame by more than :data:`MOVED_LEVELS`; 0 accepts still pictures.
    """

    min_duration_s: float = 0.5
    min_frames: int = 2
    min_rms: float = 1e-4
    min_contrast: int = 4
    min_moving_share: float = 0.0


DEFAULT_RULES = ValidityRules()
MOVED_LEVELS = 10
"""Change, in levels of 255, above which a value counts as moving; lossy coding of a still picture stays below."""
MOTION_STRIDE = 2
MIN_SOUND_SHARE = 0.05
"""Share of a clip below which its recording has no sound there: it has not begun, or has ended."""

_FLAGS_OF = {
    Dimension.VIDEO: frozenset({Flag.NO_VIDEO, Flag.TOO_SHORT, Flag.BLANK}),
    Dimension.AUDIO: frozenset({Flag.NO_AUDIO, Flag.TOO_SHORT, Flag.SILENT, Flag.NO_SOUND}),
    Dimension.AV: frozenset(Flag),
}
_TRACKS = frozenset({MetricInput.PICTURE, MetricInput.SOUND})
_DIMENSION_OF = {PICTURE: Dimension.VIDEO, SOUND: Dimension.AUDIO}


def flags(clip: DecodedClip, rules: ValidityRules) -> tuple[Flag, ...]:
    """All flags of ``clip``, in the order of :class:`Flag`. Sound with NaN or infinity, which no file gives, counts as silent."""
    return in_flag_order(picture_flags(clip, rules) | sound_flags(clip, rules))


def in_flag_order(flags: frozenset[Flag]) -> tuple[Flag, ...]:
    """``flags`` in the order of :class:`Flag`."""
    return tuple(flag for flag in Flag if flag in flags)


def picture_flags(clip: DecodedClip, rules: ValidityRules) -> frozenset[Flag]:
    """The flags of the picture; reads every frame."""
    if clip.frames is None:
        return frozenset({Flag.NO_VIDEO})
    if len(clip.frames) < rules.min_frames:
        return frozenset({Flag.TOO_SHORT})
    if int(clip.frames.max()) - int(clip.frames.min()) < rules.min_contrast:
        return frozenset({Flag.BLANK})
    is_still = rules.min_moving_share and _moving_share(clip.frames) < rules.min_moving_share
    return frozenset({Flag.STILL} if is_still else ())


def sound_flags(clip: DecodedClip, rules: ValidityRules) -> frozenset[Flag]:
    """The flags of the sound and of the clip's duration."""
    flags = set()
    if clip.audio is None:
        flags.add(Flag.NO_AUDIO)
    elif clip.sound_share < MIN_SOUND_SHARE:
        flags.add(Flag.NO_SOUND)
    elif not _rms(clip.audio) >= rules.min_rms:
        flags.add(Flag.SILENT)
    if clip.duration_s < rules.min_duration_s:
        flags.add(Flag.TOO_SHORT)
    return frozenset(flags)


def skip_reason(clip: DecodedClip, dimension: Dimension, rules: ValidityRules) -> str:
    """The reason why metrics of ``dimension`` are skipped for ``clip``; empty if they are scored."""
    return reason_from_flags(flags(clip, rules), dimension)


def reason_from_flags(flags: Sequence[Flag], dimension: Dimension) -> str:
    """The reason why metrics of ``dimension`` are skipped for a clip with ``flags``; empty if they are scored."""
    return ", ".join(flag.value for flag in flags if flag in _FLAGS_OF[dimension])


def track_dimension(metric: Metric) -> Dimension:
    """The built-in dimension whose rules a metric follows, by the tracks that it depends on, whatever it measures."""
    return _DIMENSION_OF.get(metric.inputs & _TRACKS, Dimension.AV)


def score_valid(
    clip: ScorableClip,
    metrics: Sequence[Metric],
    rules: ValidityRules,
    measure: Callable[[ScorableClip, Sequence[Metric]], Mapping[str, float]],
) -> list[Score]:
    """Scores in the order of ``metrics``: skipped with the reason, or with the number that ``measure`` returns by metric name.

    ``measure`` is called once with the metrics that are not skipped, and not at all if every metric is skipped.
    """
    flags_of_clip = flags(clip.clip, rules)
    reasons = {metric.name: reason_from_flags(flags_of_clip, track_dimension(metric)) for metric in metrics}
    scorable = [metric for metric in metrics if not reasons[metric.name]]
    values = measure(clip, scorable) if scorable else {}
    return [
        skipped(clip.candidate_id, metric, reasons[metric.name])
        if reasons[metric.name]
        else measured(clip.candidate_id, metric, values[metric.name])
        for metric in metrics
    ]


def _moving_share(frames: np.ndarray) -> float:
    """Largest share over time of the values of [T, H, W, 3] that differ from the first frame; every second row and column."""
    first = frames[0, ::MOTION_STRIDE, ::MOTION_STRIDE].astype(np.int16)
    return max(
        float(np.mean(np.abs(frame[::MOTION_STRIDE, ::MOTION_STRIDE] - first) > MOVED_LEVELS)) for frame in frames[1:]
    )


def _rms(audio: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if len(audio) else 0.0
