"""``avpref prompts``: import recordings as prompts, and list the prompts of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from avpref.cli.opening import open_run
from avpref.cli.options import (
    DEFAULT_CLIPS_CONFIG,
    DEFAULT_RUNS,
    AsJson,
    Config,
    Limit,
    Overrides,
    Run,
    Runs,
    Seed,
    overrides,
)
from avpref.cli.output import first, print_facts, print_json, print_line, print_table
from avpref.errors import PartialResult

app = App(name="prompts")

Clips = Annotated[Path, Parameter(help="CSV with columns file,text and optionally taxonomy; files relative to the CSV")]


@app.command(name="import")
def import_(
    clips: Clips,
    *,
    config: Config = DEFAULT_CLIPS_CONFIG,
    runs: Runs = DEFAULT_RUNS,
    seed: Seed = None,
    set_: Overrides = None,
    json: AsJson = False,
) -> int:
    """Create a run from recordings: its folder and its prompt table, one prompt per window.

    Unusable rows are listed with the reason. Exit code 5: some were refused; 4: too few are usable.
    """
    from avpref.cli.actions import import_recordings

    document = import_recordings.import_clips(clips, config, runs, overrides(set_, seed))
    print_json(document) if json else _print(document)
    return PartialResult.exit_code if document["refused"] else 0


@app.command(name="list")
def list_(*, runs: Runs = DEFAULT_RUNS, run: Run = "", limit: Limit = None, json: AsJson = False) -> int:
    """List the prompts of a run in their order."""
    from avpref.cli.views import run_rows

    folder = open_run(runs, run)
    rows = first(run_rows.prompts(folder), limit)
    columns = ["prompt_id", "split", "source", "text"]
    print_json({"run_id": folder.run_id, "prompts": rows}) if json else print_table(rows, columns)
    return 0


def _print(document: dict[str, Any]) -> None:
    train, held_out = document["train"], document["held_out"]
    print_facts(
        {
            "run": document["run_id"],
            "recordings": f"{document['recordings']} used, {len(document['refused'])} refused",
            "training": f"{train['windows']} windows of {train['recordings']} recordings",
            "held out": f"{held_out['prompts']} prompts from {held_out['windows']} windows of "
            f"{held_out['recordings']} recordings",
        }
    )
    if document["refused"]:
        print_table(document["refused"], ["line", "file", "reason"])
    print_line(f"next: {document['next']}")
