"""``avpref retrain``: the whole loop on one command."""

from __future__ import annotations

from typing import Any

from avpref.cli.options import DEFAULT_CONFIG, DEFAULT_RUNS, AsJson, Config, Overrides, Runs, Seed, Wait, overrides
from avpref.cli.output import print_json, print_line, print_table, print_verdict
from avpref.console import say
from avpref.errors import GateRefused, PartialResult


def retrain(
    *,
    config: Config = DEFAULT_CONFIG,
    runs: Runs = DEFAULT_RUNS,
    seed: Seed = None,
    set_: Overrides = None,
    json: AsJson = False,
    dry_run: bool = False,
    wait: Wait = False,
) -> int:
    """Run the whole loop: candidates, scores, pairs, AV-DPO, evaluation, gate, report.

    Run it again to go on where it stopped; an unchanged run recomputes nothing. Exit code 3: the gate refused;
    5: some candidates were quarantined.
    """
    from avpref.config.loading import load_config

    settings = load_config(config, overrides(set_, seed)).settings
    if dry_run:
        from avpref.flows.dry_run import estimate

        document = estimate(settings)
        print_json(document) if json else print_table(document["stages"], ["name", "items", "unit", "bytes"])
        say(f"at most {document['total_bytes'] / 2**20:,.0f} MiB, score and pair tables not counted")
        return 0
    from avpref.flows.prefect import run_reporting as reporting
    from avpref.flows.retrain import retrain as flow

    document = reporting.call(flow, str(config), str(runs), seed, list(set_ or []), wait)
    return present(document, json)


def present(document: dict[str, Any], as_json: bool) -> int:
    """Print a result document; returns the exit code that it calls for."""
    print_json(document) if as_json else _summary(document)
    if document["gate"]["verdict"] != "promote":
        return GateRefused.exit_code
    return PartialResult.exit_code if document["quarantined"] else 0


def _summary(document: dict[str, Any]) -> None:
    pairs = document["pairs"]
    print_line(f"run {document['run_id']}: {pairs['kept']} pairs from {pairs['prompts']} prompts ({pairs['strategy']})")
    print_verdict(document)
    promotion = document["promotion"]
    print_line(f"promotion to {promotion['alias']}: {promotion['state']}")
    say(f"report: {document['run_dir']}/report.html")
