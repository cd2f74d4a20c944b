"""``avpref scores``: the seven numbers of every candidate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from avpref.cli.commands.candidates_commands import CandidateId
from avpref.cli.options import DEFAULT_RUNS, AsJson, Limit, OfPrompt, Run, Runs
from avpref.cli.output import first, print_json, print_table
from avpref.domain import METRICS
from avpref.observability.progress import say

app = App(name="scores", help="List, show and export the scores of a run.")

Target = Annotated[Path, Parameter(help="file to write; .csv or .parquet decides the format")]


@app.command(name="list")
def list_(
    *, runs: Runs = DEFAULT_RUNS, run: Run = "", prompt: OfPrompt = "", limit: Limit = None, json: AsJson = False
) -> int:
    """List raw scores, one row per candidate; a metric without a number is left empty, with its reason in --json."""
    from avpref.cli.views import run_rows
    from avpref.storage.run_folder import open_run

    folder = open_run(runs, run)
    rows = first(run_rows.wide_scores(folder, prompt), limit)
    columns = ["candidate_id", "prompt_id", "origin", *(metric.name for metric in METRICS)]
    print_json({"run_id": folder.run_id, "scores": rows}) if json else print_table(rows, columns)
    return 0


@app.command
def show(candidate: CandidateId, *, runs: Runs = DEFAULT_RUNS, run: Run = "", json: AsJson = False) -> int:
    """Show the scores of one candidate: value, status, reason, who gave it and what it cost."""
    from avpref.cli.views import run_rows
    from avpref.storage.run_folder import open_run

    folder = open_run(runs, run)
    found = run_rows.candidate(folder, candidate)
    columns = ["metric", "value", "status", "reason", "scorer", "elapsed_ms"]
    document = {"run_id": folder.run_id, "candidate_id": found["candidate_id"], "scores": found["scores"]}
    print_json(document) if json else print_table(found["scores"], columns)
    return 0


@app.command
def export(path: Target, *, runs: Runs = DEFAULT_RUNS, run: Run = "", json: AsJson = False) -> int:
    """Write the wide score table to a file that ``avpref pairs select --scores`` reads back."""
    from avpref.cli.views import run_rows
    from avpref.datasets.table_files import check_format, write_table
    from avpref.storage.local_files import replace
    from avpref.storage.run_folder import open_run

    check_format(path)
    folder = open_run(runs, run)
    rows = run_rows.wide_scores(folder)
    write_table(path, run_rows.wide_table(rows), replace)
    if json:
        print_json({"run_id": folder.run_id, "path": str(path), "rows": len(rows)})
    say(f"{path}: {len(rows)} candidates")
    return 0
