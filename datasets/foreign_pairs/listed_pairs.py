"""Pairs of other programs as rows: read from a list, before their clips are opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from avpref.datasets.foreign_pairs.clip_bytes import ClipPlace
from avpref.domain import ALL_DIMENSIONS


@dataclass(frozen=True)
class ListedPair:
    """A pair as it is listed. ``line`` counts from 1: the line of a CSV or JSON file, or the row over all shards.

    ``sha256`` has what the list says about the bytes of both clips, chosen first; empty where it says nothing. ``scores`` is JSON
    of the numbers that the list gives for the pair, and of no effect on training.
    """

    line: int
    text: str
    chosen: ClipPlace
    rejected: ClipPlace
    dimension: str = ALL_DIMENSIONS
    taxonomy: str = ""
    foreign_id: str = ""
    sha256: tuple[str, str] = ("", "")
    scores: str = "{}"

    @property
    def label(self) -> str:
        """A name for messages: the pair's own, or the clips' files."""
        return self.foreign_id or f"{self.chosen.file} > {self.rejected.file}"


Refuse = Callable[[int, str, str], None]
"""Takes the line, the pair's name and the reason of a pair that is not used."""
