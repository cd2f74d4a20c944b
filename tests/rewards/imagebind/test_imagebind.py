"""ImageBind: towers, loading, scores, and clips and texts that are not judged."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from avpref.domain import Score, ScoreStatus
from avpref.errors import InputError
from avpref.media.reading import DecodedClip
from avpref.models.imagebind.clip_text import LongPrompts, encode, in_context
from avpref.models.imagebind.imagebind_towers import (
    FULL,
    TINY,
    AttentionWithExtraKey,
    Modality,
    Towers,
)
from avpref.rewards.imagebind.imagebind import (
    MASK,
    MAX_TEXT_IDS,
    ImageBindScorer,
    cosines,
    load_imagebind,
    random_towers,
    read_towers,
    text_reason,
    tiny_imagebind,
)
from avpref.rewards.model_scorer import CPU, Placement
from avpref.rewards.protocol import ScorableClip
from avpref.storage.weight_files import on_meta

HERE = Path(__file__).parents[1]
NAMES = ("text_video", "text_audio", "audio_video")


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published file; a line may stand for one tensor per block."""
    found = {}
    for line in (HERE / "keys" / "imagebind.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        name, shape = line.split()
        sizes = () if shape == "scalar" else tuple(int(size) for size in shape.split("x"))
        blocks = re.search(r"\{0-(\d+)\}", name)
        names = (
            [name] if blocks is None else [name.replace(blocks[0], str(block)) for block in range(int(blocks[1]) + 1)]
        )
        found.update({each: sizes for each in names})
    return found


def noisy_clip(seed: int, height: int = 48, width: int = 80, rate_hz: int = 16000) -> DecodedClip:
    random = np.random.default_rng(seed)
    frames = random.integers(0, 256, (20, height, width, 3)).astype(np.uint8)
    audio = (0.1 * random.standard_normal(int(2.5 * rate_hz))).astype(np.float32)
    return DecodedClip(frames, 8.0, audio, rate_hz, 2.5)


def scorable(clip: DecodedClip, text: str = "a dog barks", name: str = "c") -> ScorableClip:
    return ScorableClip(name, text, clip)


def by_name(scores: list[Score]) -> dict[str, Score]:
    return {score.metric: score for score in scores}


@pytest.fixture(scope="module")
def tiny() -> ImageBindScorer:
    return tiny_imagebind()


# ---- the towers


def test_full_size_has_the_published_tensors() -> None:
    towers = on_meta(lambda: Towers(FULL))
    own = {name: tuple(tensor.shape) for name, tensor in towers.state_dict().items()}
    kept = ("vision", "text", "audio")
    published = {name: shape for name, shape in published_shapes().items() if name.split(".")[1] in kept}
    assert own == published
    assert len(own) == 864 and sum(math.prod(shape) for shape in own.values()) == 1_073_103_659


def test_towers_of_some_modalities() -> None:
    towers = on_meta(lambda: Towers(TINY, (Modality.VISION, Modality.AUDIO)))
    assert list(towers.modality_trunks) == [Modality.VISION, Modality.AUDIO]
    assert not [name for name in towers.state_dict() if ".text." in name]


def test_rows_are_their_own() -> None:
    towers = random_towers(TINY, CPU)
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(5, 3, 2, 224, 224, generator=generator)
    sounds = torch.randn(5, 1, 128, 204, generator=generator)
    texts = torch.tensor([in_context(encode(f"{n} dogs" * n), LongPrompts.KEEP_END) for n in range(1, 6)])
    for embed, inputs in ((towers.embed_images, images), (towers.embed_sounds, sounds), (towers.embed_texts, texts)):
        together = embed(inputs)
        alone = torch.cat([embed(inputs[n : n + 1]) for n in range(5)])
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
        assert (together[0] - together[1]).abs().max() > 1e-4


def test_lengths_are_the_scales() -> None:
    towers = random_towers(TINY, CPU)
    with torch.no_grad():
        for name, scale in (("text", 1000.0), ("audio", 20.0)):
            towers.get_parameter(f"modality_postprocessors.{name}.1.log_logit_scale").copy_(
                torch.tensor(math.log(scale))
            )
    images, sounds = torch.zeros(1, 3, 2, 224, 224), torch.zeros(1, 1, 128, 204)
    texts = torch.tensor([in_context(encode("dog"), LongPrompts.KEEP_END)])
    assert towers.embed_images(images).norm().item() == pytest.approx(1.0, rel=1e-5)
    assert towers.embed_sounds(sounds).norm().item() == pytest.approx(20.0, rel=1e-5)
    assert towers.embed_texts(texts).norm().item() == pytest.approx(100.0, rel=1e-5)


def test_text_after_the_end_is_not_read() -> None:
    towers = random_towers(TINY, CPU)
    ids = torch.tensor([in_context(encode("a dog"), LongPrompts.KEEP_END)])
    after = ids.clone()
    after[0, 4:] = 320
    torch.testing.assert_close(towers.embed_texts(ids), towers.embed_texts(after))


def test_the_extra_token_is_that_of_torch() -> None:
    reference = torch.nn.MultiheadAttention(16, 2, add_bias_kv=True, batch_first=True).eval()
    own = AttentionWithExtraKey(16, 2)
    own.load_state_dict(reference.state_dict())
    states = torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(own(states), reference(states, states, states, need_weights=False)[0])


# ---- loading


@pytest.fixture
def tiny_as_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading builds the smallest towers, so that files of the published layout stay small."""
    monkeypatch.setattr("avpref.rewards.imagebind.imagebind.FULL", TINY)


def tiny_file() -> dict[str, Tensor]:
    """A file of the published layout, the other modalities included."""
    others = {
        f"modality_{part}.{name}.x": torch.zeros(1)
        for part in ("preprocessors", "trunks", "heads", "postprocessors")
        for name in ("depth", "thermal", "imu")
    }
    return {**random_towers(TINY, CPU).state_dict(), **others}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_loaded_scorer_gives_the_numbers_of_its_weights(
    tiny_as_full: None, tiny: ImageBindScorer, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"imagebind{suffix}"
    if suffix == ".pth":
        torch.save(tiny_file(), path)
    else:
        save_file({name: tensor.contiguous() for name, tensor in tiny_file().items()}, path)
    loaded = load_imagebind(path, CPU, "file")
    clips = [scorable(noisy_clip(seed)) for seed in range(2)]
    assert loaded.score(clips) == tiny.score(clips)
    assert loaded.terms.licence == "CC-BY-NC-SA-4.0" and not loaded.terms.commercial_use
    assert loaded.terms.is_meaningful and not tiny.terms.is_meaningful


def test_only_the_wanted_towers_are_read(tiny_as_full: None, tmp_path: Path) -> None:
    path = tmp_path / "imagebind.pth"
    torch.save(tiny_file(), path)
    assert list(read_towers(path, CPU, (Modality.TEXT,)).modality_trunks) == [Modality.TEXT]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda file: file.pop("modality_trunks.audio.blocks.0.attn.bias_k"), "blocks.0.attn.bias_k"),
        (lambda file: file.update({"modality_trunks.text.blocks.9.x": torch.zeros(1)}), "text.blocks.9.x"),
        (lambda file: file.update({"modality_heads.vision.2.weight": torch.zeros(2, 3)}), "modality_heads.vision.2"),
        (lambda file: file.update({MASK: torch.zeros(77, 77)}), "not causal"),
        (lambda file: (file.clear(), file.update(model={"a": torch.zeros(1)})), "missing"),
    ],
    ids=["missing", "unexpected", "another shape", "mask", "another layout"],
)
def test_a_wrong_file_is_refused_by_name(
    tiny_as_full: None, tmp_path: Path, change: Callable[[dict[str, Any]], Any], named: str
) -> None:
    file: dict[str, Any] = tiny_file()
    change(file)
    torch.save(file, tmp_path / "imagebind.pth")
    with pytest.raises(InputError, match=re.escape(named)):
        load_imagebind(tmp_path / "imagebind.pth", CPU, "file")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_half_a_file_is_refused(tiny_as_full: None, tmp_path: Path, share: float) -> None:
    path = tmp_path / "imagebind.pth"
    torch.save(tiny_file(), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError):
        load_imagebind(path, CPU, "file")


def test_the_published_sizes_are_asked_for(tmp_path: Path) -> None:
    torch.save(tiny_file(), tmp_path / "imagebind.pth")
    with pytest.raises(InputError, match="of another shape"):
        load_imagebind(tmp_path / "imagebind.pth", CPU, "file")


# ---- the scorer


def test_a_clips_scores_do_not_depend_on_the_batch(tiny: ImageBindScorer) -> None:
    clips = [
        scorable(noisy_clip(0), "a dog"),
        scorable(noisy_clip(1, 64, 64), "a cat " * 70),
        scorable(noisy_clip(2, 97, 31, 8000), "rain"),
        scorable(replace(noisy_clip(3), audio=None), "rain"),
        scorable(replace(noisy_clip(4), frames=None), "rain"),
        scorable(noisy_clip(0), "a dog"),
    ]
    together = tiny.score(clips)
    assert together[0] == together[-1]
    for clip, row in zip(clips, together, strict=True):
        for score, alone in zip(row, tiny.score([clip])[0], strict=True):
            assert (score.status, score.reason) == (alone.status, alone.reason)
            assert score.value == pytest.approx(alone.value, abs=1e-5)
    assert [score.status for score in together[3]] == ["ok", "skipped", "skipped"]
    assert [score.status for score in together[4]] == ["skipped", "ok", "skipped"]


def test_different_clips_and_texts_score_differently(tiny: ImageBindScorer) -> None:
    first, second, third = (
        by_name(row)
        for row in tiny.score(
            [
                scorable(noisy_clip(0), "a dog"),
                scorable(noisy_clip(1), "a dog"),
                scorable(noisy_clip(0), "rain on a roof"),
            ]
        )
    )
    assert all(first[name].value != second[name].value for name in NAMES)
    assert first["text_video"].value != third["text_video"].value
    assert first["audio_video"].value == third["audio_video"].value


def test_long_prompts_are_told_apart_unless_the_benchmark_is_followed(tiny: ImageBindScorer) -> None:
    benchmark = ImageBindScorer(tiny.towers, CPU, "w", long_prompts=LongPrompts.JAVISBENCH)
    clips = [scorable(noisy_clip(0), "dog " * 90), scorable(noisy_clip(0), "rain " * 90)]
    read = [by_name(row)["text_video"].value for row in tiny.score(clips)]
    assert read[0] != pytest.approx(read[1], abs=1e-5)
    cut = [by_name(row)["text_video"].value for row in benchmark.score(clips)]
    assert cut[0] == pytest.approx(cut[1], abs=1e-6)


def test_embeddings_are_returned_only_if_they_are_stored(tiny: ImageBindScorer) -> None:
    prepared = [tiny.prepare(scorable(noisy_clip(0))), tiny.prepare(scorable(replace(noisy_clip(1), audio=None)))]
    whole, mute = tiny.embed([each.inputs for each in prepared if each.inputs is not None])
    assert whole.text is not None and whole.video is not None and whole.audio is not None
    assert {tuple(each.shape) for each in (whole.text, whole.video, whole.audio)} == {(TINY.embed_dim,)}
    assert mute.audio is None and mute.video is not None
    expected = {score.metric: score.value for score in tiny.score([scorable(noisy_clip(0))])[0]}
    assert cosines(whole) == pytest.approx(expected, abs=1e-6)


def test_the_first_channel_is_what_is_heard(tiny: ImageBindScorer) -> None:
    clip = noisy_clip(0)
    assert clip.audio is not None
    left, right = clip.audio, np.roll(clip.audio, 1000)
    stereo = replace(clip, audio=(left + right) / 2, channels=np.stack([left, right]))
    assert tiny.score([scorable(stereo)]) == tiny.score([scorable(clip)])
    deaf = replace(clip, audio=right / 2, channels=np.stack([np.zeros_like(left), right]))
    scores = by_name(tiny.score([scorable(deaf)])[0])
    assert scores["text_video"].status == ScoreStatus.OK
    assert [scores[name].reason for name in ("text_audio", "audio_video")] == ["silent", "silent"]


def test_low_rates_and_odd_sizes_are_scored(tiny: ImageBindScorer) -> None:
    for clip in (noisy_clip(0, rate_hz=8000), noisy_clip(1, 31, 97), noisy_clip(2, 225, 224)):
        assert all(score.status == ScoreStatus.OK for score in tiny.score([scorable(clip)])[0])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty text"),
        (" \n", "empty text"),
        ("&nbsp;", "empty text"),
        ("a dog <|endoftext|> barks", "special mark"),
        ("dog " * 400, "402 tokens"),
    ],
)
def test_texts_that_cannot_be_compared_with_are_skipped(tiny: ImageBindScorer, text: str, reason: str) -> None:
    scores = by_name(tiny.score([scorable(noisy_clip(0), text)])[0])
    assert scores["audio_video"].status == ScoreStatus.OK
    for name in ("text_video", "text_audio"):
        assert scores[name].status == ScoreStatus.SKIPPED and reason in scores[name].reason


def test_the_longest_text_that_is_taken() -> None:
    assert not text_reason("dog " * (MAX_TEXT_IDS - 2))
    assert text_reason("dog " * (MAX_TEXT_IDS - 1))


def test_a_still_picture_is_not_compared_with_sound(tiny: ImageBindScorer) -> None:
    clip = noisy_clip(0)
    assert clip.frames is not None
    still = replace(clip, frames=np.repeat(clip.frames[:1], len(clip.frames), axis=0))
    assert by_name(tiny.score([scorable(still)])[0])["audio_video"].status == ScoreStatus.SKIPPED


def test_half_precision_gives_nearly_the_same_numbers(tiny: ImageBindScorer) -> None:
    half = tiny_imagebind(Placement(dtype=torch.bfloat16))
    assert half.fingerprint != tiny.fingerprint
    clips = [scorable(noisy_clip(seed)) for seed in range(3)]
    for row, rough in zip(tiny.score(clips), half.score(clips), strict=True):
        assert [score.value for score in rough] == pytest.approx([score.value for score in row], abs=5e-2)


def test_the_fingerprint_knows_what_moves_a_number(tiny: ImageBindScorer) -> None:
    def made(weights_id: str = "a", long_prompts: LongPrompts = LongPrompts.KEEP_END, **placed: Any) -> str:
        return ImageBindScorer(tiny.towers, Placement(**placed), weights_id, long_prompts=long_prompts).fingerprint

    assert made() == made() == made(batch_clips=1)
    others = {made("b"), made(long_prompts=LongPrompts.JAVISBENCH), made(dtype=torch.float16)}
    assert len(others | {made()}) == 4
