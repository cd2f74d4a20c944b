"""Thumbnails, spectrograms, pictures, sounds and curves of clips, made from their files. numpy, Pillow and PyAV only.

All spectrograms have one scale, so clips can be compared by eye: 96 mel bands from 0 to 8000 Hz, a column per 10 ms, from −80 to 0 dB,
where 0 dB is a sine of full scale. Curves share the time of the clip: the waveform's extremes per 10 ms, the onset strength and onsets of
the sound (:mod:`avpref.rewards.signals.onsets`), and the motion of the fastest tenth of the picture
(:mod:`avpref.rewards.signals.motion`).
"""

from __future__ import annotations

import io
import json
import wave
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from avpref.media.containers import opened
from avpref.media.reading import DecodedClip, MediaSource, read_clip
from avpref.media.sound.mel_filters import bins_hz, hz_to_mel, mel_to_hz, periodic_hann, triangles
from avpref.storage.files import Files

THUMBNAIL_PX = 160
NUM_BANDS, HIGHEST_HZ, COLUMN_S, FLOOR_DB = 96, 8000.0, 0.01, -80.0
WINDOW_S = 0.046
MAX_COLUMNS = 12_000
COLOURS = ((0, 0, 4), (65, 15, 117), (148, 44, 102), (221, 81, 58), (252, 165, 10), (252, 255, 164))
"""Colours from −80 to 0 dB, equally spaced; between them colours are mixed linearly. Their lightness rises throughout."""

FloatArray = NDArray[np.float64]


def thumbnail(media: Files, path: str, duration_s: float) -> bytes:
    """JPEG of the frame in the middle of the clip, at most 160 pixels wide. Raises MediaError."""
    from PIL import Image

    clip = read_clip(_source(media, path), start_s=duration_s / 2, duration_s=min(0.5, duration_s / 2))
    assert clip.frames is not None
    picture = Image.fromarray(clip.frames[0])
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def picture(media: Files, path: str) -> bytes:
    """The clip's pictures alone as mp4, copied and not encoded again. Raises MediaError.

    A browser times a video with sound by its sound device, in steps of some 20 ms; one without sound runs by the clock of the
    page, so that the player can correct it finely.
    """
    buffer = io.BytesIO()
    with opened(_source(media, path)) as source, av.open(buffer, "w", format="mp4") as target:
        track = source.streams.video[0]
        copied = target.add_stream_from_template(track)
        for packet in source.demux(track):
            if packet.dts is not None:
                packet.stream = copied
                target.mux(packet)
    return buffer.getvalue()


def sound(media: Files, path: str) -> bytes:
    """The clip's sound as 16-bit WAV, mono, at its own rate; silence where it has none. Raises MediaError."""
    clip = read_clip(_source(media, path))
    audio, rate_hz = _audio(clip)
    samples = np.round(np.clip(audio, -1.0, 1.0) * 32767.0).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(rate_hz)
        stream.writeframes(samples.tobytes())
    return buffer.getvalue()


