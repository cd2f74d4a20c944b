"""A pool of Ray core actors: starts them, sends them units, and replaces actors that die or whose node dies.

An actor is sent units only when it is ready: it was placed on a node, runs the same code, writes to the same folder, and has
loaded its worker. Until then units wait in the pool, so an actor that the cluster has no capacity for delays nothing. The
units of a dead actor come back and the actor is replaced. A slot whose actors repeatedly die before they are ready is
removed; when no slot remains, the run ends with a ClusterError.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Generic

from avpref.config.executor_settings import RayExecutor
from avpref.errors import ClusterError, StorageError
from avpref.execution.code_version import code_version
from avpref.execution.contract import (
    Failure,
    UnitOutcome,
    UnitStore,
    WorkerSpec,
    failure_of,
)
from avpref.execution.kept_actors import keep_actor, take_actor
from avpref.execution.ray_actor import POLL_INTERVAL_S, ActorInfo, Probe, actor_class, require_visible
from avpref.execution.ray_session import cluster_address
from avpref.storage.local_files import TEMPORARY_PREFIX
from avpref.storage.unit import ItemT, Unit

IN_FLIGHT_PER_ACTOR = 2
MAX_FAILED_STARTS = 3
"""Number of consecutive actors dying before they are ready after which their slot is removed."""
NODE_STATE_TIMEOUT_S = 5.0
"""Longest wait for the state of a node whose actor is unreachable: Ray reports the broken connection before the dead node."""
STOP_TIMEOUT_S = 5.0
"""Longest wait for the end of stopped actors, before their probes are deleted."""


@dataclass
class _InFlight(Generic[ItemT]):
    """A unit that was sent to an actor. ``since_s`` is when it became the actor's oldest unit, and so began to run."""

    reference: Any
    unit: Unit[ItemT]
    since_s: float = 0.0


@dataclass
class _Slot(Generic[ItemT]):
    """One actor of the pool. ``starting`` is the call that it must answer before it is ready; None once it is ready."""

    actor: Any
    starting: Any
    probe: Probe | None
    info: ActorInfo | None = None
    failed_starts: int = 0
    in_flight: deque[_InFlight[ItemT]] = field(default_factory=deque)

    @property
    def is_ready(self) -> bool:
        """Whether units may be sent."""
        return self.starting is None


