"""The audit of a run's pairs, or of the pairs of another strategy, from the run's sealed tables."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from avpref.cli.views.pair_selection import from_run
from avpref.datasets import tables
from avpref.flows.stages.audit_tables import audit_rows
from avpref.storage.run_folder import RunFolder


def document_of(folder: RunFolder, strategy: str | None) -> dict[str, Any]:
    """Strategy, action, and all rows of the audit. Raises InputError where the run has no pairs or no facts."""
    pairs, skipped = folder.tables.read(tables.PAIRS), folder.tables.read(tables.SKIPPED)
    if strategy is not None:
        _, selection = from_run(folder, [f"pairs.strategy={strategy}"])
        pairs, skipped = selection.pairs, selection.skipped
    rows = audit_rows(folder, pairs, skipped)
    return {
        "run_id": folder.run_id,
        "strategy": rows[0].strategy or strategy,
        "action": folder.settings.audit.action,
        "audit": [asdict(row) for row in rows],
    }
