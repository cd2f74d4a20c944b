"""A unit: a few items that one worker call handles and one file commits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Protocol, TypeVar

from avpref.identity import digest


class Item(Protocol):
    """The input of one result of a stage: a candidate, a clip, a text. Items are frozen dataclasses."""

    @property
    def item_id(self) -> str:
        """The derived id of the item."""
        ...


ItemT = TypeVar("ItemT", bound=Item)
ItemT_co = TypeVar("ItemT_co", bound=Item, covariant=True)
ItemT_contra = TypeVar("ItemT_contra", bound=Item, contravariant=True)


@dataclass(frozen=True)
class Unit(Generic[ItemT_co]):
    """A few items of one stage and shard that one worker call handles and one file commits."""

    stage: str
    shard: int
    fingerprint: str
    items: tuple[ItemT_co, ...]

    @cached_property
    def name(self) -> str:
        """Derived file name: the shard, and a hash of the ids of the items. Equal plans give equal names."""
        return f"{self.shard:05d}-{digest([item.item_id for item in self.items], size=12)}"
