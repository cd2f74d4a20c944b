"""The identity codec: latents ↔ clips, directly and through a file."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from avpref.config.codec_settings import IdentityCodecSettings
from avpref.errors import ConfigError, MediaError
from avpref.media.geometry import ClipShape
from avpref.media.reading import DecodedClip, read_clip
from avpref.media.writing import encode_clip
from avpref.models.codecs.codec import IdentityCodec
from avpref.models.flow import Latents

SHAPE = ClipShape(16, 96, 96, 8.0, 16000)


def open_codec(shape: ClipShape = SHAPE, **values: float) -> IdentityCodec:
    return IdentityCodec(IdentityCodecSettings.model_validate(values), shape)


def draw_latents(codec: IdentityCodec, batch: int, seed: int = 0) -> Latents:
    generator = torch.Generator().manual_seed(seed)
    shapes = codec.latent_shapes()
    assert shapes.video is not None and shapes.audio is not None
    video = (0.35 * torch.randn(batch, *shapes.video, generator=generator)).clamp(-0.95, 0.95)
    return Latents(video, -0.4 + 0.2 * torch.randn(batch, *shapes.audio, generator=generator).clamp(-2, 2))


def as_clips(codec: IdentityCodec, latents: Latents) -> list[DecodedClip]:
    shape = codec.shape
    decoded = codec.decode(latents)
    return [DecodedClip(*media(frames, audio, shape)) for frames, audio in decoded]


def media(frames: np.ndarray, audio: np.ndarray, shape: ClipShape) -> tuple:
    return frames, shape.fps_hz, audio, shape.sample_rate_hz, shape.duration_s


@pytest.mark.parametrize(
    ("shape", "values"),
    [(SHAPE, {}), (ClipShape(8, 32, 48, 4.0, 8000), {"video_scale": 4, "audio_bands": 4, "audio_rate_hz": 10.0})],
)
def test_decoded_clips_encode_to_the_same_latents(shape: ClipShape, values: dict[str, float]) -> None:
    codec = open_codec(shape, **values)
    latents = draw_latents(codec, 3)
    clips = as_clips(codec, latents)
    assert clips[0].frames is not None and clips[0].audio is not None
    assert (
        clips[0].frames.shape == (shape.num_frames, shape.height_px, shape.width_px, 3)
        and clips[0].frames.dtype == np.uint8
    )
    assert clips[0].audio.shape == (shape.num_samples,) and clips[0].audio.dtype == np.float32
    again = codec.encode(clips)
    assert (
        again.video is not None and again.audio is not None and latents.video is not None and latents.audio is not None
    )
    assert (again.video.shape, again.audio.shape) == (latents.video.shape, latents.audio.shape)
    assert (again.video - latents.video).abs().mean() < 0.004
    assert (again.audio - latents.audio).abs().mean() < 0.01


def test_latents_survive_the_file_format() -> None:
    codec = open_codec()
    latents = draw_latents(codec, 2)
    clips = [
        read_clip(io.BytesIO(encode_clip(frames, 8.0, audio, 16000)), SHAPE) for frames, audio in codec.decode(latents)
    ]
    again = codec.encode(clips)
    assert (
        again.video is not None and again.audio is not None and latents.video is not None and latents.audio is not None
    )
    assert (again.video - latents.video).abs().mean() < 0.03
    assert (again.audio - latents.audio).abs().mean() < 0.02


def test_shapes_and_scale() -> None:
    codec = open_codec()
    assert codec.latent_shapes() == ((3, 16, 12, 12), (1, 32, 8))
    frames = np.zeros((16, 96, 96, 3), np.uint8)
    frames[:, :48] = 255
    latents = codec.encode([DecodedClip(frames, 8.0, np.zeros(32000, np.float32), 16000, 2.0)])
    assert latents.video is not None and latents.audio is not None
    torch.testing.assert_close(latents.video[0, :, :, :6], torch.ones(3, 16, 6, 12))
    torch.testing.assert_close(latents.video[0, :, :, 6:], -torch.ones(3, 16, 6, 12))
    torch.testing.assert_close(latents.audio, -torch.ones(1, 1, 32, 8))


def test_rows_do_not_depend_on_the_batch() -> None:
    codec = open_codec()
    latents = draw_latents(codec, 3)
    assert latents.video is not None and latents.audio is not None
    together = codec.decode(latents)
    encoded = codec.encode(as_clips(codec, latents))
    for row in range(3):
        alone = Latents(latents.video[row : row + 1], latents.audio[row : row + 1])
        ((frames, audio),) = codec.decode(alone)
        np.testing.assert_array_equal(frames, together[row][0])
        np.testing.assert_array_equal(audio, together[row][1])
        single = codec.encode(as_clips(codec, alone))
        assert (
            single.video is not None and encoded.video is not None and torch.equal(single.video[0], encoded.video[row])
        )
        assert (
            single.audio is not None and encoded.audio is not None and torch.equal(single.audio[0], encoded.audio[row])
        )


def test_wild_latents_decode_to_media() -> None:
    codec = open_codec()
    latents = draw_latents(codec, 1)
    assert latents.video is not None and latents.audio is not None
    ((frames, audio),) = codec.decode(Latents(latents.video * 50, latents.audio * 50))
    assert frames.dtype == np.uint8 and np.isfinite(audio).all()
    encode_clip(frames, 8.0, audio, 16000)


def test_fingerprints_tell_codecs_apart() -> None:
    assert open_codec().fingerprint == open_codec().fingerprint
    assert open_codec().fingerprint != open_codec(video_scale=16).fingerprint
    assert open_codec().fingerprint != open_codec(ClipShape(8, 96, 96, 8.0, 16000)).fingerprint


def test_what_does_not_fit() -> None:
    with pytest.raises(ConfigError, match="video_scale"):
        open_codec(ClipShape(16, 100, 96, 8.0, 16000))
    with pytest.raises(ConfigError, match="audio_rate_hz"):
        open_codec(audio_rate_hz=15.3)
    codec = open_codec()
    frames, audio = np.zeros((16, 96, 96, 3), np.uint8), np.zeros(32000, np.float32)
    with pytest.raises(MediaError, match="without sound"):
        codec.encode([DecodedClip(frames, 8.0, None, 0, 2.0)])
    with pytest.raises(ValueError, match="expected frames"):
        codec.encode([DecodedClip(frames[:8], 8.0, audio, 16000, 2.0)])
