"""Which scorers share a pool of actors, as ``executor.scoring`` says; see :mod:`avpref.flows.stages.score`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from avpref.config.executor_settings import Executor, InProcessExecutor, PoolSettings, RayExecutor
from avpref.flows.workers.scorer_source import ScorerSource

CANARIES = "canaries"
"""Folder of the answers to canary clips, which the runs of a folder share."""


@dataclass(frozen=True)
class ScorerGroup:
    """Scorers that share a pool of actors; ``suffix`` of the stage's name tells the groups of a stage apart."""

    suffix: str
    sources: tuple[ScorerSource, ...]
    fingerprints: tuple[str, ...]
    executor: Executor


def scorer_groups(
    executor: Executor, scorers: Sequence[ScorerSource], fingerprints: Sequence[str]
) -> list[ScorerGroup]:
    """One group of all scorers, or a group per scorer, as ``executor.scoring`` says; a scorer from outside is always alone."""
    executor = _with_pools(executor, scorers)
    members = list(zip(scorers, fingerprints, strict=True))
    shared = [member for member in members if not _is_alone(executor, member[0], len(members))]
    groups = [ScorerGroup("", *_columns(shared), executor)] if shared else []
    return groups + [
        ScorerGroup(f"-{source.slug}", (source,), (fingerprint,), _executor_of(executor, source))
        for source, fingerprint in members
        if _is_alone(executor, source, len(members))
    ]


def _is_alone(executor: Executor, source: ScorerSource, num_scorers: int) -> bool:
    """Whether the scorer has a pass of its own."""
    has_own_pool = isinstance(executor, RayExecutor) and executor.has_own_pool(source.slug) and num_scorers > 1
    return source.is_isolated or has_own_pool or (executor.scoring != "together" and num_scorers > 1)


def _columns(
    members: Sequence[tuple[ScorerSource, str]],
) -> tuple[tuple[ScorerSource, ...], tuple[str, ...]]:
    return tuple(source for source, _ in members), tuple(fingerprint for _, fingerprint in members)


def _with_pools(executor: Executor, scorers: Sequence[ScorerSource]) -> Executor:
    """The executor with a pool for every scorer from outside that has none, so that a local Ray has processors for all of them."""
    if isinstance(executor, InProcessExecutor):
        return executor
    default = PoolSettings(num_actors=executor.num_actors, num_gpus_per_actor=executor.num_gpus_per_actor)
    missing = [source.slug for source in scorers if source.is_isolated and source.slug not in executor.pools]
    return executor.model_copy(update={"pools": {**executor.pools, **dict.fromkeys(missing, default)}})


def _executor_of(executor: Executor, source: ScorerSource) -> Executor:
    """The executor of a scorer's own pool: scorers without a pool of their own use the stage's."""
    if isinstance(executor, InProcessExecutor) or source.slug not in executor.pools:
        return executor
    return executor.of_pool(source.slug)
