"""Whether a file can stay as it is among clips of one shape, or has to be encoded again."""

from __future__ import annotations

from fractions import Fraction

from avpref.media.geometry import ClipShape
from avpref.media.mp4_index import Mp4Track, read_index

AAC_FRAME = 1024
MAX_CHANNELS = 2
RATE_TOLERANCE = Fraction(1, 1000)
"""Relative difference of frame rates that rounding to a timescale explains."""


def conforms(data: bytes, shape: ClipShape) -> bool:
    """Whether ``data`` is a whole mp4 with one H.264 and one AAC track, of the size, rates, frames and samples of ``shape``.

    Its index decides; nothing is decoded. Sound may end at most one AAC packet before the frames and three after them (priming and
    padding).
    """
    tracks = read_index(data)
    if tracks is None or sorted(track.handler for track in tracks) != ["soun", "vide"]:
        return False
    sound, picture = sorted(tracks, key=lambda track: track.handler)
    return _is_picture(picture, shape) and _is_sound(sound, shape)


def _is_picture(track: Mp4Track, shape: ClipShape) -> bool:
    if track.codec != "avc1" or not track.is_even or track.num_samples != shape.num_frames:
        return False
    rate = Fraction(shape.fps_hz).limit_denominator(1001)
    is_timed = abs(track.num_samples / track.duration_s / rate - 1) <= RATE_TOLERANCE
    return is_timed and (track.height_px, track.width_px) == (shape.height_px, shape.width_px)


def _is_sound(track: Mp4Track, shape: ClipShape) -> bool:
    if track.codec != "mp4a" or track.sample_rate_hz != shape.sample_rate_hz or track.channels > MAX_CHANNELS:
        return False
    surplus = track.duration_s * shape.sample_rate_hz - shape.num_samples
    return -AAC_FRAME <= surplus <= 3 * AAC_FRAME
