"""Which entries of a list are kept for evaluation: a property of each entry, so that a list may grow and no entry changes sides."""

from __future__ import annotations

from collections.abc import Iterable

from avpref.identity import digest

HASH_CHARS = 64


def held_out(entries: Iterable[str], share: float, seed: int) -> list[str]:
    """Those of ``entries`` (distinct contents) whose hash with ``seed``, as a fraction of all hashes, is below ``share``.

    In the order of their hashes, which is the same in whatever order they are given. On average ``share`` of a list, in a list of N
    give or take sqrt(N · share · (1 − share)); where that is nobody but ``share`` rounds to at least one entry, the first hash.
    """
    hashes = {digest("held_out", seed, entry, size=HASH_CHARS): entry for entry in entries}
    below = [entry for key, entry in sorted(hashes.items()) if int(key, 16) < share * 16**HASH_CHARS]
    if not below and round(share * len(hashes)):
        return [hashes[min(hashes)]]
    return below
