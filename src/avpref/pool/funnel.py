"""The funnel of a pool: how many videos, clips and hours remain after each stage and each filter, and why the others do not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from avpref.pool.lost_items import all_lost, read_lost
from avpref.pool.pool_folder import PoolFolder, sql
from avpref.pool.pool_tables import DECISIONS, LISTED, WRITTEN

MAX_REASONS = 5


@dataclass(frozen=True)
class FunnelStep:
    """The rest after a step. Items are sources until ``distinct`` and clips from ``clips`` on; hours are of media."""

    step: str
    items: int
    hours: float


@dataclass(frozen=True)
class FilterEffect:
    """Clips and hours that a filter removes: as the first that a clip fails, alone, and as the only one that it fails."""

    filter: str
    removed: int
    hours: float
    alone: int
    hours_alone: float
    only: int


@dataclass(frozen=True)
class Funnel:
    """The steps in order, the effect of each filter in its order, and the commonest reasons of each stage with their numbers."""

    steps: tuple[FunnelStep, ...]
    filters: tuple[FilterEffect, ...]
    reasons: tuple[tuple[str, str, int], ...]


def funnel(pool: PoolFolder) -> Funnel:
    """The funnel from the sealed tables; a stage that has not run has no step."""
    with pool.connect() as con:
        counted = con.execute(sql("funnel")).fetchall()
        effects = {row[0]: FilterEffect(*row) for row in con.execute(sql("removed_by_filter")).fetchall()}
    num_refused = len([row for row in read_lost(pool, "scan") if not row.item])
    listed = FunnelStep("listed", pool.tables.num_rows(LISTED) + num_refused, 0.0)
    order = [entry.label for entry in pool.config.filter.all_filters]
    names = [*order, *sorted(set(effects) - set(order))]
    has_decided = pool.tables.has(DECISIONS)
    filters = tuple(effects.get(name, FilterEffect(name, 0, 0.0, 0, 0.0, 0)) for name in names) if has_decided else ()
    steps: list[FunnelStep] = [listed]
    for name, items, hours in (row[1:] for row in counted):
        if name == "kept" and has_decided:
            steps += _after_filters(steps[-1], filters)
        if name not in ("kept", "written") or (has_decided and (name == "kept" or pool.tables.has(WRITTEN))):
            steps.append(FunnelStep(name, items, hours))
    return Funnel(tuple(steps), filters, _reasons(pool))


def _after_filters(before: FunnelStep, filters: tuple[FilterEffect, ...]) -> list[FunnelStep]:
    steps = []
    for effect in filters:
        before = FunnelStep(f"after {effect.filter}", before.items - effect.removed, before.hours - effect.hours)
        steps.append(before)
    return steps


def _reasons(pool: PoolFolder) -> tuple[tuple[str, str, int], ...]:
    """The commonest reasons of each stage; numbers in a reason are left out, so that alike ones count together."""
    counts: dict[str, Counter[str]] = {}
    for row in all_lost(pool):
        counts.setdefault(row.stage, Counter())[_kind(row.reason)] += 1
    return tuple(
        (stage, reason, number)
        for stage, reasons in counts.items()
        for reason, number in reasons.most_common(MAX_REASONS)
    )


def _kind(reason: str) -> str:
    """A reason without paths, numbers and ids."""
    head = reason.splitlines()[0]
    words = [word for word in head.split() if not any(character.isdigit() for character in word) and "/" not in word]
    return " ".join(words)[:100]
