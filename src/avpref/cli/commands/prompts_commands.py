"""``avpref prompts``: import recordings as prompts, and list the prompts of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

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
from avpref.errors import ConfigError, PartialResult

if TYPE_CHECKING:
    from avpref.config.schema import Settings
    from avpref.storage.run_folder import RunFolder

app = App(name="prompts", help="Import recordings as prompts; list the prompts of a run.")

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
    """Make a run of your recordings: its folder and its prompt table, one prompt per window.

    Rows that cannot be used are listed with the reason. Exit code 5: some were refused; 4: too few are usable.
    """
    settings = _settings(clips, config, overrides(set_, seed))
    from avpref.cli.views.stage_runs import run_stage
    from avpref.flows.stages.prompts import prompts, refused
    from avpref.storage.run_folder import create

    folder = create(runs, settings)
    run_stage(folder, prompts)
    lost = [{"file": row.candidate_id, "reason": row.message} for row in refused(folder)]
    document = {
        "run_id": folder.run_id,
        "run_dir": str(folder.root),
        **_counts(folder),
        "refused": lost,
        "next": f"avpref runs resume {folder.run_id} --runs {runs}",
    }
    print_json(document) if json else _print(document)
    return PartialResult.exit_code if lost else 0


@app.command(name="list")
def list_(*, runs: Runs = DEFAULT_RUNS, run: Run = "", limit: Limit = None, json: AsJson = False) -> int:
    """List the prompts of a run in their order."""
    from avpref.datasets.tables import PROMPTS
    from avpref.storage.run_folder import open_run

    folder = open_run(runs, run)
    rows = first(folder.tables.read(PROMPTS).to_pylist(), limit)
    columns = ["prompt_id", "split", "source", "text"]
    print_json({"run_id": folder.run_id, "prompts": rows}) if json else print_table(rows, columns)
    return 0


def _settings(clips: Path, config: Path, given: Sequence[str]) -> Settings:
    """The configuration with ``prompts.clips`` set. Raises ConfigError for one that is not about recordings."""
    import json

    from avpref.config.data_settings import ClipPrompts
    from avpref.config.loading import load_config

    kind = load_config(config, given).settings.prompts
    if not isinstance(kind, ClipPrompts):
        found = f"{config} takes its prompts from {kind.kind}"
        raise ConfigError(found, "a configuration with prompts.kind: clips", f"--config {DEFAULT_CLIPS_CONFIG}")
    return load_config(config, [*given, f"prompts.clips={json.dumps(str(clips))}"]).settings


def _counts(folder: RunFolder) -> dict[str, Any]:
    from avpref.datasets.prompts.clips import recording_of
    from avpref.domain import Split
    from avpref.storage.table_readers import read_prompts

    found = {split: [prompt for prompt in read_prompts(folder.tables) if prompt.split == split] for split in Split}
    train, held_out = found[Split.TRAIN], found[Split.HELD_OUT]
    return {
        "recordings": len({recording_of(prompt) for prompt in train + held_out}),
        "train": {"recordings": len({recording_of(prompt) for prompt in train}), "windows": len(train)},
        "held_out": {
            "recordings": len({recording_of(prompt) for prompt in held_out}),
            "windows": len({(recording_of(prompt), prompt.ground_truth_start_s) for prompt in held_out}),
            "prompts": len(held_out),
        },
    }


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
        print_table(document["refused"], ["file", "reason"])
    print_line(f"next: {document['next']}")
