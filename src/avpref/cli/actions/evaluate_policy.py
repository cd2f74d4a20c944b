"""The work of ``avpref eval run``."""

from __future__ import annotations

from typing import Any

from avpref.cli.actions.stage_runs import run_stage
from avpref.cli.views.run_state import VERDICT_FILE, quarantine
from avpref.flows.stages.evaluate import evaluate
from avpref.storage.run_folder import RunFolder


def evaluate_run(folder: RunFolder) -> dict[str, Any]:
    """Run the stage ``evaluate``; returns the verdict document with the number of clips and the quarantined candidates."""
    clips = run_stage(folder, evaluate)
    lost = [vars(row) for row in quarantine(folder) if row.stage.startswith("evaluate")]
    return {"run_id": folder.run_id, "clips": clips, **folder.documents.read(VERDICT_FILE), "quarantined": lost}
