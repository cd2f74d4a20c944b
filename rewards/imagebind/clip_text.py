"""Text as CLIP reads it: 49,408 byte pairs, at most 77 of them at a time.

``clip_merges.txt.gz`` beside this file is data of OpenAI's CLIP (MIT licence, copyright 2021 OpenAI): the 48,894 merges in use, the
most frequent first, one pair a line. Ids are those of CLIP's own tokenizer: the bytes, the bytes that end a word, the merges,
then the two special ids.
"""

from __future__ import annotations

import gzip
import html
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, lru_cache
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

MERGES = Path(__file__).with_name("clip_merges.txt.gz")
CONTEXT = 77
"""Ids that the text tower reads: start, up to 75 ids of text, end, then zeros."""
START, END = 49406, 49407
START_MARK, END_MARK = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
CACHED_WORDS = 65536


class LongPrompts(StrEnum):
    """What becomes of a text that is longer than the context.

    ``keep_end`` reads its beginning, closed by the end id, as ImageBind does today. ``javisbench`` cuts the end id off, as the JavisBench
    evaluation does: the state at the *start* id is then pooled, so every long text has one and the same embedding.
    """

    KEEP_END = "keep_end"
    JAVISBENCH = "javisbench"


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """``ids`` of symbols, ``ranks`` of the pairs that merge (lower first), and the letter that stands for each of the 256 bytes."""

    ids: dict[str, int]
    ranks: dict[tuple[str, str], int]
    letters: dict[int, str]


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
def vocabulary() -> Vocabulary:
    """The vocabulary that belongs to :data:`MERGES`."""
    with gzip.open(MERGES, "rt", encoding="utf-8") as stream:
        pairs = [(first, second) for first, second in (line.split() for line in stream)]
    letters = _letters()
    symbols = [
        *letters.values(),
        *(letter + WORD_END for letter in letters.values()),
        *(first + second for first, second in pairs),
        START_MARK,
        END_MARK,
    ]
    assert len(symbols) == END + 1, "another table of merges"
    ids = {symbol: index for index, symbol in enumerate(symbols)}
    return Vocabulary(ids, {pair: rank for rank, pair in enumerate(pairs)}, letters)


def _letters() -> dict[int, str]:
    """A visible letter for every byte: itself where Latin-1 shows one, else the next letter from 256 on. In the order of the ids."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}


@cache
def _words() -> Any:
    """What counts as a word: a special mark, an English ending, a run of letters, one digit, or a run of anything else visible."""
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


@lru_cache(maxsize=CACHED_WORDS)
def _word_ids(word: str) -> tuple[int, ...]:
    table = vocabulary()
    if word in (START_MARK, END_MARK):
        return (table.ids[word],)
    symbols = [table.letters[byte] for byte in word.encode("utf-8")]
    symbols[-1] += WORD_END
    return tuple(table.ids[symbol] for symbol in _merged(symbols, table.ranks))


def _merged(symbols: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Join the pair of the lowest rank, wherever it stands, until no neighbours can be joined."""
    while len(symbols) > 1:
        best = min(pairwise(symbols), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        joined: list[str] = []
        for symbol in symbols:
            # a symbol that has just been made is longer than the pair's first, so it cannot be joined once more
            if joined and (joined[-1], symbol) == best:
                joined[-1] += symbol
            else:
                joined.append(symbol)
        symbols = joined
    return symbols
