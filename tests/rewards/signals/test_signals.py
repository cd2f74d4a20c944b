"""The signal scorers order corruptions of real recordings, keep the scorer's contract, and skip what they cannot score."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from present import present

from avpref.domain import METRIC_BY_NAME, ScoreStatus
from avpref.media.geometry import ClipShape
from avpref.media.reading import DecodedClip, read_clip
from avpref.media.writing import encode_clip
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.signals.av_align import (
    best_lag,
    bounded_alignment,
    merge_duplicates,
    motion_curve,
    published_alignment,
    sound_curve,
    video_peaks_s,
    zero_lag_cosine,
)
from avpref.rewards.signals.motion import fastest_share_px, motion_px, small_flow
from avpref.rewards.signals.onsets import detect_onsets, mel_power, onset_strength
from avpref.rewards.signals.signals import (
    DIAGNOSTICS,
    SIGNAL_METRICS,
    SignalScorer,
    flat_share,
    sharpness_db,
    signal_scorers,
    signal_to_floor_db,
    smoothness_db,
)

FPS_HZ, RATE_HZ, WINDOW_S, SIDE_PX = 16.0, 16000, 2.0, 64
RECORDINGS = ("dog.mp4", "tennis.mp4", "whale.mp4", "telescope.mp4")
EVENTFUL = ("dog.mp4", "tennis.mp4")  # what sounds is seen to move
SCORER = SignalScorer()

Levels = tuple[float, ...]


def clip_of(frames: np.ndarray | None, audio: np.ndarray | None, fps_hz: float = FPS_HZ) -> DecodedClip:
    duration_s = WINDOW_S if frames is None else len(frames) / fps_hz
    return DecodedClip(frames, 0.0 if frames is None else fps_hz, audio, 0 if audio is None else RATE_HZ, duration_s)


def frames_of(clip: DecodedClip) -> NDArray[np.uint8]:
    return present(clip.frames)


def sound_of(clip: DecodedClip) -> NDArray[np.float32]:
    return present(clip.audio)


def scores(clip: DecodedClip) -> dict[str, float | None]:
    return {score.metric: score.value for score in SCORER.score([ScorableClip("c", "a text", clip)])[0]}


def numbers_of(clip: DecodedClip) -> dict[str, float]:
    """The scores of a clip of which every metric is measured."""
    return {metric: present(value) for metric, value in scores(clip).items()}


@pytest.fixture(scope="module")
def windows(media) -> list[DecodedClip]:
    """Three windows of 2 s of each recording at a size and rate as in the preference loop."""
    shape = ClipShape(int(FPS_HZ * WINDOW_S), SIDE_PX, SIDE_PX, FPS_HZ, RATE_HZ)
    return [read_clip(media / name, shape, start_s=start_s) for name in RECORDINGS for start_s in (0.5, 3.0, 7.0)]


@pytest.fixture(scope="module")
def eventful(media) -> list[DecodedClip]:
    """The whole of both eventful recordings at their own frame rate."""
    shape = ClipShape(245, SIDE_PX, SIDE_PX, 25.0, RATE_HZ)
    return [read_clip(media / name, shape) for name in EVENTFUL]


def picture(change: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]) -> Callable:
    def corrupt(clip: DecodedClip, level: float, generator: np.random.Generator) -> DecodedClip:
        return dataclasses.replace(clip, frames=change(frames_of(clip), level, generator)) if level else clip

    return corrupt


def sound(change: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]) -> Callable:
    def corrupt(clip: DecodedClip, level: float, generator: np.random.Generator) -> DecodedClip:
        return (
            dataclasses.replace(clip, audio=change(sound_of(clip), level, generator).astype(np.float32))
            if level
            else clip
        )

    return corrupt


@picture
def grain(frames, level, generator):
    return np.clip(frames + generator.normal(0, level, frames.shape), 0, 255).astype(np.uint8)


@picture
def blur(frames, level, _generator):
    return np.stack([cv2.GaussianBlur(frame, (0, 0), level) for frame in frames])


@picture
def jitter(frames, level, generator):
    moves = generator.normal(0, level, (len(frames), 2))
    height, width = frames.shape[1:3]
    return np.stack(
        [
            cv2.warpAffine(
                frame, np.array([[1, 0, x], [0, 1, y]], np.float32), (width, height), borderMode=cv2.BORDER_REFLECT
            )
            for frame, (x, y) in zip(frames, moves, strict=True)
        ]
    )


@picture
def shuffle(frames, level, generator):
    return frames[np.argsort(np.arange(len(frames)) + generator.uniform(0, level, len(frames)), kind="stable")]


@picture
def stutter(frames, level, _generator):
    return frames[(np.arange(len(frames)) // int(level)) * int(level)]


@picture
def freeze(frames, _level, _generator):
    return np.repeat(frames[:1], len(frames), axis=0)


@sound
def hiss(audio, level, generator):
    """Level is noise over signal, as an amplitude ratio."""
    return audio + generator.normal(0, level * np.sqrt(np.mean(audio**2)), len(audio))


@sound
def overdrive(audio, level, _generator):
    """Level is the gain over full scale before clipping."""
    return np.clip(audio / np.abs(audio).max() * level, -1, 1)


CORRUPTIONS = {
    "visual_quality under grain": ("visual_quality", grain, (0, 5, 10, 20, 40)),
    "visual_quality under blur": ("visual_quality", blur, (0, 0.7, 1.0, 1.5, 3.0)),
    "motion_quality under jitter": ("motion_quality", jitter, (0, 0.125, 0.25, 0.5, 1.0)),
    "motion_quality under shuffling": ("motion_quality", shuffle, (0, 2, 4, 16)),
    "motion_quality under stutter": ("motion_quality", stutter, (0, 2)),
    "motion_quality under freezing": ("motion_quality", freeze, (0, 1)),
    "audio_quality under hiss": ("audio_quality", hiss, (0, 0.03, 0.1, 0.3, 1.0)),
    "audio_quality under overdrive": ("audio_quality", overdrive, (0, 2, 4, 8, 16)),
}


MEASURES: dict[str, Callable[[DecodedClip], float]] = {
    "visual_quality": lambda clip: sharpness_db(frames_of(clip)),
    "motion_quality": lambda clip: smoothness_db(small_flow(frames_of(clip))),
    "audio_quality": lambda clip: signal_to_floor_db(sound_of(clip), RATE_HZ, mel_power(sound_of(clip), RATE_HZ)),
}
"""The function that the scorer calls for each metric, so that no test computes the other metrics."""


def measure_levels(windows: list[DecodedClip], metric: str, corrupt: Callable, levels: Levels) -> np.ndarray:
    """Values [window, level] of one metric."""
    generator, measure = np.random.default_rng(7), MEASURES[metric]
    return np.array([[measure(corrupt(clip, level, generator)) for level in levels] for clip in windows])


def test_the_measured_functions_are_those_of_the_scorer(windows):
    for clip in windows[::5]:
        row = scores(clip)
        assert {name: row[name] for name in MEASURES} == {name: measure(clip) for name, measure in MEASURES.items()}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_metric_falls_with_increasing_corruption_of_real_clips(windows, name):
    values = measure_levels(windows, *CORRUPTIONS[name])
    steps = np.diff(values, axis=1)
    assert np.all(steps.mean(axis=0) < 0), values.mean(axis=0)
    assert np.mean(steps < 0) >= 0.75, "each step is noticed in most windows, whatever noise the recording has already"
    assert np.mean(values[:, 0] > values[:, -1]) >= 0.9, "the worst is below the original in nearly every window"


def sync_of(picture_curve: np.ndarray, clip: DecodedClip) -> tuple[float, float]:
    """``desync`` and ``audio_video`` as the scorer has them, for a motion curve that was computed once."""
    heard = present(sound_curve(onset_strength(sound_of(clip), RATE_HZ), RATE_HZ, clip.duration_s))
    return abs(best_lag(heard, picture_curve).lag_s), zero_lag_cosine(heard, picture_curve)


def cut(clip: DecodedClip, start_s: float, delay_s: float, length_s: float = 4.0) -> DecodedClip:
    """A window whose sound comes ``delay_s`` late, made of the recording's own sound on both sides."""
    first, count = round(start_s * clip.fps_hz), round(length_s * clip.fps_hz)
    sample, samples = round((start_s - delay_s) * RATE_HZ), round(length_s * RATE_HZ)
    return clip_of(frames_of(clip)[first : first + count], sound_of(clip)[sample : sample + samples], clip.fps_hz)


