"""Which files may stay as they are among clips of one shape."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avpref.media.conformity import conforms
from avpref.media.geometry import ClipShape
from avpref.media.mp4_index import read_index
from avpref.media.reading import probe
from avpref.media.writing import encode_clip

SHAPE = ClipShape(num_frames=12, height_px=48, width_px=64, fps_hz=8.0, sample_rate_hz=16000)


@cache
def clip(shape: ClipShape) -> bytes:
    generator = np.random.default_rng(3)
    frames = generator.integers(0, 256, (shape.num_frames, shape.height_px, shape.width_px, 3), dtype=np.uint8)
    sound = generator.uniform(-0.2, 0.2, shape.num_samples).astype(np.float32)
    return encode_clip(frames, shape.fps_hz, sound, shape.sample_rate_hz)


@pytest.mark.parametrize("shape", [SHAPE, replace(SHAPE, num_frames=33, fps_hz=16.0), replace(SHAPE, fps_hz=23.976)])
def test_a_clip_of_the_product_conforms_to_its_own_shape(shape: ClipShape) -> None:
    assert conforms(clip(shape), shape)


@pytest.mark.parametrize(
    "change", [{"num_frames": 11}, {"height_px": 64}, {"width_px": 48}, {"fps_hz": 12.0}, {"sample_rate_hz": 24000}]
)
def test_a_clip_of_another_shape_does_not(change: dict[str, Any]) -> None:
    assert not conforms(clip(replace(SHAPE, **change)), SHAPE)


def test_a_clip_that_is_cut_short_or_no_clip_does_not() -> None:
    whole = clip(SHAPE)
    for length in (len(whole) - 100, len(whole) // 2, 40, 8, 3, 0):
        assert not conforms(whole[:length], SHAPE)
    assert not conforms(b"not a clip at all", SHAPE)
    assert conforms(whole + b"\0\0\0\x08free", SHAPE)
    assert not conforms(whole + b"\0\0\0\x10free", SHAPE), "a box that is longer than the file"


@settings(max_examples=200)
@given(st.integers(0, 4000), st.integers(0, 255))
def test_a_changed_byte_never_breaks_the_reading(place: int, value: int) -> None:
    changed = bytearray(clip(SHAPE))
    changed[place] = value
    read_index(bytes(changed))


def test_the_index_agrees_with_ffmpeg() -> None:
    shape = replace(SHAPE, num_frames=30, fps_hz=23.976)
    data = clip(shape)
    tracks = read_index(data)
    assert tracks is not None
    info = probe(io.BytesIO(data))
    assert info.video is not None and info.audio is not None
    picture, sound = tracks
    assert (picture.codec, picture.num_samples, sound.codec, sound.channels) == ("avc1", 30, "mp4a", 2)
    assert abs(float(picture.duration_s) - info.duration_s) < 1e-3
    assert sound.sample_rate_hz == info.audio.sample_rate_hz
