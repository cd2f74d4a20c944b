"""What is written down of adapters: trained ones in their run, promoted ones too, and what serves under which alias.

    <runs>/<run>/adapters/*.json               every adapter that the run trained, and what it was trained on
    <runs>/<run>/promoted/*.json               those that a gate promoted, with the decision
    <runs>/registry/adapters/*.json            the same, beside the runs
    <runs>/registry/aliases/<alias>/*.json     numbered moves; the highest number is what serves

Records are made once and never changed. They are read here with nothing but the standard library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avpref.errors import InputError

TRAINED = "adapters"
PROMOTED = "promoted"
REGISTRY = "registry"
ALIASES = "aliases"
RUN_FILE = "run.json"


@dataclass(frozen=True)
class AdapterRecord:
    """One record of an adapter. ``tables`` names the version of each table that it came from; ``document`` is all of it.

    ``adapter`` and ``checkpoint`` are paths relative to the run's folder. ``is_promoted``: it was promoted, by the gate or by hand.
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


@dataclass(frozen=True)
class AliasMove:
    """One move of an alias: its number, the adapter record (a file's name without suffix) and the run that it names."""

    alias: str
    number: int
    adapter: str
    run_id: str
    document: Mapping[str, Any]


def run_roots(runs: Path) -> list[Path]:
    """Folders of the runs in ``runs``, by name."""
    return sorted(path.parent for path in Path(runs).glob(f"*/{RUN_FILE}"))


def adapter_records(runs: Path) -> list[AdapterRecord]:
    """Every adapter record of the folder: those of the runs, then the registry's. Raises InputError for one that is broken."""
    folders = [root / name for root in run_roots(runs) for name in (TRAINED, PROMOTED)]
    return list(_records([*folders, Path(runs) / REGISTRY / TRAINED]))


def records_of(root: Path) -> list[AdapterRecord]:
    """The records in one run's folder. Raises as :func:`adapter_records`."""
    return list(_records([root / TRAINED, root / PROMOTED]))


def alias_moves(runs: Path) -> list[AliasMove]:
    """Every move of every alias, oldest first. Raises InputError for one that is broken."""
    found = []
    for path in sorted((Path(runs) / REGISTRY / ALIASES).glob("*/*.json")):
        document = read_document(path)
        adapter, run = document.get("adapter", ""), document.get("run_id", document.get("run", ""))
        if not isinstance(adapter, str) or not isinstance(run, str) or not path.stem.isdigit():
            raise _broken(path, "a move of an alias")
        found.append(AliasMove(path.parent.name, int(path.stem), Path(adapter).stem, run, document))
    return found


def serving(moves: list[AliasMove]) -> dict[str, AliasMove]:
    """What each alias names now."""
    return {move.alias: move for move in sorted(moves, key=lambda move: move.number)}


def read_document(path: Path) -> dict[str, Any]:
    """A JSON object. Raises InputError where it is none: what it refers to cannot be known then."""
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
    """A record that names its run itself, or one of a decision, which has it under ``lineage``."""
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


def _broken(path: Path, what: str) -> InputError:
    return InputError(f"{path}: {what}", "a record written by this product", f"restore {path} from a copy")
