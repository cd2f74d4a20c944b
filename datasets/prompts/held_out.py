"""Held-out split by hash of each entry, so that no entry changes sides when the list grows."""

from __future__ import annotations

from collections.abc import Iterable

from avpref.identity import digest

HASH_CHARS = 64


def held_out(entries: Iterable[str], share: float, seed: int) -> list[str]:
    """Those of the distinct ``entries`` whose hash with ``seed``, as a fraction of all hashes, is below ``share``.

    Sorted by hash, whatever the order of ``entries``. The number is ``share`` of the list on average, with standard deviation
    sqrt(N · share · (1 − share)) for N entries. Where no hash is below but ``share`` of N rounds to one or more, the entry
    with the smallest hash is held out.
    """
    hashes = {digest("held_out", seed, entry, size=HASH_CHARS): entry for entry in entries}
    below = [entry for key, entry in sorted(hashes.items()) if int(key, 16) < share * 16**HASH_CHARS]
    if not below and round(share * len(hashes)):
        return [hashes[min(hashes)]]
    return below
