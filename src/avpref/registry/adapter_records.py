"""Records of adapters: written for every trained adapter in its run, and again when one is promoted.

    <runs>/<run>/adapters/*.json               every adapter that the run trained, and what it was trained on
    <runs>/<run>/promoted/*.json               the adapters that a gate promoted, with the decision
    <runs>/registry/adapters/*.json            the same, beside the runs
    <runs>/registry/aliases/<alias>/*.json     moves of aliases; see :mod:`avpref.registry.aliases`

Records are written once and never changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avpref.errors import InputError
from avpref.storage.documents import RUN_FILE

TRAINED = "adapters"
PROMOTED = "promoted"
REGISTRY = "registry"
ALIASES = "aliases"


@dataclass(frozen=True)
class AdapterRecord:
    """One record of an adapter. ``tables`` has the version of each table that the adapter came from; ``document`` is the whole record.

    ``adapter`` and ``checkpoint`` are paths relative to the run's folder. ``is_promoted``: the adapter was promoted, by the gate or
    by hand.
    """

    path: Path
    run_id: str
    policy_hash: str
    checkpoint_sha256: str
    adapter: str
    checkpoint: str
    tables: Mapping[str, str]
    is_promoted: bool
    document: Mapping[str, Any]


def run_roots(runs: Path) -> list[Path]:
    """Folders of the runs in ``runs``, by name."""
    return sorted(path.parent for path in Path(runs).glob(f"*/{RUN_FILE}"))


def adapter_records(runs: Path) -> list[AdapterRecord]:
    """All adapter records of ``runs``: those of the runs, then those of the registry. Raises InputError for a broken one."""
    folders = [root / name for root in run_roots(runs) for name in (TRAINED, PROMOTED)]
    return list(_records([*folders, Path(runs) / REGISTRY / TRAINED]))


def read_document(path: Path) -> dict[str, Any]:
    """A JSON object. Raises InputError where ``path`` holds anything else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _broken(path, str(error)) from error
    if not isinstance(document, dict):
        raise _broken(path, "not an object")
    return document


def _records(folders: list[Path]) -> Iterator[AdapterRecord]:
    for folder in folders:
        for path in sorted(folder.glob("*.json")):
            yield _record(path)


def _record(path: Path) -> AdapterRecord:
    """A record that names its run itself, or a decision, which holds the record under ``lineage``."""
    whole = read_document(path)
    document = whole["lineage"] if isinstance(whole.get("lineage"), dict) else whole
    is_promoted = path.parent.name == PROMOTED or path.parent.parent.name == REGISTRY
    match document:
        case {"run_id": str(run), "policy_hash": str(policy), "tables": {**tables}}:
            texts = {name: str(document.get(name, "")) for name in ("checkpoint_sha256", "adapter", "checkpoint")}
            versions = {str(name): str(version) for name, version in tables.items()}
            return AdapterRecord(
                path, run, policy, **texts, tables=versions, is_promoted=is_promoted, document=document
            )
    raise _broken(path, "it lacks run_id, policy_hash or tables")


def _broken(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: {reason}", "a record written by this product", f"restore {path} from a copy")
