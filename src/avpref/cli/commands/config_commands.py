"""``avpref config``: every value of a configuration and its origin."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from avpref.cli.options import DEFAULT_CONFIG, AsJson, Config, Overrides, Seed, overrides
from avpref.cli.output import print_json, print_line
from avpref.console import say

app = App(name="config")

WithOrigin = Annotated[
    bool, Parameter(name="--origin", help="print the origin of each value: default, file, environment or flag")
]


@app.command
def show(
    *,
    config: Config = DEFAULT_CONFIG,
    set_: Overrides = None,
    seed: Seed = None,
    origin: WithOrigin = False,
    json: AsJson = False,
) -> int:
    """Show every value after file, environment and flags, and where each stage runs; with --origin also the origin of values."""

    from avpref.cli.views import config_values

    document = config_values.config_document(config, overrides(set_, seed))
    print_json(document) if json else config_values.print_config(document, with_origin=origin)
    return 0


@app.command
def validate(
    *, config: Config = DEFAULT_CONFIG, set_: Overrides = None, seed: Seed = None, json: AsJson = False
) -> int:
    """Check keys and values, that the scorers provide the metrics in use, and the judges; warn of rewards that ignore the prompt."""
    from avpref.cli.views import config_validation

    document = config_validation.validated(config, overrides(set_, seed))
    for warning in document["warnings"]:
        say(f"prompt-blind rewards: {warning}")
    print_json(document) if json else print_line(f"{config}: valid, run {document['run_id']}")
    return 0
