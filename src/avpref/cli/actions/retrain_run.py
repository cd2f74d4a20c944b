"""The work of ``avpref retrain`` and ``avpref runs resume``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avpref.cli.output import print_json, print_line, print_table, print_verdict
from avpref.config.schema import Settings
from avpref.console import say
from avpref.errors import GateRefused, PartialResult
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.retrain import resume as resume_flow
from avpref.flows.retrain import retrain as retrain_flow
from avpref.flows.time_estimate import estimate_seconds
from avpref.observability.meters import duration
from avpref.storage.documents import REPORT_FILE, RESULT_FILE
from avpref.storage.run_folder import RunFolder, adopt_version, run_id


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
    if "rounds" in document:
        _print_rounds(document)
    promotion = document["promotion"]
    print_line(f"promotion to {promotion['alias']}: {promotion['state']}")
    say(f"report: {document['run_dir']}/{REPORT_FILE}")
    for line in _next_commands(document):
        say(line)


def _print_rounds(document: dict[str, Any]) -> None:
    """A row per round, and the round whose adapter stands."""
    rows = [
        {
            **{name: row[name] for name in ("round", "run_id", "verdict", "candidates", "pairs")},
            **{f"gain {name}": f"{gain:+.2f} sd" for name, gain in row["gains"].items()},
            "update": f"{row['update_norm']:.3g}",
            "diversity": "" if row["diversity"] is None else f"{row['diversity']:.2f}",
        }
        for row in document["rounds"]
    ]
    print_table(rows, list(rows[0]))
    if document["gate"]["verdict"] == "promote":
        print_line(f"the adapter of {document['run_id']} stands")


def _next_commands(document: dict[str, Any]) -> list[str]:
    """Three commands that continue from the result, with what each does."""
    run = document["run_id"]
    of_run = f"{run} --runs {_shown(Path(document['run_dir']).parent)}"
    commands = {
        f"avpref runs open {of_run}": "the report, in the browser",
        f"avpref pairs show --limit 5 --run {of_run}": "chosen and rejected clips with their margins",
    }
    if document["gate"]["verdict"] == "promote":
        alias = document["promotion"]["alias"]
        commands[f"avpref gate promote --alias {alias} --run {of_run}"] = "let the alias name this adapter"
    else:
        commands[f"avpref gate check --run {of_run}"] = "every rule with its measured value"
    width = max(map(len, commands))
    return [f"next: {command.ljust(width)}  {does}" for command, does in commands.items()]


def _shown(folder: Path) -> str:
    """``folder`` relative to the working directory where it lies in it."""
    return str(folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder)


def say_estimate(settings: Settings, runs: Path) -> None:
    """Say how long the whole run takes on this machine, where that can be measured and the run is not finished."""
    if (runs / run_id(settings) / RESULT_FILE).exists():
        return
    seconds = estimate_seconds(settings)
    if seconds is not None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        minutes = f"{seconds / 60:.0f} min" if seconds >= 90 else duration(seconds)
        per_round = " per round" if settings.rounds.count > 1 else ""
        say(
            f"about {minutes}{per_round} on this machine ({cores} cores, estimated from a few steps just now; longer beside other work)"
        )
