"""Assemble the sound of a window from decoded frames by timestamp. PyAV and numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream

from avpref.media.sound.downmix import mix, mono_weights
from avpref.media.sound.finite_sound import packed_samples, refuse_not_finite

RESYNC_S = 0.005
"""Difference in seconds between timestamp and sample count above which audio starts a new segment."""
PREROLL_S = 0.25
"""Seconds of audio decoded before a window, so that decoder and resampler have settled when it starts."""


class AudioCollector:
    """Collects decoded audio in a window by its timestamps, with one resampler per segment without gaps.

    ``channels`` is float32 [C, S], zero where there is no audio. C and the ``weights`` of the channels in the mono mix come from the
    layout of the first frame in the window; a segment with another layout is mixed to mono, which is written to all channels.
    ``num_covered`` is the number of samples in the window for which the stream has sound.
    """

    slack_s = 0.1

    def __init__(self, stream: AudioStream, start_s: float, duration_s: float, sample_rate_hz: int) -> None:
        self.stream, self.sample_rate_hz = stream, sample_rate_hz
        self._num_samples = round(duration_s * sample_rate_hz)
        self._begin(channel_names(stream.layout) or ("FC",))
        self.num_covered = 0
        self.end_s = start_s
        self.is_done = False
        self.has_run_out = False
        self._start_s, self._window_end_s = start_s, start_s + duration_s
        self._resampler: AudioResampler | None = None
        self._format: tuple[str, str, int] | None = None
        self._cursor = 0

    def offer(self, time_s: float, frame: av.AudioFrame) -> None:
        """Take the next frame, whose first sample is at ``time_s``."""
        self.is_done = time_s >= self._window_end_s
        length_s = frame.samples / frame.sample_rate
        if self.is_done or time_s + length_s < self._start_s - PREROLL_S:
            return
        frame_format = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or frame_format != self._format or abs(time_s - self.end_s) > RESYNC_S:
            self._flush()
            self._resampler, self._format = AudioResampler(format="flt", rate=self.sample_rate_hz), frame_format
            self._cursor = round((time_s - self._start_s) * self.sample_rate_hz)
            self.end_s = time_s
        self.end_s += length_s
        frame.pts = None
        self._write(self._resampler.resample(frame))

    def finish(self) -> None:
        """End of the stream; ``has_run_out`` is true if the window extends beyond it."""
        self.has_run_out = not self.is_done
        self._flush()

    def _flush(self) -> None:
        if self._resampler is not None:
            self._write(self._resampler.resample(None))

    def _begin(self, names: tuple[str, ...]) -> None:
        self._names, self.weights = names, mono_weights(names)
        self.channels = np.zeros((len(names), self._num_samples), np.float32)

    def _write(self, resampled: Sequence[av.AudioFrame | None]) -> None:
        name = self.stream.container.name
        for frame in resampled:
            if frame is None:
                continue
            sound, names = packed_samples(frame), channel_names(frame.layout)
            if names != self._names and not self.num_covered:
                self._begin(names)
            if names != self._names:
                sound = mix(sound, mono_weights(names))[None]
            low, high = max(self._cursor, 0), min(self._cursor + sound.shape[1], self.channels.shape[1])
            if low < high:
                inside = sound[:, low - self._cursor : high - self._cursor]
                refuse_not_finite(name, inside, self._start_s + low / self.sample_rate_hz, self.sample_rate_hz)
                self.channels[:, low:high] = inside
                self.num_covered += high - low
            self._cursor += sound.shape[1]


def channel_names(layout: av.AudioLayout) -> tuple[str, ...]:
    """FFmpeg's names of the channels of ``layout``; NONE for channels that the file does not name."""
    return tuple(channel.name for channel in layout.channels)
