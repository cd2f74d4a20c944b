"""Decoding of a window: seek, decode, and hand each frame with its time to the collectors of picture and sound. PyAV only.

Where a seek lands differs between containers: some go to a key frame, some to any packet, some beyond the time that was asked for. So
a seek counts only if the first picture that can be decoded without earlier ones (a key frame, in the order of display), and the
first sound, are at or before the window. Otherwise decoding begins earlier, at last at the start of the file. What cannot be
decoded before the window is discarded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

import av
from av.container import InputContainer

from avpref.media.containers import ends_early, has_places
from avpref.media.frame_times import (
    CountedTimes,
    DecodingTimes,
    PictureTimes,
    PresentationTimes,
    SoundTimes,
    TimeOrder,
    TimesRunBackwards,
    stamp_s,
)
from avpref.media.picture.deinterlacing import Deinterlacer
from avpref.media.picture.shown_frames import FRAME_SLACK_S, FramePicker
from avpref.media.sound.audio_samples import PREROLL_S, AudioCollector
from avpref.media.timeline import END_SLACK_S, PROGRAM_STREAM, container_end_s, declared_end_s, origin_s

SHORTEST_LEAD_S, LONGEST_LEAD_S = PREROLL_S, 64.0
"""The first and the longest time before a window to which a seek goes; beyond it, decoding begins at the start of the file."""
LEAD_GROWTH = 4
PAGED_FORMATS = frozenset({"mpeg", "mpegts", "mpegtsraw", "wtv", "pva", "ty", "ogg"})
"""Formats whose frames do not end where their pages do: after a seek the first timestamp may be given to a frame that began before."""
STEADY_PICTURES, STEADY_PLACES = 12, 3
"""Pictures, and packets with a place in the file, whose stamps must agree before times that are counted after a seek are used."""
FIRST_PICTURES = 36
"""Pictures at the start of a file whose stamps together give the time of the first one, where times are counted."""
SETTLED_S = PREROLL_S / 2
"""Seconds before the window at which sound must begin, so that the decoder has settled."""


@dataclass(frozen=True)
class Collectors:
    """The collectors of the tracks of a window; None for a track that the file lacks."""

    picture: FramePicker | None
    sound: AudioCollector | None

    @property
    def present(self) -> list[FramePicker | AudioCollector]:
        """Those of the tracks that the file has."""
        return [collector for collector in (self.picture, self.sound) if collector is not None]


class _BeginsLate(Exception):
    """The first usable frame is after the window's start."""


def can_seek(start_s: float) -> bool:
    """Whether a window from ``start_s`` is far enough from the start of the file for a seek."""
    return start_s > 2 * SHORTEST_LEAD_S


def first_order(container: InputContainer) -> TimeOrder:
    """The times to try first."""
    return TimeOrder.COUNTED if container.format.name == PROGRAM_STREAM else TimeOrder.PRESENTATION


def lead_times_s(start_s: float) -> Iterator[float]:
    """How far before ``start_s`` to seek, one attempt after the other."""
    lead_s = SHORTEST_LEAD_S
    while lead_s <= LONGEST_LEAD_S and start_s > 2 * lead_s:
        yield lead_s
        lead_s *= LEAD_GROWTH


class Attempt(Enum):
    """The ways to decode a window, in the order in which they are tried; each needs a newly opened container."""

    AFTER_SEEK = auto()
    FROM_START = auto()
    FROM_START_IN_DECODING_ORDER = auto()


def decode_window(
    container: InputContainer, start_s: float, new_collectors: Callable[[], Collectors], attempt: Attempt
) -> Collectors | None:
    """The filled collectors of a window from ``start_s`` in seconds on the timeline, or None where ``attempt`` does not do.

    It does not where no seek lands before the window, and where the times of pictures do not ascend. ``new_collectors`` makes
    empty ones. Raises MediaError and FFmpegError for damage within the window.
    """
    if attempt is Attempt.AFTER_SEEK:
        return _decode_after_seek(container, start_s, new_collectors)
    in_decoding_order = attempt is Attempt.FROM_START_IN_DECODING_ORDER
    order = TimeOrder.DECODING if in_decoding_order else first_order(container)
    collectors = new_collectors()
    try:
        _Pass(container, start_s, collectors, order, is_from_start=True).run()
    except TimesRunBackwards:
        return None
    return collectors


def _decode_after_seek(
    container: InputContainer, start_s: float, new_collectors: Callable[[], Collectors]
) -> Collectors | None:
    if not has_places(container):
        return None
    for lead_s in lead_times_s(start_s):
        try:
            container.seek(int((origin_s(container) + start_s - lead_s) * av.time_base))
        except av.FFmpegError:
            return None
        collectors = new_collectors()
        try:
            _Pass(container, start_s, collectors, first_order(container), is_from_start=False).run()
        except _BeginsLate:
            continue
        except TimesRunBackwards:
            return None
        return collectors
    return None


