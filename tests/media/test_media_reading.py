"""Reading by timestamp, on files made here with awkward timing, and on real recordings."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream
from hypothesis import given, settings
from hypothesis import strategies as st

from avpref.errors import MediaError
from avpref.media.geometry import OWN_SIZE, ClipShape
from avpref.media.picture.shown_frames import FRAME_SLACK_S, FramePicker, PictureConverter
from avpref.media.reading import probe, read_clip
from avpref.media.writing import encode_clip

SHAPE = ClipShape(num_frames=16, height_px=48, width_px=64, fps_hz=8.0, sample_rate_hz=16000)


def tone(frequency_hz: float, duration_s: float, rate_hz: int) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * frequency_hz * np.arange(round(duration_s * rate_hz)) / rate_hz)).astype(
        np.float32
    )


def loudest_hz(audio: np.ndarray, rate_hz: int) -> float:
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
    return float(spectrum.argmax() * rate_hz / len(audio))


def grey(level: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def levels_of(frames: np.ndarray) -> list[int]:
    return [round(float(frame.mean())) for frame in frames]


def write_picture(
    path: Path,
    frames: list[np.ndarray],
    times_ms: list[int],
    *,
    options: dict[str, str] | None = None,
    rotation: int = 0,
) -> None:
    """H.264 with the given timestamps."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=options or {"crf": "10", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = frames[0].shape[0], frames[0].shape[1], "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for pixels, time_ms in zip(frames, times_ms, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_sound(
    path: Path, codec: str, chunks: list[tuple[float, np.ndarray]], rate_hz: int, layout: str, fmt: str
) -> None:
    """One audio stream; each chunk [C, S] float starts at its own time."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout)
        assert isinstance(stream, AudioStream)
        for start_s, samples in chunks:
            if fmt.startswith("s16"):
                samples = np.rint(samples * 32767).astype(np.int16)
            if not fmt.endswith("p"):
                samples = samples.T.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format=fmt, layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate_hz, round(start_s * rate_hz), Fraction(1, rate_hz)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_a_440_hz_tone_reads_as_440_hz() -> None:
    frames = np.stack([grey(8 * k + 40) for k in range(16)])
    data = encode_clip(frames, 8.0, tone(440, 2.0, 16000), 16000)
    clip = read_clip(io.BytesIO(data))
    assert clip.audio is not None and clip.audio.shape == (32000,) and clip.audio.dtype == np.float32
    assert loudest_hz(clip.audio, 16000) == pytest.approx(440, abs=1)
    assert np.abs(clip.audio - tone(440, 2.0, 16000))[200:-200].max() < 0.02


@pytest.mark.parametrize("layout", ["mono", "stereo"])
@pytest.mark.parametrize(
    ("suffix", "codec", "fmt"),
    [("wav", "pcm_s16le", "s16"), ("wav", "pcm_f32le", "flt"), ("mp4", "aac", "fltp"), ("flac", "flac", "s16")],
)
@pytest.mark.parametrize("rate_hz", [8000, 16000, 22050, 44100, 48000])
def test_any_rate_and_layout_of_samples(
    tmp_path: Path, layout: str, suffix: str, codec: str, fmt: str, rate_hz: int
) -> None:
    path = tmp_path / f"tone.{suffix}"
    channels = 1 if layout == "mono" else 2
    write_sound(path, codec, [(0.0, np.stack([tone(440, 1.0, rate_hz)] * channels))], rate_hz, layout, fmt)
    native = read_clip(path, duration_s=1.0)
    assert native.audio is not None and native.audio.shape == (rate_hz,) and native.sample_rate_hz == rate_hz
    shape = ClipShape(8, 48, 64, 8.0, 16000)
    clip = read_clip(path, shape)
    assert clip.audio is not None and clip.audio.shape == (16000,)
    assert clip.frames is None and not clip.has_video and clip.has_audio
    inner = slice(800, 15200)
    assert loudest_hz(clip.audio[inner], 16000) == pytest.approx(440, abs=2)
    error = clip.audio[inner] - tone(440, 1.0, 16000)[inner]
    assert np.sqrt(np.square(error).mean()) < 0.015  # 5 % of the tone; one sample of delay gives 17 %


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = tmp_path / "two.wav"
    write_sound(
        path,
        "pcm_f32le",
        [(0.0, np.stack([tone(440, 1.0, 16000), np.zeros(16000, np.float32)]))],
        16000,
        "stereo",
        "flt",
    )
    clip = read_clip(path)
    assert clip.audio is not None
    np.testing.assert_allclose(clip.audio, tone(440, 1.0, 16000) / 2, atol=1e-6)


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_gaps_are_silent_and_what_follows_is_in_place(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "gap.mkv"
    burst = np.stack([tone(1000, 0.512, 16000)])
    write_sound(path, codec, [(0.0, burst), (1.24, burst)], 16000, "mono", "fltp" if codec == "aac" else "s16")
    clip = read_clip(path, duration_s=1.75)
    assert clip.audio is not None
    level = np.sqrt(np.square(clip.audio).reshape(-1, 160).mean(axis=1))
    sounding = level > 0.15
    assert sounding[:51].mean() > 0.9 and sounding[125:].mean() > 0.9
    assert not sounding[60:120].any() and np.abs(clip.audio[10000:19000]).max() == 0.0


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"vfr.{suffix}"
    times_ms, levels = [0, 40, 80, 500, 540, 1200, 1210, 1990], [20, 50, 80, 110, 140, 170, 200, 230]
    write_picture(path, [grey(level) for level in levels], times_ms)
    clip = read_clip(path, ClipShape(16, 48, 64, 8.0, 16000))
    assert clip.frames is not None
    expected = [levels[max(i for i, time in enumerate(times_ms) if time <= 125 * k + 1)] for k in range(16)]
    assert np.abs(np.array(levels_of(clip.frames)) - expected).max() <= 4


@given(
    gaps_ms=st.lists(st.integers(5, 400), min_size=1, max_size=12),
    fps_hz=st.floats(3, 60),
    start_ms=st.integers(0, 300),
    num_wanted=st.integers(1, 40),
)
@settings(max_examples=60, deadline=None)
def test_the_picked_frame_is_the_one_being_shown(
    gaps_ms: list[int], fps_hz: float, start_ms: int, num_wanted: int
) -> None:
    times = np.concatenate([[0], np.cumsum(gaps_ms)]) / 1000
    wanted = [start_ms / 1000 + k / fps_hz for k in range(num_wanted)]
    codec = SimpleNamespace(sample_aspect_ratio=None)
    square = SimpleNamespace(sample_aspect_ratio=None, codec_context=codec, container=SimpleNamespace(name=""))
    picker = FramePicker(square, wanted, PictureConverter(square, OWN_SIZE, num_wanted), 0.04)  # type: ignore[arg-type]
    for index, time_s in enumerate(times):
        picker.offer(float(time_s), av.VideoFrame.from_ndarray(np.full((2, 2, 3), index, np.uint8), format="rgb24"))
    picker.finish()
    shown = [int(np.searchsorted(times, instant + FRAME_SLACK_S, side="right")) - 1 for instant in wanted]
    assert [int(frame[0, 0, 0]) for frame in picker.pictures] == shown


def test_b_frames_come_in_order_of_display(tmp_path: Path) -> None:
    path = tmp_path / "b.mp4"
    levels = [10 + 5 * k for k in range(40)]
    write_picture(
        path,
        [grey(level) for level in levels],
        [40 * k for k in range(40)],
        options={"crf": "10", "bf": "3", "b_strategy": "0"},
    )
    clip = read_clip(path)
    assert clip.frames is not None and clip.fps_hz == 25.0
    assert np.abs(np.array(levels_of(clip.frames)) - levels).max() <= 3


def test_a_rate_that_is_not_a_whole_number(tmp_path: Path) -> None:
    path = tmp_path / "ntsc.mp4"
    levels = [30 + 6 * k for k in range(30)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(30000, 1001), options={"crf": "10", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for level in levels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey(level), format="rgb24")))
        container.mux(stream.encode(None))
    clip = read_clip(path)
    assert clip.frames is not None and len(clip.frames) == 30 and clip.fps_hz == pytest.approx(30000 / 1001)
    assert np.abs(np.array(levels_of(clip.frames)) - levels).max() <= 3


def test_the_timeline_starts_with_the_first_stream(tmp_path: Path) -> None:
    """Both streams a second late: rebased. The picture alone half a second late: its first frame holds until it begins."""
    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=25, options={"crf": "10", "bf": "0"})
        picture.height, picture.width, picture.pix_fmt = 48, 64, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        samples = np.zeros((1, 16000), np.int16)
        samples[0, 8000:] = 12000
        audio = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        audio.sample_rate, audio.pts, audio.time_base = 16000, 16000, Fraction(1, 16000)
        container.mux(sound.encode(audio))
        for k in range(12):
            frame = av.VideoFrame.from_ndarray(grey(40 if k == 0 else 200), format="rgb24")
            frame.pts, frame.time_base = 25 + 13 + k, Fraction(1, 25)
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        container.mux(sound.encode(None))
    clip = read_clip(path)
    assert clip.frames is not None and clip.audio is not None
    assert clip.duration_s == pytest.approx(1.0, abs=0.05)
    levels = np.array(levels_of(clip.frames))
    assert np.flatnonzero(levels > 100)[0] == 14
    assert np.flatnonzero(np.abs(clip.audio) > 0.2)[0] == pytest.approx(8000, abs=2)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_pictures_are_read_as_displayed(tmp_path: Path, degrees: int) -> None:
    path = tmp_path / "phone.mp4"
    stored = grey(30)
    stored[:24, :32] = 220
    write_picture(path, [stored] * 8, [40 * k for k in range(8)], rotation=degrees)
    info = probe(path)
    expected = np.rot90(stored, degrees // 90)
    assert info.video is not None and info.video.rotation_deg == degrees
    assert (info.video.height_px, info.video.width_px) == expected.shape[:2]
    clip = read_clip(path)
    assert clip.frames is not None and clip.frames.shape[1:] == expected.shape
    assert np.abs(clip.frames[0].astype(int) - expected).mean() < 3
    small = read_clip(path, ClipShape(2, 24, 24, 8.0, 16000))
    assert small.frames is not None and small.frames.shape == (2, 24, 24, 3)
    inside = expected[:, 8:-8] if expected.shape[1] > expected.shape[0] else expected[8:-8]
    assert np.abs(small.frames[0].astype(int) - inside[::2, ::2]).mean() < 6


def test_filling_and_cropping(tmp_path: Path) -> None:
    """A picture twice as wide as asked for loses a quarter on either side; shrinking averages areas."""
    path = tmp_path / "wide.mp4"
    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:, 32:96] = 200
    picture[::2, 32:64] = 100
    write_picture(path, [picture] * 4, [40 * k for k in range(4)], options={"crf": "1", "bf": "0"})
    clip = read_clip(path, ClipShape(1, 16, 16, 8.0, 16000))
    assert clip.frames is not None
    assert np.abs(clip.frames[0, :, :8].astype(int) - 150).max() < 12
    assert np.abs(clip.frames[0, :, 9:].astype(int) - 200).max() < 12
    larger = read_clip(path, ClipShape(1, 128, 256, 8.0, 16000))
    assert larger.frames is not None and larger.frames.shape == (1, 128, 256, 3)


def test_seeking_equals_slicing(tmp_path: Path) -> None:
    """Windows into a file with long groups of pictures give what the whole file gives there."""
    path = tmp_path / "long.mp4"
    ramp = [20 + (7 * k) % 200 for k in range(150)]
    frames = np.stack([grey(level) for level in ramp])
    audio = np.concatenate([tone(200 + 50 * k, 0.5, 16000) for k in range(12)])
    path.write_bytes(encode_clip(frames, 25.0, audio, 16000))
    whole = read_clip(path)
    assert whole.frames is not None and whole.audio is not None
    for start_s in (0.48, 1.0, 2.92, 4.0):
        part = read_clip(path, start_s=start_s, duration_s=2.0)
        assert part.frames is not None and part.audio is not None
        first, sample = round(start_s * 25), round(start_s * 16000)
        np.testing.assert_array_equal(part.frames, whole.frames[first : first + 50])
        np.testing.assert_allclose(part.audio, whole.audio[sample : sample + 32000], atol=1e-4)


def test_real_recordings(media: Path) -> None:
    for name in ("dog", "tennis", "whale"):
        whole = read_clip(media / f"{name}.mp4", ClipShape(48, 96, 96, 16.0, 16000), start_s=1.0)
        assert whole.frames is not None and whole.audio is not None
        assert whole.frames.shape == (48, 96, 96, 3) and whole.audio.shape == (48000,)
        assert np.sqrt(np.square(whole.audio).mean()) > 1e-3
        part = read_clip(media / f"{name}.mp4", ClipShape(16, 96, 96, 16.0, 16000), start_s=2.0)
        assert part.frames is not None and part.audio is not None
        np.testing.assert_array_equal(part.frames, whole.frames[16:32])
        np.testing.assert_allclose(part.audio, whole.audio[16000:32000], atol=2e-2)


def test_several_streams(media: Path) -> None:
    info = probe(media / "telescope.mp4")
    assert info.video is not None and info.audio is not None
    assert (info.video.height_px, info.video.width_px) == (270, 480)
    assert info.video.fps_hz == pytest.approx(30000 / 1001)
    assert (info.audio.sample_rate_hz, info.audio.num_channels) == (16000, 2)
    clip = read_clip(media / "telescope.mp4", start_s=2.0, duration_s=3.0)
    assert clip.frames is not None and clip.audio is not None
    assert clip.frames.shape == (90, 270, 480, 3) and clip.audio.shape == (48000,)
    with av.open(str(media / "telescope.mp4")) as container:
        stream = container.streams.audio[1]
        left = np.concatenate([frame.to_ndarray() for frame in container.decode(stream)], axis=1).mean(axis=0)
    np.testing.assert_allclose(clip.audio, left[32000:80000], atol=1e-4)


def test_missing_tracks_are_flags(tmp_path: Path) -> None:
    silent = tmp_path / "silent.mp4"
    write_picture(silent, [grey(100)] * 20, [40 * k for k in range(20)])
    info, clip = probe(silent), read_clip(silent)
    assert info.has_video and not info.has_audio and clip.has_video and not clip.has_audio
    assert clip.audio is None and clip.sample_rate_hz == 0


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.5, 0.8, 0.95, 0.999])
def test_a_cut_file_is_an_error(tmp_path: Path, share: float) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (16, 48, 64, 3), np.uint8)
    data = encode_clip(frames, 8.0, tone(440, 2.0, 16000), 16000)
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: int(share * len(data))])
    for source in (path, io.BytesIO(path.read_bytes())):
        with pytest.raises(MediaError) as caught:
            read_clip(source)
        assert caught.value.expected and caught.value.fix


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
def test_a_cut_file_is_an_error_in_other_layouts(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(1)
    path = tmp_path / f"whole.{suffix}"
    write_picture(path, [rng.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(50)], [40 * k for k in range(50)])
    whole = read_clip(path)
    assert whole.frames is not None and len(whole.frames) in (49, 50)
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError):
        read_clip(cut, duration_s=2.0)


def test_files_that_are_not_media(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"absent\.mp4"):
        read_clip(tmp_path / "absent.mp4")
    (tmp_path / "text.mp4").write_text("this is not a recording" * 50)
    with pytest.raises(MediaError, match=r"text\.mp4"):
        probe(tmp_path / "text.mp4")


def test_damaged_bytes_are_media_errors_or_pictures() -> None:
    """Whatever is changed in the index or the media, nothing but MediaError comes out."""
    random = np.random.default_rng(0)
    frames = random.integers(0, 255, (16, 32, 32, 3)).astype(np.uint8)
    data = encode_clip(frames, 8.0, tone(440, 2.0, 16000), 16000)
    num_refused = 0
    for attempt in range(200):
        damaged = bytearray(data)
        low, high = (0, 2500) if attempt % 2 else (data.index(b"mdat") + 4, len(data))
        for position in random.integers(low, high, 5):
            damaged[position] = random.integers(256)
        try:
            probe(io.BytesIO(bytes(damaged)))
            read_clip(io.BytesIO(bytes(damaged)))
        except MediaError:
            num_refused += 1
    assert num_refused > 50


def test_windows_outside_the_recording() -> None:
    data = encode_clip(np.stack([grey(8 * k + 40) for k in range(16)]), 8.0, tone(440, 2.0, 16000), 16000)
    assert read_clip(io.BytesIO(data), SHAPE).frames is not None
    with pytest.raises(MediaError, match=r"2\.000 s long"):
        read_clip(io.BytesIO(data), SHAPE, start_s=0.5)
    with pytest.raises(MediaError):
        read_clip(io.BytesIO(data), start_s=3.0)
    with pytest.raises(ValueError, match="start_s >= 0"):
        read_clip(io.BytesIO(data), start_s=-1.0)
    with pytest.raises(ValueError, match="one of the two"):
        read_clip(io.BytesIO(data), SHAPE, duration_s=1.0)
