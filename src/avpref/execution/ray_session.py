"""Joining a Ray cluster, or starting Ray on this machine for the duration of a command."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from avpref.config.executor_settings import RayExecutor
from avpref.errors import ClusterError, ConfigError
from avpref.execution.ray_folder import ray_folder, say_folder

OBJECT_STORE_BYTES = 100 * 2**20
CLIENT_SCHEME = "ray://"
ACTOR_ENV = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
}
"""Environment variables of every actor of a pool.

The last two let glibc keep up to 64 MiB of freed memory: by default it returns the buffers of a decoder after each small file and asks for
them again, which takes an eighth of the time of a scan of short clips. They are the values that glibc itself arrives at after a program
has freed a block of 32 MiB.
"""
UNNEEDED_SERVICES = ("start_api_server", "start_monitor", "start_log_monitor")
"""Methods of Ray's node that start services without use on one machine: the server of the dashboard, the autoscaler, and the copying of
logs to the command. The start of a session waits for the first, its end for the second.
"""

_started_node = ""


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """Shut Ray down at the end of the block if it was started inside. Its log files are kept if the block failed."""
    if _is_ray_running():
        yield
        return
    try:
        yield
    finally:
        has_started = _is_ray_running()
        if has_started:
            sys.modules["ray"].shutdown()
    if has_started:
        for session in Path(ray_folder()).glob(f"session_*_{os.getpid()}"):
            shutil.rmtree(session, ignore_errors=True)


def _is_ray_running() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def join_ray(settings: RayExecutor) -> None:
    """Use the Ray that this process is connected to, or join the configured cluster, or start Ray on this machine.

    Raises ClusterError if the cluster does not answer or refuses this process, ConfigError if ``RAY_ADDRESS`` is empty.
    """
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RUNTIME_ENV_RETRY_TIMES", "1"
    )  # an environment that cannot be built stays so; an attempt takes minutes
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default Ray lowers the priority of its workers
    address = cluster_address(settings)
    if address:
        _join(address)
        return
    folder = ray_folder()
    say_folder(folder)
    _remove_old_sessions(Path(folder))
    with _environment(ACTOR_ENV), _without_unneeded_services():
        ray.init(
            num_cpus=num_local_cpus(settings),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=folder,
        )
    global _started_node
    _started_node = ray.get_runtime_context().get_node_id()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that are started in the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _without_unneeded_services() -> Iterator[None]:
    """A Ray that is started in the block has none of :data:`UNNEEDED_SERVICES`. A version of Ray without these methods has them."""
    node = getattr(sys.modules.get("ray._private.node"), "Node", None)
    methods = {name: method for name, method in vars(node or object).items() if name in UNNEEDED_SERVICES}
    for name in methods:
        setattr(node, name, _start_nothing)
    try:
        yield
    finally:
        for name, method in methods.items():
            setattr(node, name, method)


def _start_nothing(node: object, **settings: object) -> None:
    """In place of a method of Ray's node that starts a service."""


def has_actor_environment() -> bool:
    """Whether the processes of the connected Ray have the variables :data:`ACTOR_ENV`, because :func:`join_ray` started it here.

    An actor without an environment of its own then gets a process that Ray has started already.
    """
    ray = sys.modules["ray"]
    return bool(_started_node) and ray.get_runtime_context().get_node_id() == _started_node


def num_local_cpus(settings: RayExecutor) -> int:
    """Logical CPUs of a Ray that is started on this machine: one for each actor that runs at the same time."""
    in_pools = sum(pool.num_actors for pool in settings.pools.values()) if settings.scoring == "pools" else 0
    return max(settings.num_actors, in_pools)


def cluster_address(settings: RayExecutor) -> str:
    """Address of the cluster to join; empty if Ray is to be started on this machine.

    Raises ConfigError if ``RAY_ADDRESS`` is set and empty: a cluster was intended, and starting Ray here would hide that.
    """
    if settings.address:
        return settings.address
    address = os.environ.get("RAY_ADDRESS")
    if address is not None and not address.strip():
        raise ConfigError(
            "the variable RAY_ADDRESS is set, but empty",
            "the address of the Ray cluster to join (host:6379, or auto on one of its machines), or no such variable:"
            " then Ray starts on this machine",
            "unset RAY_ADDRESS, or: export RAY_ADDRESS=auto",
        )
    return address or ""


def _join(address: str) -> None:
    import ray

    if address.startswith(CLIENT_SCHEME):
        raise ClusterError(
            f"{address} is an address of the Ray client",
            "the address of the cluster's control store, host:6379, on a machine that shares the run folder with the actors",
            "run the command on a machine of the cluster (as a Ray job): RAY_ADDRESS=auto avpref retrain …",
        )
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ClusterError(
            f"no Ray cluster could be joined at {address}: {error}",
            "a running cluster of the same Ray and Python version, whose token this user has",
            "ray status --address ADDRESS; the token (`ray get-auth-token` on the head) goes into RAY_AUTH_TOKEN,"
            " with RAY_AUTH_MODE=token",
        ) from error


def _remove_old_sessions(folder: Path, keep_s: float = 24 * 3600) -> None:
    """Remove sessions older than ``keep_s`` whose driver has ended; a session's name ends with its driver's process id."""
    for session in folder.glob("session_*_*"):
        driver = session.name.rpartition("_")[2]
        is_ended = driver.isdecimal() and not session.is_symlink() and not _is_alive(int(driver))
        if is_ended and time.time() - session.stat().st_mtime > keep_s:
            shutil.rmtree(session, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
