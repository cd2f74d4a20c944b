"""Losses and cost of a run so far: quarantined items of all stages, and the time and cost of workers."""

from __future__ import annotations

from dataclasses import asdict

from avpref.datasets import tables
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.prefect.run_events import emit_losses
from avpref.observability.cost import Spending, spending
from avpref.storage.run_folder import RunFolder


def seal_quarantine(folder: RunFolder) -> None:
    """Write the quarantine table, and show it where the run reports to a server."""
    rows = folder.documents.quarantined()
    folder.tables.seal(tables.QUARANTINE, "", tables.to_arrow(tables.QUARANTINE, rows))
    reporting.table("quarantine", [asdict(row) for row in rows], f"{len(rows)} given up on, with the reason")
    emit_losses(folder, len(rows))


def spent_by(folder: RunFolder) -> Spending:
    """Seconds and cost of the run so far, over all executions."""
    return spending(folder.root, folder.tables.num_rows(tables.PAIRS), folder.observe)
