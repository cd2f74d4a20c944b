"""Clips as files: what is written comes back, the same bytes every time, playable while it loads."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest

from avpref.media.reading import probe, read_clip
from avpref.media.writing import encode_clip


def blob(num_frames: int, size: int) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size] / size
    frames = []
    for k in range(num_frames):
        shape = np.exp(-((columns - 0.2 - 0.6 * k / num_frames) ** 2 + (rows - 0.5) ** 2) / 0.01)
        frames.append(np.rint(shape[..., None] * np.array([230, 60, 40]) + 20).clip(0, 255))
    return np.stack(frames).astype(np.uint8)


def rings(num_samples: int, rate_hz: int) -> np.ndarray:
    seconds = np.arange(num_samples) / rate_hz
    noise = np.random.default_rng(0).standard_normal(num_samples)
    return (0.3 * np.sin(2 * np.pi * 600 * seconds) * np.exp(-(seconds % 0.5) / 0.1) + 0.002 * noise).astype(np.float32)


@pytest.mark.parametrize(
    ("size", "fps_hz", "rate_hz"), [(96, 8.0, 16000), (64, 16.0, 16000), (48, 30000 / 1001, 44100)]
)
def test_round_trip(size: int, fps_hz: float, rate_hz: int) -> None:
    frames = blob(16, size)
    audio = rings(round(16 / fps_hz * rate_hz), rate_hz)
    data = encode_clip(frames, fps_hz, audio, rate_hz)
    clip = read_clip(io.BytesIO(data))
    assert clip.frames is not None and clip.audio is not None
    assert clip.frames.shape == frames.shape and clip.fps_hz == pytest.approx(fps_hz, rel=1e-5)
    assert abs(len(clip.audio) - len(audio)) <= 1 and clip.sample_rate_hz == rate_hz
    assert np.abs(clip.frames.astype(int) - frames).mean() < 2.0
    kept = min(len(audio), len(clip.audio))
    error = np.square(clip.audio[:kept] - audio[:kept]).mean() / np.square(audio).mean()
    assert 10 * np.log10(error) < -20


def test_equal_input_gives_equal_bytes() -> None:
    frames, audio = blob(16, 48), rings(32000, 16000)
    data = encode_clip(frames, 8.0, audio, 16000)
    assert data == encode_clip(frames.copy(), 8.0, audio.copy(), 16000)
    assert data != encode_clip(frames, 8.0, audio * np.float32(0.5), 16000)


def test_tracks_and_layout() -> None:
    data = encode_clip(blob(16, 48), 8.0, rings(32000, 16000), 16000)
    assert data.index(b"moov") < data.index(b"mdat")
    info = probe(io.BytesIO(data))
    assert info.video is not None and info.audio is not None
    assert (info.video.codec, info.audio.codec) == ("h264", "aac")
    assert (info.duration_s, info.video.fps_hz, info.audio.num_channels) == (2.0, 8.0, 2)
    with av.open(io.BytesIO(data), "r") as container:
        assert container.streams.video[0].pix_fmt == "yuv420p"
        left, right = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    np.testing.assert_array_equal(left, right)


def test_long_clips_have_room_for_their_index() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (400, 16, 16, 3), np.uint8)
    clip = read_clip(io.BytesIO(encode_clip(frames, 25.0, rings(16 * 48000, 48000), 48000)))
    assert clip.frames is not None and len(clip.frames) == 400


def test_colours_survive() -> None:
    colours = np.array([[226, 52, 44], [52, 204, 70], [62, 96, 238], [128, 128, 128]], np.uint8)
    frames = np.repeat(np.repeat(colours[:, None, None], 32, axis=1), 32, axis=2)
    clip = read_clip(io.BytesIO(encode_clip(frames, 8.0, rings(8000, 16000), 16000)))
    assert clip.frames is not None
    assert np.abs(clip.frames.mean(axis=(1, 2)) - colours).max() < 6


def test_what_cannot_be_written() -> None:
    frames, audio = blob(4, 48), rings(8000, 16000)
    with pytest.raises(ValueError, match="even"):
        encode_clip(frames[:, :47], 8.0, audio, 16000)
    with pytest.raises(ValueError, match="uint8"):
        encode_clip(frames.astype(np.float32), 8.0, audio, 16000)
    with pytest.raises(ValueError, match="float32"):
        encode_clip(frames, 8.0, audio.astype(np.float64), 16000)
    with pytest.raises(ValueError, match="finite"):
        encode_clip(frames, 8.0, np.full(8000, np.nan, np.float32), 16000)


@pytest.mark.parametrize(("height", "width", "is_named"), [(576, 64, False), (720, 64, True), (64, 1280, True)])
def test_colours_of_large_pictures_are_named_and_survive(height: int, width: int, is_named: bool) -> None:
    colours = np.array([[220, 30, 30], [30, 200, 40], [40, 40, 210], [128, 128, 128]], np.uint8)
    frames = np.repeat(np.repeat(colours[None, :, None], height // 4, 1), width, 2).repeat(2, 0)
    data = encode_clip(frames, 8.0, rings(4000, 16000), 16000)
    with av.open(io.BytesIO(data), "r") as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range) == ((1, 1) if is_named else (2, 0))
    clip = read_clip(io.BytesIO(data))
    assert clip.frames is not None
    assert np.abs(clip.frames.astype(int) - frames)[:, height // 8 :: height // 4].max() <= 4
