"""The worker of the detector ``transnetv2``: the probability of a transition after each frame of a source."""

from __future__ import annotations

import time
from dataclasses import dataclass

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from avpref.config.pool.pool_settings import BucketAccess
from avpref.datasets.rows import QuarantineRow
from avpref.errors import MediaError
from avpref.execution.contract import Receipt
from avpref.media.containers import MediaSource, opened
from avpref.media.frame_times import length_s
from avpref.media.geometry import FilledSize
from avpref.media.picture.picture_tracks import best_video, fps_hz
from avpref.media.picture.shown_frames import FramePicker, PictureConverter
from avpref.media.reading_rules import ReadingRules
from avpref.media.window_decoding import Attempt, Collectors, decode_window
from avpref.pool.pool_tables import TransitionRow
from avpref.pool.scan.pool_source import PoolSource, opened_source
from avpref.rewards.learned.shot_cuts import HEIGHT_PX, STEP, WIDTH_PX, ShotCutsScorer
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles

CHUNK = 100 * STEP
"""Frames that the network sees at a time, besides :data:`STEP` on either side."""


@dataclass(frozen=True)
class TransitionSpec:
    """Builds workers that hold the network. Raises InputError where its package is absent."""

    files: UnitFiles
    bucket: BucketAccess
    rules: ReadingRules

    def build(self) -> TransitionWorker:
        """Load the network."""
        return TransitionWorker(self, ShotCutsScorer())


@dataclass(frozen=True)
class TransitionWorker:
    """Judges units of sources."""

    spec: TransitionSpec
    network: ShotCutsScorer

    def run(self, unit: Unit[PoolSource]) -> Receipt:
        """Commit a row per source of ``unit``; a source that cannot be decoded is quarantined."""
        started = time.perf_counter()
        rows: list[TransitionRow] = []
        lost: list[QuarantineRow] = []
        for source in unit.items:
            try:
                with opened_source(source, self.spec.bucket) as media:
                    frames = small_frames(media, self.spec.rules)
            except MediaError as error:
                lost.append(QuarantineRow(source.item_id, unit.stage, "MediaError", str(error), 1))
                continue
            rows.append(TransitionRow(source.item_id, probabilities(self.network, frames).tolist()))
        self.spec.files.commit(unit, rows, lost)
        return Receipt(len(rows), len(lost), time.perf_counter() - started)


def probabilities(network: ShotCutsScorer, frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The probability of a transition after each of ``frames`` [T, 27, 48, 3], judged in chunks: [T]."""
    parts = []
    for start in range(0, len(frames), CHUNK):
        low = max(0, start - STEP)
        judged = network.probabilities(frames[low : start + CHUNK + STEP])
        parts.append(judged[start - low :][: min(CHUNK, len(frames) - start)])
    return np.concatenate([np.zeros(0), *parts]).astype(np.float64)


class _SmallFrames(FramePicker):
    """Keeps every decoded frame in the size of the network."""

    def __init__(self, stream: VideoStream, rules: ReadingRules) -> None:
        converter = PictureConverter(stream, _NetworkSize(HEIGHT_PX, WIDTH_PX), 1, rules)
        super().__init__(stream, (), converter, 1.0 / fps_hz(stream))
        self.kept: list[NDArray[np.uint8]] = []

    @property
    def is_done(self) -> bool:
        """False: the whole recording is judged."""
        return False

    def offer(self, time_s: float, frame: av.VideoFrame) -> None:
        """Keep the next frame."""
        self.kept.append(self._converter.shown(frame).copy())
        self.num_picked += 1
        self.end_s = time_s + length_s(frame, self.slack_s)

    def finish(self) -> None:
        """End of the stream."""
        self.has_run_out = True


class _NetworkSize(FilledSize):
    """A size to which pictures are squeezed, whatever their shape."""

    def filled(self, height_px: int, width_px: int, num_pictures: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """See :class:`avpref.media.geometry.PictureSize`."""
        return (self.height_px, self.width_px), (self.height_px, self.width_px)


def small_frames(media: MediaSource, rules: ReadingRules) -> NDArray[np.uint8]:
    """All frames of a recording in the network's size, [T, 27, 48, 3]. Raises MediaError."""
    for attempt in (Attempt.FROM_START, Attempt.FROM_START_IN_DECODING_ORDER):
        with opened(media) as container:
            frames = _decode(container, rules, attempt)
        if frames is not None:
            return frames
    raise AssertionError("times in the order of decoding cannot run backwards")


def _decode(container: InputContainer, rules: ReadingRules, attempt: Attempt) -> NDArray[np.uint8] | None:
    video = best_video(container)
    if video is None:
        raise MediaError(f"{container.name}: no picture", "a recording with a picture", "remove its row")
    stream = video
    collectors = decode_window(container, 0.0, lambda: Collectors(_SmallFrames(stream, rules), None), attempt)
    if collectors is None:
        return None
    assert isinstance(collectors.picture, _SmallFrames)
    return np.stack(collectors.picture.kept)
