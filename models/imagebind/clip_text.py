"""CLIP's tokenizer: 49,408 ids, at most 77 of them per text.

``clip_merges.txt.gz`` in this folder is data of OpenAI's CLIP (MIT licence, copyright 2021 OpenAI): the 48,894 merges in use, the
most frequent first, one pair per line. Ids are those of CLIP's own tokenizer: the bytes, the bytes that end a word, the merges,
then the two special ids. Merging is done by the ``tokenizers`` library.
"""

from __future__ import annotations

import gzip
import html
import re
from enum import StrEnum
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from tokenizers.models import BPE

MERGES = Path(__file__).with_name("clip_merges.txt.gz")
CONTEXT = 77
"""Ids that the text tower reads: start, up to 75 ids of text, end, then zeros."""
START, END = 49406, 49407
START_MARK, END_MARK = "<|startoftext|>", "<|endoftext|>"
SPECIAL_IDS = {START_MARK: START, END_MARK: END}
WORD_END = "</w>"


class LongPrompts(StrEnum):
    """The rule for a text that is longer than the context.

    ``keep_end`` reads its beginning, closed by the end id, as ImageBind does today. ``javisbench`` cuts the end id off, as the JavisBench
    evaluation does: the state at the *start* id is then pooled, so every long text has one and the same embedding.
    """

    KEEP_END = "keep_end"
    JAVISBENCH = "javisbench"


def encode(text: str) -> tuple[int, ...]:
    """Ids of the whole ``text`` between the start and the end id, however long.

    Mis-decoded characters are mended and entities resolved (twice), white space is collapsed, and all is lower case. A special mark
    that is written out in the text gives its special id: see :func:`has_special_ids`.
    """
    words = _words().findall(_cleaned(text))
    return (START, *chain.from_iterable(map(_word_ids, words)), END)


def has_special_ids(ids: tuple[int, ...]) -> bool:
    """Whether the text between start and end holds a special id: pooling would then read another place."""
    return any(each in (START, END) for each in ids[1:-1])


def in_context(ids: tuple[int, ...], long_prompts: LongPrompts) -> tuple[int, ...]:
    """Exactly :data:`CONTEXT` ids: followed by zeros, or cut as ``long_prompts`` says."""
    if len(ids) <= CONTEXT:
        return ids + (0,) * (CONTEXT - len(ids))
    match long_prompts:
        case LongPrompts.KEEP_END:
            return (*ids[: CONTEXT - 1], END)
        case LongPrompts.JAVISBENCH:
            return ids[:CONTEXT]


@cache
def byte_pairs() -> BPE:
    """The byte pairs of :data:`MERGES`; it tokenizes one word, written in :func:`byte_letters`."""
    with gzip.open(MERGES, "rt", encoding="utf-8") as stream:
        merges = [(first, second) for first, second in (line.split() for line in stream)]
    letters = byte_letters().values()
    symbols = [*letters, *(letter + WORD_END for letter in letters), *(first + second for first, second in merges)]
    assert len(symbols) == START, "another table of merges"
    return BPE({symbol: index for index, symbol in enumerate(symbols)}, merges, end_of_word_suffix=WORD_END)


@cache
def byte_letters() -> dict[int, str]:
    """A visible letter for every byte, in the order of the ids: itself where Latin-1 shows one, else the next letter from 256 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}


@cache
def _words() -> Any:
    """The pattern of a word: a special mark, an English ending, a run of letters, one digit, or a run of other visible characters."""
    import regex

    marks = "|".join(re.escape(mark) for mark in (START_MARK, END_MARK))
    return regex.compile(
        marks + r"|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
        regex.IGNORECASE,
    )


def _cleaned(text: str) -> str:
    import ftfy

    resolved = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", resolved).strip().lower()


def _word_ids(word: str) -> list[int]:
    if word in SPECIAL_IDS:
        return [SPECIAL_IDS[word]]
    letters = byte_letters()
    return [token.id for token in byte_pairs().tokenize("".join(letters[byte] for byte in word.encode("utf-8")))]
