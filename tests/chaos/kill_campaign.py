"""A run that is killed again and again: each life is checked against the invariants before the next begins."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fork_server import PATIENCE_S, Nursery
from invariants import Mark, check_tables, check_whole, finished, twice, visible

from avpref.storage.failpoints import FailPoint
from avpref.storage.run_folder import RunFolder

Visits = Mapping[FailPoint, Sequence[int]]
"""For each moment the visits, counted within a life, at which to die; they are used up one by one."""
MOST_LIVES = 500


@dataclass
class Siege:
    """One run, its killer, and what was found whole so far. ``kills`` counts the dead by moment, ``attempts`` the units begun."""

    nursery: Nursery
    folder: RunFolder
    kills: Counter[str] = field(default_factory=Counter)
    lives: int = 0
    attempts: int = 0
    may_fail_with: int = 0
    """An exit status that is no surprise: that of the error which the test provokes."""
    _kept: dict[str, Mark] = field(default_factory=dict)
    _seen: dict[str, Mark] = field(default_factory=dict)

    def at_failpoints(self, visits: Visits) -> dict[FailPoint, list[int]]:
        """Kill at all of ``visits``, whichever comes first, then let the run finish. Returns what was never reached."""
        left = {moment: list(numbers) for moment, numbers in visits.items()}
        while self.lives < MOST_LIVES:
            kill = " ".join(f"{moment}:{numbers[0]}" for moment, numbers in left.items() if numbers)
            self.nursery.start(self.folder.root, kill)
            status = self.nursery.ended(PATIENCE_S)
            if self.settle(status) == 0:
                return {moment: numbers for moment, numbers in left.items() if numbers}
            left[FailPoint(self.nursery.reached()[-1])].pop(0)
        raise AssertionError(f"not finished after {self.lives} lives")

    def after(self, delay_s: float, is_due: Callable[[], bool] = lambda: True) -> int:
        """Kill ``delay_s`` after ``is_due`` first holds; returns how the life ended."""
        self.nursery.start(self.folder.root)
        deadline = time.monotonic() + PATIENCE_S
        while not is_due() and time.monotonic() < deadline:
            status = self.nursery.ended(0.002)
            if status is not None:
                return self.settle(status)
        status = self.nursery.ended(delay_s)
        return self.settle(self.nursery.kill() if status is None else status, "random")

    def finish(self) -> None:
        """Let the run live to its end."""
        self.nursery.start(self.folder.root)
        assert self.settle(self.nursery.ended(PATIENCE_S)) == 0

    def forget_times(self) -> None:
        """Take the files as they are now for those that were kept: somebody else has changed their times."""
        self._kept, self._seen = finished(self.folder.root), visible(self.folder.root)

    def settle(self, status: int | None, cause: str = "") -> int:
        """Check the folder after a life that ended with ``status``; count it as a kill by ``cause`` or by its last moment."""
        assert status in (0, -signal.SIGKILL, self.may_fail_with), self.nursery.errors.read_text()[-4000:]
        self.lives += 1
        if status == -signal.SIGKILL:
            reached = self.nursery.reached()
            self.kills[cause or reached[-1]] += 1
        root = self.folder.root
        now = finished(root)
        assert self._kept.items() <= now.items(), (
            f"written again: {sorted(set(self._kept.items()) - set(now.items()))[:3]}"
        )
        attempted = self.nursery.attempted()
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
