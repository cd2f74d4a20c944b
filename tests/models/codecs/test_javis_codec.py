"""The released generator's codec, small and with random weights: shapes, both directions, files, what it refuses."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from tiny_codecs import save_tiny_codecs

from avpref.config.codec_settings import CodecSettings, IdentityCodecSettings, JavisCodecSettings
from avpref.errors import ConfigError, InputError, MediaError
from avpref.media.geometry import ClipShape
from avpref.media.reading import DecodedClip, read_clip
from avpref.media.writing import encode_clip
from avpref.models.codecs.codec import Codec
from avpref.models.codecs.javis_codec import JavisCodec
from avpref.models.flow import Latents

SHAPE = ClipShape(13, 32, 48, 16.0, 16000)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of the three networks as their libraries save them."""
    return save_tiny_codecs(tmp_path_factory.mktemp("weights"), seed=5)


@pytest.fixture(scope="module")
def codec(weights: dict[str, str]) -> JavisCodec:
    return open_codec(weights)


def open_codec(weights: Mapping[str, str | int], shape: ClipShape = SHAPE, **changes: str | int) -> JavisCodec:
    """The codec with ``weights``; ``changes`` are other keys of the section ``codec``, checked as in a configuration file."""
    return JavisCodec(JavisCodecSettings.model_validate({**weights, **changes}), shape)


def draw_clips(shape: ClipShape, count: int, seed: int = 0) -> list[DecodedClip]:
    rng = np.random.Generator(np.random.Philox(seed))
    size = (shape.num_frames, shape.height_px, shape.width_px, 3)
    return [
        DecodedClip(
            rng.integers(0, 256, size, dtype=np.uint8),
            shape.fps_hz,
            (0.2 * rng.standard_normal(shape.num_samples)).astype(np.float32),
            shape.sample_rate_hz,
            shape.duration_s,
        )
        for _ in range(count)
    ]


def draw_latents(codec: JavisCodec, count: int) -> Latents:
    generator = torch.Generator().manual_seed(1)
    video, audio = (torch.randn(count, *shape, generator=generator) for shape in codec.latent_shapes() if shape)
    return Latents(video, audio)


@pytest.mark.parametrize(
    ("shape", "video", "generated", "encoded"),
    [
        (ClipShape(81, 480, 864, 16.0, 16000), (16, 21, 60, 108), 128, 128),
        (ClipShape(65, 240, 432, 16.0, 16000), (16, 17, 30, 54), 104, 102),
        (ClipShape(33, 320, 320, 16.0, 16000), (16, 9, 40, 40), 56, 52),
        (ClipShape(49, 368, 640, 16.0, 16000), (16, 13, 46, 80), 80, 78),
    ],
)
def test_the_published_shapes(
    weights: dict[str, str], shape: ClipShape, video: tuple[int, ...], generated: int, encoded: int
) -> None:
    codec = open_codec(weights, shape)
    assert codec.latent_shapes() == (video, (8, generated, 16))
    assert codec.encoded_shapes() == (video, (8, encoded, 16))


def test_clips_become_latents_and_latents_clips(codec: JavisCodec) -> None:
    protocol: Codec = codec
    latents = protocol.encode(draw_clips(SHAPE, 2))
    assert latents.video is not None and latents.audio is not None
    shapes = codec.encoded_shapes()
    assert (latents.video.shape[1:], latents.audio.shape[1:]) == shapes
    assert latents.video.dtype == latents.audio.dtype == torch.float32 and not latents.video.requires_grad
    for source in (latents, draw_latents(codec, 2)):
        for frames, audio in protocol.decode(source):
            assert frames.shape == (13, 32, 48, 3) and frames.dtype == np.uint8
            assert audio.shape == (13000,) and audio.dtype == np.float32 and np.abs(audio).max() <= 1


def test_latents_may_be_trained_on(codec: JavisCodec) -> None:
    latents = codec.encode(draw_clips(SHAPE, 1))
    weight = torch.ones((), requires_grad=True)
    assert latents.video is not None and latents.audio is not None
    (latents.video.square().sum() * weight + latents.audio.sum() * weight).backward()
    assert weight.grad is not None


def test_rows_do_not_depend_on_the_batch(codec: JavisCodec) -> None:
    clips = draw_clips(SHAPE, 3)
    together, decoded = codec.encode(clips), codec.decode(draw_latents(codec, 3))
    for row in range(3):
        alone = codec.encode(clips[row : row + 1])
        for all_rows, single in zip(together, alone, strict=True):
            assert all_rows is not None and single is not None and torch.equal(all_rows[row], single[0])
        latents = draw_latents(codec, 3)
        assert latents.video is not None and latents.audio is not None
        ((frames, audio),) = codec.decode(Latents(latents.video[row : row + 1], latents.audio[row : row + 1]))
        np.testing.assert_array_equal(frames, decoded[row][0])
        np.testing.assert_array_equal(audio, decoded[row][1])


def test_a_decoded_clip_survives_its_file(codec: JavisCodec) -> None:
    ((frames, audio),) = codec.decode(draw_latents(codec, 1))
    clip = read_clip(io.BytesIO(encode_clip(frames, 16.0, audio, 16000)), SHAPE)
    assert codec.encode([clip]).video is not None


