"""Corruptions of the sound: what no longer comes from what is seen (sources, loudness) or no longer keeps its time.

The seven of JavisDiT's negatives, from clips alone. Without separated sources the foreign one is another recording's sound at equal
loudness, and deleting one silences a stretch, which is also what the published tool falls back to. Of the published code's
faults none is kept: other windows are drawn from all that exist, an envelope ends with its stretch, and what a faster stretch leaves
over at the end is the recording's own continuation.

Stretches prefer to begin in a tenth of the clip that is loud: RMS of 0.1, or half of the loudest tenth's where none reaches it.
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
"""Lengths of stretches in lengths of the clip. The published ones are "at least a third"; two thirds leave something to judge."""
GAIN = (0.5, 2.0)
MIN_SHIFT = 1 / 10
"""Another window begins at least this many window lengths away."""
SPEEDS = (0.5, 2.0)
SILENT = NotApplicable("silent")


class Shape(StrEnum):
    """How loudness goes over a stretch: a half wave, its complement, and straight lines; each between 0 and 1."""

    SINE = "sine"
    COSINE = "cosine"
    UP = "linear up"
    DOWN = "linear down"


@dataclass(frozen=True)
class AddedSource:
    """The donor's sound from ``from_s`` on, times ``gain``, is added from ``at_s`` for ``length_s``; the sum is clipped at full scale."""

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
        foreign = channels_of(donor.clip).mean(axis=0)[start : start + num]
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
    """Loudness from ``at_s`` for ``length_s`` follows ``shape``, ``gain`` at its largest; clipped at full scale."""

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
    """The sound of the same recording ``shift_s`` later (earlier if negative)."""

    name: ClassVar[str] = "other window"
    shift_s: float

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """See :class:`avpref.rewards.negatives.cuts.Corruption`."""
        (shift,) = _samples(cut, self.shift_s)
        return cut.with_channels(cut.sound_from(shift, cut.channels.shape[1]))


@dataclass(frozen=True)
class InsertedSilence:
    """Silence for ``length_s`` from ``at_s``, after which the sound goes on late; its end is lost."""

    name: ClassVar[str] = "inserted silence"
    at_s: float
    length_s: float

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """See :class:`avpref.rewards.negatives.cuts.Corruption`."""
        channels, (at, num) = cut.channels, _samples(cut, self.at_s, self.length_s)
        silence = np.zeros((len(channels), num), np.float32)
        return _of_length(cut, np.concatenate([channels[:, :at], silence, channels[:, at:]], axis=1))


@dataclass(frozen=True)
class RepeatedSegment:
    """The stretch from ``at_s`` of ``length_s`` is heard twice in a row; the end is lost."""

    name: ClassVar[str] = "repeated segment"
    at_s: float
    length_s: float

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """See :class:`avpref.rewards.negatives.cuts.Corruption`."""
        channels, (at, num) = cut.channels, _samples(cut, self.at_s, self.length_s)
        return _of_length(cut, np.concatenate([channels[:, : at + num], channels[:, at:]], axis=1))


@dataclass(frozen=True)
class ChangedSpeed:
    """The stretch from ``at_s`` of ``length_s`` plays ``speed`` times as fast at its own pitch; what follows comes early or late."""

    name: ClassVar[str] = "changed speed"
    speed: float
    at_s: float
    length_s: float

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """See :class:`avpref.rewards.negatives.cuts.Corruption`."""
        channels, (at, num) = cut.channels, _samples(cut, self.at_s, self.length_s)
        changed = change_speed(channels[:, at : at + num], self.speed, cut.rate_hz)
        rest = cut.sound_from(at + num, channels.shape[1])
        return _of_length(cut, np.concatenate([channels[:, :at], changed, rest], axis=1))


@dataclass(frozen=True)
class SwappedSound:
    """The donor's sound instead of the clip's own."""

    name: ClassVar[str] = "swapped sound"
    donor: str

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """See :class:`avpref.rewards.negatives.cuts.Corruption`."""
        assert donor is not None
        return cut.with_channels(spread_to_channels(channels_of(donor.clip), cut.channels))


@dataclass(frozen=True)
class Delay:
    """The sound ``shift_s`` late (early if negative), continued from the recording; ``silence_s`` of it are unknown and silent."""

    name: ClassVar[str] = "delay"
    shift_s: float
    silence_s: float

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """See :class:`avpref.rewards.negatives.cuts.Corruption`."""
        (shift,) = _samples(cut, self.shift_s)
        return cut.with_channels(cut.sound_from(-shift, cut.channels.shape[1]))


