"""DeSync with a small network: windows, definitions, what is refused, and that clips never mix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from avpref.domain import METRIC_BY_NAME, ScoreStatus
from avpref.errors import InputError
from avpref.media.reading import DecodedClip
from avpref.rewards.model_scorer import NotScorable, Placement
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.synchformer.synchformer import (
    FULL,
    SYNCHFORMER_TERMS,
    TINY,
    WindowLayout,
    audio_features,
    estimate_desync,
    load_synchformer,
    log_mel_segments,
    segments_of_windows,
    tiny_synchformer,
    video_features,
)
from avpref.rewards.synchformer.synchformer_towers import DividedAttention


def film(
    duration_s: float, seed: int = 0, fps_hz: float = 25.0, rate_hz: int = 16000, size: tuple[int, int] = (40, 56)
) -> DecodedClip:
    """A block that wanders over noise, and noise that swells."""
    random = np.random.default_rng(seed)
    frames = random.integers(0, 60, (round(duration_s * fps_hz), *size, 3)).astype(np.uint8)
    for k, frame in enumerate(frames):
        left = (3 * k + 5 * seed) % (size[1] // 2)
        frame[: size[0] // 2, left : left + size[1] // 3] = 230
    num_samples = round(duration_s * rate_hz)
    swell = 0.6 + 0.4 * np.sin(np.linspace(0.0, 9.0 + seed, num_samples))
    audio = (0.1 * swell * random.standard_normal(num_samples)).astype(np.float32)
    return DecodedClip(frames, fps_hz, audio, rate_hz, duration_s)


def scorable(clip: DecodedClip, name: str = "c", text: str = "a dog barks") -> ScorableClip:
    return ScorableClip(name, text, clip)


@pytest.mark.parametrize(
    ("num_segments", "starts"),
    [(14, [0]), (15, [0, 1]), (24, [0, 10]), (28, [0, 14]), (30, [0, 14, 16]), (43, [0, 14, 28, 29])],
)
def test_long_clips_are_laid_out_in_windows_the_last_from_the_end(num_segments: int, starts: list[int]) -> None:
    found = segments_of_windows(num_segments, WindowLayout.JAVISBENCH)
    assert found.tolist() == [list(range(start, start + 14)) for start in starts]


def test_short_clips_are_completed_from_their_start() -> None:
    assert segments_of_windows(11, WindowLayout.JAVISBENCH).tolist() == [[*range(11), 0, 1, 2]]
    assert segments_of_windows(5, WindowLayout.JAVISBENCH).tolist() == [[*range(5), *range(5), *range(4)]]
    assert segments_of_windows(1, WindowLayout.JAVISBENCH).tolist() == [[0] * 14]


def test_the_other_benchmark_takes_both_ends() -> None:
    assert segments_of_windows(24, WindowLayout.AV_BENCHMARK).tolist() == [list(range(14)), list(range(10, 24))]
    assert segments_of_windows(14, WindowLayout.AV_BENCHMARK).tolist() == [list(range(14))] * 2
    with pytest.raises(NotScorable, match="too short: 11 segments"):
        segments_of_windows(11, WindowLayout.AV_BENCHMARK)


@given(st.integers(1, 200), st.integers(1, 20))
def test_every_segment_counts_in_some_window(num_segments: int, length: int) -> None:
    found = segments_of_windows(num_segments, WindowLayout.JAVISBENCH, length)
    assert found.shape[1] == length and set(found.flatten().tolist()) == set(range(num_segments))


def test_equally_likely_offsets_are_expected_at_22_21_s() -> None:
    assert estimate_desync(torch.zeros(2, 21)).expected_s == pytest.approx(22 / 21)


@given(st.integers(0, 20), st.integers(0, 20))
def test_certain_logits_give_both_numbers_and_windows_are_averaged(first: int, second: int) -> None:
    logits = 1e3 * functional.one_hot(torch.tensor([first, second]), 21).float()
    expected = (abs(first - 10) + abs(second - 10)) / 10
    found = estimate_desync(logits)
    assert found.likeliest_s == pytest.approx(expected) and found.expected_s == pytest.approx(expected)
    assert estimate_desync(logits[:1]).likeliest_s == abs(first - 10) / 5
    assert estimate_desync(logits.flip(-1)).expected_s == pytest.approx(found.expected_s)


def test_full_sizes_give_the_published_numbers_of_tokens() -> None:
    assert (FULL.video_steps, FULL.num_patches, FULL.audio_grid, FULL.comparator_tokens) == (8, 196, (12, 6), 198)


def test_divided_attention_is_attention_within_groups() -> None:
    """Against the formula, token by token: own group and class token; the class token sees all."""
    network = tiny_synchformer()._network
    layer, steps, places = network.get_submodule("vfeat_extractor.blocks.0.attn"), 3, 4
    assert isinstance(layer, DividedAttention)
    tokens = torch.randn(2, 1 + steps * places, TINY.dim, generator=torch.Generator().manual_seed(0))
    query, key, value = layer.qkv(tokens).unflatten(-1, (3, TINY.heads, -1)).unbind(2)
    step, place = torch.arange(steps).repeat_interleave(places), torch.arange(places).repeat(steps)
    stream = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(1))
    over_space, over_time = layer.over_space(tokens, steps, stream), layer.over_time(tokens, steps, stream)
    for found, group in ((over_space, step), (over_time, place)):
        sees = torch.ones(len(group) + 1, len(group) + 1, dtype=torch.bool)
        sees[1:, 1:] = group[:, None] == group
        logits = torch.einsum("bqhd,bkhd->bhqk", query, key) / (TINY.dim // TINY.heads) ** 0.5
        weights = logits.masked_fill(~sees, -torch.inf).softmax(dim=-1)
        expected = stream + layer.proj(torch.einsum("bhqk,bkhd->bqhd", weights, value).flatten(2))
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_pooling_is_the_first_token_of_the_whole_layer() -> None:
    """Against the library's encoder layer with the same tensors."""
    pool = tiny_synchformer()._network.vfeat_extractor.spatial_attn_agg
    whole = torch.nn.TransformerEncoderLayer(
        TINY.dim,
        TINY.heads,
        4 * TINY.dim,
        activation="gelu",
        batch_first=True,
        norm_first=True,
        layer_norm_eps=pool.norm1.eps,
    ).eval()
    whole.load_state_dict({name: tensor for name, tensor in pool.state_dict().items() if name != "cls_token"})
    tokens = torch.randn(3, 5, TINY.dim, generator=torch.Generator().manual_seed(1))
    expected = whole(torch.cat([pool.cls_token.expand(3, -1, -1), tokens], dim=1))[:, 0]
    torch.testing.assert_close(pool(tokens), expected, atol=1e-6, rtol=1e-5)


