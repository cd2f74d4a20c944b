"""A pool of Ray core actors: who is up, who has which units, and what to do when an actor or its node dies.

An actor gets units only when it has come up: it was placed, runs the same code, writes to the same folder, and has loaded
what its worker needs. Until then units wait in the pool, so an actor that finds no room holds nothing up. A dead actor
gives its units back and is replaced wherever the cluster has room; an actor that dies again and again before it has come
up is given up, and when none is left the run ends.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from avpref.config.executor_settings import RayExecutor
from avpref.errors import AvprefError, ClusterError, StorageError
from avpref.execution.code_version import code_version
from avpref.execution.contract import (
    Committed,
    Failure,
    Outcome,
    Worker,
    WorkerSpec,
    after_building,
    attempt,
    failure_of,
)
from avpref.execution.ray_session import cluster_address
from avpref.storage.files import Files
from avpref.storage.local_files import TEMPORARY_PREFIX
from avpref.storage.unit import Unit

IN_FLIGHT_PER_ACTOR = 2
MAX_STARTS = 3
"""So many actors in a row that die before they have come up cost the pool their place."""
PROBE_PATIENCE_S = 10.0
"""How long a file that an actor committed may take to be seen here: network folders cache what they list."""
LOOK_EVERY_S = 0.2
ALIKE_ENV = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@dataclass(frozen=True)
class Site:
    """Where an actor came up, with what code, and what it could not write."""

    node_id: str
    host: str
    process: int
    version: str
    refused: AvprefError | None = None

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} (node {self.node_id[:8]})"


@dataclass(frozen=True)
class Probe:
    """A file that an actor commits where units are committed, for the driver to see and remove."""

    store: Files
    name: str


class _Actor:
    """The Ray side. Its methods are called in order: :meth:`site`, :meth:`build`, then :meth:`run` for each unit."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._built_s = 0.0

    def site(self, probe: Probe | None) -> Site:
        """Say where this is, and commit ``probe`` for the driver to see."""
        import ray

        refused: AvprefError | None = None
        node_id, host, process = ray.get_runtime_context().get_node_id(), socket.gethostname(), os.getpid()
        if probe is not None:
            try:
                probe.store.commit_once(probe.name, f"{node_id} {process}".encode())
            except StorageError as error:
                refused = error
        return Site(node_id, host, process, code_version(), refused)

    def build(self, spec: WorkerSpec) -> Failure | None:
        """Load what the worker needs."""
        started = time.perf_counter()
        try:
            self._worker = spec.build()
        except Exception as error:
            return failure_of(error, is_fatal=True)
        self._built_s = time.perf_counter() - started
        return None

    def run(self, unit: Unit) -> Outcome:
        """Run a unit. The driver has its items: they do not travel back."""
        assert self._worker is not None
        built_s, self._built_s = self._built_s, 0.0
        return after_building(replace(attempt(self._worker, unit), unit=replace(unit, items=())), built_s)


@dataclass
class _Flight:
    """A unit that an actor has. ``since_s`` is when it became the actor's oldest, so that it runs."""

    reference: Any
    unit: Unit
    since_s: float = 0.0


@dataclass
class _Slot:
    """A place for an actor. ``starting`` is the call whose answer brings it up; None once it is up."""

    actor: Any
    starting: Any
    probe: Probe | None
    site: Site | None = None
    failed_starts: int = 0
    flights: deque[_Flight] = field(default_factory=deque)

    @property
    def is_up(self) -> bool:
        """Whether units may be sent."""
        return self.starting is None


