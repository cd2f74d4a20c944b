"""Everything that a run's adapter came from, and the note of it that a promoted run keeps: whole or absent."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from avpref.datasets import tables
from avpref.flows.stages.pair import pairs_hash
from avpref.flows.stages.sft import sft_network
from avpref.flows.stages.train import policy_network
from avpref.flows.stages.training_record import origin
from avpref.registry.decisions import ADAPTER, CHECKPOINT, SUMMARY
from avpref.storage.file_hashes import sha256_of
from avpref.storage.run_folder import RunFolder
from avpref.trainer.run_job import SUMMARY_FILE

FOLDER = "promoted"
SEALED = (
    tables.PROMPTS,
    tables.CANDIDATES,
    tables.SCORES,
    tables.NORMS,
    tables.PAIRS,
    tables.EVALUATIONS,
    tables.GATE_DECISIONS,
)


def lineage(folder: RunFolder) -> dict[str, Any]:
    """Everything that the run's adapter came from: network, tables, norm, pairs, settings, versions."""
    policy, reference = policy_network(folder), sft_network(folder)
    own = {"pairs_hash": pairs_hash(folder), "scorers": scorers_of(folder)}
    return origin(folder, policy, reference, SEALED) | own


def adapter_files(folder: RunFolder) -> list[dict[str, Any]]:
    """The files that serving needs and those that the gate believed: role, path relative to the runs, hash, bytes."""
    policy = policy_network(folder)
    assert policy.adapter is not None
    summary = policy.adapter.parent / SUMMARY_FILE
    found = [(CHECKPOINT, policy.checkpoint), (SUMMARY, summary)]
    found += [(ADAPTER, path) for path in sorted(policy.adapter.iterdir()) if not path.name.startswith(".")]
    return [_file(role, path, folder.runs) for role, path in found]


def _file(role: str, path: Path, runs: Path) -> dict[str, Any]:
    num_bytes = path.stat().st_size
    return {"role": role, "path": os.path.relpath(path, runs), "sha256": sha256_of(path), "num_bytes": num_bytes}


def scorers_of(folder: RunFolder) -> list[dict[str, Any]]:
    """Who gave the run's scores, and what may be done with them: name, fingerprint, licence, commercial use, meaning."""
    scores = folder.tables.read(tables.SCORES)
    columns = ["scorer", "fingerprint", "licence", "commercial_use", "is_meaningful"]
    found = scores.group_by(columns).aggregate([]).sort_by([("scorer", "ascending"), ("fingerprint", "ascending")])
    return found.to_pylist()


def record_adapter(folder: RunFolder, document: dict[str, Any]) -> None:
    """Record the adapter if the gate promoted it."""
    if document["gate"]["verdict"] != "promote":
        return
    record = lineage(folder) | {"evaluation": document["evaluation"], "gate": document["gate"]}
    name = f"{record['policy_hash'][:16]}-{record['tables']['gate_decisions']}.json"
    folder.files.commit_once(f"{FOLDER}/{name}", json.dumps(record, indent=1).encode())
