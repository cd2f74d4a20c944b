"""The actor's side of a Ray pool: it describes itself, builds its worker, and runs units."""

from __future__ import annotations

import importlib
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from avpref.config.executor_settings import RayExecutor
from avpref.errors import AvprefError, StorageError
from avpref.execution.code_version import code_version
from avpref.execution.contract import Failure, UnitOutcome, Worker, WorkerSpec, failure_of, run_and_catch
from avpref.execution.ray_session import ACTOR_ENV, has_actor_environment
from avpref.storage.files import Files
from avpref.storage.unit import Unit

POLL_INTERVAL_S = 0.2
PROBE_TIMEOUT_S = 10.0
"""Longest wait until a file that an actor committed is visible to the driver: network folders cache their listings."""


@dataclass(frozen=True)
class ActorInfo:
    """Node, host and process of an actor, its code version, and the error if it could not write the probe."""

    node_id: str
    host: str
    process: int
    version: str
    write_error: AvprefError | None = None

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} (node {self.node_id[:8]})"


@dataclass(frozen=True)
class Probe:
    """A file that an actor commits beside the units, so that the driver can check that it sees the same folder."""

    store: Files
    name: str


class ActorProcess:
    """Runs in the actor's process. Its methods are called in order: :meth:`info`, :meth:`build`, then :meth:`run` per unit.

    After :meth:`release` they are called in the same order for another worker.
    """

    def __init__(self) -> None:
        self._worker: Worker[Any] | None = None
        self._build_s = 0.0

    def load(self, modules: Sequence[str]) -> None:
        """Import ``modules`` of the product and read its sources, so that :meth:`info` and :meth:`build` take less time."""
        for module in modules:
            importlib.import_module(module)
        code_version()

    def info(self, probe: Probe | None) -> ActorInfo:
        """Describe the actor, and commit ``probe`` for the driver to check."""
        import ray

        write_error: AvprefError | None = None
        node_id, host, process = ray.get_runtime_context().get_node_id(), socket.gethostname(), os.getpid()
        if probe is not None:
            try:
                probe.store.commit_once(probe.name, f"{node_id} {process}".encode())
            except StorageError as error:
                write_error = error
        return ActorInfo(node_id, host, process, code_version(), write_error)

    def build(self, spec: WorkerSpec[Any]) -> Failure | None:
        """Build the worker; returns the failure if that raised an error."""
        started = time.perf_counter()
        try:
            self._worker = spec.build()
        except Exception as error:
            return failure_of(error, is_fatal=True)
        self._build_s = time.perf_counter() - started
        return None

    def release(self) -> None:
        """Drop the worker, and with it the memory of its weights: the next call is :meth:`info` of another pool."""
        self._worker = None

    def run(self, unit: Unit[Any]) -> UnitOutcome:
        """Run a unit. Its items are not sent back: the driver has them."""
        assert self._worker is not None
        build_s, self._build_s = self._build_s, 0.0
        outcome = run_and_catch(self._worker, unit).with_build_time(build_s)
        return replace(outcome, unit=replace(unit, items=()))


def actor_class(settings: RayExecutor) -> Any:
    """The class of the actors of a pool with ``settings``, in the connected Ray: ``actor_class(settings).remote()`` starts one."""
    import ray

    needs_no_environment = settings.runtime_env.is_empty and has_actor_environment()
    return ray.remote(ActorProcess).options(
        num_cpus=1,
        num_gpus=settings.num_gpus_per_actor or None,
        max_restarts=0,
        runtime_env=None if needs_no_environment else settings.runtime_env.for_ray(ACTOR_ENV),
    )


def require_visible(probe: Probe, info: ActorInfo) -> None:
    """Raise StorageError unless the probe that the actor committed is visible here with the same content."""
    store, name = probe.store, probe.name
    deadline = time.monotonic() + PROBE_TIMEOUT_S
    while not store.exists(name) and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL_S)
    try:
        if store.exists(name) and store.read(name) == f"{info.node_id} {info.process}".encode():
            return
    finally:
        store.delete(name)
    raise StorageError(
        f"a file that {info} committed to {store.uri('')} is not visible there on {socket.gethostname()}",
        "a run folder that all machines of the cluster share under one path, or a bucket (section storage)",
        "choose a folder on shared storage: --runs /shared/runs",
    )