def auroc(better: np.ndarray, worse: np.ndarray) -> float:
    """Chance that a random ``worse`` is larger than a random ``better``."""
    greater = worse[None, :] > better[:, None]
    return float(np.mean(greater + 0.5 * (worse[None, :] == better[:, None])))


def test_both_sync_metrics_notice_delays_of_eventful_recordings(eventful):
    starts_s, delays_s = np.arange(0.6, 5.1, 0.5), (0.0, -0.25, 0.25, -0.5, 0.5)
    rows: dict[float, list[tuple[float, float]]] = {delay_s: [] for delay_s in delays_s}
    for clip in eventful:
        for start_s in starts_s:
            window = cut(clip, start_s, 0.0)
            motion = motion_curve(fastest_share_px(small_flow(frames_of(window))), window.fps_hz, window.duration_s)
            for delay_s in delays_s:
                rows[delay_s].append(sync_of(present(motion), cut(clip, start_s, delay_s)))
    desync = {delay_s: np.array(values)[:, 0] for delay_s, values in rows.items()}
    alike = {delay_s: np.array(values)[:, 1] for delay_s, values in rows.items()}
    in_time = desync[0.0].mean()
    for sign in (-1, 1):
        assert in_time < desync[sign * 0.25].mean() < desync[sign * 0.5].mean()
    assert np.mean([auroc(desync[0.0], desync[delay_s]) for delay_s in delays_s[1:]]) > 0.8
    assert np.mean([auroc(-alike[0.0], -alike[delay_s]) for delay_s in delays_s[1:]]) > 0.75