class _Pass:
    """One pass through the packets from where the container is."""

    def __init__(
        self,
        container: InputContainer,
        start_s: float,
        collectors: Collectors,
        order: TimeOrder,
        *,
        is_from_start: bool,
    ) -> None:
        self._container = container
        self._decoders: dict[int, _PictureDecoder | _SoundDecoder] = {}
        first_s = origin_s(container)
        if collectors.picture is not None:
            decoder = _PictureDecoder(collectors.picture, first_s, start_s, order, is_from_start)
            self._decoders[collectors.picture.stream.index] = decoder
        if collectors.sound is not None:
            sound = _SoundDecoder(collectors.sound, first_s, start_s, is_from_start)
            self._decoders[collectors.sound.stream.index] = sound
        self._streams = [collector.stream for collector in collectors.present]
        skips = not is_from_start and container.format.name in PAGED_FORMATS
        self._pages_seen: dict[int, set[int]] = {index: set() for index in self._decoders} if skips else {}

    def run(self) -> None:
        """Decode until every collector is done. Raises _BeginsLate and TimesRunBackwards."""
        for stream in self._streams:
            if not stream.codec_context.is_open:
                stream.codec_context.thread_count = 1
        for packet in self._container.demux(self._streams):
            decoder = self._decoders[packet.stream.index]
            if decoder.is_done:
                if all(other.is_done for other in self._decoders.values()):
                    break
                continue
            if packet.dts is not None and not packet.size:
                continue  # a repeated picture; an empty packet would end the decoder
            if self._is_timed(packet):
                decoder.decode(packet)
        for decoder in self._decoders.values():
            decoder.finish()

    def _is_timed(self, packet: av.Packet) -> bool:
        """Whether the timestamps of ``packet`` can be relied on: from the second page of its stream on."""
        seen = self._pages_seen.get(packet.stream.index)
        if seen is None:
            return True
        if packet.pos is not None:
            seen.add(packet.pos)
        if len(seen) < 2:
            return False
        del self._pages_seen[packet.stream.index]
        return True


class _PictureDecoder:
    """Decodes pictures and hands them to the picker, from the first one that depends on no earlier picture."""

    def __init__(
        self, picker: FramePicker, origin_s: float, start_s: float, order: TimeOrder, is_from_start: bool
    ) -> None:
        self._picker, self._origin_s, self._start_s = picker, origin_s, start_s
        self._is_from_start = is_from_start
        self._is_usable = is_from_start
        self._has_begun = is_from_start
        self._is_settled = is_from_start
        self._damage: Exception | None = None
        self._last_s = float("-inf")
        self._deinterlacer = Deinterlacer()
        self._times = _times(order, picker.slack_s, origin_s if is_from_start else None)
        self._num_taken = self._num_places = 0
        self._first: list[av.VideoFrame] | None = [] if is_from_start and order is TimeOrder.COUNTED else None

    @property
    def is_done(self) -> bool:
        return self._picker.is_done

    def decode(self, packet: av.Packet) -> None:
        """Decode ``packet``; damage before the window makes pictures unusable until the next key frame."""
        if packet.is_corrupt and self._is_usable:
            self._damaged(packet, ends_early(self._name, "a damaged video packet", "whole packets"))
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            self._damaged(packet, error)
            return
        self._num_places += self._has_begun and packet.pos is not None
        for frame in frames:
            assert isinstance(frame, av.VideoFrame)
            self._time(frame)

    def _time(self, frame: av.VideoFrame) -> None:
        """Take the next frame; where times are counted from the start of the file, the first ones wait for each other's stamps."""
        if self._first is None:
            self._take(self._times.next_s(frame) - self._origin_s, frame)
            return
        self._first.append(frame)
        if len(self._first) == FIRST_PICTURES:
            self._begin()

    def _begin(self) -> None:
        frames, self._first = self._first or [], None
        if isinstance(self._times, CountedTimes):
            self._times.begin(frames)
        for frame in frames:
            self._take(self._times.next_s(frame) - self._origin_s, frame)

    def finish(self) -> None:
        """End of the packets."""
        self._begin()
        if not self._is_usable:
            raise self._damage or _BeginsLate
        for time_s, frame in self._deinterlacer.rest():
            self._picker.offer(time_s, frame)
        self._picker.finish()

    def _take(self, time_s: float, frame: av.VideoFrame) -> None:
        self._last_s = time_s
        if not self._is_usable and frame.key_frame:
            needed_s = self._start_s - (self._picker.slack_s if frame.interlaced_frame else 0.0)
            if time_s > needed_s + FRAME_SLACK_S:
                raise self._damage or _BeginsLate
            self._is_usable = self._has_begun = True
        self._num_taken += self._is_usable
        if self._is_usable:
            self._require_steady(time_s)
            for shown_s, shown in self._deinterlacer.add(time_s, frame):
                self._picker.offer(shown_s, shown)

    def _require_steady(self, time_s: float) -> None:
        """Raises _BeginsLate where times that are counted from a seek on are not supported by several equal stamps before the window."""
        if self._is_from_start or not isinstance(self._times, CountedTimes) or time_s < self._start_s - FRAME_SLACK_S:
            return
        if not self._is_settled:
            if not self._times.is_steady or self._num_taken < STEADY_PICTURES or self._num_places < STEADY_PLACES:
                raise _BeginsLate
            self._is_settled = True

    def _damaged(self, packet: av.Packet, error: Exception) -> None:
        """Raises ``error`` where it concerns the window and the decoder has begun."""
        if not self._has_begun:
            return
        stamp = packet.pts if packet.pts is not None else packet.dts
        time_s = self._last_s if stamp is None else stamp_s(stamp, packet) - self._origin_s
        if time_s >= self._start_s:
            raise error
        self._is_usable, self._damage = False, error

    @property
    def _name(self) -> str:
        return self._picker.stream.container.name


