"""``avpref votes``: plan studies in which people compare clips blindly, take their votes, and show the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter, validators

from avpref.cli.opening import open_run
from avpref.cli.options import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    DEFAULT_RUNS,
    RUN_HELP,
    AsJson,
    Host,
    NoBrowser,
    Port,
    Run,
    Runs,
)
from avpref.cli.output import print_facts, print_json, print_line, print_table
from avpref.console import say

app = App(name="votes")

AtLeastOne = validators.Number(gte=1)
Of = Annotated[
    Literal["models", "pairs"],
    Parameter(name="--of", help="held-out clips of two models, or the sides of training pairs"),
]
Against = Annotated[
    str, Parameter(name="--against", help=f"compare the policies of two runs: the baseline's {RUN_HELP}")
]
Side = Annotated[
    Literal["policy", "reference"],
    Parameter(name="--side", help="with --against: the side of both runs; reference compares two base models"),
]
Items = Annotated[int | None, Parameter(name="--items", help="number of prompts; default: all", validator=AtLeastOne)]
Raters = Annotated[int, Parameter(name="--raters", help="votes per item", validator=AtLeastOne)]
Annotators = Annotated[
    int | None, Parameter(name="--annotators", help="places for annotators; default: as many as raters")
]
Checks = Annotated[
    int, Parameter(name="--checks", help="attention checks per annotator", validator=validators.Number(gte=0))
]
Aspects = Annotated[
    list[str] | None,
    Parameter(name="--aspect", help="aspect to ask for; may be repeated", negative="", consume_multiple=False),
]
StudySeed = Annotated[int, Parameter(name="--seed", help="seed of the choice of prompts, orders and sides")]
Study = Annotated[str, Parameter(help="study id, or the beginning of one", show_default="the only study of the run")]
Plot = Annotated[Path | None, Parameter(name="--plot", help="also draw the result into this .svg or .png file")]


@app.command
def plan(
    *,
    runs: Runs = DEFAULT_RUNS,
    run: Run = "",
    of: Of = "models",
    against: Against = "",
    side: Side = "policy",
    items: Items = None,
    raters: Raters = 3,
    annotators: Annotators = None,
    checks: Checks = 4,
    aspect: Aspects = None,
    seed: StudySeed = 0,
    json: AsJson = False,
) -> int:
    """Plan a study over a run's clips and store it in the run; the same plan gives the same study again.

    By default it compares policy with reference on the held-out prompts; --against another run compares two policies.
    """
    from avpref.cli.actions import plan_study

    request = plan_study.PlanRequest(of, side, items, raters, annotators or raters, checks, tuple(aspect or ()), seed)
    baseline = open_run(runs, against) if against else None
    document = plan_study.plan(open_run(runs, run), baseline, request)
    print_json(document) if json else print_facts(document)
    if not json:
        say(f"take votes: avpref votes open {document['study_id']} --run {document['run_id']} --runs {runs}")
    return 0


@app.command(name="list")
def list_(*, runs: Runs = DEFAULT_RUNS, run: Run = "", json: AsJson = False) -> int:
    """List the studies of a run with their progress."""
    from avpref.cli.views import study_rows

    rows = study_rows.rows_of(open_run(runs, run))
    columns = ["study_id", "kind", "first", "second", "items", "votes", "wanted", "annotators"]
    print_json({"studies": rows}) if json else print_table(rows, columns)
    if not rows:
        say(f"no study yet; plan one: avpref votes plan --runs {runs}")
    return 0


@app.command(name="open")
def open_(
    study: Study = "",
    *,
    runs: Runs = DEFAULT_RUNS,
    run: Run = "",
    host: Host = DEFAULT_HOST,
    port: Port = DEFAULT_PORT,
    no_browser: NoBrowser = False,
    json: AsJson = False,
) -> int:
    """Serve the voting page of a study until Ctrl-C. Each vote is stored when it is given; several people may vote at once.

    For people on other machines: --host with an address of this one; they open the printed address, which has a token.
    """
    from avpref.cli.actions import plan_study, serve_explorer

    folder = open_run(runs, run)
    path = f"vote/{folder.run_id}/{plan_study.find(folder, study)}"
    return serve_explorer.serve(folder, path, (host, port), not no_browser, json)


@app.command
def result(
    study: Study = "", *, runs: Runs = DEFAULT_RUNS, run: Run = "", plot: Plot = None, json: AsJson = False
) -> int:
    """Show the votes of a study: wins, ties and losses with intervals, agreement of people, and of the rewards with them."""
    from avpref.cli.views import study_rows

    document = study_rows.result_of(open_run(runs, run), study, plot)
    print_json(document) if json else _print_result(document)
    return 0


def _print_result(document: dict[str, Any]) -> None:
    first, second = document["names"]
    print_line(f"study {document['study_id']}: {second} (wins) with {first} (loses)")
    print_line(f"{document['num_complete']} of {document['num_items']} items have all votes")
    print_line()
    columns = ["aspect", "category", "items", "wins", "ties", "losses", "win_rate", "ci_low", "ci_high", "alpha"]
    print_table(document["table"], columns)
    print_line()
    print_table(document["agreement"], ["reward", "aspect", "category", "items", "agree", "ci_low", "ci_high"])
    print_line()
    columns = ["name", "num_votes", "median_s", "checks_answered", "checks_passed", "exclusion"]
    print_table(document["annotators"], columns)
    print_line()
    print_table(document["pairs"], ["aspect", "first", "second", "num_items", "equal", "kappa"])
