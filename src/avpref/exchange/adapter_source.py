"""The adapters of a folder of runs, and one of them by alias, id or run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from avpref.datasets.evidence.gate import PROMOTE
from avpref.errors import GateRefused, InputError, TableError
from avpref.registry import aliases, decisions
from avpref.registry.adapter_records import TRAINED, run_roots
from avpref.registry.decision_record import ADAPTER, CHECKPOINT, DecisionRecord
from avpref.storage.run_folder import RunFolder, list_runs, open_root, open_run

CONFIG_FILE = "adapter_config.json"


@dataclass(frozen=True)
class AdapterSource:
    """An adapter with the decision on it. ``name`` is its id in the registry, or the id of its run where it was never promoted."""

    runs: Path
    name: str
    record: DecisionRecord

    @property
    def run_id(self) -> str:
        """The run that trained it."""
        return str(self.record.lineage.get("run_id") or self.record.inputs["run_id"])

    @cached_property
    def run(self) -> RunFolder:
        """The run that trained it. Raises InputError where its folder is gone."""
        return open_run(self.runs, self.run_id)

    @property
    def folder(self) -> Path:
        """The folder of the adapter in PEFT's format."""
        return (self.runs.resolve() / self.record.files_of(ADAPTER)[0].path).parent

    @property
    def checkpoint(self) -> Path:
        """The file of its base network."""
        return self.runs.resolve() / self.record.files_of(CHECKPOINT)[0].path

    @property
    def serves_as(self) -> list[str]:
        """Aliases under which it serves now."""
        current = aliases.newest(aliases.all_moves(self.runs))
        return sorted(alias for alias, move in current.items() if move.adapter == self.name)

    @cached_property
    def lora_config(self) -> Mapping[str, Any]:
        """Rank, alpha and targets, as PEFT stores them; empty where the file is gone or no object."""
        try:
            values = json.loads((self.folder / CONFIG_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    def document(self) -> dict[str, Any]:
        """A row of ``avpref adapters list``."""
        return {
            "adapter": self.name,
            "run_id": self.run_id,
            "verdict": self.record.verdict,
            "serves_as": ", ".join(self.serves_as),
            "rank": self.lora_config.get("r"),
            "alpha": self.lora_config.get("lora_alpha"),
            "pairs_hash": self.record.lineage.get("pairs_hash"),
            "policy_hash": self.record.policy_hash,
            "path": str(self.folder),
        }

    def verify(self) -> None:
        """Compare the files of the adapter and of its base network with the decision. Raises TableError for one that differs."""
        changed = decisions.changed_files(self.runs.resolve(), self.record)
        if changed:
            first = changed[0]
            raise TableError(f"{first.what}: {first.now}", f"sha-256 {first.then}", "restore the file from a copy")


def adapter_sources(runs: Path) -> Iterator[AdapterSource]:
    """Every decided adapter: those of the registry first, then those of runs that were never promoted; runs by name.

    Raises TableError for a record that was changed.
    """
    runs = Path(runs)
    known: set[str] = set()
    for name in _registered(runs):
        record = aliases.registered_adapter(runs, name)
        known.add(record.decision_id)
        yield AdapterSource(runs, name, record)
    for root in run_roots(runs):
        folder = open_root(root)
        if not decisions.decision_ids(folder):
            continue
        record = decisions.read_decision(folder)
        if record.decision_id not in known:
            yield AdapterSource(runs, folder.run_id, record)


def find_adapter(runs: Path, name: str = "", allows_refused: bool = False) -> AdapterSource:
    """The adapter that ``name`` means: an alias, the id of a registered adapter or of a run, or the beginning of such an id.

    Without a name, the adapter that serves. Raises InputError where there is none or several, GateRefused for one that the gate
    refused and nobody promoted, unless ``allows_refused``, TableError for a record or file that was changed.
    """
    runs = Path(runs)
    source = _found(runs, name or aliases.SERVING)
    is_promoted = source.name != source.run_id or source.record.verdict == PROMOTE
    if not is_promoted and not allows_refused:
        reasons = "; ".join(source.record.reasons)
        fix = f"if you want it nevertheless: avpref adapters export {source.name} --runs {runs} --refused --out adapter"
        raise GateRefused(f"the gate refused the adapter of {source.run_id}: {reasons}", "a promoted adapter", fix)
    source.verify()
    return source


def _found(runs: Path, name: str) -> AdapterSource:
    if name in aliases.names(runs):
        move = aliases.current(runs, name)
        assert move is not None
        return AdapterSource(runs, move.adapter, aliases.registered_adapter(runs, move.adapter))
    registered = [adapter for adapter in _registered(runs) if adapter.startswith(name)]
    of_runs = [run for run in list_runs(runs) if run.startswith(name)]
    if len(registered) == 1 and not of_runs:
        return AdapterSource(runs, registered[0], aliases.registered_adapter(runs, registered[0]))
    if len(of_runs) == 1 and not registered:
        return AdapterSource(runs, of_runs[0], decisions.read_decision(open_run(runs, of_runs[0])))
    several = [*registered, *of_runs]
    found = f"{name!r} may mean {', '.join(several)}" if several else f"no adapter {name!r} in {runs}"
    raise InputError(found, "an alias, or the id of an adapter or run", f"avpref adapters list --runs {runs}")


def _registered(runs: Path) -> list[str]:
    return [Path(name).stem for name in aliases.registry(runs).children(TRAINED) if name.endswith(".json")]
