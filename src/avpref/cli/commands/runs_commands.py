"""``avpref runs``: list, inspect, open, resume, reproduce and clean up runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from avpref.cli.commands.runs_gc import gc
from avpref.cli.commands.runs_reproduce import reproduce
from avpref.cli.opening import open_run
from avpref.cli.options import DEFAULT_HOST, DEFAULT_PORT, DEFAULT_RUNS, AsJson, Host, Limit, Port, RunId, Runs, Wait
from avpref.cli.output import print_json, print_line, print_table
from avpref.console import say

if TYPE_CHECKING:
    from avpref.storage.run_folder import RunFolder

app = App(name="runs")
app.command(reproduce)
app.command(gc)

OfStage = Annotated[str, Parameter(name="--stage", help="only events of this stage and its pools")]
AtLeast = Annotated[str, Parameter(name="--level", help="minimum level: debug, info, warning or error")]
Follow = Annotated[bool, Parameter(name=["--follow", "-f"], help="print new events until the run ends", negative="")]
Explorer = Annotated[
    bool, Parameter(name="--explorer", help="serve the pages of the explorer instead; ends with Ctrl-C", negative="")
]
AdoptVersion = Annotated[
    bool,
    Parameter(
        name="--adopt-version", help="resume a run of another version of avpref; every stage is repeated", negative=""
    ),
]


@app.command(name="list")
def list_(*, runs: Runs = DEFAULT_RUNS, json: AsJson = False) -> int:
    """List the runs of a folder, newest first: id, seed, round, state, pairs, verdict."""
    from avpref.cli.views import run_state

    rows = run_state.rows_of(runs)
    print_json({"runs": rows}) if json else print_table(rows, ["run_id", "seed", "round", "state", "pairs", "verdict"])
    if not rows:
        say(f"no runs in {runs}; make one: avpref retrain --runs {runs}")
    return 0


@app.command
def show(run: RunId = "", *, runs: Runs = DEFAULT_RUNS, json: AsJson = False) -> int:
    """Show a run, also while it is in use: state of every stage, progress, cost, quarantined candidates, result, lineage."""
    from avpref.cli.views import run_document

    document = run_document.document_of(open_run(runs, run))
    print_json(document) if json else run_document.print_run(document)
    return 0


@app.command(name="open")
def open_(
    run: RunId = "",
    *,
    runs: Runs = DEFAULT_RUNS,
    explorer: Explorer = False,
    host: Host = DEFAULT_HOST,
    port: Port = DEFAULT_PORT,
    json: AsJson = False,
) -> int:
    """Open the report of a run in the browser; without a display, print its path.

    With --explorer: the pages of the run as `avpref pairs open` serves them, which unfinished runs have too.
    """
    folder = open_run(runs, run)
    if explorer:
        return _explore(folder, (host, port), json)
    from avpref.cli.actions import open_report

    path = open_report.report_of(folder)
    is_opened = open_report.open_page(path)
    if json:
        print_json({"run_id": folder.run_id, "report": str(path), "is_opened": is_opened})
        return 0
    print_line(str(path))
    if not is_opened:
        say("no display here: open this file in a browser")
    return 0


def _explore(folder: RunFolder, address: tuple[str, int], as_json: bool) -> int:
    """Serve the pages of a run."""
    from avpref.cli.actions import serve_explorer

    return serve_explorer.serve(folder, f"run/{folder.run_id}", address, True, as_json)


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
    """Print the events of a run, the newest ``--limit`` of them; with ``--follow`` also new ones until the run ends.

    JSON is one document; with ``--follow``, one object per line.
    """
    from avpref.cli.views import run_log

    events = run_log.Filter(stage, run_log.level_of(level), limit)
    folder = open_run(runs, run)
    return run_log.follow(folder, events, json) if follow else run_log.show(folder, events, json)


@app.command
def resume(
    run: RunId = "",
    *,
    runs: Runs = DEFAULT_RUNS,
    json: AsJson = False,
    wait: Wait = False,
    adopt_version: AdoptVersion = False,
) -> int:
    """Continue a run where it stopped; output and exit codes are those of ``avpref retrain``."""
    folder = open_run(runs, run)
    from avpref.cli.actions import retrain_run

    return retrain_run.resume_run(folder, wait, adopt_version, json)
