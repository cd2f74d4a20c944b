"""ImageBind's front ends: which frames, crops and cuts, and that nothing is made twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avpref.rewards.imagebind.imagebind_views import (
    crop_corners,
    embed_views,
    frame_pairs,
    picture_views,
    sound_16k,
    sound_cuts,
    sound_views,
)
from avpref.rewards.model_scorer import NotScorable


def noise_frames(num_frames: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(num_frames + height).integers(0, 256, (num_frames, height, width, 3)).astype(np.uint8)


@given(st.integers(1, 400), st.sampled_from([8.0, 15.0, 16.0, 23.976, 24.0, 25.0, 29.97, 30.0, 60.0]))
def test_pieces_go_from_start_to_end(num_frames: int, fps_hz: float) -> None:
    pairs = frame_pairs(num_frames, fps_hz)
    assert len(pairs) == 5 and pairs[0][0] == 0 and list(pairs) == sorted(pairs)
    assert all(0 <= first <= last < num_frames for first, last in pairs)
    if num_frames <= 2 * fps_hz:
        assert set(pairs) == {(0, num_frames - 1)}
    else:
        assert pairs[-1][1] == num_frames - 1 and len(set(pairs)) > 1


def test_pieces_of_four_seconds() -> None:
    assert frame_pairs(96, 24.0) == ((0, 47), (12, 59), (24, 71), (36, 83), (48, 95))


def test_three_crops_left_to_right_or_top_to_bottom() -> None:
    assert crop_corners(224, 397) == ((0, 0), (0, 87), (0, 173))
    assert crop_corners(397, 224) == ((0, 0), (87, 0), (173, 0))
    assert crop_corners(224, 224) == ((0, 0),) * 3


@pytest.mark.parametrize(("height", "width"), [(48, 80), (80, 48), (31, 97), (300, 410), (97, 224)])
def test_views_are_squares_of_the_picture(height: int, width: int) -> None:
    views = picture_views(noise_frames(40, height, width), 8.0)
    assert len(views.uses) == 15 and views.uses == tuple(range(15))
    assert all(image.shape == (3, 2, 224, 224) and image.isfinite().all() for image in views.images)


def test_crops_of_a_square_picture_are_made_once_and_are_the_three_crops() -> None:
    frames = noise_frames(40, 64, 64)
    square = picture_views(frames, 8.0)
    assert len(square.images) == 5 and square.uses == tuple(index for index in range(5) for _ in range(3))
    wider = picture_views(np.concatenate([frames, frames[:, :, -1:]], axis=2), 8.0)
    assert len(wider.images) > 5, "a picture that is not square has crops that differ"


def test_a_short_clip_has_one_piece() -> None:
    views = picture_views(noise_frames(16, 48, 80), 8.0)
    assert len(views.images) == 3 and views.uses == (0, 1, 2) * 5


def test_values_are_those_of_the_pixels() -> None:
    frames = np.full((16, 60, 100, 3), 255, np.uint8)
    frames[-1] = 0
    image = picture_views(frames, 8.0).images[0]
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    torch.testing.assert_close(image[:, 0].mean(dim=(1, 2)), (1 - mean) / std)
    torch.testing.assert_close(image[:, 1].mean(dim=(1, 2)), -mean / std)


def test_a_picture_of_one_frame_in_many_seconds_is_refused() -> None:
    with pytest.raises(NotScorable, match="frames a second"):
        picture_views(noise_frames(4, 32, 32), 0.3)


@given(st.integers(400, 400_000))
def test_cuts_are_two_seconds_from_start_to_end(num_samples: int) -> None:
    cuts = sound_cuts(num_samples)
    assert len(cuts) == 3 and cuts[0][0] == 0 and all(end - start == 32000 for start, end in cuts)
    assert num_samples <= 32000 or num_samples - 1 <= cuts[-1][1] <= num_samples


def test_sound_pictures_are_padded_before_they_are_normalised() -> None:
    sound = torch.linspace(-0.5, 0.5, 24000).sin()
    views = sound_views(sound, sound_cuts(len(sound)))
    assert len(views.images) == 1 and views.uses == (0, 0, 0)
    image = views.images[0]
    assert image.shape == (1, 128, 204)
    torch.testing.assert_close(image[:, :, 148:], torch.full((1, 128, 56), 4.268 / 9.138))
    assert not torch.allclose(image[:, :, 147], torch.tensor(4.268 / 9.138))


def test_sound_pictures_do_not_depend_on_the_other_cuts() -> None:
    sound = torch.sin(torch.arange(64000) * 0.05) + 0.3
    together = sound_views(sound, sound_cuts(len(sound)))
    for (start, end), use in zip(sound_cuts(len(sound)), together.uses, strict=True):
        alone = sound_views(sound[start:end].clone(), [(0, 32000)])
        torch.testing.assert_close(together.images[use], alone.images[0], rtol=0, atol=0)


def test_sound_is_read_and_not_changed() -> None:
    audio = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    audio.setflags(write=False)
    assert len(sound_16k(audio, 8000)) == 16000
    assert len(sound_16k(audio, 16000)) == 8000


def test_embeddings_of_used_views_come_in_the_published_order() -> None:
    views = [
        picture_views(noise_frames(40, 64, 64), 8.0),
        picture_views(noise_frames(16, 48, 80), 8.0),
    ]
    sizes: list[int] = []

    def embed(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return images.mean(dim=(2, 3, 4))

    found = embed_views(embed, views, "cpu", 3)
    assert sizes == [3, 3, 2]
    for clip, embeddings in zip(views, found, strict=True):
        expected = torch.stack([clip.images[use].mean(dim=(1, 2, 3)) for use in clip.uses])
        torch.testing.assert_close(embeddings, expected)
