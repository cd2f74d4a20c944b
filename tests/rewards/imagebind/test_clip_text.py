"""CLIP's byte pairs: ids, cleaning, and what happens at the end of the context."""

from __future__ import annotations

import gzip
import json
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avpref.models.imagebind.clip_text import (
    CONTEXT,
    END,
    MERGES,
    START,
    WORD_END,
    LongPrompts,
    byte_letters,
    byte_pairs,
    encode,
    has_special_ids,
    in_context,
)


@pytest.mark.golden
def test_ids_are_those_of_the_original(golden: Path) -> None:
    cases = json.loads((golden / "rewards" / "imagebind" / "tokens.json").read_text(encoding="utf-8"))
    assert cases
    for case in cases:
        ids = list(in_context(encode(case["text"]), LongPrompts.KEEP_END))
        read = ids[: ids.index(END) + 1]  # the originals end where the text is pooled
        assert read == case["ids"], case["text"]


def test_the_vocabulary_is_whole() -> None:
    model = byte_pairs()
    symbols = [model.id_to_token(index) for index in range(START)]
    assert None not in symbols and len(set(symbols)) == START and model.id_to_token(START) is None
    assert len(merge_ranks()) == 48894 == START - 2 * 256


@cache
def merge_ranks() -> dict[tuple[str, str], int]:
    with gzip.open(MERGES, "rt", encoding="utf-8") as stream:
        return {(first, second): rank for rank, (first, second) in enumerate(line.split() for line in stream)}


def merged(word: str) -> list[str]:
    """Byte-pair encoding as the paper of Sennrich et al. defines it: join the most frequent pair until there is none."""
    letters = byte_letters()
    symbols = [letters[byte] for byte in word.encode()]
    symbols[-1] += WORD_END
    while len(symbols) > 1:
        best = min(pairwise(symbols), key=lambda pair: merge_ranks().get(pair, END))
        if best not in merge_ranks():
            break
        joined: list[str] = []
        for symbol in symbols:
            if joined and (joined[-1], symbol) == best:
                joined[-1] += symbol
            else:
                joined.append(symbol)
        symbols = joined
    return symbols


@given(st.text(min_size=1, max_size=40) | st.text("abceinorst", min_size=1, max_size=300))
def test_words_are_merged_as_the_definition_says(word: str) -> None:
    letters = byte_letters()
    tokens = byte_pairs().tokenize("".join(letters[byte] for byte in word.encode()))
    assert [token.value for token in tokens] == merged(word)


def test_known_words() -> None:
    assert encode("A dog barks in the park.") == (START, 320, 1929, 1040, 662, 530, 518, 1452, 269, END)


@pytest.mark.parametrize("same", ["cats & dogs", "  CATS &amp;   Dogs\n", "cats &amp;amp; dogs", "cats\t& dogs "])
def test_spelling_that_does_not_matter(same: str) -> None:
    assert encode(same) == encode("cats & dogs")


@given(st.text(max_size=40))
def test_every_text_has_ids_and_spaces_around_it_do_not_count(text: str) -> None:
    ids = encode(text)
    assert ids[0] == START and ids[-1] == END and all(0 <= each <= END for each in ids)
    assert encode(f"  {text}\n") == ids


@given(st.lists(st.sampled_from(["dog", "bark", "zyzzyva", "12", "é", "!?"]), max_size=8))
def test_words_are_encoded_one_by_one(words: list[str]) -> None:
    separate = [each for word in words for each in encode(word)[1:-1]]
    assert encode(" ".join(words))[1:-1] == tuple(separate)


def test_special_marks_are_seen_wherever_they_come_from() -> None:
    assert has_special_ids(encode("a dog <|endoftext|> barks"))
    assert has_special_ids(encode("a dog &lt;|StartOfText|&gt; barks"))
    assert not has_special_ids(encode("a dog | endoftext | barks"))


def test_short_texts_are_followed_by_zeros() -> None:
    ids = in_context(encode("a dog"), LongPrompts.KEEP_END)
    assert len(ids) == CONTEXT and ids[:4] == encode("a dog") and set(ids[4:]) == {0}
    assert ids == in_context(encode("a dog"), LongPrompts.JAVISBENCH)


def test_long_texts_keep_the_end_or_lose_it() -> None:
    ids = encode("dog " * 100)
    assert len(ids) == 102
    assert in_context(ids, LongPrompts.KEEP_END) == (*ids[: CONTEXT - 1], END)
    assert in_context(ids, LongPrompts.JAVISBENCH) == ids[:CONTEXT]
    assert END not in in_context(ids, LongPrompts.JAVISBENCH)


@pytest.mark.parametrize("rule", list(LongPrompts))
def test_a_text_that_just_fits_is_left_alone(rule: LongPrompts) -> None:
    ids = encode("dog " * (CONTEXT - 2))
    assert len(ids) == CONTEXT and in_context(ids, rule) == ids
