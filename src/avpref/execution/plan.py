"""What is to be done: candidates, shards and units, all derived from the prompts and the settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from avpref.config.run_settings import RunSettings
from avpref.storage.unit import Unit


@dataclass(frozen=True)
class Shard:
    """The units of a few hundred prompts: one task per stage."""

    ordinal: int
    units: tuple[Unit, ...]

    @property
    def num_items(self) -> int:
        """Candidates in the shard."""
        return sum(len(unit.items) for unit in self.units)


def shards(stage: str, fingerprint: str, groups: Sequence[Sequence[Any]], run: RunSettings) -> list[Shard]:
    """Cut ``groups`` (the items of one prompt each) into shards of prompts and units of candidates."""
    size, found = run.shard_prompts, []
    for ordinal, start in enumerate(range(0, len(groups), size)):
        items = [item for group in groups[start : start + size] for item in group]
        found.append(Shard(ordinal, tuple(_units(stage, ordinal, fingerprint, items, run.unit_candidates))))
    return found


def _units(stage: str, shard: int, fingerprint: str, items: Sequence[Any], size: int) -> Iterator[Unit]:
    for start in range(0, len(items), size):
        yield Unit(stage, shard, fingerprint, tuple(items[start : start + size]))


def grouped(items: Sequence[Any], keys: Sequence[str]) -> list[list[Any]]:
    """Items of equal key together, in order of first appearance."""
    groups: dict[str, list[Any]] = {}
    for item, key in zip(items, keys, strict=True):
        groups.setdefault(key, []).append(item)
    return list(groups.values())