class RayPool(Generic[ItemT]):
    """Actors that run units, :data:`IN_FLIGHT_PER_ACTOR` in flight per actor. ``files`` is where the actors commit units.

    Raises ClusterError if Ray runs on this machine alone and the machine has no capacity for an actor.
    """

    def __init__(self, spec: WorkerSpec[ItemT], settings: RayExecutor, files: UnitStore | None = None) -> None:
        import ray

        self._ray, self._spec, self._settings, self._files = ray, spec, settings, files
        self._actor_class = actor_class(settings)
        self._waiting: deque[Unit[ItemT]] = deque()
        self._ended: deque[UnitOutcome] = deque()
        self._lost_with_node: set[str] = set()
        self._last_start_error = ""
        self._num_started = 0
        self._without_actor_since_s = time.monotonic()
        self.capacity = IN_FLIGHT_PER_ACTOR * settings.num_actors
        self._check_local_capacity()
        self._slots = [self._start() for _ in range(settings.num_actors)]

    def submit(self, unit: Unit[ItemT]) -> None:
        """Queue the unit; it is sent to an actor as soon as one is ready and has fewer than two units."""
        self._waiting.append(unit)
        self._send()

    def next_done(self) -> UnitOutcome:
        """Wait until any unit has ended.

        Raises ClusterError if no actor can be placed or started, StorageError if actors write to another folder.
        """
        while not self._ended:
            self._send()
            self._wait()
        return self._ended.popleft()

    def close(self) -> None:
        """Stop the actors, except idle ones that :func:`avpref.execution.kept_actors.keep_actor` keeps.

        Those that wait for a place go first: the places of the others would start them. An actor that was started may have
        committed a probe that this process has not read, so probes are deleted once Ray knows that their actors ended.
        """
        for slot in sorted(self._slots, key=lambda slot: slot.is_ready):
            is_idle = slot.is_ready and not slot.in_flight
            if not (is_idle and keep_actor(slot.actor, self._settings)):
                self._ray.kill(slot.actor)
        self._delete_probes([slot for slot in self._slots if slot.info is None])

    def _delete_probes(self, slots: list[_Slot[ItemT]]) -> None:
        """Delete the probes of stopped actors whose info was not read. A folder that cannot be written to has none."""
        calls = [slot.starting for slot in slots if slot.probe is not None]
        if calls:
            self._ray.wait(calls, num_returns=len(calls), timeout=STOP_TIMEOUT_S)
        for slot in slots:
            if slot.probe is not None:
                with contextlib.suppress(StorageError):
                    slot.probe.store.delete(slot.probe.name)

    def _send(self) -> None:
        """Send waiting units to ready actors, to the one with the fewest units first."""
        ready = [slot for slot in self._slots if slot.is_ready]
        while self._waiting and ready:
            slot = min(ready, key=lambda slot: len(slot.in_flight))
            if len(slot.in_flight) >= IN_FLIGHT_PER_ACTOR:
                return
            unit = self._waiting.popleft()
            since_s = 0.0 if slot.in_flight else time.monotonic()
            slot.in_flight.append(_InFlight(slot.actor.run.remote(unit), unit, since_s))

    def _wait(self) -> None:
        """Handle the next answer of any actor, then all timeouts that have passed."""
        calls: dict[Any, tuple[_Slot[ItemT], _InFlight[ItemT] | None]] = {}
        for slot in self._slots:
            if slot.starting is not None:
                calls[slot.starting] = (slot, None)
            calls.update((sent.reference, (slot, sent)) for sent in slot.in_flight)
        answered, _ = self._ray.wait(list(calls), num_returns=1, timeout=self._wait_timeout_s())
        if answered:
            slot, sent = calls[answered[0]]
            self._continue_start(slot) if sent is None else self._collect(slot, sent)
        self._stop_overdue_units()
        self._check_start_timeout()

    # starting actors

    def _start(self, failed_starts: int = 0) -> _Slot[ItemT]:
        """A slot with a kept or a new actor, whose info is requested. Ray places it as soon as the cluster has capacity."""
        self._num_started += 1
        actor = take_actor(self._settings) or self._actor_class.remote()
        probe = None
        if self._files is not None:
            writer = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}-{self._num_started}"
            probe = Probe(self._files.store, f"{TEMPORARY_PREFIX}probe-{writer}")
        return _Slot(actor, actor.info.remote(probe), probe, failed_starts=failed_starts)

    def _continue_start(self, slot: _Slot[ItemT]) -> None:
        """Next step of a starting actor: after its info it is checked and builds its worker, then it is ready."""
        try:
            answer = self._ray.get(slot.starting)
        except self._ray.exceptions.RayError as error:
            self._last_start_error = str(error)
            self._replace_actor(slot, slot.failed_starts + 1)
            return
        if slot.info is None:
            self._check_actor(slot, answer)
            slot.info, slot.starting = answer, slot.actor.build.remote(self._spec)
        elif answer is None:
            slot.starting, slot.failed_starts = None, 0
        else:
            self._report_build_failure(answer)

    def _report_build_failure(self, failure: Failure) -> None:
        """End any unit with the failure of a worker that could not be built; the failure is fatal."""
        unit = self._waiting.popleft() if self._waiting else self._withdraw()
        self._ended.append(UnitOutcome(unit, failure=failure))

    def _withdraw(self) -> Unit[ItemT]:
        slot = next(slot for slot in self._slots if slot.in_flight)
        return slot.in_flight.pop().unit

    def _check_actor(self, slot: _Slot[ItemT], info: ActorInfo) -> None:
        """Raise ClusterError for an actor with other code, StorageError for one that cannot write where this process reads."""
        driver_version = code_version()
        if info.version != driver_version:
            raise ClusterError(
                f"{info} runs avpref {info.version}, this process {driver_version}",
                "the same code on every machine, because the names of units depend on it",
                "install the same version (or the same checkout) on all nodes, or use one image, and start again",
            )
        if info.write_error is not None:
            error = info.write_error
            raise StorageError(f"{info}: {error.found}", error.expected, error.fix)
        if slot.probe is not None:
            require_visible(slot.probe, info)

    def _replace_actor(self, slot: _Slot[ItemT], failed_starts: int) -> None:
        """Put a new actor into the slot, or remove the slot after too many failed starts."""
        self._ray.kill(slot.actor)
        if slot.info is None:
            self._delete_probes([slot])
        index = self._slots.index(slot)
        if failed_starts < MAX_FAILED_STARTS:
            self._slots[index] = self._start(failed_starts)
        else:
            del self._slots[index]
        if not any(other.info for other in self._slots):
            self._without_actor_since_s = time.monotonic()
        if not self._slots:
            raise ClusterError(
                f"all {self._settings.num_actors} actors died {MAX_FAILED_STARTS} times before they were ready;"
                f" the last error: {self._last_start_error}",
                "nodes on which avpref is installed and its weights fit into memory",
                "see the workers' logs of Ray (session_latest/logs), or lower executor.num_actors",
            )

    # collecting outcomes

    def _collect(self, slot: _Slot[ItemT], sent: _InFlight[ItemT]) -> None:
        """Take the outcome of a unit; if its actor died, take back all units of the actor."""
        outcome, error = self._outcome_of(sent)
        if outcome is None:
            if isinstance(error, self._ray.exceptions.ActorUnavailableError):
                self._wait_for_node_state(slot)
            self._fail_actor(slot, Failure("ActorDied", str(error), is_death=True))
            return
        slot.in_flight.remove(sent)
        if slot.in_flight:
            slot.in_flight[0].since_s = slot.in_flight[0].since_s or time.monotonic()
        self._ended.append(outcome)

    def _outcome_of(self, sent: _InFlight[ItemT]) -> tuple[UnitOutcome | None, Exception | None]:
        """(outcome, None) of a unit that ended; (None, Ray's error) if its actor died before."""
        errors = self._ray.exceptions
        try:
            outcome = self._ray.get(sent.reference)
        except (errors.RayActorError, errors.OutOfMemoryError) as error:
            return None, error
        except errors.RayError as error:  # the unit or its outcome could not be serialised
            return UnitOutcome(sent.unit, failure=failure_of(error, is_fatal=False)), None
        return replace(outcome, unit=sent.unit), None

    def _fail_actor(self, slot: _Slot[ItemT], failure: Failure) -> None:
        """Replace the actor of ``slot``; its oldest unfinished unit gets ``failure``, the others come back to be run again.

        Actors run units in the order of submission, so the oldest unfinished unit was running. A unit whose file exists is
        finished, even if its receipt was lost with the actor.
        """
        references = [sent.reference for sent in slot.in_flight]
        answered, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        self._ray.kill(slot.actor)  # it may be unreachable rather than dead
        is_attributed = False
        for sent in slot.in_flight:
            outcome = self._outcome_of(sent)[0] if sent.reference in answered else None
            is_done = self._files is not None and self._files.exists(sent.unit)
            if outcome is None and not is_done and not is_attributed:
                is_attributed = True
                if not self._is_node_failure(slot, sent.unit):
                    outcome = UnitOutcome(sent.unit, failure=failure)
            self._ended.append(outcome or UnitOutcome(sent.unit))
        slot.in_flight.clear()
        self._replace_actor(slot, failed_starts=0)

    def _wait_for_node_state(self, slot: _Slot[ItemT]) -> None:
        """Wait until Ray marks the node of an unreachable actor dead, as long as it may take if the node did die."""
        deadline = time.monotonic() + NODE_STATE_TIMEOUT_S
        while self._is_node_alive(slot) and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL_S)

    def _is_node_alive(self, slot: _Slot[ItemT]) -> bool:
        assert slot.info is not None
        return any(node["Alive"] and node["NodeID"] == slot.info.node_id for node in self._ray.nodes())

    def _is_node_failure(self, slot: _Slot[ItemT], unit: Unit[ItemT]) -> bool:
        """Whether the whole node died. True at most once per unit, because the unit may be what takes nodes down."""
        if self._is_node_alive(slot) or unit.name in self._lost_with_node:
            return False
        self._lost_with_node.add(unit.name)
        return True

    # timeouts

    def _wait_timeout_s(self) -> float | None:
        """Seconds until the next unit is overdue or the wait for an actor ends; None without any limit."""
        now, limits_s = time.monotonic(), list(self._unit_times_left_s())
        if not any(slot.info for slot in self._slots):
            limits_s.append(self._settings.start_patience_s - (now - self._without_actor_since_s))
        return max(0.0, min(limits_s)) if limits_s else None

    def _unit_times_left_s(self) -> Iterator[float]:
        if self._settings.unit_timeout_s:
            now = time.monotonic()
            for slot in self._slots:
                if slot.in_flight:
                    yield self._settings.unit_timeout_s - (now - slot.in_flight[0].since_s)

    def _stop_overdue_units(self) -> None:
        limit_s = self._settings.unit_timeout_s
        if not limit_s:
            return
        for slot in list(self._slots):
            if slot.in_flight and time.monotonic() - slot.in_flight[0].since_s >= limit_s:
                message = f"still running after {limit_s:g} s (executor.unit_timeout_s); its actor was killed"
                self._fail_actor(slot, Failure("TimedOut", message, is_death=True))

    def _check_start_timeout(self) -> None:
        """Raise ClusterError if no actor could be placed in time."""
        if any(slot.info for slot in self._slots):
            return
        waited_s = time.monotonic() - self._without_actor_since_s
        if waited_s >= self._settings.start_patience_s:
            raise self._no_capacity(f"no actor could be placed within {self._settings.start_patience_s:g} s")

    def _check_local_capacity(self) -> None:
        """Raise ClusterError if no actor fits on a Ray of this machine alone: no node will ever be added to it."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        num_gpus = self._settings.num_gpus_per_actor
        fits = any(node.get("CPU", 0) >= 1 and node.get("GPU", 0) >= num_gpus for node in nodes)
        if not fits and not cluster_address(self._settings):
            raise self._no_capacity("no actor can be placed on this machine")

    def _no_capacity(self, problem: str) -> ClusterError:
        settings, alive = self._settings, [node for node in self._ray.nodes() if node["Alive"]]
        total, free = self._ray.cluster_resources(), self._ray.available_resources()
        resources = [f"{name} {total.get(name, 0):g} ({free.get(name, 0):g} free)" for name in ("CPU", "GPU")]
        requested = f"{settings.num_actors} actors with 1 CPU and {settings.num_gpus_per_actor:g} GPU each"
        nodes = f"{len(alive)} node{'s' if len(alive) != 1 else ''}"
        return ClusterError(
            f"{problem}: {requested} were requested, the cluster has {nodes} with {', '.join(resources)}",
            "a node with capacity for at least one actor",
            "free or add nodes, or request less: --set executor.num_gpus_per_actor=0 --set executor.num_actors=1;"
            " for slow autoscalers raise executor.start_patience_s",
        )
