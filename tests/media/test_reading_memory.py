"""Peak memory of reading and scoring, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from avpref.media.geometry import BoundedSize
from avpref.media.reading import read_clip
from avpref.models.imagebind.imagebind_towers import SIDE
from avpref.rewards.frames import square_frames
from avpref.rewards.picture_needs import KEPT_BYTES, LARGEST_AREA_PX, LARGEST_SIDE_PX, SCORED_SIZE
from avpref.rewards.signals import signals
from avpref.rewards.synchformer import synchformer_towers
from avpref.rewards.videoalign.videoalign_frames import FrameRules

MIB = 1 << 20
MOST_MIB = 600
HERE = Path(__file__).parent


def write_moving(path: Path, height: int, width: int, fps: int, duration_s: float) -> None:
    """A recording in which a square moves over a gradient, with noise as sound."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "30", "g": "60"})
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        assert isinstance(picture, VideoStream) and isinstance(sound, AudioStream)
        picture.width, picture.height, picture.pix_fmt = width, height, "yuv420p"
        luma = np.tile(np.linspace(40, 200, width).astype(np.uint8), (height, 1))
        for index in range(round(fps * duration_s)):
            frame = av.VideoFrame(width, height, "yuv420p")
            moved = luma.copy()
            left = (8 * index) % (width - height // 4)
            moved[height // 4 : height // 2, left : left + height // 4] = 230
            for plane, pixels in zip(frame.planes, (moved, None, None), strict=True):
                rows = np.full((plane.height, plane.line_size), 128, np.uint8)
                if pixels is not None:
                    rows[:, :width] = pixels
                plane.update(rows.tobytes())
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, round(16_000 * duration_s))).astype(np.float32)
        audio = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
        audio.sample_rate, audio.pts, audio.time_base = 16_000, 0, Fraction(1, 16_000)
        container.mux(sound.encode(audio))
        container.mux(sound.encode(None))


def peak_mib(*arguments: str | Path | float) -> float:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux: the peak of resident memory is read from /proc")
    script = HERE.parent / "fixtures" / "peak_memory.py"
    done = subprocess.run([sys.executable, script, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / MIB


def test_the_kept_size_is_the_largest_that_a_scorer_asks_for() -> None:
    assert FrameRules().max_pixels == LARGEST_AREA_PX
    assert max(SIDE, synchformer_towers.FULL.image_px, signals.LARGEST_SIDE_PX) == LARGEST_SIDE_PX
    assert BoundedSize(KEPT_BYTES, LARGEST_AREA_PX, LARGEST_SIDE_PX) == SCORED_SIZE


@pytest.mark.parametrize(
    ("size", "num_pictures", "kept"),
    [
        ((720, 1280), 97, (720, 1280)),
        ((2160, 3840), 10, (2160, 3840)),
        ((2160, 3840), 304, (336, 598)),
        ((3840, 2160), 304, (598, 336)),
        ((400, 6400), 304, (256, 4096)),
        ((240, 320), 10_000, (240, 320)),
    ],
)
def test_sizes_at_which_pictures_are_kept(size: tuple[int, int], num_pictures: int, kept: tuple[int, int]) -> None:
    filled, cropped = SCORED_SIZE.filled(*size, num_pictures)
    assert filled == cropped == kept


def test_a_reduced_picture_gives_nearly_the_scorers_input(tmp_path: Path) -> None:
    path = tmp_path / "large.mp4"
    write_moving(path, 720, 1280, 25, 0.4)
    own = read_clip(path).frames
    reduced = read_clip(path, size=BoundedSize(1, LARGEST_AREA_PX, LARGEST_SIDE_PX)).frames
    assert own is not None and reduced is not None and reduced.shape == (10, 336, 598, 3)
    indices = np.arange(10)
    exact, nearly = (square_frames(frames, indices, 224).numpy().astype(int) for frames in (own, reduced))
    assert np.abs(exact - nearly).mean() < 2.0


def test_memory_does_not_depend_on_the_length_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    write_moving(path, 720, 1280, 30, 12.0)
    short = peak_mib("read", path, 0.0, 1.0)
    late = peak_mib("read", path, 10.5, 1.0)
    assert late < short + 30 and late < 30 * 720 * 1280 * 3 / MIB + 80


@pytest.fixture(scope="module")
def uhd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("uhd") / "uhd.mp4"
    write_moving(path, 2160, 3840, 60, 5.2)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("names", ["signal", "audiobox imagebind synchformer videoalign javis_score"])
def test_memory_of_scoring_4k_at_60_hz(uhd: Path, names: str) -> None:
    assert peak_mib("score", uhd, *names.split()) < MOST_MIB
