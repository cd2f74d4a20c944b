"""What an adapter was trained on, written down when its training ends: one file per adapter and table versions.

Lineage reads these records, and garbage collection keeps whatever they name.
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
from avpref.identity import digest
from avpref.registry.adapter_records import TRAINED

TRAINED_ON = (
    *(tables.PROMPTS, tables.CANDIDATES, tables.SCORES, tables.NORMS, tables.REWARDS),
    *(tables.SKIPPED, tables.EXCLUDED, tables.PAIRS),
)
"""The tables that an adapter's training depends on, directly or through the pairs."""


def record_trained(run: Run) -> Path:
    """Record the run's adapter, trained against its SFT network on the tables as they are; returns the record's file."""
    policy = run.policy
    record = origin(run, TRAINED_ON) | {"adapter_sha256": policy.adapter_hash}
    name = f"{TRAINED}/{policy.hash[:16]}-{digest('trained', record)}.json"
    run.documents.commit_everywhere(name, json.dumps(record, indent=1).encode())
    return run.root / name


def origin(run: Run, known: Sequence[tables.Table]) -> dict[str, Any]:
    """What every document about an adapter begins with: versions, run, settings, networks, norm, and the sealed of ``known`` tables."""
    policy, reference = run.policy, run.sft
    assert policy.adapter is not None
    sealed = {table.name: run.tables.current(table.name) for table in known}
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
        "norm_id": run.norm.norm_id,
        "tables": {name: manifest.version for name, manifest in sealed.items() if manifest is not None},
    }


def _relative(run: Run, path: Path) -> str:
    """The path from the run's run: networks that runs share lie beside it."""
    return Path(os.path.relpath(path, run.root)).as_posix()
