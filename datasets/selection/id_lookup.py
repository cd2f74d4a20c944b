"""Positions of ids among many: a guess that they follow each other, and otherwise a search in sorted hashes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from threading import Lock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from avpref.datasets.selection.text_hashes import Words, hashes_of

Ints = NDArray[np.int64]

NEIGHBOURHOOD = 1 << 15
"""Positions before and after a guess that are compared before the hashes are sorted."""


class IdLookup:
    """Finds ids in ``ids``. Build once; :meth:`find` may be called from several threads.

    ``hashes``: those of the ids (:func:`avpref.datasets.selection.text_hashes.hashes_of`). They are sorted when somebody asks whether
    an id occurs twice, and sorted with their positions only when a search needs it.
    """

    def __init__(self, ids: pa.Array, hashes: Words) -> None:
        self.ids, self._hashes = ids, hashes
        self._lock = Lock()
        self._order: Ints | None = None
        self._sorted = hashes[:0]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _is_ambiguous(self) -> bool:
        """Whether two positions have one hash."""
        ordered = np.sort(self._hashes)
        return bool((ordered[1:] == ordered[:-1]).any())

    @property
    def num_doubled(self) -> int:
        """Number of ids that another position has too."""
        return len(self.ids) - pc.count_distinct(self.ids).as_py() if self._is_ambiguous else 0

    def find(self, texts: pa.Array, hint: int) -> Ints:
        """The position of each of ``texts``, −1 for one that is not there. Fast where they follow each other from ``hint`` on, or
        from a position near it."""
        if texts.type != self.ids.type:
            texts = texts.cast(self.ids.type)
        first = next((first for first in self._guesses(texts, hint) if self._follow(texts, first)), None)
        if first is not None:
            return np.arange(first, first + len(texts))
        if self._is_ambiguous:
            return pc.fill_null(pc.index_in(texts, value_set=self.ids), -1).to_numpy().astype(np.int64)
        return self._search(texts)

    def _follow(self, texts: pa.Array, first: int) -> bool:
        """Whether ``texts`` are the ids from position ``first`` on."""
        return first >= 0 and texts.equals(self.ids.slice(first, len(texts)))

    def _guesses(self, texts: pa.Array, hint: int) -> Iterator[int]:
        """Positions at which the first of ``texts`` may be: ``hint``, those near it, and the one that the search finds."""
        yield hint
        start = max(hint - NEIGHBOURHOOD, 0)
        first = texts.slice(0, 1)
        yield from (start + np.flatnonzero(self._hashes[start : hint + NEIGHBOURHOOD] == hashes_of(first))).tolist()
        if not self._is_ambiguous:
            yield int(self._search(first)[0])

    def _search(self, texts: pa.Array) -> Ints:
        if not len(self.ids):
            return np.full(len(texts), -1, np.int64)
        order, ordered = self._by_hash()
        place = np.minimum(np.searchsorted(ordered, hashes_of(texts)), len(ordered) - 1)
        positions = order[place]
        is_equal = pc.equal(self.ids.take(pa.array(positions)), texts).to_numpy(zero_copy_only=False)
        return np.where(is_equal, positions, -1)

    def _by_hash(self) -> tuple[Ints, Words]:
        with self._lock:
            if self._order is None:
                self._order = np.argsort(self._hashes)
                self._sorted = self._hashes[self._order]
            return self._order, self._sorted
