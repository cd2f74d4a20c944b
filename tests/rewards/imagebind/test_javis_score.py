"""AVHScore and JavisScore against the benchmark's own numbers, and what is not judged."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from avpref.domain import ScoreStatus
from avpref.media.reading import DecodedClip, read_clip
from avpref.models.features.clip_pictures import normalised_pixels
from avpref.models.imagebind.imagebind_towers import TINY, ImageBindSizes, Towers, TowerSizes
from avpref.rewards.imagebind.imagebind import random_towers
from avpref.rewards.imagebind.imagebind_views import sound_16k, sound_cuts, sound_views
from avpref.rewards.imagebind.javis_score import (
    USED_MODALITIES,
    FrameEmbeddings,
    JavisScorer,
    PairedWindows,
    javis_metrics,
    load_javis_score,
    num_lowest,
    paired_windows,
    resize_and_crop,
    tiny_javis_score,
    window_ranges,
    window_scores,
    window_similarities,
)
from avpref.rewards.model_scorer import CPU, Placement
from avpref.rewards.protocol import ScorableClip
from avpref.storage.weight_files import on_meta


def scorable(clip: DecodedClip, name: str = "c") -> ScorableClip:
    return ScorableClip(name, "", clip)


def noisy_clip(seed: int, num_frames: int = 20, fps_hz: float = 8.0, size: tuple[int, int] = (24, 40)) -> DecodedClip:
    random = np.random.default_rng(seed)
    frames = random.integers(0, 256, (num_frames, *size, 3)).astype(np.uint8)
    duration_s = num_frames / fps_hz
    audio = (0.1 * random.standard_normal(round(16000 * duration_s))).astype(np.float32)
    return DecodedClip(frames, fps_hz, audio, 16000, duration_s)


@pytest.fixture(scope="module")
def tiny() -> JavisScorer:
    return tiny_javis_score()


# ---- the benchmark's numbers


@dataclass(frozen=True, eq=False)
class Vectors:
    folder: Path
    json: dict[str, Any]
    io: dict[str, np.ndarray]
    numeric: dict[str, np.ndarray]
    scorer: JavisScorer

    @property
    def clips(self) -> list[tuple[str, dict[str, Any]]]:
        return [(f"v{index}", clip) for index, clip in enumerate(self.json["clips"])]

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.io[name])

    def embeddings(self, name: str, variant: str = "") -> FrameEmbeddings:
        return FrameEmbeddings(
            self.tensor(f"{name}_frame_emb"),
            self.tensor(f"{name}_audio_emb{variant}"),
            self.tensor(f"{name}_window_audio_emb{variant}"),
        )

    def clip(self, name: str, entry: dict[str, Any], frames: np.ndarray) -> DecodedClip:
        audio = self.io[f"{name}_audio"]
        return DecodedClip(frames, entry["fps"], audio[0], entry["audio_rate"], entry["frames"] / entry["fps"])


@pytest.fixture(scope="module")
def vectors(golden: Path, golden_weights: Callable[[Path, str], dict[str, Tensor]]) -> Vectors:
    folder = golden / "javisbench"
    cases = json.loads((folder / "av_score.json").read_text(encoding="utf-8"))
    made = cases["model"]["constructor"]
    vision, text, audio = (
        TowerSizes(made[f"{name}_embed_dim"], made[f"{name}_num_blocks"], made[f"{name}_num_heads"])
        for name in ("vision", "text", "audio")
    )
    towers = on_meta(lambda: Towers(ImageBindSizes(vision, text, audio, made["out_embed_dim"]), USED_MODALITIES))
    towers.load_state_dict(golden_weights(folder, cases["seed"]), assign=True)
    first, second = (dict(np.load(folder / name)) for name in ("av_score.npz", "av_score_numeric.npz"))
    return Vectors(folder, cases, first, second, JavisScorer(towers, CPU, cases["seed"]))


def furthest(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return (found.double() - expected.double()).abs().max().item()


def as_windows(entry: dict[str, Any]) -> PairedWindows:
    return PairedWindows(
        *(tuple((start, end) for start, end in entry[name]) for name in ("video_windows", "audio_windows"))
    )


@pytest.mark.golden
def test_golden_windows(vectors: Vectors) -> None:
    for case in vectors.json["segmentation"]:
        settings = (case["window_s"], case["overlap_s"])
        found = paired_windows(case["frames"], case["fps"], case["audio_samples_16k"], *settings)
        assert found == as_windows(case), case
        assert num_lowest(found.num_frames, vectors.json["lowest_fraction"]) == case["k"]
    for entry in vectors.json["clips"]:
        assert paired_windows(entry["frames"], entry["fps"], entry["audio_samples_16k"]) == as_windows(entry)
        assert list(sound_cuts(entry["audio_samples_16k"])) == [tuple(cut) for cut in entry["whole_clip_samples"]]


@pytest.mark.golden
def test_golden_share_of_frames(vectors: Vectors) -> None:
    share = vectors.json["lowest_fraction"]
    found = {count: num_lowest(int(count), share) for count in vectors.json["k_table"]}
    assert found == vectors.json["k_table"]


@pytest.mark.golden
def test_golden_numeric_cases(vectors: Vectors) -> None:
    similarities = [case for case in vectors.json["numeric_cases"] if case["case"].startswith("sim")]
    assert similarities
    for case in similarities:
        scores = window_scores(torch.from_numpy(vectors.numeric[case["case"]]).double(), case["k"])
        if case["score"] is None:
            assert math.isnan(scores.mean().item())
            continue
        if isinstance(case["topk"], float):
            assert num_lowest(case["frames_per_window"], case["topk"]) == case["k"]
        expected = torch.from_numpy(vectors.numeric[f"{case['case']}_window_score"])
        assert furthest(scores, expected) < 1e-6
        assert scores.mean().item() == pytest.approx(case["score"], abs=1e-6)


@pytest.mark.golden
def test_golden_embedding_cases(vectors: Vectors) -> None:
    cases = [case for case in vectors.json["numeric_cases"] if case["case"].startswith("emb")]
    assert cases
    for case in cases:
        stored = {name: torch.from_numpy(vectors.numeric[f"{case['case']}_{name}"]) for name in EMBEDDING_CASE}
        spans_of_frames = tuple((int(start), int(end)) for start, end in stored["video_windows"])
        embeddings = FrameEmbeddings(stored["frame_emb"], stored["audio_emb"], stored["window_audio_emb"])
        windows = PairedWindows(spans_of_frames, tuple((0, 0) for _ in spans_of_frames))
        found = javis_metrics(embeddings, windows)
        assert num_lowest(windows.num_frames) == case["k"]
        assert found == pytest.approx({name: case[name] for name in ("javis_score", "avh_score")}, abs=1e-6)


EMBEDDING_CASE = ("frame_emb", "audio_emb", "window_audio_emb", "video_windows")


@pytest.mark.golden
@pytest.mark.parametrize(("variant", "scores"), [("", ""), ("_separate", "_separate_cuts")])
def test_golden_scores_from_the_stored_embeddings(vectors: Vectors, variant: str, scores: str) -> None:
    for name, entry in vectors.clips:
        embeddings, windows = vectors.embeddings(name, variant), as_windows(entry)
        assert num_lowest(windows.num_frames) == entry["k"]
        similarities = window_similarities(embeddings, windows)
        assert furthest(window_scores(similarities, entry["k"]), vectors.tensor(f"{name}_window_score{variant}")) < (
            1e-6
        )
        found = javis_metrics(embeddings, windows)
        expected = {metric: entry[f"{metric}{scores}"] for metric in ("javis_score", "avh_score")}
        assert found == pytest.approx(expected, abs=1e-6)
        if not variant:
            assert furthest(similarities, vectors.tensor(f"{name}_window_cos")) < 1e-6


@pytest.mark.golden
def test_golden_crops(vectors: Vectors) -> None:
    for name, entry in vectors.clips:
        full = dict(zip(entry["full_frames"], vectors.io[f"{name}_frames_u8"], strict=True))
        crops = dict(zip(entry["crop_frames"], vectors.io[f"{name}_crop_u8"], strict=True))
        both = full.keys() & crops.keys()
        assert both
        for index in both:
            np.testing.assert_array_equal(resize_and_crop(full[index]).permute(1, 2, 0).numpy(), crops[index])


@pytest.mark.golden
def test_golden_frames(vectors: Vectors) -> None:
    for name, entry in vectors.clips:
        crops = torch.from_numpy(vectors.io[f"{name}_crop_u8"]).permute(0, 3, 1, 2)
        expected = vectors.tensor(f"{name}_frame_emb")[entry["crop_frames"]]
        assert furthest(vectors.scorer.embed_stills(crops), expected) < 1e-5


@pytest.mark.golden
def test_golden_sound(vectors: Vectors) -> None:
    for name, entry in vectors.clips:
        sound = sound_16k(vectors.io[f"{name}_audio"][0], entry["audio_rate"])
        stored = vectors.io.get(f"{name}_audio16k")
        if stored is not None:
            assert furthest(sound, torch.from_numpy(stored[0])) < 2e-5
        assert len(sound) == entry["audio_samples_16k"]
        prepared = vectors.scorer.inputs(
            scorable(vectors.clip(name, entry, vectors.io[f"{name}_frames_u8"][[0] * entry["frames"]])),
            {"javis_score"},
        )
        found = vectors.scorer.embed([prepared])[0]
        assert furthest(found.sound, vectors.tensor(f"{name}_audio_emb_separate")) < 2e-3
        assert furthest(found.window_sounds, vectors.tensor(f"{name}_window_audio_emb_separate")) < 2e-3


@pytest.mark.golden
def test_golden_mel_pictures_of_untouched_cuts(vectors: Vectors) -> None:
    """The first cut is the same in both variants: nothing has been subtracted yet."""
    for name, entry in vectors.clips:
        if f"{name}_fbank_whole" not in vectors.io:
            continue
        sound = sound_16k(vectors.io[f"{name}_audio"][0], entry["audio_rate"])
        first = sound_views(sound, sound_cuts(len(sound))[:1]).images[0]
        expected = vectors.tensor(f"{name}_fbank_whole")[0]
        assert furthest(first, expected) < 2e-2
        assert (first - expected).abs().mean().item() < 5e-5


@pytest.mark.golden
def test_golden_embeddings_from_the_stored_mel_pictures(vectors: Vectors) -> None:
    stored = [name for name, _ in vectors.clips if f"{name}_fbank_whole" in vectors.io]
    assert stored
    for name in stored:
        towers = vectors.scorer.towers
        whole = towers.embed_sounds(vectors.tensor(f"{name}_fbank_whole")).mean(dim=0)
        assert furthest(whole, vectors.tensor(f"{name}_audio_emb")) < 5e-5
        windows = towers.embed_sounds(vectors.tensor(f"{name}_fbank_windows"))
        assert furthest(windows, vectors.tensor(f"{name}_window_audio_emb")) < 5e-5


@pytest.mark.golden
def test_golden_scores_of_the_files(vectors: Vectors, media: Path) -> None:
    for name, entry in vectors.clips:
        read = read_clip(media / entry["clip"], None, duration_s=entry["frames"] / entry["fps"])
        assert read.frames is not None and read.frames.shape[:3] == (entry["frames"], *entry["size"])
        np.testing.assert_array_equal(read.frames[entry["full_frames"]], vectors.io[f"{name}_frames_u8"])
        clip = scorable(vectors.clip(name, entry, read.frames))
        prepared = vectors.scorer.prepare(clip)
        assert prepared.inputs is not None
        pixels = normalised_pixels(torch.stack(prepared.inputs.pictures.images) / 255.0).flatten(1)
        assert furthest(pixels.mean(dim=1), vectors.tensor(f"{name}_frame_mean")) < 1e-5
        assert furthest(pixels.std(dim=1), vectors.tensor(f"{name}_frame_std")) < 1e-5
        found = vectors.scorer.embed([prepared.inputs])[0]
        assert furthest(found.frames, vectors.tensor(f"{name}_frame_emb")) < 1e-5
        scores = {score.metric: score.value for score in vectors.scorer.score([clip])[0]}
        expected = {metric: entry[f"{metric}_separate_cuts"] for metric in ("javis_score", "avh_score")}
        assert scores == pytest.approx(expected, abs=2e-5)


# ---- windows


@given(st.integers(2, 300), st.integers(1, 60), st.integers(1, 60))
def test_spans_cover_everything_and_overlap(total: int, size: int, step: int) -> None:
    size, step = min(size, total - 1), min(step, size)
    found = window_ranges(total, size, step)
    assert found[0][0] == 0 and found[-1][1] == total
    assert all(end - start == size for start, end in found)
    assert all(0 < after[0] - before[0] <= step for before, after in pairwise(found))


@pytest.mark.parametrize(("num_frames", "num_samples"), [(48, 64000), (96, 32000), (20, 10000)])
def test_a_short_clip_has_one_window(num_frames: int, num_samples: int) -> None:
    assert paired_windows(num_frames, 24.0, num_samples) == PairedWindows(((0, num_frames),), ((0, num_samples),))


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=30))
def test_the_lowest_are_below_the_mean(cosines: list[float]) -> None:
    row = torch.tensor([cosines], dtype=torch.float64)
    lowest = window_scores(row, num_lowest(len(cosines))).item()
    assert min(cosines) - 1e-9 <= lowest <= row.mean().item() + 1e-9
    assert window_scores(row, len(cosines)).item() == pytest.approx(row.mean().item(), abs=1e-12)


# ---- crops


@pytest.mark.parametrize(("height", "width"), [(24, 40), (41, 23), (224, 224), (31, 31), (97, 300), (500, 281)])
def test_crops_are_squares(height: int, width: int) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    frame.setflags(write=False)
    assert resize_and_crop(frame).shape == (3, 224, 224)


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    np.testing.assert_array_equal(resize_and_crop(frame).permute(1, 2, 0).numpy(), frame)


# ---- the scorer


def test_a_clips_scores_do_not_depend_on_the_batch(tiny: JavisScorer) -> None:
    clips = [
        scorable(noisy_clip(0)),
        scorable(noisy_clip(1, 33, 12.0, (40, 24))),
        scorable(noisy_clip(2, 10, 8.0)),
        scorable(replace(noisy_clip(3), audio=None)),
        scorable(noisy_clip(0)),
    ]
    together = tiny.score(clips)
    assert together[0] == together[-1] and together[0] != together[1]
    for clip, row in zip(clips, together, strict=True):
        for score, alone in zip(row, tiny.score([clip])[0], strict=True):
            assert (score.status, score.reason) == (alone.status, alone.reason)
            assert score.value == pytest.approx(alone.value, abs=1e-5)
    assert [score.status for score in together[3]] == [ScoreStatus.SKIPPED] * 2


def test_equal_cuts_are_embedded_once(tiny: JavisScorer) -> None:
    prepared = tiny.inputs(scorable(noisy_clip(0, 32, 8.0)), {"javis_score", "avh_score"})
    assert prepared.windows.samples == ((0, 32000), (8000, 40000), (16000, 48000), (24000, 56000), (32000, 64000))
    assert len(prepared.sound.images) == 5 and len(prepared.sound.uses) == 3 + 3 * 5


def test_windows_are_read_from_their_own_sound(tiny: JavisScorer) -> None:
    clip = noisy_clip(0, 32, 8.0)
    assert clip.audio is not None
    prepared = tiny.inputs(scorable(clip), {"javis_score"})
    found = tiny.embed([prepared])[0]
    for (start, end), sound in zip(prepared.windows.samples, found.window_sounds, strict=True):
        cut = sound_views(torch.tensor(clip.audio[start:end]), [(0, end - start)])
        torch.testing.assert_close(tiny.towers.embed_sounds(torch.stack(cut.images))[0], sound, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("num_frames", "fps_hz"), [(2, 2.0), (4, 1.0), (2, 0.4), (5, 0.67)])
def test_windows_of_too_few_frames_are_skipped(tiny: JavisScorer, num_frames: int, fps_hz: float) -> None:
    scores = tiny.score([scorable(noisy_clip(0, num_frames, fps_hz))])[0]
    assert all(score.status == ScoreStatus.SKIPPED and "too few frames" in score.reason for score in scores)


def test_a_silent_first_channel_is_skipped(tiny: JavisScorer) -> None:
    clip = noisy_clip(0)
    assert clip.audio is not None
    deaf = replace(clip, audio=clip.audio / 2, channels=np.stack([np.zeros_like(clip.audio), clip.audio]))
    assert [score.reason for score in tiny.score([scorable(deaf)])[0]] == ["silent", "silent"]


def test_towers_may_be_shared(tiny: JavisScorer) -> None:
    shared = JavisScorer(random_towers(TINY, CPU), CPU, "w")
    clips = [scorable(noisy_clip(0))]
    assert shared.score(clips) == tiny.score(clips) and shared.fingerprint != tiny.fingerprint


def test_loading_reads_two_towers_of_the_published_file(
    tiny: JavisScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avpref.rewards.imagebind.imagebind.FULL", TINY)
    torch.save(dict(random_towers(TINY, CPU).state_dict()), tmp_path / "imagebind.pth")
    loaded = load_javis_score(tmp_path / "imagebind.pth", CPU, "file")
    assert tuple(loaded.towers.modality_trunks) == USED_MODALITIES
    assert loaded.score([scorable(noisy_clip(0))]) == tiny.score([scorable(noisy_clip(0))])
    assert not loaded.terms.commercial_use and loaded.terms.is_meaningful and not tiny.terms.is_meaningful


def test_half_precision_gives_nearly_the_same_numbers(tiny: JavisScorer) -> None:
    half = tiny_javis_score(Placement(dtype=torch.bfloat16))
    clips = [scorable(noisy_clip(seed)) for seed in range(2)]
    for row, rough in zip(tiny.score(clips), half.score(clips), strict=True):
        assert [score.value for score in rough] == pytest.approx([score.value for score in row], abs=5e-2)
    assert half.fingerprint != tiny.fingerprint
