"""The work of ``avpref retrain`` and ``avpref runs resume``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avpref.cli.output import print_json, print_line, print_verdict
from avpref.console import say
from avpref.errors import GateRefused, PartialResult
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.retrain import resume as resume_flow
from avpref.flows.retrain import retrain as retrain_flow
from avpref.storage.run_folder import RunFolder, adopt_version


@dataclass(frozen=True)
class Request:
    """The configuration file to run, its overrides, and the folder of the runs.

    ``wait`` waits while another command uses the run.
    """

    config: Path
    runs: Path
    seed: int | None
    overrides: tuple[str, ...]
    wait: bool


def retrain_config(request: Request, as_json: bool) -> int:
    """Run or continue the whole loop and print its result; returns the exit code."""
    arguments = (str(request.config), str(request.runs), request.seed, list(request.overrides), request.wait)
    return _present(reporting.call(retrain_flow, *arguments), as_json)


def resume_run(folder: RunFolder, wait: bool, adopts_version: bool, as_json: bool) -> int:
    """Continue the run of ``folder`` and print its result; returns the exit code."""
    if adopts_version:
        adopt_version(folder, wait)
    return _present(resume_flow(folder, wait).document(), as_json)


def _present(document: dict[str, Any], as_json: bool) -> int:
    """Print a result document; returns its exit code."""
    print_json(document) if as_json else _print_summary(document)
    if document["gate"]["verdict"] != "promote":
        return GateRefused.exit_code
    return PartialResult.exit_code if document["quarantined"] else 0


def _print_summary(document: dict[str, Any]) -> None:
    pairs = document["pairs"]
    print_line(f"run {document['run_id']}: {pairs['kept']} pairs from {pairs['prompts']} prompts ({pairs['strategy']})")
    print_verdict(document)
    promotion = document["promotion"]
    print_line(f"promotion to {promotion['alias']}: {promotion['state']}")
    say(f"report: {document['run_dir']}/report.html")
