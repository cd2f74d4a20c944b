"""Corruptions of the sound: sources or loudness do not match the picture (spatial), or the sound is out of time (temporal).

These are the seven sound corruptions of JavisDiT's negatives, made from clips alone. There are no separated sources, so an added
source is the sound of another recording at equal loudness, and deleting a source silences a segment; the published tool falls back
to the same. Three defects of the published code are not reproduced: other windows are drawn from all that exist, an
envelope ends with its segment, and after a faster segment the recording's own sound continues.

Segments start preferably in a loud tenth of the clip: RMS of at least 0.1, or at least half of the loudest tenth's if none has 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

import numpy as np
from numpy.random import Generator

from avpref.media.reading import DecodedClip
from avpref.rewards.negatives.cuts import NO_DONOR, Cut, Donor, NotApplicable, Sound, channels_of, spread_to_channels
from avpref.rewards.negatives.stretching import change_speed

TENTHS = 10
LOUD_RMS = 0.1
LOUD_SHARE = 0.5
SILENT_RMS = 1e-4
LONG, SHORT = (1 / 3, 2 / 3), (1 / 5, 1 / 2)
"""Ranges of segment lengths, as shares of the clip. The published one is "at least a third"; two thirds leave some sound as it was."""
GAIN = (0.5, 2.0)
MIN_SHIFT = 1 / 10
"""Smallest distance of another window's start, in window lengths."""
SPEEDS = (0.5, 2.0)
SILENT = NotApplicable("silent")


class Shape(StrEnum):
    """Course of the loudness over a segment, between 0 and 1: sin(πu), |cos(πu)|, u and 1 − u for u from 0 to 1."""

    SINE = "sine"
    COSINE = "cosine"
    UP = "linear up"
    DOWN = "linear down"


@dataclass(frozen=True)
class AddedSource:
    """The donor's sound from ``from_s`` on, times ``gain``, is added from ``at_s`` for ``length_s``; the sum is clipped to full scale."""

    name: ClassVar[str] = "added source"
    donor: str
    at_s: float
    length_s: float
    from_s: float
    gain: float

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """See :class:`avpref.rewards.negatives.cuts.Corruption`."""
        assert donor is not None
        channels, (at, num, start) = cut.channels.copy(), _samples(cut, self.at_s, self.length_s, self.from_s)
        assert donor.clip.audio is not None
        foreign = donor.clip.audio[start : start + num]
        target = channels[:, at : at + len(foreign)]
        np.clip(target + np.float32(self.gain) * foreign, -1.0, 1.0, out=target)
        return cut.with_channels(channels)


@dataclass(frozen=True)
class DeletedSource:
    """Silence from ``at_s`` for ``length_s``."""

    name: ClassVar[str] = "deleted source"
    at_s: float
    length_s: float

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """See :class:`avpref.rewards.negatives.cuts.Corruption`."""
        channels, (at, num) = cut.channels.copy(), _samples(cut, self.at_s, self.length_s)
        channels[:, at : at + num] = 0.0
        return cut.with_channels(channels)


@dataclass(frozen=True)
class Envelope:
    """The sound from ``at_s`` for ``length_s`` is multiplied by ``gain`` times ``shape`` and clipped to full scale."""

    name: ClassVar[str] = "envelope"
    shape: str
    gain: float
    at_s: float
    length_s: float

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """See :class:`avpref.rewards.negatives.cuts.Corruption`."""
        channels, (at, num) = cut.channels.copy(), _samples(cut, self.at_s, self.length_s)
        target = channels[:, at : at + num]
        np.clip(target * (self.gain * _loudness(Shape(self.shape), num)).astype(np.float32), -1.0, 1.0, out=target)
        return cut.with_channels(channels)


@dataclass(frozen=True)
class OtherWindow:
    """The sound of the window ``shift_s`` later in the same recording (earlier if negative)."""

    name: ClassVar[str] = "other window"
    shift_s: float

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """See :class:`avpref.rewards.negatives.cuts.Corruption`."""
        (shift,) = _samples(cut, self.shift_s)
        return cut.with_channels(cut.sound_from(shift, cut.channels.shape[1]))


@dataclass(frozen=True)
class InsertedSilence:
    """Silence of ``length_s`` is inserted at ``at_s``; the later sound is delayed and its end dropped."""

    name: ClassVar[str] = "inserted silence"
    at_s: float
    length_s: float

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """See :class:`avpref.rewards.negatives.cuts.Corruption`."""
        channels, (at, num) = cut.channels, _samples(cut, self.at_s, self.length_s)
        silence = np.zeros((len(channels), num), np.float32)
        return _with_first_samples(cut, np.concatenate([channels[:, :at], silence, channels[:, at:]], axis=1))


