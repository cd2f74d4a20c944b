"""Shots of a recording: consecutive pieces without a hard cut inside, decoded in one pass. PyAV and numpy only.

A cut is a frame that differs from the one before by much more than that one differs from its own predecessor, so steady motion is
none. Dissolves and fades are not found; the scorer ``shot_cuts`` counts them as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from avpref.errors import MediaError
from avpref.media.geometry import ClipShape
from avpref.media.reading import MediaInfo, probe, read_clip

PICTURE_PX = (64, 36)
"""Width and height at which frames are compared."""
CUT_LEVELS = 20.0
"""Change, in levels of 255, from which a frame begins another shot."""
CHUNK_S = 20.0
"""Seconds that are decoded at a time."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A piece of shot number ``shot``, which starts at ``start_s`` seconds of the recording.

    ``frames`` is uint8 [T, H, W, 3] RGB and ``audio`` float32 [S], mono.
    """

    shot: int
    start_s: float
    frames: np.ndarray
    fps_hz: float
    audio: np.ndarray
    sample_rate_hz: int


@dataclass(frozen=True)
class Stretch:
    """The part of a recording from ``start_s`` to ``end_s`` seconds; None: to its end."""

    start_s: float = 0.0
    end_s: float | None = None


@dataclass
class CutDetector:
    """Finds hard cuts in a sequence of frames, one frame at a time."""

    _before: np.ndarray | None = None
    _change: float = 0.0

    def begins_shot(self, frame: np.ndarray) -> bool:
        """Whether RGB ``frame`` [H, W, 3] begins another shot than the frame before; the first frame does not.

        The measure is the mean absolute difference of two consecutive frames, or by how much it exceeds the difference before it,
        whichever is smaller (as in FFmpeg's filter ``scene``), against :data:`CUT_LEVELS`.
        """
        small = cv2.resize(frame, PICTURE_PX, interpolation=cv2.INTER_AREA).astype(np.int16)
        change = 0.0 if self._before is None else float(np.mean(np.abs(small - self._before)))
        is_cut = min(change, abs(change - self._change)) >= CUT_LEVELS
        self._before, self._change = small, change
        return is_cut


def pieces(path: Path, stretch: Stretch, height_px: int, max_piece_s: float) -> Iterator[Piece]:
    """Cut a stretch of the recording at ``path`` at its hard cuts; pieces are in order and cover the stretch.

    Pictures are resized to ``height_px`` (even) with their aspect ratio; frame rate and sample rate are the recording's, sound is
    mono. A shot longer than ``max_piece_s`` becomes several pieces of one shot. Raises MediaError where the recording cannot be
    decoded, has no picture or no sound, or ends before the stretch begins.
    """
    info = probe(path)
    shape = _chunk_shape(path, info, height_px)
    shots = _Shots(shape, max(2, round(max_piece_s * shape.fps_hz)), first_frame=round(stretch.start_s * shape.fps_hz))
    end_s = _common_s(info) if stretch.end_s is None else min(stretch.end_s, _common_s(info))
    end_frame = int(end_s * shape.fps_hz)
    if end_frame <= shots.first_frame:
        found = f"{path.name}: {end_s:.3f} s of picture and sound"
        raise MediaError(found, f"more than {stretch.start_s:.3f} s", "begin the stretch earlier: --from-s 0")
    for first in range(shots.first_frame, end_frame, shape.num_frames):
        chunk_shape = replace(shape, num_frames=min(shape.num_frames, end_frame - first))
        chunk = read_clip(path, chunk_shape, start_s=first / shape.fps_hz)
        assert chunk.frames is not None and chunk.audio is not None
        yield from shots.add(chunk.frames, chunk.audio)
    yield from shots.finish()


@dataclass
class _Shots:
    """Collects frames and sound, and gives a piece at each cut and wherever a piece is full."""

    shape: ClipShape
    max_frames: int
    detector: CutDetector = field(default_factory=CutDetector)
    frames: list[np.ndarray] = field(default_factory=list)
    sound: list[np.ndarray] = field(default_factory=list)
    shot: int = 0
    first_frame: int = 0

    def add(self, frames: Sequence[np.ndarray] | np.ndarray, audio: np.ndarray) -> Iterator[Piece]:
        """Take a chunk: frames [T, H, W, 3] and their sound [S]; gives the pieces that end in it."""
        self.sound.append(audio)
        for frame in frames:
            is_cut = self.detector.begins_shot(frame)
            if self.frames and (is_cut or len(self.frames) == self.max_frames):
                yield self._piece()
            self.shot += is_cut
            self.frames.append(frame.copy())

    def finish(self) -> Iterator[Piece]:
        """End of the recording: the last piece."""
        if self.frames:
            yield self._piece()

    def _piece(self) -> Piece:
        frames, sound = np.stack(self.frames), np.concatenate(self.sound)
        end = round((self.first_frame + len(frames)) / self.shape.fps_hz * self.shape.sample_rate_hz)
        start = round(self.first_frame / self.shape.fps_hz * self.shape.sample_rate_hz)
        start_s, rate_hz = self.first_frame / self.shape.fps_hz, self.shape.sample_rate_hz
        piece = Piece(self.shot, start_s, frames, self.shape.fps_hz, sound[: end - start], rate_hz)
        self.first_frame, self.frames, self.sound = self.first_frame + len(frames), [], [sound[end - start :]]
        return piece


def _chunk_shape(path: Path, info: MediaInfo, height_px: int) -> ClipShape:
    """Shape of a chunk of at most :data:`CHUNK_S` seconds. Raises MediaError for a recording that lacks a track."""
    if info.video is None or info.audio is None:
        absent = "picture" if info.video is None else "sound"
        raise MediaError(f"{path.name}: no {absent}", "a recording with picture and sound", "choose another recording")
    width_px = 2 * max(1, round(height_px * info.video.width_px / info.video.height_px / 2))
    num_frames = max(1, round(CHUNK_S * info.video.fps_hz))
    return ClipShape(num_frames, height_px, width_px, info.video.fps_hz, info.audio.sample_rate_hz)


def _common_s(info: MediaInfo) -> float:
    """Seconds until the first of both tracks ends."""
    assert info.audio is not None
    return min(info.duration_s, info.audio.duration_s)
