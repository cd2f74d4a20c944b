"""Where each stage of a run executes: device, processes and dtype, from the configuration alone.

Stages run in this process or on Ray actors. An actor sees the GPUs that it holds and no others, so on a Ray executor ``auto``
means CUDA exactly for actors that hold GPUs. Training runs on the device of the executor unless its loop names another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from avpref.config.executor_settings import InProcessExecutor, PoolSettings, RayExecutor
from avpref.config.schema import Settings
from avpref.config.training_settings import DpoSettings, LoopSettings, SftSettings
from avpref.devices import AUTO, resolved
from avpref.errors import ConfigError
from avpref.execution.kept_actors import stop_kept_actors
from avpref.execution.ray_session import cluster_address, join_ray, num_local_cpus
from avpref.flows.workers.generator import base_of
from avpref.flows.workers.judges import all_scorers, judges_of
from avpref.flows.workers.scorers import ScorerSource, sources

CPU = "cpu"
OF_EXECUTOR = "executor"
Launcher = Literal["in_process", "processes", "ray"]


@dataclass(frozen=True)
class Placement:
    """One stage (or one scorer of stage ``score``): its device, its processes, and the dtype of its network ("" without one)."""

    stage: str
    device: str
    processes: str
    dtype: str


def worker_device(executor: InProcessExecutor | RayExecutor, num_gpus: float) -> str:
    """The device of a worker that holds ``num_gpus`` GPUs where the executor is Ray."""
    if executor.device != AUTO:
        return executor.device
    if isinstance(executor, RayExecutor):
        return "cuda" if num_gpus else CPU
    return resolved(AUTO)


def training_device(executor: InProcessExecutor | RayExecutor, loop: LoopSettings) -> str:
    """The device that ``loop`` trains on: its own, or the executor's."""
    if loop.device == AUTO:
        return resolved(AUTO)
    if loop.device != OF_EXECUTOR:
        return loop.device
    return worker_device(executor, gpus_per_actor(executor))


def training_launcher(executor: InProcessExecutor | RayExecutor, loop: LoopSettings) -> Launcher:
    """The launcher of ``loop``; ``auto`` is Ray Train for several processes, and where a Ray executor trains on GPUs."""
    if loop.launcher != "auto":
        return loop.launcher
    is_on_held_gpu = isinstance(executor, RayExecutor) and training_device(executor, loop) != CPU
    return "ray" if is_on_held_gpu or loop.num_processes > 1 else "in_process"


def placed_loop(executor: InProcessExecutor | RayExecutor, loop: LoopSettings) -> LoopSettings:
    """``loop`` with its device and launcher resolved."""
    resolved_values = {"device": training_device(executor, loop), "launcher": training_launcher(executor, loop)}
    return loop.model_copy(update=resolved_values)


def placements(settings: Settings) -> list[Placement]:
    """The placement of every stage that runs a network or a codec, in the order of the stages."""
    executor = settings.executor
    device, workers = worker_device(executor, gpus_per_actor(executor)), _workers(executor)
    rows: list[Placement] = []
    if isinstance(settings.sft, SftSettings):
        rows += [_training("sft", settings, settings.sft)]
    precisions = base_of(settings).precisions
    if precisions.text:
        rows += [Placement("texts", device, workers, precisions.text)]
    rows += [Placement("generate", device, workers, settings.sampling.dtype)]
    rows += [_scoring(settings, "score", source) for source in sources(settings.scoring, settings.executor)]
    rows += [Placement("encode", device, workers, precisions.codec), _training("train", settings, settings.dpo)]
    rows += [Placement("evaluate", device, workers, settings.sampling.dtype)]
    return [*rows, *(_scoring(settings, "judge", judge.source) for judge in judges_of(settings))]


def gpus_per_actor(executor: InProcessExecutor | RayExecutor, slug: str = "") -> float:
    """GPUs that an actor of the executor, or of the pool of scorer ``slug``, holds; 0 without Ray."""
    if isinstance(executor, InProcessExecutor):
        return 0.0
    return _actors_of(executor, slug).num_gpus_per_actor


def require_devices(settings: Settings) -> None:
    """Raises ConfigError where a stage needs a GPU or a process that cannot be had; clusters are asked when they are joined."""
    executor = settings.executor
    for loop in training_loops(settings):
        _require_processes(executor, loop)
    if isinstance(executor, RayExecutor):
        _require_held_gpus(settings, executor)
        if cluster_address(executor):
            return
    needing = sorted({row.stage for row in placements(settings) if row.device != CPU})
    if needing and not torch.cuda.is_available():
        raise ConfigError(
            f"{', '.join(needing)} on {_devices(settings)}, and this machine has no CUDA device that torch can use",
            "a CUDA device and a CUDA build of torch, or the CPU",
            f"--set executor.device=cpu{_without_gpus(executor)}",
        )
    if needing and torch.cuda.device_count() < (most := _most_gpus(settings)):
        found = f"{most:g} GPUs are needed at the same time, and this machine has {torch.cuda.device_count()}"
        raise ConfigError(found, "at most as many GPUs as there are", "--set dpo.loop.num_processes=1")


