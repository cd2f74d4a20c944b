"""Plans of stages: items grouped by prompt, cut into shards of prompts and units of items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from avpref.config.executor_settings import Executor
from avpref.config.run_settings import RunSettings
from avpref.storage.unit import ItemT, ItemT_co, Unit

MemberT = TypeVar("MemberT")

LARGEST_GROWTH, NUM_UNITS = 4, 64
"""Units of light items are joined into at most this many times larger ones, as long as a plan keeps about this number of units."""


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
        unit_size: number of items of a full unit that reuse packs; 0 for the size of the largest unit.
    """

    name: str
    shards: tuple[Shard[ItemT_co], ...]
    item_noun: str
    executor: Executor | None = None
    unit_size: int = 0

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


def with_larger_units(plan: StagePlan[ItemT], weight: Callable[[ItemT], float]) -> StagePlan[ItemT]:
    """``plan`` with neighbouring units of a shard joined while the ``weight`` of their items is at most 1 in all.

    Fewer units cost fewer files and calls. A small plan, heavy items and the last shard keep their units: all actors have work until
    the end, and a kill repeats little.
    """
    growth = min(LARGEST_GROWTH, len(plan.units) // NUM_UNITS)
    if growth < 2:
        return plan
    shards = [replace(shard, units=tuple(_joined(shard.units, weight, growth))) for shard in plan.shards[:-1]]
    size = max(len(unit.items) for unit in plan.units)
    return replace(plan, shards=(*shards, *plan.shards[-1:]), unit_size=size)


def _joined(units: Sequence[Unit[ItemT]], weight: Callable[[ItemT], float], growth: int) -> Iterator[Unit[ItemT]]:
    """``units`` in groups of up to ``growth`` neighbours that weigh at most 1, or of one unit."""
    group: list[Unit[ItemT]] = []
    total = 0.0
    for unit in units:
        added = sum(map(weight, unit.items))
        if group and (len(group) == growth or total + added > 1.0):
            yield _one_unit(group)
            group, total = [], 0.0
        group.append(unit)
        total += added
    if group:
        yield _one_unit(group)


def _one_unit(units: Sequence[Unit[ItemT]]) -> Unit[ItemT]:
    return replace(units[0], items=tuple(item for unit in units for item in unit.items))


def grouped(members: Sequence[MemberT], keys: Sequence[str]) -> list[list[MemberT]]:
    """Members of equal key together, in order of first appearance. Raises ValueError unless there is one key per member."""
    groups: dict[str, list[MemberT]] = {}
    for member, key in zip(members, keys, strict=True):
        groups.setdefault(key, []).append(member)
    return list(groups.values())
