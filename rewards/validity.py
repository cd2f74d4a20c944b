"""Which clips can be judged at all: flags with reasons, and what each dimension needs.

Reward models give a plausible number for silence or a black picture; these rules come first and answer with a reason.
A picture that does not move is a fault that most scores should show, so it is flagged only where rules ask for it: by reward
models that place sound in time, which would answer with any offset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from avpref.domain import Dimension, Metric, Score
from avpref.media.reading import DecodedClip
from avpref.rewards.protocol import ScorableClip, measured, skipped


class Flag(StrEnum):
    """Why a clip cannot be judged; the value is the reason that the score row carries."""

    NO_VIDEO = "no video track"
    NO_AUDIO = "no audio track"
    TOO_SHORT = "too short"
    BLANK = "blank picture"
    STILL = "the picture does not move"
    SILENT = "silent"


@dataclass(frozen=True)
class ValidityRules:
    """Limits below which there is nothing to judge.

    ``min_rms`` is the root mean square of the sound (full scale 1), ``min_contrast`` the spread between the darkest and
    the brightest byte of the whole picture, ``min_moving_share`` the share of values that at some time differ from the first
    picture by more than :data:`MOVED_LEVELS` (0: stillness is no flag).
    """

    min_duration_s: float = 0.5
    min_frames: int = 2
    min_rms: float = 1e-4
    min_contrast: int = 4
    min_moving_share: float = 0.0


DEFAULT_RULES = ValidityRules()
MOVED_LEVELS = 10
"""Levels of 255 that a value must change by to count as moving; lossy coding of a still picture stays below."""
MOTION_STRIDE = 2

_CONCERNS = {
    Dimension.VIDEO: frozenset({Flag.NO_VIDEO, Flag.TOO_SHORT, Flag.BLANK}),
    Dimension.AUDIO: frozenset({Flag.NO_AUDIO, Flag.TOO_SHORT, Flag.SILENT}),
    Dimension.AV: frozenset(Flag),
}


def flags(clip: DecodedClip, rules: ValidityRules) -> tuple[Flag, ...]:
    """Every flag that ``clip`` earns, in the order of :class:`Flag`. Sound that holds NaN or infinity counts as silent."""
    return in_flag_order(picture_flags(clip, rules) | sound_flags(clip, rules))


def in_flag_order(found: frozenset[Flag]) -> tuple[Flag, ...]:
    """Flags in the order of :class:`Flag`."""
    return tuple(flag for flag in Flag if flag in found)


def picture_flags(clip: DecodedClip, rules: ValidityRules) -> frozenset[Flag]:
    """What is wrong with the picture; looks at every frame."""
    if clip.frames is None:
        return frozenset({Flag.NO_VIDEO})
    if len(clip.frames) < rules.min_frames:
        return frozenset({Flag.TOO_SHORT})
    if int(clip.frames.max()) - int(clip.frames.min()) < rules.min_contrast:
        return frozenset({Flag.BLANK})
    is_still = rules.min_moving_share and _moving_share(clip.frames) < rules.min_moving_share
    return frozenset({Flag.STILL} if is_still else ())


def sound_flags(clip: DecodedClip, rules: ValidityRules) -> frozenset[Flag]:
    """What is wrong with the sound, and with the clip's length."""
    found = set()
    if clip.audio is None:
        found.add(Flag.NO_AUDIO)
    elif not _rms(clip.audio) >= rules.min_rms:
        found.add(Flag.SILENT)
    if clip.duration_s < rules.min_duration_s:
        found.add(Flag.TOO_SHORT)
    return frozenset(found)


def skip_reason(clip: DecodedClip, dimension: Dimension, rules: ValidityRules) -> str:
    """Why metrics of ``dimension`` cannot judge ``clip``; empty where they can."""
    return reason_from_flags(flags(clip, rules), dimension)


def reason_from_flags(found: Sequence[Flag], dimension: Dimension) -> str:
    """Why metrics of ``dimension`` cannot judge a clip with the flags ``found``; empty where they can."""
    return ", ".join(flag.value for flag in found if flag in _CONCERNS[dimension])


def score_valid(
    clip: ScorableClip,
    metrics: Sequence[Metric],
    rules: ValidityRules,
    measure: Callable[[ScorableClip, Sequence[Metric]], Mapping[str, float]],
) -> list[Score]:
    """Scores in the order of ``metrics``: skipped with the reason, or what ``measure`` says of the ones that can be judged.

    ``measure`` is called once with the metrics that apply, and not at all where none does.
    """
    reasons = {dimension: skip_reason(clip.clip, dimension, rules) for dimension in Dimension}
    judged = [metric for metric in metrics if not reasons[metric.dimension]]
    values = measure(clip, judged) if judged else {}
    return [
        skipped(clip.candidate_id, metric, reasons[metric.dimension])
        if reasons[metric.dimension]
        else measured(clip.candidate_id, metric, values[metric.name])
        for metric in metrics
    ]


def _moving_share(frames: np.ndarray) -> float:
    """Largest share, over time, of values of [T, H, W, 3] that differ from the first picture; every second row and column."""
    first = frames[0, ::MOTION_STRIDE, ::MOTION_STRIDE].astype(np.int16)
    return max(
        float(np.mean(np.abs(frame[::MOTION_STRIDE, ::MOTION_STRIDE] - first) > MOVED_LEVELS)) for frame in frames[1:]
    )


def _rms(audio: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if len(audio) else 0.0
