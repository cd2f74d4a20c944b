"""Events about a run that automations and notifications act on: the gate's verdict, and too many quarantined candidates."""

from __future__ import annotations

from typing import Any

from avpref.datasets import tables
from avpref.flows.prefect import run_reporting as reporting
from avpref.storage.run_folder import RunFolder

GATE_PASSED = "avpref.gate.passed"
GATE_REFUSED = "avpref.gate.refused"
QUARANTINE_EXCEEDED = "avpref.quarantine.exceeded"


def emit_verdict(folder: RunFolder, document: dict[str, Any]) -> None:
    """Emit ``avpref.gate.passed`` or ``avpref.gate.refused`` for a finished run, from its result document."""
    gate = document["gate"]
    name = GATE_PASSED if gate["verdict"] == "promote" else GATE_REFUSED
    reasons = "; ".join(gate["reasons"])
    _emit(folder, name, {"verdict": gate["verdict"], "reasons": reasons})


def emit_losses(folder: RunFolder, lost: int) -> None:
    """Emit ``avpref.quarantine.exceeded`` where the share of lost candidates is above ``reporting.quarantined_share``."""
    kept = folder.tables.num_rows(tables.CANDIDATES)
    share, bound = lost / max(1, kept + lost), folder.settings.reporting.quarantined_share
    if share > bound:
        _emit(folder, QUARANTINE_EXCEEDED, {"lost": lost, "share": round(share, 6), "bound": bound})


def _emit(folder: RunFolder, name: str, payload: dict[str, Any]) -> None:
    reporting.emit_event(name, folder.run_id, str(folder.root), payload)
