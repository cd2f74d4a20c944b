"""Rounds one after another: each is a run of its own that begins with the policy of the round before.

A round that the gate, a judge or the audit refuses ends the sequence, and the adapter of the last round that passed stands. The
run of a round is determined by the configuration and the run before, so a sequence that was killed continues where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avpref.config.schema import Settings
from avpref.console import say
from avpref.datasets.rounds.round_row import RoundRow
from avpref.errors import AuditRefused
from avpref.flows.rounds.round_rows import round_rows
from avpref.flows.run import Run
from avpref.flows.run_result import RunResult
from avpref.storage.run_folder import RunFolder, create


@dataclass(frozen=True)
class SequenceResult:
    """The results of the rounds that finished, and why the sequence ended before its last round (empty: it did not)."""

    rounds: tuple[RunResult, ...]
    rows: tuple[RoundRow, ...]
    ended_by: str

    @property
    def last_good(self) -> RunResult:
        """The last round whose adapter passed; the first round where none did."""
        passed = [result for result in self.rounds if result.gate.is_promoted]
        return passed[-1] if passed else self.rounds[0]

    def document(self) -> dict[str, Any]:
        """The result of the round that stands, as JSON values; with several rounds also a row per round."""
        document = self.last_good.document()
        if len(self.rounds) == 1 and not self.ended_by:
            return document
        rows = {"rounds": [row.document() for row in self.rows], "ended_by": self.ended_by}
        return document | rows | {"changed": any(result.is_changed for result in self.rounds)}


def run_rounds(folder: RunFolder, loop: Callable[[RunFolder], RunResult]) -> SequenceResult:
    """Run ``loop`` on the run in ``folder`` and on those of the following rounds, up to ``rounds.count``.

    Raises the errors of the loop; those of a later round name the round, and earlier rounds stay as they are.
    """
    count = folder.settings.rounds.count
    results, ended_by, last = [loop(folder)], "", folder
    while count > 1:
        number = last.settings.rounds.round
        if not results[-1].gate.is_promoted:
            ended_by = f"round {number} was refused: {'; '.join(results[-1].gate.reasons)}"
        if ended_by or number >= count:
            break
        following = create(Path(folder.runs), next_round(last.settings, last.run_id))
        say(f"round {number + 1} of {count}: {following.run_id}")
        try:
            results.append(loop(following))
        except AuditRefused as error:
            ended_by = f"round {number + 1} was refused by the audit: {error.found}"
            break
        last = following
    rows = round_rows(Run.of(last)) if count > 1 else []
    if ended_by:
        say(f"rounds: {ended_by}")
    return SequenceResult(tuple(results), tuple(rows), ended_by)


def next_round(settings: Settings, run_id: str) -> Settings:
    """The settings of the round after the run ``run_id``, whose settings are ``settings``."""
    changes = {"round": settings.rounds.round + 1, "previous": run_id}
    return settings.model_copy(update={"rounds": settings.rounds.model_copy(update=changes)})
