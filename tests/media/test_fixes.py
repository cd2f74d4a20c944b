"""Suggested commands do what they say: the same copy or encoding is made here by ffmpeg where it is, else with its libraries."""

from __future__ import annotations

import io
import shlex
import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import odd_recordings as odd
import pytest

from avpref.media.fixes import copy_suffix, remux_command, transcode_command
from avpref.media.reading import probe, read_clip

FILES = {
    "h264.mov": (("libx264", "aac"), ".mp4"),
    "h264pcm.mov": (("libx264", "pcm_s16le"), ".mkv"),
    "vp8.webm": (("libvpx", "libopus"), ".webm"),
    "vp9.mkv": (("libvpx-vp9", "libopus"), ".webm"),
    "vp8aac.mkv": (("libvpx", "aac"), ".mkv"),
    "old.wmv": (("wmv2", "wmav2"), ".mkv"),
    "disc.mpg": (("mpeg2video", "mp2"), ".mkv"),
    "cut.ts": (("libx264", "mp2"), ".mkv"),
    "old.avi": (("mpeg4", "mp3"), ".mp4"),
    "flash.flv": (("flv", "aac"), ".mkv"),
    "camera.dv.nut": (("ffv1", "flac"), ".mkv"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def made(folder: Path, name: str) -> Path:
    path = folder / name
    codecs = FILES[name][0]
    encoders = [av.codec.Codec(codec, "w") if codec in av.codecs_available else None for codec in codecs]
    if None in encoders:
        pytest.skip(f"this build of FFmpeg has no encoder {' or '.join(codecs)}")
    return odd.write(path, odd.moving(16, side=64), odd.noise(2.0), codecs=codecs)


def run(command: str, source: Path) -> Path:
    """Do what ``command`` says: by ffmpeg if there is one, else with PyAV. Returns the copy."""
    words = shlex.split(command)
    assert words[0] == "ffmpeg" and words[words.index("-i") + 1] == str(source)
    target = Path(words[-1])
    if shutil.which("ffmpeg"):
        subprocess.run([*words[:1], "-y", *words[1:]], check=True, capture_output=True)
        return target
    maps = [words[place + 1] for place, word in enumerate(words) if word == "-map"]
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        streams = [*(old.streams.video if "0:V" in maps else ()), *(old.streams.audio if "0:a" in maps else ())]
        if "copy" in words:
            try:
                copies = {stream.index: new.add_stream_from_template(stream) for stream in streams}
            except ValueError as error:  # PyAV has a shorter list of what a container holds than ffmpeg
                pytest.skip(f"only ffmpeg can make this copy: {error}")
            for packet in old.demux(streams):
                if packet.dts is not None:
                    packet.stream = copies[packet.stream.index]
                    new.mux(packet)
        else:
            _encode(old, new, words)
    return target


def _encode(old: av.container.InputContainer, new: av.container.OutputContainer, words: list[str]) -> None:
    names = {kind: words[words.index(f"-c:{kind}") + 1] for kind in "va"}
    picture = new.add_stream(names["v"], rate=old.streams.video[0].average_rate)
    sound = new.add_stream(names["a"], rate=old.streams.audio[0].rate)
    assert isinstance(picture, av.VideoStream) and isinstance(sound, av.AudioStream)
    picture.width, picture.height, picture.pix_fmt = 64, 64, words[words.index("-pix_fmt") + 1]
    for frame in old.decode(old.streams.video[0], old.streams.audio[0]):
        if isinstance(frame, av.VideoFrame):
            frame.pts = None
            new.mux(picture.encode(frame))
        elif isinstance(frame, av.AudioFrame):
            frame.pts = None
            new.mux(sound.encode(frame))
    new.mux(picture.encode(None))
    new.mux(sound.encode(None))


@pytest.mark.parametrize("name", FILES)
def test_the_copy_is_in_a_container_that_holds_its_codecs(folder: Path, name: str) -> None:
    source = made(folder, name)
    with av.open(str(source)) as container:
        command = remux_command(container)
    copy = run(command, source)
    assert copy.suffix == FILES[name][1] and copy.parent == folder
    old, new = probe(source), probe(copy)
    assert old.video is not None and new.video is not None and old.audio is not None and new.audio is not None
    assert (new.video.codec, new.audio.codec) == (old.video.codec, old.audio.codec)
    assert new.duration_s == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("name", ["vp8.webm", "disc.mpg", "h264.mov"])
def test_an_encoded_copy_is_h264_and_aac(folder: Path, name: str) -> None:
    source = made(folder, name)
    with av.open(str(source)) as container:
        command = transcode_command(container)
    copy = probe(run(command, source))
    assert copy.video is not None and copy.audio is not None
    assert (copy.video.codec, copy.audio.codec) == ("h264", "aac")


def test_names_are_quoted_and_times_are_made(folder: Path, tmp_path: Path) -> None:
    source = made(folder, "vp8.webm").rename(tmp_path / "it's a clip.webm")
    with av.open(str(source)) as container:
        command = remux_command(container)
    words = shlex.split(command)
    assert words[:5] == ["ffmpeg", "-fflags", "+genpts", "-i", str(source)]
    assert words[-1] == str(tmp_path / "it's a clip-fixed.webm")
    assert copy_suffix(["h264", "unknown"]) == ".mkv"


@pytest.mark.parametrize(
    ("name", "codecs", "options"),
    [
        ("live.webm", ("libvpx", "libopus"), {"live": "1"}),
        ("live.mkv", ("libx264", "aac"), {"live": "1"}),
        ("live.flv", ("flv", "aac"), {"flvflags": "no_duration_filesize"}),
    ],
)
@pytest.mark.parametrize("in_memory", [False, True])
def test_a_live_recording_without_a_duration_is_read(
    tmp_path: Path, name: str, codecs: tuple[str, str], options: dict[str, str], in_memory: bool
) -> None:
    frames, sound = odd.moving(34, side=64), odd.noise(4.25)
    path = odd.write(tmp_path / name, frames, sound, codecs=codecs, options=options)

    def source() -> io.BytesIO | Path:
        return io.BytesIO(path.read_bytes()) if in_memory else path

    info = probe(source())
    assert info.duration_s == pytest.approx(4.25, abs=0.15)
    assert info.audio is not None and info.audio.duration_s == pytest.approx(4.25, abs=0.15)
    for start_s in (0.1, 2.1):
        clip = read_clip(source(), start_s=start_s, duration_s=2.0)
        assert clip.frames is not None and clip.audio is not None and clip.sound_share > 0.95
        expected = frames[int(start_s * odd.FPS_HZ) :][: len(clip.frames)]
        assert np.abs(_lefts(clip.frames) - _lefts(expected)).max() <= 1


def _lefts(frames: np.ndarray) -> np.ndarray:
    """Left side in pixels of the bright square of each frame; it moves by three pixels a frame."""
    columns = frames[:, 8:16].mean(axis=(1, 3))
    return np.array([int(np.convolve(row, np.ones(8), "valid").argmax()) for row in columns])


def test_an_encoding_with_a_filter_names_the_file_and_makes_even_sizes(folder: Path) -> None:
    source = made(folder, "h264.mov")
    with av.open(str(source)) as container:
        words = shlex.split(transcode_command(container, "setsar=1"))
    assert words[words.index("-i") + 1] == str(source)
    assert words[words.index("-vf") + 1] == "setsar=1,crop=trunc(iw/2)*2:trunc(ih/2)*2"
