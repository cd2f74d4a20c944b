"""What a stage came to, in items: made now, there before, taken over from which runs. One line, one event, one entry each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field

from avpref.console import say
from avpref.storage.event_log import EventLog


@dataclass(frozen=True)
class Tally:
    """Items of one stage: ``made`` now (``quarantined`` of them given up), ``present`` before, ``reused`` by the run they came from.

    Scores count once per candidate and scorer. ``because`` says what shows that nothing changed, where that is more than files.
    """

    stage: str
    items: str
    made: int = 0
    present: int = 0
    reused: Mapping[str, int] = field(default_factory=dict)
    quarantined: int = 0
    because: str = ""

    @property
    def num_reused(self) -> int:
        """Items that came from other runs."""
        return sum(self.reused.values())

    @property
    def is_change(self) -> bool:
        """Whether the stage did anything."""
        return bool(self.made or self.reused)

    @property
    def sentence(self) -> str:
        """For people: what was done, or that there was nothing to do."""
        because = f" ({self.because})" if self.because else ""
        total = self.made + self.present + self.num_reused
        if not self.is_change:
            return f"{self.stage}: {self.present} of {total} {self._named(total)} present{because}"
        lost = f" ({self.quarantined} given up)" if self.quarantined else ""
        found = [f"{self.made} {self._named(self.made)} made{lost}"]
        found += [f"{self.present} were here"] if self.present else []
        found += [f"{count} taken over from {run}" for run, count in sorted(self.reused.items())]
        return f"{self.stage}: {', '.join(found)}{because}"

    def _named(self, count: int) -> str:
        return self.items.removesuffix("s") if count == 1 else self.items


_COLLECTED: ContextVar[list[Tally] | None] = ContextVar("collected", default=None)


@contextmanager
def collected() -> Iterator[list[Tally]]:
    """Whatever is recorded in the block, threads with this context included, in the order of recording."""
    found: list[Tally] = []
    token = _COLLECTED.set(found)
    try:
        yield found
    finally:
        _COLLECTED.reset(token)


def record(events: EventLog, tally: Tally) -> None:
    """Tell the person, the event log, and whoever collects."""
    say(tally.sentence)
    events.write("stage_items", **asdict(tally))
    found = _COLLECTED.get()
    if found is not None:
        found.append(tally)
