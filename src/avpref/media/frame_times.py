"""Times of decoded pictures and sound, also where timestamps are missing or run backwards. PyAV only.

A decoder returns pictures in the order of display. Where packets have presentation times, the pictures carry them. Containers such
as AVI have only the order of decoding; there a picture is shown when its decoder gives it back, at the time of the packet that was
decoded last. FFmpeg's best-effort timestamp is the same choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import av

GAP_S = 0.5
"""Distance in seconds of a stamp from the counted time from which it is taken as a gap in the recording."""


class TimeOrder(StrEnum):
    """Which times of pictures are used."""

    PRESENTATION = "presentation"
    """The presentation time of each picture."""
    DECODING = "decoding"
    """The time of the packet after which a picture is complete."""
    COUNTED = "counted"
    """The first presentation time, continued by the lengths of the pictures."""


class TimesRunBackwards(Exception):
    """Raised for a picture that has a decoding time but no presentation time, or one that is not after the picture before it."""


class PictureTimes(Protocol):
    """Gives each decoded picture its time in seconds on the container's clock."""

    def next_s(self, frame: av.VideoFrame) -> float:
        """The time of the next decoded picture."""
        ...


class PresentationTimes:
    """Presentation times; a picture without any time follows the one before it after ``step_s``, the first one is at ``first_s``.

    Raises TimesRunBackwards from :meth:`next_s`.
    """

    def __init__(self, step_s: float, first_s: float | None) -> None:
        self._step_s, self._following_s = step_s, first_s
        self._last_s = float("-inf")

    def next_s(self, frame: av.VideoFrame) -> float:
        """See :class:`PictureTimes`."""
        if frame.pts is None and frame.dts is not None:
            raise TimesRunBackwards
        time_s = self._following_s if frame.pts is None else stamp_s(frame.pts, frame)
        if time_s is None or time_s <= self._last_s:
            raise TimesRunBackwards
        self._last_s, self._following_s = time_s, time_s + length_s(frame, self._step_s)
        return time_s


class DecodingTimes:
    """Decoding times; a picture without one, or with one that does not ascend, follows the one before it after ``step_s``."""

    def __init__(self, step_s: float, first_s: float) -> None:
        self._step_s, self._following_s = step_s, first_s
        self._last_s = float("-inf")

    def next_s(self, frame: av.VideoFrame) -> float:
        """See :class:`PictureTimes`."""
        time_s = None if frame.dts is None else stamp_s(frame.dts, frame)
        if time_s is None or time_s <= self._last_s:
            time_s = self._following_s
        self._last_s, self._following_s = time_s, time_s + length_s(frame, self._step_s)
        return time_s


class CountedTimes:
    """The first presentation time, continued by the lengths of the pictures; a stamp :data:`GAP_S` away is a real gap.

    For formats that stamp only some pictures: the demuxer gives a stamp to the picture before or after the right one where the
    start of a picture is split between packets. ``is_steady`` is false once a stamp was half a picture away or more.
    """

    def __init__(self, step_s: float, first_s: float | None) -> None:
        self._step_s, self._following_s = step_s, first_s
        self._has_begun = False
        self.is_steady = True

    def begin(self, frames: Sequence[av.VideoFrame]) -> None:
        """Let the first picture have the time on which most stamps of the first pictures, ``frames``, agree.

        In a file that was cut from a longer one the first stamps may be those of pictures that could not be decoded.
        """
        firsts_s, counted_s = list[float](), 0.0
        for frame in frames:
            stamp = frame.pts if frame.pts is not None else frame.dts
            if stamp is not None:
                firsts_s.append(stamp_s(stamp, frame) - counted_s)
            counted_s += length_s(frame, self._step_s)
        if firsts_s:
            agreeing = [sum(abs(first - other) < self._step_s / 4 for other in firsts_s) for first in firsts_s]
            self._following_s, self._has_begun = firsts_s[agreeing.index(max(agreeing))], True

    def next_s(self, frame: av.VideoFrame) -> float:
        """See :class:`PictureTimes`. Raises TimesRunBackwards where neither the first picture nor the caller gave a time."""
        stamp = frame.pts if frame.pts is not None else frame.dts
        stamped_s = None if stamp is None else stamp_s(stamp, frame)
        time_s = self._following_s if self._has_begun or stamped_s is None else stamped_s
        if time_s is None:
            raise TimesRunBackwards
        distance = 0.0 if stamped_s is None else abs(stamped_s - time_s) / self._step_s
        self.is_steady &= distance < 0.5
        if stamped_s is not None and (distance < 0.25 or distance * self._step_s > GAP_S):
            time_s = stamped_s
        self._has_begun = True
        self._following_s = time_s + length_s(frame, self._step_s)
        return time_s


class SoundTimes:
    """Times of decoded sound in seconds: its timestamps, continued by the number of samples where there are none."""

    def __init__(self) -> None:
        self._following_s: float | None = None

    def next_s(self, frame: av.AudioFrame) -> float | None:
        """The time of the first sample; None for sound before the first timestamp, which is not played."""
        stamp = frame.pts if frame.pts is not None else frame.dts
        time_s = self._following_s if stamp is None else stamp_s(stamp, frame)
        self._following_s = None if time_s is None else time_s + frame.samples / frame.sample_rate
        return time_s


def stamp_s(stamp: int, timed: av.VideoFrame | av.AudioFrame | av.Packet) -> float:
    """``stamp`` in seconds, in the time base of ``timed``."""
    assert timed.time_base is not None, "packets and frames of a container have its time base"
    return float(stamp * timed.time_base)


def length_s(frame: av.VideoFrame, step_s: float) -> float:
    """The length of ``frame`` in seconds by its header, or ``step_s``."""
    return float(frame.duration * frame.time_base) if frame.duration and frame.time_base else step_s
