"""Events about a run that automations and notifications act on: the gate's verdict, and too many quarantined candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from avpref.datasets import tables
from avpref.datasets.evidence.gate import PROMOTE
from avpref.flows.prefect import run_reporting as reporting
from avpref.storage.run_folder import RunFolder

GATE_PASSED = "avpref.gate.passed"
GATE_REFUSED = "avpref.gate.refused"
QUARANTINE_EXCEEDED = "avpref.quarantine.exceeded"


class Verdict(Protocol):
    """A decision of the gate."""

    @property
    def verdict(self) -> str:
        """``promote`` or ``refuse``."""
        ...

    @property
    def reasons(self) -> Sequence[str]:
        """Why the gate refused."""
        ...


def emit_verdict(folder: RunFolder, gate: Verdict) -> None:
    """Emit ``avpref.gate.passed`` or ``avpref.gate.refused`` for a finished run."""
    name = GATE_PASSED if gate.verdict == PROMOTE else GATE_REFUSED
    _emit(folder, name, {"verdict": gate.verdict, "reasons": "; ".join(gate.reasons)})


def emit_losses(folder: RunFolder, lost: int) -> None:
    """Emit ``avpref.quarantine.exceeded`` where the share of lost candidates is above ``reporting.quarantined_share``."""
    kept = folder.tables.num_rows(tables.CANDIDATES)
    share, bound = lost / max(1, kept + lost), folder.settings.reporting.quarantined_share
    if share > bound:
        _emit(folder, QUARANTINE_EXCEEDED, {"lost": lost, "share": round(share, 6), "bound": bound})


def _emit(folder: RunFolder, name: str, payload: dict[str, Any]) -> None:
    reporting.emit_event(name, folder.run_id, str(folder.root), payload)
