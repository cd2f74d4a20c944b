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
from avpref.flows.stages.pair import read_norm
from avpref.flows.workers.generator import NetworkFiles
from avpref.identity import digest
from avpref.registry.adapter_records import TRAINED
from avpref.storage.local_files import LocalFiles
from avpref.storage.run_folder import RunFolder

TRAINED_ON = (
    *(tables.PROMPTS, tables.CANDIDATES, tables.SCORES, tables.NORMS, tables.REWARDS),
    *(tables.SKIPPED, tables.EXCLUDED, tables.PAIRS),
)
"""The tables that an adapter's training depends on, directly or through the pairs."""


def record_trained(folder: RunFolder, policy: NetworkFiles, reference: NetworkFiles) -> Path:
    """Record the adapter of ``policy``, trained against ``reference`` on the tables as they are; returns the record's file."""
    record = origin(folder, policy, reference, TRAINED_ON) | {"adapter_sha256": policy.adapter_hash}
    name = f"{TRAINED}/{policy.hash[:16]}-{digest('trained', record)}.json"
    for files in {LocalFiles(folder.root), folder.files}:
        files.commit_once(name, json.dumps(record, indent=1).encode())
    return folder.root / name


def origin(
    folder: RunFolder, policy: NetworkFiles, reference: NetworkFiles, known: Sequence[tables.Table]
) -> dict[str, Any]:
    """What every document about an adapter begins with: versions, run, settings, networks, norm, and the sealed of ``known`` tables."""
    assert policy.adapter is not None
    sealed = {table.name: folder.tables.current(table.name) for table in known}
    return {
        "schema_version": SCHEMA_VERSION,
        "product_version": __version__,
        "run_id": folder.run_id,
        "seed": folder.settings.run.seed,
        "settings_hash": identity_hash(folder.settings),
        "policy_hash": policy.hash,
        "checkpoint_sha256": reference.hash,
        "checkpoint": _relative(folder, reference.checkpoint),
        "adapter": _relative(folder, policy.adapter),
        "norm_id": read_norm(folder).norm_id,
        "tables": {name: manifest.version for name, manifest in sealed.items() if manifest is not None},
    }


def _relative(folder: RunFolder, path: Path) -> str:
    """The path from the run's folder: networks that runs share lie beside it."""
    return Path(os.path.relpath(path, folder.root)).as_posix()