def test_networks_come_and_go(weights: dict[str, str], codec: JavisCodec) -> None:
    fresh = open_codec(weights)
    assert not {"_video", "_sound"} & vars(fresh).keys()
    latents = draw_latents(codec, 1)
    first = fresh.decode(latents)
    assert {"_video", "_sound"} <= vars(fresh).keys()
    fresh.release()
    fresh.release()
    assert not {"_video", "_sound"} & vars(fresh).keys()
    np.testing.assert_array_equal(fresh.decode(latents)[0][0], first[0][0])


def test_settings_reach_the_networks(weights: dict[str, str], codec: JavisCodec) -> None:
    clips, plain = draw_clips(SHAPE, 1), codec.encode(draw_clips(SHAPE, 1))
    changes = {"audio_tail": "released", "audio_posterior": "mean", "dtype": "bfloat16"}
    for key, value in changes.items():
        actual = open_codec({**weights, key: value}).encode(clips)
        assert actual.audio is not None and plain.audio is not None and not torch.equal(actual.audio, plain.audio), key
    tiled = open_codec(weights, tile_px=16, tile_overlap_px=8)
    latents = draw_latents(codec, 1)
    assert not np.array_equal(tiled.decode(latents)[0][0], codec.decode(latents)[0][0])
    gathered = open_codec(weights, stream_frames=False)
    np.testing.assert_array_equal(gathered.decode(latents)[0][0], codec.decode(latents)[0][0])


def test_fingerprints(weights: dict[str, str], tmp_path: Path) -> None:
    def fingerprint(shape: ClipShape = SHAPE, **changes: str | int) -> str:
        return open_codec(weights, shape, **changes).fingerprint

    moved = tmp_path / "moved"
    moved.mkdir()
    for file in Path(weights["vocoder"]).iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    assert fingerprint() == fingerprint(stream_frames=False) == fingerprint(vocoder=str(moved))
    config = (moved / "config.json").read_text()
    (moved / "config.json").write_text(config.replace('"leaky_relu_slope": 0.1', '"leaky_relu_slope": 0.2'))
    assert (moved / "config.json").read_text() != config
    changed = [
        fingerprint(vocoder=str(moved)),
        fingerprint(audio_tail="released"),
        fingerprint(audio_posterior="mean"),
        fingerprint(dtype="bfloat16"),
        fingerprint(tile_px=128),
        fingerprint(replace(SHAPE, num_frames=9)),
    ]
    assert len({fingerprint(), *changed}) == 7


@pytest.mark.parametrize(
    ("shape", "message", "fix"),
    [
        (replace(SHAPE, width_px=426), "width_px 416 or 432", "--set clip.width_px=432"),
        (replace(SHAPE, height_px=554, width_px=738), "height_px 544 or 560; width_px 736 or 752", "clip.width_px=752"),
        (replace(SHAPE, height_px=9), "height_px 16", "--set clip.height_px=16"),
        (replace(SHAPE, num_frames=80), "num_frames 77 or 81", "--set clip.num_frames=81"),
        (replace(SHAPE, sample_rate_hz=44100), "16000", "--set clip.sample_rate_hz=16000"),
        (replace(SHAPE, num_frames=1, fps_hz=60.0), "at least 513", "clip.num_frames"),
    ],
)
def test_shapes_that_cannot_be(weights: dict[str, str], shape: ClipShape, message: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_codec(weights, shape)
    assert message in str(caught.value) and fix in caught.value.fix


def test_clips_that_do_not_fit(codec: JavisCodec) -> None:
    (clip,) = draw_clips(SHAPE, 1)
    with pytest.raises(MediaError, match="without sound"):
        codec.encode([replace(clip, audio=None)])
    with pytest.raises(MediaError, match="without picture"):
        codec.encode([replace(clip, frames=None)])
    with pytest.raises(ValueError, match="expected frames and samples"):
        codec.encode(draw_clips(replace(SHAPE, num_frames=5), 1))


def test_weights_that_are_not_there(weights: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    for key, repo in {"video_vae": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "vocoder": "cvssp/audioldm2"}.items():
        absent = open_codec({**weights, key: ""})
        assert absent.latent_shapes().video == (16, 4, 4, 6)
        with pytest.raises(InputError, match="Hugging Face cache") as caught:
            absent.encode(draw_clips(SHAPE, 1))
        assert f"hf download {repo}" in caught.value.fix
        with pytest.raises(InputError, match="is absent") as caught:
            _ = open_codec({**weights, key: str(tmp_path / "none")}).fingerprint
        assert f"--set codec.{key}" in caught.value.fix


def test_weights_in_the_cache(weights: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--cvssp--audioldm2" / "snapshots" / "abc"
    (snapshot.parent.parent / "refs").mkdir(parents=True)
    (snapshot.parent.parent / "refs" / "main").write_text("abc")
    snapshot.mkdir(parents=True)
    for name, key in {"vae": "audio_vae", "vocoder": "vocoder"}.items():
        (snapshot / name).symlink_to(weights[key])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    actual = JavisCodec(JavisCodecSettings(video_vae=weights["video_vae"]), SHAPE)
    assert actual.fingerprint == open_codec(weights).fingerprint


def test_the_section_of_the_configuration() -> None:
    read = TypeAdapter(CodecSettings).validate_python
    assert isinstance(read({"kind": "javisdit", "tile_px": 256}), JavisCodecSettings)
    assert isinstance(read({"kind": "identity"}), IdentityCodecSettings)
    default = JavisCodecSettings()
    assert (default.audio_tail, default.audio_posterior, default.dtype) == ("corrected", "sample", "float32")
