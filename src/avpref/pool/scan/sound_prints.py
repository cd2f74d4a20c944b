"""Fingerprints of sound: 32 bits every 50 ms, after J. Haitsma and T. Kalker, "A Highly Robust Audio Fingerprinting System", 2002.

The sound at 8 kHz is divided into overlapping frames of 0.384 s. Bit m says whether the difference between the energies of bands m and
m + 1 grew since the frame before; the 33 bands are spaced geometrically from 300 to 2000 Hz. Coding changes few bits. A silent frame
has no print (-1).
"""

from __future__ import annotations

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from numpy.typing import NDArray
from scipy.fft import rfft

from avpref.media.sound.audio_samples import RESYNC_S, AudioCollector
from avpref.media.sound.finite_sound import refuse_not_finite

RATE_HZ = 8000
FRAME, HOP = 3072, 400
NUM_BANDS, LOWEST_HZ, HIGHEST_HZ = 33, 300.0, 2000.0
EVERY_S = HOP / RATE_HZ
NO_PRINT = -1
MIN_RMS = 1e-3
BLOCK_HOPS = 256
_WINDOW = np.hanning(FRAME).astype(np.float32)
_EDGES = np.round(np.geomspace(LOWEST_HZ, HIGHEST_HZ, NUM_BANDS + 1) * FRAME / RATE_HZ).astype(int)
_WEIGHTS = np.left_shift(np.int64(1), np.arange(NUM_BANDS - 1, dtype=np.int64))


def prints_of(sound: NDArray[np.float32]) -> NDArray[np.int64]:
    """Prints [1 + (S − 3072) // 400] of sound [S] at 8 kHz; the first one compares with nothing and is :data:`NO_PRINT`."""
    if len(sound) < FRAME:
        return np.zeros(0, np.int64)
    frames = np.lib.stride_tricks.sliding_window_view(sound, FRAME)[::HOP]
    spectra = rfft(frames * _WINDOW, axis=1)
    power = (spectra.real**2 + spectra.imag**2).astype(np.float64)
    energies = np.add.reduceat(power[:, : _EDGES[-1]], _EDGES[:-1], axis=1)
    slopes = energies[:, :-1] - energies[:, 1:]
    values = np.full(len(frames), NO_PRINT, np.int64)
    values[1:] = ((slopes[1:] - slopes[:-1]) > 0) @ _WEIGHTS
    values[np.sqrt(np.mean(np.square(frames, dtype=np.float64), axis=1)) < MIN_RMS] = NO_PRINT
    return values


class SoundPrinter(AudioCollector):
    """Collects prints while a recording is decoded; print k describes the 0.384 s from k · 50 ms of the recording on.

    Where the recording has no sound there are no prints. Memory does not grow with the recording, except by the prints.
    """

    def __init__(self, stream: AudioStream) -> None:
        super().__init__(stream, 0.0, 0.0, RATE_HZ)
        self.prints: list[NDArray[np.int64]] = []
        self._sound = np.zeros(0, np.float32)
        self._received = 0

    def offer(self, time_s: float, frame: av.AudioFrame) -> None:
        """Take the next frame, whose first sample is at ``time_s``."""
        frame_format = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or frame_format != self._format or abs(time_s - self.end_s) > RESYNC_S:
            self._flush()
            self._resampler, self._format = AudioResampler(format="flt", layout="mono", rate=RATE_HZ), frame_format
            self._place(round(time_s * RATE_HZ))
            self.end_s = time_s
        self.end_s += frame.samples / frame.sample_rate
        frame.pts = None
        self._write(self._resampler.resample(frame))

    def finish(self) -> None:
        """End of the stream."""
        self.has_run_out = True
        self._flush()
        self._print(len(self._sound))

    @property
    def all_prints(self) -> NDArray[np.int64]:
        """The prints so far."""
        return np.concatenate([np.zeros(0, np.int64), *self.prints])

    def _place(self, sample: int) -> None:
        """Let the next samples begin at ``sample`` of the recording: silence in a gap, less sound where pieces overlap."""
        if sample > self._received:
            self._append(np.zeros(min(sample - self._received, RATE_HZ * 3600), np.float32))
        elif sample < self._received and sample >= 0:
            surplus = min(self._received - sample, len(self._sound))
            self._sound, self._received = self._sound[: len(self._sound) - surplus], self._received - surplus

    def _write(self, resampled: object) -> None:
        for frame in resampled:  # type: ignore[attr-defined]
            if frame is None:
                continue
            sound = frame.to_ndarray().reshape(-1).astype(np.float32, copy=False)
            refuse_not_finite(self.stream.container.name, sound[None], self._received / RATE_HZ, RATE_HZ)
            self._append(sound)

    def _append(self, sound: NDArray[np.float32]) -> None:
        self._sound = np.concatenate([self._sound, sound])
        self._received += len(sound)
        if len(self._sound) >= FRAME + BLOCK_HOPS * HOP:
            self._print(BLOCK_HOPS * HOP + FRAME - HOP)

    def _print(self, num_samples: int) -> None:
        """Print the first ``num_samples``, and keep what the next prints overlap with."""
        values = prints_of(self._sound[:num_samples])
        if not len(values):
            return
        self.prints.append(values[1:] if self.prints else values)
        done = len(values) - 1
        self._sound = self._sound[done * HOP :]
