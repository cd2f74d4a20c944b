"""Hashes of ids do not depend on the ids beside them; ids are found near a guess and far from it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avpref.datasets.selection import id_lookup, text_hashes
from avpref.datasets.selection.id_lookup import IdLookup
from avpref.datasets.selection.text_hashes import equal_length_words, hashes_of

TEXTS = st.text(st.characters(exclude_categories=["C"]), max_size=30)


def lookup_of(ids):
    return IdLookup(pa.array(ids), hashes_of(pa.array(ids)))


@settings(max_examples=200)
@given(texts=st.lists(TEXTS, min_size=1, max_size=12), chunk=st.sampled_from([1, 2, 5, 100]))
def test_a_hash_is_that_of_the_text_alone(texts, chunk):
    before, text_hashes.CHUNK = text_hashes.CHUNK, chunk
    try:
        together = hashes_of(pa.array(texts))
    finally:
        text_hashes.CHUNK = before
    alone = [int(hashes_of(pa.array([text]))[0]) for text in texts]
    assert together.tolist() == alone
    assert len(set(alone)) == len(set(texts))
    sliced = pa.array(["", "x", *texts], pa.large_string()).slice(2)
    assert hashes_of(sliced).tolist() == alone


@given(texts=st.lists(st.text("ab\x7f", min_size=11, max_size=11), min_size=2, max_size=9))
def test_words_of_texts_of_one_length_are_in_their_order(texts):
    words = equal_length_words(pa.array(texts))
    assert words is not None
    order = np.lexsort([word.astype(np.uint64) for word in words[::-1]])
    assert [texts[place] for place in order] == sorted(texts)
    assert equal_length_words(pa.array([*texts, "longer than the others"])) is None
    assert equal_length_words(pa.array(["short"])) is None


@pytest.mark.parametrize("hint", [0, 3, 40, 99, 500])
def test_ids_that_follow_each_other_are_found_from_any_guess(monkeypatch, hint):
    monkeypatch.setattr(id_lookup, "NEIGHBOURHOOD", 5)
    ids = [f"candidate-{number * 7919 % 101:03d}" for number in range(100)]
    lookup = lookup_of(ids)
    assert lookup.find(pa.array(ids[40:60]), hint).tolist() == list(range(40, 60))
    assert lookup.find(pa.array([*ids[98:], "none"]), hint).tolist() == [98, 99, -1]
    assert lookup.find(pa.array(["none", *ids[:2]]), hint).tolist() == [-1, 0, 1]
    assert lookup.find(pa.array([], pa.string()), hint).tolist() == []


def test_ids_are_sorted_only_for_a_search(monkeypatch):
    calls: list[int] = []

    def argsort(values):
        calls.append(len(values))
        return np.lexsort((values,))

    monkeypatch.setattr(id_lookup.np, "argsort", argsort)
    ids = [f"candidate-{number:03d}" for number in range(100)]
    lookup = lookup_of(ids)
    assert lookup.find(pa.array(ids[10:20]), 12).tolist() == list(range(10, 20))
    assert not calls
    assert lookup.find(pa.array(ids[20:10:-1]), 12).tolist() == list(range(20, 10, -1))
    assert lookup.find(pa.array(ids[50:40:-1]), 12).tolist() == list(range(50, 40, -1))
    assert len(calls) == 1
