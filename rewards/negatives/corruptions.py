"""Negatives made from good clips: corrupted copies that a reward should score lower. numpy only.

The kinds are those on which JavisDiT trains and validates its synchrony. Spatial negatives hide or add a sound source; temporal
negatives shift or stretch picture or sound against the other; both exist for the picture and for the sound. In addition there is
the sound of another recording, and the clip's own sound delayed by several steps. The corruption of a kind is drawn uniformly from
those that apply to the clip. Every draw is derived from seed, clip name, kind and index: equal inputs give equal negatives,
and a negative's parameters describe its corruption completely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum

import numpy as np
from numpy.random import PCG64, Generator

from avpref.identity import derive_seed
from avpref.media.reading import DecodedClip
from avpref.rewards.negatives.cuts import Corruption, Cut, Donor, NotApplicable, Parameters
from avpref.rewards.negatives.picture_corruptions import (
    draw_cyclic_shift,
    draw_grid_mask,
    draw_pasted_object,
    draw_stall,
)
from avpref.rewards.negatives.sound_corruptions import (
    delay,
    draw_added_source,
    draw_changed_speed,
    draw_deleted_source,
    draw_envelope,
    draw_inserted_silence,
    draw_other_window,
    draw_repeated_segment,
    draw_swapped_sound,
)

DELAY_STEPS_S = (0.04, 0.08, 0.12, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0)
"""Delays in seconds: from the published thresholds of human perception to obviously wrong."""
LARGEST_SHIFT = 0.5
"""Largest delay in window lengths; beyond it less than half of the sound belongs to the picture."""

DrawCorruption = Callable[[Cut, Donor | None, Generator], Corruption | NotApplicable]


class NegativeKind(StrEnum):
    """The defect of a negative."""

    VIDEO_SPATIAL = "video_spatial"
    VIDEO_TEMPORAL = "video_temporal"
    AUDIO_SPATIAL = "audio_spatial"
    AUDIO_TEMPORAL = "audio_temporal"
    SWAPPED_AUDIO = "swapped_audio"
    DESYNC = "desync"


SEED_KINDS = tuple(kind for kind in NegativeKind if kind is not NegativeKind.DESYNC)
"""The kinds that :func:`negatives` makes; :func:`delayed_negatives` makes the remaining one."""


@dataclass(frozen=True, eq=False)
class Negative:
    """A corrupted clip.

    ``op`` names the corruption and ``parameters`` are its parameters; ``step_s`` is the size of a delay, 0 for other kinds.
    """

    kind: NegativeKind
    op: str
    index: int
    parameters: Parameters
    clip: DecodedClip
    step_s: float = 0.0


@dataclass(frozen=True)
class Absent:
    """A negative that could not be made, and why. ``op`` is empty if no corruption of the kind applies to the clip."""

    kind: NegativeKind
    op: str
    index: int
    reason: str


def draws_of_kind(kind: NegativeKind) -> tuple[DrawCorruption, ...]:
    """The corruptions that make a negative of ``kind``. Raises ValueError for delays, which are not drawn."""
    match kind:
        case NegativeKind.VIDEO_SPATIAL:
            return draw_grid_mask, draw_pasted_object
        case NegativeKind.VIDEO_TEMPORAL:
            return draw_cyclic_shift, draw_stall
        case NegativeKind.AUDIO_SPATIAL:
            return draw_added_source, draw_deleted_source, draw_envelope
        case NegativeKind.AUDIO_TEMPORAL:
            return draw_other_window, draw_inserted_silence, draw_repeated_segment, draw_changed_speed
        case NegativeKind.SWAPPED_AUDIO:
            return (draw_swapped_sound,)
        case NegativeKind.DESYNC:
            raise ValueError("delays are not drawn; see delayed_negatives")


def negatives(
    cut: Cut, donor: Donor | None, seed: int, index: int = 0, kinds: Sequence[NegativeKind] = SEED_KINDS
) -> list[Negative | Absent]:
    """One negative per kind, number ``index`` of each. ``donor`` is a clip of another recording, None if there is none."""
    return [_negative(cut, donor, kind, seed, index) for kind in kinds]


def delayed_negatives(cut: Cut, steps_s: Sequence[float] = DELAY_STEPS_S) -> list[Negative | Absent]:
    """For each of ``steps_s`` the clip with its sound late, then early, by so many seconds; absent beyond half a window."""
    longest_s = LARGEST_SHIFT * cut.clip.duration_s
    outcomes: list[Negative | Absent] = []
    for index, step_s in enumerate(steps_s):
        for name, shift_s in (("late", step_s), ("early", -step_s)):
            if step_s > longest_s:
                reason = f"{step_s:g} s is more than half a window of {cut.clip.duration_s:g} s"
                outcomes.append(Absent(NegativeKind.DESYNC, name, index, reason))
            else:
                outcomes.append(_apply(cut, None, delay(cut, shift_s), NegativeKind.DESYNC, name, index, step_s))
    return outcomes


def _negative(cut: Cut, donor: Donor | None, kind: NegativeKind, seed: int, index: int) -> Negative | Absent:
    random = Generator(PCG64(derive_seed("negative", seed, cut.name, kind.value, index)))
    draws = draws_of_kind(kind)
    drawn = [draws[number](cut, donor, random) for number in random.permutation(len(draws))]
    applicable = [op for op in drawn if not isinstance(op, NotApplicable)]
    if not applicable:
        reasons = dict.fromkeys(op.reason for op in drawn if isinstance(op, NotApplicable))
        return Absent(kind, "", index, "; ".join(reasons))
    return _apply(cut, donor, applicable[0], kind, applicable[0].name, index)


def _apply(
    cut: Cut, donor: Donor | None, op: Corruption, kind: NegativeKind, name: str, index: int, step_s: float = 0.0
) -> Negative | Absent:
    """The negative that ``op`` makes; absent if ``op`` changes no sample and no pixel."""
    clip = op(cut, donor)
    if _has_same_media(clip, cut.clip):
        return Absent(kind, name, index, "changes nothing in this clip")
    return Negative(kind, name, index, _parameters(op), clip, step_s)


def _parameters(op: Corruption) -> Parameters:
    return {field.name: getattr(op, field.name) for field in fields(op)}


def _has_same_media(first: DecodedClip, second: DecodedClip) -> bool:
    pairs = ((first.frames, second.frames), (first.audio, second.audio), (first.channels, second.channels))
    return all(a is b or (a is not None and b is not None and np.array_equal(a, b)) for a, b in pairs)
