"""The output of ``avpref config show``: every value of a configuration, and where each stage runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from avpref.cli.actions.estimate_work import PLACEMENT_COLUMNS
from avpref.cli.output import print_table
from avpref.config.loading import identity_hash, load_config
from avpref.flows.placement import placements


def config_document(config: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The values with their origins, and the placements of the stages, as JSON values. Raises ConfigError."""
    resolved = load_config(config, overrides)
    return {
        "config": str(config),
        "settings_hash": identity_hash(resolved.settings),
        "values": [{"key": key, "value": value, "origin": origin} for key, value, origin in resolved.rows()],
        "placements": [asdict(row) for row in placements(resolved.settings)],
    }


def print_config(document: dict[str, Any], with_origin: bool) -> None:
    """Print the values, and the stages below them."""
    print_table(document["values"], ["key", "value", "origin"] if with_origin else ["key", "value"])
    print_table(document["placements"], PLACEMENT_COLUMNS)
