"""On real clips and their corruptions the columns move the right way, the further the worse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from avpref.bench.bench_run import run_benchmark
from avpref.config.schema import BenchJobSettings
from avpref.flows.bench.bench_job_sources import BenchChoice, bench_job
from avpref.media.reading import DecodedClip, read_clip
from avpref.media.writing import encode_clip

pytestmark = pytest.mark.slow
RECORDINGS, WINDOWS, SECONDS = ("dog.mp4", "tennis.mp4"), 4, 2.5
Edit = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def windows(media: Path) -> list[DecodedClip]:
    clips = []
    for name in RECORDINGS:
        for number in range(WINDOWS):
            clip = read_clip(media / name, start_s=0.4 * number, duration_s=SECONDS)
            assert clip.frames is not None
            small = np.stack([cv2.resize(frame, (160, 96), interpolation=cv2.INTER_AREA) for frame in clip.frames])
            clips.append(DecodedClip(small.astype(np.uint8), clip.fps_hz, clip.audio, clip.sample_rate_hz, SECONDS))
    return clips


def degraded(strength: float) -> Edit:
    """Noise in picture and sound."""

    def edit(frames: np.ndarray, sound: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(number)
        noisy = frames + 90 * strength * random.standard_normal(frames.shape)
        level = 2 * float(np.sqrt(np.mean(sound**2)))
        return noisy.clip(0, 255).astype(np.uint8), (
            sound + strength * level * random.standard_normal(len(sound))
        ).astype(np.float32)

    return edit


def late(seconds: float) -> Edit:
    """Sound that comes late, with silence before it."""

    def edit(frames: np.ndarray, sound: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        shift = int(seconds * len(sound) / SECONDS)
        return frames, np.concatenate([np.zeros(shift, np.float32), sound[: len(sound) - shift]])

    return edit


def write(folder: Path, clips: list[DecodedClip], edit: Edit) -> Path:
    folder.mkdir(parents=True)
    for number, clip in enumerate(clips):
        assert clip.frames is not None and clip.audio is not None
        frames, sound = edit(clip.frames, clip.audio, number)
        (folder / f"sample_{number:04d}.mp4").write_bytes(encode_clip(frames, clip.fps_hz, sound, clip.sample_rate_hz))
    return folder


def values(folder: Path, real: Path, preset: str, columns: tuple[str, ...]) -> dict[str, float]:
    choice = BenchChoice(preset, folder, real, columns=columns, is_tiny=True)
    document = run_benchmark(bench_job(choice, BenchJobSettings()), folder.parent / "bench").document
    return {name: column["value"] for name, column in document["columns"].items()}


@pytest.mark.parametrize(
    ("preset", "columns", "is_distance"),
    [
        ("t2av", ("fvd", "fad_audioclip", "fad_vggish", "fd_panns", "fd_passt", "kl_panns", "kl_passt"), True),
        ("t2av", ("signal_video", "signal_audio"), False),
    ],
)
def test_noise_makes_every_column_worse(
    media: Path, tmp_path: Path, preset: str, columns: tuple[str, ...], is_distance: bool
) -> None:
    clips = windows(media)
    real = write(tmp_path / "real", clips, degraded(0.0))
    rows = [
        values(write(tmp_path / f"noise{strength}", clips, degraded(strength)), real, preset, columns)
        for strength in (0.05, 0.3, 1.0)
    ]
    for column in columns:
        weak, middle, strong = (row[column] for row in rows)
        assert (weak < middle < strong) if is_distance else (weak > middle > strong), (column, weak, middle, strong)
    if is_distance:
        same = values(real, real, preset, columns)
        # equal sets leave what rounding leaves of a matrix square root of few clips in many dimensions
        assert {c: (same[c], rows[-1][c]) for c in columns if abs(same[c]) >= 0.25 * rows[-1][c]} == {}


def test_late_sound_lowers_synchrony(media: Path, tmp_path: Path) -> None:
    clips = windows(media)
    rows = [
        values(write(tmp_path / f"late{step}", clips, late(step)), tmp_path / "late0.0", "signals", ("sync", "lag"))
        for step in (0.0, 0.3, 0.8)
    ]
    assert rows[0]["sync"] > rows[1]["sync"] and rows[0]["sync"] > rows[2]["sync"]
    assert rows[0]["lag"] < rows[1]["lag"]
