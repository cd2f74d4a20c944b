"""``avpref retrain``: the whole loop with one command."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter, validators

from avpref.cli.opening import load_settings
from avpref.cli.options import (
    DEFAULT_CONFIG,
    DEFAULT_RUNS,
    AsJson,
    Config,
    Overrides,
    Runs,
    Seed,
    Speed,
    Wait,
    overrides,
)

Rounds = Annotated[
    int | None,
    Parameter(
        name="--rounds",
        help="repeat the loop K times, each time from the policy that it has trained; overrides rounds.count",
        validator=validators.Number(gte=1),
    ),
]
DryRun = Annotated[bool, Parameter(name="--dry-run", help="print the amount of work per stage, and run nothing")]


def retrain(
    *,
    config: Config = DEFAULT_CONFIG,
    runs: Runs = DEFAULT_RUNS,
    seed: Seed = None,
    rounds: Rounds = None,
    set_: Overrides = None,
    json: AsJson = False,
    dry_run: DryRun = False,
    tflops: Speed = 200.0,
    wait: Wait = False,
) -> int:
    """Run the whole loop: candidates, scores, pairs, AV-DPO, evaluation, gate, report.

    --dry-run prints items, bytes, devices and the plan of the trainings: tokens, memory, GPU-hours at --tflops.
    Run it again to continue where it stopped; an unchanged run recomputes nothing. A round that is refused ends the rounds, and
    the adapter of the last good one stands. Exit code 3: the gate refused; 5: some candidates were quarantined.
    """
    changes = overrides(set_, seed, rounds)
    settings = load_settings(config, changes)
    if dry_run:
        from avpref.cli.actions import estimate_work

        return estimate_work.print_estimate(settings, json, tflops)
    if not json:
        from avpref.cli.views import run_plan

        run_plan.say_plan(settings, runs)
    from avpref.cli.actions import retrain_run

    if not json:
        retrain_run.say_estimate(settings, runs)
    return retrain_run.retrain_config(retrain_run.Request(config, runs, seed, tuple(changes), wait), json)
