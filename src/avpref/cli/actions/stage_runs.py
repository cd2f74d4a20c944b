"""Runs one stage of an existing run, which it owns meanwhile, and prints the result."""

from __future__ import annotations

from typing import Any

from avpref.cli.output import print_facts, print_json, print_table
from avpref.cli.views.run_state import quarantine
from avpref.errors import PartialResult
from avpref.execution.ray_session import ray_session
from avpref.flows.prefect.run_reporting import Stage
from avpref.flows.run import Run
from avpref.observability.run_status import publishing, publishing_stage
from avpref.storage.run_folder import RunFolder


def run_stage(folder: RunFolder, stage: Stage[Run]) -> int:
    """Run one stage of the run in ``folder``; returns its rows. Raises StorageError where another command owns the run."""
    run = Run.of(folder)
    with run.locked(), ray_session(), publishing(run), publishing_stage(run, stage.name):
        return stage(run).rows


def present(folder: RunFolder, document: dict[str, Any], stages: set[str], as_json: bool) -> int:
    """Print the result of a stage with the candidates that ``stages`` quarantined; returns exit code 5 if there are any."""
    lost = [vars(row) for row in quarantine(folder) if row.stage in stages]
    result = {"run_id": folder.run_id, **document, "quarantined": lost}
    print_json(result) if as_json else _print(result)
    return PartialResult.exit_code if lost else 0


def _print(document: dict[str, Any]) -> None:
    print_facts({name: value for name, value in document.items() if not isinstance(value, (dict, list))})
    if document["quarantined"]:
        print_table(document["quarantined"], ["candidate_id", "stage", "error", "message"])
