"""``avpref pairs``: select again, show, compare two runs or all strategies, audit for shortcuts, export and import."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from avpref.cli.opening import open_run
from avpref.cli.options import (
    DEFAULT_CONFIG,
    DEFAULT_HOST,
    DEFAULT_PORT,
    DEFAULT_RUNS,
    RUN_HELP,
    AsJson,
    Config,
    Host,
    Limit,
    NoBrowser,
    OfPrompt,
    Overrides,
    Port,
    Run,
    RunId,
    Runs,
    Seed,
    overrides,
)
from avpref.cli.output import first, print_facts, print_json, print_line, print_table
from avpref.console import say
from avpref.errors import ConfigError, PartialResult

app = App(name="pairs")

Scores = Annotated[
    Path | None,
    Parameter(name="--scores", help="file of scores (.csv, .parquet) instead of a run: long or wide columns"),
]
Strategy = Annotated[
    Literal["modality", "average", "strict", "routed"] | None,
    Parameter(name="--strategy", help="overrides pairs.strategy"),
]
From = Annotated[
    Literal["scores", "votes"],
    Parameter(name="--from", help="votes: pairs as the people of a study prefer them (avpref votes plan --of pairs)"),
]
Study = Annotated[str, Parameter(name="--study", help="with --from votes: study id", show_default="the only study")]
KeepOthers = Annotated[
    bool, Parameter(name="--keep-others", help="with --from votes: keep pairs that nobody voted on", negative="")
]
Out = Annotated[Path | None, Parameter(name="--out", help="write the pair table to this .parquet or .csv file")]
NewFolder = Annotated[Path, Parameter(help="new or empty folder")]
Format = Annotated[
    Literal["hf", "diffusion-dpo", "csv"],
    Parameter(
        name="--format",
        help="hf: for datasets.load_dataset; diffusion-dpo: caption, two clips, labels; csv: a list and clips as files",
    ),
]
Layout = Annotated[
    Literal["auto", "shards", "files"],
    Parameter(name="--layout", help="hf: clips in Parquet shards, or as files; auto: shards above 5000 pairs"),
]
Push = Annotated[
    str, Parameter(name="--push", help="upload the folder to this repository of the hub, OWNER/NAME", show_default="no")
]
Public = Annotated[
    bool, Parameter(name="--public", help="with --push: a new repository is public instead of private", negative="")
]
Source = Annotated[
    Path, Parameter(help="folder of exported pairs, or a CSV with columns chosen,rejected,text and optional scores")
]
Before = Annotated[str, Parameter(help=RUN_HELP)]
After = Annotated[str, Parameter(help=RUN_HELP)]
PAIR_COLUMNS = ["pair_id", "prompt_id", "chosen", "rejected"]


@app.command
def select(
    *,
    runs: Runs = DEFAULT_RUNS,
    run: Run = "",
    scores: Scores = None,
    from_: From = "scores",
    study: Study = "",
    keep_others: KeepOthers = False,
    strategy: Strategy = None,
    set_: Overrides = None,
    out: Out = None,
    limit: Limit = None,
    json: AsJson = False,
) -> int:
    """Select pairs over a run's scores, over a file of scores, or by people's votes; the run is not changed.

    Exit code 5: candidates were left out because some metric has no number, or rows of the file were refused.
    """
    if scores is not None and (run or from_ == "votes"):
        other = "--run" if run else "--from votes"
        raise ConfigError(f"both --scores and {other}", "one of them", "avpref pairs select --scores FILE")
    if from_ == "scores" and (study or keep_others):
        raise ConfigError("--study or --keep-others without --from votes", "--from votes", "--from votes")
    from avpref.cli.views import pair_selection

    if out is not None:
        pair_selection.check_format(out)
    overrides = [*(set_ or []), *([f"pairs.strategy={strategy}"] if strategy else [])]
    if scores is not None:
        document, selection = pair_selection.from_file(scores, overrides)
    else:
        document, selection = pair_selection.from_run(open_run(runs, run), overrides)
    if from_ == "votes":
        document, selection = pair_selection.by_votes(open_run(runs, run), study, keep_others, (document, selection))
    if out is not None:
        pair_selection.write_pairs(out, selection.pairs)
        say(f"{out}: {selection.pairs.num_rows} pairs")
    if not document["num_pairs"]:
        say("no prompt gives a pair: sample more candidates, or relax pairs.strategy or pairs.min_margin")
    limited = {**document, "pairs": first(document["pairs"], limit)}
    print_json(limited) if json else _print_selection(limited)
    return pair_selection.exit_code(document)


@app.command
def show(
    *, runs: Runs = DEFAULT_RUNS, run: Run = "", prompt: OfPrompt = "", limit: Limit = None, json: AsJson = False
) -> int:
    """Show the pairs of a run: both sides, scores, margins, paths. Equal seeds give equal output on any machine."""
    from avpref.cli.views import run_rows

    documents = first(run_rows.sealed_pairs(open_run(runs, run), prompt), limit)
    print_json({"pairs": documents}) if json else _print_pairs(documents)
    return 0


@app.command(name="open")
def open_(
    run: RunId = "",
    *,
    runs: Runs = DEFAULT_RUNS,
    host: Host = DEFAULT_HOST,
    port: Port = DEFAULT_PORT,
    no_browser: NoBrowser = False,
    json: AsJson = False,
) -> int:
    """Open the explorer on the pairs of a run: tables, both clips in step, the reasons of a pair, SQL. Ends with Ctrl-C.

    It reads the runs and writes nothing but votes. Addresses other than this machine's own get a random token.
    """
    from avpref.cli.actions import serve_explorer

    folder = open_run(runs, run)
    return serve_explorer.serve(folder, f"run/{folder.run_id}/table/pairs", (host, port), not no_browser, json)


@app.command
def diff(before: Before, after: After, *, runs: Runs = DEFAULT_RUNS, limit: Limit = None, json: AsJson = False) -> int:
    """Show the pairs that run AFTER adds, removes, flips or moves against run BEFORE, and the cause of each change."""
    from avpref.cli.views import pair_selection

    comparison = pair_selection.compared(open_run(runs, before), open_run(runs, after))
    document = {**comparison, "differences": first(comparison["differences"], limit)}
    print_json(document) if json else _print_differences(document)
    return 0


@app.command
def leaderboard(*, runs: Runs = DEFAULT_RUNS, run: Run = "", json: AsJson = False) -> int:
    """Show the pairs that each selection strategy would give over a run's scores; --json adds how far any two agree."""
    from avpref.cli.views import pair_selection

    folder = open_run(runs, run)
    strategies = pair_selection.leaderboard_of(folder)
    rows = strategies.rows.to_pylist()
    if json:
        print_json({"run_id": folder.run_id, "leaderboard": rows, "overlaps": strategies.overlaps.to_pylist()})
    else:
        print_table(rows, list(rows[0]))
    return 0


