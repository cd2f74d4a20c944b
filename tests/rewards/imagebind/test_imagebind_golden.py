"""ImageBind against the numbers of the original. Names, sizes, rates and seeds are read from the vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from avpref.domain import Score
from avpref.media.reading import DecodedClip, read_clip
from avpref.media.spectra import RATE_HZ
from avpref.models.imagebind.clip_text import LongPrompts, encode, in_context
from avpref.models.imagebind.imagebind_towers import ImageBindSizes, Towers, TowerSizes, causal_mask
from avpref.rewards.imagebind.imagebind import MASK, ImageBindScorer, cosines
from avpref.rewards.imagebind.imagebind_views import frame_pairs, picture_views, sound_16k, sound_cuts, sound_views
from avpref.rewards.model_scorer import CPU
from avpref.rewards.protocol import ScorableClip
from avpref.storage.weight_files import on_meta


def scorable(clip: DecodedClip, text: str = "a dog barks") -> ScorableClip:
    return ScorableClip("c", text, clip)


def by_name(scores: list[Score]) -> dict[str, Score]:
    return {score.metric: score for score in scores}


@dataclass(frozen=True, eq=False)
class Vectors:
    config: dict[str, Any]
    io: dict[str, np.ndarray]
    media: dict[str, np.ndarray]
    scorer: ImageBindScorer

    @property
    def towers(self) -> Towers:
        return self.scorer.towers

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.io[name])

    def sound(self, case: str) -> Tensor:
        """The first channel of an audio case at 16 kHz [samples], whatever the rate at which the set stores it."""
        if (resampled := self.media.get(f"audio16k_{case}")) is not None:
            return sound_16k(resampled[0], RATE_HZ)
        return sound_16k(self.media[f"audio_{case}"][0], self.config["audio_rates"][case])

    def clip(self, video: int) -> DecodedClip:
        """The stored frames at their places in an otherwise black video."""
        index = self.io["video_frame_index"][video].reshape(-1)
        stored = self.media[f"frames_v{video}"]
        duration_s = self.config["video_times"][video]["duration"]
        last = self.config["video_times"][video]["first_last_excl"][-1][1]
        frames = np.zeros((last, *stored.shape[1:]), np.uint8)
        frames[index] = stored
        return DecodedClip(frames, last / duration_s, self.media[f"audio16k_v{video}"][0], RATE_HZ, duration_s)


@pytest.fixture(scope="module")
def vectors(golden: Path, golden_weights: Callable[[Path, str], dict[str, Tensor]]) -> Vectors:
    folder = golden / "rewards" / "imagebind"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    made = config["constructor"]
    towers = on_meta(lambda: Towers(constructed(made)))
    towers.load_state_dict({**golden_weights(folder, config["seed"]), MASK: causal_mask()}, assign=True)
    first, second = (dict(np.load(folder / name)) for name in ("io.npz", "media.npz"))
    return Vectors(config, first, second, ImageBindScorer(towers, CPU, config["seed"]))


def constructed(made: dict[str, int]) -> ImageBindSizes:
    vision, text, audio = (
        TowerSizes(made[f"{name}_embed_dim"], made[f"{name}_num_blocks"], made[f"{name}_num_heads"])
        for name in ("vision", "text", "audio")
    )
    return ImageBindSizes(vision, text, audio, made["out_embed_dim"])


def furthest(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return (found.double() - expected.double()).abs().max().item()


@pytest.mark.golden
def test_golden_texts(vectors: Vectors) -> None:
    ids = [in_context(encode(text), LongPrompts.KEEP_END) for text in vectors.config["prompts"]]
    np.testing.assert_array_equal(np.array(ids), vectors.io["text_ids"])
    assert furthest(vectors.towers.embed_texts(torch.tensor(ids)), vectors.tensor("text_emb")) < 1e-4


@pytest.mark.golden
def test_golden_sound_cuts(vectors: Vectors) -> None:
    for case in vectors.config["audio_cases"]:
        expected = [tuple(cut) for cut in vectors.config["audio_clip_samples_16k"][case]]
        assert list(sound_cuts(len(vectors.sound(case)))) == expected, case


@pytest.mark.golden
def test_golden_mel_pictures(vectors: Vectors) -> None:
    stored = [name for name in vectors.io if name.startswith("fbank_")]
    assert stored
    for name in stored:
        case = next(case for case in vectors.config["audio_cases"] if case.startswith(name.removeprefix("fbank_")))
        sound, expected = vectors.sound(case), vectors.tensor(name)
        views = sound_views(sound, sound_cuts(len(sound)))
        found = torch.stack([views.images[use] for use in views.uses])[: len(expected)]
        assert furthest(found, expected) < 2e-2, name
        assert (found - expected).abs().mean().item() < 5e-5, name


@pytest.mark.golden
def test_golden_sounds(vectors: Vectors) -> None:
    for index, case in enumerate(vectors.config["audio_cases"]):
        sound = vectors.sound(case)
        views = sound_views(sound, sound_cuts(len(sound)))
        found = vectors.towers.embed_sounds(torch.stack(views.images))[list(views.uses)]
        assert furthest(found, vectors.tensor("audio_clip_emb")[index]) < 5e-3, case
        assert furthest(found.mean(dim=0), vectors.tensor("audio_emb")[index]) < 5e-3, case


@pytest.mark.golden
def test_golden_sounds_from_the_stored_mel_pictures(vectors: Vectors) -> None:
    for name in [name for name in vectors.io if name.startswith("fbank_")]:
        cases = vectors.config["audio_cases"]
        index = next(i for i, case in enumerate(cases) if case.startswith(name.removeprefix("fbank_")))
        found = vectors.towers.embed_sounds(vectors.tensor(name))
        assert furthest(found, vectors.tensor("audio_clip_emb")[index][: len(found)]) < 5e-5, name


@pytest.mark.golden
def test_golden_frame_numbers(vectors: Vectors) -> None:
    for video, times in enumerate(vectors.config["video_times"]):
        num_frames = times["first_last_excl"][-1][1]
        pairs = frame_pairs(num_frames, num_frames / times["duration"])
        np.testing.assert_array_equal(np.array(pairs), vectors.io["video_frame_index"][video])


@pytest.mark.golden
def test_golden_pictures(vectors: Vectors) -> None:
    for video in range(len(vectors.config["videos"])):
        clip = vectors.clip(video)
        assert clip.frames is not None
        views = picture_views(clip.frames, clip.fps_hz)
        images = torch.stack([views.images[use] for use in views.uses])
        flat = images.flatten(1)
        assert furthest(flat.mean(dim=1), vectors.tensor("view_mean")[video]) < 1e-4
        assert furthest(flat.std(dim=1), vectors.tensor("view_std")[video]) < 1e-4
        if f"views_v{video}_first3" in vectors.io:
            assert furthest(images[:3], vectors.tensor(f"views_v{video}_first3")) < 2e-3
        found = vectors.towers.embed_images(images)
        assert furthest(found, vectors.tensor("video_view_emb")[video]) < 1e-5
        assert furthest(found.mean(dim=0), vectors.tensor("video_emb")[video]) < 1e-5


@pytest.mark.golden
def test_golden_scores(vectors: Vectors) -> None:
    clips = [vectors.clip(video) for video in range(len(vectors.config["videos"]))]
    for row, text in enumerate(vectors.config["prompts"]):
        found = [by_name(scores) for scores in vectors.scorer.score([scorable(clip, text) for clip in clips])]
        for video, scores in enumerate(found):
            expected = {
                "text_video": vectors.io["cos_text_video"][row, video],
                "text_audio": vectors.io["cos_text_audio"][row, video],
                "audio_video": vectors.io["cos_audio_video"][video, video],
            }
            for name, value in expected.items():
                assert scores[name].value == pytest.approx(float(value), abs=2e-5), (text, video, name)


@pytest.mark.golden
def test_golden_cosines_between_clips(vectors: Vectors) -> None:
    inputs = [
        vectors.scorer.inputs(scorable(vectors.clip(video)), {"audio_video"})
        for video in range(len(vectors.config["videos"]))
    ]
    embeddings = vectors.scorer.embed(inputs)
    for first, sound in enumerate(embeddings):
        for second, picture in enumerate(embeddings):
            found = cosines(replace(sound, video=picture.video))["audio_video"]
            assert found == pytest.approx(float(vectors.io["cos_audio_video"][first, second]), abs=2e-5)


@pytest.mark.golden
def test_golden_pictures_read_from_the_files(vectors: Vectors, media: Path) -> None:
    texts = vectors.config["prompts"]
    for video, name in enumerate(vectors.config["videos"]):
        clip = read_clip(media / name)
        assert clip.frames is not None
        index = vectors.io["video_frame_index"][video].reshape(-1)
        np.testing.assert_array_equal(clip.frames[index], vectors.media[f"frames_v{video}"])
        found = by_name(vectors.scorer.score([scorable(clip, texts[0])])[0])["text_video"].value
        assert found == pytest.approx(float(vectors.io["cos_text_video"][0, video]), abs=2e-5)


@pytest.mark.golden
def test_golden_long_prompts_lose_their_end_in_the_benchmark(vectors: Vectors) -> None:
    (name,) = (each for each in vectors.config["measured"] if each.endswith("_if_eot_were_cut"))
    row = int("".join(letter for letter in name if letter.isdigit()))
    ids = encode(vectors.config["prompts"][row])
    assert len(ids) == vectors.config["measured"]["long_prompt_tokens"]
    cut = torch.tensor([in_context(ids, LongPrompts.JAVISBENCH)])
    found = F.cosine_similarity(vectors.towers.embed_texts(cut), vectors.tensor("video_emb"))
    assert furthest(found, torch.tensor(vectors.config["measured"][name][0])) < 2e-5


@pytest.mark.golden
def test_sound_that_a_set_stores_at_16_khz_is_not_resampled_again(vectors: Vectors) -> None:
    """``audio_rates`` gives the rates of the original files; arrays named ``audio16k_…`` were resampled when they were stored."""
    stored = [name.removeprefix("audio16k_") for name in vectors.media if name.startswith("audio16k_")]
    other = replace(
        vectors, config={**vectors.config, "audio_rates": dict.fromkeys(vectors.config["audio_cases"], 44100)}
    )
    assert stored
    for case in stored:
        torch.testing.assert_close(other.sound(case), torch.from_numpy(vectors.media[f"audio16k_{case}"][0]))
        assert list(sound_cuts(len(other.sound(case)))) == [
            tuple(cut) for cut in vectors.config["audio_clip_samples_16k"][case]
        ]
