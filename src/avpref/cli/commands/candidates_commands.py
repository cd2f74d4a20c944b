"""``avpref candidates``: list them, look at one, make them, score them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter, validators

from avpref.cli.options import DEFAULT_RUNS, AsJson, Limit, OfPrompt, Overrides, Run, Runs, Seed, overrides
from avpref.cli.output import first, print_facts, print_json, print_line, print_table
from avpref.errors import ConfigError

app = App(name="candidates", help="List, show, sample and score the candidates of a run.")

Clips = Annotated[
    Path | None, Parameter(name="--clips", help="CSV with columns file,text: score these clips and not those of a run")
]
Scorers = Annotated[
    str,
    Parameter(
        name="--scorers", help="names with commas between: audiobox, imagebind, synchformer, videoalign, …; or tiny"
    ),
]
Window = Annotated[
    float | None, Parameter(name="--window-s", help="seconds of each clip, from its start, that every scorer sees")
]
OptionalConfig = Annotated[Path | None, Parameter(name="--config", help="configuration file (YAML) of a new run")]
Prompts = Annotated[
    Path | None, Parameter(name="--prompts", help="CSV with a column text, and optionally file and taxonomy")
]
Speed = Annotated[
    float,
    Parameter(name="--tflops", help="sustained speed of one GPU, for --dry-run", validator=validators.Number(gt=0)),
]
CandidateId = Annotated[str, Parameter(help="candidate id, or an unambiguous beginning of one")]


@app.command(name="list")
def list_(
    *, runs: Runs = DEFAULT_RUNS, run: Run = "", prompt: OfPrompt = "", limit: Limit = None, json: AsJson = False
) -> int:
    """List the candidates of a run, prompt by prompt."""
    from avpref.cli.views import run_rows
    from avpref.storage.run_folder import open_run

    folder = open_run(runs, run)
    rows = first(run_rows.candidates(folder, prompt), limit)
    columns = ["candidate_id", "prompt_id", "index", "origin", "seed", "path"]
    print_json({"run_id": folder.run_id, "candidates": rows}) if json else print_table(rows, columns)
    return 0


@app.command
def show(candidate: CandidateId, *, runs: Runs = DEFAULT_RUNS, run: Run = "", json: AsJson = False) -> int:
    """Show one candidate: where it came from, its prompt, its scores, its file."""
    from avpref.cli.views import run_rows
    from avpref.storage.run_folder import open_run

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
    dry_run: bool = False,
    tflops: Speed = 200.0,
    json: AsJson = False,
) -> int:
    """Make the candidates that a run still lacks, or with --config those of a new run over a list of prompts.

    --dry-run counts candidates, tokens and operations, and the GPU-hours that they take at --tflops. Exit code 5: some prompts
    were refused or candidates quarantined.
    """
    if config is not None:
        from avpref.cli.commands.candidates_sample import sample_prompts

        return sample_prompts(config, prompts, runs, overrides(set_, seed), tflops if dry_run else None, json)
    if prompts is not None or set_ or seed is not None or dry_run:
        found = "--prompts, --set, --seed or --dry-run without --config"
        raise ConfigError(
            found, "--config with them; a run has its own configuration", "--config configs/javisdit.yaml"
        )
    from avpref.storage.run_folder import open_run

    folder = open_run(runs, run)
    from avpref.cli.views.stage_runs import present, run_stage
    from avpref.flows.stages.generate import generate

    rows = run_stage(folder, generate)
    return present(folder, {"stage": "generate", "candidates": rows}, {"generate"}, json)


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
    """Score the candidates of a run that have no scores yet, or with --clips a list of clips of your own.

    A clip that a scorer cannot judge has a reason instead of a number. Exit code 5: some clips could not be read.
    """
    if clips is not None:
        from avpref.cli.commands.candidates_score import score_clips

        return score_clips(clips, scorers, window_s, runs, set_ or [], json)
    if scorers or window_s is not None or set_:
        expected = "--clips CSV with them; a run has the scorers of its configuration"
        raise ConfigError("--scorers, --window-s or --set without --clips", expected, "--clips clips.csv")
    from avpref.storage.run_folder import open_run

    folder = open_run(runs, run)
    from avpref.cli.views.stage_runs import present, run_stage
    from avpref.flows.stages.score import score as flow

    rows = run_stage(folder, flow)
    return present(folder, {"stage": "score", "scores": rows}, {"score"}, json)


def _print(document: dict[str, Any]) -> None:
    print_facts({name: value for name, value in document.items() if name != "scores"})
    print_line()
    print_table(document["scores"], ["metric", "value", "status", "reason", "scorer"])
