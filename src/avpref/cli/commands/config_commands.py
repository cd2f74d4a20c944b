"""``avpref config``: every value of a configuration and where it came from."""

from __future__ import annotations

from cyclopts import App

from avpref.cli.options import DEFAULT_CONFIG, AsJson, Config, Overrides, Seed, overrides
from avpref.cli.output import print_json, print_line, print_table

app = App(name="config", help="Show or validate a configuration.")


@app.command
def show(
    *,
    config: Config = DEFAULT_CONFIG,
    set_: Overrides = None,
    seed: Seed = None,
    origin: bool = False,
    json: AsJson = False,
) -> int:
    """Show every value after file, environment and flags; with --origin where each came from."""
    from avpref.config.loading import identity_hash, load_config

    resolved = load_config(config, overrides(set_, seed))
    rows = [{"key": key, "value": value, "origin": found} for key, value, found in resolved.rows()]
    if json:
        settings_hash = identity_hash(resolved.settings)
        print_json({"config": str(config), "settings_hash": settings_hash, "values": rows})
    else:
        print_table(rows, ["key", "value", "origin"] if origin else ["key", "value"])
    return 0


@app.command
def validate(
    *, config: Config = DEFAULT_CONFIG, set_: Overrides = None, seed: Seed = None, json: AsJson = False
) -> int:
    """Check keys and values, that the scorers give the metrics asked for, and that the clip's shape can be sampled."""
    from avpref.config.loading import identity_hash, load_config

    settings = load_config(config, overrides(set_, seed)).settings
    from avpref.datasets.selection.score_matrix import check_metrics
    from avpref.flows.workers.scorers import metrics_of
    from avpref.storage.run_folder import run_id

    metrics = metrics_of(settings.scoring)
    check_metrics(metrics)
    document = {
        "config": str(config),
        "valid": True,
        "settings_hash": identity_hash(settings),
        "run_id": run_id(settings),
        "metrics": [metric.name for metric in metrics],
    }
    print_json(document) if json else print_line(f"{config}: valid, run {document['run_id']}")
    return 0
