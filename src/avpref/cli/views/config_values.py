"""The output of ``avpref config show``: every value of a configuration, and where each stage runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from avpref.cli.actions.estimate_work import PLACEMENT_COLUMNS
from avpref.cli.output import print_table
from avpref.config.loading import identity_hash, load_config
from avpref.config.schema import Settings
from avpref.config.scorer_use import as_use
from avpref.flows.placement import placements
from avpref.flows.workers.class_scorers import ClassSource
from avpref.flows.workers.judges import all_scorers


def config_document(config: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The values with their origins, and the placements of the stages, as JSON values. Raises ConfigError."""
    resolved = load_config(config, overrides)
    return {
        "config": str(config),
        "settings_hash": identity_hash(resolved.settings),
        "values": [
            *({"key": key, "value": value, "origin": origin} for key, value, origin in resolved.rows()),
            *_scorer_settings(resolved.settings),
        ],
        "placements": [asdict(row) for row in placements(resolved.settings)],
    }


def _scorer_settings(settings: Settings) -> Iterator[dict[str, Any]]:
    """Rows of all settings of scorer classes, those of judges too; settings that the file leaves out have the class's default."""
    configured = {
        use.slug: use.settings for use in map(as_use, (*settings.scoring.scorers, *settings.evaluation.judges))
    }
    judging = {as_use(entry).slug for entry in settings.evaluation.judges}
    for source in all_scorers(settings):
        if isinstance(source, ClassSource):
            section = "evaluation.judges" if source.slug in judging else "scoring.scorers"
            for key, value in source.declaration.settings.items():
                origin = "file" if key in configured.get(source.slug, {}) else "default of the class"
                yield {"key": f"{section}.{source.slug}.settings.{key}", "value": value, "origin": origin}


def print_config(document: dict[str, Any], with_origin: bool) -> None:
    """Print the values, and the stages below them."""
    print_table(document["values"], ["key", "value", "origin"] if with_origin else ["key", "value"])
    print_table(document["placements"], PLACEMENT_COLUMNS)
