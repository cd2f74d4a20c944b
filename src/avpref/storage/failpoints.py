"""Named moments at which a process may die, so that tests reach each of them on purpose instead of racing for it.

``reached(Moment.X)`` costs one comparison unless something watches. A test watches with :func:`watch`; a whole process
tree is armed through the environment: ``AVPREF_KILL="write.synced:17 seal.listed:1,4"`` ends the process with SIGKILL
at the 17th time that it reaches the first, and at the first and fourth of the second. Every process counts for itself,
unless ``AVPREF_KILL_COUNTS`` names a folder: then all that share it count together, and each number is met once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from avpref.errors import ConfigError

KILL = "AVPREF_KILL"
COUNTS = "AVPREF_KILL_COUNTS"


class Moment(StrEnum):
    """Every place where a kill is of interest, in the order in which a unit, a table and a training stage meet them."""

    WRITE_BEGUN = "write.begun"
    """A file is about to be written under a temporary name."""
    WRITE_FLUSHED = "write.flushed"
    """Its bytes are with the system, and not yet on the disk."""
    WRITE_SYNCED = "write.synced"
    """Its bytes are on the disk under the temporary name."""
    COMMIT_LINKED = "commit.linked"
    """It has its final name, and the temporary one still stands."""
    COMMIT_DONE = "commit.done"
    """It is durable under its final name."""
    REPLACE_RENAMED = "replace.renamed"
    """A pointer, document or model has taken the old one's place; the folder is not yet on the disk."""
    REPLACE_DONE = "replace.done"
    """The replacement is durable."""
    MEDIA_COMMITTED = "media.committed"
    """A clip is there, and no row refers to it yet."""
    UNIT_COMMITTED = "unit.committed"
    """A unit is there, and the worker's receipt is not on its way."""
    SEAL_FILED = "seal.filed"
    """A table version's files are there, its manifest is not."""
    SEAL_LISTED = "seal.listed"
    """The manifest is there, ``CURRENT`` still points at the version before."""
    SEAL_POINTED = "seal.pointed"
    """``CURRENT`` points at the new version."""
    CHECKPOINT_BEGUN = "checkpoint.begun"
    """A trainer's checkpoint is about to be written."""
    CHECKPOINT_WRITTEN = "checkpoint.written"
    """All its files are on the disk in a temporary folder."""
    CHECKPOINT_VISIBLE = "checkpoint.visible"
    """The folder has its final name; older checkpoints still stand."""
    CHECKPOINT_DONE = "checkpoint.done"
    """Checkpoints beyond those that are kept are gone."""
    TRAINING_DONE = "training.done"
    """A trained network or adapter is there, its summary is not."""
    RESULT_DUE = "result.due"
    """Everything is there but the result document."""


_watcher: Callable[[Moment], None] | None = None


def reached(moment: Moment) -> None:
    """Tell the watcher, if there is one, that this process has come to ``moment``."""
    if _watcher is not None:
        _watcher(moment)


def watch(watcher: Callable[[Moment], None] | None) -> None:
    """Have ``watcher`` called at every moment of this process, in the thread that reaches it; None ends the watching."""
    global _watcher
    _watcher = watcher


@dataclass(frozen=True)
class Trap:
    """Kills its process at the given visits of given moments. ``counts`` is a folder where several processes count together."""

    visits: Mapping[Moment, frozenset[int]]
    counts: Path | None = None
    _seen: dict[Moment, int] = field(default_factory=dict)

    def __call__(self, moment: Moment) -> None:
        """Watcher: count the visit, and die if it is one of those."""
        wanted = self.visits.get(moment)
        if wanted and self._count(moment) in wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    def _count(self, moment: Moment) -> int:
        if self.counts is None:
            self._seen[moment] = self._seen.get(moment, 0) + 1
            return self._seen[moment]
        handle = os.open(self.counts / moment, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, b".")  # one append is one step of the file's end, whoever else appends
            return os.lseek(handle, 0, os.SEEK_CUR)
        finally:
            os.close(handle)


def trap(text: str, counts: Path | None = None) -> Trap:
    """The trap that ``text`` asks for (see the module). Raises ConfigError for anything else."""
    visits = {}
    for part in text.split():
        name, _, numbers = part.partition(":")
        try:
            visits[Moment(name)] = frozenset(int(number) for number in numbers.split(","))
        except ValueError as error:
            known = ", ".join(Moment)
            raise ConfigError(
                f"{KILL}={text!r}: {error}", f"MOMENT:NUMBER, moments {known}", f"unset {KILL}"
            ) from error
    return Trap(visits, counts)


def _armed(moment: Moment) -> None:
    """The first moment of a process that the environment arms: put the trap in this function's place."""
    counts = os.environ.get(COUNTS)
    found = trap(os.environ.get(KILL, ""), Path(counts) if counts else None)
    watch(found)
    found(moment)


if KILL in os.environ:
    watch(_armed)