def _times(order: TimeOrder, step_s: float, first_s: float | None) -> PictureTimes:
    if order is TimeOrder.PRESENTATION:
        return PresentationTimes(step_s, first_s)
    return CountedTimes(step_s, first_s) if order is TimeOrder.COUNTED else DecodingTimes(step_s, first_s or 0.0)


class _SoundDecoder:
    """Decodes sound and hands it to the collector; what cannot be decoded before the window is discarded."""

    def __init__(self, collector: AudioCollector, origin_s: float, start_s: float, is_from_start: bool) -> None:
        self._collector, self._origin_s, self._start_s = collector, origin_s, start_s
        self._has_begun = is_from_start
        self._times = SoundTimes()

    @property
    def is_done(self) -> bool:
        return self._collector.is_done

    def decode(self, packet: av.Packet) -> None:
        """Decode ``packet``."""
        if packet.is_corrupt and self._is_in_window(packet):
            raise ends_early(self._collector.stream.container.name, "a damaged audio packet", "whole packets")
        try:
            frames = packet.decode()
        except av.FFmpegError:
            if self._is_in_window(packet):
                raise
            return
        for frame in frames:
            assert isinstance(frame, av.AudioFrame)
            stamp_time_s = self._times.next_s(frame)
            if stamp_time_s is None:
                continue
            time_s = stamp_time_s - self._origin_s
            if not self._has_begun and time_s > self._start_s - SETTLED_S:
                raise _BeginsLate
            self._has_begun = True
            self._collector.offer(time_s, frame)

    def finish(self) -> None:
        """End of the packets."""
        if not self._has_begun:
            raise _BeginsLate
        self._collector.finish()

    def _is_in_window(self, packet: av.Packet) -> bool:
        stamp = packet.pts if packet.pts is not None else packet.dts
        return self._has_begun and (stamp is None or stamp_s(stamp, packet) - self._origin_s >= self._start_s)


def require_ends(container: InputContainer, collectors: Collectors, end_s: float) -> None:
    """Raises MediaError for a stream that ended before the window's end ``end_s`` and before its own end by the headers."""
    for collector in collectors.present:
        _require_end(container, collector, end_s)
    _require_container_end(container, collectors.present, end_s)


def _require_end(container: InputContainer, collector: FramePicker | AudioCollector, end_s: float) -> None:
    """Raises MediaError for a stream that ended before both the window's end and its declared end, less one frame."""
    declared_s = declared_end_s(container, collector.stream)
    has_nothing = isinstance(collector, FramePicker) and not collector.num_picked
    needed_s = end_s if declared_s is None else min(end_s, declared_s)
    is_short = declared_s is not None and collector.end_s < needed_s - collector.slack_s - FRAME_SLACK_S
    if has_nothing or (collector.has_run_out and is_short):
        raise ends_early(container.name, f"{collector.stream.type} until {collector.end_s:.3f} s", f"{needed_s:.3f} s")


def _require_container_end(
    container: InputContainer, collectors: Sequence[FramePicker | AudioCollector], end_s: float
) -> None:
    """Raises MediaError if no stream reaches the container's end; for containers without lengths per stream."""
    length_s = container_end_s(container)
    if length_s is None or not all(collector.has_run_out for collector in collectors):
        return
    reached_s, needed_s = max(collector.end_s for collector in collectors), min(end_s, length_s)
    if reached_s < needed_s - END_SLACK_S:
        raise ends_early(container.name, f"media until {reached_s:.3f} s", f"{needed_s:.3f} s")