class RayPool:
    """See the module's text. ``files`` is where actors commit; two units are in flight per actor."""

    def __init__(self, spec: WorkerSpec, settings: RayExecutor, files: Committed | None = None) -> None:
        import ray

        self._ray, self._spec, self._settings, self._files = ray, spec, settings, files
        self._actor_class: Any = ray.remote(_Actor).options(
            num_cpus=1,
            num_gpus=settings.num_gpus_per_actor or None,
            max_restarts=0,
            runtime_env={"env_vars": ALIKE_ENV},
        )
        self._waiting: deque[Unit] = deque()
        self._ended: deque[Outcome] = deque()
        self._excused: set[str] = set()
        self._last_start_error = ""
        self._num_started = 0
        self._without_actor_since_s = time.monotonic()
        self.capacity = IN_FLIGHT_PER_ACTOR * settings.num_actors
        self._refuse_where_hopeless()
        self._slots = [self._start() for _ in range(settings.num_actors)]

    def submit(self, unit: Unit) -> None:
        """Take the unit; an actor gets it as soon as one is up and has room."""
        self._waiting.append(unit)
        self._send()

    def next_done(self) -> Outcome:
        """Wait for any unit to end. Raises ClusterError, or StorageError where actors write elsewhere."""
        while not self._ended:
            self._send()
            self._listen()
        return self._ended.popleft()

    def close(self) -> None:
        """Stop the actors."""
        for slot in self._slots:
            self._ray.kill(slot.actor)

    def _send(self) -> None:
        """Units to the actors that are up, to the one with the fewest first."""
        up = [slot for slot in self._slots if slot.is_up]
        while self._waiting and up:
            slot = min(up, key=lambda slot: len(slot.flights))
            if len(slot.flights) >= IN_FLIGHT_PER_ACTOR:
                return
            unit = self._waiting.popleft()
            since_s = 0.0 if slot.flights else time.monotonic()
            slot.flights.append(_Flight(slot.actor.run.remote(unit), unit, since_s))

    def _listen(self) -> None:
        """Take one answer of any actor, or act on whatever is overdue."""
        answers: dict[Any, tuple[_Slot, _Flight | None]] = {}
        for slot in self._slots:
            if slot.starting is not None:
                answers[slot.starting] = (slot, None)
            answers.update((flight.reference, (slot, flight)) for flight in slot.flights)
        ready, _ = self._ray.wait(list(answers), num_returns=1, timeout=self._time_left_s())
        if ready:
            slot, flight = answers[ready[0]]
            self._come_up(slot) if flight is None else self._land(slot, flight)
        self._stop_the_overdue()
        self._refuse_to_wait_longer()

    # coming up

    def _start(self, failed_starts: int = 0) -> _Slot:
        """An actor that is asked where it is. It may be pending for as long as the cluster has no room."""
        self._num_started += 1
        actor = self._actor_class.remote()
        probe = None
        if self._files is not None:
            writer = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}-{self._num_started}"
            probe = Probe(self._files.store, f"{TEMPORARY_PREFIX}probe-{writer}")
        return _Slot(actor, actor.site.remote(probe), probe, failed_starts=failed_starts)

    def _come_up(self, slot: _Slot) -> None:
        """The next step of a starting actor: it was placed and is checked, or it has loaded its worker and is up."""
        try:
            answer = self._ray.get(slot.starting)
        except self._ray.exceptions.RayError as error:
            self._last_start_error = str(error)
            self._restart(slot, slot.failed_starts + 1)
            return
        if slot.site is None:
            self._check(slot, answer)
            slot.site, slot.starting = answer, slot.actor.build.remote(self._spec)
        elif answer is None:
            slot.starting, slot.failed_starts = None, 0
        else:
            self._fail_a_unit(answer)

    def _fail_a_unit(self, failure: Failure) -> None:
        """A worker that cannot be built is told with any unit that waits for one."""
        lost = self._waiting.popleft() if self._waiting else self._recall()
        self._ended.append(Outcome(lost, failure=failure))

    def _recall(self) -> Unit:
        slot = next(slot for slot in self._slots if slot.flights)
        return slot.flights.pop().unit

    def _check(self, slot: _Slot, site: Site) -> None:
        """Refuse an actor with other code, or one that writes where this process does not see it."""
        here = code_version()
        if site.version != here:
            raise ClusterError(
                f"{site} runs avpref {site.version}, this process {here}",
                "the same code on every machine: units are named by what made them",
                "install the same version (or the same checkout) on all nodes, or use one image, and start again",
            )
        if site.refused is not None:
            raise StorageError(f"{site}: {site.refused.found}", site.refused.expected, site.refused.fix)
        if slot.probe is not None:
            _require_seen(slot.probe, site)

    def _restart(self, slot: _Slot, failed_starts: int) -> None:
        """Another actor in the slot's place, or none if too many died before they had come up."""
        self._ray.kill(slot.actor)
        place = self._slots.index(slot)
        if failed_starts < MAX_STARTS:
            self._slots[place] = self._start(failed_starts)
        else:
            del self._slots[place]
        if not any(each.site for each in self._slots):
            self._without_actor_since_s = time.monotonic()
        if not self._slots:
            raise ClusterError(
                f"all {self._settings.num_actors} actors died {MAX_STARTS} times before they could take work;"
                f" the last: {self._last_start_error}",
                "nodes on which avpref is installed and its weights fit into memory",
                "see the workers' logs of Ray (session_latest/logs), or lower executor.num_actors",
            )

    # landing

    def _land(self, slot: _Slot, flight: _Flight) -> None:
        """A unit of ``slot`` ended; where its actor died, all that it had come back."""
        outcome, death = self._answer(flight)
        if outcome is None:
            self._lose(slot, Failure("ActorDied", death, is_death=True))
            return
        slot.flights.remove(flight)
        if slot.flights:
            slot.flights[0].since_s = slot.flights[0].since_s or time.monotonic()
        self._ended.append(outcome)

    def _answer(self, flight: _Flight) -> tuple[Outcome | None, str]:
        """How the unit ended; None and how its actor died where that came first."""
        errors = self._ray.exceptions
        try:
            outcome = self._ray.get(flight.reference)
        except (errors.RayActorError, errors.OutOfMemoryError) as error:
            return None, str(error)
        except errors.RayError as error:  # the answer, or the unit, did not survive the way between processes
            return Outcome(flight.unit, failure=failure_of(error, is_fatal=False)), ""
        return replace(outcome, unit=flight.unit), ""

    def _lose(self, slot: _Slot, failure: Failure) -> None:
        """Replace the actor of ``slot``. Actors run in submission order, so only the oldest unfinished unit is to blame.

        A unit whose file is there is finished, even if its answer was lost with the actor.
        """
        references = [flight.reference for flight in slot.flights]
        answered, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        self._ray.kill(slot.actor)  # it may be out of reach rather than dead
        is_blamed = False
        for flight in slot.flights:
            outcome = self._answer(flight)[0] if flight.reference in answered else None
            is_done = self._files is not None and self._files.exists(flight.unit)
            if outcome is None and not is_done and not is_blamed:
                is_blamed = True
                if not self._is_excused(slot, flight.unit):
                    outcome = Outcome(flight.unit, failure=failure)
            self._ended.append(outcome or Outcome(flight.unit))
        slot.flights.clear()
        self._restart(slot, failed_starts=0)

    def _is_excused(self, slot: _Slot, unit: Unit) -> bool:
        """Whether the node died and not the unit's actor alone. Once for each unit: it may be what brings nodes down."""
        assert slot.site is not None
        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        if slot.site.node_id in alive or unit.name in self._excused:
            return False
        self._excused.add(unit.name)
        return True

    # waiting

    def _time_left_s(self) -> float | None:
        """Until the next unit or the cluster is overdue; None where nothing ever is."""
        now, left = time.monotonic(), list(self._unit_times_left_s())
        if not any(slot.site for slot in self._slots):
            left.append(self._settings.start_patience_s - (now - self._without_actor_since_s))
        return max(0.0, min(left)) if left else None

    def _unit_times_left_s(self) -> Iterator[float]:
        if self._settings.unit_timeout_s:
            now = time.monotonic()
            for slot in self._slots:
                if slot.flights:
                    yield self._settings.unit_timeout_s - (now - slot.flights[0].since_s)

    def _stop_the_overdue(self) -> None:
        limit_s = self._settings.unit_timeout_s
        if not limit_s:
            return
        for slot in list(self._slots):
            if slot.flights and time.monotonic() - slot.flights[0].since_s >= limit_s:
                message = f"still running after {limit_s:g} s (executor.unit_timeout_s); its actor was killed"
                self._lose(slot, Failure("TimedOut", message, is_death=True))

    def _refuse_to_wait_longer(self) -> None:
        if any(slot.site for slot in self._slots):
            return
        waited_s = time.monotonic() - self._without_actor_since_s
        if waited_s >= self._settings.start_patience_s:
            raise self._no_room(f"no actor could be placed within {self._settings.start_patience_s:g} s")

    def _refuse_where_hopeless(self) -> None:
        """On a Ray of this machine's own no node will ever join, so what does not fit now never will."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        num_gpus = self._settings.num_gpus_per_actor
        fits = any(node.get("CPU", 0) >= 1 and node.get("GPU", 0) >= num_gpus for node in nodes)
        if not fits and not cluster_address(self._settings):
            raise self._no_room("no actor can be placed on this machine")

    def _no_room(self, found: str) -> ClusterError:
        settings, alive = self._settings, [node for node in self._ray.nodes() if node["Alive"]]
        have, free = self._ray.cluster_resources(), self._ray.available_resources()
        named = [f"{name} {have.get(name, 0):g} ({free.get(name, 0):g} free)" for name in ("CPU", "GPU")]
        asked = f"{settings.num_actors} actors with 1 CPU and {settings.num_gpus_per_actor:g} GPU each"
        nodes = f"{len(alive)} node{'s' if len(alive) != 1 else ''}"
        return ClusterError(
            f"{found}: {asked} were asked for, the cluster has {nodes} with {', '.join(named)}",
            "a node with room for at least one actor",
            "free or add nodes, or ask for less: --set executor.num_gpus_per_actor=0 --set executor.num_actors=1;"
            " for slow autoscalers raise executor.start_patience_s",
        )


def _require_seen(probe: Probe, site: Site) -> None:
    """Raises StorageError unless what the actor committed is seen here too, with the same content."""
    store, name = probe.store, probe.name
    deadline = time.monotonic() + PROBE_PATIENCE_S
    while not store.exists(name) and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_S)
    try:
        if store.exists(name) and store.read(name) == f"{site.node_id} {site.process}".encode():
            return
    finally:
        store.delete(name)
    raise StorageError(
        f"what {site} commits to {store.uri('')} does not appear there on {socket.gethostname()}",
        "a run folder that all machines of the cluster share under one path, or a bucket (section storage)",
        "choose a folder on shared storage: --runs /shared/runs",
    )
