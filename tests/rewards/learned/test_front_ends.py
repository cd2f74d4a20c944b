"""Front ends and post-processing of the learned scorers, which need none of their packages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from avpref.rewards.learned import faces
from avpref.rewards.learned.frame_choice import spread_frames
from avpref.rewards.learned.screen_text import Region, measures
from avpref.rewards.learned.shot_cuts import CONTEXT, HEIGHT_PX, WIDTH_PX, WINDOW, count_cuts, network_windows
from avpref.rewards.learned.speech import network_inputs
from avpref.rewards.learned.speech_quality import opinions, p808_features, too_little_speech, windows
from avpref.rewards.learned.unsafe_frames import network_input

LIBROSA = json.loads((Path(__file__).parent / "p808_librosa.json").read_text(encoding="utf-8"))
QUALITY_WINDOW = 144160


def chirp() -> np.ndarray:
    """The sound of the reference: a chirp that swells, over faint noise."""
    times_s = np.arange(QUALITY_WINDOW) / 16000.0
    loudness = 0.5 * (1 + np.sin(2 * np.pi * 0.9 * times_s))
    noise = np.random.Generator(np.random.PCG64(7)).standard_normal(len(times_s))
    tone = np.sin(2 * np.pi * (200 * times_s + 150 * times_s**2))
    return (0.3 * loudness * tone + 0.003 * noise).astype(np.float32)


def test_mel_input_of_p808_is_librosas() -> None:
    features = p808_features(chirp())
    assert features.shape == (900, 120) and features.dtype == np.float32
    expected = np.array(LIBROSA["values"])
    np.testing.assert_allclose(features[np.ix_(LIBROSA["frames"], LIBROSA["bands"])], expected, atol=1e-4)
    assert features.mean() == pytest.approx(LIBROSA["mean"], abs=1e-4)


def test_windows_of_speech_quality() -> None:
    assert [len(window) for window in windows(np.ones(QUALITY_WINDOW, np.float32))] == [QUALITY_WINDOW]
    assert len(windows(np.ones(12 * 16000, np.float32))) == 3
    short = np.arange(50000, dtype=np.float32)
    (window,) = windows(short)[:1]
    np.testing.assert_array_equal(window, np.tile(short, 3)[:QUALITY_WINDOW])


def test_opinions_follow_the_published_polynomials() -> None:
    values = opinions([3.0, 2.0, 4.0], 3.5)
    assert values["speech_signal"] == pytest.approx(-0.08397278 * 9 + 1.22083953 * 3 + 0.0052439)
    assert values["speech_background"] == pytest.approx(-0.13166888 * 4 + 1.60915514 * 2 - 0.39604546)
    assert values["speech_overall"] == pytest.approx(-0.06766283 * 16 + 1.11546468 * 4 + 0.04602535)
    assert values["speech_p808"] == 3.5


def test_clips_with_little_speech_have_a_reason() -> None:
    assert too_little_speech(0.25) == ""
    assert too_little_speech(0.1) == "speech in 10% of the clip, less than 25%"


def test_speech_windows_carry_the_samples_before_them() -> None:
    sound = np.arange(1, 1101, dtype=np.float32)
    inputs = network_inputs(sound)
    assert inputs.shape == (3, 576)
    assert not inputs[0, :64].any()
    np.testing.assert_array_equal(inputs[0, 64:], sound[:512])
    np.testing.assert_array_equal(inputs[1, :64], sound[448:512])
    np.testing.assert_array_equal(inputs[2, 64 : 64 + 76], sound[1024:])
    assert not inputs[2, 64 + 76 :].any()


@pytest.mark.parametrize(("num_frames", "num_windows"), [(2, 1), (50, 1), (51, 2), (120, 3)])
def test_shot_windows_cover_each_frame_once(num_frames: int, num_windows: int) -> None:
    frames = np.broadcast_to(np.arange(1, num_frames + 1, dtype=np.uint8)[:, None, None, None], (num_frames, 54, 96, 3))
    parts = network_windows(np.ascontiguousarray(frames))
    assert [part.shape for part in parts] == [(WINDOW, HEIGHT_PX, WIDTH_PX, 3)] * num_windows
    middle = np.concatenate([part[CONTEXT:-CONTEXT, 0, 0, 0] for part in parts])
    np.testing.assert_array_equal(middle[:num_frames], np.arange(1, num_frames + 1))
    assert set(parts[0][:CONTEXT, 0, 0, 0]) == {1} and set(parts[-1][-CONTEXT:, 0, 0, 0]) == {num_frames}


def test_a_run_of_high_probabilities_is_one_cut() -> None:
    assert count_cuts(np.array([0.1, 0.9, 0.2, 0.6, 0.8, 0.7, 0.5], np.float32)) == 2
    assert count_cuts(np.zeros(5, np.float32)) == 0


def box(x: int, y: int, width: int, height: int) -> np.ndarray:
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    return np.array(corners, np.float32)


def test_text_counts_where_it_is_read_with_certainty_and_overlap_once() -> None:
    frames = [
        [Region(box(0, 0, 9, 9), 0.9), Region(box(0, 0, 9, 9), 0.95), Region(box(20, 20, 30, 30), 0.79)],
        [],
    ]
    assert measures(frames, 50, 100) == {"text_area": pytest.approx(100 / 5000 / 2), "text_regions": 2.0}
    assert measures([[]], 10, 10) == {"text_area": 0.0, "text_regions": 0.0}


def test_spread_frames_are_the_middles_of_equal_parts() -> None:
    frames = np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1)
    assert spread_frames(frames, 3).ravel().tolist() == [2, 6, 10]
    assert spread_frames(frames[:2], 3).ravel().tolist() == [0, 1]


@pytest.mark.parametrize("size", [(64, 64), (360, 640)])
def test_unsafe_input_is_bgr_minus_the_means(size: tuple[int, int]) -> None:
    frame = np.full((*size, 3), (200, 100, 50), np.uint8)
    prepared = network_input(frame)
    assert prepared.shape == (224, 224, 3) and prepared.dtype == np.float32
    np.testing.assert_array_equal(np.unique(prepared.reshape(-1, 3), axis=0), [[50 - 104, 100 - 117, 200 - 123]])


def face_maps(*entries: tuple[int, int, float, float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps of 20 × 30 places with faces at (row, column), of a probability, height and width in pixels."""
    probabilities, sizes = np.zeros((20, 30), np.float32), np.zeros((2, 20, 30), np.float32)
    offsets = np.full((2, 20, 30), 0.25, np.float32)
    for row, column, probability, height_px, width_px in entries:
        probabilities[row, column] = probability
        sizes[:, row, column] = np.log([height_px / 4, width_px / 4])
    return probabilities, sizes, offsets


