"""Events about a run that automations and notifications act on: the gate's verdict, and too many quarantined candidates."""

from __future__ import annotations

from collections.abc import Sequence

from avpref.datasets import tables
from avpref.datasets.evidence.gate import PROMOTE
from avpref.flows.prefect.run_reporting import emit_event
from avpref.storage.run_folder import RunFolder

GATE_PASSED = "avpref.gate.passed"
GATE_REFUSED = "avpref.gate.refused"
QUARANTINE_EXCEEDED = "avpref.quarantine.exceeded"


def emit_verdict(folder: RunFolder, verdict: str, reasons: Sequence[str]) -> None:
    """Emit ``avpref.gate.passed`` or ``avpref.gate.refused`` for a finished run; ``reasons`` are those of a refusal."""
    name = GATE_PASSED if verdict == PROMOTE else GATE_REFUSED
    emit_event(name, folder.run_id, str(folder.root), {"verdict": verdict, "reasons": "; ".join(reasons)})


def emit_losses(folder: RunFolder, lost: int) -> None:
    """Emit ``avpref.quarantine.exceeded`` where the share of lost candidates is above ``reporting.quarantined_share``."""
    kept = folder.tables.num_rows(tables.CANDIDATES)
    share, bound = lost / max(1, kept + lost), folder.settings.reporting.quarantined_share
    if share > bound:
        payload = {"lost": lost, "share": round(share, 6), "bound": bound}
        emit_event(QUARANTINE_EXCEEDED, folder.run_id, str(folder.root), payload)