@app.command
def audit(*, runs: Runs = DEFAULT_RUNS, run: Run = "", strategy: Strategy = None, json: AsJson = False) -> int:
    """Show how well loudness, stillness, length and other plain facts separate chosen from rejected; changes nothing.

    With --strategy: for the pairs of another strategy over the same scores. A fact beyond audit.max_auroc is flagged.
    """
    from avpref.cli.views import audit_view

    document = audit_view.document_of(open_run(runs, run), strategy)
    print_json(document) if json else _print_audit(document)
    return 0


@app.command
def export(
    out: NewFolder,
    *,
    runs: Runs = DEFAULT_RUNS,
    run: Run = "",
    format: Format = "hf",
    layout: Layout = "auto",
    push: Push = "",
    public: Public = False,
    json: AsJson = False,
) -> int:
    """Export the pairs of a run with their clips, a card and a manifest into a new folder. Nothing is uploaded without --push."""
    from avpref.cli.actions.exchange import export_pairs

    document = export_pairs.export_run(open_run(runs, run), out, format, layout, push, public)
    print_json(document) if json else print_facts({**document, "files": len(document["files"])})
    return 0


@app.command(name="import")
def import_(
    source: Source,
    *,
    config: Config = DEFAULT_CONFIG,
    runs: Runs = DEFAULT_RUNS,
    seed: Seed = None,
    set_: Overrides = None,
    json: AsJson = False,
) -> int:
    """Create a run from pairs of another program: list them, check their clips, encode those of another shape again.

    The configuration's clip shape, scorers and network apply; its prompts are replaced. The printed command then trains on the
    pairs. Exit code 5: some rows or clips were refused; 4: none is usable.
    """
    from avpref.cli.actions.exchange import import_pair_list

    document = import_pair_list.import_list(source, config, runs, overrides(set_, seed))
    print_json(document) if json else _print_import(document)
    return PartialResult.exit_code if document["refused"] or document["quarantined"] else 0


def _print_import(document: dict[str, Any]) -> None:
    pairs = document["pairs"]
    print_facts(
        {
            "run": document["run_id"],
            "pairs": f"{pairs['train']} to train on, {pairs['held_out']} of held-out texts",
            "prompts": document["prompts"],
            "clips": document["clips"],
            "refused": f"{len(document['refused'])} rows, {len(document['quarantined'])} clips",
        }
    )
    if document["refused"]:
        print_table(document["refused"], ["row", "pair", "reason"])
    if document["quarantined"]:
        print_table(document["quarantined"], ["candidate_id", "error", "message"])
    print_line(f"next: {document['next']}")


def _print_audit(document: dict[str, Any]) -> None:
    columns = ["kind", "fact", "value", "ci_low", "ci_high", "num", "bound", "is_flagged", "detail"]
    print_line(f"{document['strategy']}: how well single facts separate chosen from rejected (AUROC; 0.5 is chance)")
    print_table(document["audit"], columns)
    flagged = [row["fact"] for row in document["audit"] if row["is_flagged"]]
    print_line(f"flagged: {', '.join(flagged) or 'none'}")


def _print_selection(document: dict[str, Any]) -> None:
    _print_pairs(document["pairs"])
    print_line()
    skipped = ", ".join(f"{reason} {count}" for reason, count in document["skipped"].items())
    print_line(f"{document['strategy']}: {document['num_pairs']} pairs from {document['prompts']} prompts")
    print_line(f"prompts without a pair: {skipped or 'none'}")
    if document["excluded"]:
        print_line("candidates without a number, in no pair:")
        print_table(document["excluded"], ["candidate_id", "prompt_id", "metric", "reason", "detail"])
    if document.get("refused"):
        print_line("refused rows of the file:")
        print_table(document["refused"], ["line", "row", "candidate_id", "reason"])


def _print_pairs(documents: Sequence[dict[str, Any]]) -> None:
    names = list(documents[0]["margins"]) if documents else ["total"]
    margins = [{f"margin_{name}": document["margins"][name] for name in names} for document in documents]
    rows = [{**document, **margin} for document, margin in zip(documents, margins, strict=True)]
    print_table(rows, [*PAIR_COLUMNS, *(f"margin_{name}" for name in names), "prompt"])


def _print_differences(document: dict[str, Any]) -> None:
    if not document["summary"]:
        print_line(f"{document['before']} and {document['after']} have the same pairs")
        return
    print_table(document["summary"], ["change", "cause", "pairs"])
    print_line()
    columns = ["prompt_id", "change", "cause", "chosen", "rejected", "dimension", "margin_before", "margin_after"]
    print_table(document["differences"], columns)
