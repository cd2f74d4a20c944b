"""``avpref scores``: the metrics of every candidate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from avpref.cli.opening import open_run
from avpref.cli.options import DEFAULT_RUNS, AsJson, CandidateId, Limit, OfPrompt, Run, Runs
from avpref.cli.output import first, print_json, print_table
from avpref.console import say

app = App(name="scores")

Target = Annotated[Path, Parameter(help="file to write, .csv or .parquet")]


@app.command(name="list")
def list_(
    *, runs: Runs = DEFAULT_RUNS, run: Run = "", prompt: OfPrompt = "", limit: Limit = None, json: AsJson = False
) -> int:
    """List raw scores, one row per candidate; a missing number is left empty, and --json gives the reason."""
    from avpref.cli.views import run_rows

    folder = open_run(runs, run)
    rows = first(run_rows.wide_scores(folder, prompt), limit)
    columns = ["candidate_id", "prompt_id", "origin", *run_rows.metric_names(folder)]
    print_json({"run_id": folder.run_id, "scores": rows}) if json else print_table(rows, columns)
    return 0


@app.command
def show(candidate: CandidateId, *, runs: Runs = DEFAULT_RUNS, run: Run = "", json: AsJson = False) -> int:
    """Show the scores of one candidate: value, status, reason, scorer and time."""
    from avpref.cli.views import run_rows

    folder = open_run(runs, run)
    row = run_rows.candidate(folder, candidate)
    columns = ["metric", "value", "status", "reason", "scorer", "elapsed_ms"]
    document = {"run_id": folder.run_id, "candidate_id": row["candidate_id"], "scores": row["scores"]}
    print_json(document) if json else print_table(row["scores"], columns)
    return 0


@app.command
def export(path: Target, *, runs: Runs = DEFAULT_RUNS, run: Run = "", json: AsJson = False) -> int:
    """Write the wide score table to a file that ``avpref pairs select --scores`` reads back."""
    from avpref.cli.views import run_rows

    folder = open_run(runs, run)
    num_rows = run_rows.write_wide_scores(folder, path)
    if json:
        print_json({"run_id": folder.run_id, "path": str(path), "rows": num_rows})
    say(f"{path}: {num_rows} candidates")
    return 0
