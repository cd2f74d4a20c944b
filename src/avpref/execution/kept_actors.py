"""Idle Ray actors that are kept between the pools of one command, because starting a process and importing torch takes seconds.

Only actors without GPUs on a Ray of this machine alone are kept: on a cluster, and on a GPU, an idle actor would hold what others need.
Actors of a scorer's own pool are not kept either: their environment, or what the scorer's code left behind, must not reach other stages.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from avpref.config.executor_settings import Executor, RayExecutor
from avpref.execution.ray_actor import actor_class
from avpref.execution.ray_session import cluster_address, join_ray

_kept: list[Any] = []
_is_keeping = False


@contextmanager
def actors_kept() -> Iterator[None]:
    """Pools that close during the block leave their idle actors to the next pool; at the end the remaining ones are stopped."""
    global _is_keeping
    before, _is_keeping = _is_keeping, True
    try:
        yield
    finally:
        _is_keeping = before
        if not before:
            stop_kept_actors()


def keep_actor(actor: Any, settings: RayExecutor) -> bool:
    """Keep an idle actor of a pool with ``settings``; returns False where it must be stopped instead."""
    if not _is_keeping or not _may_keep(settings):
        return False
    actor.release.remote()
    _kept.append(actor)
    return True


def start_actors(executor: Executor, modules: Sequence[str]) -> None:
    """Start Ray on this machine and the actors of the command's first pool, which import ``modules`` meanwhile.

    Does nothing where actors are not kept. Raises as :func:`avpref.execution.ray_session.join_ray`.
    """
    if not isinstance(executor, RayExecutor) or not (_is_keeping and _may_keep(executor)):
        return
    join_ray(executor)
    start = actor_class(executor).remote
    for _ in range(executor.num_actors - len(_kept)):
        actor = start()
        actor.load.remote(list(modules))
        _kept.append(actor)


def take_actor(settings: RayExecutor) -> Any | None:
    """A kept actor for a pool with ``settings``, or None.

    A pool whose actors cannot be kept stops all of them first, because they hold processors that it may need.
    """
    if not _may_keep(settings):
        stop_kept_actors()
    return _kept.pop() if _kept else None


def stop_kept_actors() -> None:
    """Stop every kept actor."""
    ray = sys.modules.get("ray")
    while _kept:
        actor = _kept.pop()
        if ray is not None and ray.is_initialized():
            ray.kill(actor)


def _may_keep(settings: RayExecutor) -> bool:
    return not settings.is_of_scorer and not settings.num_gpus_per_actor and not cluster_address(settings)