def test_boxes_of_faces_have_the_middles_and_sizes_of_the_maps() -> None:
    boxes = faces.boxes_of(*face_maps((5, 10, 0.9, 20.0, 16.0), (15, 25, 0.49, 20.0, 16.0)))
    middle = (5.75 * 4, 10.75 * 4)
    np.testing.assert_allclose(boxes, [[middle[0] - 10, middle[1] - 8, middle[0] + 10, middle[1] + 8]], rtol=1e-6)


def test_of_overlapping_boxes_the_most_probable_face_counts() -> None:
    maps = face_maps((5, 10, 0.7, 20.0, 16.0), (5, 11, 0.9, 20.0, 16.0), (15, 25, 0.6, 8.0, 8.0))
    boxes = faces.boxes_of(*maps)
    assert len(boxes) == 2 and boxes[0, 1] == pytest.approx(11.75 * 4 - 8)
    assert faces.boxes_of(*face_maps()).shape == (0, 4)


def test_faces_are_counted_in_the_fullest_frame_and_cover_pixels_once() -> None:
    two = np.array([[0, 0, 10, 10], [0, 5, 10, 15]], np.float32)
    values = faces.measures([two, np.zeros((0, 4), np.float32)], 20, 20)
    assert values == {"num_faces": 2.0, "face_area": pytest.approx(150 / 400 / 2)}


def test_pictures_for_the_search_of_faces_are_shrunk_and_extended_to_multiples_of_32() -> None:
    frame = np.full((360, 1280, 3), 200, np.uint8)
    extended = faces.network_input(frame)
    assert extended.shape == (192, 640, 3) and extended[:180].min() == 200 and extended[180:].max() == 0
    assert faces.network_input(frame[:64, :96]).shape == (64, 96, 3)
