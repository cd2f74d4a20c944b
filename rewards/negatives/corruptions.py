"""Negatives made from good clips: what a reward should punish, with a record of what was done. numpy only.

The kinds are those that JavisDiT trains and validates its synchrony on: the sound's source is hidden or disputed (spatial), or
picture and sound no longer keep time (temporal), in the picture or in the sound; then sound of another recording, and a ladder of
delays. Which corruption of a kind is made is drawn evenly from those that can be made of the clip. Everything is derived from seed,
clip name, kind and index: the same inputs give the same negatives, and a negative's parameters say all that was done.
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
"""Delays of the ladder: the published widths of perception at the start, far beyond doubt at the end."""
LARGEST_SHIFT = 0.5
"""In window lengths: beyond it less than half of the sound belongs to what is seen."""

DrawCorruption = Callable[[Cut, Donor | None, Generator], Corruption | NotApplicable]


class NegativeKind(StrEnum):
    """What is wrong with a negative."""

    VIDEO_SPATIAL = "video_spatial"
    VIDEO_TEMPORAL = "video_temporal"
    AUDIO_SPATIAL = "audio_spatial"
    AUDIO_TEMPORAL = "audio_temporal"
    SWAPPED_AUDIO = "swapped_audio"
    DESYNC = "desync"


SEED_KINDS = tuple(kind for kind in NegativeKind if kind is not NegativeKind.DESYNC)
"""The kinds of :func:`negatives`; the remaining one is :func:`delayed_negatives`."""


@dataclass(frozen=True, eq=False)
class Negative:
    """A corrupted clip. ``op`` and ``parameters`` say what was done; ``step_s`` is the size of a delay, 0 for other kinds."""

    kind: NegativeKind
    op: str
    index: int
    parameters: Parameters
    clip: DecodedClip
    step_s: float = 0.0


@dataclass(frozen=True)
class Absent:
    """A negative that could not be made, and why. ``op`` is empty where none of the kind's could."""

    kind: NegativeKind
    op: str
    index: int
    reason: str


def draws_of_kind(kind: NegativeKind) -> tuple[DrawCorruption, ...]:
    """The corruptions that make a negative of ``kind``."""
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
            raise ValueError("delays are not drawn; see ladder")


def negatives(
    cut: Cut, donor: Donor | None, seed: int, index: int = 0, kinds: Sequence[NegativeKind] = SEED_KINDS
) -> list[Negative | Absent]:
    """Negative number ``index`` of each of ``kinds``. ``donor`` is a clip of another recording, None where there is none."""
    return [_negative(cut, donor, kind, seed, index) for kind in kinds]


def delayed_negatives(cut: Cut, steps_s: Sequence[float] = DELAY_STEPS_S) -> list[Negative | Absent]:
    """The clip with its sound late and early by each of ``steps_s``, at most half a window."""
    longest_s = LARGEST_SHIFT * cut.clip.duration_s
    made: list[Negative | Absent] = []
    for index, step_s in enumerate(steps_s):
        for name, shift_s in (("late", step_s), ("early", -step_s)):
            if step_s > longest_s:
                reason = f"{step_s:g} s is more than half a window of {cut.clip.duration_s:g} s"
                made.append(Absent(NegativeKind.DESYNC, name, index, reason))
            else:
                made.append(_changed(cut, None, delay(cut, shift_s), NegativeKind.DESYNC, name, index, step_s))
    return made


def _negative(cut: Cut, donor: Donor | None, kind: NegativeKind, seed: int, index: int) -> Negative | Absent:
    random = Generator(PCG64(derive_seed("negative", seed, cut.name, kind.value, index)))
    draws = draws_of_kind(kind)
    drawn = [draws[place](cut, donor, random) for place in random.permutation(len(draws))]
    fit = [op for op in drawn if not isinstance(op, NotApplicable)]
    if not fit:
        reasons = dict.fromkeys(op.reason for op in drawn if isinstance(op, NotApplicable))
        return Absent(kind, "", index, "; ".join(reasons))
    return _changed(cut, donor, fit[0], kind, fit[0].name, index)


def _changed(
    cut: Cut, donor: Donor | None, op: Corruption, kind: NegativeKind, name: str, index: int, step_s: float = 0.0
) -> Negative | Absent:
    """The negative that ``op`` makes, unless it leaves every sample and pixel as it was."""
    clip = op(cut, donor)
    if _is_same(clip, cut.clip):
        return Absent(kind, name, index, "changes nothing in this clip")
    return Negative(kind, name, index, _parameters(op), clip, step_s)


def _parameters(op: Corruption) -> Parameters:
    return {field.name: getattr(op, field.name) for field in fields(op)}


def _is_same(one: DecodedClip, other: DecodedClip) -> bool:
    pairs = ((one.frames, other.frames), (one.audio, other.audio), (one.channels, other.channels))
    return all(
        mine is its or (mine is not None and its is not None and np.array_equal(mine, its)) for mine, its in pairs
    )