def test_numbers_survive_the_codec(windows):
    """Clips of a run are encoded as H.264 and AAC before they are scored."""
    for clip in windows[::3]:
        coded = read_clip(io.BytesIO(encode_clip(frames_of(clip), FPS_HZ, sound_of(clip), RATE_HZ)))
        before, after = scores(clip), scores(coded)
        assert after["visual_quality"] == pytest.approx(before["visual_quality"], abs=1.0)
        assert after["motion_quality"] == pytest.approx(before["motion_quality"], abs=1.5)


# --- the contract -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made_clip() -> DecodedClip:
    """A textured square that jumps with a click, on a drifting background."""
    generator = np.random.default_rng(3)
    background = cv2.GaussianBlur(generator.integers(0, 255, (96, 160, 3), np.uint8), (0, 0), 2)
    frames, audio = [], generator.normal(0, 1e-3, int(RATE_HZ * WINDOW_S)).astype(np.float32)
    patch, place = 255 - background[60:86, 100:126], 6
    for index in range(int(FPS_HZ * WINDOW_S)):
        frame = background[:SIDE_PX, index : index + SIDE_PX].copy()
        if index in (7, 13, 25):
            place += 8
            start = int(index / FPS_HZ * RATE_HZ)
            audio[start : start + 160] += generator.normal(0, 0.4, 160).astype(np.float32)
        frame[18:44, place : place + 26] = patch
        frames.append(frame)
    return clip_of(np.stack(frames), audio)


def test_metrics_are_five_of_the_seven_columns():
    (scorer,) = signal_scorers()
    assert scorer.metrics == SIGNAL_METRICS + DIAGNOSTICS
    assert all(dataclasses.replace(METRIC_BY_NAME[m.name], unit=m.unit) == m for m in SIGNAL_METRICS)
    assert {"text_video", "text_audio"} == METRIC_BY_NAME.keys() - {metric.name for metric in SIGNAL_METRICS}
    assert not METRIC_BY_NAME.keys() & {metric.name for metric in DIAGNOSTICS}
    assert scorer.terms.licence and scorer.fingerprint == SignalScorer().fingerprint
    assert (
        dataclasses.replace(scorer, rules=dataclasses.replace(scorer.rules, min_rms=0.1)).fingerprint
        != scorer.fingerprint
    )


def test_a_clips_scores_do_not_depend_on_the_batch(made_clip):
    others = [
        made_clip,
        dataclasses.replace(made_clip, frames=made_clip.frames[::-1]),
        clip_of(made_clip.frames, None),
        dataclasses.replace(made_clip, audio=made_clip.audio * 0.1),
    ]
    clips = [ScorableClip(f"c{number}", "", clip) for number, clip in enumerate(others)]
    together = SCORER.score(clips)
    assert together == [SCORER.score([clip])[0] for clip in clips]
    assert together[::-1] == SCORER.score(clips[::-1])
    assert [[score.metric for score in row] for row in together] == [[metric.name for metric in SCORER.metrics]] * 4
    assert SCORER.score([]) == []


def still(clip: DecodedClip) -> DecodedClip:
    return dataclasses.replace(clip, frames=np.repeat(frames_of(clip)[:1], len(frames_of(clip)), axis=0))


