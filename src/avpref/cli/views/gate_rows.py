"""The lines of ``gate list``: what serves under which alias, and which runs wait for a human."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avpref.registry import aliases, promotion
from avpref.storage.run_folder import list_runs, open_run


def serving_rows(runs: Path) -> list[dict[str, Any]]:
    """One row per alias. Raises TableError for a chain of moves that was changed."""
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
    """Runs whose gate said yes and whose configuration asks for an approval that nobody gave. Raises as opening a run."""
    found = []
    for run_id in list_runs(runs):
        folder = open_run(runs, run_id)
        if promotion.state(folder) is promotion.State.AWAITING:
            found.append({"run_id": run_id, "alias": folder.settings.promotion.alias})
    return found
