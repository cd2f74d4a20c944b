"""Codec and texts of a tiny JavisDiT v0.1 with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from avpref.errors import ConfigError, InputError, MediaError
from avpref.media.geometry import ClipShape
from avpref.media.reading import DecodedClip
from avpref.models.codecs.codec import PosteriorCodec, SampledCodec
from avpref.models.dual_stream.dual_inputs import TextLayout
from avpref.models.dual_stream.t5_text import sampled_prompt
from avpref.models.flow import Latents
from avpref.models.javisdit_v01.v01_base import V01Base
from avpref.models.javisdit_v01.v01_codec import V01Codec
from avpref.models.javisdit_v01.v01_settings import V01Settings
from avpref.models.javisdit_v01.v01_text import V01TextFiles

SHAPE = ClipShape(num_frames=20, height_px=32, width_px=40, fps_hz=24.0, sample_rate_hz=16000)


def clip_of(seed: int, shape: ClipShape = SHAPE) -> DecodedClip:
    draws = np.random.default_rng(seed)
    frames = draws.integers(0, 256, (shape.num_frames, shape.height_px, shape.width_px, 3), dtype=np.uint8)
    sound = draws.uniform(-0.5, 0.5, shape.num_samples).astype(np.float32)
    return DecodedClip(frames, shape.fps_hz, sound, shape.sample_rate_hz, shape.duration_s)


def tracks(latents: Latents) -> tuple[Tensor, Tensor]:
    assert latents.video is not None and latents.audio is not None
    return latents.video, latents.audio


@pytest.mark.parametrize(
    ("frames", "latents", "steps", "samples"),
    [(51, 15, 56, 34000), (102, 30, 112, 68000), (204, 60, 216, 136000), (408, 120, 432, 272000)],
)
@pytest.mark.parametrize("tail", ["corrected", "released"])
def test_lengths_are_those_of_the_release(frames: int, latents: int, steps: int, samples: int, tail: str) -> None:
    shape = ClipShape(frames, 240, 424, 24.0, 16000)
    codec = V01Codec(V01Settings.model_validate({"audio_tail": tail}), shape)
    assert codec.latent_shapes() == ((4, latents, 30, 53), (8, steps, 16)) == codec.encoded_shapes()
    assert shape.num_samples == samples


def test_clips_become_latents_and_back(settings: V01Settings) -> None:
    codec = V01Codec(settings, SHAPE)
    clips = [clip_of(1), clip_of(2)]
    video, audio = tracks(codec.encode(clips))
    assert (video.shape[1:], audio.shape[1:]) == codec.latent_shapes()
    for part, alone in zip((video, audio), tracks(codec.encode(clips[1:])), strict=True):
        assert torch.equal(part[1:], alone)
    for frames, sound in codec.decode(Latents(video, audio)):
        assert frames.shape == (20, 32, 40, 3) and frames.dtype == np.uint8
        assert sound.shape == (SHAPE.num_samples,) and np.abs(sound).max() <= 1
    assert isinstance(codec, PosteriorCodec) and isinstance(codec, SampledCodec)
    moments = codec.moments(clips)
    assert torch.equal(moments.video, video) and moments.audio_log_variance is not None
    assert clips[0].audio is not None
    mean, log_variance = codec.sound_moments(clips[0].audio)
    assert log_variance is not None
    assert torch.equal(mean, moments.audio[0]) and torch.equal(log_variance, moments.audio_log_variance[0])
    codec.release()
    assert torch.equal(tracks(codec.encode(clips[:1]))[0], video[:1])


def test_latents_are_samples_or_means_and_the_fingerprint_says_which(settings: V01Settings) -> None:
    sampled = V01Codec(settings, SHAPE)
    plain = V01Codec(settings.model_copy(update={"posterior": "mean"}), SHAPE)
    assert sampled.fingerprint != plain.fingerprint
    assert not plain.samples_audio and plain.moments([clip_of(1)]).audio_log_variance is None
    pairs = zip(*(tracks(codec.encode([clip_of(1)])) for codec in (sampled, plain)), strict=True)
    assert not any(torch.equal(first, second) for first, second in pairs)


def test_bad_clips_are_refused(settings: V01Settings) -> None:
    codec = V01Codec(settings, SHAPE)
    clip = clip_of(3)
    silent = DecodedClip(clip.frames, clip.fps_hz, None, 0, clip.duration_s)
    with pytest.raises(MediaError, match="without sound"):
        codec.encode([silent])
    with pytest.raises(ValueError, match="expected frames"):
        codec.encode([clip_of(3, ClipShape(21, 32, 40, 24.0, 16000))])
    with pytest.raises(ConfigError, match="at least"):
        V01Codec(V01Settings.model_validate({"network": {"fps_hz": 48.0}}), ClipShape(1, 32, 40, 48.0, 16000))


def test_states_of_a_text_are_its_tokens_and_its_priors(settings: V01Settings, tmp_path: Path) -> None:
    encoder, layout = V01Base(settings).text_encoder(tmp_path), TextLayout.of(settings.network)
    batch = encoder.encode(["A dog barks", "", "rain"])
    assert batch.states.shape == (3, layout.num_rows, layout.channels) == (3, *V01Base(settings).text_shape())
    tokens = [min(len(sampled_prompt(text)) + 1, layout.length) for text in ("A dog barks", "rain")]
    assert batch.mask.sum(1).tolist() == [layout.num_prior_rows + tokens[0], 0, layout.num_prior_rows + tokens[1]]
    priors = layout.priors(batch.states)
    spread = (0.5 * priors.log_variance).exp()
    noise = (priors.tokens - priors.mean)[0] / spread[0]
    assert noise.std().item() == pytest.approx(1.0, abs=0.4)
    redrawn = layout.redrawn(batch.states, torch.zeros_like(priors.mean))
    torch.testing.assert_close(layout.priors(redrawn).tokens, priors.mean)
    assert torch.equal(layout.tokens(redrawn), layout.tokens(batch.states))


def test_states_are_equal_in_any_batch_and_from_the_kept_files(settings: V01Settings, tmp_path: Path) -> None:
    texts = ["a dog barks", "rain on a roof"]
    encoder = V01TextFiles(settings).load()
    alone = [encoder.encode([text]).states[0] for text in texts]
    kept = V01Base(settings).text_encoder(tmp_path)
    for _ in range(2):
        assert all(torch.equal(one, other) for one, other in zip(kept.encode(texts).states, alone, strict=True))


@pytest.mark.parametrize(
    "change", [{"prior_seed": 1}, {"prior_draw": "mean"}, {"prompts": "plain"}, {"text_dtype": "bfloat16"}]
)
def test_what_changes_states_changes_the_fingerprint(settings: V01Settings, change: dict[str, object]) -> None:
    first = V01TextFiles(settings)
    other = V01TextFiles(settings.model_copy(update=change))
    assert first.fingerprint != other.fingerprint
    states = [files.load().encode(["A bell rings"]).states for files in (first, other)]
    assert not torch.equal(states[0], states[1].to(states[0]))


def test_tensors_of_the_priors_training_are_ignored_and_all_else_is_strict(
    settings: V01Settings, weights: Path, tmp_path: Path
) -> None:
    tensors = load_file(weights / "prior" / "model.safetensors")
    of_training = {**tensors, "discriminator.cls_token": torch.zeros(1, 1, 8), "text_encoder.a": torch.zeros(1)}
    save_file(of_training, tmp_path / "trained.safetensors")
    trained = V01TextFiles(settings.model_copy(update={"prior": str(tmp_path / "trained.safetensors")}))
    assert torch.equal(trained.load().encode(["rain"]).states, V01TextFiles(settings).load().encode(["rain"]).states)
    del tensors["out_proj.bias"]
    save_file(tensors, tmp_path / "short.safetensors")
    with pytest.raises(InputError, match=r"missing \(out_proj.bias\)"):
        V01TextFiles(settings.model_copy(update={"prior": str(tmp_path / "short.safetensors")})).load()
    wide = {**settings.model_dump(mode="json"), "imagebind_text": {"dim": 16, "num_blocks": 2, "num_heads": 2}}
    with pytest.raises(InputError, match="ImageBind's text tower"):
        V01TextFiles(V01Settings(**wide)).load()
