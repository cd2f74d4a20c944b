"""Which files may stay as they are among clips of one shape."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest

from avpref.media.conformity import conforms
from avpref.media.geometry import ClipShape
from avpref.media.writing import encode_clip

SHAPE = ClipShape(num_frames=12, height_px=48, width_px=64, fps_hz=8.0, sample_rate_hz=16000)


def clip(shape: ClipShape) -> bytes:
    generator = np.random.default_rng(3)
    frames = generator.integers(0, 256, (shape.num_frames, shape.height_px, shape.width_px, 3), dtype=np.uint8)
    sound = generator.uniform(-0.2, 0.2, shape.num_samples).astype(np.float32)
    return encode_clip(frames, shape.fps_hz, sound, shape.sample_rate_hz)


@pytest.mark.parametrize("shape", [SHAPE, replace(SHAPE, num_frames=33, fps_hz=16.0), replace(SHAPE, fps_hz=23.976)])
def test_a_clip_of_the_product_conforms_to_its_own_shape(shape: ClipShape) -> None:
    assert conforms(io.BytesIO(clip(shape)), shape)


@pytest.mark.parametrize(
    "change", [{"num_frames": 11}, {"height_px": 64}, {"width_px": 48}, {"fps_hz": 12.0}, {"sample_rate_hz": 24000}]
)
def test_a_clip_of_another_shape_does_not(change: dict[str, float]) -> None:
    assert not conforms(io.BytesIO(clip(replace(SHAPE, **change))), SHAPE)


def test_a_clip_that_is_cut_short_or_no_clip_does_not() -> None:
    whole = clip(SHAPE)
    assert not conforms(io.BytesIO(whole[: len(whole) - 100]), SHAPE)
    assert not conforms(io.BytesIO(b"not a clip at all"), SHAPE)
    assert not conforms(io.BytesIO(b""), SHAPE)