@dataclass(frozen=True)
class RepeatedSegment:
    """The segment of ``length_s`` from ``at_s`` is played twice in a row; the end of the sound is dropped."""

    name: ClassVar[str] = "repeated segment"
    at_s: float
    length_s: float

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """See :class:`avpref.rewards.negatives.cuts.Corruption`."""
        channels, (at, num) = cut.channels, _samples(cut, self.at_s, self.length_s)
        return _with_first_samples(cut, np.concatenate([channels[:, : at + num], channels[:, at:]], axis=1))


@dataclass(frozen=True)
class ChangedSpeed:
    """The segment of ``length_s`` from ``at_s`` plays ``speed`` times as fast at equal pitch; the later sound is early or late."""

    name: ClassVar[str] = "changed speed"
    speed: float
    at_s: float
    length_s: float

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """See :class:`avpref.rewards.negatives.cuts.Corruption`."""
        channels, (at, num) = cut.channels, _samples(cut, self.at_s, self.length_s)
        changed = change_speed(channels[:, at : at + num], self.speed, cut.rate_hz)
        rest = cut.sound_from(at + num, channels.shape[1])
        return _with_first_samples(cut, np.concatenate([channels[:, :at], changed, rest], axis=1))


@dataclass(frozen=True)
class SwappedSound:
    """The donor's sound replaces the clip's own."""

    name: ClassVar[str] = "swapped sound"
    donor: str

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """See :class:`avpref.rewards.negatives.cuts.Corruption`."""
        assert donor is not None and donor.clip.audio is not None
        return cut.with_channels(spread_to_channels(donor.clip.audio, cut.channels))


@dataclass(frozen=True)
class Delay:
    """The sound is ``shift_s`` late (early if negative).

    The gap is filled from the recording; the ``silence_s`` that the recording does not contain are silent.
    """

    name: ClassVar[str] = "delay"
    shift_s: float
    silence_s: float

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """See :class:`avpref.rewards.negatives.cuts.Corruption`."""
        (shift,) = _samples(cut, self.shift_s)
        return cut.with_channels(cut.sound_from(-shift, cut.channels.shape[1]))


def delay(cut: Cut, shift_s: float) -> Delay:
    """The delay by ``shift_s`` to the nearest sample, with the resulting duration of silence."""
    shift = round(shift_s * cut.rate_hz)
    unknown = max(shift - cut.first, -shift - cut.samples_after, 0)
    return Delay(shift / cut.rate_hz, unknown / cut.rate_hz)


def draw_added_source(cut: Cut, donor: Donor | None, random: Generator) -> AddedSource | NotApplicable:
    """Draw a source as loud as the clip, added to a third to two thirds of it."""
    if donor is None or donor.clip.audio is None:
        return NO_DONOR
    foreign, own = channels_of(donor.clip), cut.channels
    if _rms(foreign) < SILENT_RMS:
        return NotApplicable("the other recording's clip is silent")
    at, num = _draw_segment(own, LONG, random)
    start, num = _draw_start(foreign, num, random), min(num, foreign.shape[1])
    gain = _rms(own) / _rms(foreign) if _rms(own) >= SILENT_RMS else 1.0
    return AddedSource(donor.name, at / cut.rate_hz, num / cut.rate_hz, start / cut.rate_hz, gain)


def draw_deleted_source(cut: Cut, donor: Donor | None, random: Generator) -> DeletedSource | NotApplicable:
    """Draw a silent segment of a third to two thirds of the clip."""
    return SILENT if _is_silent(cut) else DeletedSource(*_draw_segment_s(cut, LONG, random))


def draw_envelope(cut: Cut, donor: Donor | None, random: Generator) -> Envelope | NotApplicable:
    """Draw one of four shapes with a gain of ½ to 2, over a third to two thirds of the clip."""
    if _is_silent(cut):
        return SILENT
    shape = list(Shape)[int(random.integers(len(Shape)))]
    gain = float(random.uniform(*GAIN))
    return Envelope(shape.value, gain, *_draw_segment_s(cut, LONG, random))