def spectrogram(media: Files, path: str) -> bytes:
    """PNG of the sound's spectrogram, a column per 10 ms, low frequencies below. Raises MediaError."""
    from PIL import Image

    audio, rate_hz = _audio(read_clip(_source(media, path)))
    level = (levels_db(audio, rate_hz) - FLOOR_DB) / -FLOOR_DB
    picture = Image.fromarray(np.round(level[::-1] * 255).astype(np.uint8), "L").convert("P")
    picture.putpalette([int(channel) for row in _palette() for channel in row])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def levels_db(audio: FloatArray, rate_hz: int) -> FloatArray:
    """Levels [96, F] in dB, −80 to 0, of the waveform [S]; F = ⌈S / rate / 0.01⌉, at most 12,000 columns.

    Column k is centred on second 0.01·k. Bands above half of ``rate_hz`` are empty. A sine of full scale reaches 0 dB.
    """
    length = max(64, round(WINDOW_S * rate_hz))
    num_columns = max(1, min(MAX_COLUMNS, int(np.ceil(len(audio) / rate_hz / COLUMN_S))))
    starts = np.round(np.arange(num_columns) * COLUMN_S * rate_hz).astype(np.int64)
    padded = np.pad(audio, (length // 2, length))
    window = periodic_hann(length)
    edges = mel_to_hz(np.linspace(hz_to_mel(0.0), hz_to_mel(HIGHEST_HZ), NUM_BANDS + 2))
    weights = triangles(bins_hz(rate_hz, length), edges)
    power = np.empty((NUM_BANDS, num_columns))
    for first in range(0, num_columns, 512):
        pieces = padded[starts[first : first + 512, None] + np.arange(length)]
        amplitude = np.abs(np.fft.rfft(pieces * window, axis=1)) / (window.sum() / 2)
        power[:, first : first + 512] = weights @ (amplitude.T**2)
    return np.clip(10.0 * np.log10(np.maximum(power, 1e-12)), FLOOR_DB, 0.0)


def curves(media: Files, path: str) -> bytes:
    """JSON of the clip's curves; every list has its step in seconds and the time of its first value. Raises MediaError."""
    from avpref.rewards.signals.motion import fastest_share_px, small_flow
    from avpref.rewards.signals.onsets import HOP_SAMPLES, detect_onsets

    clip = read_clip(_source(media, path))
    audio, rate_hz = _audio(clip)
    onsets = detect_onsets(audio.astype(np.float32), rate_hz)
    moves = clip.frames is not None and len(clip.frames) > 1
    motion = fastest_share_px(small_flow(clip.frames)) if moves and clip.frames is not None else np.zeros(0)
    low, high = extremes(audio, rate_hz)
    document: dict[str, Any] = {
        "duration_s": clip.duration_s,
        "has_sound": clip.has_audio,
        "waveform": {"start_s": COLUMN_S / 2, "step_s": COLUMN_S, "low": _rounded(low), "high": _rounded(high)},
        "onset_strength": {"start_s": 0.0, "step_s": HOP_SAMPLES / rate_hz, "values": _rounded(onsets.strength)},
        "onsets_s": _rounded(onsets.times_s),
        "motion": {
            "start_s": 1.0 / clip.fps_hz if moves else 0.0,
            "step_s": 1.0 / clip.fps_hz if moves else 1.0,
            "values": _rounded(motion),
        },
    }
    return json.dumps(document, separators=(",", ":")).encode()


def extremes(audio: FloatArray, rate_hz: int) -> tuple[FloatArray, FloatArray]:
    """Lowest and highest sample of every 10 ms of the waveform [S]."""
    step = max(1, round(COLUMN_S * rate_hz))
    num_bins = -(-len(audio) // step)
    bins = np.pad(audio, (0, num_bins * step - len(audio)), mode="edge").reshape(num_bins, step)
    return bins.min(axis=1), bins.max(axis=1)


def _audio(clip: DecodedClip) -> tuple[FloatArray, int]:
    """The waveform [S] in float64 and its rate; silence of the clip's length at 16 kHz where it has no sound."""
    if clip.audio is None or not len(clip.audio):
        return np.zeros(max(1, round(clip.duration_s * 16_000))), 16_000
    return clip.audio.astype(np.float64), clip.sample_rate_hz


def _palette() -> NDArray[np.uint8]:
    """[256, 3]."""
    positions = np.linspace(0, 255, len(COLOURS))
    channels = [np.interp(np.arange(256), positions, channel) for channel in zip(*COLOURS, strict=True)]
    return np.round(np.stack(channels, axis=1)).astype(np.uint8)


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 4) for value in values]


def _source(media: Files, path: str) -> MediaSource:
    """The clip's bytes, under the name that errors show."""
    from avpref.errors import MediaError

    try:
        stream = io.BytesIO(media.read(path))
    except FileNotFoundError as error:
        raise MediaError(f"{path} is missing", "the file that was committed", "avpref runs resume RUN") from error
    stream.name = path.rpartition("/")[2]
    return stream
