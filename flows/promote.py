"""Promotion and rollback as flows for deployments; src/avpref/registry/promotion.py does the work."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.prefect.deployable import deployable
from avpref.registry import promotion

TIMEOUT_S = 3600


@deployable("promote", TIMEOUT_S)
def promote_run(runs: str = "runs", run: str = "", alias: str = "serving", reason: str = "") -> dict[str, Any]:
    """Let the adapter of ``run`` (the newest one without) serve under ``alias``; returns the move. Raises GateRefused."""
    parameters = {"runs": runs, "run": run, "alias": alias, "reason": reason}
    with reporting.execution("promote", parameters):
        return _shown(promotion.promote(Path(runs), run, alias, reason=reason))


@deployable("rollback", TIMEOUT_S)
def rollback_alias(runs: str = "runs", alias: str = "serving", to: str = "", reason: str = "") -> dict[str, Any]:
    """Let what served before, or ``to``, serve again under ``alias``; returns the move."""
    parameters = {"runs": runs, "alias": alias, "to": to, "reason": reason}
    with reporting.execution("rollback", parameters):
        return _shown(promotion.rollback(Path(runs), alias, to, reason=reason))


def _shown(move: promotion.AliasMove) -> dict[str, Any]:
    document = asdict(move)
    reporting.table("alias", [document], f"alias {move.alias} was moved")
    return document