def test_patches_are_those_of_the_convolution() -> None:
    tower = tiny_synchformer()._network.vfeat_extractor
    frames = torch.randn(2, 16, 32, 32, 3, generator=torch.Generator().manual_seed(2))
    expected = tower.patch_embed_3d["proj"](frames.permute(0, 4, 1, 2, 3)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(tower._patches(frames), expected, atol=1e-5, rtol=1e-5)


def test_features_of_a_segment_do_not_depend_on_its_neighbours() -> None:
    network, random = tiny_synchformer()._network, torch.Generator().manual_seed(3)
    frames = torch.randint(0, 256, (8 * 21, 32, 32, 3), generator=random, dtype=torch.uint8)
    mel = log_mel_segments(0.1 * torch.randn(5120 * 21, generator=random))
    video, audio = video_features(network, frames), audio_features(network, mel)
    assert video.shape == (20, 8, TINY.dim) and audio.shape == (20, 6, TINY.dim)
    for k in (0, 7, 19):
        torch.testing.assert_close(video_features(network, frames[8 * k : 8 * k + 16])[0], video[k])
        torch.testing.assert_close(audio_features(network, mel[k : k + 1])[0], audio[k])


def test_log_mel_segments_are_computed_separately() -> None:
    audio = torch.randn(5120 * 4, generator=torch.Generator().manual_seed(4))
    whole = log_mel_segments(audio)
    assert whole.shape == (3, 128, 66)
    torch.testing.assert_close(log_mel_segments(audio[5120:15360])[0], whole[1])
    assert torch.all(whole[:, :, -1] == torch.tensor(4.2677393 / (2 * 4.5689974)))


def test_clips_of_different_lengths_in_one_batch_never_mix() -> None:
    """WindowLayout: one that is completed, one that is exact, two and three; in any order and alone, the same numbers."""
    scorer = tiny_synchformer(Placement(batch_clips=8))
    clips = [scorable(film(length_s, seed), f"c{seed}") for seed, length_s in enumerate((2.0, 4.8, 5.6, 10.4, 0.64))]
    together = scorer.score(clips)
    assert scorer.score(clips[::-1]) == together[::-1]
    assert [scorer.score([clip])[0] for clip in clips] == together
    assert tiny_synchformer(Placement(batch_clips=2)).score(clips) == together
    assert len({row[1].value for row in together}) == len(clips)


def test_a_clip_s_number_is_the_mean_over_its_windows() -> None:
    scorer, clip = tiny_synchformer(), film(5.6)
    prepared = scorer.prepare(scorable(clip)).inputs
    assert (
        prepared is not None and prepared.windows.tolist() == segments_of_windows(16, WindowLayout.JAVISBENCH).tolist()
    )
    network = scorer._network
    video, audio = video_features(network, prepared.frames), audio_features(network, prepared.mel)
    apart = [estimate_desync(network(video[None, row], audio[None, row])) for row in prepared.windows]
    likeliest, expected = scorer.score([scorable(clip)])[0]
    assert likeliest.value == pytest.approx(np.mean([each.likeliest_s for each in apart]))
    assert expected.value == pytest.approx(np.mean([each.expected_s for each in apart]), abs=1e-6)


@pytest.mark.parametrize(
    ("fps_hz", "rate_hz", "size"),
    [(16.0, 8000, (64, 64)), (24000 / 1001, 44100, (63, 37)), (30.0, 48000, (33, 95)), (60.0, 22050, (31, 500))],
)
def test_films_of_any_rate_and_size(fps_hz: float, rate_hz: int, size: tuple[int, int]) -> None:
    scorer = tiny_synchformer()
    prepared = scorer.prepare(scorable(film(4.0, fps_hz=fps_hz, rate_hz=rate_hz, size=size))).inputs
    assert prepared is not None and prepared.frames.shape == (96, 32, 32, 3) and prepared.mel.shape == (11, 128, 66)


def test_both_tracks_are_cut_to_as_many_segments() -> None:
    scorer, clip = tiny_synchformer(), film(4.0)
    assert clip.audio is not None and clip.frames is not None
    for cut in (replace(clip, audio=clip.audio[:30000]), replace(clip, frames=clip.frames[:50])):
        prepared = scorer.prepare(scorable(cut)).inputs
        assert prepared is not None and len(prepared.mel) == len(prepared.frames) // 8 - 1 < 11


def bad(kind: str) -> DecodedClip:
    clip = film(4.0)
    assert clip.audio is not None and clip.frames is not None
    match kind:
        case "0.3 s":
            return film(0.3)
        case "0.6 s":
            return film(0.6)
        case "little sound":
            return replace(clip, audio=clip.audio[:10239])
        case "silence":
            return replace(clip, audio=np.zeros_like(clip.audio))
        case "broken sound":
            return replace(clip, audio=np.full_like(clip.audio, np.nan))
        case _:
            return replace(clip, frames=np.repeat(clip.frames[:1], len(clip.frames), axis=0))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("0.3 s", "too short"),
        ("0.6 s", "too short"),
        ("little sound", "too short"),
        ("silence", "silent"),
        ("broken sound", "silent"),
        ("still picture", "does not move"),
    ],
)
def test_what_has_no_offset_gets_a_reason_and_no_number(kind: str, why: str) -> None:
    for score in tiny_synchformer().score([scorable(bad(kind))])[0]:
        assert score.status == ScoreStatus.SKIPPED and score.value is None and why in score.reason


