"""``avpref candidates``: list, show, sample and score them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from avpref.cli.opening import open_run
from avpref.cli.options import (
    DEFAULT_RUNS,
    AsJson,
    CandidateId,
    Limit,
    OfPrompt,
    Overrides,
    Run,
    Runs,
    Seed,
    Speed,
    overrides,
)
from avpref.cli.output import first, print_facts, print_json, print_line, print_table
from avpref.errors import ConfigError

app = App(name="candidates")

Clips = Annotated[
    Path | None, Parameter(name="--clips", help="CSV with columns file,text: score these clips instead of a run's")
]
Scorers = Annotated[
    str,
    Parameter(
        name="--scorers", help="scorers, separated by commas: audiobox, imagebind, synchformer, videoalign, …; or tiny"
    ),
]
Window = Annotated[
    float | None, Parameter(name="--window-s", help="seconds of each clip, from its start, that every scorer reads")
]
OptionalConfig = Annotated[Path | None, Parameter(name="--config", help="configuration file (YAML) of a new run")]
Prompts = Annotated[
    Path | None, Parameter(name="--prompts", help="CSV with a column text, and optionally file and taxonomy")
]
DryRun = Annotated[bool, Parameter(name="--dry-run", help="print the amount of work, and sample nothing")]


@app.command(name="list")
def list_(
    *, runs: Runs = DEFAULT_RUNS, run: Run = "", prompt: OfPrompt = "", limit: Limit = None, json: AsJson = False
) -> int:
    """List the candidates of a run, prompt by prompt."""
    from avpref.cli.views import run_rows

    folder = open_run(runs, run)
    rows = first(run_rows.candidates(folder, prompt), limit)
    columns = ["candidate_id", "prompt_id", "index", "origin", "seed", "path"]
    print_json({"run_id": folder.run_id, "candidates": rows}) if json else print_table(rows, columns)
    return 0


@app.command
def show(candidate: CandidateId, *, runs: Runs = DEFAULT_RUNS, run: Run = "", json: AsJson = False) -> int:
    """Show one candidate: its source, prompt, scores and file."""
    from avpref.cli.views import run_rows

    folder = open_run(runs, run)
    document = run_rows.candidate(folder, candidate)
    print_json({"run_id": folder.run_id, "candidate": document}) if json else _print(document)
    return 0


@app.command
def sample(
    *,
    config: OptionalConfig = None,
    prompts: Prompts = None,
    runs: Runs = DEFAULT_RUNS,
    run: Run = "",
    seed: Seed = None,
    set_: Overrides = None,
    dry_run: DryRun = False,
    tflops: Speed = 200.0,
    json: AsJson = False,
) -> int:
    """Sample the missing candidates of a run, or with --config those of a new run over a list of prompts.

    --dry-run prints candidates, tokens, operations, and GPU-hours at --tflops. Exit code 5: some prompts were refused or
    candidates quarantined.
    """
    if config is None and (prompts is not None or set_ or seed is not None or dry_run):
        found = "--prompts, --set, --seed or --dry-run without --config"
        raise ConfigError(
            found, "--config with them; a run has its own configuration", "--config configs/javisdit.yaml"
        )
    folder = None if config is not None else open_run(runs, run)
    from avpref.cli.actions import candidates_sample

    if folder is not None:
        return candidates_sample.sample_run(folder, json)
    assert config is not None
    speed = tflops if dry_run else None
    return candidates_sample.sample_prompts(config, prompts, runs, overrides(set_, seed), speed, json)


@app.command
def score(
    *,
    clips: Clips = None,
    scorers: Scorers = "",
    window_s: Window = None,
    runs: Runs = DEFAULT_RUNS,
    run: Run = "",
    set_: Overrides = None,
    json: AsJson = False,
) -> int:
    """Score the unscored candidates of a run, or with --clips any list of clips.

    Where a scorer cannot judge a clip, a reason takes the place of the number. Exit code 5: some clips could not be read.
    """
    if clips is None and (scorers or window_s is not None or set_):
        expected = "--clips CSV with them; a run has the scorers of its configuration"
        raise ConfigError("--scorers, --window-s or --set without --clips", expected, "--clips clips.csv")
    folder = None if clips is not None else open_run(runs, run)
    from avpref.cli.actions import candidates_score

    if folder is not None:
        return candidates_score.score_run(folder, json)
    assert clips is not None
    return candidates_score.score_clips(clips, scorers, window_s, runs, set_ or [], json)


def _print(document: dict[str, Any]) -> None:
    print_facts({name: value for name, value in document.items() if name != "scores"})
    print_line()
    print_table(document["scores"], ["metric", "value", "status", "reason", "scorer"])
