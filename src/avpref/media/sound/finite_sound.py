"""Refusal of sound that holds values that are not finite: NaN and infinity."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from av.audio.resampler import AudioResampler

from avpref.errors import MediaError
from avpref.media.containers import MediaSource, opened
from avpref.media.reading_rules import DEFAULT_READING, ReadingRules
from avpref.media.sound.audio_tracks import choose_audio

FLOAT_CODECS = ("wavpack", "mp4als")
"""Codecs beside PCM that may store floating-point samples."""


def require_finite_sound(source: MediaSource, rules: ReadingRules = DEFAULT_READING) -> None:
    """Raises MediaError if the chosen sound of ``source`` holds NaN or infinite samples.

    Only codecs that store floating-point samples can, and only those are decoded; ``source`` is read from its beginning.
    """
    with opened(source) as container:
        stream = choose_audio(container, rules.audio_track)
        if stream is None or not _may_hold_any_float(stream.codec_context):
            return
        resampler, num_samples = AudioResampler(format="flt"), 0
        for frame in container.decode(stream):
            frame.pts = None
            for part in resampler.resample(frame):
                samples = packed_samples(part)
                refuse_not_finite(container.name, samples, num_samples / part.sample_rate, part.sample_rate)
                num_samples += samples.shape[1]


def packed_samples(frame: av.AudioFrame) -> np.ndarray:
    """The samples [C, S] of a packed frame. Planar frames of 8 or more channels are not safe to read: PyAV reads past their end."""
    return frame.to_ndarray().reshape(-1, len(frame.layout.channels)).T


def refuse_not_finite(name: str, samples: np.ndarray, start_s: float, rate_hz: int) -> None:
    """Raises MediaError if ``samples`` [C, S], which begin at ``start_s`` seconds of the recording, are not all finite."""
    bad = ~np.isfinite(samples).all(axis=0)
    if bad.any():
        first = int(np.argmax(bad))
        kind = "NaN (not a number)" if np.isnan(samples[:, first]).any() else "infinite"
        raise MediaError(
            found=f"{Path(name).name or 'a clip in memory'}: {kind} samples in its sound, the first at"
            f" {start_s + first / rate_hz:.3f} s",
            expected="sound with finite samples",
            fix="make the file again from its source, or remove its row",
        )


def _may_hold_any_float(codec: av.AudioCodecContext) -> bool:
    if codec.name.startswith("pcm_f"):
        return True
    return codec.name in FLOAT_CODECS and codec.format is not None and codec.format.name[:3] in ("flt", "dbl")
