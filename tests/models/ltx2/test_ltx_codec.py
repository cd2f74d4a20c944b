"""Codec and text states of the three versions equal those of diffusers' pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_ltx import save_tiny_ltx

from avpref.errors import InputError, MediaError
from avpref.media.geometry import ClipShape
from avpref.media.reading import DecodedClip
from avpref.media.spectra import RATE_HZ, log_mel, resample
from avpref.models.flow import Latents
from avpref.models.ltx2.ltx_codec import LtxCodec, LtxCodecFiles
from avpref.models.ltx2.ltx_components import load_audio_vae, load_tokenizer
from avpref.models.ltx2.ltx_folder import LtxSource, open_folder
from avpref.models.ltx2.ltx_grid import pack_audio, unpack_audio
from avpref.models.ltx2.ltx_text import LtxTextFiles, require_length
from avpref.models.ltx2.ltx_versions import LtxVersion
from avpref.models.umt5 import CachedText

TEXTS = ("a dog barks.", "rain, and a long way home")


VERSIONS = [
    LtxVersion.V2_3,
    *(pytest.param(version, marks=pytest.mark.slow) for version in LtxVersion if version != "2.3"),
]


@pytest.fixture(scope="module", params=VERSIONS, ids=str)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LtxVersion, Path]:
    version: LtxVersion = request.param
    return version, save_tiny_ltx(tmp_path_factory.mktemp("ltx"), version)


@pytest.fixture
def codec(path: tuple[LtxVersion, Path]) -> LtxCodec:
    version, folder = path
    shape = ClipShape(9, 64, 64, 24.0, version.traits.sample_rate_hz)
    return LtxCodec(LtxCodecFiles(LtxSource(version, str(folder))), shape)


def clips(shape: ClipShape, count: int) -> list[DecodedClip]:
    rng = np.random.Generator(np.random.Philox(count))
    size = (shape.num_frames, shape.height_px, shape.width_px, 3)
    sounds = (0.2 * rng.standard_normal((count, 2, shape.num_samples))).astype(np.float32)
    return [
        DecodedClip(
            rng.integers(0, 256, size, np.uint8),
            shape.fps_hz,
            sound.mean(axis=0),
            shape.sample_rate_hz,
            shape.duration_s,
            channels=sound,
        )
        for sound in sounds
    ]


def test_latents_have_the_shapes_of_generated_ones(codec: LtxCodec) -> None:
    two = clips(codec.shape, 2)
    latents = codec.encode(two)
    assert latents.video is not None and latents.audio is not None
    assert latents.video.shape == (2, 128, 2, 2, 2)
    assert latents.audio.shape == (2, 8, 9, 16)
    for row, clip in enumerate(two):
        alone = codec.encode([clip])
        assert torch.equal(alone.video[0], latents.video[row])  # type: ignore[index]
        assert torch.equal(alone.audio[0], latents.audio[row])  # type: ignore[index]


def test_audio_latents_are_normalised_after_packing(codec: LtxCodec) -> None:
    (clip,) = clips(codec.shape, 1)
    vae = load_audio_vae(codec.files.source.folder, torch.float32, "cpu")
    assert clip.channels is not None
    spectrum = log_mel(resample(torch.from_numpy(clip.channels), codec.shape.sample_rate_hz, RATE_HZ))
    with torch.no_grad():
        encoded = vae.encoder(spectrum[None])[0, :8, :9]
    for channel, frame, row in ((0, 0, 0), (3, 5, 7), (7, 8, 15)):
        index = channel * 16 + row
        expected = (encoded[channel, frame, row] - vae.latents_mean[index]) / vae.latents_std[index]
        torch.testing.assert_close(codec.encode([clip]).audio[0, channel, frame, row], expected)  # type: ignore[index]


def test_decoded_clips_equal_the_pipeline(codec: LtxCodec) -> None:
    """diffusers' steps after sampling: denormalise, decode, to pixels; denormalise, unpack, decode, vocode."""
    from diffusers import LTX2Pipeline

    codec.encode(clips(codec.shape, 1))
    vae, audio_vae, vocoder = codec._video_vae, codec._audio_vae, codec._vocoder
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LTX2Pipeline, "__init__", lambda *args: None)
        pipeline: Any = LTX2Pipeline()
    generator = torch.Generator().manual_seed(3)
    video, audio = torch.randn(1, 128, 2, 2, 2, generator=generator), torch.randn(1, 8, 9, 16, generator=generator)
    ((frames, sound),) = codec.decode(Latents(video, audio))
    with torch.no_grad():
        data = pipeline._denormalize_latents(video, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
        pixels = vae.decode(data, None, return_dict=False)[0][0]
        packed = pipeline._denormalize_audio_latents(
            pipeline._pack_audio_latents(audio), audio_vae.latents_mean, audio_vae.latents_std
        )
        unpacked = pipeline._unpack_audio_latents(packed, 9, num_mel_bins=16)
        wave = vocoder(audio_vae.decode(unpacked, return_dict=False)[0])[0]
    expected = ((pixels / 2 + 0.5).clamp(0, 1).permute(1, 2, 3, 0) * 255).round().to(torch.uint8).numpy()
    assert frames.shape == (9, 64, 64, 3) and np.array_equal(frames, expected)
    assert sound.shape == (2, codec.shape.num_samples) and sound.dtype == np.float32
    num_made = min(wave.shape[1], sound.shape[1])
    assert sound.shape[1] - num_made < 0.05 * codec.shape.sample_rate_hz
    np.testing.assert_array_equal(sound[:, :num_made], wave[:, :num_made].clamp(-1, 1).numpy())
    assert not sound[:, num_made:].any()


def test_packing_is_undone() -> None:
    latents = torch.arange(2 * 8 * 5 * 16.0).view(2, 8, 5, 16)
    assert torch.equal(unpack_audio(pack_audio(latents), 16), latents)


def test_a_clip_without_sound_is_refused(codec: LtxCodec) -> None:
    (clip,) = clips(codec.shape, 1)
    with pytest.raises(MediaError, match="without sound"):
        codec.encode([DecodedClip(clip.frames, 24.0, None, 0, clip.duration_s)])


def test_text_states_equal_the_pipeline(path: tuple[LtxVersion, Path], tmp_path: Path) -> None:
    from diffusers import LTX2Pipeline

    version, folder = path
    files = LtxTextFiles(LtxSource(version, str(folder)), torch.float32, length=32)
    encoder = files.load()
    pipeline: Any = LTX2Pipeline(
        **dict.fromkeys(("scheduler", "vae", "audio_vae", "vocoder", "transformer")),
        text_encoder=encoder._encoder,
        tokenizer=encoder._tokenizer,
        connectors=encoder._connectors,
    )
    hidden, mask, _, _ = pipeline.encode_prompt(
        list(TEXTS), do_classifier_free_guidance=False, max_sequence_length=32, device="cpu"
    )
    with torch.no_grad():
        video, audio, joint = pipeline.connectors(hidden, mask, padding_side="left")
    cached = CachedText(files, tmp_path)
    for batch in (encoder.encode(TEXTS), cached.encode(TEXTS), cached.encode(TEXTS)):
        torch.testing.assert_close(batch.states, torch.cat([video, audio], dim=-1), rtol=0, atol=1e-5)
        assert torch.equal(batch.mask, joint.float())
    assert torch.equal(encoder.encode(TEXTS[1:]).states[0], cached.encode(TEXTS).states[1])
    assert not cached.missing(TEXTS)


def test_a_long_text_is_refused_instead_of_cut(path: tuple[LtxVersion, Path]) -> None:
    version, folder = path
    tokenizer = load_tokenizer(open_folder(version, str(folder)))
    count = len(tokenizer("a" * 40).input_ids)
    require_length(tokenizer, "a" * 40, count)
    with pytest.raises(InputError) as error:
        require_length(tokenizer, "a" * 40, count - 1)
    assert f"a text of {count} tokens" in error.value.found
    assert error.value.expected == f"at most {count - 1} tokens"
