"""The encoder without weights."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from avpref.models.text import TextEncoder, WordText

DIM, LENGTH = 32, 5


def test_rows_depend_on_their_own_text_alone() -> None:
    encoder: TextEncoder = WordText(DIM, LENGTH)
    together = encoder.encode(["a red ball falls", "rain"])
    alone = WordText(DIM, LENGTH).encode(["rain"])
    assert torch.equal(together.states[1:], alone.states) and torch.equal(together.mask[1:], alone.mask)
    assert together.states.shape == (2, LENGTH, DIM) and together.states.dtype == torch.float32
    assert together.mask.tolist() == [[1, 1, 1, 1, 0], [1, 0, 0, 0, 0]]


def test_case_and_punctuation_do_not_matter_but_order_does() -> None:
    states = WordText(DIM, LENGTH).encode(["A dog's bark, LOUD!", "a dog's bark loud", "loud bark dog's a"]).states
    assert torch.equal(states[0], states[1]) and not torch.allclose(states[0], states[2])


def test_empty_text_is_all_padding() -> None:
    batch = WordText(DIM, LENGTH).encode(["", " ... "])
    assert not batch.mask.any() and not batch.states.any()
    assert WordText(DIM, LENGTH).encode([]).states.shape == (0, LENGTH, DIM)


def test_words_beyond_the_length_are_left_out() -> None:
    encoder = WordText(DIM, LENGTH)
    long, short = encoder.encode(["one two three four five six seven", "one two three four five"]).states
    assert torch.equal(long, short)


def test_words_have_unit_variance_and_are_nearly_orthogonal() -> None:
    states = WordText(4096, 2).encode(["thunder", "whisper"]).states[:, 0]
    assert torch.allclose(states.var(dim=1), torch.ones(2), atol=0.1)
    assert abs(torch.cosine_similarity(states[0], states[1], dim=0)) < 0.1


@given(st.lists(st.text(max_size=30), max_size=4))
def test_any_text_is_accepted(texts: list[str]) -> None:
    batch = WordText(DIM, LENGTH).encode(texts)
    assert batch.states.isfinite().all()
    assert not batch.states[batch.mask == 0].any()


def test_fingerprint_tells_encoders_apart() -> None:
    assert WordText(DIM, LENGTH).fingerprint == WordText(DIM, LENGTH).fingerprint
    assert len({WordText(dim, length).fingerprint for dim in (8, 16) for length in (4, 5)}) == 4
