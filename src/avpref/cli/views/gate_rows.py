"""The rows of ``gate list``: the adapter of every alias, and runs that wait for approval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avpref.registry import aliases, promotion
from avpref.storage.run_folder import list_runs, open_run


def serving_rows(runs: Path) -> list[dict[str, Any]]:
    """One row per alias. Raises TableError where the chain of moves was changed."""
    moves = [move for alias in aliases.names(runs) if (move := aliases.current(runs, alias)) is not None]
    return [
        {
            "alias": move.alias,
            "adapter": move.adapter,
            "run_id": move.run_id,
            "action": str(move.action),
            "by": move.by,
            "since": move.at,
            "number": move.number,
            "previous": move.previous or None,
            "is_override": move.is_override,
        }
        for move in moves
    ]


def waiting_rows(runs: Path) -> list[dict[str, Any]]:
    """Runs that the gate allowed and whose configuration requires an approval that is missing. Raises as opening a run."""
    rows = []
    for run_id in list_runs(runs):
        folder = open_run(runs, run_id)
        if promotion.state(folder) is promotion.State.AWAITING:
            rows.append({"run_id": run_id, "alias": folder.settings.promotion.alias})
    return rows
