"""``avpref pairs``: select again, show, compare two runs, compare all strategies, audit for shortcuts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from avpref.cli.options import DEFAULT_RUNS, AsJson, Limit, OfPrompt, Overrides, Run, Runs
from avpref.cli.output import first, print_json, print_line, print_table
from avpref.errors import ConfigError
from avpref.observability.progress import say

app = App(name="pairs", help="Select preference pairs, show them, compare runs and strategies.")

Scores = Annotated[
    Path | None,
    Parameter(name="--scores", help="file of scores (.csv, .parquet) instead of a run: long or wide columns"),
]
Strategy = Annotated[
    Literal["modality", "average", "strict"] | None, Parameter(name="--strategy", help="overrides pairs.strategy")
]
Out = Annotated[Path | None, Parameter(name="--out", help="write the pair table to this .parquet or .csv file")]
PAIR_COLUMNS = ["pair_id", "prompt_id", "chosen", "rejected"]
MARGIN_COLUMNS = ["margin_video", "margin_audio", "margin_av", "margin_total"]


@app.command
def select(
    *,
    runs: Runs = DEFAULT_RUNS,
    run: Run = "",
    scores: Scores = None,
    strategy: Strategy = None,
    set_: Overrides = None,
    out: Out = None,
    limit: Limit = None,
    json: AsJson = False,
) -> int:
    """Select pairs over a run's scores, or over a file of scores; the run is not changed.

    Exit code 5: candidates without a number for some metric were left out.
    """
    if scores is not None and run:
        raise ConfigError("both --scores and --run", "one of them", "avpref pairs select --scores FILE")
    from avpref.cli.views import pair_selection as selecting
    from avpref.datasets.table_files import check_format, write_table
    from avpref.storage.local_files import replace
    from avpref.storage.run_folder import open_run

    if out is not None:
        check_format(out)
    given = [*(set_ or []), *([f"pairs.strategy={strategy}"] if strategy else [])]
    if scores is not None:
        document, selection = selecting.from_file(scores, given)
    else:
        document, selection = selecting.from_run(open_run(runs, run), given)
    if out is not None:
        write_table(out, selection.pairs, replace)
        say(f"{out}: {selection.pairs.num_rows} pairs")
    if not document["num_pairs"]:
        say("no prompt gives a pair: sample more candidates, or relax pairs.strategy or pairs.min_margin")
    shown = {**document, "pairs": first(document["pairs"], limit)}
    print_json(shown) if json else _print_selection(shown)
    return selecting.exit_code(selection)


@app.command
def show(
    *, runs: Runs = DEFAULT_RUNS, run: Run = "", prompt: OfPrompt = "", limit: Limit = None, json: AsJson = False
) -> int:
    """Show the pairs of a run: both sides, scores, margins, paths; equal for equal seeds wherever the run was made."""
    from avpref.cli.views import run_rows
    from avpref.datasets.tables import PAIRS
    from avpref.storage.run_folder import open_run

    folder = open_run(runs, run)
    documents = first(run_rows.pairs(folder, folder.read(PAIRS), prompt), limit)
    print_json({"pairs": documents}) if json else _print_pairs(documents)
    return 0


@app.command
def diff(before: str, after: str, *, runs: Runs = DEFAULT_RUNS, limit: Limit = None, json: AsJson = False) -> int:
    """Show which pairs of run AFTER are added, removed, flipped or moved against run BEFORE, and because of what."""
    from avpref.cli.views.pair_selection import snapshot
    from avpref.datasets.selection.compare import diff as compare
    from avpref.storage.run_folder import open_run

    old, new = open_run(runs, before), open_run(runs, after)
    rows = compare(snapshot(old), snapshot(new)).to_pylist()
    counts = Counter((row["change"], row["cause"]) for row in rows)
    summary = [{"change": change, "cause": cause, "pairs": count} for (change, cause), count in sorted(counts.items())]
    document = {"before": old.run_id, "after": new.run_id, "summary": summary, "differences": first(rows, limit)}
    print_json(document) if json else _print_differences(document)
    return 0


@app.command
def leaderboard(*, runs: Runs = DEFAULT_RUNS, run: Run = "", json: AsJson = False) -> int:
    """Show what every selection strategy would make of a run's scores; --json adds how far any two agree."""
    from avpref.cli.views.pair_selection import board_of
    from avpref.storage.run_folder import open_run

    folder = open_run(runs, run)
    found = board_of(folder)
    rows = found.rows.to_pylist()
    if json:
        print_json({"run_id": folder.run_id, "leaderboard": rows, "overlaps": found.overlaps.to_pylist()})
    else:
        print_table(rows, list(rows[0]))
    return 0


@app.command
def audit(*, runs: Runs = DEFAULT_RUNS, run: Run = "", strategy: Strategy = None, json: AsJson = False) -> int:
    """Show how well loudness, stillness, length and other plain facts tell chosen from rejected; the run is not changed.

    With --strategy: what another strategy would select over the same scores. A fact beyond audit.max_auroc is flagged.
    """
    from avpref.cli.views.audit_view import document_of
    from avpref.storage.run_folder import open_run

    document = document_of(open_run(runs, run), strategy)
    print_json(document) if json else _print_audit(document)
    return 0


def _print_audit(document: dict[str, Any]) -> None:
    columns = ["kind", "fact", "value", "ci_low", "ci_high", "num", "bound", "is_flagged", "detail"]
    print_line(f"{document['strategy']}: how well single facts tell chosen from rejected (AUROC; 0.5 is chance)")
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


def _print_pairs(documents: Sequence[dict[str, Any]]) -> None:
    from avpref.cli.views.run_rows import flat

    rows = [flat(document) for document in documents]
    print_table(rows, [*PAIR_COLUMNS, *MARGIN_COLUMNS, "prompt"])


def _print_differences(document: dict[str, Any]) -> None:
    if not document["summary"]:
        print_line(f"{document['before']} and {document['after']} have the same pairs")
        return
    print_table(document["summary"], ["change", "cause", "pairs"])
    print_line()
    columns = ["prompt_id", "change", "cause", "chosen", "rejected", "margin_before", "margin_after"]
    print_table(document["differences"], columns)
