"""The checks of ``avpref config validate``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avpref.config.base_settings import DEFAULT_BASE
from avpref.config.loading import identity_hash, load_config
from avpref.datasets.selection.prompt_blind import checked_prompt_blind
from avpref.flows.workers.judges import check_judges
from avpref.flows.workers.run_metrics import checked_metrics
from avpref.storage.run_folder import run_id


def validated(config: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The identity and the metrics of a valid configuration. Raises ConfigError."""
    settings = load_config(config, overrides).settings
    metrics = checked_metrics(settings)
    check_judges(settings)
    if settings.base != DEFAULT_BASE:
        from avpref.flows.workers.generator import base_of  # imports torch, which takes seconds

        base_of(settings)
    return {
        "config": str(config),
        "valid": True,
        "settings_hash": identity_hash(settings),
        "run_id": run_id(settings),
        "metrics": [metric.name for metric in metrics],
        "judges": list(settings.evaluation.judges),
        "warnings": list(checked_prompt_blind(metrics, settings.audit.prompt_blind)),
    }