@pytest.mark.parametrize(
    ("spoil", "reason", "metrics"),
    [
        (lambda clip: clip_of(None, clip.audio), "no video track", {"visual_quality", "motion_quality"}),
        (lambda clip: clip_of(clip.frames, None), "no audio track", {"audio_quality"}),
        (lambda clip: clip_of(clip.frames, clip.audio * 0), "silent", {"audio_quality"}),
        (lambda clip: clip_of(clip.frames, clip.audio * np.float32("nan")), "silent", {"audio_quality"}),
        (lambda clip: clip_of(clip.frames[:2], clip.audio[:2000]), "too short", {"visual_quality", "audio_quality"}),
        (lambda clip: clip_of(clip.frames * 0, clip.audio), "blank picture", {"visual_quality", "motion_quality"}),
        (still, "the picture does not move", set()),
    ],
    ids=["no video", "no audio", "silence", "nan", "too short", "blank", "still"],
)
def test_invalid_clips_are_skipped_with_the_reason(made_clip, spoil, reason, metrics):
    rows = {score.metric: score for score in SCORER.score([ScorableClip("c", "", spoil(made_clip))])[0]}
    for name in metrics | {"audio_video", "desync", "av_align", "av_align_bounded"}:
        assert (rows[name].status, rows[name].value) == (ScoreStatus.SKIPPED, None)
        assert reason in rows[name].reason
    for name, row in rows.items():
        if row.status is ScoreStatus.OK:
            assert math.isfinite(present(row.value)) and row.reason == "", name


def test_a_still_picture_is_skipped_after_the_codec_too(made_clip):
    clip = still(made_clip)
    coded = read_clip(io.BytesIO(encode_clip(frames_of(clip), FPS_HZ, sound_of(clip), RATE_HZ)))
    rows = scores(coded)
    assert rows["audio_video"] is None and rows["desync"] is None
    assert rows["motion_quality"] is not None


def test_the_made_clip_is_in_time_and_its_delay_is_measured(made_clip):
    in_time = numbers_of(made_clip)
    late = numbers_of(dataclasses.replace(made_clip, audio=np.roll(made_clip.audio, int(0.25 * RATE_HZ))))
    assert in_time["desync"] < 1 / FPS_HZ
    assert late["desync"] == pytest.approx(0.25, abs=1 / FPS_HZ)
    assert late["audio_video"] < in_time["audio_video"]
    assert late["av_align_bounded"] < in_time["av_align_bounded"] <= 1


def test_both_forms_of_av_align_use_the_same_motion_peaks(made_clip):
    rows, fps_hz, rate_hz = scores(made_clip), made_clip.fps_hz, made_clip.sample_rate_hz
    onsets, peaks_s = detect_onsets(made_clip.audio, rate_hz), video_peaks_s(motion_px(made_clip.frames), fps_hz)
    assert rows["av_align"] == published_alignment(onsets.times_s, peaks_s, fps_hz).score
    assert rows["av_align_bounded"] == bounded_alignment(merge_duplicates(onsets, rate_hz), peaks_s, fps_hz).score


@pytest.mark.parametrize("size", [(2, 2), (8, 6), (33, 65), (270, 480)])
def test_any_size_of_picture(size):
    frames = np.random.default_rng(0).integers(0, 255, (4, *size, 3), np.uint8)
    row = scores(clip_of(frames, None, fps_hz=8.0))
    assert math.isfinite(present(row["visual_quality"])) and math.isfinite(present(row["motion_quality"]))


def test_flat_picture_has_the_lowest_sharpness_and_no_division_by_zero():
    assert sharpness_db(np.full((3, 32, 32, 3), 128, np.uint8)) == pytest.approx(10 * math.log10(0.05 / 16))


def test_steady_motion_is_smooth_and_random_positions_are_minus_5_db():
    generator = np.random.default_rng(0)
    steady = np.ones((12, 8, 8, 2), np.float32)
    positions = generator.normal(0, 3, (400, 1, 1, 2))
    jumping = np.broadcast_to(np.diff(positions, axis=0), (399, 8, 8, 2)).astype(np.float32)
    assert smoothness_db(steady) > 25
    assert smoothness_db(jumping) == pytest.approx(-10 * math.log10(3), abs=0.5)
    assert smoothness_db(np.zeros((12, 8, 8, 2), np.float32)) == pytest.approx(-10 * math.log10(3))


def test_flat_tops_are_counted_on_one_side_at_a_time():
    wave = np.sin(np.linspace(0, 200 * np.pi, 20000)).astype(np.float32)
    clipped = np.clip(wave, -0.5, 0.5)
    alternating = np.resize(np.array([1.0, -1.0], np.float32), 1000)
    assert flat_share(clipped) == pytest.approx(1 / 3, abs=0.02)
    assert flat_share(wave) < 0.1
    assert flat_share(alternating) == 0.0
