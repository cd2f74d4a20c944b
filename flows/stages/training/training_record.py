"""The training record of an adapter: the data and networks that it was trained on, one file per adapter and set of table versions.

Lineage reads these records, and garbage collection keeps the files that they name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avpref import __version__
from avpref.config.loading import identity_hash
from avpref.datasets import tables
from avpref.domain import SCHEMA_VERSION
from avpref.flows.run import Run
from avpref.flows.workers.generator import base_of
from avpref.identity import digest
from avpref.registry.adapter_records import TRAINED

TRAINED_ON = (
    *(tables.PROMPTS, tables.CANDIDATES, tables.SCORES, tables.NORMS, tables.REWARDS),
    *(tables.SKIPPED, tables.EXCLUDED, tables.PAIRS, tables.IMPORTED),
)
"""The tables that an adapter's training depends on, directly or through the pairs."""


def record_trained(run: Run) -> Path:
    """Record the current tables and networks as the origin of the run's adapter; returns the path of the record.

    Raises InputError before training has finished.
    """
    policy = run.policy
    record = adapter_origin(run, TRAINED_ON) | {"adapter_sha256": policy.adapter_hash}
    name = f"{TRAINED}/{policy.hash[:16]}-{digest('trained', record)}.json"
    run.documents.commit_everywhere(name, json.dumps(record, indent=1).encode())
    return run.root / name


def adapter_origin(run: Run, recorded_tables: Sequence[tables.Table]) -> dict[str, Any]:
    """The keys that every document about an adapter begins with: versions, run, settings, networks, norm and tables.

    ``tables`` maps the name of each of ``recorded_tables`` that is sealed to its version.
    """
    policy, reference = run.policy, run.sft
    assert policy.adapter is not None
    sealed = {table.name: run.tables.current(table.name) for table in recorded_tables}
    base = base_of(run.settings)
    return {
        "schema_version": SCHEMA_VERSION,
        "product_version": __version__,
        "run_id": run.run_id,
        "seed": run.settings.run.seed,
        "settings_hash": identity_hash(run.settings),
        "policy_hash": policy.hash,
        "checkpoint_sha256": reference.hash,
        "checkpoint": _relative(run, reference.checkpoint),
        "adapter": _relative(run, policy.adapter),
        "base_model": run.settings.base.model,
        "base_licence": base.terms.licence,
        "base_commercial_use": base.terms.commercial_use,
        **_round(run),
        "norm_id": run.norm.norm_id,
        "tables": {name: manifest.version for name, manifest in sealed.items() if manifest is not None},
    }


def _round(run: Run) -> dict[str, Any]:
    """The round, the run of the round before and the policy that the training started from; nothing in the first round."""
    if run.previous is None:
        return {}
    return {
        "round": run.settings.rounds.round,
        "previous_run": run.previous.run_id,
        "start_policy_hash": run.start.hash,
        "start_adapter_sha256": run.start.adapter_hash,
    }


def _relative(run: Run, path: Path) -> str:
    """``path`` relative to the run's folder; networks that runs share lie outside of it."""
    return Path(os.path.relpath(path, run.root)).as_posix()
