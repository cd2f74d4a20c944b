"""A recording is cut at its hard cuts: exact frames, sound that goes with them, long shots in pieces, motion that is no cut."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from present import present

from avpref.errors import MediaError
from avpref.media import shots
from avpref.media.reading import read_clip
from avpref.media.shots import CutDetector, Stretch, pieces
from avpref.media.writing import encode_clip

FPS_HZ, RATE_HZ = 16.0, 16000


def scene(seed: int, num_frames: int) -> np.ndarray:
    """A coarse texture that drifts: uint8 [T, 36, 64, 3]."""
    texture = np.random.default_rng(seed).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    picture = np.kron(texture, np.ones((6, 8, 1), np.uint8))
    return np.stack([np.roll(picture, index // 2, axis=1) for index in range(num_frames)])


def recording(path: Path, lengths: Sequence[int]) -> Path:
    """Scenes of ``lengths`` frames one after the other, over a rising tone."""
    frames = np.concatenate([scene(seed, length) for seed, length in enumerate(lengths)])
    times_s = np.arange(round(len(frames) / FPS_HZ * RATE_HZ)) / RATE_HZ
    audio = (0.5 * np.sin(2 * np.pi * (200 * times_s + 40 * times_s**2))).astype(np.float32)
    path.write_bytes(encode_clip(frames, FPS_HZ, audio, RATE_HZ))
    return path


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return recording(tmp_path / "film.mp4", [20, 37, 5, 30])


@pytest.mark.parametrize("chunk_s", [20.0, 1.0, 0.4])
def test_pieces_begin_at_the_cuts_whatever_the_chunks(
    film: Path, chunk_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shots, "CHUNK_S", chunk_s)
    found = list(pieces(film, Stretch(), 36, 20.0))
    assert [(piece.shot, round(piece.start_s * FPS_HZ), len(piece.frames)) for piece in found] == [
        (0, 0, 20),
        (1, 20, 37),
        (2, 57, 5),
        (3, 62, 30),
    ]
    assert all(piece.frames.shape[1:] == (36, 64, 3) and piece.fps_hz == FPS_HZ for piece in found)


def test_pieces_hold_the_sound_of_their_frames(film: Path) -> None:
    found = list(pieces(film, Stretch(), 36, 20.0))
    whole = present(read_clip(film).audio)
    assert all(len(piece.audio) == pytest.approx(len(piece.frames) / FPS_HZ * RATE_HZ, abs=1) for piece in found)
    np.testing.assert_allclose(np.concatenate([piece.audio for piece in found]), whole, atol=1e-4)


def test_long_shots_become_pieces_of_one_shot(film: Path) -> None:
    found = list(pieces(film, Stretch(), 36, 1.0))
    assert [(piece.shot, len(piece.frames)) for piece in found] == [
        (0, 16), (0, 4), (1, 16), (1, 16), (1, 5), (2, 5), (3, 16), (3, 14),
    ]  # fmt: skip


def test_a_stretch_is_cut_alone(film: Path) -> None:
    found = list(pieces(film, Stretch(1.0, 4.0), 36, 20.0))
    assert [(piece.shot, piece.start_s, len(piece.frames)) for piece in found] == [
        (0, 1.0, 4),
        (1, 1.25, 37),
        (2, 57 / FPS_HZ, 5),
        (3, 62 / FPS_HZ, 2),
    ]
    with pytest.raises(MediaError, match="of picture and sound"):
        list(pieces(film, Stretch(99.0), 36, 20.0))


def test_fast_steady_motion_is_no_cut() -> None:
    detector = CutDetector()
    texture = np.random.default_rng(0).integers(0, 255, (36, 64, 3)).astype(np.uint8)
    assert [detector.begins_shot(np.roll(texture, 9 * index, axis=1)) for index in range(1)] == [False]
    later = [detector.begins_shot(np.roll(texture, 9 * index, axis=1)) for index in range(1, 12)]
    assert not any(later[1:])


def test_a_recording_without_sound_is_refused(tmp_path: Path) -> None:
    import av

    path = tmp_path / "mute.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 36, "yuv420p"
        for frame in scene(0, 20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError, match="no sound"):
        list(pieces(path, Stretch(), 36, 20.0))
