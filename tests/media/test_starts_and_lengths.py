"""Recordings that begin at other times than zero, whose header's length is no length, or of which a part is absent."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from timed_clips import HEIGHT_PX, WIDTH_PX, Timing, beep_errors_s, numbers_of, write_timed

from avpref.media.geometry import ClipShape
from avpref.media.reading import DecodedClip, probe, read_clip

FPS = 25
SHAPE = ClipShape(15, HEIGHT_PX, WIDTH_PX, float(FPS), 48_000)
CLOCK_S = Fraction(2**33, 90_000)
"""Length of the clock of MPEG streams, after which it begins again at zero."""
FILES = {
    "ts": ("mpegts", "mpeg2video", "mp2"),
    "mpg": ("mpeg", "mpeg2video", "mp2"),
    "flv": ("flv", "flv", "pcm_s16le"),
    "wmv": ("asf", "wmv2", "wmav2"),
    "mxf": ("mxf", "mpeg2video", "pcm_s16le"),
    "mkv": ("matroska", "mpeg4", "pcm_s16le"),
}


def write(path: Path, timing: Timing) -> None:
    container_format, codec, _ = FILES[path.suffix[1:]]
    write_timed(path, container_format, codec, timing)


def timing_of(suffix: str, start_s: Fraction = Fraction(0)) -> Timing:
    sound_hz = 44_100 if suffix == "flv" else 48_000
    return Timing(start_s=start_s, sound_codec=FILES[suffix][2], sound_hz=sound_hz)


def first_number_s(clip: DecodedClip, number: int) -> float:
    """Time in the window at which the picture ``number`` begins, to the length of a picture."""
    assert clip.frames is not None
    return numbers_of(clip.frames).index(number) / clip.fps_hz


@pytest.mark.parametrize(
    ("suffix", "start_s"),
    [
        ("ts", CLOCK_S - 3),
        ("mpg", CLOCK_S - 3),
        ("ts", Fraction(10_000)),
        ("flv", Fraction(10_000)),
        ("flv", Fraction(2)),
        ("wmv", Fraction(0)),
        ("wmv", Fraction(10_000)),
        ("mkv", Fraction(10_000)),
    ],
)
def test_a_start_at_any_time(tmp_path: Path, suffix: str, start_s: Fraction) -> None:
    path = tmp_path / f"clip.{suffix}"
    write(path, timing_of(suffix, start_s))
    whole = read_clip(path)
    assert whole.frames is not None
    assert set(range(148)) <= set(numbers_of(whole.frames))
    assert probe(path).duration_s == pytest.approx(6.0, abs=0.1)
    late_s = first_number_s(whole, 25) - 1.0
    for begin_s in (0.46, 2.5, 3.7, 5.1):
        clip = read_clip(path, SHAPE, start_s=begin_s)
        assert clip.frames is not None and clip.audio is not None
        shown = numbers_of(clip.frames)
        assert np.diff(shown).tolist() == [1] * 14
        assert shown[0] / FPS == pytest.approx(begin_s - late_s, abs=1.01 / FPS)
        errors = beep_errors_s(clip.audio, clip.sample_rate_hz, begin_s)
        assert not errors or max(map(abs, errors)) <= late_s + 0.045


def test_pictures_before_time_zero_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "clip.wmv"
    write(path, timing_of("wmv", Fraction(-1, 10)))
    whole = read_clip(path)
    assert whole.frames is not None
    assert set(range(145)) <= set(numbers_of(whole.frames))


def test_a_picture_a_millisecond_after_its_time_is_in_time(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    ticks = [1 + 40 * number for number in range(150)]
    timing = Timing(ticks=ticks, time_base=Fraction(1, 1000), sound_codec="pcm_s16le")
    write(path, timing)
    whole = read_clip(path)
    assert whole.frames is not None
    assert numbers_of(whole.frames)[:150] == list(range(150))


def test_times_in_milliseconds_keep_the_nominal_rate(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    rate = Fraction(60_000, 1001)
    ticks = [round(number / rate * 1000) for number in range(300)]
    write_timed(path, "mp4", "mpeg4", Timing(num_frames=300, fps=rate, ticks=ticks, time_base=Fraction(1, 1000)))
    clip = read_clip(path)
    assert clip.frames is not None
    assert clip.fps_hz == pytest.approx(float(rate), rel=1e-6)
    assert numbers_of(clip.frames) == list(range(len(clip.frames)))


def test_an_mxf_cut_short_shows_the_pictures_of_the_window(tmp_path: Path) -> None:
    path = tmp_path / "clip.mxf"
    write_timed(path, "mxf", "mpeg2video", Timing(sound_codec="pcm_s16le", options={"bf": "2"}))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    late = numbers_of(read(path, 0.46))[0] - 11
    for begin_s in (1.02, 1.5, 2.02):
        first = int(begin_s * FPS) + late
        assert numbers_of(read(path, begin_s)) == list(range(first, first + 15))


def read(path: Path, start_s: float) -> np.ndarray:
    frames = read_clip(path, SHAPE, start_s=start_s).frames
    assert frames is not None
    return frames


@pytest.mark.parametrize("share", [0.13, 0.2, 0.26, 0.31])
def test_picture_and_sound_of_a_program_stream_without_its_beginning_agree(tmp_path: Path, share: float) -> None:
    path = tmp_path / "clip.mpg"
    write_timed(path, "mpeg", "mpeg2video", Timing(sound_codec="mp2", key_distance=15, options={"bf": "2"}))
    whole = path.read_bytes()
    path.write_bytes(whole[int(len(whole) * share) :])
    clip = read_clip(path, start_s=0.0, duration_s=3.5)
    assert clip.audio is not None
    loud = np.flatnonzero(np.abs(clip.audio) > 0.1) / clip.sample_rate_hz
    beeps_s = loud[np.insert(np.diff(loud) > 0.2, 0, True)]
    at_100_s = first_number_s(clip, 100)
    assert np.abs(beeps_s - at_100_s).min() <= 1.0 / FPS + 0.005
