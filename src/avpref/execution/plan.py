"""Plans of stages: items grouped by prompt, cut into shards of prompts and units of items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from avpref.config.executor_settings import Executor
from avpref.config.run_settings import RunSettings
from avpref.storage.unit import ItemT, ItemT_co, Unit

MemberT = TypeVar("MemberT")


@dataclass(frozen=True)
class Shard(Generic[ItemT_co]):
    """The units of a few hundred prompts. Progress and task runs are reported by shard."""

    ordinal: int
    units: tuple[Unit[ItemT_co], ...]

    @property
    def num_items(self) -> int:
        """Number of items in the shard."""
        return sum(len(unit.items) for unit in self.units)


@dataclass(frozen=True)
class StagePlan(Generic[ItemT_co]):
    """All units of one pass over a stage.

    Attributes:
        name: the name of the pass: the stage's, or with a suffix where a stage has several passes (``score-audiobox``).
        shards: the units, by shard.
        item_noun: plural noun of the items in progress bars and messages (``clips``).
        executor: runs the units of this pass; None for the executor of the run.
    """

    name: str
    shards: tuple[Shard[ItemT_co], ...]
    item_noun: str
    executor: Executor | None = None

    @property
    def units(self) -> list[Unit[ItemT_co]]:
        """The units of all shards, in order."""
        return [unit for shard in self.shards for unit in shard.units]

    @property
    def num_items(self) -> int:
        """Number of items in the plan."""
        return sum(shard.num_items for shard in self.shards)


def plan_stage(
    stage: str, item_noun: str, fingerprint: str, groups: Sequence[Sequence[ItemT]], settings: RunSettings
) -> StagePlan[ItemT]:
    """Cut ``groups`` (the items of one prompt each) into shards of ``shard_prompts`` groups and units of ``unit_candidates`` items."""
    size = settings.shard_prompts
    shards = []
    for ordinal, start in enumerate(range(0, len(groups), size)):
        items = [item for group in groups[start : start + size] for item in group]
        shards.append(Shard(ordinal, tuple(_units(stage, ordinal, fingerprint, items, settings.unit_candidates))))
    return StagePlan(stage, tuple(shards), item_noun)


def _units(stage: str, shard: int, fingerprint: str, items: Sequence[ItemT], size: int) -> Iterator[Unit[ItemT]]:
    for start in range(0, len(items), size):
        yield Unit(stage, shard, fingerprint, tuple(items[start : start + size]))


def grouped(members: Sequence[MemberT], keys: Sequence[str]) -> list[list[MemberT]]:
    """Members of equal key together, in order of first appearance. Raises ValueError unless there is one key per member."""
    groups: dict[str, list[MemberT]] = {}
    for member, key in zip(members, keys, strict=True):
        groups.setdefault(key, []).append(member)
    return list(groups.values())