def join_for_training(executor: InProcessExecutor | RayExecutor, loop: LoopSettings) -> None:
    """Join or start Ray where ``loop`` (with its launcher resolved) needs it. Raises as :func:`join_ray`."""
    if loop.launcher == "ray":
        stop_kept_actors()
        join_ray(executor if isinstance(executor, RayExecutor) else RayExecutor(num_actors=loop.num_processes))


def training_loops(settings: Settings) -> Iterator[LoopSettings]:
    """The loops of the trainings of a run, resolved."""
    if isinstance(settings.sft, SftSettings):
        yield placed_loop(settings.executor, settings.sft.loop)
    yield placed_loop(settings.executor, settings.dpo.loop)


def _training(stage: str, settings: Settings, training: SftSettings | DpoSettings) -> Placement:
    loop = placed_loop(settings.executor, training.loop)
    dtype = f"{training.base_dtype}, adapter float32" if isinstance(training, DpoSettings) else "float32"
    where = {"ray": f"{loop.num_processes} Ray Train worker(s)", "processes": f"{loop.num_processes} process(es)"}
    return Placement(stage, loop.device, where.get(loop.launcher, "this process"), dtype)


def _scoring(settings: Settings, stage: str, source: ScorerSource) -> Placement:
    executor, stage = settings.executor, f"{stage}: {source.slug}"
    if not source.uses_device:
        return Placement(stage, CPU, _workers(executor, source.slug), "")
    device = worker_device(executor, gpus_per_actor(executor, source.slug))
    model = getattr(settings.scoring, source.slug, None)
    return Placement(stage, device, _workers(executor, source.slug), getattr(model, "dtype", ""))


def _workers(executor: InProcessExecutor | RayExecutor, slug: str = "") -> str:
    if isinstance(executor, InProcessExecutor):
        return "this process"
    return f"{_actors_of(executor, slug).num_actors} Ray actor(s)"


def _actors_of(executor: RayExecutor, slug: str) -> RayExecutor | PoolSettings:
    """The pool of scorer ``slug`` where it has its own, else the executor, whose actors it shares."""
    return executor.pools[slug] if executor.has_own_pool(slug) else executor


def _devices(settings: Settings) -> str:
    return ", ".join(sorted({row.device for row in placements(settings)} - {CPU}))


def _most_gpus(settings: Settings) -> float:
    """The largest number of GPUs that one actor holds, or that the processes of one training use."""
    executor = settings.executor
    actors = [gpus_per_actor(executor, source.slug) for source in all_scorers(settings)]
    trained = [float(loop.num_processes) for loop in training_loops(settings) if loop.device != CPU]
    return max([gpus_per_actor(executor), *actors, *trained])


def _without_gpus(executor: InProcessExecutor | RayExecutor) -> str:
    if isinstance(executor, InProcessExecutor):
        return ""
    held = [f"pools.{slug}." for slug, pool in executor.pools.items() if pool.num_gpus_per_actor]
    held += [""] if executor.num_gpus_per_actor else []
    return "".join(f" --set executor.{prefix}num_gpus_per_actor=0" for prefix in reversed(held))


def _require_processes(executor: InProcessExecutor | RayExecutor, loop: LoopSettings) -> None:
    if loop.launcher == "in_process" and loop.num_processes > 1:
        found = f"{loop.num_processes} training processes with launcher {loop.launcher}"
        raise ConfigError(found, "launcher ray, processes or auto, or one process", "--set dpo.loop.launcher=ray")
    if not isinstance(executor, RayExecutor) or loop.launcher != "ray" or cluster_address(executor):
        return
    if loop.num_processes > num_local_cpus(executor):
        found = f"{loop.num_processes} training processes on a Ray of {num_local_cpus(executor)} actors"
        fix = f"--set executor.num_actors={loop.num_processes}"
        raise ConfigError(found, "at least as many actors as training processes", fix)


def _require_held_gpus(settings: Settings, executor: RayExecutor) -> None:
    """An actor that holds no GPU sees none, so a CUDA device without GPUs is a contradiction."""
    if executor.device in (AUTO, CPU):
        return
    without = ["executor"] if not executor.num_gpus_per_actor else []
    networks = [source.slug for source in all_scorers(settings) if source.uses_device]
    without += [f"executor.pools.{slug}" for slug in networks if not gpus_per_actor(executor, slug)]
    if without:
        found = f"executor.device {executor.device}, and num_gpus_per_actor 0 in {', '.join(dict.fromkeys(without))}"
        fix = " ".join(f"--set {section}.num_gpus_per_actor=1" for section in dict.fromkeys(without))
        raise ConfigError(found, "actors that hold GPUs; an actor sees no other GPU", fix)
