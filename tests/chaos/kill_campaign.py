"""Kills a run again and again: after each kill the folder is checked against the invariants before the run is started again."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fork_server import PATIENCE_S, ForkServer
from invariants import Mark, check_tables, check_whole, finished, twice, visible

from avpref.storage.failpoints import FailPoint
from avpref.storage.run_folder import RunFolder

Hits = Mapping[FailPoint, Sequence[int]]
"""For each fail point the hits at which to kill the process, counted within one life; they are used up one by one."""
MOST_LIVES = 500


@dataclass
class KillCampaign:
    """One run and the fork server that kills it. ``kills`` counts kills by fail point, ``attempts`` the units that were begun."""

    fork_server: ForkServer
    folder: RunFolder
    kills: Counter[str] = field(default_factory=Counter)
    lives: int = 0
    attempts: int = 0
    may_fail_with: int = 0
    """An exit status that is no surprise: that of the error which the test provokes."""
    _kept: dict[str, Mark] = field(default_factory=dict)
    _seen: dict[str, Mark] = field(default_factory=dict)

    def at_failpoints(self, hits: Hits) -> dict[FailPoint, list[int]]:
        """Kill at all of ``hits``, whichever comes first, then let the run finish. Returns the hits that never happened."""
        remaining = {point: list(numbers) for point, numbers in hits.items()}
        while self.lives < MOST_LIVES:
            kill = " ".join(f"{point}:{numbers[0]}" for point, numbers in remaining.items() if numbers)
            self.fork_server.start(self.folder.root, kill)
            status = self.fork_server.ended(PATIENCE_S)
            if self.settle(status) == 0:
                return {point: numbers for point, numbers in remaining.items() if numbers}
            remaining[FailPoint(self.fork_server.hits()[-1])].pop(0)
        raise AssertionError(f"not finished after {self.lives} lives")

    def after(self, delay_s: float, is_due: Callable[[], bool] = lambda: True) -> int:
        """Kill ``delay_s`` after ``is_due`` first holds; returns how the life ended."""
        self.fork_server.start(self.folder.root)
        deadline = time.monotonic() + PATIENCE_S
        while not is_due() and time.monotonic() < deadline:
            status = self.fork_server.ended(0.002)
            if status is not None:
                return self.settle(status)
        status = self.fork_server.ended(delay_s)
        return self.settle(self.fork_server.kill() if status is None else status, "random")

    def finish(self) -> None:
        """Let the run live to its end."""
        self.fork_server.start(self.folder.root)
        assert self.settle(self.fork_server.ended(PATIENCE_S)) == 0

    def forget_times(self) -> None:
        """Take the files as they are now for those that were kept: somebody else has changed their times."""
        self._kept, self._seen = finished(self.folder.root), visible(self.folder.root)

    def settle(self, status: int | None, cause: str = "") -> int:
        """Check the folder after a life that ended with ``status``; count it as a kill by ``cause`` or by its last fail point."""
        assert status in (0, -signal.SIGKILL, self.may_fail_with), self.fork_server.errors.read_text()[-4000:]
        self.lives += 1
        if status == -signal.SIGKILL:
            self.kills[cause or self.fork_server.hits()[-1]] += 1
        root = self.folder.root
        now = finished(root)
        assert self._kept.items() <= now.items(), (
            f"written again: {sorted(set(self._kept.items()) - set(now.items()))[:3]}"
        )
        attempted = self.fork_server.attempted()
        self.attempts += len(attempted)
        again = {_unit(name) for name in self._kept if name.startswith("units/")} & {_unit(name) for name in attempted}
        assert not again, f"a finished unit was computed again: {sorted(again)[:3]}"
        assert not twice(attempted), "a unit was computed twice in one life"
        seen = visible(root)
        check_whole(root, [name for name, mark in seen.items() if self._seen.get(name) != mark])
        check_tables(self.folder)
        self._kept, self._seen = now, seen
        return status


def _unit(name: str) -> tuple[str, str]:
    """Stage and name of a unit, out of its file or its line in the log; a score unit's file has its scorer's fingerprint."""
    path = Path(name.removeprefix("units/").removesuffix(".parquet"))
    return path.parts[0], path.name
