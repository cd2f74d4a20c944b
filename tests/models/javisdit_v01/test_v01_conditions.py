"""Known spans of a clip of JavisDiT v0.1."""

from __future__ import annotations

import pytest
import torch

from avpref.models.flow import Latents, LatentShapes
from avpref.models.javisdit_v01.v01_conditions import KnownSpan, audio_index, known_spans
from avpref.models.sampling import draw_noise

SHAPES = LatentShapes((4, 15, 2, 3), (8, 56, 16))
FPS_HZ = 24.0


def test_the_sound_of_a_window_begins_with_its_first_frame() -> None:
    assert [audio_index(index, FPS_HZ) for index in (0, 5, 10, 15)] == [0, 17, 35, 53]
    assert audio_index(15, FPS_HZ) == int(51 / FPS_HZ / 0.04)


def test_spans_are_aligned_to_windows_and_later_ones_win() -> None:
    reference = draw_noise(SHAPES, [1])
    assert reference.video is not None and reference.audio is not None
    spans = [KnownSpan(0, 0, 15, has_audio=False), KnownSpan(6, 13, 2)]
    known = known_spans(reference, SHAPES, spans, FPS_HZ)
    assert known.video is not None and known.audio is not None
    assert known.video.mask.all()
    assert torch.equal(known.video.latents[:, :, :10], reference.video[:, :, :10])
    assert torch.equal(known.video.latents[:, :, 10:12], reference.video[:, :, 5:7])
    assert torch.equal(known.video.latents[:, :, 12:], reference.video[:, :, 12:])
    begin, end = audio_index(5, FPS_HZ), audio_index(7, FPS_HZ)
    target = audio_index(10, FPS_HZ)
    assert known.audio.mask.nonzero().flatten().tolist() == list(range(target, target + end - begin))
    assert torch.equal(known.audio.latents[:, :, known.audio.mask], reference.audio[:, :, begin:end])
    assert known_spans(reference, SHAPES, spans[:1], FPS_HZ).audio is None


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (KnownSpan(0, 10, 6), "6 video latents from 0 of 15 cannot be known from 10 of 15"),
        (KnownSpan(10, 0, 7, has_video=False), "25 audio latents from 35 of 56"),
        (KnownSpan(0, 0, 0), "0 video latents"),
    ],
)
def test_spans_beyond_the_clip_are_refused(span: KnownSpan, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        known_spans(draw_noise(SHAPES, [1]), SHAPES, [span], FPS_HZ)


def test_a_modality_that_the_reference_lacks_is_refused() -> None:
    silent = Latents(draw_noise(SHAPES, [1]).video, None)
    assert known_spans(silent, SHAPES, [KnownSpan(0, 0, 5, has_audio=False)], FPS_HZ).video is not None
    with pytest.raises(ValueError, match="a span of audio"):
        known_spans(silent, SHAPES, [KnownSpan(0, 0, 5)], FPS_HZ)
