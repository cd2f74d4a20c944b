"""Write clips as H.264 and AAC in an mp4 that browsers play while it loads. PyAV and numpy only.

Equal input gives equal bytes: one encoder thread, no dates or version strings. The index is written before the media, in reserved
space, as ``faststart`` would do in a second pass.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter
from av.video.stream import VideoStream

from avpref.media.picture.display import is_hd

CRF = 18
"""Constant rate factor of x264: a mean error of about 1/4 grey level on smooth pictures."""
AAC_FRAME = 1024
"""Samples per AAC packet."""

_VIDEO_OPTIONS = {"preset": "ultrafast", "crf": str(CRF)}
_AUDIO_OPTIONS = {"aac_coder": "fast", "aac_tns": "0", "aac_pns": "0", "aac_is": "0"}


def encode_clip(frames: np.ndarray, fps_hz: float, audio: np.ndarray, sample_rate_hz: int) -> bytes:
    """Bytes of an mp4 with ``frames`` uint8 [T, H, W, 3] RGB and ``audio`` float32: stereo [2, S], or mono [S] on both channels.

    Pictures have the matrix of BT.601, which is not named; those that players take for BT.709 by their size have its matrix, named.
    Full scale is [-1, 1]; louder samples are accepted, because resampled recordings overshoot and the codec can represent it.
    Raises ValueError for other shapes and types, for values that are not finite, and for odd heights and widths
    (yuv420p halves both).
    """
    _require_clip(frames, audio)
    layout = EncodedLayout(len(frames), frames.shape[1], frames.shape[2], fps_hz, audio.shape[-1], sample_rate_hz)
    encoder = ClipEncoder(layout)
    for pixels in frames:
        encoder.add(pixels)
    return encoder.finish(audio)


@dataclass(frozen=True)
class EncodedLayout:
    """Numbers of frames and samples, size and rates of a clip that is encoded frame by frame."""

    num_frames: int
    height_px: int
    width_px: int
    fps_hz: float
    num_samples: int
    sample_rate_hz: int


class ClipEncoder:
    """Encodes a clip as :func:`encode_clip` does, frame by frame, so that its pictures need not be in memory together."""

    def __init__(self, layout: EncodedLayout) -> None:
        self._layout, self._buffer, self._num_added = layout, io.BytesIO(), 0
        index_bytes = 4096 + 64 * layout.num_frames + 48 * (layout.num_samples // AAC_FRAME + 2)
        options = {"moov_size": str(index_bytes), "fflags": "+bitexact"}
        self._container = av.open(self._buffer, "w", format="mp4", options=options)
        self._picture = _add_picture(self._container, layout.width_px, layout.height_px, layout.fps_hz)
        self._sound = _add_sound(self._container, layout.sample_rate_hz)
        self._reformatter = VideoReformatter()
        self._matrix = Colorspace.ITU709 if is_hd(layout.height_px, layout.width_px) else None

    def add(self, pixels: np.ndarray) -> None:
        """Encode the next frame uint8 [H, W, 3] RGB."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame = self._reformatter.reformat(frame, format="yuv420p", dst_colorspace=self._matrix, threads=1)
        frame.pts, frame.time_base = self._num_added, self._picture.codec_context.time_base
        self._num_added += 1
        self._container.mux(self._picture.encode(frame))

    def finish(self, audio: np.ndarray) -> bytes:
        """Encode the sound float32 [S] or [2, S], finite; returns the file. Raises ValueError where frames or samples are missing."""
        layout = self._layout
        if self._num_added != layout.num_frames or audio.shape[-1] != layout.num_samples:
            self._container.close()
            raise ValueError(f"{self._num_added} frames and {audio.shape[-1]} samples, expected {layout}")
        self._container.mux(self._picture.encode(None))
        _mux_sound(self._container, self._sound, audio, layout.sample_rate_hz)
        self._container.close()
        return self._buffer.getvalue()


def _require_clip(frames: np.ndarray, audio: np.ndarray) -> None:
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames must be uint8 [T, H, W, 3], found {frames.dtype} {list(frames.shape)}")
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(f"height and width must be even, found {frames.shape[1]} x {frames.shape[2]}")
    is_sound = audio.ndim == 1 or (audio.ndim == 2 and len(audio) == 2)
    if not is_sound or audio.dtype != np.float32 or not audio.size:
        raise ValueError(f"audio must be float32 [S] or [2, S], found {audio.dtype} {list(audio.shape)}")
    if not np.isfinite(audio).all():
        raise ValueError("audio must be finite, found NaN or infinity")


def _add_picture(container: OutputContainer, width_px: int, height_px: int, fps_hz: float) -> VideoStream:
    rate = Fraction(fps_hz).limit_denominator(1001)
    stream = container.add_stream("libx264", rate=rate, options=dict(_VIDEO_OPTIONS))
    stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
    stream.codec_context.thread_count = 1
    stream.codec_context.time_base = 1 / rate
    if is_hd(height_px, width_px):
        context = stream.codec_context
        context.colorspace, context.color_range = int(Colorspace.ITU709), int(ColorRange.MPEG)
        context.color_primaries, context.color_trc = int(ColorPrimaries.BT709), int(ColorTrc.BT709)
    return stream


def _add_sound(container: OutputContainer, sample_rate_hz: int) -> AudioStream:
    stream = container.add_stream("aac", rate=sample_rate_hz, layout="stereo", options=dict(_AUDIO_OPTIONS))
    stream.bit_rate = min(4 * sample_rate_hz, 192_000)
    return stream


def _mux_sound(container: OutputContainer, stream: AudioStream, audio: np.ndarray, sample_rate_hz: int) -> None:
    channels = np.ascontiguousarray(audio if audio.ndim == 2 else np.stack([audio, audio]))
    frame = av.AudioFrame.from_ndarray(channels, format="fltp", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = sample_rate_hz, 0, Fraction(1, sample_rate_hz)
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
