"""Windows into recordings of many containers and codecs begin with the picture that is shown then, and with the right sound.

The pictures show their numbers and the sound beeps at whole seconds (tests/fixtures/timed_clips.py). A few files are read in the
default run, every combination in the slow one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import av
import numpy as np
import pytest
from timed_clips import HEIGHT_PX, WIDTH_PX, Timing, beep_errors_s, numbers_of, write_timed

from avpref.media.geometry import ClipShape
from avpref.media.reading import read_clip

FPS = 25
SHAPE = ClipShape(15, HEIGHT_PX, WIDTH_PX, float(FPS), 48_000)
STARTS_S = (0.0, 0.06, 0.54, 0.62, 1.5, 2.38, 3.02, 4.22, 4.62, 5.02)
"""Seconds after the first picture: the first picture itself, then the middle of pictures."""
KEY_DISTANCES = (1, 12, 60, 250)
LARGEST_BEEP_ERROR_S = 0.005

REORDERED = {"bf": "2", "b_strategy": "0"}
X265 = {"preset": "ultrafast", "x265-params": "log-level=none:bframes=2:b-adapt=0:open-gop=1"}
ENCODERS: dict[str, tuple[str, Mapping[str, str]]] = {
    "h264": ("libx264", REORDERED),
    "h264-open-gop": ("libx264", REORDERED | {"x264-params": "open-gop=1"}),
    "h264-intra-refresh": ("libx264", {"bf": "0", "x264-params": "intra-refresh=1"}),
    "hevc": ("libx265", X265),
    "mpeg1": ("mpeg1video", {"bf": "2"}),
    "mpeg2": ("mpeg2video", {"bf": "2"}),
    "mpeg4": ("mpeg4", {"bf": "2"}),
    "mjpeg": ("mjpeg", {}),
    "vp8": ("libvpx", {"deadline": "realtime", "cpu-used": "8"}),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    "av1": ("libsvtav1", {"preset": "6", "crf": "10"}),
    "ffv1": ("ffv1", {}),
    "prores": ("prores_ks", {}),
    "wmv2": ("wmv2", {}),
    "msmpeg4": ("msmpeg4", {}),
    "flv1": ("flv", {}),
}
CONTAINERS: dict[str, tuple[str, str, str]] = {
    "mp4": ("mp4", "aac", "h264 h264-open-gop h264-intra-refresh hevc mpeg2 mpeg4 mjpeg vp9 av1"),
    "mov": ("mov", "pcm_s16le", "h264 hevc mpeg2 mpeg4 mjpeg prores"),
    "mkv": ("matroska", "flac", "h264 h264-open-gop hevc mpeg1 mpeg2 mpeg4 mjpeg vp8 vp9 av1 ffv1 prores msmpeg4"),
    "webm": ("webm", "libopus", "vp8 vp9 av1"),
    "avi": ("avi", "pcm_s16le", "h264 mpeg2 mpeg4 mjpeg vp8 ffv1 wmv2 msmpeg4 flv1"),
    "ts": ("mpegts", "aac", "h264 h264-open-gop h264-intra-refresh hevc mpeg1 mpeg2 mpeg4"),
    "mpg": ("mpeg", "mp2", "h264 hevc mpeg1 mpeg2 mpeg4"),
    "vob": ("vob", "ac3", "mpeg1 mpeg2"),
    "flv": ("flv", "aac", "h264 hevc vp9 av1 flv1"),
    "wmv": ("asf", "wmav2", "wmv2 msmpeg4 h264 mpeg4 mjpeg"),
    "ogv": ("ogg", "flac", "vp8"),
    "nut": ("nut", "pcm_s16le", "h264 hevc mpeg2 mpeg4 mjpeg vp8 vp9 ffv1 wmv2"),
    "mxf": ("mxf", "pcm_s16le", "h264 prores"),
}
EVERY = [(container, codec) for container, (_, _, codecs) in CONTAINERS.items() for codec in codecs.split()]
UNWRITABLE = [("mxf", "h264", 250)]
"""FFmpeg's writer refuses these."""
FEW = [("ts", "h264", 60), ("mpg", "mpeg2", 12), ("mp4", "h264-open-gop", 60), ("avi", "h264", 12), ("wmv", "wmv2", 12)]
FEW += [("mkv", "vp8", 250), ("flv", "h264", 12), ("webm", "vp9", 60)]
PIXEL_FORMATS = {"mjpeg": "yuvj420p", "prores": "yuv422p10le"}
WITHOUT_PRESENTATION_TIMES = ("avi", "mxf", "wmv")
"""Containers that store only the order of decoding; a picture is shown up to the decoder's delay later."""