def delay(cut: Cut, shift_s: float) -> Delay:
    """The delay by ``shift_s``, to the nearest sample, with how much silence it brings."""
    shift = round(shift_s * cut.rate_hz)
    unknown = max(shift - cut.first, -shift - cut.samples_after, 0)
    return Delay(shift / cut.rate_hz, unknown / cut.rate_hz)


def draw_added_source(cut: Cut, donor: Donor | None, random: Generator) -> AddedSource | NotApplicable:
    """Over a third to two thirds of the clip, as loud as the clip."""
    if donor is None or donor.clip.audio is None:
        return NO_DONOR
    foreign, own = channels_of(donor.clip), cut.channels
    if _rms(foreign) < SILENT_RMS:
        return NotApplicable("the other recording's clip is silent")
    at, num = _stretch(own, LONG, random)
    start, num = _start(foreign, num, random), min(num, foreign.shape[1])
    gain = _rms(own) / _rms(foreign) if _rms(own) >= SILENT_RMS else 1.0
    return AddedSource(donor.name, at / cut.rate_hz, num / cut.rate_hz, start / cut.rate_hz, gain)


def draw_deleted_source(cut: Cut, donor: Donor | None, random: Generator) -> DeletedSource | NotApplicable:
    """Over a third to two thirds of the clip."""
    return SILENT if _is_silent(cut) else DeletedSource(*_seconds(cut, _stretch(cut.channels, LONG, random)))


def draw_envelope(cut: Cut, donor: Donor | None, random: Generator) -> Envelope | NotApplicable:
    """One of four shapes with a gain of ½ to 2, over a third to two thirds of the clip."""
    if _is_silent(cut):
        return SILENT
    shape = list(Shape)[int(random.integers(len(Shape)))]
    gain = float(random.uniform(*GAIN))
    return Envelope(shape.value, gain, *_seconds(cut, _stretch(cut.channels, LONG, random)))


def draw_other_window(cut: Cut, donor: Donor | None, random: Generator) -> OtherWindow | NotApplicable:
    """Any other window that the recording holds around this one and that begins at least a tenth of its length away."""
    nearest = round(MIN_SHIFT * cut.channels.shape[1])
    before, after = max(0, cut.first - nearest + 1), max(0, cut.samples_after - nearest + 1)
    if not before + after:
        return NotApplicable("the recording has no other window")
    drawn = int(random.integers(before + after))
    shift = drawn - cut.first if drawn < before else drawn - before + nearest
    return OtherWindow(shift / cut.rate_hz)


def draw_inserted_silence(cut: Cut, donor: Donor | None, random: Generator) -> InsertedSilence | NotApplicable:
    """For a fifth to a half of the clip."""
    return SILENT if _is_silent(cut) else InsertedSilence(*_seconds(cut, _stretch(cut.channels, SHORT, random)))


def draw_repeated_segment(cut: Cut, donor: Donor | None, random: Generator) -> RepeatedSegment | NotApplicable:
    """For a fifth to a half of the clip; at least a tenth of the clip follows before it ends."""
    if _is_silent(cut):
        return SILENT
    room = cut.channels.shape[1] // TENTHS
    return RepeatedSegment(*_seconds(cut, _stretch(cut.channels, SHORT, random, room)))


def draw_changed_speed(cut: Cut, donor: Donor | None, random: Generator) -> ChangedSpeed | NotApplicable:
    """Half or double the speed over a third to two thirds of the clip."""
    if _is_silent(cut):
        return SILENT
    speed = SPEEDS[int(random.integers(len(SPEEDS)))]
    return ChangedSpeed(speed, *_seconds(cut, _stretch(cut.channels, LONG, random)))


def draw_swapped_sound(cut: Cut, donor: Donor | None, random: Generator) -> SwappedSound | NotApplicable:
    """Nothing to draw: the donor is given."""
    return NO_DONOR if donor is None or donor.clip.audio is None else SwappedSound(donor.name)


def _samples(cut: Cut, *seconds: float) -> tuple[int, ...]:
    return tuple(round(each * cut.rate_hz) for each in seconds)


def _seconds(cut: Cut, samples: tuple[int, int]) -> tuple[float, float]:
    return samples[0] / cut.rate_hz, samples[1] / cut.rate_hz


def _of_length(cut: Cut, channels: Sound) -> DecodedClip:
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


def _stretch(channels: Sound, shares: tuple[float, float], random: Generator, room: int = 0) -> tuple[int, int]:
    """First sample and length of a stretch within the sound, with at least ``room`` samples after it."""
    num = round(float(random.uniform(*shares)) * channels.shape[1])
    return _start(channels[:, : channels.shape[1] - room], num, random), num


def _start(channels: Sound, num: int, random: Generator) -> int:
    """Where a stretch of ``num`` samples begins: in a loud tenth, as far as it then fits."""
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