def test_the_other_benchmark_skips_clips_under_4_8_s() -> None:
    scorer = tiny_synchformer(windows=WindowLayout.AV_BENCHMARK)
    short, long = scorer.score([scorable(film(4.0)), scorable(film(4.8))])
    assert all(score.status == ScoreStatus.SKIPPED and "too short" in score.reason for score in short)
    assert all(score.status == ScoreStatus.OK for score in long)


def test_text_plays_no_part() -> None:
    scorer, clip = tiny_synchformer(), film(1.0)
    texts = ("", "a dog barks", "word " * 400, "<|VQ_reward|>")
    assert len({scorer.score([scorable(clip, text=text)])[0][1].value for text in texts}) == 1


def test_bfloat16_is_near_float32() -> None:
    clip = scorable(film(2.0))
    exact, rough = (
        tiny_synchformer(Placement(dtype=dtype)).score([clip])[0][1].value for dtype in (torch.float32, torch.bfloat16)
    )
    assert exact is not None and rough == pytest.approx(exact, abs=5e-2)


def test_the_fingerprint_covers_what_moves_a_number() -> None:
    scorers = [
        tiny_synchformer(),
        tiny_synchformer(windows=WindowLayout.AV_BENCHMARK),
        tiny_synchformer(Placement(dtype=torch.bfloat16)),
        tiny_synchformer(sizes=replace(TINY, depth=2)),
    ]
    assert len({scorer.fingerprint for scorer in scorers}) == len(scorers)
    assert tiny_synchformer(Placement(batch_clips=1)).fingerprint == scorers[0].fingerprint
    assert not scorers[0].terms.is_meaningful and not SYNCHFORMER_TERMS.commercial_use


def test_metrics_are_lower_is_better_seconds() -> None:
    first, second = tiny_synchformer().metrics
    assert first == METRIC_BY_NAME["desync"] and second == replace(first, name="desync_expected")


def damaged(kind: str) -> dict[str, object]:
    """Files of weights that are not this model's; shapes alone, so small."""
    state: dict[str, object] = dict(tiny_synchformer()._network.state_dict())
    match kind:
        case "pickled run":
            return {"model": state, "epoch": 3}
        case "another model":
            return {"conv.weight": torch.zeros(3)}
        case _:
            return state


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("pickled run", "more than tensors: model, epoch"),
        ("another model", "unexpected .conv.weight"),
        ("another size", "of another shape .vfeat_extractor.cls_token"),
    ],
)
def test_another_file_of_weights_is_refused_by_name(tmp_path: Path, kind: str, named: str) -> None:
    torch.save(damaged(kind), tmp_path / "weights.pth")
    with pytest.raises(InputError, match=named):
        load_synchformer(tmp_path / "weights.pth", Placement(), "w")


def test_a_half_downloaded_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(damaged("whole"), path)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(InputError, match="cannot be read"):
        load_synchformer(path, Placement(), "w")
    with pytest.raises(InputError, match="absent"):
        load_synchformer(tmp_path / "nothing.pth", Placement(), "w")