def write_combination(path: Path, container: str, codec: str, key_distance: int) -> None:
    container_format, sound_codec, _ = CONTAINERS[container]
    encoder, options = ENCODERS[codec]
    if key_distance == 1:
        options = {name: value for name, value in options.items() if name not in ("bf", "b_strategy", "x264-params")}
        options |= {"x265-params": "log-level=none:bframes=0"} if codec == "hevc" else {}
    if codec in ("mpeg1", "mpeg2", "mpeg4", "wmv2", "msmpeg4", "flv1"):
        options = dict(options) | {"sc_threshold": "1000000000"}
    timing = Timing(
        key_distance=key_distance,
        sound_codec=sound_codec,
        options=options,
        bit_rate=0 if codec == "av1" else 2_000_000,
        pixel_format=PIXEL_FORMATS.get(codec, "yuv420p"),
    )
    write_timed(path, container_format, encoder, timing)


def first_picture_s(path: Path) -> float:
    """Where the first picture is on the recording's timeline, by the headers."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        begin_s = max(0.0, (container.start_time or 0) / av.time_base)
        assert stream.time_base is not None
        return float((stream.start_time or 0) * stream.time_base) - begin_s


def require_right_windows(path: Path, first_s: float, delays: Iterable[int]) -> None:
    """Every window has the pictures and sounds of its time; ``delays`` are the numbers of pictures that all windows may be late."""
    possible, errors = set(delays), list[float]()
    for start_s in STARTS_S if len(possible) == 1 else (0.02, *STARTS_S[1:]):
        clip = read_clip(path, SHAPE, start_s=first_s + start_s)
        assert clip.frames is not None
        shown = numbers_of(clip.frames)
        possible = {delay for delay in possible if shown == expected_numbers(start_s, delay)}
        assert possible, f"{path.name} from {start_s} s: {shown}"
        if clip.audio is not None:
            errors += beep_errors_s(clip.audio, clip.sample_rate_hz, start_s)
    late_s = float(np.median(errors)) if min(possible) > 0 else 0.0
    assert errors and max(np.abs(np.subtract(errors, late_s))) <= LARGEST_BEEP_ERROR_S, f"{path.name}: {errors}"


def expected_numbers(start_s: float, delay: int) -> list[int]:
    return [max(0, int(np.floor((start_s + 0.001) * FPS)) + index - delay) for index in range(SHAPE.num_frames)]


def check(path: Path, container: str, codec: str, key_distance: int) -> None:
    write_combination(path, container, codec, key_distance)
    delays = range(4) if container in WITHOUT_PRESENTATION_TIMES else range(1)
    require_right_windows(path, first_picture_s(path), delays)


@pytest.mark.parametrize(("container", "codec", "key_distance"), FEW)
def test_windows_of_some_recordings(tmp_path: Path, container: str, codec: str, key_distance: int) -> None:
    check(tmp_path / f"timed.{container}", container, codec, key_distance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("container", "codec", "key_distance"),
    [(*pair, distance) for pair in EVERY for distance in KEY_DISTANCES if (*pair, distance) not in UNWRITABLE],
)
def test_windows_of_every_recording(tmp_path: Path, container: str, codec: str, key_distance: int) -> None:
    check(tmp_path / f"timed.{container}", container, codec, key_distance)
