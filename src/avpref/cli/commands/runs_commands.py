"""``avpref runs``: what runs there are, what one of them holds, and going on with it."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter

from avpref.cli.options import DEFAULT_RUNS, AsJson, Limit, Runs, Wait
from avpref.cli.output import print_facts, print_json, print_line, print_table, print_verdict
from avpref.console import say

app = App(name="runs", help="List runs, look into one, go on with one.")

RunId = Annotated[str, Parameter(help="run id, or an unambiguous beginning of one; the newest run if left out")]
OfStage = Annotated[str, Parameter(name="--stage", help="only events of this stage and its pools")]
AtLeast = Annotated[str, Parameter(name="--level", help="only what matters at least so: debug, info, warning, error")]
Follow = Annotated[bool, Parameter(name=["--follow", "-f"], help="go on until the run ends", negative="")]


@app.command(name="list")
def list_(*, runs: Runs = DEFAULT_RUNS, json: AsJson = False) -> int:
    """List the runs of a folder, newest first: id, seed, state, pairs, verdict."""
    from avpref.cli.views.run_state import rows_of

    rows = rows_of(runs)
    print_json({"runs": rows}) if json else print_table(rows, ["run_id", "seed", "state", "pairs", "verdict"])
    if not rows:
        say(f"no runs in {runs}; make one: avpref retrain --runs {runs}")
    return 0


@app.command
def show(run: RunId = "", *, runs: Runs = DEFAULT_RUNS, json: AsJson = False) -> int:
    """Show one run, also while it goes on: what is done, running, missing and why, what was given up, result, lineage."""
    from avpref.cli.views import run_progress, run_state
    from avpref.observability.cost import spending
    from avpref.storage.run_folder import RESULT_FILE, open_run

    folder = open_run(runs, run)
    in_use = run_state.is_in_use(folder.root)
    pairs = run_state.rows_per_table(folder).get("pairs", 0)
    document = {
        "run_id": folder.run_id,
        "run_dir": str(folder.root),
        "state": run_state.state(folder),
        "owner": run_progress.owner(folder.root) if in_use else None,
        "stages": [vars(stage) for stage in run_state.stages(folder)],
        "passes": run_progress.passes(folder, in_use),
        "spent": spending(folder.root, pairs, folder.observe).document(),
        "tables": run_state.rows_per_table(folder),
        "quarantine": [vars(row) for row in run_state.quarantine(folder)],
        "result": folder.read_json(RESULT_FILE),
        "lineage": run_state.lineage(folder),
    }
    print_json(document) if json else _print_run(document)
    return 0


@app.command
def logs(
    run: RunId = "",
    *,
    stage: OfStage = "",
    level: AtLeast = "info",
    follow: Follow = False,
    limit: Limit = None,
    runs: Runs = DEFAULT_RUNS,
    json: AsJson = False,
) -> int:
    """Print the events of a run, the newest ``--limit`` of them; with ``--follow`` those that come, until the run ends.

    JSON is one document; with ``--follow``, one object a line.
    """
    from avpref.cli.commands.runs_logs import show_logs
    from avpref.storage.run_folder import open_run

    return show_logs(open_run(runs, run), stage, level, follow, limit, json)


@app.command
def resume(
    run: RunId = "",
    *,
    runs: Runs = DEFAULT_RUNS,
    json: AsJson = False,
    wait: Wait = False,
    adopt_version: Annotated[
        bool, Parameter(help="go on with a run of another version of avpref: every stage is done again", negative="")
    ] = False,
) -> int:
    """Go on with a run where it stopped; output and exit codes are those of ``avpref retrain``."""
    from avpref.cli.commands.retrain_commands import present
    from avpref.storage.run_folder import adopt_version as adopt
    from avpref.storage.run_folder import open_run

    folder = open_run(runs, run)
    if adopt_version:
        adopt(folder, wait)
    from avpref.flows.retrain import resume as go_on

    return present(go_on(runs, folder.run_id, wait), json)


def _print_run(document: dict[str, Any]) -> None:
    from avpref.cli.views.run_progress import pass_rows

    facts = {name: document[name] for name in ("run_id", "run_dir", "state", "owner") if document[name]}
    lineage = document["lineage"]
    print_facts(facts | {name: lineage[name] for name in ("seed", "settings_hash")})
    print_line()
    print_table(document["stages"], ["name", "state", "rows", "since", "why"])
    print_line()
    if document["passes"]:
        columns = ["pass", "state", "items", "units", "shards", "rate", "left", "busy", "quarantined", "as of"]
        print_table(pass_rows(document["passes"]), columns)
        print_line()
        _print_spent(document["spent"])
        print_line()
    rows = [
        {"table": name, "rows": rows, "version": lineage["tables"][name]} for name, rows in document["tables"].items()
    ]
    print_table(rows, ["table", "rows", "version"])
    if document["quarantine"]:
        print_line()
        print_table(document["quarantine"], ["candidate_id", "stage", "error", "message"])
    if document["result"]:
        print_line()
        print_verdict(document["result"])
    print_line()
    print_facts({f"model {stage}": " ".join(found) or None for stage, found in lineage["models"].items()})


def _print_spent(spent: dict[str, Any]) -> None:
    names = ["gpu_s", "busy_actor_s", "gpu_s_per_kept_pair", "busy_actor_s_per_kept_pair"]
    if spent["price_per_gpu_hour"]:
        names += ["cost", "cost_per_kept_pair", "currency"]
    print_facts({name: spent[name] for name in names})