def draw_other_window(cut: Cut, donor: Donor | None, random: Generator) -> OtherWindow | NotApplicable:
    """Draw another window of the known sound whose start is at least a tenth of a window away."""
    nearest = round(MIN_SHIFT * cut.channels.shape[1])
    before, after = max(0, cut.first - nearest + 1), max(0, cut.samples_after - nearest + 1)
    if not before + after:
        return NotApplicable("the recording has no other window")
    drawn = int(random.integers(before + after))
    shift = drawn - cut.first if drawn < before else drawn - before + nearest
    return OtherWindow(shift / cut.rate_hz)


def draw_inserted_silence(cut: Cut, donor: Donor | None, random: Generator) -> InsertedSilence | NotApplicable:
    """Draw a silence of a fifth to a half of the clip."""
    return SILENT if _is_silent(cut) else InsertedSilence(*_draw_segment_s(cut, SHORT, random))


def draw_repeated_segment(cut: Cut, donor: Donor | None, random: Generator) -> RepeatedSegment | NotApplicable:
    """Draw a segment of a fifth to a half of the clip that ends at least a tenth of the clip before its end."""
    if _is_silent(cut):
        return SILENT
    num_after = cut.channels.shape[1] // TENTHS
    return RepeatedSegment(*_draw_segment_s(cut, SHORT, random, num_after))


def draw_changed_speed(cut: Cut, donor: Donor | None, random: Generator) -> ChangedSpeed | NotApplicable:
    """Draw half or double speed for a third to two thirds of the clip."""
    if _is_silent(cut):
        return SILENT
    speed = SPEEDS[int(random.integers(len(SPEEDS)))]
    return ChangedSpeed(speed, *_draw_segment_s(cut, LONG, random))


def draw_swapped_sound(cut: Cut, donor: Donor | None, random: Generator) -> SwappedSound | NotApplicable:
    """The swap with the donor's sound; nothing is drawn."""
    return NO_DONOR if donor is None or donor.clip.audio is None else SwappedSound(donor.name)


def _samples(cut: Cut, *seconds: float) -> tuple[int, ...]:
    return tuple(round(duration_s * cut.rate_hz) for duration_s in seconds)


def _with_first_samples(cut: Cut, channels: Sound) -> DecodedClip:
    """The clip with as many samples of ``channels`` as it has."""
    return cut.with_channels(np.ascontiguousarray(channels[:, : cut.channels.shape[1]]))


def _loudness(shape: Shape, num: int) -> np.ndarray:
    """Envelope [num] in [0, 1]."""
    along = np.linspace(0.0, 1.0, num)
    match shape:
        case Shape.SINE:
            return np.sin(np.pi * along)
        case Shape.COSINE:
            return np.abs(np.cos(np.pi * along))
        case Shape.UP:
            return along
        case Shape.DOWN:
            return 1.0 - along


def _draw_segment_s(
    cut: Cut, shares: tuple[float, float], random: Generator, num_after: int = 0
) -> tuple[float, float]:
    """Start and length in seconds of a segment of the clip's sound; see :func:`_draw_segment`."""
    start, num = _draw_segment(cut.channels, shares, random, num_after)
    return start / cut.rate_hz, num / cut.rate_hz


def _draw_segment(
    channels: Sound, shares: tuple[float, float], random: Generator, num_after: int = 0
) -> tuple[int, int]:
    """First sample and length of a segment; the length is a share of the sound, with ``num_after`` samples or more after it."""
    num = round(float(random.uniform(*shares)) * channels.shape[1])
    return _draw_start(channels[:, : channels.shape[1] - num_after], num, random), num


def _draw_start(channels: Sound, num: int, random: Generator) -> int:
    """First sample of a segment of ``num`` samples: in a loud tenth, or earlier if the segment would not fit."""
    tenths = np.array_split(np.arange(channels.shape[1]), TENTHS)
    levels = np.array([_rms(channels[:, tenth]) if len(tenth) else 0.0 for tenth in tenths])
    loud = np.flatnonzero(levels >= (LOUD_RMS if levels.max() >= LOUD_RMS else LOUD_SHARE * levels.max()))
    tenth = tenths[int(random.choice(loud))]
    start = int(tenth[0]) + int(random.integers(max(1, len(tenth)))) if len(tenth) else 0
    return min(start, max(0, channels.shape[1] - num))


def _is_silent(cut: Cut) -> bool:
    return _rms(cut.channels) < SILENT_RMS


def _rms(channels: Sound) -> float:
    return float(np.sqrt(np.mean(np.square(channels, dtype=np.float64)))) if channels.size else 0.0
