"""Item counts of a finished stage: computed, already present, reused (by source run)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from avpref.console import say
from avpref.storage.event_log import EventLog


@dataclass(frozen=True)
class ItemCounts:
    """Items of one kind in one pass over a stage. Scores count once per candidate and scorer.

    Attributes:
        stage: the name of the pass.
        items: plural noun of the items.
        made: items computed in this execution, including the quarantined ones.
        present: items that the run already had.
        reused: items imported from sibling runs, by the run's name.
        quarantined: items quarantined in this execution.
        because: an explanation for people, added to the sentence; empty for none.
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
        """Whether anything was computed or reused."""
        return bool(self.made or self.reused)

    @property
    def sentence(self) -> str:
        """The counts as a sentence for people."""
        because = f" ({self.because})" if self.because else ""
        total = self.made + self.present + self.num_reused
        if not self.is_change:
            return f"{self.stage}: {self.present} of {total} {self._named(total)} present{because}"
        quarantined = f" ({self.quarantined} quarantined)" if self.quarantined else ""
        parts = [f"{self.made} {self._named(self.made)} made{quarantined}"]
        parts += [f"{self.present} present"] if self.present else []
        parts += [f"{count} reused from {run}" for run, count in sorted(self.reused.items())]
        return f"{self.stage}: {', '.join(parts)}{because}"

    def _named(self, count: int) -> str:
        return self.items.removesuffix("s") if count == 1 else self.items


@dataclass(frozen=True)
class StageCounts:
    """A finished stage: ``rows`` of its result (steps of a training), and the items of every kind that it handled."""

    rows: int
    items: tuple[ItemCounts, ...] = ()

    def of(self, stage: str) -> tuple[ItemCounts, ...]:
        """Counts of ``stage`` itself and of its passes (``score-imagebind``), without those of items that it prepared for others."""
        return tuple(counts for counts in self.items if (counts.stage + "-").startswith(f"{stage}-"))


def log_counts(events: EventLog, counts: ItemCounts) -> ItemCounts:
    """Write ``counts`` to stderr and to the event log; returns ``counts``."""
    say(counts.sentence)
    events.write("stage_items", **asdict(counts))
    return counts
