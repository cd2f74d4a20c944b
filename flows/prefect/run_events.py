"""Events about a run that automations and notifications act on: the gate's verdict, and more losses than expected."""

from __future__ import annotations

from typing import Any

from avpref.datasets import tables
from avpref.flows.prefect import run_reporting as reporting
from avpref.storage.run_folder import RunFolder

GATE_PASSED = "avpref.gate.passed"
GATE_REFUSED = "avpref.gate.refused"
QUARANTINE_EXCEEDED = "avpref.quarantine.exceeded"


def announce_verdict(folder: RunFolder, document: dict[str, Any]) -> None:
    """Tell the server what the gate said of a finished run, from its result document."""
    gate = document["gate"]
    name = GATE_PASSED if gate["verdict"] == "promote" else GATE_REFUSED
    reasons = "; ".join(gate["reasons"])
    _announce(folder, name, {"verdict": gate["verdict"], "reasons": reasons})


def announce_losses(folder: RunFolder, lost: int) -> None:
    """Tell the server where a larger share of candidates was given up than ``reporting.quarantined_share`` allows."""
    kept = folder.tables.num_rows(tables.CANDIDATES)
    share, bound = lost / max(1, kept + lost), folder.settings.reporting.quarantined_share
    if share > bound:
        _announce(folder, QUARANTINE_EXCEEDED, {"lost": lost, "share": round(share, 6), "bound": bound})


def _announce(folder: RunFolder, name: str, payload: dict[str, Any]) -> None:
    reporting.event(name, folder.run_id, str(folder.root), payload)
