"""Black, still, letterboxed and marked pictures, motion of codec and flow, on clips of known truth."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from pool_clips import Encoding, plain_video, scene, tune, write_video
from present import present

from avpref.media.reading_rules import DEFAULT_READING
from avpref.pool.measure.clip_window import ClipWindow, DecodedWindow, decode_clip
from avpref.pool.measure.flow_measures import FlowMeasures
from avpref.pool.measure.frame_measures import FACTS_KEY, FrameMeasures, letterbox_share, watermark_share
from avpref.rewards.picture_needs import SCORED_SIZE
from avpref.rewards.protocol import ScorableClip


def decoded(path: Path, start_s: float = 0.0, end_s: float = 3.0, max_bytes: int = 1 << 30) -> DecodedWindow:
    return decode_clip(path, ClipWindow(start_s, end_s, SCORED_SIZE, DEFAULT_READING, max_bytes))


def values(window: DecodedWindow) -> dict[str, float | None]:
    clip = ScorableClip("a", "", window.clip, {FACTS_KEY: window.facts})
    scores = [*FrameMeasures().score([clip])[0], *FlowMeasures().score([clip])[0]]
    return {score.metric: score.value for score in scores}


def test_a_moving_clip_moves_and_a_still_or_black_one_does_not(tmp_path: Path) -> None:
    moving = values(decoded(plain_video(tmp_path / "a.mp4", 1)))
    still = values(decoded(write_video(tmp_path / "b.mp4", scene(1, 1).repeat(75, 0), tune(1, 3.0))))
    half = scene(1, 75)
    half[30:] = 0
    black = values(decoded(write_video(tmp_path / "c.mp4", half, tune(1, 3.0))))
    for name in ("codec_motion", "flow_px"):
        assert present(moving[name]) > 5 * present(still[name])
    assert present(moving["static_share"]) < 0.2 and present(still["static_share"]) > 0.9
    assert black["black_share"] == pytest.approx(45 / 75, abs=0.03) and moving["black_share"] == 0.0
    assert (moving["height_px"], moving["width_px"], moving["fps_hz"]) == (72, 128, 25.0)


def test_bars_are_measured_at_their_size() -> None:
    frames = scene(2, 20)
    frames[:, :9] = frames[:, -9:] = 0
    assert letterbox_share(frames) == pytest.approx(18 / 72, abs=0.02)
    assert letterbox_share(scene(2, 20)) == 0.0 and letterbox_share(np.zeros((3, 72, 128, 3), np.uint8)) == 0.0


def test_a_mark_that_stays_while_the_picture_moves_is_found() -> None:
    clean, marked = scene(3, 60, 180, 320), scene(3, 60, 180, 320)
    for frame in marked:
        cv2.putText(frame, "CHANNEL 5", (200, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 2)
    found, none = watermark_share(marked[::5]), watermark_share(clean[::5])
    assert isinstance(found, float) and isinstance(none, float) and found > 0.005 > none
    assert watermark_share(marked[:1].repeat(12, 0)) == "the picture does not move"


def test_frames_are_left_out_where_memory_is_short_and_none_belongs_to_the_next_clip(tmp_path: Path) -> None:
    path = plain_video(tmp_path / "a.mp4", 1)
    whole, reduced = decoded(path, 0.4, 2.0), decoded(path, 0.4, 2.0, max_bytes=72 * 128 * 3 * 15)
    assert whole.clip.frames is not None and reduced.clip.frames is not None
    assert len(whole.clip.frames) == 40 and whole.clip.fps_hz == 25.0
    assert reduced.clip.fps_hz == pytest.approx(25.0 / 3) and len(reduced.clip.frames) == 14
    assert np.array_equal(whole.clip.frames[::3], reduced.clip.frames)
    assert whole.clip.audio is not None and len(whole.clip.audio) == 25_600


def test_a_codec_without_vectors_gives_a_reason_and_a_turned_picture_its_displayed_size(tmp_path: Path) -> None:
    vp8 = write_video(tmp_path / "a.webm", scene(1, 50), None, Encoding(codec="libvpx"))
    clip = decoded(vp8, 0.0, 2.0)
    assert clip.facts.motion == () and values(clip)["codec_motion"] is None
    turned = write_video(tmp_path / "b.mp4", scene(1, 50), tune(1, 2.0), Encoding(rotation_deg=90))
    measured = values(decoded(turned, 0.0, 2.0))
    assert (measured["height_px"], measured["width_px"]) == (128, 72)
