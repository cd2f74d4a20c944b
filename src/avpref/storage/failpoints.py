"""Named points in the code at which tests may kill the process, so that no test has to race for the right instant.

``hit(FailPoint.X)`` costs one comparison unless an observer is set. A test sets one with :func:`set_observer`. The environment
arms a process and its children: ``AVPREF_KILL="write.synced:17 seal.listed:1,4"`` sends SIGKILL at the 17th hit of the first
point, and at the first and the fourth hit of the second. Every process counts on its own, unless ``AVPREF_KILL_COUNTS`` names a
folder: all processes that share it count together, and each number occurs once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from avpref.errors import ConfigError

KILL_VARIABLE = "AVPREF_KILL"
COUNTS_VARIABLE = "AVPREF_KILL_COUNTS"


class FailPoint(StrEnum):
    """Every point at which a kill is of interest, in the order in which a unit, a table and a training stage pass them."""

    WRITE_BEGUN = "write.begun"
    """A file is about to be written under a temporary name."""
    WRITE_FLUSHED = "write.flushed"
    """The operating system has the file's bytes; they are not on the disk yet."""
    WRITE_SYNCED = "write.synced"
    """The file's bytes are on the disk under the temporary name."""
    COMMIT_LINKED = "commit.linked"
    """The file has its final name; the temporary one still exists."""
    COMMIT_DONE = "commit.done"
    """The file is durable under its final name."""
    REPLACE_RENAMED = "replace.renamed"
    """A pointer, document or model has replaced the old one; the folder entry is not on the disk yet."""
    REPLACE_DONE = "replace.done"
    """The replacement is durable."""
    MEDIA_COMMITTED = "media.committed"
    """A clip is committed; no row refers to it yet."""
    UNIT_COMMITTED = "unit.committed"
    """A unit is committed; the worker has not sent its receipt yet."""
    SEAL_FILED = "seal.filed"
    """A table version's files are committed; its manifest is not."""
    SEAL_LISTED = "seal.listed"
    """The manifest is committed; ``CURRENT`` still names the previous version."""
    SEAL_POINTED = "seal.pointed"
    """``CURRENT`` names the new version."""
    CHECKPOINT_BEGUN = "checkpoint.begun"
    """A trainer's checkpoint is about to be written."""
    CHECKPOINT_WRITTEN = "checkpoint.written"
    """All files of the checkpoint are on the disk in a temporary folder."""
    CHECKPOINT_VISIBLE = "checkpoint.visible"
    """The folder has its final name; older checkpoints still exist."""
    CHECKPOINT_DONE = "checkpoint.done"
    """Older checkpoints, beyond those that are kept, have been removed."""
    TRAINING_DONE = "training.done"
    """A trained network or adapter is written; its summary is not."""
    RESULT_DUE = "result.due"
    """Everything is written except the result document."""


_observer: Callable[[FailPoint], None] | None = None


def hit(point: FailPoint) -> None:
    """Call the observer, if one is set: this process has come to ``point``."""
    if _observer is not None:
        _observer(point)


def set_observer(observer: Callable[[FailPoint], None] | None) -> None:
    """Have ``observer`` called at every fail point of this process, in the thread that hits it; None removes it."""
    global _observer
    _observer = observer


@dataclass(frozen=True)
class KillAt:
    """An observer that kills its process at given hits (1, 2, …) of given points. ``counts``: a folder of shared counts."""

    hits: Mapping[FailPoint, frozenset[int]]
    counts: Path | None = None
    _own_counts: dict[FailPoint, int] = field(default_factory=dict)

    @staticmethod
    def parse(text: str, counts: Path | None = None) -> KillAt:
        """Read ``POINT:NUMBER[,NUMBER…]``, several separated by spaces. Raises ConfigError for anything else."""
        hits = {}
        for part in text.split():
            name, _, numbers = part.partition(":")
            try:
                hits[FailPoint(name)] = frozenset(int(number) for number in numbers.split(","))
            except ValueError as error:
                raise ConfigError(
                    f"{KILL_VARIABLE}={text!r}: {error}",
                    f"POINT:NUMBER, points {', '.join(FailPoint)}",
                    f"unset {KILL_VARIABLE}",
                ) from error
        return KillAt(hits, counts)

    def __call__(self, point: FailPoint) -> None:
        """Count the hit, and kill the process if it is one of ``hits``."""
        numbers = self.hits.get(point)
        if numbers and self._count(point) in numbers:
            os.kill(os.getpid(), signal.SIGKILL)

    def _count(self, point: FailPoint) -> int:
        if self.counts is None:
            self._own_counts[point] = self._own_counts.get(point, 0) + 1
            return self._own_counts[point]
        handle = os.open(self.counts / point, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, b".")  # an append moves the file's end by one, whichever process makes it
            return os.lseek(handle, 0, os.SEEK_CUR)
        finally:
            os.close(handle)


def _arm(point: FailPoint) -> None:
    """The observer of a process that the environment arms, until its first hit: it puts ``KillAt`` in its own place."""
    counts = os.environ.get(COUNTS_VARIABLE)
    kill_at = KillAt.parse(os.environ.get(KILL_VARIABLE, ""), Path(counts) if counts else None)
    set_observer(kill_at)
    kill_at(point)


if KILL_VARIABLE in os.environ:
    set_observer(_arm)
